"""The command `hfembed demo`, on a random model in the place of the real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import langchain_hfembed
from langchain_hfembed import SQLiteIndex
from langchain_hfembed.embeddings.bge_m3 import BGEM3Embeddings

pytest.importorskip("typer")
pytest.importorskip("rich")

Run = Callable[..., "Result"]


class Result:
    """How a command ended, and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the index is kept from one test to the next; whichever is first fills it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def hfembed(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """The command in this process, which loads the libraries once for all tests."""
    monkeypatch.setenv("HFEMBED_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "120")
    from langchain_hfembed.cli import main

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["hfembed", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Result(
            code if isinstance(code, int) else int(code is not None), *capsys.readouterr()
        )

    return run


def demo_queries() -> list[Any]:
    from langchain_hfembed.demo.search import demo_queries

    return demo_queries()


def test_the_demo_prints_a_table_for_each_of_four_questions(
    hfembed: Run, xlmr_folder: Path
) -> None:
    result = hfembed("demo", "--model", xlmr_folder, "--top", 3)
    assert result.code == 0
    assert "Traceback" not in result.out + result.err
    queries = demo_queries()
    assert len(queries) == 4
    printed = " ".join(result.out.split())
    for query in queries:
        assert query.query in printed
        assert " ".join(query.shows.split()) in printed
    headers = [line for line in result.out.splitlines() if "┃" in line]
    assert len(headers) == 4
    for header in headers:
        assert [word.strip() for word in header.split("┃")] == [
            "passage",
            "dense",
            "sparse",
            "multi-vector",
            "fusion",
        ]
    # The fusion's first is marked, as is each view's, whether or not it is among the best three.
    rows = [line.split("│") for line in result.out.splitlines() if "│" in line]
    for column in (1, 2, 3, 4):
        assert sum(row[column].strip().startswith("#1 ") for row in rows) == 4


def test_a_question_of_ones_own_is_answered_and_nothing_else_printed(
    hfembed: Run, xlmr_folder: Path
) -> None:
    result = hfembed("demo", "where", "is [bold]Seoul?", "--model", xlmr_folder, "--json")
    assert result.code == 0
    [answer] = json.loads(result.out)
    assert answer["query"] == "where is [bold]Seoul?"
    assert answer["expected"] == []
    assert len(answer["hits"]) == 5
    table = hfembed("demo", "where is [bold]Seoul?", "--model", xlmr_folder)
    assert table.out.count("where is [bold]Seoul?") == 1
    assert answer["hits"][0]["text"][:30] in table.out


def test_json_alone_goes_to_the_standard_output_of_the_program_and_the_index_is_reused(
    hfembed: Run, xlmr_folder: Path, cache: Path
) -> None:
    """In a process of its own: libraries write past Python's sys.stdout."""
    assert hfembed("demo", "warm up", "--model", xlmr_folder).code == 0
    [database] = cache.iterdir()
    before, changed = database.read_bytes(), database.stat().st_mtime_ns
    result = subprocess.run(
        [
            *(sys.executable, "-m", "langchain_hfembed.cli", "demo", "--json"),
            *("--top", "2", "--model", str(xlmr_folder)),
        ],
        env={
            **os.environ,
            "HFEMBED_CACHE": str(cache),
            "PYTHONPATH": str(Path(langchain_hfembed.__file__).parents[1]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answers = json.loads(result.stdout)
    assert [answer["query"] for answer in answers] == [query.query for query in demo_queries()]
    from langchain_hfembed.demo.search import demo_documents

    documents = {document.id: document.page_content for document in demo_documents()}
    for answer in answers:
        assert answer["expected"]
        assert set(answer["expected"]) <= documents.keys()
        assert len(answer["hits"]) == 2
        assert answer["hits"][0]["score"] >= answer["hits"][1]["score"]
        for hit in answer["hits"]:
            assert documents[hit["id"]] == hit["text"]
            assert (
                hit["scores"].keys() == hit["ranks"].keys() == {"dense", "sparse", "multi_vector"}
            )
            assert all(1 <= rank <= len(documents) for rank in hit["ranks"].values())
    assert (database.read_bytes(), database.stat().st_mtime_ns) == (before, changed)
    assert list(cache.iterdir()) == [database]


def test_only_passages_that_are_missing_are_embedded(
    hfembed: Run, xlmr_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an interruption."""
    assert hfembed("demo", "warm up", "--model", xlmr_folder).code == 0
    [database] = cache.iterdir()
    index = SQLiteIndex(database)
    everything = index.count()
    lost = [record.id for record in index.get(["status-424", "status-413", "different-words"])]
    assert lost
    index.delete(lost)
    index.close()
    embedded: list[str] = []
    iterate = BGEM3Embeddings.iter_encode_documents

    def watch(self: BGEM3Embeddings, texts: Any, views: Any = None) -> Any:
        texts = list(texts)
        embedded.extend(texts)
        return iterate(self, texts, views)

    monkeypatch.setattr(BGEM3Embeddings, "iter_encode_documents", watch)
    assert hfembed("demo", "warm up", "--model", xlmr_folder).code == 0
    assert len(embedded) == len(lost)
    assert hfembed("demo", "warm up", "--model", xlmr_folder).code == 0
    assert len(embedded) == len(lost)
    index = SQLiteIndex(database)
    assert index.count() == everything
    index.close()


@pytest.mark.parametrize("model", ["/nowhere/model", "nobody/has-this-model"])
def test_a_model_that_is_not_there_is_an_error_of_one_paragraph(hfembed: Run, model: str) -> None:
    result = hfembed("demo", "--json", "--model", model)
    assert result.code == 1
    assert result.out == ""
    assert model in result.err
    message = result.err[result.err.index("Error:") :]
    assert "\n\n" not in message.strip()
    assert "Traceback" not in message


def test_a_damaged_index_is_an_error_that_names_the_file(
    hfembed: Run, xlmr_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    assert hfembed("demo", "warm up", "--model", xlmr_folder).code == 0
    [database] = cache.iterdir()
    damaged = tmp_path / database.name
    damaged.write_bytes(database.read_bytes()[:50_000])
    monkeypatch.setenv("HFEMBED_CACHE", str(tmp_path))
    result = hfembed("demo", "question", "--model", xlmr_folder)
    assert result.code == 1
    assert database.name in "".join(result.err.split())
    assert "Traceback" not in result.err


@pytest.mark.parametrize("arguments", [("demo", "--top", "0"), ("demo", "--unknown"), ("nothing",)])
def test_wrong_arguments_exit_with_2(hfembed: Run, arguments: tuple[str, ...]) -> None:
    result = hfembed(*arguments)
    assert (result.code, result.out) == (2, "")
    assert arguments[-2 if arguments[-1] == "0" else -1] in result.err


def test_help_names_the_commands_and_their_options(hfembed: Run) -> None:
    assert "demo" in hfembed("--help").out
    result = hfembed("demo", "--help")
    assert result.code == 0
    assert all(option in result.out for option in ("--model", "--top", "--json"))
