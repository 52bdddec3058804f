"""The script that trains the heads reads the right texts and measures the package's own search."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from langchain_hfembed import HybridEmbedding, SparseVector, SQLiteIndex, WeightedSum
from langchain_hfembed.hits import find
from langchain_hfembed.index.base import IndexModel, IndexRecord
from langchain_hfembed.vectors import VIEWS
from scripts.debian_sections import page_sections
from scripts.head_validation import default_search, ndcg_at_10
from scripts.token_states import States
from scripts.training_data import beir_source

PAGE = """<html><head><title>Not text</title></head><body>
<h1>1.2. Saving a file</h1><p>Press <b>Save</b>.</p><pre>no code</pre><p>Choose a name.</p>
<h2>Opening one</h2><ul><li>Press Open.</li></ul></body></html>"""


def test_a_page_falls_into_headings_and_the_text_below_them() -> None:
    assert page_sections(PAGE) == [
        ("Saving a file", "Press Save. Choose a name."),
        ("Opening one", "Press Open."),
    ]


def write_collection(folder: Path) -> None:
    def lines(name: str, records: list[dict[str, str]]) -> None:
        (folder / name).write_text("\n".join(map(json.dumps, records)), encoding="utf-8")

    def judgements(name: str, rows: list[str]) -> None:
        (folder / name).write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]))

    lines("corpus.jsonl", [{"_id": i, "title": i.upper(), "text": "text"} for i in "abcd"])
    lines("queries.jsonl", [{"_id": "test", "text": "a test query"}])
    lines("queries.train.jsonl", [{"_id": i, "text": f"query {i}"} for i in "123"])
    judgements("qrels.tsv", ["test\ta\t1"])
    judgements("qrels.train.tsv", ["1\td\t1", "2\ta\t1", "2\tb\t1", "3\tc\t1", "3\tb\t0"])


def test_what_the_test_split_judges_is_not_trained_on(tmp_path: Path) -> None:
    write_collection(tmp_path)
    source = beir_source(tmp_path)
    assert source.documents == ["C text", "D text"]
    assert source.queries == ["query 1", "query 3"]
    assert source.answers == [[1], [0]]


def test_without_a_test_split_nothing_is_trained_on(tmp_path: Path) -> None:
    write_collection(tmp_path)
    (tmp_path / "qrels.tsv").unlink()
    with pytest.raises(SystemExit, match=r"no qrels\.tsv"):
        beir_source(tmp_path)


def test_taking_texts_keeps_their_tokens_and_order() -> None:
    offsets = np.array([0, 2, 3, 6])
    states = States(np.arange(6), np.arange(6, dtype=np.float16)[:, None], offsets)
    taken = states.take(np.array([2, 0]))
    assert taken.ids.tolist() == taken.hidden[:, 0].tolist() == [3, 4, 5, 0, 1]
    assert taken.offsets.tolist() == [0, 3, 5]


def test_ndcg_of_an_answer_in_second_place_is_the_second_discount() -> None:
    rankings = [np.array([7, 3, 5]), np.array([1, 2])]
    expected = 100 * (1 / np.log2(3) + 1) / 2
    assert ndcg_at_10(rankings, [[3], [1, 2]]) == pytest.approx(expected)
    assert ndcg_at_10(rankings[:1], [[4]]) == 0


def test_the_fused_column_is_what_the_package_finds() -> None:
    """The oracle is a search of an index with few candidates, many ties and many zeros."""
    rng = np.random.default_rng(0)
    axes = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)  # their cosines are exact

    def embedding() -> HybridEmbedding:
        weights = dict(zip(range(6), rng.choice([0, 0, 0.5], 6), strict=True))
        return HybridEmbedding(
            rng.choice(axes), SparseVector.from_dict(weights), rng.normal(size=(2, 3))
        )

    records = [IndexRecord(str(i), "", {}, embedding()) for i in range(30)]
    index = SQLiteIndex()
    index.bind(IndexModel("model", "fingerprint", VIEWS))
    index.upsert(records)
    for _ in range(20):
        query = embedding()
        scores = index.score(query, [record.id for record in records])
        hits = find(index, query, k=5, fetch_k=8, fusion=WeightedSum())
        found = default_search(scores, 5, fetch_k=8)
        assert [hit.document.id for hit in hits] == [str(position) for position in found]
    index.close()
