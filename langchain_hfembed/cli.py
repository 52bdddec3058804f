"""The command `hfembed`: readable tables, and `--json` for programs."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from pydantic import ValidationError

from langchain_hfembed.errors import EmbeddingError, InvalidInputError

try:
    import typer
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
except ImportError as error:
    raise SystemExit(
        f'{error}; the command line needs: pip install "langchain-hfembed[cli]"'
    ) from error

if TYPE_CHECKING:
    from langchain_hfembed.demo.search import DemoQuery
    from langchain_hfembed.hits import Hit
    from langchain_hfembed.http.report import EndpointReport

app = typer.Typer(
    help="Hugging Face embeddings and hybrid retrieval for LangChain.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_VIEWS = {"dense": "dense", "sparse": "sparse", "multi_vector": "multi-vector"}


@app.command()
def demo(
    question: Annotated[
        list[str] | None, typer.Argument(help="Ask this; without it, four questions of ours.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A model id such as BAAI/bge-m3, or a folder; the demo model if absent."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many passages to show a question.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show one question answered by each view of a model, and by their fusion.

    Indexes about a hundred short passages in English and Korean. The first run builds model and
    index, later ones start from what was saved. Nothing is downloaded for the demo model.
    """
    console = Console(stderr=as_json)
    console.print("[dim]Loading FlagEmbedding and the model takes some 20 seconds.[/dim]")
    from langchain_hfembed.demo import search
    from langchain_hfembed.embeddings.bge_m3 import BGEM3Embeddings

    embeddings = search.demo_embeddings() if model is None else BGEM3Embeddings(model_name=model)
    store = search.demo_store(embeddings, show_progress=sys.stderr.isatty())
    queries = [search.DemoQuery(" ".join(question))] if question else search.demo_queries()
    answers = [(query, search.rank_everything(store, query.query)) for query in queries]
    store.close()
    if as_json:
        typer.echo(
            json.dumps(
                [_to_json(query, hits[:top]) for query, hits in answers],
                indent=2,
                ensure_ascii=False,
            )
        )
        return
    for query, hits in answers:
        _show(console, query, hits, top)
    console.print(
        "\n[dim]Rank and score of each passage in each view and in their fusion. ✓ is the answer "
        f"we expect; below the best {top} stand those that a view alone puts first.[/dim]"
    )


@app.command()
def check(
    target: Annotated[
        str | None,
        typer.Argument(
            help="URL of a server, or a model id; HF_ENDPOINT_URL or HF_MODEL_ID if absent."
        ),
    ] = None,
    credentials: Annotated[
        Path | None,
        typer.Option(help="JSON file with api_key, endpoint, model_name, context_window."),
    ] = None,
    provider: Annotated[
        str | None, typer.Option(help="Inference Provider that serves the model id.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Try an endpoint with one short text, and say what works and what does not.

    The token is that of --credentials; or else HF_ENDPOINT_TOKEN, for a URL (for HF_ENDPOINT_URL
    only, if that is set); or else HF_TOKEN or your login, for Hugging Face's own hosts only. Exits
    with 1 where something is wrong.
    """
    from langchain_hfembed.embeddings.endpoint import HuggingFaceEndpointEmbeddings
    from langchain_hfembed.embeddings.env import endpoint_from_env

    if credentials is not None and target is not None:
        raise InvalidInputError("give either --credentials or a URL or model, not both")
    if credentials is not None:
        embeddings = HuggingFaceEndpointEmbeddings.from_credentials(credentials, provider=provider)
    else:
        embeddings = endpoint_from_env(os.environ, target, provider=provider)
    report = embeddings.check()
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
    else:
        _show_report(Console(), report)
    if not report.ok:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; exits with 1 after an error, which it prints in one paragraph."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may know no ✓
    try:
        app()
    except ValidationError as error:
        problems = [
            ": ".join([*map(str, problem["loc"]), problem["msg"].removeprefix("Value error, ")])
            for problem in error.errors()
        ]
        _exit_with("; ".join(problems), error)
    except (EmbeddingError, ImportError, OSError) as error:
        _exit_with(str(error), error)


def _exit_with(message: str, error: Exception) -> NoReturn:
    Console(stderr=True).print(f"[bold red]Error:[/bold red] {escape(message)}")
    raise SystemExit(1) from error


def _to_json(query: DemoQuery, hits: list[Hit]) -> dict[str, Any]:
    return {
        "query": query.query,
        "expected": list(query.expected),
        "hits": [
            {
                "id": hit.document.id,
                "text": hit.document.page_content,
                "score": hit.score,
                "scores": hit.scores.to_dict(),
                "ranks": hit.ranks.to_dict(),
            }
            for hit in hits
        ],
    }


def _show_report(console: Console, report: EndpointReport) -> None:
    from langchain_hfembed.http.report import tick_marks

    colours = {True: "green", False: "red", None: "dim"}
    marks = tick_marks()
    table = Table(show_header=False, show_edge=False, pad_edge=False, box=None)
    for ok, name, text in report.lines():
        table.add_row(f"[{colours[ok]}]{marks[ok]}[/{colours[ok]}]", name, escape(text))
    console.print(table, highlight=False)


def _show(console: Console, query: DemoQuery, hits: list[Hit], top: int) -> None:
    """Print a table: the best passages of the fusion, then the winners of views that it left out.

    The table shows the rank and score of each passage; below it, the best one stands in full.

    Args:
        console: Where to.
        query: The question.
        hits: All passages, in the order of the fusion.
        top: How many of them to show.
    """
    console.print(f"\n[bold]{escape(query.query)}[/bold]", highlight=False)
    if query.shows:
        console.print(f"[dim]{escape(query.shows)}[/dim]", highlight=False)
    table = Table(show_edge=False, pad_edge=False, expand=True)
    table.add_column("passage", ratio=1, no_wrap=True, overflow="ellipsis")
    for title in (*_VIEWS.values(), "fusion"):
        table.add_column(title, justify="right", no_wrap=True)
    for rank, hit in enumerate(hits, 1):
        if rank > top and 1 not in hit.ranks.to_dict().values():
            continue
        cells = [_cell(getattr(hit.ranks, view), getattr(hit.scores, view)) for view in _VIEWS]
        mark = "[green]✓[/green] " if hit.document.id in query.expected else "  "
        table.add_row(f"{mark}{escape(hit.document.page_content)}", *cells, _cell(rank, hit.score))
    console.print(table)
    console.print(f"[bold green]#1[/bold green] {escape(hits[0].document.page_content)}")


def _cell(rank: int | None, score: float | None) -> str:
    if rank is None or score is None:
        return "-"
    text = f"#{rank} {score:.2f}"
    return f"[bold green]{text}[/bold green]" if rank == 1 else text


if __name__ == "__main__":
    main()
