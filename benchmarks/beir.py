"""Reads test collections in BEIR's form: corpus.jsonl(.gz), queries.jsonl, qrels.tsv."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from langchain_core.documents import Document


@dataclass(frozen=True)
class Collection:
    """A test collection.

    Attributes:
        name: The name of its folder.
        documents: Title and text, joined by a space.
        queries: By id; those without a judgement are left out.
        qrels: Relevance by query id and document id.
    """

    name: str
    documents: list[Document]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]


def read_collection(folder: Path) -> Collection:
    """Read a collection.

    Args:
        folder: With the three files.
    """
    compressed = folder / "corpus.jsonl.gz"
    corpus = compressed if compressed.exists() else folder / "corpus.jsonl"
    documents = [
        Document(id=record["_id"], page_content=f"{record['title']} {record['text']}".strip())
        for record in _json_lines(corpus)
    ]
    qrels: dict[str, dict[str, int]] = {}
    with (folder / "qrels.tsv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            qrels.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    queries = {record["_id"]: record["text"] for record in _json_lines(folder / "queries.jsonl")}
    return Collection(
        folder.name, documents, {id_: text for id_, text in queries.items() if id_ in qrels}, qrels
    )


def _json_lines(file: Path) -> Iterator[dict[str, str]]:
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)
