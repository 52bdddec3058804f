"""Test collections in BEIR's form are read as they are, or a line that is wrong is named."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.evaluation import load_beir
from tests.unit_tests.evaluation.conftest import (
    DOCUMENTS,
    QRELS,
    QUERIES,
    write_lines,
    write_qrels,
)


def test_a_collection_is_read(beir: Path) -> None:
    collection = load_beir(beir)
    assert collection.name == "small"
    assert {d.id: d.page_content for d in collection.documents} == DOCUMENTS
    assert collection.queries == QUERIES
    assert collection.qrels == QRELS


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_a_file_may_be_compressed(name: str, beir: Path) -> None:
    file = beir / name
    (beir / f"{name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    collection = load_beir(str(beir))
    assert (len(collection.documents), len(collection.queries)) == (6, 6)


def test_a_title_is_put_in_front_of_the_text(beir: Path) -> None:
    write_lines(
        beir / "corpus.jsonl",
        [
            {"_id": "1", "title": "Han", "text": "a river"},
            {"_id": 2, "text": "no title"},
            {"_id": "3", "title": None, "text": " white space "},
        ],
    )
    found = [(document.id, document.page_content) for document in load_beir(beir).documents]
    assert found == [("1", "Han a river"), ("2", "no title"), ("3", " white space ")]


def test_without_a_judgement_a_query_is_left_out(beir: Path) -> None:
    write_qrels(beir / "qrels.tsv", {"q2": QRELS["q2"], "unknown": {"bread": 1}})
    assert load_beir(beir).queries == {"q2": QUERIES["q2"]}


def test_the_corpus_need_not_be_there_if_nobody_asks_for_it(beir: Path) -> None:
    (beir / "corpus.jsonl").unlink()
    assert load_beir(beir, corpus=False).documents == []
    with pytest.raises(InvalidInputError, match=r"has no corpus\.jsonl or corpus\.jsonl\.gz"):
        load_beir(beir)


def test_a_split_has_judgements_and_may_have_queries_of_its_own(beir: Path) -> None:
    write_qrels(beir / "qrels.train.tsv", {"q1": {"bread": 1}, "t": {"bread": 1}})
    assert load_beir(beir, "train").queries == {"q1": QUERIES["q1"]}
    write_lines(beir / "queries.train.jsonl", [{"_id": "t", "text": "of training"}])
    train = load_beir(beir, "train")
    assert train.queries == {"t": "of training"}
    assert load_beir(beir).queries == QUERIES


def test_the_folders_that_beir_distributes_are_read(beir: Path) -> None:
    (beir / "qrels.tsv").unlink()
    write_qrels(beir / "qrels" / "test.tsv", {"q1": QRELS["q1"]})
    write_qrels(beir / "qrels" / "dev.tsv", {"q2": QRELS["q2"]})
    assert list(load_beir(beir).queries) == ["q1"]
    assert list(load_beir(beir, "dev").queries) == ["q2"]
    with pytest.raises(InvalidInputError, match=r"no qrels\.train\.tsv or qrels/train\.tsv"):
        load_beir(beir, "train")


def test_judgements_need_no_head_and_texts_may_start_with_a_byte_order_mark(beir: Path) -> None:
    (beir / "qrels.tsv").write_bytes("\ufeffq1\tlimits\t1\r\n\nq4\tcapital\t2\r\n".encode())
    assert load_beir(beir).qrels == {"q1": {"limits": 1}, "q4": {"capital": 2}}


WRONG_LINES: dict[str, tuple[str, str, str]] = {
    "no JSON": ("corpus.jsonl", '{"_id": "1", "text": "a"}\n{"_id": ', "corpus.jsonl, line 2"),
    "no object": ("corpus.jsonl", "[1]", "line 1: expected an object"),
    "no id": ("queries.jsonl", '{"id": "1", "text": "a"}', "queries.jsonl, line 1"),
    "no text": ("queries.jsonl", '{"_id": "1", "text": 5}', "line 1: expected an object"),
    "an id that is none": ("corpus.jsonl", '{"_id": null, "text": "a"}', "corpus.jsonl, line 1"),
    "half a pair": ("corpus.jsonl", r'{"_id": "1", "text": "\ud83d a"}', "corpus.jsonl, line 1"),
    "a time": ("qrels.tsv", "q1\tlimits\t1732838400", "a whole number up to 1000"),
    "two columns": ("qrels.tsv", "q1\tlimits", "qrels.tsv, line 1: expected query id"),
    "no number": ("qrels.tsv", "q1\tlimits\t1\nq2\tlimits\thigh", "line 2.*'q2.tlimits.thigh'"),
    "blanks for tabs": ("qrels.tsv", "q1 limits 1", "with tabs between them"),
    "TREC's four": ("qrels.tsv", "q1\t0\tlimits\t1", "line 1"),
}


@pytest.mark.parametrize("case", WRONG_LINES)
def test_a_line_that_is_wrong_is_named(case: str, beir: Path) -> None:
    name, text, said = WRONG_LINES[case]
    (beir / name).write_text(text)
    with pytest.raises(InvalidInputError, match=said.replace(".jsonl", r"\.jsonl")):
        load_beir(beir)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", gzip.compress(b"{}" * 99, mtime=0)[:-9]], ids=["UTF-16", "cut short"]
)
def test_a_file_that_is_damaged_is_named(content: bytes, beir: Path) -> None:
    name = "corpus.jsonl" if content[:1] == b"\xff" else "corpus.jsonl.gz"
    (beir / "corpus.jsonl").unlink()
    (beir / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=rf"{name} can't be read"):
        load_beir(beir)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"there is no folder .*absent"):
        load_beir(tmp_path / "absent")


def test_ids_that_do_not_agree_are_an_error(beir: Path) -> None:
    write_qrels(beir / "qrels.tsv", {"1": {"limits": 1}})
    with pytest.raises(InvalidInputError, match="none of the judged queries"):
        load_beir(beir)


def test_a_file_that_is_damaged_in_its_middle_is_named(beir: Path) -> None:
    content = bytearray(gzip.compress((beir / "corpus.jsonl").read_bytes(), mtime=0))
    (beir / "corpus.jsonl").unlink()
    for position in range(12, len(content) - 8, 7):
        damaged = content.copy()
        damaged[position] ^= 0xFF
        (beir / "corpus.jsonl.gz").write_bytes(damaged)
        with pytest.raises(InvalidInputError, match=r"corpus\.jsonl\.gz"):
            load_beir(beir)
