"""`hfembed ui` hands its options and the settings of `.env` to Streamlit."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command_line import hfembed


@dataclass(frozen=True)
class Start:
    arguments: list[str]
    env: dict[str, str]


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Start]:
    """What Streamlit is started with, instead of starting it."""
    calls: list[Start] = []
    monkeypatch.setattr(
        "streamlit.web.cli.main",
        lambda arguments, **_: calls.append(Start(arguments, dict(os.environ))),
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("USE_HF_API", raising=False)
    monkeypatch.delenv("HF_ENDPOINT_TOKEN", raising=False)
    return calls


def test_options_are_handed_on(starts: list[Start]) -> None:
    Path("notes.db").write_bytes(b"an index")
    arguments = ["notes.db", "--model", "demo", "--port", "9000", "--no-browser"]
    assert hfembed("ui", *arguments).code == 0
    [start] = starts
    command, page, *flags, _, settings = start.arguments
    assert command == "run"
    assert Path(page).is_file()
    assert {"--server.port=9000", "--server.address=localhost", "--server.headless=true"} <= {
        *flags
    }
    assert "--browser.gatherUsageStats=false" in flags
    assert json.loads(settings) == {"index": "notes.db", "collection": None, "model": "demo"}


def test_a_file_of_settings_is_read_and_the_environment_comes_before_it(
    starts: list[Start], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("USE_HF_API=true\nHF_ENDPOINT_TOKEN=hf_of_the_file\n")
    monkeypatch.setenv("USE_HF_API", "false")
    assert hfembed("ui").code == 0
    [start] = starts
    assert start.env["USE_HF_API"] == "false"
    assert start.env["HF_ENDPOINT_TOKEN"] == "hf_of_the_file"
    assert "hf_of_the_file" not in str(start.arguments)


def test_another_file_of_settings_can_be_named(starts: list[Start], tmp_path: Path) -> None:
    (tmp_path / "tei.env").write_text("USE_HF_API=true\n")
    assert hfembed("ui", "--env-file", "tei.env").code == 0
    assert starts[0].env["USE_HF_API"] == "true"
    absent = hfembed("ui", "--env-file", "absent.env")
    assert absent.code == 1
    assert "absent.env" in absent.err


def test_an_index_that_is_not_there_is_named_before_anything_starts(starts: list[Start]) -> None:
    result = hfembed("ui", "absent.db")
    assert result.code == 1
    assert "hfembed index FOLDER --to absent.db" in result.err
    assert not starts


def test_without_streamlit_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "streamlit.web", None)
    result = hfembed("ui")
    assert result.code == 1
    assert 'pip install "langchain-hfembed[ui]"' in result.err
