"""Opens `hfembed ui` in headless Chromium, for its tests and its screenshots."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--no-sandbox",  # containers run as root; the pages are ours
    "--disable-gpu",
    # It speaks to nobody else.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
_PATIENCE = 60.0
# What a developer has set for work of their own, and a page would take up.
_SETTINGS = (
    "USE_HF_API", "HF_MODEL_ID", "HF_TOKEN", "HF_ENDPOINT_", "HUGGINGFACEHUB_API_TOKEN", "QDRANT_"
)  # fmt: skip


@cache
def chromium() -> str | None:
    """The path of a browser that starts; None where there is none."""
    return next(filter(_starts, filter(None, map(shutil.which, _NAMES))), None)


def _starts(path: str) -> bool:
    """Whether it does; Ubuntu has a `chromium-browser` that only says how to install it."""
    try:
        subprocess.run([path, "--version"], check=True, capture_output=True, timeout=_PATIENCE)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


@contextmanager
def served_page(
    *arguments: str, folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run `hfembed ui`, and give its URL.

    It sees no settings but `env`, and a file `.env` in `folder`.

    Args:
        arguments: Of the command.
        folder: Where it runs.
        env: Variables of its environment, beside those of this process that set no model and no
            token.

    Raises:
        RuntimeError: If it ends, or does not answer within a minute; with what it printed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "langchain_hfembed.cli", "ui"]
    command += ["--no-browser", "--host", "127.0.0.1", "--port", str(port)]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(_SETTINGS)}
    with tempfile.TemporaryDirectory() as own:
        if not (folder / ".env").exists():
            no_settings = Path(own) / "empty.env"
            no_settings.touch()
            command += ["--env-file", str(no_settings)]  # else one in a parent folder is read
        printed = Path(own) / "printed.txt"
        with printed.open("wb") as output:  # a pipe that nobody reads would fill up
            process = subprocess.Popen(
                [*command, *arguments],
                cwd=folder,
                env={**inherited, **(env or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_for(url, process, printed)
            yield url
        finally:
            _end(process)


def _wait_for(url: str, process: subprocess.Popen[bytes], printed: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > end:
            said = printed.read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"the page did not start: {said}")
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/_stcore/health", trust_env=False).is_success
    except httpx.TransportError:
        return False


@contextmanager
def opened_page(url: str, *, width: int = 1400, height: int = 1000) -> Iterator[Page]:
    """A page in the browser.

    Args:
        url: Where it is.
        width: Of the window, in pixels, like the next one.
        height: Of the window.

    Raises:
        RuntimeError: If there is no browser.
    """
    from playwright.sync_api import sync_playwright

    path = chromium()
    if path is None:
        raise RuntimeError("there is no Chromium: make browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(1000 * _PATIENCE)
            page.goto(url)
            yield page
        finally:
            browser.close()


def texts(page: Page, column: int) -> Locator:
    """The texts of a ranking, best first; column 0 is the dense view, -1 the fusion."""
    return page.locator("ol.hfembed").nth(column).locator(".text")


def ranking(page: Page, column: int) -> list[str]:
    """What the texts of a ranking say now."""
    return [str(text) for text in texts(page, column).all_text_contents()]


def move_slider(page: Page, name: str, steps: int) -> None:
    """Move a slider by the keyboard; negative steps go left."""
    thumb = page.get_by_role("group", name=name, exact=True).get_by_role("slider")
    for _ in range(abs(steps)):
        thumb.press("ArrowRight" if steps > 0 else "ArrowLeft")
