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
from types import SimpleNamespace

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
        ("file", "is no complete Edge index. It was not touched"),
        ("folder", "is no complete Edge index. It was not touched"),
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


@pytest.mark.parametrize("left_over", [False, True])
def test_an_empty_folder_is_taken_and_stays_the_same_folder(tmp_path: Path, left_over):
    """It may be a mount point, or a link; a killed process may have begun an index there."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    if left_over:
        (folder / f"{engine._UNFINISHED}1" / "segments").mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    before = folder.stat().st_ino
    for _ in range(2):
        with QdrantIndex(path=tmp_path / "link") as index:
            index.upsert(records(ENCODER, TEXTS))
            assert index.count() == 3
    assert (tmp_path / "link").is_symlink()
    assert folder.stat().st_ino == before
    assert (folder / engine._CONFIG).exists()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no fsync for folders")
@pytest.mark.parametrize("is_there", [False, True])
def test_a_new_index_survives_a_loss_of_power(tmp_path: Path, monkeypatch, is_there):
    """The folder that has the new names is written to the disk."""
    path = tmp_path / "index"
    if is_there:
        path.mkdir()
    synced: list[int] = []
    with QdrantIndex(path=path) as index:
        monkeypatch.setattr(engine.os, "fsync", lambda it: synced.append(os.fstat(it).st_ino))
        index.upsert(records(ENCODER, TEXTS))
    assert synced == [(path if is_there else tmp_path).stat().st_ino]


def test_an_index_is_there_when_all_of_it_is(tmp_path: Path, monkeypatch):
    """Moved up file by file, cut off before the last one: refused in words, never half read."""
    folder = tmp_path / "index"
    folder.mkdir()
    rename = Path.rename

    def cut_off(path: Path, target: Path) -> Path:
        if path.name == engine._CONFIG:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch, QdrantIndex(path=folder) as index:
        patch.setattr(Path, "rename", cut_off)
        with pytest.raises(KeyboardInterrupt):
            index.upsert(records(ENCODER, TEXTS))
    assert {each.name for each in folder.iterdir()} == {"wal", "segments"}
    with pytest.raises(HybridIndexError, match="is no complete Edge index"):
        QdrantIndex(path=folder)


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


class _Shard:
    """A shard whose `optimize` is counted."""

    def __init__(self, shard: object, built: list[int]) -> None:
        self._shard = shard
        self._built = built

    def __getattr__(self, name: str):
        return getattr(self._shard, name)

    def optimize(self) -> None:
        self._built.append(self._shard.info().points_count - 1)  # one holds the properties


@pytest.mark.parametrize("runs", [1, 10])
def test_graphs_are_built_when_enough_came_together(tmp_path: Path, monkeypatch, runs):
    """In one run or over many, of which none brings enough."""
    monkeypatch.setattr(engine, "_UNOPTIMIZED", 10)
    built: list[int] = []
    batches = [{str(n): f"word{n}" for n in range(start, start + 4)} for start in range(0, 40, 4)]
    for run in range(runs):
        with QdrantIndex(path=tmp_path / "index") as index:
            if run == 0:
                index.upsert(records(ENCODER, batches[0]))
            index._engine._shard = _Shard(index._engine._shard, built)
            rest = batches[1:] if runs == 1 else batches[run : run + 1]
            for batch in rest:
                index.upsert(records(ENCODER, batch))
    # Over many runs each opening finds them without a graph still: 40 are too few for Edge.
    assert built == ([12, 24, 36] if runs == 1 else [*range(12, 41, 4)])


@pytest.mark.parametrize(
    ("names", "sparse", "indexed", "expected"),
    [
        # points, and info() after: nothing, optimize(), 6,000 more, 500 of them once again
        (1, 0, [0, 25_000, 25_000, 25_000], [25_000, 0, 6_000, 6_000]),
        (1, 1, [25_000, 50_000, 56_000, 56_500], [25_000, 0, 6_000, 5_500]),
        (2, 1, [25_000, 75_000, 81_000, 81_500], [25_000, 0, 6_000, 5_750]),
        (0, 1, [25_000, 25_000, 31_000, 31_500], [0, 0, 0, 0]),
    ],
)
def test_points_without_a_graph_are_counted_from_what_edge_adds_up(
    names, sparse, indexed, expected
):
    """The numbers are those of Edge 0.9."""
    config = {
        "vectors": dict.fromkeys(("dense", "multi_vector")[:names]),
        "sparse_vectors": {"sparse": {}} if sparse else {},
    }
    counts = [25_000, 25_000, 31_000, 31_000]
    infos = [
        SimpleNamespace(points_count=points, indexed_vectors_count=vectors)
        for points, vectors in zip(counts, indexed, strict=True)
    ]
    assert [engine._unindexed(info, config) for info in infos] == expected


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
