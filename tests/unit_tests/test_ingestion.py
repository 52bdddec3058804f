"""A store follows its files: only what has changed is embedded, and nothing stale is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document

from langchain_hfembed.corpus import Piece, TextFiles
from langchain_hfembed.errors import EmbeddingError, IndexMismatchError, InvalidInputError
from langchain_hfembed.ingestion import Ingestion, Step
from langchain_hfembed.vectorstore import HybridVectorStore
from tests.encoders import HashEncoder

pytest.importorskip("langchain_text_splitters")


@pytest.fixture
def encoder() -> HashEncoder:
    return HashEncoder()


@pytest.fixture
def store(encoder: HashEncoder) -> Iterator[HybridVectorStore]:
    with HybridVectorStore(encoder) as store:
        yield store


def pieces(texts: dict[str, str], **metadata: object) -> list[Piece]:
    return [
        Piece(Document(id=id_, page_content=text, metadata=metadata)) for id_, text in texts.items()
    ]


def stored(store: HybridVectorStore) -> dict[str, str]:
    return {record.id: record.text for record in store.index.records(())}


def add(store: HybridVectorStore, new: list[Piece], batch_size: int = 3) -> dict[str, int]:
    ingestion = Ingestion(store, batch_size=batch_size)
    ingestion.add(new)
    return ingestion.counts


def update(store: HybridVectorStore, folder: Path, *, prune: bool = False) -> dict[str, int]:
    corpus = TextFiles(folder, chunk_size=20)
    ingestion = Ingestion(store)
    ingestion.add(corpus)
    ingestion.delete_tails(corpus.lengths)
    if prune:
        ingestion.prune(ingestion.find_gone(corpus.name, corpus.sources))
    return ingestion.counts


def test_what_is_stored_already_is_not_embedded_again(
    store: HybridVectorStore, encoder: HashEncoder
) -> None:
    texts = {str(n): f"text {n}" for n in range(10)}
    assert add(store, pieces(texts)) == {"indexed": 10, "skipped": 0, "deleted": 0}
    assert len(encoder.encoded) == 10
    assert add(store, pieces(texts)) == {"indexed": 0, "skipped": 10, "deleted": 0}
    assert len(encoder.encoded) == 10
    changed = texts | {"3": "other", "new": "more"}
    assert add(store, pieces(changed)) == {"indexed": 2, "skipped": 9, "deleted": 0}
    assert encoder.encoded[10:] == ["other", "more"]
    assert stored(store) == changed


@pytest.mark.parametrize("other", [{"year": True}, {"year": 1.5}, {"year": "1"}, {}, {"jahr": 1}])
def test_other_metadata_is_a_change(store: HybridVectorStore, other: dict[str, object]) -> None:
    add(store, pieces({"a": "text"}, year=1))
    assert add(store, pieces({"a": "text"}, **other))["indexed"] == 1
    [document] = store.get_by_ids(["a"])
    assert repr(document.metadata) == repr(other)


@given(
    earlier=st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz")), max_size=12),
    now=st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz")), max_size=12),
    batch_size=st.integers(1, 4),
    window=st.integers(1, 5),
)
def test_an_index_ends_as_if_all_were_added_one_by_one(
    earlier: list[tuple[str, str]],
    now: list[tuple[str, str]],
    batch_size: int,
    window: int,
) -> None:
    """With the same id again and again, whatever the batches; the last one counts."""
    with pytest.MonkeyPatch.context() as patch, HybridVectorStore(HashEncoder()) as store:
        patch.setattr("langchain_hfembed.ingestion._LOOKED_UP", window)
        for run in (earlier, now):
            found = [Piece(Document(id=id_, page_content=text)) for id_, text in run]
            counts = add(store, found, batch_size)
            assert counts["indexed"] + counts["skipped"] == len(run)
        assert stored(store) == dict(earlier) | dict(now)


def test_a_batch_that_fails_keeps_those_before_it_and_names_its_document(
    store: HybridVectorStore,
) -> None:
    found = pieces({str(n): f"text {n}" for n in range(5)} | {"bad": "\ud800", "last": "text"})
    ingestion = Ingestion(store, batch_size=2)
    with pytest.raises(EmbeddingError, match="document 'bad': text 1 holds the lone surrogate"):
        ingestion.add(found)
    assert ingestion.counts["indexed"] == 4
    assert sorted(stored(store)) == ["0", "1", "2", "3"]


def test_no_more_than_a_window_is_read_ahead(store: HybridVectorStore) -> None:
    read = 0

    def endless() -> Iterator[Piece]:
        nonlocal read
        while True:
            read += 1
            yield Piece(Document(id=str(read), page_content="text"))

    class EnoughError(Exception):
        pass

    def progress(step: Step) -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        Ingestion(store, batch_size=8, progress=progress).add(endless())
    assert read <= 256


def test_steps_add_up_to_the_corpus(store: HybridVectorStore, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("word " * 40)
    steps: list[Step] = []
    corpus = TextFiles(tmp_path, chunk_size=20)
    add(store, list(corpus)[:5])
    Ingestion(store, batch_size=4, progress=steps.append).add(corpus)
    assert sum(step.size for step in steps) == pytest.approx(corpus.size)
    assert sum(step.documents for step in steps if step.what == "skipped") == 5
    assert sum(step.documents for step in steps) == sum(corpus.lengths.values())


def test_another_models_index_is_an_error_even_if_nothing_has_changed(
    store: HybridVectorStore, encoder: HashEncoder
) -> None:
    add(store, pieces({"a": "text"}))
    other = HybridVectorStore(HashEncoder(model_name="other"), store.index)
    with pytest.raises(IndexMismatchError, match=r"hash.*other"):
        Ingestion(other)


def test_a_batch_size_below_1_is_refused(store: HybridVectorStore) -> None:
    with pytest.raises(InvalidInputError, match="batch_size=0"):
        Ingestion(store, batch_size=0)


# Files that change


def test_a_file_that_became_shorter_leaves_no_pieces_behind(
    store: HybridVectorStore, tmp_path: Path
) -> None:
    (tmp_path / "long.txt").write_text("\n\n".join(f"paragraph {n}" for n in range(20)))
    (tmp_path / "same.txt").write_text("the same")
    update(store, tmp_path)
    assert len(stored(store)) == 21
    (tmp_path / "long.txt").write_text("paragraph 0\n\nparagraph 1\n\na new paragraph")
    assert update(store, tmp_path) == {"indexed": 1, "skipped": 3, "deleted": 17}
    assert sorted(stored(store).values()) == [
        "a new paragraph",
        "paragraph 0",
        "paragraph 1",
        "the same",
    ]
    (tmp_path / "long.txt").write_text("")
    assert update(store, tmp_path)["deleted"] == 3
    assert list(stored(store).values()) == ["the same"]


def test_an_interrupted_deletion_of_pieces_is_completed_by_the_next_run(
    store: HybridVectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langchain_hfembed.ingestion._LOOKED_UP", 5)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("\n\n".join(f"{name} paragraph {n}" for n in range(20)))
    update(store, tmp_path)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"{name} paragraph 0")

    def interrupt(step: Step) -> None:
        raise KeyboardInterrupt

    corpus = TextFiles(tmp_path, chunk_size=20)
    add(store, list(corpus))
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            Ingestion(store, progress=interrupt).delete_tails(corpus.lengths)
    assert len(stored(store)) == 40 - 3 * 5
    update(store, tmp_path)
    assert sorted(stored(store).values()) == ["a.txt paragraph 0", "b.txt paragraph 0"]


def test_what_is_gone_is_counted_among_the_documents_of_its_folder(
    store: HybridVectorStore, tmp_path: Path
) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.txt").write_text(name)
    update(store, folder)
    add(store, pieces({"mine": "text"}))
    gone = Ingestion(store).find_gone("notes", {"notes/a.txt"})
    assert (sorted(gone.ids), gone.matching) == (["notes/b.txt#0", "notes/c.txt#0"], 3)


def test_without_a_folders_name_nothing_can_be_pruned(store: HybridVectorStore) -> None:
    """Every source starts with an empty name."""
    add(store, pieces({"notes/a.txt#0": "text"}, source="notes/a.txt", chunk=0))
    with pytest.raises(InvalidInputError, match="name"):
        Ingestion(store).find_gone("", [])


def test_only_pruning_deletes_what_came_from_files_that_are_gone(
    store: HybridVectorStore, tmp_path: Path
) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text("apple")
    (folder / "b.txt").write_text("bread " * 10)
    update(store, folder)
    other = tmp_path / "notes too"
    other.mkdir()
    (other / "b.txt").write_text("other")
    update(store, other)
    # None of these came out of the folder, whatever they say.
    add(store, pieces({"mine": "text"}, source="notes/b.txt", chunk=0))
    add(store, pieces({"notes/b.txt#x": "text"}, source="notes/b.txt"))
    add(store, pieces({"notes/b.txt#7": "text"}, page=7))
    before = stored(store)
    (folder / "b.txt").unlink()
    assert update(store, folder) == {"indexed": 0, "skipped": 1, "deleted": 0}
    assert stored(store) == before
    gone = {id_ for id_ in before if id_.startswith("notes/b.txt#") and id_[-1] not in "x7"}
    assert len(gone) >= 3
    assert update(store, folder, prune=True)["deleted"] == len(gone)
    assert stored(store).keys() == before.keys() - gone


def test_a_file_that_cannot_be_read_for_once_is_not_pruned(
    store: HybridVectorStore, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("apple")
    (tmp_path / "b.txt").write_text("bread")
    update(store, tmp_path)
    (tmp_path / "b.txt").write_bytes(b"\xff\xff")
    assert update(store, tmp_path, prune=True)["deleted"] == 0
    assert len(stored(store)) == 2
