"""The page, run without a browser and with an encoder of hashed words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from langchain_hfembed import HybridVectorStore
from langchain_hfembed.commands import opening, ui
from langchain_hfembed.ui import sources
from langchain_hfembed.vectors import VIEWS
from tests.encoders import HashEncoder

PAGE = Path(ui.__file__).parents[1] / "ui" / "page.py"
Run = Callable[..., AppTest]


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that the page has opened; all of them are hashed words."""
    opened: list[str] = []

    def open_model(name: str) -> HashEncoder:
        opened.append(name)
        name = "hash" if name == "words" else name
        return HashEncoder(("dense",) if "dense" in name else VIEWS, model_name=name)

    monkeypatch.setattr(opening, "open_model", open_model)
    monkeypatch.setattr(sources, "open_model", open_model)
    monkeypatch.delenv("USE_HF_API", raising=False)
    st.cache_resource.clear()
    return opened


@pytest.fixture
def run(models: list[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(index: object = None, model: str | None = "words") -> AppTest:
        settings = {"index": index and str(index), "collection": None, "model": model}
        monkeypatch.setattr("sys.argv", [str(PAGE), json.dumps(settings)])
        return AppTest.from_file(str(PAGE), default_timeout=60).run()

    return run


@pytest.fixture
def index(tmp_path: Path) -> Path:
    with HybridVectorStore(HashEncoder(), path=tmp_path / "knowledge.db") as store:
        store.add_texts(["red green", "red red", "blue"], ids=["a", "b", "c"])
    return tmp_path / "knowledge.db"


def _html(app: AppTest) -> list[str]:
    assert not app.exception
    assert not app.error, app.error[0].value
    return [str(element.body) for element in app.get("html")]


def _rankings(app: AppTest) -> list[list[str]]:
    """The texts of each ranking, in order."""
    shown = [html for html in _html(app) if html.startswith("<ol")]
    return [re.findall(r'class="text" title="(.*?)"', ranking) for ranking in shown]


def _explanation(app: AppTest) -> str:
    [shown] = [html for html in _html(app) if "finds" in html]
    return shown


def test_texts_are_ranked_by_each_view_and_fused(run: Run) -> None:
    app = run()
    app.text_area(key="texts").set_value("red green\nred red\nblue").run()
    app.text_input(key="query").set_value("red red").run()
    *views, fused = _rankings(app)
    assert len(views) == 3
    assert all(sorted(ranking) == ["blue", "red green", "red red"] for ranking in (*views, fused))
    assert fused[0] == "red red"


def test_moving_a_weight_moves_the_fusion_and_encodes_nothing_again(
    run: Run, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = run(index)
    app.text_input(key="query").set_value("red green green").run()
    encode, asked = HashEncoder.encode_queries, list[Sequence[str]]()

    def counted(encoder: HashEncoder, texts: Sequence[str], views: Any = None) -> Any:
        asked.append(texts)
        return encode(encoder, texts, views)

    monkeypatch.setattr(HashEncoder, "encode_queries", counted)
    before = _rankings(app)
    app.slider(key="sparse").set_value(0.0)
    app.slider(key="multi_vector").set_value(0.0).run()
    after = _rankings(app)
    assert after[:3] == before[:3]
    assert after[3] == after[0], "with no other weight, the fusion is the dense ranking"
    app.button(key="reset").click().run()
    assert _rankings(app) == before
    assert asked == []
    app.button(key="again").click().run()
    assert asked


def test_another_line_is_found_under_the_same_question(run: Run) -> None:
    app = run()
    app.text_area(key="texts").set_value("one\ntwo\nthree").run()
    app.text_input(key="query").set_value("four").run()
    app.text_area(key="texts").set_value("one\ntwo\nfour").run()
    assert sorted(_rankings(app)[-1]) == ["four", "one", "two"]
    assert "<code>text 4</code>" in _explanation(app)


def test_what_was_typed_survives_errors_and_the_other_source(run: Run, tmp_path: Path) -> None:
    app = run()
    app.text_area(key="texts").set_value("red\nblue")
    app.text_input(key="query").set_value("blue")
    app.slider(key="dense").set_value(0.9).run()
    before = _rankings(app)
    app.radio(key="source").set_value("index").run()
    app.text_input(key="index").set_value(str(tmp_path / "absent.db")).run()
    assert "absent" in app.error[0].value
    assert app.text_input(key="query").value == "blue"
    app.radio(key="source").set_value("texts").run()
    assert app.slider(key="dense").value == 0.9
    assert _rankings(app) == before


def test_texts_that_begin_alike_can_all_be_explained(run: Run) -> None:
    texts = [f"{'the same beginning ' * 6}{end}" for end in ("red", "green", "blue")]
    app = run()
    app.text_area(key="texts").set_value("\n".join(texts)).run()
    labels = app.selectbox(key="explain").options
    assert len(set(labels)) == 3


def test_an_index_that_took_the_place_of_another_is_searched(run: Run, index: Path) -> None:
    app = run(index)
    app.text_input(key="query").set_value("red").run()
    index.unlink()
    with HybridVectorStore(HashEncoder(), path=index) as store:
        store.add_texts(["red sky", "red sea", "red rose"])
    app.run()
    assert sorted(_rankings(app)[-1]) == ["red rose", "red sea", "red sky"]


def test_the_explanation_follows_the_choice_and_the_weights(run: Run, index: Path) -> None:
    app = run(index)
    app.text_input(key="query").set_value("red").run()
    app.selectbox(key="explain").set_value("c").run()
    assert "<b>red</b> finds <code>c</code>" in _explanation(app)
    app.selectbox(key="explain").set_value("a").run()
    before = _explanation(app)
    app.slider(key="dense").set_value(1.0).run()
    assert "<code>a</code>" in _explanation(app)
    assert _explanation(app) != before


def test_without_weights_it_says_what_to_do_and_still_ranks_by_view(run: Run) -> None:
    app = run()
    for view in ("dense", "sparse", "multi_vector"):
        app.slider(key=view).set_value(0.0)
    app.run()
    assert "give at least one view a weight" in app.warning[0].value
    assert len(_rankings(app)) == 3


def test_an_index_that_is_not_there_is_named(run: Run, tmp_path: Path) -> None:
    app = run(tmp_path / "absent.db")
    assert "absent" in app.error[0].value
    assert not (tmp_path / "absent.db").exists()


def test_an_index_of_another_model_is_refused_and_left_as_it_was(run: Run, index: Path) -> None:
    before = index.read_bytes()
    app = run(index, model="another")
    assert "another" in app.error[0].value
    st.cache_resource.clear()  # closes the index, so that what was written would be in the file
    assert index.read_bytes() == before


def test_a_server_that_is_typed_is_refused(run: Run, index: Path) -> None:
    app = run(index)
    app.text_input(key="index").set_value("http://stranger:6333").run()
    assert "hfembed ui http" in app.error[0].value.replace("\\", "")


def test_of_an_absent_view_there_is_no_column_and_no_slider_to_move(run: Run) -> None:
    app = run(model="a dense one")
    assert len(_rankings(app)) == 2
    assert [slider.label for slider in app.slider if slider.disabled] == ["Sparse", "Multi-vector"]


def test_the_environment_adds_a_choice_and_comes_first(
    run: Run, models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USE_HF_API", "false")
    monkeypatch.setenv("HF_MODEL_ID", "org/model")
    app = run(model=None)
    assert _rankings(app)
    assert models == ["org/model"]


def test_it_speaks_korean(run: Run) -> None:
    app = run()
    before = len(_rankings(app))
    app.segmented_control[0].set_value("한국어").run()
    assert app.text_input(key="query").label == "질문"
    assert len(_rankings(app)) == before
