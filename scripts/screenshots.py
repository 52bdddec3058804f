"""Takes the pictures of docs/images/ that show `hfembed ui` and an explanation.

python -m scripts.screenshots
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from langchain_hfembed.demo.search import demo_embeddings, demo_store
from scripts.browser import move_slider, opened_page, served_page, texts

_IMAGES = Path(__file__).parents[1] / "docs" / "images"
_EXPLAINED = (
    ("424 in the log", "status-424"),
    ("이 모델로 돈을 벌어도 되나요?", "ko-licence"),
)
_STYLE = """
body { font: 16px/1.5 "Source Sans Pro", "DejaVu Sans", "Noto Sans CJK KR", sans-serif;
  margin: 0; padding: 0.2rem 1.2rem 0.8rem; width: 860px; }
table { border-collapse: collapse; } td { padding: 0 0.5rem 0 0; } p { margin: 0.6rem 0; }
"""


def main() -> None:
    """Write the pictures."""
    _IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        _page(Path(folder))
        _explanations(Path(folder))


def _page(folder: Path) -> None:
    with served_page(folder=folder) as url:
        with opened_page(url, width=1400, height=1080) as page:
            texts(page, -1).first.wait_for()
            page.wait_for_timeout(1500)  # until what moves has stopped
            page.screenshot(path=_IMAGES / "ui.png")
            move_slider(page, "Sparse", -4)
            move_slider(page, "Dense", 6)
            page.get_by_text("▼1").first.wait_for()
            page.wait_for_timeout(1500)
            page.screenshot(
                path=_IMAGES / "ui_weights.png", clip={"x": 0, "y": 0, "width": 1400, "height": 760}
            )
        with opened_page(url, width=1400, height=1080) as page:
            page.get_by_role("radio", name="한국어").click()
            field = page.get_by_label("질문")
            field.fill("이 모델로 돈을 벌어도 되나요?")
            field.press("Enter")
            page.get_by_text("이 모델로 돈을 벌어도 되나요? finds").wait_for()
            page.wait_for_timeout(1500)
            page.screenshot(path=_IMAGES / "ui_ko.png")


def _explanations(folder: Path) -> None:
    with demo_store(demo_embeddings()) as store:
        for query, id_ in _EXPLAINED:
            shown = store.explain(query, id_)._repr_html_()
            path = folder / f"{id_}.html"
            path.write_text(
                f"<!doctype html><meta charset=utf-8><style>{_STYLE}</style>{shown}",
                encoding="utf-8",
            )
            with opened_page(path.as_uri(), width=900) as page:
                page.locator("body").screenshot(path=_IMAGES / f"explanation_{id_}.png")


if __name__ == "__main__":
    main()
