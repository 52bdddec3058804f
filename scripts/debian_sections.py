"""Sections of the HTML pages that Debian packages hold; a package is unpacked, not installed."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path


@dataclass(frozen=True)
class DebianText:
    """Where a Debian package keeps its HTML pages, and what to take of them."""

    package: str
    folder: str
    licence: str
    korean: bool
    sections: int


DEBIAN_TEXTS = (
    DebianText("libreoffice-help-ko", "usr/share/libreoffice/help/ko/text", "MPL-2.0", True, 1600),
    DebianText(
        "libreoffice-help-en-us", "usr/share/libreoffice/help/en-US/text", "MPL-2.0", False, 600
    ),
)


def debian_sections(text: DebianText, folder: Path) -> list[tuple[str, str]]:
    """All usable sections of a package's pages, sorted.

    Args:
        text: What to read.
        folder: Where packages are kept.

    Returns:
        Headings, each with the first 1,200 characters of the text below it. Texts of less than
        120 characters are left out, and of a Korean package those that are not in Korean.
    """
    root = fetch_debian_package(text.package, folder)
    sections = {
        (heading, body[:1200])
        for page in sorted((root / text.folder).rglob("*.html"))
        for heading, body in page_sections(page.read_text(encoding="utf-8", errors="replace"))
        if len(body) >= 120 and (not text.korean or korean_share(body) > 0.5)
    }
    if not sections:
        raise SystemExit(f"No text under {root / text.folder}; is it another Debian release?")
    return sorted(sections)


def fetch_debian_package(name: str, folder: Path) -> Path:
    """Download a package and unpack it, without installing it; kept in `folder`."""
    root = folder / name
    if root.is_dir():
        return root
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", name], cwd=folder, check=True)
        archive = max(folder.glob(f"{name}_*.deb"))
        subprocess.run(["dpkg", "-x", str(archive), f"{root}.part"], check=True)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise SystemExit(
            f"The Debian package {name} could not be fetched ({error}). On Debian or Ubuntu run "
            f"`apt-get update` first; elsewhere unpack the package into {root} by hand."
        ) from error
    return Path(f"{root}.part").rename(root)


class _Blocks(HTMLParser):
    """Splits a page into `(is_heading, text)` blocks."""

    ignored = frozenset(
        ("script", "style", "noscript", "nav", "header", "aside", "footer", "pre", "head")
    )
    headings = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
    breaks = headings | frozenset(
        ("p", "div", "li", "td", "th", "dt", "dd", "tr", "table", "ul", "ol", "br")
    )

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[tuple[bool, str]] = []
        self.parts: list[str] = []
        self.heading = False
        self.depth_ignored = 0

    def flush(self) -> None:
        text = " ".join("".join(self.parts).split())
        if text:
            self.blocks.append((self.heading, text))
        self.parts, self.heading = [], False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.depth_ignored += tag in self.ignored
        if tag in self.breaks:
            self.flush()
            self.heading = tag in self.headings

    def handle_endtag(self, tag: str) -> None:
        self.depth_ignored -= tag in self.ignored
        if tag in self.breaks:
            self.flush()

    def handle_data(self, data: str) -> None:
        if self.depth_ignored <= 0:
            self.parts.append(data)


def page_sections(html: str) -> list[tuple[str, str]]:
    """Headings of a page, each with the text below it."""
    parser = _Blocks()
    parser.feed(html)
    parser.flush()
    sections: list[tuple[str, list[str]]] = []
    for heading, text in parser.blocks:
        if heading:
            sections.append((re.sub(r"^[\dA-Z]+(\.\d+)*\.\s+", "", text), []))
        elif sections:
            sections[-1][1].append(text)
    return [(heading, " ".join(texts)) for heading, texts in sections]


def korean_share(text: str) -> float:
    """Share of Hangul among the letters of a text."""
    letters = len(re.findall(r"[^\W\d_]", text))
    return len(re.findall(r"[가-힣]", text)) / max(1, letters)
