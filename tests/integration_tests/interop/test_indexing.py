"""LangChain's indexing API over a HybridVectorStore: nothing is embedded twice."""

from __future__ import annotations

import functools

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index

from langchain_hfembed import HybridVectorStore
from tests.integration_tests.interop.helpers import TEXTS, forward_passes

indexed = functools.partial(
    index, cleanup="full", source_id_key="source", key_encoder="blake2b", batch_size=4
)


def _documents(**changed: str) -> list[Document]:
    """One a text; `changed` has other texts by source, None for a source that is gone."""
    by_source = {f"s{number}": text for number, text in enumerate(TEXTS)} | changed
    return [
        Document(text, metadata={"source": source})
        for source, text in by_source.items()
        if text is not None
    ]


@pytest.fixture
def store(bge_m3):
    return HybridVectorStore(bge_m3)


@pytest.fixture
def embedded(bge_m3):
    """How many texts were embedded since it was last asked."""
    with forward_passes(bge_m3) as sizes:

        def count() -> int:
            total = sum(sizes)
            sizes.clear()
            return total

        yield count


@pytest.fixture(params=["memory", "sqlite"])
def records(request, tmp_path):
    if request.param == "memory":
        manager = InMemoryRecordManager("hybrid")
    else:
        pytest.importorskip("greenlet", reason="SQLRecordManager needs sqlalchemy[asyncio]")
        from langchain_classic.indexes import SQLRecordManager

        manager = SQLRecordManager("hybrid", db_url=f"sqlite:///{tmp_path / 'records.db'}")
    manager.create_schema()
    return manager


def _stored(store) -> list[str]:
    hits = store.search("text", k=100)
    return sorted(hit.document.page_content for hit in hits)


def test_unchanged_documents_are_not_embedded_again(store, records, embedded):
    assert indexed(_documents(), records, store)["num_added"] == len(TEXTS)
    assert embedded() == len(TEXTS)
    assert indexed(_documents(), records, store) == {
        "num_added": 0,
        "num_updated": 0,
        "num_skipped": len(TEXTS),
        "num_deleted": 0,
    }
    assert embedded() == 0
    assert _stored(store) == sorted(TEXTS)


@pytest.mark.parametrize("cleanup", ["full", "incremental", "scoped_full"])
def test_a_changed_document_is_embedded_alone_and_replaces_the_old_one(
    store, records, embedded, cleanup
):
    indexed(_documents(), records, store, cleanup=cleanup)
    embedded()
    result = indexed(_documents(s2="a new text"), records, store, cleanup=cleanup)
    assert (result["num_added"], result["num_deleted"]) == (1, 1)
    assert embedded() == 1
    assert _stored(store) == sorted([*TEXTS[:2], "a new text", *TEXTS[3:]])


def test_full_cleanup_deletes_what_is_gone_and_incremental_cleanup_does_not(
    store, records, embedded
):
    indexed(_documents(), records, store)
    embedded()
    assert indexed(_documents(s0=None), records, store, cleanup="incremental")["num_deleted"] == 0
    assert _stored(store) == sorted(TEXTS)
    assert indexed(_documents(s0=None), records, store)["num_deleted"] == 1
    assert _stored(store) == sorted(TEXTS[1:])
    assert embedded() == 0 + 2  # the two searches of _stored


def test_a_document_that_is_there_twice_is_embedded_once(store, records, embedded):
    indexed([*_documents(), *_documents()], records, store, batch_size=100)
    assert embedded() == len(TEXTS)
    assert _stored(store) == sorted(TEXTS)


async def test_the_coroutine_does_the_same(store, embedded):
    records = InMemoryRecordManager("hybrid")
    await records.acreate_schema()
    for documents, count in ((_documents(), len(TEXTS)), (_documents(s2="new", s3=None), 1)):
        await aindex(documents, records, store, cleanup="full", key_encoder="blake2b")
        assert embedded() == count
    assert _stored(store) == sorted([*TEXTS[:2], "new", *TEXTS[4:]])


def test_an_index_file_and_its_records_go_on_in_another_process(bge_m3, tmp_path, embedded):
    pytest.importorskip("greenlet", reason="SQLRecordManager needs sqlalchemy[asyncio]")
    from langchain_classic.indexes import SQLRecordManager

    for count in (len(TEXTS), 0):  # new objects on the same files
        records = SQLRecordManager("hybrid", db_url=f"sqlite:///{tmp_path / 'records.db'}")
        records.create_schema()
        store = HybridVectorStore(bge_m3, path=tmp_path / "knowledge.db")
        indexed(_documents(), records, store)
        store.index.close()
        assert embedded() == count
