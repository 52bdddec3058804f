"""`hfembed search`: a question, and what an index finds for it."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from langchain_hfembed.commands.opening import model_of, open_existing_index, open_model
from langchain_hfembed.commands.output import VIEW_TITLES, cell, hit_to_dict

if TYPE_CHECKING:
    from langchain_hfembed.explain import Explanation
    from langchain_hfembed.hits import Hit

_SNIPPET = 200


def search(
    target: Annotated[
        str,
        typer.Argument(help="The index: a file, the URL of a Qdrant server, edge:FOLDER."),
    ],
    question: Annotated[list[str], typer.Argument(help="What to look for.")],
    *,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many hits, at most.")] = 4,
    filter_: Annotated[
        str | None,
        typer.Option("--filter", help="""Of metadata, as JSON: '{"year": {"$gte": 2024}}'."""),
    ] = None,
    fetch_k: Annotated[
        int,
        typer.Option(min=1, help="Candidates of the dense and of the sparse view, each."),
    ] = 100,
    collection: Annotated[
        str | None, typer.Option(help="Of the Qdrant server; hfembed if absent.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="As for hfembed index; the index's own, if absent.")
    ] = None,
    explained: Annotated[
        bool, typer.Option("--explain", help="Show which tokens of each hit add how much.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Search an index, and show each hit's score and rank in each view."""
    metadata_filter = _parsed(filter_)
    query = " ".join(question)
    if not query.strip():
        raise typer.BadParameter("is empty", param_hint="QUESTION")
    with closing(open_existing_index(target, collection)) as index:
        from langchain_hfembed.vectorstore import HybridVectorStore

        name = model_of(index) if model is None else model
        store = HybridVectorStore(open_model(name), index, fetch_k=fetch_k)
        hits = store.search(query, k, filter=metadata_filter)
        explanations = [
            store.explain(query, str(hit.document.id), k=k, filter=metadata_filter)
            for hit in (hits if explained else [])
        ]
    if as_json:
        found = [
            _to_dict(rank, hit, explanations[rank - 1] if explained else None)
            for rank, hit in enumerate(hits, 1)
        ]
        answer = {"query": query, "index": target, "model": store.encoder.model_name, "hits": found}
        typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))
        return
    console = Console()
    if not hits:
        console.print("Nothing was found: no document passes the filter.")
        return
    console.print(_table(hits), highlight=False)
    for explanation in explanations:
        console.print(f"\n{escape(str(explanation))}", highlight=False, soft_wrap=True)


def _parsed(filter_: str | None) -> dict[str, Any] | None:
    if filter_ is None:
        return None
    try:
        found = json.loads(filter_)
    except ValueError as error:
        raise typer.BadParameter(f"is not JSON: {error}", param_hint="--filter") from error
    if not isinstance(found, dict):
        raise typer.BadParameter(f"is no JSON object: {filter_}", param_hint="--filter")
    return found


def _table(hits: list[Hit]) -> Table:
    table = Table(show_edge=False, pad_edge=False, expand=True)
    table.add_column("#", justify="right", no_wrap=True)
    for title in ("score", *VIEW_TITLES.values()):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("document", ratio=1, overflow="fold")
    for rank, hit in enumerate(hits, 1):
        views = [cell(getattr(hit.ranks, view), getattr(hit.scores, view)) for view in VIEW_TITLES]
        text = f"[bold]{escape(str(hit.document.id))}[/bold]\n{escape(_snippet(hit))}"
        table.add_row(str(rank), f"{hit.score:.2f}", *views, text)
    return table


def _snippet(hit: Hit) -> str:
    text = " ".join(hit.document.page_content.split())
    return text if len(text) <= _SNIPPET else f"{text[:_SNIPPET]}…"


def _to_dict(rank: int, hit: Hit, explanation: Explanation | None) -> dict[str, Any]:
    found = {"rank": rank, **hit_to_dict(hit), "metadata": hit.document.metadata}
    if explanation is not None:
        found["explanation"] = {
            "shares": explanation.shares.to_dict(),
            **{
                view: [asdict(match) for match in getattr(explanation, view)]
                for view, _ in explanation.scores.present()
            },
        }
    return found
