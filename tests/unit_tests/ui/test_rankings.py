"""The page's rankings are those of the store's own search, and what they show is escaped."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest
from langchain_core.documents import Document

from langchain_hfembed import HybridVectorStore, ReciprocalRankFusion, Scores, WeightedSum
from langchain_hfembed.ui.rankings import (
    FUSIONS,
    Found,
    find,
    fused_as,
    rank_by_fusion,
    rank_by_view,
    ranking_html,
)
from langchain_hfembed.vectors import VIEWS, View
from tests.encoders import HashEncoder

QUERY = "red green blue"
TEXTS = [
    "red green",
    "blue",
    "red red red",
    "green blue sky",
    "night",
    "a red, green and blue flag",
]
OTHER = WeightedSum(dense=0.1, sparse=1, multi_vector=0)


def _store(*views: View) -> HybridVectorStore:
    store = HybridVectorStore(HashEncoder(views or VIEWS))
    store.add_texts(TEXTS, ids=[str(n) for n in range(len(TEXTS))])
    return store


@pytest.mark.parametrize("method", FUSIONS)
def test_the_fusion_ranks_as_a_search_does(method: str) -> None:
    store, fusion = _store(), FUSIONS[method](dense=0.2, sparse=0.7, multi_vector=0.1)
    places = rank_by_fusion(find(store, QUERY), fusion, 4, compared_with=WeightedSum())
    hits = store.search(QUERY, 4, fusion=fusion)
    assert [place.document for place in places] == [hit.document for hit in hits]
    assert [place.score for place in places] == pytest.approx([hit.score for hit in hits])


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_ranks_as_a_search_by_it_alone(view: View) -> None:
    store = _store()
    alone = WeightedSum(**{other: float(other == view) for other in VIEWS})
    places = rank_by_view(find(store, QUERY), view, 6)
    hits = store.search(QUERY, 6, fusion=alone)
    assert [place.document for place in places] == [hit.document for hit in hits]
    assert [place.score for place in places] == [getattr(hit.scores, view) for hit in hits]


def test_how_far_a_document_moved_is_the_difference_of_its_ranks() -> None:
    found = find(_store(), QUERY)
    before = [p.document.id for p in rank_by_fusion(found, OTHER, 6, compared_with=OTHER)]
    places = rank_by_fusion(found, WeightedSum(), 6, compared_with=OTHER)
    moved = [before.index(place.document.id) - now for now, place in enumerate(places)]
    assert [place.moved for place in places] == moved
    assert any(moved)
    assert sum(moved) == 0


def test_the_parts_of_a_bar_add_up_to_the_score() -> None:
    places = rank_by_fusion(find(_store(), QUERY), WeightedSum(), 6, compared_with=OTHER)
    lengths = [sum(length for length, _ in place.bars) for place in places]
    assert lengths == pytest.approx([place.score / places[0].score for place in places])


@pytest.mark.parametrize("method", FUSIONS)
def test_no_bar_is_longer_than_its_place(method: str) -> None:
    scores = Scores(
        dense=np.array([-0.9, -0.8, 0.1], np.float32), sparse=np.array([1.0, 0.0, 0.0], np.float32)
    )
    found = Found(QUERY, [Document(id=f"{n}", page_content="") for n in range(3)], scores)
    for weights in ({"sparse": 0.5}, {"sparse": 0.0}):
        places = rank_by_fusion(found, FUSIONS[method](**weights), 3, compared_with=OTHER)
        lengths = [sum(length for length, _ in place.bars) for place in places]
        assert max(lengths) == pytest.approx(1)
        assert min(lengths) >= 0


def test_of_an_absent_view_there_is_no_ranking() -> None:
    found = find(_store("dense"), QUERY)
    assert rank_by_view(found, "sparse", 3) == []
    assert len(rank_by_view(found, "dense", 3)) == 3


def test_an_empty_store_has_empty_rankings() -> None:
    found = find(HybridVectorStore(HashEncoder()), QUERY)
    assert rank_by_view(found, "dense", 3) == []
    assert rank_by_fusion(found, WeightedSum(), 3, compared_with=OTHER) == []


@pytest.mark.parametrize("fusion", [OTHER, ReciprocalRankFusion(sparse=0.5)], ids=["sum", "ranks"])
def test_an_explanation_follows_the_fusion_as_a_new_one_would(
    fusion: WeightedSum | ReciprocalRankFusion,
) -> None:
    store = _store()
    moved = fused_as(store.explain(QUERY, "3"), find(store, QUERY), fusion)
    assert str(moved) == str(store.explain(QUERY, "3", fusion=fusion))


def test_documents_are_shown_as_text() -> None:
    text = """<script>alert(1)</script> & "quotes' <img src=x onerror="alert(2)">"""
    store = HybridVectorStore(HashEncoder())
    store.add_texts([text], ids=["evil"])
    shown = ranking_html(rank_by_view(find(store, "quotes"), "dense", 1), chosen="evil")
    assert set(re.findall(r"</?(\w+)", shown)) == {"ol", "li", "div", "b", "span"}
    assert html.unescape(shown).count(text) == 2  # itself, and what the mouse shows
    assert 'class="chosen"' in shown
