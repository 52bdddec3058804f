"""The commands of the documentation run, and those of them that take a model take any kind."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.command_line import hfembed

pytest.importorskip("typer")
pytest.importorskip("rich")

PAGE = Path(__file__).parents[2] / "docs" / "command_line.md"
# "bash" is not run: it needs a network, or a server.
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the page's commands index, in the folder where they run."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "limits.md").write_text("# Limits\n\nHTTP 429: too many requests; wait.\n")
    (folder / "seoul.txt").write_text("The capital of Korea is Seoul.")
    lines = [
        {"id": "429", "text": "HTTP 429: wait and send again.", "metadata": {"year": 2026}},
        {"_id": "bread", "title": "Bread", "text": "429 grams of flour.", "metadata": {}},
    ]
    Path("corpus.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_the_pages_commands_run(
    notes: Path, xlmr_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the default model played by a small one of its format."""
    monkeypatch.setattr("langchain_hfembed.commands.index.DEFAULT_MODEL", str(xlmr_folder))
    commands = [
        line for block in BLOCK.findall(PAGE.read_text("utf-8")) for line in block.splitlines()
    ]
    assert len(commands) >= 8
    for line in commands:
        program, *arguments = shlex.split(line)
        assert program == "hfembed"
        result = hfembed(*arguments)
        assert (result.code, result.err) == (0, ""), f"{line}\n{result.err}"
        assert result.out.strip()
        if arguments[0] == "search" and "--json" in arguments:
            assert len(result.json["hits"]) == 4
        if "--filter" in arguments:
            assert "429" in result.out
            assert "notes/" not in result.out


def test_a_model_of_any_kind_indexes_and_searches(
    notes: Path, splade_folder: Path, colbert_folder: Path, xlmr_folder: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"  # transformers' own format, without BGE-M3's heads
    plain.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (plain / name).write_bytes((xlmr_folder / name).read_bytes())
    for folder, view in (
        (splade_folder, "sparse"),
        (colbert_folder, "multi_vector"),
        (plain, "dense"),
    ):
        target = f"{view}.db"
        first = hfembed("index", notes, "--to", target, "--model", folder, "--json")
        assert first.json["indexed"] == 2, first.err
        assert hfembed("index", notes, "--to", target, "--json").json["skipped"] == 2
        result = hfembed("search", target, "Korea Seoul", "--json")
        assert result.code == 0, result.err
        best, other = (hit["scores"] for hit in result.json["hits"])  # of random models
        assert {name for name, score in best.items() if score is not None} == {view}
        assert best[view] >= other[view]
