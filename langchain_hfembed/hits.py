"""One search: candidates, their scores in every view, their fusion, and the best of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from langchain_core.documents import Document

from langchain_hfembed.fusion import Fusion, fuse
from langchain_hfembed.index.base import HybridIndex, IndexRecord
from langchain_hfembed.index.filters import Filter
from langchain_hfembed.scoring import Scores, ranks, top_k
from langchain_hfembed.vectors import HybridEmbedding, PerView


@dataclass(frozen=True)
class Hit:
    """A document that was found, and why it ranks where it does.

    Attributes:
        document: The document, with its id.
        score: The fused score, on the fusion's scale, higher is better.
        scores: Its score in each view; None for a view that is absent.
        ranks: Its rank among the candidates in each view, from 1.
    """

    document: Document
    score: float
    scores: PerView[float]
    ranks: PerView[int]


def best_hits(
    scores: Scores, fusion: Fusion, k: int, documents: Callable[[list[int]], list[Document]]
) -> list[Hit]:
    """Fuse the scores of candidates, and keep the best.

    Args:
        scores: The candidates' scores.
        fusion: How the scores become one.
        k: How many hits, at most.
        documents: Called with positions of candidates, returns their documents.

    Returns:
        Hits, the best first; ties in the order of the candidates.
    """
    fused = fuse(fusion, scores)
    best = top_k(fused, k).tolist()
    ranked = {view: ranks(values) for view, values in scores.present()}
    return [
        Hit(
            document,
            float(fused[position]),
            PerView(**{view: float(values[position]) for view, values in scores.present()}),
            PerView(**{view: int(values[position]) for view, values in ranked.items()}),
        )
        for position, document in zip(best, documents(best), strict=True)
    ]


def find(
    index: HybridIndex,
    query: HybridEmbedding,
    *,
    k: int,
    fetch_k: int,
    fusion: Fusion,
    filter_: Filter | None = None,
) -> list[Hit]:
    """Search an index.

    Args:
        index: Where to search; all of it in one state.
        query: The query's views.
        k: How many hits, at most.
        fetch_k: Candidates of the dense and of the sparse view, each.
        fusion: How the scores become one.
        filter_: Which documents to look at; None for all.

    Returns:
        Hits, the best first; ties in the order in which the documents were stored.
    """
    with index.snapshot():
        found = index.search(query, fetch_k, filter_)
        return best_hits(
            found.scores, fusion, k, lambda best: [*map(document_of, found.records(best))]
        )


def with_scores(hit: Hit) -> Document:
    """A copy of the document whose metadata has `relevance_score` and `scores`, in plain JSON."""
    metadata = {
        **hit.document.metadata,
        "relevance_score": hit.score,
        "scores": hit.scores.to_dict(),
    }
    return hit.document.model_copy(update={"metadata": metadata})


def document_of(record: IndexRecord) -> Document:
    """The LangChain document of a record."""
    return Document(id=record.id, page_content=record.text, metadata=record.metadata)
