"""Rankings of one question's candidates, by each view and by a fusion, and how they look."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from langchain_core.documents import Document

from langchain_hfembed.explain import Explanation
from langchain_hfembed.fusion import ReciprocalRankFusion, WeightedSum, fuse, min_max
from langchain_hfembed.hits import document_of
from langchain_hfembed.scoring import Scores, ranks, top_k
from langchain_hfembed.vectors import PerView, View
from langchain_hfembed.vectorstore import HybridVectorStore

VIEW_COLOURS: dict[View, str] = {
    # Told apart by colour-blind eyes, too: Okabe and Ito's palette.
    "dense": "#0072b2",
    "sparse": "#e69f00",
    "multi_vector": "#009e73",
}

STYLE = """<style>
.hfembed { font-size: 0.85rem; line-height: 1.35; }
ol.hfembed { list-style: none; margin: 0; padding: 0; }
ol.hfembed > li { border: 1px solid rgba(128, 128, 128, 0.3); border-radius: 0.4rem;
  margin: 0 0 0.4rem; padding: 0.35rem 0.5rem; }
ol.hfembed > li.chosen { border-color: currentColor; box-shadow: 0 0 0 1px currentColor; }
.hfembed .text { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3;
  overflow: hidden; overflow-wrap: anywhere; }
.hfembed .line { display: flex; justify-content: space-between; opacity: 0.75; }
.hfembed .bar { display: flex; height: 0.35rem; margin-top: 0.3rem; border-radius: 0.2rem;
  background: rgba(128, 128, 128, 0.2); overflow: hidden; }
.hfembed-title { font-size: 1rem; margin: 0; padding: 0; }
.hfembed-title i { display: inline-block; width: 0.7rem; height: 0.7rem; border-radius: 0.2rem;
  margin-right: 0.4rem; }
</style>"""


BuiltInFusion = WeightedSum | ReciprocalRankFusion

FUSIONS: dict[str, Callable[..., BuiltInFusion]] = {
    "min_max": partial(WeightedSum, normalization="min_max"),
    "dbsf": partial(WeightedSum, normalization="dbsf"),
    "raw": partial(WeightedSum, normalization=None),
    "rrf": ReciprocalRankFusion,
}


@dataclass(frozen=True)
class Found:
    """The candidates of a question.

    Attributes:
        query: The question.
        documents: The candidates, n of them.
        scores: Their scores in each view, shape `(n,)` each.
    """

    query: str
    documents: list[Document]
    scores: Scores


@dataclass(frozen=True)
class Place:
    """A document's place in a ranking.

    Attributes:
        document: The document.
        score: What it is ranked by, on the ranking's own scale.
        bars: Lengths of its bar's parts and their colours; the lengths add up to 1 at most.
        moved: How many ranks it is above where another fusion has it; None if not asked.
    """

    document: Document
    score: float
    bars: tuple[tuple[float, str], ...]
    moved: int | None = None


def find(store: HybridVectorStore, query: str) -> Found:
    """A question's candidates, with their scores before any fusion."""
    store.bind()
    [encoded] = store.encoder.encode_queries([query])  # not in the snapshot, which others wait for
    with store.index.snapshot():
        found = store.index.search(encoded, store.fetch_k)
        documents = [document_of(record) for record in found.records(range(len(found.ids)))]
    return Found(query, documents, found.scores)


def rank_by_view(found: Found, view: View, k: int) -> list[Place]:
    """The best k candidates by one view; none if the view is absent."""
    scores = getattr(found.scores, view)
    if scores is None or not len(scores):
        return []
    lengths = min_max(scores)
    return [
        Place(
            found.documents[at],
            float(scores[at]),
            ((float(lengths[at]), VIEW_COLOURS[view]),),
        )
        for at in top_k(scores, k).tolist()
    ]


def rank_by_fusion(
    found: Found,
    fusion: BuiltInFusion,
    k: int,
    *,
    compared_with: BuiltInFusion,
) -> list[Place]:
    """The best k candidates by a fusion.

    Raises:
        ValueError: If no view that there is has a weight.
    """
    fused = fuse(fusion, found.scores)
    if not len(fused):
        return []
    now, before = ranks(fused), ranks(fuse(compared_with, found.scores))
    # What a view takes away has no length.
    lengths = {view: np.maximum(share, 0) for view, share in fusion.shares(found.scores).items()}
    longest = float(sum(lengths.values(), np.zeros(len(fused))).max()) or 1.0
    return [
        Place(
            found.documents[at],
            float(fused[at]),
            tuple(
                (float(length[at]) / longest, VIEW_COLOURS[view])
                for view, length in lengths.items()
            ),
            moved=int(before[at] - now[at]),
        )
        for at in top_k(fused, k).tolist()
    ]


def fused_as(explanation: Explanation, found: Found, fusion: BuiltInFusion) -> Explanation:
    """An explanation of a candidate under another fusion; nothing is encoded again."""
    at = [document.id for document in found.documents].index(explanation.document.id)
    shares = {view: float(values[at]) for view, values in fusion.shares(found.scores).items()}
    score = float(fuse(fusion, found.scores)[at])
    return replace(explanation, score=score, shares=PerView(**shares))


def heading_html(title: str, view: View | None = None) -> str:
    """A ranking's title, before it the colour of its view."""
    colour = f"background: {VIEW_COLOURS[view]}" if view is not None else "border: 1px solid"
    return f'<h4 class="hfembed-title"><i style="{colour}"></i>{html.escape(title)}</h4>'


def ranking_html(places: Sequence[Place], *, chosen: str | None) -> str:
    """A ranking as HTML, in which all that comes from documents is escaped.

    Args:
        places: The ranking, best first.
        chosen: Id of a document to be framed.
    """
    items = [_item(rank, place, chosen) for rank, place in enumerate(places, 1)]
    return f'<ol class="hfembed">{"".join(items)}</ol>'


def _item(rank: int, place: Place, chosen: str | None) -> str:
    document = place.document
    bar = "".join(
        f'<span style="width: {100 * length:.1f}%; background: {colour}"></span>'
        for length, colour in place.bars
    )
    is_chosen = ' class="chosen"' if document.id == chosen else ""
    text = html.escape(document.page_content, quote=True)
    return (
        f'<li{is_chosen}><div class="line"><b>{rank}{_arrow(place.moved)}</b>'
        f"<span>{place.score:.{3 if abs(place.score) >= 0.1 else 4}f}</span></div>"
        f'<div class="text" title="{text}">{text}</div><div class="bar">{bar}</div></li>'
    )


def _arrow(moved: int | None) -> str:
    if not moved:
        return ""
    return f" {'▲' if moved > 0 else '▼'}{abs(moved)}"
