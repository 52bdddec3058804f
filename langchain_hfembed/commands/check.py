"""`hfembed check`: whether an endpoint works, tried with one short text."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from langchain_hfembed.errors import InvalidInputError

if TYPE_CHECKING:
    from langchain_hfembed.http.report import EndpointReport


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


def _show_report(console: Console, report: EndpointReport) -> None:
    from langchain_hfembed.http.report import tick_marks

    colours = {True: "green", False: "red", None: "dim"}
    marks = tick_marks()
    table = Table(show_header=False, show_edge=False, pad_edge=False, box=None)
    for ok, name, text in report.lines():
        table.add_row(f"[{colours[ok]}]{marks[ok]}[/{colours[ok]}]", name, escape(text))
    console.print(table, highlight=False)
