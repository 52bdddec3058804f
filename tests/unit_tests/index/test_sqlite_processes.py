"""An index shared by processes and threads, some of which are killed."""

from __future__ import annotations

import inspect
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

import langchain_hfembed
from langchain_hfembed import (
    HybridVectorStore,
    IndexLockedError,
    IndexRecord,
    SQLiteIndex,
    WeightedSum,
    score,
)
from langchain_hfembed.index.filters import parse_filter
from langchain_hfembed.vectors import VIEWS, HybridEmbedding, SparseVector
from tests.encoders import HashEncoder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are forked and killed")

SIZE = 8


def record(id_: str, text: str) -> IndexRecord:
    """A document all of which follows from its text, a number."""
    number = int(text)
    embedding = HybridEmbedding(
        np.array([1, number]),
        SparseVector(np.array([number, 10**6]), np.array([1, 2])),
        np.array([[1, number]] * 30),
    )
    return IndexRecord(id_, text, {"number": number}, embedding)


def batch(n: int) -> list[IndexRecord]:
    """Some new documents, and those of the batch before rewritten.

    So a state is known by its last batch, and half a batch makes no state at all.
    """
    rewritten = [record(f"{n - 1}-{j}", str(n)) for j in range(SIZE) if n]
    return rewritten + [record(f"{n}-{j}", str(n)) for j in range(SIZE)]


# What the other processes start with; of our package they import what they need and no more.
PRELUDE = f"""
from __future__ import annotations
import json, os, sqlite3, sys, time
import numpy as np
from langchain_hfembed.errors import EmbeddingError
from langchain_hfembed.index.base import IndexModel, IndexRecord
from langchain_hfembed.index.sqlite.index import SQLiteIndex
from langchain_hfembed.index.filters import parse_filter
from langchain_hfembed.vectors import VIEWS, HybridEmbedding, SparseVector
SIZE = {SIZE}
{inspect.getsource(record)}
{inspect.getsource(batch)}
"""

QUERY = HybridEmbedding(np.array([1, 0]), SparseVector.from_dict({10**6: 1.0}), np.array([[1, 0]]))


def texts_after(last: int) -> dict[str, str]:
    """Id and text of every document once the batches up to `last` are stored."""
    return {f"{n}-{j}": str(min(n + 1, last)) for n in range(last + 1) for j in range(SIZE)}


def texts_in(index: SQLiteIndex) -> dict[str, str]:
    """Id and text of every document that a search finds, once sure that it is stored whole."""
    with index.snapshot():
        ids = index.candidates(QUERY, 10**6)
        found = index.get(ids, views=VIEWS)
        scores = index.score(QUERY, ids)
    assert [stored.id for stored in found] == ids
    for position, stored in enumerate(found):
        number = int(stored.text)
        assert stored.metadata == {"number": number}
        cosine = 1 / (1 + number**2) ** 0.5
        assert stored.embedding.dense[0] == pytest.approx(cosine, rel=1e-5)
        assert stored.embedding.multi_vector.shape == (30, 2)
        assert scores.dense[position] == pytest.approx(cosine, rel=1e-5)
        assert scores.sparse[position] == 2
        assert scores.multi_vector[position] == pytest.approx(cosine, abs=1e-3)
    return {stored.id: stored.text for stored in found}


class Child:
    """Another process, which runs what it is told."""

    PROGRAM = (
        PRELUDE
        + """
for line in sys.stdin:
    try:
        exec(json.loads(line))
        print(json.dumps("done"), flush=True)
    except EmbeddingError as error:
        print(json.dumps(f"{type(error).__name__}: {error}"), flush=True)
"""
    )

    def __init__(self, program: str = PROGRAM) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(langchain_hfembed.__file__).parents[1]),
                "OPENBLAS_NUM_THREADS": "1",  # who forks had better have no threads
            },
        )

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the child has ended"
        return line.rstrip("\n")

    def start(self, code: str) -> None:
        self.tell(json.dumps(code))

    def result(self) -> str:
        return str(json.loads(self.hear()))

    def run(self, code: str) -> str:
        self.start(code)
        return self.result()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def children() -> Iterator[list[Child]]:
    made = [Child() for _ in range(4)]
    yield made
    for child in made:
        child.close()


@pytest.fixture
def other(children: list[Child]) -> Child:
    return children[0]


# Reading while another process writes -----------------------------------------------------------


def test_a_reader_sees_every_committed_batch_at_its_next_search(
    tmp_path: Path, other: Child
) -> None:
    path = tmp_path / "index.db"
    assert other.run(f"index = SQLiteIndex({str(path)!r})") == "done"
    reader = SQLiteIndex(path)
    assert texts_in(reader) == {}
    for n in range(5):
        assert other.run(f"index.upsert(batch({n}))") == "done"
        assert texts_in(reader) == texts_after(n)
    assert other.run("index.delete(['1-0', '4-7'])") == "done"
    expected = {id_: text for id_, text in texts_after(4).items() if id_ not in {"1-0", "4-7"}}
    assert texts_in(reader) == expected
    # Added and removed again, between two looks.
    assert other.run("index.upsert([record('new', '9')]); index.delete(['new', '0-0'])") == "done"
    del expected["0-0"]
    assert texts_in(reader) == expected
    assert other.run("index.delete(); index.upsert([record('only', '7')])") == "done"
    assert texts_in(reader) == {"only": "7"}
    assert other.run("index.close()") == "done"
    assert texts_in(reader) == {"only": "7"}
    reader.close()
    assert [file.name for file in tmp_path.iterdir()] == ["index.db"]


def test_a_file_opened_twice_in_one_process_keeps_its_locks(tmp_path: Path, other: Child) -> None:
    """Running a notebook's cell again opens it twice; another process that comes and goes meanwhile

    must not take itself for the last one, and remove the log that still holds batches.
    """
    path = tmp_path / "index.db"
    first = SQLiteIndex(path)
    first.upsert(batch(0))
    second = SQLiteIndex(path)
    opened = f"index = SQLiteIndex({str(path)!r}); index.count(); index.close()"
    assert other.run(opened) == "done"
    second.upsert(batch(1))
    counted = (
        f"index = SQLiteIndex({str(path)!r}); n = index.count(); index.close(); assert n == 16"
    )
    assert other.run(counted) == "done"
    assert texts_in(first) == texts_after(1)
    first.close()
    second.close()


def test_an_index_is_not_used_across_a_fork(tmp_path: Path, other: Child) -> None:
    """SQLite's connections and locks do not survive one."""
    code = f"""
index = SQLiteIndex({str(tmp_path / "index.db")!r})
pid = os.fork()
if not pid:
    try:
        index.count()
    except EmbeddingError as error:
        os._exit(42 if "Open the index again here" in str(error) else 1)
    os._exit(0)
status = os.waitpid(pid, 0)[1]
index.close()
assert os.waitstatus_to_exitcode(status) == 42, status
"""
    assert other.run(code) == "done"


def test_both_may_write_in_turn(tmp_path: Path, other: Child) -> None:
    path = tmp_path / "index.db"
    mine = SQLiteIndex(path)
    assert other.run(f"index = SQLiteIndex({str(path)!r})") == "done"
    for n in range(0, 6, 2):
        mine.upsert(batch(n))
        assert other.run(f"index.upsert(batch({n + 1}))") == "done"
        assert texts_in(mine) == texts_after(n + 1)
    mine.delete(["0-0"])
    assert other.run("index.upsert([record('0-0', '1')])") == "done"
    assert texts_in(mine) == texts_after(5)
    mine.close()
    assert other.run("index.close()") == "done"


HOLD = """
holder = sqlite3.connect(path, isolation_level=None)
holder.execute("BEGIN IMMEDIATE")
holder.execute("DELETE FROM documents")
"""


def test_while_another_process_writes_readers_open_and_search_and_writers_are_refused(
    tmp_path: Path, other: Child
) -> None:
    path = tmp_path / "index.db"
    writer = SQLiteIndex(path, busy_timeout=0.2)
    writer.upsert(batch(0))
    assert other.run(f"path = {str(path)!r}") == "done"
    assert other.run(HOLD) == "done"
    reader = SQLiteIndex(path, busy_timeout=0)
    assert texts_in(reader) == texts_in(writer) == texts_after(0)
    for change in (lambda: writer.upsert(batch(1)), lambda: writer.delete(["0-0"])):
        started = time.monotonic()
        with pytest.raises(IndexLockedError, match=r"index\.db .*busy_timeout"):
            change()
        assert 0.15 <= time.monotonic() - started < 10
    assert texts_in(writer) == texts_after(0)
    assert other.run("holder.execute('ROLLBACK'); holder.close()") == "done"
    writer.upsert(batch(1))
    assert texts_in(reader) == texts_after(1)
    writer.close()
    reader.close()


def test_a_second_writer_waits_for_the_first(tmp_path: Path, other: Child) -> None:
    path = tmp_path / "index.db"
    index = SQLiteIndex(path, busy_timeout=60)
    index.upsert(batch(0))
    assert other.run(f"path = {str(path)!r}") == "done"
    assert other.run(HOLD) == "done"
    other.start("time.sleep(0.5); holder.execute('ROLLBACK'); holder.close()")
    started = time.monotonic()
    index.upsert(batch(1))
    assert time.monotonic() - started > 0.3
    assert other.result() == "done"
    assert texts_in(index) == texts_after(1)
    index.close()


# Creating the same file at the same time ----------------------------------------------------------


def test_processes_that_create_one_file_at_the_same_time_share_it(
    tmp_path: Path, children: list[Child]
) -> None:
    for attempt in range(6):
        path = tmp_path / str(attempt) / "index.db"
        at = time.time() + 0.1
        for number, child in enumerate(children):
            child.start(
                f"time.sleep(max(0, {at} - time.time())); index = SQLiteIndex({str(path)!r}); "
                f"index.upsert([record('{number}', '5')]); index.close()"
            )
        assert [child.result() for child in children] == ["done"] * len(children)
        assert [file.name for file in path.parent.iterdir()] == ["index.db"]
        index = SQLiteIndex(path)
        assert texts_in(index) == {str(number): "5" for number in range(len(children))}
        index.close()


def test_finishing_a_file_that_another_process_began_waits_for_that_process(
    tmp_path: Path, other: Child
) -> None:
    """The moment of a race, held still: the tables are there, the write-ahead log is not yet."""
    path = tmp_path / "index.db"
    SQLiteIndex(path).close()
    begun = sqlite3.connect(path, isolation_level=None)
    assert begun.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    begun.close()
    assert other.run(f"path = {str(path)!r}") == "done"
    assert other.run(HOLD) == "done"
    with pytest.raises(IndexLockedError, match=r"index\.db"):
        SQLiteIndex(path, busy_timeout=0.1)
    other.start("time.sleep(0.5); holder.execute('ROLLBACK'); holder.close()")
    index = SQLiteIndex(path, busy_timeout=60)
    assert other.result() == "done"
    index.upsert(batch(0))
    assert texts_in(index) == texts_after(0)
    index.close()


def test_of_two_models_that_create_one_file_the_first_to_store_has_it(
    tmp_path: Path, children: list[Child]
) -> None:
    for attempt in range(4):
        path = tmp_path / str(attempt) / "index.db"
        at = time.time() + 0.1
        for number, child in enumerate(children):
            child.start(
                f"time.sleep(max(0, {at} - time.time())); index = SQLiteIndex({str(path)!r}); "
                f"index.bind(IndexModel('model {number}', '{number}', "
                "('dense', 'sparse', 'multi_vector'))); "
                f"index.upsert([record('{number}', '5')])"
            )
        results = [child.result() for child in children]
        [winner] = [number for number, result in enumerate(results) if result == "done"]
        for number, result in enumerate(results):
            if number != winner:
                assert result.startswith("IndexMismatchError")
                assert f"'model {winner}'" in result
                assert f"'model {number}'" in result
        index = SQLiteIndex(path)
        assert texts_in(index) == {str(winner): "5"}
        index.close()


# kill -9 ------------------------------------------------------------------------------------------

FORK = (
    PRELUDE
    + """
for line in sys.stdin:
    path, code = json.loads(line)
    pid = os.fork()
    if pid:
        os.write(1, b"pid %d\\n" % pid)
        os.waitpid(pid, 0)
        os.write(1, b"gone\\n")
        continue
    os.write(1, b"begun\\n")
    exec(code)
    os.write(1, b"finished\\n")
    os._exit(0)
"""
)
STORE = """
index, n = SQLiteIndex(path), {first}
while True:
    index.upsert(batch(n))
    os.write(1, b"stored %d\\n" % n)
    n += 1
"""


@pytest.fixture(scope="module")
def forked() -> Iterator[Child]:
    child = Child(FORK)
    yield child
    child.close()


def kill_during(forked: Child, path: Path, code: str, delay: float | None) -> list[str]:
    """Let a process run something, and kill it after a delay; what it said."""
    forked.tell(json.dumps([str(path), code]))
    lines: list[str] = []
    while "begun" not in lines or not any(line.startswith("pid") for line in lines):
        lines.append(forked.hear())
    [pid] = [int(line.split()[1]) for line in lines if line.startswith("pid")]
    if delay is not None:
        time.sleep(delay)
        with suppress(ProcessLookupError):  # it was faster
            os.kill(pid, signal.SIGKILL)
    while "gone" not in lines:
        lines.append(forked.hear())
    return lines


def kill_while_storing(forked: Child, path: Path, first: int, delay: float) -> int:
    """Let a process store batches from the `first`, kill it, and return the last acknowledged."""
    lines = kill_during(forked, path, STORE.format(first=first), delay)
    stored = [int(line.split()[1]) for line in lines if line.startswith("stored")]
    return max(stored, default=first - 1)


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(20))
def test_no_acknowledged_batch_is_lost_and_none_is_half_there_after_kill_9(
    tmp_path: Path, forked: Child, attempt: int
) -> None:
    """Killed three times in a row: during creation, and soon and later after reopening."""
    path = tmp_path / "index.db"
    chance = random.Random(attempt)
    stored = -1
    for longest in (0.03, 0.06, 0.3):
        acknowledged = kill_while_storing(forked, path, stored + 1, chance.uniform(0, longest))
        index = SQLiteIndex(path)
        found = texts_in(index)
        # Killed after COMMIT and before the acknowledgement, one more is there.
        stored = max((int(id_.split("-")[0]) for id_ in found), default=-1)
        assert acknowledged <= stored <= acknowledged + 1
        assert found == texts_after(stored)
        index.close()
        assert [file.name for file in tmp_path.iterdir()] == ["index.db"]


# Threads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["memory", "file"])
def test_each_search_of_eight_threads_equals_brute_force_over_some_committed_state(
    tmp_path: Path, where: str
) -> None:
    batches = 25
    encoder = HashEncoder(dim=8)
    path = None if where == "memory" else tmp_path / "index.db"
    fusion = WeightedSum(normalization=None)  # so that a document's score is its own affair
    store = HybridVectorStore(encoder, path=path, fusion=fusion)
    words = [f"word{n} common" for n in range(batches)]

    # The scores, by text, that brute force gives.
    [query] = encoder.encode_queries(["common word3 word9"])
    brute_force = dict(
        zip(words, fusion(score(query, encoder.encode_documents(words))), strict=True)
    )

    def store_batches() -> None:
        for n in range(batches):
            texts = {id_: words[int(text)] for id_, text in texts_after(n).items()}
            changed = [id_ for id_ in texts if int(id_.split("-")[0]) >= n - 1]
            store.add_texts([texts[id_] for id_ in changed], ids=changed)

    finished = threading.Event()

    def search() -> int:
        states = set()
        while not finished.is_set() or not states:
            hits = store.search("common word3 word9", k=10**6)
            found = {hit.document.id: hit.document.page_content for hit in hits}
            last = max((int(id_.split("-")[0]) for id_ in found), default=-1)
            assert found == {id_: words[int(t)] for id_, t in texts_after(last).items()}
            assert len(found) == len(hits)
            expected = [brute_force[hit.document.page_content] for hit in hits]
            np.testing.assert_allclose([hit.score for hit in hits], expected, atol=1e-3)
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
            states.add(last)
        return len(states)

    with ThreadPoolExecutor(9) as pool:
        searches = [pool.submit(search) for _ in range(8)]
        try:
            pool.submit(store_batches).result()
        finally:
            finished.set()
        seen = [future.result() for future in searches]
    assert max(seen) > 2, "nobody searched while batches were stored"
    assert store.index.count() == batches * SIZE
    store.close()


def test_a_process_killed_while_it_writes_the_log_back_loses_nothing(tmp_path: Path) -> None:
    """SQLite writes the first page, which says how long the file is, before the file is so long."""
    path, encoder = tmp_path / "index.db", HashEncoder()
    ids = [str(number) for number in range(120)]
    with HybridVectorStore(encoder, path=path) as store:
        store.add_texts([f"text {id_}" for id_ in ids], ids=ids)
        expected = store.get_by_ids(ids)
        short, log = path.read_bytes(), path.with_name("index.db-wal").read_bytes()
    page_bytes = int.from_bytes(short[16:18], "big")
    first_page = path.read_bytes()[:page_bytes]
    path.write_bytes(first_page + short[page_bytes:])
    path.with_name("index.db-wal").write_bytes(log)
    assert len(short) < int.from_bytes(first_page[28:32], "big") * page_bytes
    with HybridVectorStore(encoder, path=path) as store:
        assert store.get_by_ids(ids) == expected
        assert len(store.search("text 7", k=120)) == 120


def test_a_process_killed_while_it_makes_the_file_leaves_one_that_opens(tmp_path: Path) -> None:
    """Its tables are written before the first page, which says that it is a database."""
    making, path = tmp_path / "making.db", tmp_path / "index.db"
    with closing(sqlite3.connect(making, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE half (made TEXT)")
        connection.executemany("INSERT INTO half VALUES (?)", [("x" * 4000,)] * 50)
        path.write_bytes(making.read_bytes())
        path.with_name("index.db-journal").write_bytes(
            making.with_name("making.db-journal").read_bytes()
        )
    assert len(path.read_bytes()) > 4096
    assert not path.read_bytes().startswith(b"SQLite")
    with SQLiteIndex(path) as index:
        index.upsert(batch(0))
        assert index.count() == SIZE


# Killed while it compacts or migrates ------------------------------------------------------------


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An index of 100 batches, half of whose file is free space."""
    path = tmp_path_factory.mktemp("large") / "index.db"
    with SQLiteIndex(path) as index:
        for n in range(200):
            index.upsert(batch(n))
        index.delete([f"{n}-{j}" for n in range(100) for j in range(SIZE)])
    return path.read_bytes()


REMAINING = {id_: text for id_, text in texts_after(199).items() if int(id_.split("-")[0]) > 99}
COMPACT = "SQLiteIndex(path).compact()"
MIGRATE = "SQLiteIndex(path)"


def as_layout_1(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE metadata_leaves; PRAGMA user_version = 1")


@pytest.mark.slow
@pytest.mark.parametrize("code", [COMPACT, MIGRATE], ids=["compacting", "migrating"])
def test_a_process_killed_during_upkeep_loses_nothing(
    tmp_path: Path, forked: Child, large_file: bytes, code: str
) -> None:
    def prepare(name: str) -> Path:
        path = tmp_path / name / "index.db"
        path.parent.mkdir()
        path.write_bytes(large_file)
        if code == MIGRATE:
            as_layout_1(path)
        return path

    start = time.perf_counter()
    assert "finished" in kill_during(forked, prepare("whole"), code, None)
    duration = time.perf_counter() - start
    cut_off = 0
    for attempt in range(20):
        path = prepare(str(attempt))
        cut_off += "finished" not in kill_during(forked, path, code, duration * attempt / 20)
        with SQLiteIndex(path) as index:
            assert texts_in(index) == REMAINING
            last = [id_ for id_ in REMAINING if REMAINING[id_] == "199"]
            found = index.candidates(QUERY, 10**6, parse_filter({"number": 199}))
            assert found == sorted(last, key=list(REMAINING).index)
        assert [file.name for file in path.parent.iterdir()] == ["index.db"]
    assert cut_off > 4, "it was never killed half way"


def test_a_reader_notices_what_was_removed_before_a_compaction(
    tmp_path: Path, other: Child
) -> None:
    path = tmp_path / "index.db"
    with SQLiteIndex(path) as reader:
        reader.upsert([record(str(n), str(n)) for n in range(5)])
        assert len(texts_in(reader)) == 5
        code = f"index = SQLiteIndex({str(path)!r}); index.delete(['1']); index.compact()"
        assert other.run(code) == "done"
        assert texts_in(reader) == {str(n): str(n) for n in (0, 2, 3, 4)}
        assert other.run("index.delete(['3']); index.compact(); index.delete(['4'])") == "done"
        assert texts_in(reader) == {"0": "0", "2": "2"}
        assert other.run("index.compact(); index.upsert([record('9', '9')])") == "done"
        assert texts_in(reader) == {"0": "0", "2": "2", "9": "9"}
        assert other.run("index.close()") == "done"


# Two readers and a writer ------------------------------------------------------------------------

KEPT = 10  # batches; older ones are deleted, each in a transaction of its own


def state(last: int, deleted: bool) -> dict[str, str]:
    """Id and text of each document after a batch, and after the deletion that follows it."""
    oldest = max(0, last + 1 - KEPT if deleted else last - KEPT)
    return {f"{n}-{j}": str(min(n + 1, last)) for n in range(oldest, last + 1) for j in range(SIZE)}


WRITES = f"""
KEPT = {KEPT}
until, n = time.monotonic() + SECONDS, 0
index = SQLiteIndex(PATH, multi_vector_dtype="float32")
while time.monotonic() < until:
    index.upsert(batch(n))
    index.delete([f"{{n - KEPT}}-{{j}}" for j in range(SIZE)])
    if n % 20 == 19:
        index.compact()
    n += 1
index.close()
"""
READS = f"""
from langchain_hfembed.fusion import WeightedSum
from langchain_hfembed.hits import find
from langchain_hfembed.index.filters import parse_filter
from langchain_hfembed.scoring import score
KEPT = {KEPT}
raw_sum = WeightedSum(normalization=None)
{inspect.getsource(state)}
query = HybridEmbedding(
    np.array([1, 0.25]), SparseVector.from_dict({{10**6: 1.0, 7: 0.5}}), np.array([[1, 0.5]])
)
expected, order = {{}}, []
until = time.monotonic() + SECONDS
index = SQLiteIndex(PATH, multi_vector_dtype="float32")
while time.monotonic() < until:
    filter_ = parse_filter({{"number": {{"$gte": 0}}}})
    hits = find(index, query, k=10**6, fetch_k=10**6, fusion=raw_sum, filter_=filter_)
    if not hits:
        continue
    batches = {{int(hit.document.id.split("-")[0]) for hit in hits}}
    now = max(batches), max(batches) - KEPT not in batches
    if now not in expected:
        texts = state(*now)
        scores = score(query, [record(id_, text).embedding for id_, text in texts.items()])
        expected[now] = {{
            id_: (text, fused)
            for (id_, text), fused in zip(texts.items(), raw_sum(scores).tolist())
        }}
    found = {{hit.document.id: hit.document.page_content for hit in hits}}
    assert found == {{id_: text for id_, (text, _) in expected[now].items()}}, (now, found)
    for hit in hits:
        assert abs(hit.score - expected[now][hit.document.id][1]) < 1e-5, (now, hit)
    order.append(now)
index.close()
assert order == sorted(order), "an older state came after a newer one"
print(json.dumps(str(len(expected))), flush=True)
"""


@pytest.mark.slow
def test_each_result_of_two_readers_equals_brute_force_over_a_state_of_the_writer(
    tmp_path: Path, children: list[Child]
) -> None:
    """For SOAK_SECONDS, 10 by default."""
    path = str(tmp_path / "index.db")
    SQLiteIndex(path, multi_vector_dtype="float32").close()
    writer, *readers = children[:3]
    named = f"PATH, SECONDS = {path!r}, {os.environ.get('SOAK_SECONDS', '10')}\n"
    for child, code in ((writer, WRITES), (readers[0], READS), (readers[1], READS)):
        child.start(named + code)
    assert writer.result() == "done"
    for reader in readers:
        assert int(reader.result()) > 20, "nobody searched while batches were stored"
        assert reader.result() == "done"
