"""What an index does besides searching: compacting, a full disk, moving to another index."""

from __future__ import annotations

import json
import os
import random
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import langchain_hfembed
from langchain_hfembed import (
    EmbeddingError,
    HybridIndexError,
    IndexLockedError,
    IndexMismatchError,
    IndexRecord,
    InvalidInputError,
    SQLiteIndex,
    copy_index,
    export_index,
    import_index,
)
from langchain_hfembed.index.base import IndexModel
from langchain_hfembed.index.filters import parse_filter
from langchain_hfembed.vectors import VIEWS, View
from tests.encoders import HashEncoder, records

ENCODER = HashEncoder()
MODEL = IndexModel("hash", "fingerprint of hash", VIEWS)


def _records(count: int, views: tuple[View, ...] = VIEWS) -> list[IndexRecord]:
    encoder = HashEncoder(views)
    texts = {f"id {n}": f"text {n}\nof many" for n in range(count)}
    return [
        IndexRecord(record.id, record.text, {"n": n, "라벨": "값\ud800"}, record.embedding)
        for n, record in enumerate(records(encoder, texts))
    ]


def _assert_same(index: SQLiteIndex, other: SQLiteIndex) -> None:
    ours, theirs = list(index.records()), list(other.records())
    assert [r.id for r in ours] == [r.id for r in theirs]
    for one, two in zip(ours, theirs, strict=True):
        assert (one.text, one.metadata) == (two.text, two.metadata)
        assert one.embedding.views == two.embedding.views
        if one.embedding.dense is not None:
            np.testing.assert_allclose(one.embedding.dense, two.embedding.dense, atol=1e-7)
        if one.embedding.sparse is not None:
            assert one.embedding.sparse.to_dict() == two.embedding.sparse.to_dict()
        if one.embedding.multi_vector is not None:
            np.testing.assert_allclose(
                one.embedding.multi_vector, two.embedding.multi_vector, atol=1e-3
            )


# Compacting -------------------------------------------------------------------------------------


def test_compacting_gives_back_the_room_of_what_was_deleted(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    with SQLiteIndex(path) as index:
        index.upsert(_records(400))
        index.delete([f"id {n}" for n in range(390)])
        left = list(index.records())
        index.compact()
        [query] = ENCODER.encode_queries(["text 395"])
        assert index.candidates(query, 400) == [f"id {n}" for n in range(390, 400)]
        compacted = path.stat().st_size  # while it is open
        assert [r.id for r in index.records()] == [r.id for r in left]
    with SQLiteIndex(tmp_path / "fresh.db") as fresh:
        fresh.upsert(left)
    assert compacted < 1.2 * (tmp_path / "fresh.db").stat().st_size
    assert path.stat().st_size == compacted


def test_an_index_in_memory_compacts_too() -> None:
    with SQLiteIndex() as index:
        index.upsert(_records(3))
        index.compact()
        assert index.count() == 3


def test_an_index_is_not_compacted_within_a_snapshot() -> None:
    with SQLiteIndex() as index, index.snapshot(), pytest.raises(HybridIndexError, match="within"):
        index.compact()


def test_compacting_says_when_a_reader_of_an_older_state_keeps_the_file_large(
    tmp_path: Path,
) -> None:
    path = tmp_path / "index.db"
    with SQLiteIndex(path, busy_timeout=0.1) as index, SQLiteIndex(path) as reader:
        index.upsert(_records(50))
        with reader.snapshot():
            assert reader.count() == 50
            index.delete([f"id {n}" for n in range(40)])
            with pytest.raises(IndexLockedError, match="older state"):
                index.compact()
            assert reader.count() == 50
        index.compact()
        assert [index.count(), reader.count()] == [10, 10]


# A full disk ------------------------------------------------------------------------------------


def _fill(index: SQLiteIndex) -> None:
    """From here on the file may not grow; SQLite reports that as it does a full disk."""
    with index._file.transaction() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk_is_named_and_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    [query] = ENCODER.encode_queries(["text 7"])
    with SQLiteIndex(path) as index:
        index.upsert(_records(20))
        _fill(index)
        with pytest.raises(HybridIndexError, match=r"disk .* is full .* Nothing was changed"):
            index.upsert([*_records(500)])
        assert index.count() == 20
        assert len(index.candidates(query, 100)) == 20
        index.delete(["id 3"])
    with SQLiteIndex(path) as index:
        assert index.count() == 19
        index.upsert(_records(30))
        assert len(index.candidates(query, 100)) == 30


def test_a_full_disk_while_it_is_compacted_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    with SQLiteIndex(path) as index:
        index.upsert(_records(100))
        index.delete([f"id {n}" for n in range(10)])
        # Half of it would fit; SQLite holds VACUUM's new file to the same limit.
        with index._file.transaction() as connection:
            connection.execute("PRAGMA cache_size = 1")
        _with_small_files(path, "index.compact()", "is full|disk I/O error")
        assert index.count() == 90
    with SQLiteIndex(path) as index:
        assert len(list(index.records())) == 90


def test_a_full_disk_while_a_file_is_brought_up_to_date_leaves_it_as_it_was(
    tmp_path: Path,
) -> None:
    path = tmp_path / "index.db"
    with SQLiteIndex(path) as index:
        index.upsert(_records(1500))
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE metadata_leaves; PRAGMA user_version = 1; VACUUM")
    _with_small_files(path, "", "is full|disk I/O error")
    with SQLiteIndex(path) as index:
        assert index.count() == 1500
        [query] = ENCODER.encode_queries(["text 7"])
        assert index.candidates(query, 1500, parse_filter({"n": 7})) == ["id 7"]


def test_a_full_disk_while_it_is_exported_is_named(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    with SQLiteIndex(path) as index:
        index.upsert(_records(300))
    code = f"export_index(index, {str(tmp_path / 'e')!r}, batch_size=300)"
    _with_small_files(path, code, "can't be written")
    with SQLiteIndex() as target, pytest.raises(HybridIndexError, match="no finished export"):
        import_index(tmp_path / "e", target)


def _with_small_files(path: Path, code: str, message: str) -> None:
    """Run something where no file may grow beyond 64 kB, and expect our error."""
    program = f"""
import resource, signal
from langchain_hfembed import HybridIndexError, SQLiteIndex, export_index
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    with SQLiteIndex({str(path)!r}) as index:
        {code or "pass"}
except HybridIndexError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(langchain_hfembed.__file__).parents[1])},
    )
    assert re.search(message, done.stdout), done


# Moving -----------------------------------------------------------------------------------------


def _direct(source: SQLiteIndex, target: SQLiteIndex, folder: Path) -> int:
    return copy_index(source, target, batch_size=30)


def _through_files(source: SQLiteIndex, target: SQLiteIndex, folder: Path) -> int:
    assert export_index(source, folder / "export", batch_size=40) == source.count()
    return import_index(folder / "export", target, batch_size=30)


Move = Callable[[SQLiteIndex, SQLiteIndex, Path], int]
moves = pytest.mark.parametrize("move", [_direct, _through_files])


@moves
@pytest.mark.parametrize("views", [VIEWS, ("dense",), ("sparse",), ("multi_vector",)])
def test_an_index_moves_with_all_that_it_has(tmp_path: Path, move: Move, views) -> None:
    model = IndexModel("hash", "fingerprint", views)
    with SQLiteIndex() as source, SQLiteIndex(tmp_path / "target.db") as target:
        source.bind(model)
        source.upsert(_records(100, views))
        assert move(source, target, tmp_path) == 100
        _assert_same(source, target)
        assert target.model == model
        with pytest.raises(IndexMismatchError, match="other"):
            target.bind(IndexModel("other", "another", views))


@moves
def test_what_the_target_holds_stays_and_moving_again_replaces(tmp_path: Path, move: Move) -> None:
    with SQLiteIndex() as source, SQLiteIndex() as target:
        source.upsert(_records(10))
        target.upsert(records(ENCODER, {"mine": "text", "id 3": "older"}))
        for attempt in range(2):
            assert move(source, target, tmp_path / str(attempt)) == 10
            assert target.count() == 11
            assert target.get(["mine", "id 3"])[1].text == "text 3\nof many"


@moves
def test_another_model_is_refused_before_anything_is_stored(tmp_path: Path, move: Move) -> None:
    with SQLiteIndex() as source, SQLiteIndex() as target:
        source.bind(MODEL)
        source.upsert(_records(2))
        target.bind(IndexModel("other", "another", VIEWS))
        target.upsert(records(ENCODER, {"mine": "text"}))
        with pytest.raises(IndexMismatchError, match=r"'other'.*'hash'"):
            move(source, target, tmp_path)
        assert target.count() == 1


@moves
def test_an_empty_index_moves_as_nothing(tmp_path: Path, move: Move) -> None:
    with SQLiteIndex() as source, SQLiteIndex() as target:
        assert move(source, target, tmp_path) == 0
        assert target.model is None


@moves
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_pooled_vectors_are_not_pooled_again(tmp_path: Path, move: Move, dtype) -> None:
    def pooled(path: Path) -> SQLiteIndex:
        return SQLiteIndex(path, multi_vector_dtype=dtype, token_pooling=2)

    with pooled(tmp_path / "a.db") as source, pooled(tmp_path / "b.db") as target:
        source.upsert(_records(5))
        assert move(source, target, tmp_path) == 5
        _assert_same(source, target)


def test_a_document_that_is_read_and_stored_again_keeps_its_vectors() -> None:
    with SQLiteIndex(token_pooling=2) as index:
        index.upsert(_records(1))
        [before] = index.records()
        for n in range(3):
            [record] = index.get(["id 0"], views=VIEWS)
            index.upsert([replace(record, metadata={"n": n})])
        [after] = index.records()
    assert after.metadata == {"n": 2}
    np.testing.assert_allclose(
        after.embedding.multi_vector, before.embedding.multi_vector, atol=2e-3
    )


def test_documents_may_be_rewritten_while_they_are_read() -> None:
    with SQLiteIndex() as index:
        index.upsert(_records(200))
        seen = []
        for record in index.records(()):
            seen.append(record.id)
            index.delete(["id 199"])
            index.upsert(records(ENCODER, {record.id: "rewritten", "new": "text"}))
        assert seen == [f"id {n}" for n in range(199)]


def test_an_index_is_not_copied_into_itself() -> None:
    with SQLiteIndex() as index, pytest.raises(InvalidInputError, match="both"):
        copy_index(index, index)


def test_what_is_stored_while_an_index_is_copied_is_left_for_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    with SQLiteIndex(path) as source, SQLiteIndex(path) as writer, SQLiteIndex() as target:
        source.upsert(_records(200))

        def store_more(_stored: int) -> None:
            writer.upsert(records(ENCODER, {f"new {target.count()}": "new"}))
            writer.delete(["id 199"])

        assert copy_index(source, target, batch_size=50, progress=store_more) == 200
        assert [r.id for r in target.records(())] == [f"id {n}" for n in range(200)]


def test_an_export_is_json_lines_and_arrays(tmp_path: Path) -> None:
    with SQLiteIndex() as index:
        index.bind(MODEL)
        index.upsert(_records(5))
        told: list[int] = []
        export_index(index, tmp_path / "e", batch_size=3, progress=told.append)
    assert told == [3, 2]
    assert sorted(file.name for file in (tmp_path / "e").iterdir()) == [
        "00000.jsonl",
        "00000.npz",
        "00001.jsonl",
        "00001.npz",
        "index.json",
    ]
    manifest = json.loads((tmp_path / "e/index.json").read_text())
    assert manifest["documents"] == 5
    assert manifest["model"]["name"] == "hash"
    lines = (tmp_path / "e/00001.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["id 3", "id 4"]
    with np.load(tmp_path / "e/00001.npz", allow_pickle=False) as arrays:
        assert arrays["dense"].shape == (2, 32)
        assert arrays["multi_vector"].dtype == np.float16
        assert arrays["multi_vector"].shape == (arrays["multi_vector_lengths"].sum(), 32)
        assert len(arrays["sparse_values"]) == arrays["sparse_lengths"].sum()


def test_float32_token_vectors_are_exported_as_they_are(tmp_path: Path) -> None:
    with SQLiteIndex(multi_vector_dtype="float32") as index:
        index.upsert(_records(2))
        export_index(index, tmp_path / "e")
        [record, _] = index.records()
    with SQLiteIndex(multi_vector_dtype="float32") as other:
        import_index(tmp_path / "e", other)
        [imported, _] = other.records()
    np.testing.assert_allclose(
        imported.embedding.multi_vector, record.embedding.multi_vector, atol=1e-7
    )


def test_a_folder_with_something_in_it_is_not_exported_into(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with SQLiteIndex() as index, pytest.raises(HybridIndexError, match="not empty"):
        export_index(index, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def _no_manifest(folder: Path) -> None:
    (folder / "index.json").unlink()


def _newer(folder: Path) -> None:
    manifest = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**manifest, "version": 2}))


def _no_model(folder: Path) -> None:
    manifest = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**manifest, "model": {"name": "x"}}))


def _missing_arrays(folder: Path) -> None:
    (folder / "00001.npz").unlink()


def _cut_arrays(folder: Path) -> None:
    data = (folder / "00001.npz").read_bytes()
    (folder / "00001.npz").write_bytes(data[: len(data) // 2])


def _missing_line(folder: Path) -> None:
    lines = (folder / "00001.jsonl").read_text().splitlines()
    (folder / "00001.jsonl").write_text("\n".join(lines[:-1]) + "\n")


def _pickled(folder: Path) -> None:
    np.savez(folder / "00001.npz", dense=np.array([{}, {}], dtype=object))


def _empty_arrays(folder: Path) -> None:
    (folder / "00001.npz").write_bytes(b"")


def _metadata(value: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        lines = (folder / "00001.jsonl").read_text().splitlines()
        document = {**json.loads(lines[0]), "metadata": "METADATA"}
        lines[0] = json.dumps(document).replace('"METADATA"', value)
        (folder / "00001.jsonl").write_text("\n".join(lines))

    return damage


def _lengths(folder: Path) -> None:
    arrays = dict(np.load(folder / "00001.npz"))
    arrays["multi_vector_lengths"][0] -= 1
    np.savez(folder / "00001.npz", **arrays)


def _fewer_batches(folder: Path) -> None:
    manifest = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**manifest, "batches": 1}))


def _bad_id(folder: Path) -> None:
    text = (folder / "00001.jsonl").read_text()
    (folder / "00001.jsonl").write_text(text.replace('"id 3"', "3"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_manifest, "no finished export"),
        (_newer, "version 2; this version of langchain-hfembed reads"),
        (_no_model, "no finished export"),
        (_missing_arrays, r"00001\.jsonl and \.npz can't be read"),
        (_cut_arrays, r"00001\.jsonl and \.npz can't be read"),
        (_missing_line, r"00001\.jsonl and \.npz can't be read"),
        (_pickled, r"00001\.jsonl and \.npz can't be read"),
        (_bad_id, r"00001\.jsonl and \.npz can't be read"),
        (_empty_arrays, r"00001\.jsonl and \.npz can't be read"),
        (_lengths, r"00001\.jsonl and \.npz can't be read"),
        (_metadata("null"), r"00001\.jsonl and \.npz can't be read"),
        (_metadata("[" * 100_000 + "]" * 100_000), r"00001\.jsonl and \.npz can't be read"),
        (_fewer_batches, r"has 3 documents, not 6"),
    ],
)
def test_a_damaged_export_is_named(tmp_path: Path, damage, message: str) -> None:
    with SQLiteIndex() as index:
        index.upsert(_records(6))
        export_index(index, tmp_path / "e", batch_size=3)
    damage(tmp_path / "e")
    with SQLiteIndex() as target, pytest.raises(HybridIndexError, match=message):
        import_index(tmp_path / "e", target)


@pytest.mark.parametrize("seed", range(40))
def test_garbage_in_an_export_never_raises_anything_else(tmp_path: Path, seed: int) -> None:
    with SQLiteIndex() as index:
        index.upsert(_records(6))
        export_index(index, tmp_path / "e")
    chance = random.Random(seed)
    path = chance.choice(sorted((tmp_path / "e").iterdir()))
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 5, 50])):
        content[chance.randrange(len(content))] = chance.randrange(256)
    path.write_bytes(content)
    with SQLiteIndex() as target:
        try:
            import_index(tmp_path / "e", target)
        except EmbeddingError:
            pass
        else:
            assert target.count() > 0


def test_a_batch_has_a_size() -> None:
    with SQLiteIndex() as index, SQLiteIndex() as target:
        index.upsert(_records(1))
        with pytest.raises(InvalidInputError, match="batch_size=0"):
            copy_index(index, target, batch_size=0)
