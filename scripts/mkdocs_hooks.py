"""What mkdocs adds to the pages of docs/: the notebooks, the changelog, and formulas as MathML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from nbformat import NotebookNode

_ROOT = Path(__file__).parents[1]
_MATH_FENCE = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The first of them to start wins: in code, a dollar is a dollar.
_CODE_OR_MATH = re.compile(
    r"""
    ^[ ]*(?P<fence>`{3,}|~{3,}).*?(?:^[ ]*(?P=fence)|\Z)
    | (?<!`)(?P<ticks>`+)(?!`)(?:(?!\n\n).)+?(?<!`)(?P=ticks)(?!`)
    | \$\$(?P<display>.+?)\$\$
    | (?<![\w$`])\$(?P<inline>[^$\n`]+?)\$(?![\w$`])
    """,
    re.ASCII | re.DOTALL | re.MULTILINE | re.VERBOSE,
)
# In the repository notebooks/ lies beside docs/, on the site within it.
_LINK_TO_NOTEBOOK = re.compile(r"\]\(\.\./((?:\.\./)*notebooks/)(\w+)\.ipynb\)")
_LINK_BETWEEN_NOTEBOOKS = re.compile(r"\]\((\w+)\.ipynb\)")
_LINK_TO_DOCS = "](../docs/"


@event_priority(100)  # before the plugins that look at all files
def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add pages that are made out of files outside docs/."""
    changelog = (_ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "changelog.md", content=changelog))
    for path in sorted((_ROOT / "notebooks").glob("*.ipynb")):
        for name, content in _pages_of(path).items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn formulas into MathML, and links to notebooks into links to their pages."""
    markdown = _LINK_TO_NOTEBOOK.sub(r"](\1\2.md)", markdown)
    return _MATH_FENCE.sub(lambda found: _formula(found[1], is_block=True), markdown)


def _pages_of(path: Path) -> dict[str, str | bytes]:
    """A notebook as a page, and the images in it, by their names."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _on_the_site(cell.source)
    page, images = _exported(notebook, path.stem)
    return {f"{path.stem}.md": page, **images}


def _exported(notebook: NotebookNode, name: str) -> tuple[str, dict[str, bytes]]:
    page, resources = MarkdownExporter().from_notebook_node(
        notebook, resources={"unique_key": name, "output_files_dir": f"{name}_files"}
    )
    return page, resources["outputs"]


def _on_the_site(markdown: str) -> str:
    markdown = _CODE_OR_MATH.sub(_without_latex, markdown)
    markdown = _LINK_BETWEEN_NOTEBOOKS.sub(r"](\1.md)", markdown)
    return markdown.replace(_LINK_TO_DOCS, "](../")


def _without_latex(found: re.Match[str]) -> str:
    if found["display"]:
        return _formula(found["display"], is_block=True)
    if found["inline"]:
        return _formula(found["inline"], is_block=False)
    return found[0]


def _formula(latex: str, *, is_block: bool) -> str:
    """MathML, which browsers know: no script that draws formulas has to be loaded."""
    return str(convert(latex.strip(), display="block" if is_block else "inline"))
