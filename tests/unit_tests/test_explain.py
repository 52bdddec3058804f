"""Explanations: contributions sum to the scores, and what is shown is the document's own text."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document

from langchain_hfembed import (
    BGEM3Embeddings,
    Explanation,
    HybridVectorStore,
    InvalidInputError,
    PerView,
    ReciprocalRankFusion,
    SQLiteIndex,
    TokenMatch,
    WeightedSum,
)
from langchain_hfembed.vectors import VIEWS
from tests.encoders import HashEncoder

TEXTS = ["cats sleep in the sun", "dogs run in the park", "the park has a river, and CATS", "x"]
QUERY = "cats in the park"
words = st.lists(st.sampled_from([*"abcdef", "cats", "park"]), min_size=1, max_size=8)


def _store(views=VIEWS, texts=TEXTS, **arguments):
    store = HybridVectorStore(HashEncoder(views), **arguments)
    store.add_texts(texts, ids=[str(n) for n in range(len(texts))])
    return store


def _visible(shown: str) -> str:
    """The document's text as a browser shows it."""
    [paragraph] = re.findall(r'<p style="white-space: pre-wrap">(.*?)</p>', shown, re.DOTALL)
    return html.unescape(re.sub(r"</?span[^>]*>", "", paragraph))


@given(st.lists(words.map(" ".join), min_size=1, max_size=5), words.map(" ".join))
def test_contributions_sum_to_the_scores_and_shares_to_the_fused_one(texts, query):
    for fusion in (WeightedSum(), WeightedSum(normalization=None), ReciprocalRankFusion()):
        with _store(texts=texts, fusion=fusion) as store:
            for hit in store.search(query, k=len(texts)):
                why = store.explain(query, hit.document.id)
                assert why.document == hit.document
                assert why.score == pytest.approx(hit.score, abs=1e-6)
                for view, score in hit.scores.present():
                    total = sum(match.contribution for match in getattr(why, view))
                    assert total == pytest.approx(score, abs=1e-5)
                    assert getattr(why.scores, view) == score
                shares = [share for _, share in why.shares.present()]
                assert sum(shares) == pytest.approx(hit.score, abs=1e-6)


@pytest.mark.parametrize("views", [("dense",), ("sparse",), ("dense", "multi_vector")])
def test_an_absent_view_is_absent(views):
    why = _store(views).explain(QUERY, "0")
    present = [view for view in VIEWS if getattr(why, view) is not None]
    assert present == [view for view, _ in why.scores.present()] == list(views)
    assert why._repr_html_().count("<table>") == len(views)
    assert all(f"\n{view.replace('_', '-')} " in str(why) for view in views)


def test_each_shared_token_has_both_weights_and_their_product():
    why = _store().explain(QUERY, "0")
    assert {match.document_token for match in why.sparse} == {"cats", "in", "the"}
    for match in why.sparse:
        assert match.query_token == match.document_token
        assert match.contribution == pytest.approx(match.query_weight * match.document_weight)


def test_each_token_of_the_query_has_its_nearest_in_the_document():
    why = _store().explain(QUERY, "0")
    assert [match.query_token for match in why.multi_vector] == QUERY.split()
    nearest = {match.query_token: match.document_token for match in why.multi_vector}
    assert nearest["cats"] == "cats"
    assert nearest["the"] == "the"
    assert why.multi_vector[0].contribution == pytest.approx(1 / 4, abs=1e-3)
    assert why.tokens == tuple(TEXTS[0].split())


def test_a_document_that_no_search_proposes_can_be_explained():
    store = _store(fetch_k=1)
    assert "3" not in {hit.document.id for hit in store.search(QUERY, k=1)}
    assert store.explain(QUERY, "3").document.page_content == "x"


def test_candidates_are_those_of_the_search_with_its_filter():
    store = HybridVectorStore(HashEncoder())
    store.add_texts(TEXTS, [{"n": n} for n in range(4)], ids=list("0123"))
    asked = {"n": {"$in": [0, 3]}}
    for hit in store.search(QUERY, filter=asked):
        assert store.explain(QUERY, hit.document.id, filter=asked).score == hit.score
    assert store.explain(QUERY, "0").score != store.explain(QUERY, "0", filter=asked).score


def test_a_fusion_that_is_no_sum_has_no_shares():
    why = _store().explain(QUERY, "0", fusion=lambda scores: np.maximum(scores.dense, 0))
    assert not list(why.shares.present())
    assert "adds" not in str(why)


def test_a_document_that_is_not_there_is_named():
    with pytest.raises(InvalidInputError, match="no document 'nowhere'"):
        _store().explain(QUERY, "nowhere")


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
def test_the_text_is_shown_whole_and_escaped(text):
    for views in (VIEWS, ("sparse",)):
        why = _store(views, [text]).explain(f"cats {text}", "0")
        shown = why._repr_html_()
        assert _visible(shown).replace("\r", "\n") == text.replace("\r", "\n")
        assert set(re.findall(r"</?(\w+)", shown)) <= {
            *("p", "b", "code", "div", "span", "table", "tr", "td")
        }


def test_what_was_found_is_coloured_and_nothing_else():
    why = _store().explain("cats", "2")
    coloured = re.findall(r"<span[^>]*>(.*?)</span>", why._repr_html_())
    assert coloured == ["CATS"]
    sparse = _store(("sparse",)).explain("river park", "2")
    assert re.findall(r"<span[^>]*>(.*?)</span>", sparse._repr_html_()) == ["park", "river"]


def test_markup_in_a_document_is_text():
    why = _store(texts=["<script>alert(1)</script> cats & 'dogs'"]).explain("<b>cats", "0")
    shown = why._repr_html_()
    assert "<script>" not in shown
    assert "<b>cats" not in shown.replace("<b>&lt;b&gt;cats", "")
    assert "&lt;script&gt;" in shown


def test_as_text_it_is_readable():
    shown = str(_store().explain(QUERY, "0"))
    assert repr(_store().explain(QUERY, "0")) == shown
    assert shown.startswith("'cats in the park' finds document '0': ")
    assert re.search(r"^sparse [\d.]+, which adds [\d.]+$", shown, re.MULTILINE)
    assert re.search(r"^  \+[\d.]+  'cats': 0\.5000 x 1\.0000$", shown, re.MULTILINE)
    assert re.search(r"^  \+[\d.]+  'park' ~ '\w+'$", shown, re.MULTILINE)


def test_with_a_real_tokenizer_tokens_are_found_in_the_text(minilm_folder):
    store = HybridVectorStore(BGEM3Embeddings(model=minilm_folder))
    store.add_texts(["The capital of Korea is Seoul.", "Cats sleep."], ids=["seoul", "cats"])
    why = store.explain("Which city is the capital?", "seoul")
    assert len(why.multi_vector) == len(store.encoder.tokenize(why.query, is_query=True))
    assert "capital" in {match.document_token for match in why.sparse}
    coloured = re.findall(r"<span[^>]*>(.*?)</span>", why._repr_html_())
    assert any("capital" in piece for piece in coloured)
    total = sum(match.contribution for match in why.multi_vector)
    assert total == pytest.approx(why.scores.multi_vector, abs=1e-3)  # float16 rows


def test_a_prompts_tokens_are_not_looked_for_in_the_text(minilm_folder):
    store = HybridVectorStore(BGEM3Embeddings(model=minilm_folder, document_instruction="text: "))
    store.add_texts(["Error: the printer is on fire."], ids=["0"])
    why = store.explain("error", "0")
    assert why.tokens[: why.prompt_tokens] == ("text", ":")
    coloured = re.findall(r"<span[^>]*>(.*?)</span>", why._repr_html_())
    assert "Error" in coloured
    plain = HybridVectorStore(BGEM3Embeddings(model=minilm_folder))
    plain.add_texts(["Error"], ids=["0"])
    assert plain.explain("error", "0").prompt_tokens == 0


def test_with_pooled_vectors_the_words_that_both_have_are_coloured():
    text = "alpha beta alpha beta gamma delta epsilon zeta"
    with HybridVectorStore(HashEncoder(), SQLiteIndex(token_pooling=2)) as store:
        store.add_texts([text], ids=["0"])
        why = store.explain("epsilon", "0")
    assert re.findall(r"<span[^>]*>(.*?)</span>", why._repr_html_()) == ["epsilon"]
    assert [match.query_token for match in why.multi_vector] == ["epsilon"]
    assert why.multi_vector[0].document_token.startswith("#")
    total = sum(match.contribution for match in why.multi_vector)
    assert total == pytest.approx(why.scores.multi_vector, abs=1e-5)


def test_a_word_in_which_many_tokens_meet_is_not_brighter_than_one_that_is_equal():
    why = Explanation(
        query="one two three cat",
        document=Document("filler cat", id="0"),
        score=1.0,
        scores=PerView(multi_vector=0.5),
        shares=PerView(),
        multi_vector=(
            *(TokenMatch(word, "filler", 0.1, position=0) for word in ("one", "two", "three")),
            TokenMatch("cat", "cat", 0.2, position=1),
        ),
        tokens=("filler", "cat"),
    )
    spans = re.findall(r"<span[^>]*, ([0-9.]+)\)\">(.*?)</span>", why._repr_html_())
    brightness = {word: float(alpha) for alpha, word in spans}
    assert brightness["cat"] == 1
    assert 0 < brightness["filler"] < 0.2


def test_an_explanation_has_as_many_candidates_as_the_search_had():
    texts = [f"park number {n}" for n in range(8)]
    with _store(texts=texts, fetch_k=2) as store:
        for hit in store.search("park 3", k=6):
            assert store.explain("park 3", hit.document.id, k=6).score == pytest.approx(hit.score)
