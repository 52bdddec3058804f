"""`hfembed eval`: how well each view of a model retrieves, and which weights suit it."""

from __future__ import annotations

import hashlib
import importlib
import json
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from langchain_hfembed.commands.opening import (
    DEFAULT_MODEL,
    model_of,
    open_existing_index,
    open_index,
    open_model,
)
from langchain_hfembed.commands.progress import duration, progress_bar

if TYPE_CHECKING:
    from langchain_hfembed.evaluation import Collection, Evaluation, Tuning
    from langchain_hfembed.evaluation.judged import JudgedQuery
    from langchain_hfembed.vectorstore import HybridVectorStore

_K = (10, 100)
_BATCH = 256
_PLOTS = (".png", ".svg", ".pdf")


def evaluate(
    path: Annotated[
        Path,
        typer.Argument(
            help="A folder with corpus.jsonl (or .jsonl.gz), queries.jsonl and qrels.tsv, as BEIR "
            "has them."
        ),
    ],
    *,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model id, a folder, the URL of a server, or demo; if absent, the index's own, "
            f"else {DEFAULT_MODEL}."
        ),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(
            help="An index that exists, to search instead of the folder's documents: a file, the "
            "URL of a Qdrant server, edge:FOLDER."
        ),
    ] = None,
    collection: Annotated[
        str | None, typer.Option(help="Of the Qdrant server; hfembed if absent.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Which queries, such as train: qrels.train.tsv; qrels.tsv if absent."),
    ] = None,
    k: Annotated[
        list[int] | None, typer.Option("--k", "-k", min=1, help="Where rankings are cut: 10, 100.")
    ] = None,
    fetch_k: Annotated[
        int, typer.Option(min=1, help="Candidates of the dense and of the sparse view, each.")
    ] = 100,
    tune: Annotated[
        bool, typer.Option("--tune", help="Find the best weights, by cross-validation.")
    ] = False,
    tune_on: Annotated[
        str | None,
        typer.Option(help="Find them on the queries of this split, and measure them on --split."),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Of the cross-validation.")] = 5,
    plot: Annotated[
        Path | None,
        typer.Option(help="With --tune: draw nDCG over all weights into this .png, .svg or .pdf."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of tables; fractions, not percent.")
    ] = False,
) -> None:
    """Measure how well each view of a model retrieves, and their fusion, on a test collection.

    The documents are embedded once; interrupted, the same command goes on where it stopped, and a
    second run only searches.
    """
    from langchain_hfembed.evaluation import load_beir
    from langchain_hfembed.evaluation.judged import score_queries
    from langchain_hfembed.evaluation.report import FUSION, evaluate_scores
    from langchain_hfembed.evaluation.tuning import tune_scores

    if collection is not None and index is None:
        raise typer.BadParameter("is of a Qdrant server; give --index", param_hint="--collection")
    cuts = k or _K
    tune = tune or tune_on is not None
    _check_plot(plot, tune=tune)
    console = Console(stderr=True)
    depth = max(fetch_k, *cuts)
    tested = load_beir(path, split, corpus=index is None)
    tuned_on = tested if tune_on is None else load_beir(path, tune_on, corpus=False)
    if tune:
        _check_tuning(tested, tuned_on, tune_on, folds)
    started = time.monotonic()
    with closing(_open_store(tested, model, index, collection, console)) as store:
        indexed = time.monotonic()

        def score(queries: Collection) -> list[JudgedQuery]:
            return score_queries(
                store,
                queries.queries,
                queries.qrels,
                fetch_k=depth,
                show_progress=console.is_terminal,
            )

        judged = score(tested)
        fusions = {FUSION: store.fusion}
        tuning = None
        if tune:
            tuning = tune_scores(
                judged if tune_on is None else score(tuned_on), store.fusion, folds, cuts[0]
            )
        if tuning is not None and tune_on is not None:
            fusions["tuned"] = tuning.fusion
        evaluation = evaluate_scores(judged, fusions, cuts)
        documents, name = store.index.count(), store.encoder.model_name
    seconds = {"indexing": indexed - started, "measuring": time.monotonic() - indexed}
    if as_json:
        found = {
            "collection": tested.name,
            "split": split,
            "model": name,
            "documents": documents,
            **evaluation.to_dict(),
            "tuning": None if tuning is None else {"split": tune_on, **tuning.to_dict()},
            "seconds": {what: round(took, 1) for what, took in seconds.items()},
        }
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        _save_plot(tuning, plot)
        return
    part = f"{tested.name}, {split}" if split else tested.name
    title = f"{part}: {documents:,} documents, model {_short(name)}"
    _show(Console(), title, evaluation, tuning, tune_on)
    took = ", ".join(f"{what} {duration(time_)}" for what, time_ in seconds.items())
    console.print(f"[dim]{took}[/dim]", highlight=False)
    _save_plot(tuning, plot)


def _save_plot(tuning: Tuning | None, plot: Path | None) -> None:
    """Save it last: a disk that is full must not take the figures along."""
    if tuning is not None and plot is not None:
        tuning.plot(plot)


def _check_tuning(
    tested: Collection, tuned_on: Collection, tune_on: str | None, folds: int
) -> None:
    """Refuse what would not tell how well weights hold, before anything takes long."""
    from langchain_hfembed.evaluation.tuning import check_folds

    check_folds(folds, len(tuned_on.queries))
    if tune_on is not None and (shared := tested.queries.keys() & tuned_on.queries.keys()):
        raise typer.BadParameter(
            f"{len(shared)} of its queries are measured, too, such as {min(shared)!r}, and weights "
            "look too good on queries that chose them; take --tune, or another split",
            param_hint="--tune-on",
        )


def _check_plot(plot: Path | None, *, tune: bool) -> None:
    """Refuse a plot that can't be made, before anything takes long."""
    if plot is None:
        return
    if not tune:
        raise typer.BadParameter("draws what --tune finds; add --tune", param_hint="--plot")
    if plot.suffix.lower() not in _PLOTS:
        raise typer.BadParameter(f"{plot} must end in {' or '.join(_PLOTS)}", param_hint="--plot")
    if plot.is_dir():
        raise typer.BadParameter(f"{plot} is a folder", param_hint="--plot")
    if not plot.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {plot.parent}", param_hint="--plot")
    importlib.import_module("langchain_hfembed.evaluation.plot")  # which says what to install


def _open_store(
    tested: Collection,
    model: str | None,
    index: str | None,
    collection: str | None,
    console: Console,
) -> HybridVectorStore:
    """A store over the index, or over the collection's documents."""
    from langchain_hfembed.vectorstore import HybridVectorStore

    if index is not None:
        existing = open_existing_index(index, collection)
        try:
            name = model_of(existing) if model is None else model
            return HybridVectorStore(open_model(name), existing)
        except BaseException:
            existing.close()
            raise
    return _index(tested, model or DEFAULT_MODEL, console)


def _index(tested: Collection, model: str, console: Console) -> HybridVectorStore:
    """A store with the collection's documents, continued where an earlier run stopped."""
    from langchain_hfembed.cache import cache_root
    from langchain_hfembed.corpus import Piece
    from langchain_hfembed.embeddings.dense import as_encoder
    from langchain_hfembed.ingestion import Ingestion
    from langchain_hfembed.vectorstore import HybridVectorStore

    encoder = as_encoder(open_model(model))
    contents = hashlib.sha256(encoder.fingerprint.encode())
    for document in tested.documents:
        contents.update(f"{document.id}\0{document.page_content}\0".encode())
    folder = cache_root() / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{tested.name}-{contents.hexdigest()[:12]}.db"
    store = HybridVectorStore(encoder, open_index(str(path)))
    pieces = [Piece(document, len(document.page_content)) for document in tested.documents]
    try:
        with progress_bar("indexing", sum(piece.size for piece in pieces), console) as show:
            ingestion = Ingestion(store, batch_size=_BATCH, progress=show)
            ingestion.add(pieces)
    except KeyboardInterrupt:
        store.close()
        console.print("Stopped. The same command goes on from here.", highlight=False)
        raise typer.Exit(130) from None
    except BaseException:
        store.close()
        raise
    if ingestion.counts["indexed"]:
        console.print(f"[dim]The index is kept: {escape(str(path))}[/dim]", highlight=False)
    return store


def _short(model: str) -> str:
    """A model's name; of one in a folder, the last part of its path."""
    return Path(model).name if Path(model).is_dir() else model


def _show(
    console: Console,
    title: str,
    evaluation: Evaluation,
    tuning: Tuning | None,
    tune_on: str | None,
) -> None:
    console.print(
        f"[bold]{escape(title)}[/bold]\n{len(evaluation.query_ids):,} queries, in percent\n",
        highlight=False,
    )
    head, *rows = evaluation.rows()
    table = Table(show_edge=False, pad_edge=False)
    for position, name in enumerate(head):
        justify: Literal["left", "right"] = "right" if position else "left"
        table.add_column(escape(name), justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table, highlight=False)
    if tuning is not None:
        where = f"on the split {tune_on}" if tune_on else "on the same queries"
        console.print(
            f"\n[bold]Tuned {escape(where)}[/bold]\n{escape(str(tuning))}", highlight=False
        )
