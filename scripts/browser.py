"""Opens `hfembed ui` in headless Chromium, for its tests and its screenshots."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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


def chromium() -> str | None:
    """The browser's path; None where there is none."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def served_page(
    *arguments: str, folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run `hfembed ui`, and give its URL.

    Args:
        arguments: Of the command.
        folder: Where it runs.
        env: Variables of its environment, beside those of this process.

    Raises:
        RuntimeError: If it ends, or does not answer within a minute; with what it printed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "langchain_hfembed.cli", "ui", *arguments]
    process = subprocess.Popen(
        [*command, "--no-browser", "--host", "127.0.0.1", "--port", str(port)],
        cwd=folder,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, process)
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=_PATIENCE)


def _wait_for(url: str, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + _PATIENCE
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise RuntimeError(f"the page did not start: {process.communicate()[0]}")
        time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/_stcore/health").is_success
    except httpx.TransportError:
        return False


@contextmanager
def opened_page(url: str, *, width: int = 1400, height: int = 1000) -> Iterator[Page]:
    """A page in the browser.

    Args:
        url: Where it is.
        width: Of the window, in pixels, like the next one.
        height: Of the window.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(_FLAGS))
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(1000 * _PATIENCE)
        page.goto(url)
        yield page
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
