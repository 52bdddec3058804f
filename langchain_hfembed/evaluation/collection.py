"""Reads test collections in BEIR's form: corpus.jsonl, queries.jsonl, qrels.tsv."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from langchain_core.documents import Document

from langchain_hfembed.embeddings.base import check_text
from langchain_hfembed.errors import InvalidInputError

HIGHEST = 1000
Qrels = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Collection:
    """A test collection.

    Attributes:
        name: Of its folder.
        queries: Texts by query id; those without a judgement are left out.
        qrels: Relevance by query id and document id; 0 is not relevant.
        documents: Title and text, joined by a space, with their ids; empty where there is no
            corpus, or it was not asked for.
    """

    name: str
    queries: dict[str, str]
    qrels: Qrels
    documents: list[Document] = field(default_factory=list)


def load_beir(
    path: str | PathLike[str], split: str | None = None, *, corpus: bool = True
) -> Collection:
    """Read a test collection.

    Args:
        path: A folder with `corpus.jsonl`, `queries.jsonl` (each may end in `.gz`), and `qrels.tsv`
            or, as BEIR has them, `qrels/test.tsv`.
        split: Which queries, such as `"train"`: those of `qrels.train.tsv` or `qrels/train.tsv`,
            whose texts are in `queries.train.jsonl` if there is one. None for `qrels.tsv`, else
            `qrels/test.tsv`.
        corpus: Whether to read the documents.

    Raises:
        InvalidInputError: If a file is missing, or a line of it is not what it should be.

    Source:
        Thakur et al. 2021, arXiv:2104.08663; github.com/beir-cellar/beir, "Load your custom
        dataset".
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise InvalidInputError(f"there is no folder {folder}")
    qrels = _read_qrels(_qrels_file(folder, split))
    texts = dict(_read_texts(_queries_file(folder, split)))
    queries = {query_id: texts[query_id] for query_id in qrels if query_id in texts}
    if not queries:
        raise InvalidInputError(
            f"{folder}: none of the judged queries is among the queries. Check that the ids "
            "of both files agree"
        )
    documents = [Document(id=id_, page_content=text) for id_, text in _read_corpus(folder, corpus)]
    return Collection(folder.resolve().name, queries, qrels, documents)


def is_relevance(value: object) -> bool:
    """Whether trec_eval can count with it: beyond some limit its sums are garbage."""
    return isinstance(value, int) and -HIGHEST <= value <= HIGHEST


def _read_corpus(folder: Path, wanted: bool) -> Iterator[tuple[str, str]]:
    return _read_texts(_first_of(folder, _may_end_in_gz("corpus.jsonl"))) if wanted else iter(())


def _qrels_file(folder: Path, split: str | None) -> Path:
    if split is None:
        return _first_of(folder, ["qrels.tsv", "qrels/test.tsv"])
    return _first_of(folder, [f"qrels.{split}.tsv", f"qrels/{split}.tsv"])


def _queries_file(folder: Path, split: str | None) -> Path:
    own = [] if split is None else _may_end_in_gz(f"queries.{split}.jsonl")
    return _first_of(folder, [*own, *_may_end_in_gz("queries.jsonl")])


def _may_end_in_gz(name: str) -> list[str]:
    return [name, f"{name}.gz"]


def _first_of(folder: Path, names: list[str]) -> Path:
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise InvalidInputError(
            f"{folder} has no {' or '.join(names)}. A collection is a folder with corpus.jsonl, "
            "queries.jsonl and qrels.tsv, as BEIR distributes them"
        )
    return found


def _read_texts(file: Path) -> Iterator[tuple[str, str]]:
    """Id and text of each line, with the title in front of the text."""
    for number, line in _lines(file):
        try:
            record: Any = json.loads(line)
            id_, title, text = record["_id"], record.get("title") or "", record["text"]
            if not isinstance(id_, (str, int)) or not isinstance(title, str):
                raise TypeError
            check_text(text, None)
            check_text(title, None)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise InvalidInputError(
                f"{file}, line {number}: expected an object such as "
                f'{{"_id": "1", "text": "…"}}, got {line.strip()[:80]!r}'
            ) from None
        yield str(id_), f"{title} {text}".strip() if title else text


def _read_qrels(file: Path) -> Qrels:
    qrels: Qrels = {}
    for number, line in _lines(file):
        fields = line.rstrip("\n").split("\t")
        try:
            query_id, document_id, score = fields
            relevance = int(score)
            if not is_relevance(relevance):
                raise ValueError
        except ValueError:
            # The names of the columns.
            if number == 1 and len(fields) == 3 and not fields[2].isdigit():
                continue
            raise InvalidInputError(
                f"{file}, line {number}: expected query id, document id and relevance, a whole "
                f"number up to {HIGHEST}, with tabs between them, got {line.strip()[:80]!r}"
            ) from None
        qrels.setdefault(query_id, {})[document_id] = relevance
    return qrels


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not empty, and their numbers."""
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rt", encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidInputError(f"{file} can't be read: {error}. Fetch it again") from None
