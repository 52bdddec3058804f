"""The command `hfembed`: its commands, and how their errors end."""

from __future__ import annotations

import io
import sys
import warnings
from typing import Any

from pydantic import ValidationError

from langchain_hfembed.errors import EmbeddingError

try:
    import typer
    from rich.console import Console
    from rich.markup import escape
except ImportError as error:
    raise SystemExit(
        f'{error}; the command line needs: pip install "langchain-hfembed[cli]"'
    ) from error

from langchain_hfembed.commands.check import check
from langchain_hfembed.commands.demo import demo
from langchain_hfembed.commands.evaluate import evaluate
from langchain_hfembed.commands.index import index
from langchain_hfembed.commands.output import message_of
from langchain_hfembed.commands.search import search
from langchain_hfembed.commands.ui import ui

app = typer.Typer(
    help="Hugging Face embeddings and hybrid retrieval for LangChain.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (demo, check, index, search, ui):
    app.command()(command)
app.command("eval")(evaluate)  # Python has taken the name


def main() -> None:
    """Run the command line; exits with 1 after an error, which it prints in one paragraph."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may know no ✓
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            app()
        except (EmbeddingError, ImportError, OSError, ValidationError) as error:
            Console(stderr=True).print(f"[bold red]Error:[/bold red] {escape(message_of(error))}")
            raise SystemExit(1) from error


def _show_warning(message: Warning | str, *_where: Any, **_more: Any) -> None:
    """Print a warning without the line of code that it comes from, which is none of the user's."""
    Console(stderr=True).print(f"[yellow]Warning:[/yellow] {escape(str(message))}", highlight=False)


if __name__ == "__main__":
    main()
