"""The demo's corpus and questions, and an index over them that is made once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from tqdm.auto import tqdm

from langchain_hfembed.cache import cache_root
from langchain_hfembed.demo.model import (
    DOCUMENT_INSTRUCTION,
    QUERY_INSTRUCTION,
    demo_model_folder,
)
from langchain_hfembed.embeddings.bge_m3 import BGEM3Embeddings
from langchain_hfembed.hits import Hit
from langchain_hfembed.vectorstore import HybridVectorStore

_HERE = Path(__file__).parent
_CORPUS = _HERE / "corpus.jsonl"
_QUERIES = _HERE / "queries.json"
_BATCH = 8


@dataclass(frozen=True)
class DemoQuery:
    """A question of the demo.

    Attributes:
        query: What is asked.
        expected: Ids of the passages that answer it; empty for a user's own question.
        shows: What it tells about the views.
    """

    query: str
    expected: tuple[str, ...] = ()
    shows: str = ""


def demo_documents() -> list[Document]:
    """Short passages, in English and Korean, on embeddings and retrieval."""
    lines = _CORPUS.read_text(encoding="utf-8").splitlines()
    return [
        Document(id=record["id"], page_content=record["text"], metadata=record["metadata"])
        for record in map(json.loads, lines)
    ]


def demo_queries() -> list[DemoQuery]:
    """Four questions that tell the views apart."""
    return [
        DemoQuery(entry["query"], tuple(entry["expected"]), entry["shows"])
        for entry in json.loads(_QUERIES.read_text(encoding="utf-8"))
    ]


def demo_embeddings(cache_folder: str | Path | None = None, **settings: Any) -> BGEM3Embeddings:
    """The demo model, ready to use; its folder is built on first use.

    Args:
        cache_folder: See `demo_model_folder`.
        **settings: Of `BGEM3Embeddings`, such as `engine="onnx"`.
    """
    its_own: dict[str, Any] = {
        "query_instruction": QUERY_INSTRUCTION,
        "document_instruction": DOCUMENT_INSTRUCTION,
        "max_length": 512,
    }
    return BGEM3Embeddings(model_name=str(demo_model_folder(cache_folder)), **its_own | settings)


def demo_store(
    embeddings: BGEM3Embeddings,
    *,
    cache_folder: str | Path | None = None,
    show_progress: bool = False,
) -> HybridVectorStore:
    """An index over the demo's corpus; what an earlier run stored is not embedded again.

    Args:
        embeddings: The encoder.
        cache_folder: Where the index is kept; see `demo_model_folder`.
        show_progress: Show a bar while passages are indexed.
    """
    version = hashlib.sha256(embeddings.fingerprint.encode() + _CORPUS.read_bytes())
    path = cache_root(cache_folder) / f"demo-{version.hexdigest()[:12]}.db"
    store = HybridVectorStore(embeddings, path=path)
    add_missing(store, demo_documents(), batch_size=_BATCH, show_progress=show_progress)
    return store


def add_missing(
    store: HybridVectorStore, documents: list[Document], *, batch_size: int, show_progress: bool
) -> int:
    """Store those documents whose ids are not there yet, so that an interrupted run goes on.

    Args:
        store: Where to.
        documents: With ids.
        batch_size: Documents to encode and store at once.
        show_progress: Show a bar if anything is missing.

    Returns:
        How many were missing.
    """
    stored = {document.id for document in store.get_by_ids([str(d.id) for d in documents])}
    missing = [document for document in documents if document.id not in stored]
    with tqdm(
        total=len(missing), desc="indexing", unit="text", disable=not (show_progress and missing)
    ) as bar:
        for start in range(0, len(missing), batch_size):
            bar.update(len(store.add_documents(missing[start : start + batch_size])))
    return len(missing)


def rank_everything(store: HybridVectorStore, query: str) -> list[Hit]:
    """All documents of a store, with their rank in each view."""
    everything = store.index.count()
    return store.search(query, k=everything, fetch_k=everything)
