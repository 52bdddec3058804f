"""Which files a `SQLiteIndex` opens, which it refuses untouched, and what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langchain_hfembed import (
    HybridEmbedding,
    HybridIndexError,
    IndexMismatchError,
    IndexRecord,
    SparseVector,
    SQLiteIndex,
)
from langchain_hfembed.index.base import IndexModel
from langchain_hfembed.index.filters import parse_filter
from langchain_hfembed.vectors import VIEWS
from tests.encoders import HashEncoder, records

ENCODER = HashEncoder(dim=48)
TEXTS = {f"id {n}": f"document {n} on the capital of country {n % 7}" for n in range(60)}
QUERY = ENCODER.encode_queries(["the capital of country 3"])[0]
MODEL = IndexModel(ENCODER.model_name, ENCODER.fingerprint, ENCODER.views)


@pytest.fixture(scope="module")
def good_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An index of 60 documents in three batches, some updated and some deleted."""
    path = tmp_path_factory.mktemp("good") / "index.db"
    index = SQLiteIndex(path)
    index.bind(MODEL)
    corpus = records(ENCODER, TEXTS, source="test", tags=[1, 2])
    for start in range(0, len(corpus), 20):
        index.upsert(corpus[start : start + 20])
    index.upsert(corpus[5:10])
    index.delete(["id 0", "id 1"])
    index.close()
    return path.read_bytes()


def everything_in(path: Path) -> dict[str, Any]:
    """All that an index can be asked, in a form to compare."""
    index = SQLiteIndex(path)
    try:
        ids = index.candidates(QUERY, 10**6)
        return {
            "ids": ids,
            "best": index.candidates(QUERY, 5),
            "filtered": [
                index.candidates(QUERY, 10**6, parse_filter(asked))
                for asked in ({"source": "test"}, {"tags": {"$gt": 1}}, {"tags": {"$exists": True}})
            ],
            "count": index.count(),
            "scores": {v: s.tolist() for v, s in index.score(QUERY, ids).present()},
            "records": [
                (
                    record.text,
                    record.metadata,
                    record.embedding.dense.tolist(),
                    record.embedding.sparse.to_dict(),
                    record.embedding.multi_vector.tolist(),
                )
                for record in index.get(ids, views=VIEWS)
            ],
        }
    finally:
        index.close()


def assert_untouched(path: Path, before: bytes) -> None:
    assert path.read_bytes() == before
    assert [other.name for other in path.parent.iterdir()] == [path.name]


def patched(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


# Files of others ------------------------------------------------------------------------------


def text_file(path: Path) -> None:
    path.write_text("SQLite is a nice format, 3 cheers\n" * 10)


def short_text_file(path: Path) -> None:
    path.write_text("x")


def half_a_header(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + bytes(50))


def zeros(path: Path) -> None:
    path.write_bytes(bytes(8192))


def another_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE documents (key INTEGER PRIMARY KEY, id TEXT)")
    connection.execute("INSERT INTO documents (id) VALUES ('precious')")
    connection.commit()
    connection.close()


def another_programs_database(path: Path) -> None:
    another_database(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 252006673")
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.close()


def empty_database(path: Path) -> None:
    """Another program's, which has no table yet."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()


@pytest.mark.parametrize(
    "make",
    [
        text_file,
        short_text_file,
        half_a_header,
        zeros,
        another_database,
        another_programs_database,
        empty_database,
    ],
)
def test_a_file_of_another_program_is_refused_untouched(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "file.db"
    make(path)
    before = path.read_bytes()
    with pytest.raises(HybridIndexError, match=r"file\.db is .*not touched"):
        SQLiteIndex(path)
    assert_untouched(path, before)


def test_a_database_under_our_number_with_other_tables_is_refused_untouched(
    tmp_path: Path, good_file: bytes
) -> None:
    path = tmp_path / "index.db"
    another_database(path)
    path.write_bytes(patched(path.read_bytes(), 68, good_file[68:72]))
    before = path.read_bytes()
    with pytest.raises(HybridIndexError, match="properties"):
        SQLiteIndex(path)
    assert_untouched(path, before)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("text")
    for name in ("folder", "loop", "file/index.db", ""):
        path = tmp_path / name
        with pytest.raises(HybridIndexError) as caught:
            SQLiteIndex(path)
        assert str(path) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "loop"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, good_file: bytes) -> None:
    path = tmp_path / "index.db"
    path.write_bytes(good_file)
    path.chmod(0)
    with pytest.raises(HybridIndexError, match="Permission denied"):
        SQLiteIndex(path)
    path.chmod(0o600)
    assert_untouched(path, good_file)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place where no folder can be")
def test_a_folder_that_cannot_be_made_is_named() -> None:
    with pytest.raises(HybridIndexError, match="/proc/nowhere"):
        SQLiteIndex("/proc/nowhere/index.db")


# Damage ---------------------------------------------------------------------------------------


def test_a_truncated_file_is_refused_untouched(tmp_path: Path, good_file: bytes) -> None:
    path = tmp_path / "index.db"
    page = int.from_bytes(good_file[16:18], "big")
    lengths = [1, 15, 16, 99, 100, 101, page - 1, *range(page, len(good_file), page)]
    for length in lengths:
        path.write_bytes(good_file[:length])
        with pytest.raises(HybridIndexError, match=r"index\.db"):
            SQLiteIndex(path)
        assert_untouched(path, good_file[:length])


def test_a_page_of_garbage_is_found_or_does_no_harm(tmp_path: Path, good_file: bytes) -> None:
    """Whichever page it is: our error, or every answer as before; the file is left as it is."""
    path = tmp_path / "index.db"
    path.write_bytes(good_file)
    expected = everything_in(path)
    page = int.from_bytes(good_file[16:18], "big")
    found = 0
    for offset in range(page, len(good_file), page):
        damaged = patched(good_file, offset, np.random.default_rng(offset).bytes(page))
        path.write_bytes(damaged)
        message = ""
        try:
            assert everything_in(path) == expected, offset
        except HybridIndexError as error:
            message = str(error)
            found += 1
        assert not message or "index.db is damaged" in message
        assert_untouched(path, damaged)
    # Two pages are read by nobody who only searches: a counter of SQLite's and the removals.
    assert found >= len(good_file) // page - 1 - 2


def test_garbage_anywhere_never_raises_anything_else(tmp_path: Path, good_file: bytes) -> None:
    path = tmp_path / "index.db"
    rng = np.random.default_rng(1)
    for _ in range(60):
        size = int(rng.choice([1, 4, 16, 100]))
        offset = int(rng.integers(100, len(good_file) - size))
        damaged = patched(good_file, offset, rng.bytes(size))
        path.write_bytes(damaged)
        with contextlib.suppress(HybridIndexError):
            everything_in(path)
        assert_untouched(path, damaged)


@pytest.mark.parametrize(
    ("offset", "new"),
    [
        (16, b"\xff\xff"),  # the size of a page
        (16, b"\0\0"),
        (21, bytes([7, 7, 7])),  # fixed fractions
        (16, bytes(range(100, 144))),  # up to the version
        (16, bytes(84)),  # all of it
        (0, bytes(16)),  # the name of the format
        (100, b"\xff\xff\xff\xff"),  # the first page after the header
    ],
)
def test_a_damaged_header_is_refused_untouched(
    tmp_path: Path, good_file: bytes, offset: int, new: bytes
) -> None:
    path = tmp_path / "index.db"
    damaged = patched(good_file, offset, new)
    path.write_bytes(damaged)
    with pytest.raises(HybridIndexError, match=r"index\.db"):
        SQLiteIndex(path)
    assert_untouched(path, damaged)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE vectors SET dense = CAST(substr(dense, 1, 12) AS BLOB) WHERE key = 30",
        "UPDATE vectors SET dense = CAST(substr(dense, 1, 13) AS BLOB)",
        "UPDATE vectors SET dense = zeroblob(0)",
        "UPDATE vectors SET dense = NULL WHERE key = 30",
        "UPDATE vectors SET dense = randomblob(192) WHERE key = 30",
        # Not a number, in float32.
        "UPDATE vectors SET dense = CAST(substr(dense, 1, 188) || x'0000c07f' AS BLOB)",
        "UPDATE vectors SET sparse_indices = randomblob(length(sparse_indices)) WHERE key = 30",
        # -1, and 2**31 - 1 before something smaller.
        "UPDATE vectors SET sparse_indices = x'ffffffff', sparse_values = x'0000803f'",
        "UPDATE vectors SET sparse_indices = x'ffffff7f01000000',"
        " sparse_values = x'0000803f0000803f'",
        "UPDATE vectors SET sparse_indices = x'01' WHERE key = 30",
        "UPDATE vectors SET sparse_values = zeroblob(4) WHERE key = 30",
        "UPDATE vectors SET sparse_values = zeroblob(length(sparse_values)) WHERE key = 30",
        "UPDATE vectors SET sparse_values = NULL WHERE key = 30",
        "UPDATE multi_vectors SET vectors = randomblob(length(vectors)) WHERE key = 30",
        "UPDATE multi_vectors SET vectors = zeroblob(0) WHERE key = 30",
        "UPDATE multi_vectors SET vectors = x'01' WHERE key = 30",
        "UPDATE multi_vectors SET vectors = CAST(vectors || x'0000' AS BLOB) WHERE key = 30",
        "UPDATE documents SET metadata = '{' WHERE key = 30",
        "UPDATE documents SET text = CAST(x'ff' AS TEXT) WHERE key = 30",
        "UPDATE properties SET value = 'O' WHERE name = 'multi_vector_dtype'",
        "UPDATE properties SET value = 'nonsense' WHERE name = 'multi_vector_dtype'",
        "UPDATE properties SET value = 'many' WHERE name = 'multi_vector_dim'",
        "UPDATE properties SET value = '-1' WHERE name = 'dense_dim'",
        "DELETE FROM properties WHERE name = 'views'",
        "DELETE FROM properties WHERE name = 'multi_vector_dtype'",
        "DELETE FROM properties WHERE name = 'dense_dim'",
        "DELETE FROM vectors WHERE key = 30",
        "DELETE FROM multi_vectors WHERE key = 30",
        "DELETE FROM properties",
        "UPDATE properties SET value = 'dense, bogus' WHERE name = 'views'",
        "UPDATE properties SET value = x'00' WHERE name = 'views'",
        "UPDATE properties SET value = '0' WHERE name = 'token_pooling'",
        "UPDATE properties SET value = x'00' WHERE name = 'token_pooling'",
        "UPDATE documents SET metadata = '[1]' WHERE key = 30",
        "UPDATE documents SET metadata = 'null' WHERE key = 30",
        "UPDATE documents SET metadata = replace(hex(zeroblob(50000)), '0', '[') WHERE key = 30",
        "UPDATE documents SET id = x'00' WHERE key = 30",
        "UPDATE documents SET text = x'00' WHERE key = 30",
        "UPDATE vectors SET dense = 'abc' WHERE key = 30",
        "UPDATE vectors SET sparse_indices = 5 WHERE key = 30",
        "UPDATE multi_vectors SET vectors = 5 WHERE key = 30",
    ],
)
def test_content_that_no_index_writes_is_refused(
    tmp_path: Path, good_file: bytes, statement: str
) -> None:
    """As in a file from a stranger; taken at its word it could end the process."""
    path = tmp_path / "index.db"
    path.write_bytes(good_file)
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    before = path.read_bytes()
    assert before != good_file
    with pytest.raises(HybridIndexError, match=r"index\.db"):
        everything_in(path)
    assert_untouched(path, before)


# Other versions and models ----------------------------------------------------------------------


def test_a_file_of_a_newer_version_says_to_upgrade(tmp_path: Path, good_file: bytes) -> None:
    path = tmp_path / "index.db"
    version = int.from_bytes(good_file[60:64], "big")
    newer = patched(good_file, 60, (version + 1).to_bytes(4, "big"))
    path.write_bytes(newer)
    with pytest.raises(HybridIndexError, match=rf"layout {version + 1}.*up to {version}.*pip"):
        SQLiteIndex(path)
    assert_untouched(path, newer)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (IndexModel("other", "another", VIEWS), ["'hash'", "'other'"]),
        (IndexModel("hash", "another", VIEWS), ["'hash'", "other weights"]),
        (
            IndexModel("hash", ENCODER.fingerprint, ("dense", "sparse")),
            ["dense, sparse, multi_vector", "gives dense, sparse."],
        ),
    ],
)
def test_another_model_is_refused_by_name_and_the_file_left_as_it_was(
    tmp_path: Path, good_file: bytes, model: IndexModel, names: list[str]
) -> None:
    path = tmp_path / "index.db"
    path.write_bytes(good_file)
    index = SQLiteIndex(path)
    with pytest.raises(IndexMismatchError) as caught:
        index.bind(model)
    assert all(name in str(caught.value) for name in [*names, "index.db"])
    index.close()
    assert_untouched(path, good_file)


@pytest.mark.parametrize("view", ["dense", "multi_vector"])
def test_vectors_of_another_dimension_are_refused_naming_both(
    tmp_path: Path, good_file: bytes, view: str
) -> None:
    path = tmp_path / "index.db"
    path.write_bytes(good_file)
    index = SQLiteIndex(path)
    wide = HashEncoder(dim=49).encode_documents(["text"])[0]
    mixed = HybridEmbedding(
        wide.dense if view == "dense" else QUERY.dense,
        wide.sparse,
        wide.multi_vector if view == "multi_vector" else QUERY.multi_vector,
    )
    for use in (
        lambda: index.upsert([IndexRecord("new", "text", {}, mixed)]),
        lambda: index.candidates(mixed, 5),
        lambda: index.score(mixed, ["id 7"]),
    ):
        with pytest.raises(IndexMismatchError, match=rf"{view}_dim 48.*49"):
            use()
    index.close()
    assert_untouched(path, good_file)


def test_another_model_of_the_same_fingerprint_may_go_on(tmp_path: Path, good_file: bytes) -> None:
    """A folder and the Hub hold the same model under two names."""
    path = tmp_path / "index.db"
    path.write_bytes(good_file)
    index = SQLiteIndex(path)
    index.bind(IndexModel("folder/hash", ENCODER.fingerprint, VIEWS))
    index.bind(MODEL)
    assert len(index.candidates(QUERY, 100)) == 58
    index.close()


@pytest.mark.parametrize("stored", ["float16", "float32"])
def test_another_multi_vector_dtype_is_refused_naming_both(tmp_path: Path, stored: Any) -> None:
    path = tmp_path / "index.db"
    other: Any = {"float16": "float32", "float32": "float16"}[stored]
    index = SQLiteIndex(path, multi_vector_dtype=stored)
    index.upsert(records(ENCODER, {"a": "text"}))
    index.close()
    before = path.read_bytes()
    with pytest.raises(HybridIndexError, match=f"{stored}.*{other}"):
        SQLiteIndex(path, multi_vector_dtype=other)
    assert_untouched(path, before)
    for same in (stored, None):
        index = SQLiteIndex(path, multi_vector_dtype=same)
        index.upsert(records(ENCODER, {"b": "another text"}))
        assert index.count() == 2
        index.close()
    blobs = sqlite3.connect(path)
    sizes = {size for (size,) in blobs.execute("SELECT length(vectors) FROM multi_vectors")}
    blobs.close()
    width = np.dtype(stored).itemsize * ENCODER.dim
    assert sizes == {width, 2 * width}  # one word, and two


# Opening and closing ----------------------------------------------------------------------------


def test_an_empty_file_is_a_new_index(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    path.touch()
    index = SQLiteIndex(path)
    index.upsert(records(ENCODER, {"a": "text"}))
    index.close()
    assert everything_in(path)["ids"] == ["a"]


def test_a_new_file_has_pages_of_16_kb_and_one_of_4_kb_still_opens(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    SQLiteIndex(path).close()
    assert int.from_bytes(path.read_bytes()[16:18], "big") == 16_384
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in ("journal_mode = DELETE", "page_size = 4096"):
            connection.execute(f"PRAGMA {statement}")
        connection.execute("VACUUM")
    assert int.from_bytes(path.read_bytes()[16:18], "big") == 4096
    with SQLiteIndex(path) as index:
        index.upsert(records(ENCODER, TEXTS))
        assert index.count() == len(TEXTS)
        assert index.candidates(QUERY, 100)


def test_folders_on_the_way_to_the_file_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "폴더" / "in?dex#1.db"
    index = SQLiteIndex(path)
    index.upsert(records(ENCODER, {"a": "text"}))
    index.close()
    assert [p.relative_to(tmp_path) for p in tmp_path.rglob("*.db*")] == [
        path.relative_to(tmp_path)
    ]
    assert everything_in(path)["count"] == 1


def test_after_closing_one_file_remains_which_has_everything(
    tmp_path: Path, good_file: bytes
) -> None:
    path = tmp_path / "index.db"
    index = SQLiteIndex(path)
    corpus = records(ENCODER, TEXTS)
    index.upsert(corpus)
    reader = SQLiteIndex(str(path))
    assert reader.count() == len(TEXTS)
    index.close()
    reader.close()
    assert [p.name for p in tmp_path.iterdir()] == ["index.db"]
    moved = path.rename(tmp_path / "moved.db")
    stored = everything_in(moved)
    assert stored["ids"] == list(TEXTS)
    assert [text for text, *_ in stored["records"]] == list(TEXTS.values())


def test_reading_changes_no_byte_of_the_file(tmp_path: Path, good_file: bytes) -> None:
    path = tmp_path / "index.db"
    path.write_bytes(good_file)
    everything_in(path)
    assert_untouched(path, good_file)


def test_closing_again_does_nothing_and_any_other_use_says_closed(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    for where in (path, ":memory:"):
        index = SQLiteIndex(where)
        index.upsert(records(ENCODER, {"a": "text"}))
        index.close()
        index.close()
        uses: list[Callable[[], object]] = [
            lambda index=index: index.upsert(records(ENCODER, {"b": "text"})),
            lambda index=index: index.delete(["a"]),
            lambda index=index: index.delete(),
            lambda index=index: index.get(["a"]),
            lambda index=index: index.get([]),
            lambda index=index: index.candidates(QUERY, 1),
            lambda index=index: index.score(QUERY, ["a"]),
            lambda index=index: index.score(QUERY, []),
            lambda index=index: index.count(),
            lambda index=index: index.bind(MODEL),
            lambda index=index: index.snapshot().__enter__(),
        ]
        for use in uses:
            with pytest.raises(HybridIndexError, match=f"{where} is closed"):
                use()
    assert everything_in(path)["ids"] == ["a"]


def test_a_path_is_shown_by_repr(tmp_path: Path) -> None:
    index = SQLiteIndex(tmp_path / "index.db")
    assert str(tmp_path / "index.db") in repr(index)
    index.close()


def test_the_file_holds_plain_numbers_and_json(tmp_path: Path) -> None:
    """No pickle: whoever opens a stranger's index runs none of his code."""
    path = tmp_path / "index.db"
    embedding = HybridEmbedding(
        dense=[3, 4],  # type: ignore[arg-type]
        sparse=SparseVector.from_dict({5: 0.5, 70_000: 2}),
        multi_vector=[[0, 2], [0.5, 0]],  # type: ignore[arg-type]
    )
    metadata = {"list": [1, None, "서울"], "nested": {"x": 1.5}}
    index = SQLiteIndex(path)
    index.bind(MODEL)
    index.upsert([IndexRecord("id", "text", metadata, embedding)])
    index.close()
    connection = sqlite3.connect(path)
    tables = {
        name: connection.execute(f"SELECT * FROM {name}").fetchall()
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    }
    kinds = {kind for (kind,) in connection.execute("SELECT type FROM sqlite_master")}
    connection.close()
    assert kinds == {"table", "index"}
    [(key, id_, text, encoded)] = tables.pop("documents")
    assert (id_, text, json.loads(encoded)) == ("id", "text", metadata)
    assert tables.pop("vectors") == [
        (
            key,
            np.array([0.6, 0.8], "<f4").tobytes(),
            np.array([5, 70_000], "<i4").tobytes(),
            np.array([0.5, 2], "<f4").tobytes(),
        )
    ]
    assert tables.pop("multi_vectors") == [(key, np.array([[0, 1], [1, 0]], "<f2").tobytes())]
    assert dict(tables.pop("properties")) == {
        "views": "dense, sparse, multi_vector",
        "dense_dim": "2",
        "multi_vector_dim": "2",
        "multi_vector_dtype": "float16",
        "token_pooling": "1",
        "model_name": MODEL.name,
        "fingerprint": MODEL.fingerprint,
    }
    assert tables.pop("removals") == []
    leaves = [
        (path.decode(), kind, value) for path, kind, value, _ in tables.pop("metadata_leaves")
    ]
    assert leaves == [
        ("list", "null", b""),
        ("list", "number", 1.0),
        ("list", "present", b""),
        ("list", "string", "서울".encode()),
        ("nested", "present", b""),
        ("nested.x", "number", 1.5),
        ("nested.x", "present", b""),
    ]
    assert tables.keys() <= {"sqlite_sequence"}
