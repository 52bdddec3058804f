"""The folder under a `QdrantIndex(path=...)`: who may open it, and what survives."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from langchain_hfembed import (
    HybridEmbedding,
    HybridIndexError,
    IndexLockedError,
    IndexRecord,
    QdrantIndex,
)
from langchain_hfembed.index.qdrant.payload import PROPERTIES_ID
from tests.encoders import HashEncoder, records

pytest.importorskip("qdrant_edge")

from langchain_hfembed.index.qdrant import edge as engine

ENCODER = HashEncoder()
TEXTS = {"one": "red apple", "two": "green apple tree", "three": "blue sky"}

OPENER = """
import sys
from langchain_hfembed import IndexLockedError, QdrantIndex
try:
    QdrantIndex(path=sys.argv[1])
except IndexLockedError as error:
    print(error)
"""

WRITER = """
import sys
import numpy as np
from langchain_hfembed import HybridEmbedding, IndexRecord, QdrantIndex, SparseVector

index = QdrantIndex(path=sys.argv[1])
rng = np.random.default_rng(0)
number = 0
while True:
    batch = []
    for _ in range(5):
        words = SparseVector.from_dict({number % 50: 1.0})
        vectors = HybridEmbedding(rng.normal(size=16), words, rng.normal(size=(4, 8)))
        batch.append(IndexRecord(str(number), f"text {number}", {"n": number}, vectors))
        number += 1
    index.upsert(batch)
    print(number, flush=True)
"""


def _run(code: str, path: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture
def index(tmp_path: Path):
    with QdrantIndex(path=tmp_path / "index") as index:
        index.upsert(records(ENCODER, TEXTS))
        yield index


def test_one_at_a_time_has_the_folder(index: QdrantIndex, tmp_path: Path):
    with pytest.raises(IndexLockedError, match="is open elsewhere"):
        QdrantIndex(path=tmp_path / "index")
    assert "is open elsewhere" in _run(OPENER, tmp_path / "index")
    assert index.count() == 3
    index.close()
    assert _run(OPENER, tmp_path / "index") == ""


def test_the_second_to_make_a_folder_is_refused(tmp_path: Path):
    with QdrantIndex(path=tmp_path / "new") as first, QdrantIndex(path=tmp_path / "new") as second:
        first.upsert(records(ENCODER, {"a": "a"}))
        with pytest.raises(IndexLockedError):
            second.upsert(records(ENCODER, {"b": "b"}))
        assert first.count() == 1
    assert os.listdir(tmp_path) == ["new"]  # noqa: PTH208 - hidden ones too


def test_the_folder_appears_when_it_is_complete(tmp_path: Path, monkeypatch):
    index = QdrantIndex(path=tmp_path / "deep" / "new")
    assert list(tmp_path.iterdir()) == []

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_point", cut_off)
        with pytest.raises(KeyboardInterrupt):
            index.upsert(records(ENCODER, TEXTS))
    assert list((tmp_path / "deep").iterdir()) == []
    index.upsert(records(ENCODER, TEXTS))
    assert index.count() == 3
    index.close()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("file", "is no Edge index. It was not touched"),
        ("folder", "is no Edge index. It was not touched"),
        ("file above", "folder .* can't be used"),
    ],
)
def test_what_is_no_index_is_left_as_it_was(tmp_path: Path, what, message):
    path = tmp_path / "index"
    other = path / "letter.txt" if what == "folder" else path
    other.parent.mkdir(exist_ok=True)
    other.write_text("dear diary")
    with pytest.raises(HybridIndexError, match=message):  # noqa: PT012 - at one or the other
        index = QdrantIndex(path=path / "below" if what == "file above" else path)
        index.upsert(records(ENCODER, TEXTS))
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [other]
    assert other.read_text() == "dear diary"


def test_an_empty_folder_is_taken(tmp_path: Path):
    with QdrantIndex(path=tmp_path) as index:
        index.upsert(records(ENCODER, TEXTS))
        assert index.count() == 3


def test_an_edge_index_of_another_program_is_refused(tmp_path: Path):
    edge = pytest.importorskip("qdrant_edge")
    config = edge.EdgeConfig(vectors={"dense": edge.EdgeVectorParams(2, edge.Distance.Dot)})
    for points in ([], [edge.Point(1, {"dense": [1.0, 2.0]}, {})]):
        shard = edge.EdgeShard.create(str(tmp_path / f"{len(points)}"), config)
        shard.update(edge.UpdateOperation.upsert_points(points))
        shard.close()
    with pytest.raises(HybridIndexError, match="holds points of another program"):
        QdrantIndex(path=tmp_path / "1")
    index, record = QdrantIndex(path=tmp_path / "0"), HybridEmbedding(dense=np.ones(2))
    with index, pytest.raises(HybridIndexError, match="Edge index of another program"):
        index.upsert([IndexRecord("x", "", {}, record)])
    for points in (0, 1):
        shard = edge.EdgeShard.load(str(tmp_path / f"{points}"))
        assert shard.count(edge.CountRequest(exact=True)) == points
        shard.close()


def test_a_damaged_folder_is_refused_in_words(index: QdrantIndex, tmp_path: Path):
    index.close()
    (tmp_path / "index" / "edge_config.json").write_text("{")
    with pytest.raises(HybridIndexError, match="Qdrant Edge failed on the index"):
        QdrantIndex(path=tmp_path / "index")


@pytest.mark.parametrize("batches", [1, 7])
def test_a_killed_writer_loses_nothing_that_was_acknowledged(tmp_path: Path, batches):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "index")], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    with writer.stdout as lines:
        stored = [int(next(lines)) for _ in range(batches)][-1]
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        stored = max([stored, *map(int, lines)])
    with QdrantIndex(path=tmp_path / "index") as index:
        found = list(index.records())
        assert index.count() == len(found) >= stored
        assert [record.id for record in found][:stored] == [str(n) for n in range(stored)]
        assert all(record.embedding.multi_vector.shape == (4, 8) for record in found)
        assert len(index.candidates(found[0].embedding, 10**6)) == len(found)


def test_what_is_acknowledged_was_flushed(index: QdrantIndex):
    """A killed process leaves its pages to the system; a loss of power does not."""
    calls: list[str] = []
    shard = index._engine._shard

    class Shard:
        def __getattr__(self, name: str):
            calls.append(name)
            return getattr(shard, name)

    index._engine._shard = Shard()
    index.upsert(records(ENCODER, TEXTS))
    index.delete(["one"])
    assert [name for name in calls if name != "info"] == ["update", "flush"] * 2


def test_graphs_are_built_when_enough_came_together(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(engine, "_UNOPTIMIZED", 10)
    with QdrantIndex(path=tmp_path / "index") as index:
        for start in range(0, 40, 4):
            index.upsert(records(ENCODER, {str(n): f"word{n}" for n in range(start, start + 4)}))
        query = ENCODER.encode_queries(["word7"])[0]
        assert index.search(query, 3).ids.count("7") == 1
        assert index._engine._unoptimized < 10
        assert index.count() == 40


def test_threads_share_an_index(index: QdrantIndex):
    query = ENCODER.encode_queries(["apple"])[0]
    expected = index.score(query, ["one"]).dense.tolist()
    start = threading.Barrier(6)

    def work(number: int) -> bool:
        start.wait()
        for turn in range(10):
            index.upsert(records(ENCODER, {f"{number} {turn}": f"pear {number}"}))
            found = index.search(query, 5)
            assert {"one", "two"} <= {*found.ids}
            assert len(found.records(range(len(found.ids)))) == len(found.scores)
        return index.score(query, ["one"]).dense.tolist() == expected

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))
    assert index.count() == 63


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_is_told_to_open_its_own(index: QdrantIndex):
    answers = multiprocessing.get_context("fork").SimpleQueue()

    def ask() -> None:
        try:
            index.count()
        except HybridIndexError as error:
            answers.put(str(error))
        os._exit(0)

    child = multiprocessing.get_context("fork").Process(target=ask)
    child.start()
    child.join(20)
    child.kill()  # without the check it waits for threads that it does not have
    child.join()
    assert not answers.empty()
    assert "opened in another process" in answers.get()
    assert index.count() == 3


def test_the_properties_are_in_no_answer(index: QdrantIndex):
    assert index.count() == 3
    assert str(PROPERTIES_ID) not in [record.id for record in index.records()]
    assert index.candidates(ENCODER.encode_queries(["nothing"], ("sparse",))[0], 9) == [*TEXTS]
