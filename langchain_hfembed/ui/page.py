"""The page: Streamlit runs this file from top to bottom whenever something on it is moved."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from langchain_hfembed.commands.opening import (
    DEFAULT_MODEL,
    is_server,
    model_of,
    open_existing_index,
    open_model,
)
from langchain_hfembed.commands.output import message_of
from langchain_hfembed.errors import EmbeddingError, InvalidInputError
from langchain_hfembed.explain import Explanation
from langchain_hfembed.fusion import WeightedSum
from langchain_hfembed.ui.labels import LANGUAGES, Labels
from langchain_hfembed.ui.rankings import (
    FUSIONS,
    STYLE,
    BuiltInFusion,
    Found,
    find,
    fused_as,
    heading_html,
    rank_by_fusion,
    rank_by_view,
    ranking_html,
)
from langchain_hfembed.ui.sources import (
    PastedTexts,
    example_texts,
    model_from_env,
    typed_model,
)
from langchain_hfembed.vectors import VIEWS
from langchain_hfembed.vectorstore import HybridVectorStore

if TYPE_CHECKING:
    from collections.abc import Hashable

    from langchain_core.embeddings import Embeddings

    from langchain_hfembed.embeddings.base import HybridEncoder
    from langchain_hfembed.index.base import HybridIndex

_DEFAULT = WeightedSum()
# Choices among models, beside their names; the same in every language, since the widget's value is
# the text that it shows.
_ENV, _OWN = ".env", "the index's own"
_FAILURES = (EmbeddingError, ImportError, OSError, ValueError)


@dataclass(frozen=True)
class Settings:
    """What the command line asked for: what to search at first, and by which model."""

    index: str | None
    collection: str | None
    model: str | None


@dataclass(frozen=True)
class Answer:
    """What a question found. It is kept while the weights move, so that nothing is encoded again.

    Attributes:
        key: What was asked of what; another key needs another answer.
        store: What was asked.
        found: The candidates.
        explanations: Those so far, by the document's id.
    """

    key: Hashable
    store: HybridVectorStore
    found: Found
    explanations: dict[str, Explanation] = field(default_factory=dict)

    def explain(self, id_: str, fusion: BuiltInFusion) -> Explanation:
        """Why a document ranks where a fusion has it."""
        if id_ not in self.explanations:
            self.explanations[id_] = self.store.explain(self.found.query, id_)
        return fused_as(self.explanations[id_], self.found, fusion)


def page(settings: Settings) -> None:
    """Lay out the page: first all that can be moved, then what may fail."""
    st.set_page_config(page_title="hfembed", layout="wide")
    st.html(STYLE)
    _keep_state(settings)
    state = st.session_state
    with st.sidebar:
        st.segmented_control(
            "Language", list(LANGUAGES), key="language", label_visibility="collapsed"
        )
        labels = LANGUAGES[state["language"] or "English"]
        _source_widgets(labels, settings)
        _fusion_widgets(labels)
    st.subheader("langchain-hfembed")
    st.caption(labels.intro)
    query = st.text_input(labels.query, key="query").strip()
    try:
        key, store = _store(labels, settings)
        if state["views"] != store.encoder.views:
            state["views"] = store.encoder.views
            st.rerun()  # for the sliders, which have been drawn already
        if not query:
            st.info(labels.no_query)
            return
        if state.get("answer") is None or state["answer"].key != (key, query):
            with st.spinner(labels.searching):
                state["answer"] = Answer((key, query), store, find(store, query))
            state.pop("explain", None)
        _show(labels, state["answer"])
    except _FAILURES as error:
        st.error(_escaped(message_of(error)))


def _keep_state(settings: Settings) -> None:
    """Give every widget its first value, and keep its last one."""
    state = st.session_state
    first: dict[str, Any] = {
        "language": "English",
        "source": "texts" if settings.index is None else "index",
        "texts": example_texts(),
        "index": settings.index or "",
        "model of texts": _models(settings, own=False)[0],
        "model of index": _models(settings, own=True)[0],
        "query": "424 in the log" if settings.index is None else "",
        "method": "min_max",
        "shown": 6,
        "views": VIEWS,
        **{view: getattr(_DEFAULT, view) for view in VIEWS},
    }
    for name, value in first.items():
        if name not in state:
            state[name] = value
    # Streamlit forgets what a run does not draw, and in radios and boxes also what is drawn in
    # another language, unless it is assigned. Sliders are not: one that moves would jump back.
    other = "index" if state["source"] == "texts" else "texts"
    for name in ("source", "method", other, f"model of {other}"):
        state[name] = state[name]


def _source_widgets(labels: Labels, settings: Settings) -> None:
    st.radio(
        labels.source,
        list(labels.sources),
        format_func=labels.sources.__getitem__,
        horizontal=True,
        key="source",
    )
    source = st.session_state["source"]
    if source == "texts":
        st.text_area(labels.texts, height=140, help=labels.texts_help, key="texts")
    else:
        st.text_input(labels.index, help=labels.index_help, key="index")
    st.selectbox(
        labels.model,
        _models(settings, own=source == "index"),
        accept_new_options=True,
        help=labels.model_help,
        key=f"model of {source}",
    )


def _models(settings: Settings, *, own: bool) -> list[str]:
    """The models to choose from, the usual one first."""
    choices = [settings.model] if settings.model is not None else []
    choices += [_OWN] * own + [_ENV] * ("USE_HF_API" in os.environ)
    return list(dict.fromkeys([*choices, "demo", DEFAULT_MODEL]))


def _fusion_widgets(labels: Labels) -> None:
    st.subheader(labels.weights, help=labels.weights_help)
    for view in VIEWS:
        absent = view not in st.session_state["views"]
        st.slider(labels.views[view], 0.0, 1.0, step=0.05, key=view, disabled=absent)
    st.selectbox(labels.method, list(FUSIONS), format_func=labels.methods.__getitem__, key="method")
    st.button(labels.reset, key="reset", on_click=_reset_fusion)
    st.slider(labels.shown, 1, 20, key="shown")
    st.button(labels.again, key="again", on_click=lambda: st.session_state.pop("answer", None))


def _reset_fusion() -> None:
    st.session_state.update(
        {"method": "min_max"} | {view: getattr(_DEFAULT, view) for view in VIEWS}
    )


def _store(labels: Labels, settings: Settings) -> tuple[Hashable, HybridVectorStore]:
    """What is to be searched, and a key that changes with it; stops the run if it is not said."""
    state = st.session_state
    if state["source"] == "texts":
        return _pasted(labels, settings, state["texts"], state["model of texts"])
    target, name = state["index"].strip(), state["model of index"]
    if not target:
        st.info(labels.no_index)
        st.stop()
    if is_server(target) and target != settings.index:
        raise InvalidInputError(
            f"{target}: servers are named when the page is started: hfembed ui {target}"
        )
    collection = settings.collection if target == settings.index else None
    index = _opened(target, collection, _identity(target))
    model = model_of(index) if name == _OWN else name
    store = HybridVectorStore(_model(model, settings.model), index)
    store.bind()
    return (index, index.count(), model), store


def _pasted(
    labels: Labels, settings: Settings, pasted: str, model: str
) -> tuple[Hashable, HybridVectorStore]:
    if not pasted.strip():
        st.info(labels.no_texts)
        st.stop()
    with st.spinner(labels.embedding):
        of_model, texts = st.session_state.get("pasted", (None, None))
        if of_model != model:
            texts = PastedTexts(_model(model, settings.model))
            st.session_state["pasted"] = model, texts
        st.caption(labels.count.format(texts.update(pasted)))
    return (texts, texts.version), texts.store


def _show(labels: Labels, answer: Answer) -> None:
    """The rankings side by side, and below them the explanation of one document."""
    state, found = st.session_state, answer.found
    views = [view for view, _ in found.scores.present()]
    *view_columns, fusion_column = st.columns(len(views) + 1)
    fusion = FUSIONS[state["method"]]
    fused, problem = [], None
    try:
        weighted = fusion(**{view: state[view] for view in VIEWS})
        fused = rank_by_fusion(found, weighted, state["shown"], compared_with=_DEFAULT)
    except ValueError as error:  # no weight for any view
        problem = str(error)
    chosen = _choice(
        labels, {str(place.document.id): place.document.page_content for place in fused}
    )
    for view, column in zip(views, view_columns, strict=True):
        column.html(heading_html(labels.views[view], view))
        column.html(ranking_html(rank_by_view(found, view, state["shown"]), chosen=chosen))
    fusion_column.html(heading_html(labels.fusion))
    if problem is not None:
        fusion_column.warning(_escaped(problem))
        return
    fusion_column.html(ranking_html(fused, chosen=chosen))
    fusion_column.caption(labels.fusion_help)
    if chosen is not None:
        st.html(answer.explain(chosen, weighted))


def _choice(labels: Labels, texts: dict[str, str]) -> str | None:
    """Which of the documents to explain; the first one until somebody chooses."""
    if not texts:
        return None
    state = st.session_state
    state["explain"] = state["explain"] if state.get("explain") in texts else next(iter(texts))
    # Numbered, since the widget knows its options by what it shows, and texts may begin alike.
    titles = {id_: f"{rank}. {_snippet(text)}" for rank, (id_, text) in enumerate(texts.items(), 1)}
    return st.selectbox(labels.explain, list(texts), format_func=titles.__getitem__, key="explain")


def _snippet(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:100]}…"


@st.cache_resource(max_entries=2, show_spinner=False)
def _model(name: str, trusted: str | None) -> Embeddings | HybridEncoder:
    if name == _ENV:
        return model_from_env(os.environ)
    return open_model(name) if name == trusted else typed_model(name)


@st.cache_resource(max_entries=4, show_spinner=False, on_release=lambda index: index.close())
def _opened(
    target: str,
    collection: str | None,
    identity: Hashable,  # noqa: ARG001 - of the cache's key
) -> HybridIndex:
    """An index, once for all sessions; another file of the same name is another index."""
    return open_existing_index(target, collection)


def _identity(target: str) -> Hashable:
    """What tells a file from one that took its place; None for what is no file."""
    path = Path(target).expanduser()
    if not path.is_file():
        return None
    status = path.stat()
    return status.st_dev, status.st_ino


def _escaped(message: str) -> str:
    """Text that Markdown leaves as it is."""
    return re.sub(r"([\\`*_{}\[\]()#+.!|~$:<>-])", r"\\\1", message)


if __name__ == "__main__":
    page(Settings(**json.loads(sys.argv[1])))
