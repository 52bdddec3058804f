"""The commands `hfembed index` and `hfembed search`, as a user calls them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langchain_hfembed import SQLiteIndex
from langchain_hfembed.errors import EmbeddingError
from langchain_hfembed.vectorstore import HybridVectorStore
from tests.command_line import hfembed, play_models
from tests.encoders import HashEncoder

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("langchain_text_splitters")

ROOT = Path(__file__).parents[2]
NOTES = {
    "limits.md": "# Limits\n\nHTTP 429: too many requests; wait and send again.\n",
    "models/failures.txt": "HTTP 424: the model behind the server failed.",
    "bread.txt": "429 grams of flour make a loaf of bread.",
}
LINES = [
    {"id": "busy", "text": "The API answers 429 when it is busy.", "metadata": {"year": 2026}},
    {"id": "bread", "text": "429 grams of flour make a loaf.", "metadata": {"year": 2019}},
]
QUERIES = ("429 wait", "the server and the loaf", "bread, busy", "grams of requests")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Some notes, in the folder where commands run."""
    monkeypatch.chdir(tmp_path)
    for name, text in NOTES.items():
        path = tmp_path / "notes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    return tmp_path / "notes"


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> list[HashEncoder]:
    """The encoders of the models that commands have opened, one a command."""
    return play_models(monkeypatch, "index", "search")


def contents(path: str | Path) -> dict[str, tuple[str, Any, Any]]:
    with SQLiteIndex(path) as index:
        return {
            record.id: (record.text, record.metadata, np.array(record.embedding.dense).tolist())
            for record in index.records()
        }


# Indexing


def test_a_folder_is_indexed_once_and_then_only_what_has_changed(
    folder: Path, encoders: list[HashEncoder]
) -> None:
    first = hfembed("index", "notes", "--to", "k.db", "--model", "some/model")
    assert (first.code, first.err) == (0, "")
    assert first.out.startswith("indexed 3, skipped 0 unchanged, deleted 0, in ")
    assert first.out.endswith("k.db has 3 now\n")
    again = hfembed("index", folder, "--to", "k.db")
    assert again.out.startswith("indexed 0, skipped 3 unchanged, deleted 0, in ")
    assert encoders[1].encoded == []
    (folder / "bread.txt").write_text("Rye.")
    third = hfembed("index", "notes/", "--to", "./k.db", "--json")
    assert third.json.pop("seconds") < 60
    assert {**third.json, "seconds": 0} == {
        "indexed": 1,
        "skipped": 2,
        "deleted": 0,
        "failed": 0,
        "problems": [],
        "documents": 3,
        "interrupted": False,
        "error": None,
        "seconds": 0,
    }
    assert encoders[2].encoded == ["Rye."]
    # --model is given once; from then on the index knows.
    assert [encoder.model_name for encoder in encoders] == ["some/model"] * 3


def test_a_new_index_is_made_by_bge_m3_unless_told_otherwise(
    folder: Path, encoders: list[HashEncoder]
) -> None:
    assert hfembed("index", "lines.jsonl", "--to", "k.db").code == 0
    assert encoders[0].model_name == "BAAI/bge-m3"


def test_another_model_for_an_index_is_refused_by_name(
    folder: Path, encoders: list[HashEncoder]
) -> None:
    hfembed("index", "notes", "--to", "k.db", "--model", "one")
    before = Path("k.db").read_bytes()
    for arguments in (("index", "notes", "--to", "k.db"), ("search", "k.db", "bread")):
        result = hfembed(*arguments, "--model", "two")
        assert result.code == 1
        assert "'one'" in result.err
        assert "'two'" in result.err
    assert Path("k.db").read_bytes() == before


def test_files_of_a_folder_are_pruned_when_asked_to(
    folder: Path, encoders: list[HashEncoder]
) -> None:
    hfembed("index", "notes", "--to", "k.db")
    hfembed("index", "lines.jsonl", "--to", "k.db")
    (folder / "bread.txt").unlink()
    assert hfembed("index", "notes", "--to", "k.db", "--json").json["deleted"] == 0
    assert "notes/bread.txt#0" in contents("k.db")
    assert hfembed("index", "notes", "--to", "k.db", "--json", "--prune").json["deleted"] == 1
    assert sorted(contents("k.db")) == [
        "bread",
        "busy",
        "notes/limits.md#0",
        "notes/models/failures.txt#0",
    ]


def test_a_second_folder_of_one_name_does_not_prune_the_first_unless_told_twice(
    folder: Path, encoders: list[HashEncoder]
) -> None:
    hfembed("index", "notes", "--to", "k.db")
    other = Path("other/notes")
    other.mkdir(parents=True)
    for n in range(9):  # more than there are of the first
        (other / f"{n}.txt").write_text(f"number {n}")
    before = contents("k.db")
    refused = hfembed("index", other, "--to", "k.db", "--prune")
    assert (refused.code, refused.out) == (1, "")
    assert "3 of the 3 documents" in " ".join(refused.err.split())
    assert "--yes" in refused.err
    assert contents("k.db") == before
    meant = hfembed("index", other, "--to", "k.db", "--prune", "--yes", "--json").json
    assert (meant["indexed"], meant["deleted"], meant["documents"]) == (9, 3, 9)


def test_half_of_a_folder_may_be_gone_without_a_question(
    folder: Path, encoders: list[HashEncoder]
) -> None:
    (folder / "more.txt").write_text("more")
    hfembed("index", "notes", "--to", "k.db")
    for name in ("more.txt", "bread.txt"):
        (folder / name).unlink()
    assert hfembed("index", "notes", "--to", "k.db", "--prune", "--json").json["deleted"] == 2


def test_pruning_under_an_empty_name_is_refused(folder: Path, encoders: list[HashEncoder]) -> None:
    hfembed("index", "lines.jsonl", "--to", "k.db")
    hfembed("index", "notes", "--to", "k.db")
    before = contents("k.db")
    for more in ((), ("--yes",)):
        result = hfembed("index", "notes", "--to", "k.db", "--name", "", "--prune", *more)
        assert (result.code, result.out) == (2, "")
        assert "--name" in result.err
    assert contents("k.db") == before
    hfembed("index", "notes", "--to", "new.db", "--name", "", "--prune")
    assert not Path("new.db").exists()


def test_pruning_an_empty_folder_deletes_nothing(folder: Path, encoders: list[HashEncoder]) -> None:
    """Such as a disk that is not mounted."""
    hfembed("index", "notes", "--to", "k.db")
    for file in folder.rglob("*.*"):
        file.unlink()
    result = hfembed("index", "notes", "--to", "k.db", "--prune")
    assert (result.code, result.out) == (1, "")
    assert "no .txt, .md or .markdown file" in " ".join(result.err.split())
    assert len(contents("k.db")) == 3


def test_nothing_is_pruned_where_a_folder_could_not_be_listed(
    folder: Path, encoders: list[HashEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    hfembed("index", "notes", "--to", "k.db")
    (folder / "bread.txt").unlink()
    walk = os.walk

    def walk_without_permission(top: Path, onerror: Any) -> Iterator[Any]:
        onerror(PermissionError(13, "Permission denied", "notes/private"))
        yield from walk(top)

    monkeypatch.setattr(os, "walk", walk_without_permission)
    result = hfembed("index", "notes", "--to", "k.db", "--prune", "--json")
    assert (result.code, result.json["deleted"], result.json["documents"]) == (1, 0, 3)
    assert "notes/private can't be read: Permission denied" in result.json["problems"][0]
    assert "nothing was pruned" in result.json["problems"][1]


def test_what_cannot_be_read_is_named_at_the_end_and_the_rest_is_indexed(
    folder: Path, encoders: list[HashEncoder]
) -> None:
    (folder / "latin.txt").write_bytes("Äpfel".encode("latin-1"))
    result = hfembed("index", "notes", "--to", "k.db")
    assert result.code == 1
    assert "notes/latin.txt is not UTF-8" in " ".join(result.err.split())
    assert result.out.startswith("indexed 3, skipped 0 unchanged, deleted 0, failed 1, in ")
    Path("bad.jsonl").write_text('{"text": "fine"}\n{"text": 1}\n' + "{\n" * 30)
    result = hfembed("index", "bad.jsonl", "--to", "k.db", "--json")
    assert result.code == 1
    assert (result.json["indexed"], result.json["failed"]) == (1, 31)
    assert result.json["problems"][0] == "bad.jsonl, line 2: the text is 1, not a string"
    assert "... and 11 more like these." in result.err


def test_after_an_error_what_was_done_and_what_could_not_be_read_is_told(
    folder: Path, encoders: list[HashEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = HashEncoder.iter_encode_documents

    def fail(self: HashEncoder, texts: Any, views: Any = None) -> Any:
        if any("HTTP 424" in text for text in texts):
            raise EmbeddingError("the server is gone")
        return encode(self, texts, views)

    monkeypatch.setattr(HashEncoder, "iter_encode_documents", fail)
    (folder / "a_latin.txt").write_bytes("Äpfel".encode("latin-1"))
    arguments = ("index", "notes", "--to", "k.db", "--batch-size", 1)
    result = hfembed(*arguments, "--json")
    assert result.code == 1
    found = result.json
    assert (found["indexed"], found["failed"], found["interrupted"]) == (2, 1, False)
    assert "the server is gone" in found["error"]
    assert "a_latin.txt is not UTF-8" in found["problems"][0]
    lines = hfembed(*arguments)
    assert (lines.code, lines.out) == (1, "")
    printed = " ".join(lines.err.split())
    assert "a_latin.txt is not UTF-8" in printed
    assert "skipped 2 unchanged" in printed
    assert "the server is gone" in printed
    early = hfembed("index", "nothing", "--to", "k.db", "--json")
    assert early.code == 1
    assert "there is no file or folder nothing" in early.json["error"]


def test_an_index_whose_store_cannot_be_made_is_closed(
    folder: Path, encoders: list[HashEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    close = SQLiteIndex.close

    def watch(self: SQLiteIndex) -> None:
        closed.append("closed")
        close(self)

    def fail(*_args: Any) -> None:
        raise EmbeddingError("no store")

    monkeypatch.setattr(SQLiteIndex, "close", watch)
    monkeypatch.setattr("langchain_hfembed.vectorstore.HybridVectorStore", fail)
    assert hfembed("index", "notes", "--to", "k.db").code == 1
    assert closed == ["closed"]


def test_options_cut_and_name_the_documents(folder: Path, encoders: list[HashEncoder]) -> None:
    options = ("--chunk-size", 10, "--name", "mine")
    assert hfembed("index", "notes/bread.txt", "--to", "k.db", *options).code == 0
    found = contents("k.db")
    assert " ".join(text for text, *_ in found.values()) == NOTES["bread.txt"]
    assert list(found)[:2] == ["mine#0", "mine#1"]
    again = hfembed("index", "notes/bread.txt", "--to", "k.db", "--name", "mine", "--json").json
    assert (again["indexed"], again["deleted"], again["documents"]) == (1, len(found) - 1, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("index", "nothing", "--to", "new.db"), 1, "there is no file or folder nothing"),
        (("index", "notes"), 2, "--to"),
        (("index", "notes", "--to", "new.db", "--batch-size", "0"), 2, "--batch-size"),
        (("index", "notes", "--to", "new.db", "--chunk-size", "-1"), 2, "--chunk-size"),
        (("index", "notes", "--to", "localhost:6333"), 1, "a URL starts with http:// or https://"),
        (("index", "notes", "--to", "ftp://host/x"), 1, "a URL starts with http:// or https://"),
        (("index", "notes", "--to", "edge:"), 1, "a folder follows"),
        (("index", "notes", "--to", "notes"), 1, "notes is a folder"),
        (("index", "notes", "--to", "notes/bread.txt"), 1, "is not an index"),
        (("index", "notes", "--to", "new.db", "--collection", "c"), 1, "--collection is for"),
        (("index", "lines.jsonl", "--to", "new.db", "--prune"), 2, "is for folders"),
        (("index", "notes/bread.txt", "--to", "new.db", "--prune"), 2, "is for folders"),
        (("index", "k.db", "--to", "new.db", "--model", "m"), 2, "moved as it is"),
        (("index", "k.db", "--to", "new.db", "--prune"), 2, "moved as it is"),
        (("index", "k.db", "--to", "./k.db"), 2, "is the source"),
        (("index", "http://localhost:1", "--to", "http://127.0.0.1:1/"), 2, "is the source"),
        (("search", "new.db", "x"), 1, "there is no index new.db"),
        (("search", "edge:new", "x"), 1, "there is no index edge:new"),
        (("search", "empty.db", "x"), 1, "there is no index empty.db"),
        (("search", "cleared.db", "x"), 1, "the index cleared.db is empty"),
        (("search", "k.db"), 2, "question"),
        (("search", "k.db", "x", "--k", "0"), 2, "--k"),
        (("search", "k.db", "x", "--filter", "{"), 2, "is not JSON"),
        (("search", "k.db", "x", "--filter", "[]"), 2, "is no JSON object"),
        (("search", "k.db", "x", "--filter", '{"a": {"$near": 1}}'), 1, "$near"),
    ],
)
def test_a_mistake_is_an_error_of_one_paragraph_and_makes_no_file(
    arguments: tuple[str, ...], code: int, says: str, folder: Path, encoders: list[HashEncoder]
) -> None:
    hfembed("index", "notes", "--to", "k.db")
    Path("empty.db").touch()
    with SQLiteIndex("cleared.db"):
        pass
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    result = hfembed(*arguments)
    assert (result.code, result.out) == (code, "")
    printed = " ".join(result.err.replace("│", " ").split())
    assert says in printed
    assert "Traceback" not in printed
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in Path().iterdir()) == sorted(
        ["notes", "lines.jsonl", "k.db", "empty.db", "cleared.db"]
    )


def test_a_model_that_is_not_there_leaves_no_empty_index_behind(folder: Path) -> None:
    result = hfembed("index", "notes", "--to", "k.db", "--model", "/nowhere/model")
    assert result.code == 1
    assert "there is no model folder '/nowhere/model'" in " ".join(result.err.split())
    assert not Path("k.db").exists()


def test_a_warning_is_a_line_without_code(
    folder: Path, encoders: list[HashEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        HashEncoder, "tokenize", lambda *_args: warnings.warn("[cut]", stacklevel=1) or ["token"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = hfembed("index", "notes", "--to", "k.db")
    assert result.code == 0
    assert set(result.err.splitlines()) == {"Warning: [cut]"}


# Interrupted


SLOW = """
    import os, sys, time
    import langchain_hfembed.commands.index as command
    from tests.encoders import HashEncoder

    class Slow(HashEncoder):
        def iter_encode_documents(self, texts, views=None):
            for text, embedding in zip(texts, super().iter_encode_documents(texts, views)):
                with open("encoded", "a") as log:
                    print(text, file=log)
                time.sleep(float(os.environ["SECONDS"]))
                yield embedding

    command.open_model = lambda name: Slow(model_name=name)
    from langchain_hfembed.cli import main
    main()
"""


def start(*arguments: str, seconds: float) -> subprocess.Popen[str]:
    """Start a command whose encoder takes so long a text, and notes what it encodes."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SLOW), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "SECONDS": str(seconds)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def encoded() -> list[str]:
    log = Path("encoded")
    return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments that index 60 documents, in batches of 5."""
    monkeypatch.chdir(tmp_path)
    Path("many.jsonl").write_text(
        "".join(json.dumps({"id": str(n), "text": f"text {n}"}) + "\n" for n in range(60))
    )
    return ["index", "many.jsonl", "--batch-size", "5", "--json"]


def wait_until_encoded(count: int) -> None:
    deadline = time.monotonic() + 60
    while len(encoded()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_run_goes_on_where_it_stopped(many: list[str]) -> None:
    with start(*many, "--to", "k.db", seconds=0.02) as running:
        wait_until_encoded(23)
        running.kill()
    before = len(encoded())
    assert before < 60
    stored = contents("k.db")
    assert 20 <= len(stored) < 60
    assert len(stored) % 5 == 0
    Path("encoded").unlink()
    with start(*many, "--to", "k.db", seconds=0) as running:
        out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    result = json.loads(out)
    assert (result["indexed"], result["skipped"]) == (60 - len(stored), len(stored))
    assert encoded() == [f"text {n}" for n in range(len(stored), 60)]
    with start(*many, "--to", "whole.db", seconds=0) as running:
        assert running.wait(60) == 0
    assert contents("k.db") == contents("whole.db")


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
def test_ctrl_c_says_what_is_stored_and_ends_with_130(many: list[str]) -> None:
    with start(*many, "--to", "k.db", seconds=0.02) as running:
        wait_until_encoded(12)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    result = json.loads(out)
    assert result["interrupted"] is True
    assert 10 <= result["indexed"] < 60
    assert len(contents("k.db")) == result["indexed"]
    assert "The same command goes on from here." in err
    assert "Traceback" not in err


# Searching


@pytest.fixture
def index(folder: Path, encoders: list[HashEncoder]) -> Iterator[HybridVectorStore]:
    """An index with notes and lines, as the package itself opens it."""
    hfembed("index", "notes", "--to", "k.db", "--model", "some/model")
    hfembed("index", "lines.jsonl", "--to", "k.db")
    with HybridVectorStore(HashEncoder(model_name="some/model"), path="k.db") as store:
        yield store


def test_search_prints_what_the_store_finds(index: HybridVectorStore) -> None:
    hits = index.search("too many requests", 2)
    result = hfembed("search", "k.db", "too", "many", "requests", "-k", 2, "--json")
    assert result.code == 0
    assert result.json == {
        "query": "too many requests",
        "index": "k.db",
        "model": "some/model",
        "hits": [
            {
                "rank": rank,
                "id": hit.document.id,
                "text": hit.document.page_content,
                "score": hit.score,
                "scores": hit.scores.to_dict(),
                "ranks": hit.ranks.to_dict(),
                "metadata": hit.document.metadata,
            }
            for rank, hit in enumerate(hits, 1)
        ],
    }
    table = hfembed("search", "k.db", "too many requests", "--k", 2)
    assert table.code == 0
    heads = [word.strip() for word in table.out.splitlines()[0].split("┃")]
    assert heads == ["#", "score", "dense", "sparse", "multi-vector", "document"]
    rows = [[cell.strip() for cell in line.split("│")] for line in table.out.splitlines()[2:]]
    best, scores = hits[0], hits[0].scores
    assert rows[0] == [
        "1",
        f"{best.score:.2f}",
        f"#1 {scores.dense:.2f}",
        f"#1 {scores.sparse:.2f}",
        f"#1 {scores.multi_vector:.2f}",
        "notes/limits.md#0",
    ]
    assert rows[1][5] == "# Limits HTTP 429: too many requests; wait and send again."


def test_search_takes_the_models_views_as_they_are(folder: Path, encoders: list[Any]) -> None:
    with HybridVectorStore(HashEncoder(("dense",), model_name="d"), path="d.db") as store:
        store.add_texts(["429 [bold]requests[/bold]"], ids=["[red]one"])
    from langchain_hfembed.commands import search

    search.open_model = lambda name: HashEncoder(("dense",), model_name=name)  # type: ignore[attr-defined]
    result = hfembed("search", "d.db", "requests")
    assert "#1" in result.out
    assert "│      - │" in result.out
    assert "[red]one" in result.out
    assert "[bold]requests[/bold]" in result.out


def test_filters_apply(index: HybridVectorStore) -> None:
    recent = ("--filter", '{"year": {"$gte": 2024}}')
    found = hfembed("search", "k.db", "429", "--json", *recent).json
    assert [hit["id"] for hit in found["hits"]] == ["busy"]
    nothing = hfembed("search", "k.db", "429", "--filter", '{"year": 1}')
    assert (nothing.code, nothing.out.strip()) == (
        0,
        "Nothing was found: no document passes the filter.",
    )
    assert hfembed("search", "k.db", "429", "--filter", '{"year": 1}', "--json").json["hits"] == []


def test_fetch_k_is_how_many_candidates_there_are(index: HybridVectorStore) -> None:
    """Fused scores depend on the other candidates."""
    differs = []
    for query in QUERIES:
        hits = index.search(query, 2, fetch_k=2)
        found = hfembed("search", "k.db", query, "-k2", "--fetch-k", 2, "--json").json["hits"]
        assert [hit["score"] for hit in found] == [hit.score for hit in hits]
        differs.append([hit.score for hit in index.search(query, 2)] != [h.score for h in hits])
    assert any(differs)


def test_explanations_add_up_to_the_scores(index: HybridVectorStore) -> None:
    for query in QUERIES:
        result = hfembed("search", "k.db", query, "--json", "--explain", "-k", 2, "--fetch-k", 1)
        assert len(result.json["hits"]) == 2
        for hit in result.json["hits"]:
            explanation = hit["explanation"]
            assert sum(explanation["shares"].values()) == pytest.approx(hit["score"], abs=1e-5)
            for view in ("dense", "sparse", "multi_vector"):
                total = sum(match["contribution"] for match in explanation[view])
                assert total == pytest.approx(hit["scores"][view], abs=1e-3)
    result = hfembed("search", "k.db", "429 wait", "--json", "--explain")
    words = {match["query_token"] for match in result.json["hits"][0]["explanation"]["sparse"]}
    assert words <= {"429", "wait"}
    text = hfembed("search", "k.db", "429 wait", "--explain", "-k", 2)
    for hit in index.search("429 wait", 2):
        assert str(index.explain("429 wait", str(hit.document.id))) in text.out


def test_an_index_that_names_a_server_as_its_model_does_not_decide_whom_to_ask(
    folder: Path,
) -> None:
    """Else a stranger's file could send your questions to the stranger."""
    url = "http://127.0.0.1:9/embed"
    with HybridVectorStore(HashEncoder(model_name=url), path="k.db") as store:
        store.add_texts(["text"])
    for arguments in (("search", "k.db", "x"), ("index", "notes", "--to", "k.db")):
        result = hfembed(*arguments)
        assert result.code == 1
        assert f"give --model {url}" in " ".join(result.err.split())


# Moving


def hits_of(target: str) -> list[dict[str, Any]]:
    result = hfembed("search", target, "429 wait", "--json")
    assert result.code == 0, result.err
    for hit in result.json["hits"]:
        assert hit["scores"].keys() == {"dense", "sparse", "multi_vector"}
    return [
        {
            **{name: hit[name] for name in ("id", "text", "metadata", "ranks")},
            "scores": {view: pytest.approx(score, abs=1e-3) for view, score in scores.items()},
        }
        for hit in result.json["hits"]
        for scores in [hit["scores"]]
    ]


@pytest.fixture
def servers(index: HybridVectorStore, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The keys that servers were given; one of the name old holds the documents."""
    index.close()
    keys: dict[str, Any] = {}

    def connect(collection: str, *, url: str, api_key: str | None) -> SQLiteIndex:
        keys[url] = api_key
        return SQLiteIndex("k.db" if "old" in url else "target.db")

    monkeypatch.setattr("langchain_hfembed.index.qdrant.index.QdrantIndex", connect)
    monkeypatch.setenv("QDRANT_API_KEY", "key")
    monkeypatch.delenv("QDRANT_SOURCE_API_KEY", raising=False)
    return keys


def test_an_index_moves_to_another_one_without_its_model(
    index: HybridVectorStore, encoders: list[HashEncoder]
) -> None:
    index.close()
    opened = len(encoders)
    result = hfembed("index", "k.db", "--to", "other.db")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("moved 5, in ")
    assert len(encoders) == opened
    assert hits_of("other.db") == hits_of("k.db")
    assert hfembed("index", "k.db", "--to", "other.db", "--json").json["documents"] == 5
    assert hfembed("index", "notes", "--to", "other.db", "--json").json["skipped"] == 3


def test_an_index_moves_to_qdrant_edge_and_back_and_is_kept_up_to_date_there(
    index: HybridVectorStore, folder: Path
) -> None:
    pytest.importorskip("qdrant_edge")
    index.close()
    assert hfembed("index", "k.db", "--to", "edge:edge", "--json").json["moved"] == 5
    assert hits_of("edge:edge") == hits_of("k.db")
    (folder / "bread.txt").write_text("Rye.")
    changed = hfembed("index", "notes", "--to", "edge:edge", "--json", "--prune").json
    assert (changed["indexed"], changed["skipped"], changed["deleted"]) == (1, 2, 0)
    Path("floats.jsonl").write_text('{"id": "f", "text": "x", "metadata": {"a": 1.0, "b": 1}}')
    for expected in (1, 0):
        result = hfembed("index", "floats.jsonl", "--to", "edge:edge", "--json")
        assert result.json["indexed"] == expected
    assert hfembed("index", "edge:edge", "--to", "back.db", "--json").json["moved"] == 6
    assert hits_of("back.db") == hits_of("edge:edge")


@pytest.mark.parametrize(
    ("source", "to", "keys"),
    [
        ("https://old.example", "https://new.example", ("source key", "key")),
        ("https://one.example/old", "https://ONE.example/new", ("source key", "key")),
        ("https://old.example", "new.db", ("key",)),
        ("k.db", "https://new.example", ("key",)),
    ],
)
def test_each_server_of_a_move_gets_its_own_key(
    source: str,
    to: str,
    keys: tuple[str, ...],
    servers: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QDRANT_SOURCE_API_KEY", "source key")
    assert hfembed("index", source, "--to", to, "--json").json["moved"] == 5
    assert tuple(servers.values()) == keys


@pytest.mark.parametrize(
    ("source", "to", "keys"),
    [
        ("https://old.example", "https://new.example", (None, "key")),
        ("http://localhost/old", "http://127.0.0.1/new", ("key", "key")),
    ],
)
def test_the_key_of_the_target_goes_to_no_other_host(
    source: str, to: str, keys: tuple[str | None, ...], servers: dict[str, Any]
) -> None:
    assert hfembed("index", source, "--to", to, "--json").json["moved"] == 5
    assert tuple(servers.values()) == keys


# In processes of their own


def test_help_loads_no_model_library() -> None:
    heavy = ("torch", "transformers", "sentence_transformers", "langchain_core", "numpy")
    code = (
        "import sys; sys.argv = ['hfembed', *sys.argv[1:]]\n"
        "from langchain_hfembed.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    for arguments in (("--help",), ("index", "--help"), ("search", "--help")):
        finished = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert finished.stdout.splitlines()[-1] == "[]"
