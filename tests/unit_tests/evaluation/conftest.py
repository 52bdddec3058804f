"""A small collection: what answers which question is known, and so are the measures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

pytest.importorskip("pytrec_eval")
pytest.importorskip("matplotlib")

DOCUMENTS = {
    "limits": "HTTP 429 says that there were too many requests",
    "failures": "HTTP 424 says that the model behind the server failed",
    "bread": "429 grams of flour make a loaf of bread",
    "rivers": "the Han river flows through Seoul",
    "capital": "Seoul is the capital of Korea",
    "loading": "a cold start takes minutes since the model is loaded first",
}
QUERIES = {
    "q1": "too many requests",
    "q2": "the model failed",
    "q3": "flour for bread",
    "q4": "capital of Korea",
    "q5": "which river flows through Seoul",
    "q6": "why does the cold start take minutes",
}
QRELS = {
    "q1": {"limits": 1},
    "q2": {"failures": 2, "loading": 1},
    "q3": {"bread": 1, "limits": 0},
    "q4": {"capital": 1},
    "q5": {"rivers": 1, "capital": 1},
    "q6": {"loading": 1, "not-in-the-corpus": 0},
}


def write_lines(path: Path, records: Iterable[object]) -> None:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")


def write_qrels(path: Path, qrels: dict[str, dict[str, int]]) -> None:
    rows = [f"{q}\t{d}\t{score}" for q, judged in qrels.items() for d, score in judged.items()]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n", encoding="utf-8")


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """The collection as a folder."""
    folder = tmp_path / "small"
    folder.mkdir()
    write_lines(
        folder / "corpus.jsonl",
        ({"_id": id_, "title": "", "text": text} for id_, text in DOCUMENTS.items()),
    )
    write_lines(folder / "queries.jsonl", ({"_id": i, "text": t} for i, t in QUERIES.items()))
    write_qrels(folder / "qrels.tsv", QRELS)
    return folder
