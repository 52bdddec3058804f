"""`hfembed demo`: one question, answered by each view of a model and by their fusion."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from langchain_hfembed.commands.output import VIEW_TITLES, cell, hit_to_dict

if TYPE_CHECKING:
    from langchain_hfembed.demo.search import DemoQuery
    from langchain_hfembed.hits import Hit


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
    console.print("[dim]Loading PyTorch and the model takes some seconds.[/dim]")
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


def _to_json(query: DemoQuery, hits: list[Hit]) -> dict[str, Any]:
    return {
        "query": query.query,
        "expected": list(query.expected),
        "hits": [hit_to_dict(hit) for hit in hits],
    }


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
    for title in (*VIEW_TITLES.values(), "fusion"):
        table.add_column(title, justify="right", no_wrap=True)
    for rank, hit in enumerate(hits, 1):
        if rank > top and 1 not in hit.ranks.to_dict().values():
            continue
        cells = [cell(getattr(hit.ranks, view), getattr(hit.scores, view)) for view in VIEW_TITLES]
        mark = "[green]✓[/green] " if hit.document.id in query.expected else "  "
        table.add_row(f"{mark}{escape(hit.document.page_content)}", *cells, cell(rank, hit.score))
    console.print(table)
    console.print(f"[bold green]#1[/bold green] {escape(hits[0].document.page_content)}")
