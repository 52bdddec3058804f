"""`hfembed index`: files into an index, embedding only what has changed; or an index into one."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from langchain_hfembed.commands.opening import (
    DEFAULT_MODEL,
    index_exists,
    is_index,
    is_server,
    model_of,
    open_existing_index,
    open_index,
    open_model,
    place_of,
    source_key_name,
)
from langchain_hfembed.commands.progress import duration, progress_bar
from langchain_hfembed.errors import EmbeddingError, InvalidInputError

if TYPE_CHECKING:
    from langchain_hfembed.corpus import Corpus, Problems, TextFiles
    from langchain_hfembed.ingestion import Gone, Ingestion
    from langchain_hfembed.vectorstore import HybridVectorStore


def index(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of .txt, .md and .markdown files, one such file, a .jsonl file; or an "
            "index, which is moved."
        ),
    ],
    *,
    to: Annotated[
        str,
        typer.Option(help="A file such as knowledge.db, the URL of a Qdrant server, edge:FOLDER."),
    ],
    collection: Annotated[
        str | None, typer.Option(help="Of the Qdrant server; hfembed if absent.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model id, a folder, the URL of a server, or demo; if absent, the index's "
            f"own, for a new one {DEFAULT_MODEL}."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="What ids start with, instead of the name of the folder or file."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Documents to embed and store at once.")
    ] = 32,
    chunk_size: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Characters a piece of a text file, at most; 0: whole files; 2000 if absent.",
        ),
    ] = None,
    prune: Annotated[
        bool,
        typer.Option("--prune/--no-prune", help="Delete what came from files that are gone now."),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="Prune even where more than half of the folder is gone."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a line.")] = False,
) -> None:
    """Index a folder of text and Markdown files, or a file of JSON Lines.

    Only what is new or has changed is embedded; interrupted, the same command goes on where it
    stopped. An index as the source is moved, vectors and all. Exits with 1 where something could
    not be read, with 130 after Ctrl-C.
    """
    console = Console(stderr=True)
    summary = _Summary(to)
    try:
        if is_index(source):
            given = {"--model": model, "--name": name, "--chunk-size": chunk_size}
            _refuse([option for option, value in given.items() if value is not None], prune)
            _move(summary, source, collection, batch_size, console)
        else:
            from langchain_hfembed.corpus import CHUNK_SIZE, open_corpus

            if prune and not Path(source).expanduser().is_dir():
                raise typer.BadParameter("is for folders", param_hint="--prune")

            size = CHUNK_SIZE if chunk_size is None else chunk_size
            corpus = open_corpus(source, name=name, chunk_size=size)
            if prune and not corpus.name:
                raise typer.BadParameter(
                    "what came from other folders would go, too; give a name that is not empty",
                    param_hint="--prune --name",
                )
            with closing(_open_store(to, collection, model)) as store:
                _update(
                    summary, store, corpus, console, batch_size=batch_size, prune=prune, yes=yes
                )
    except KeyboardInterrupt:
        summary.is_interrupted = True
    except (EmbeddingError, ImportError, OSError) as error:
        summary.error = str(error)
        _print_problems(summary, console)
        if any(summary.counts.values()):
            console.print(f"Before the error: {escape(str(summary))}.", highlight=False)
        if as_json:
            _print_json(summary)
        raise
    _end(summary, console, as_json)


@dataclass
class _Summary:
    """What a run has done so far."""

    target: str
    counts: dict[str, int] = field(default_factory=dict)
    documents: int | None = None
    problems: Problems | None = None
    is_interrupted: bool = False
    error: str | None = None
    started: float = field(default_factory=time.monotonic)

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.counts,
            "failed": self.problems.count if self.problems else 0,
            "problems": self.problems.messages if self.problems else [],
            "documents": self.documents,
            "interrupted": self.is_interrupted,
            "error": self.error,
            "seconds": round(time.monotonic() - self.started, 1),
        }

    def __str__(self) -> str:
        words = {"skipped": " unchanged"}
        parts = [f"{what} {n:,}{words.get(what, '')}" for what, n in self.counts.items()]
        if self.problems and self.problems.count:
            parts.append(f"failed {self.problems.count:,}")
        parts.append(f"in {duration(time.monotonic() - self.started)}")
        if self.documents is not None:
            parts.append(f"{self.target} has {self.documents:,} now")
        return ", ".join(parts)


def _update(
    summary: _Summary,
    store: HybridVectorStore,
    corpus: Corpus,
    console: Console,
    *,
    batch_size: int,
    prune: bool,
    yes: bool,
) -> None:
    """Bring a store up to date with files."""
    from langchain_hfembed.corpus import TextFiles
    from langchain_hfembed.ingestion import Ingestion

    with progress_bar("indexing", corpus.size, console) as show:
        ingestion = Ingestion(store, batch_size=batch_size, progress=show)
        summary.counts, summary.problems = ingestion.counts, corpus.problems
        if not isinstance(corpus, TextFiles):
            ingestion.add(corpus)
        else:
            gone = _find_gone(ingestion, corpus, yes=yes) if prune else None
            ingestion.add(corpus)
            ingestion.delete_tails(corpus.lengths)
            if gone is not None:
                ingestion.prune(gone)
    summary.documents = store.index.count()


def _find_gone(ingestion: Ingestion, corpus: TextFiles, *, yes: bool) -> Gone | None:
    """What to prune; None if that can't be known.

    To be asked for before anything is added, which would hide how much is to go.

    Raises:
        InvalidInputError: If it is suspiciously much, and not meant to be.
    """
    if not corpus.is_complete:
        corpus.problems.add("nothing was pruned, since a folder can't be read")
        return None
    gone = ingestion.find_gone(corpus.name, corpus.sources)
    if 2 * len(gone.ids) > gone.matching and not yes:
        raise InvalidInputError(
            f"--prune would delete {len(gone.ids):,} of the {gone.matching:,} documents of "
            f"{corpus.name} in the index, and nothing was done. If you mean it, add --yes; if "
            "this is another folder of that name, give it a --name of its own"
        )
    return gone


def _move(
    summary: _Summary, source: str, collection: str | None, batch_size: int, console: Console
) -> None:
    """Copy an index into another one."""
    from langchain_hfembed.index.transfer import copy_index
    from langchain_hfembed.ingestion import Step

    to = summary.target
    of_source = collection if is_server(source) else None
    of_target = None if is_server(source) and not is_server(to) else collection
    if place_of(source, of_source) == place_of(to, of_target):
        raise typer.BadParameter(f"{to} is the source, too", param_hint="--to")
    key_name = source_key_name(source, to)
    with (
        closing(open_existing_index(source, of_source, key_name=key_name)) as old,
        closing(open_index(to, of_target)) as new,
        progress_bar("moving", old.count(), console) as show,
    ):
        summary.counts = {"moved": 0}

        def report(documents: int) -> None:
            summary.counts["moved"] += documents
            show(Step("indexed", documents, documents))

        copy_index(old, new, batch_size=batch_size, progress=report)
        summary.documents = new.count()


def _refuse(options: list[str], prune: bool) -> None:
    if prune:
        options.append("--prune")
    if options:
        raise typer.BadParameter(
            "the source is an index, which is moved as it is: leave this out",
            param_hint=" ".join(options),
        )


def _open_store(to: str, collection: str | None, model: str | None) -> HybridVectorStore:
    """The store to index into."""
    from langchain_hfembed.embeddings.dense import as_encoder
    from langchain_hfembed.vectorstore import HybridVectorStore

    index = open_index(to, collection) if index_exists(to) else None
    try:
        if model is None:
            is_new = index is None or index.model is None
            model = DEFAULT_MODEL if index is None or is_new else model_of(index)
        encoder = as_encoder(open_model(model))
        _ = encoder.fingerprint  # a model that is not there leaves no empty index behind
        if index is None:
            index = open_index(to, collection)
        return HybridVectorStore(encoder, index)
    except BaseException:
        if index is not None:
            index.close()
        raise


def _end(summary: _Summary, console: Console, as_json: bool) -> None:
    """Print what was done, and exit."""
    _print_problems(summary, console)
    if as_json:
        _print_json(summary)
    else:
        typer.echo(f"stopped: {summary}" if summary.is_interrupted else str(summary))
    if summary.is_interrupted:
        console.print("Stopped. The same command goes on from here.", highlight=False)
        raise typer.Exit(130)
    if summary.problems and summary.problems.count:
        raise typer.Exit(1)


def _print_problems(summary: _Summary, console: Console) -> None:
    if not summary.problems:
        return
    for problem in summary.problems.messages:
        console.print(f"[bold red]Error:[/bold red] {escape(problem)}", highlight=False)
    if more := summary.problems.count - len(summary.problems.messages):
        console.print(f"... and {more:,} more like these.", highlight=False)


def _print_json(summary: _Summary) -> None:
    typer.echo(json.dumps(summary.to_dict(), indent=2, ensure_ascii=False))
