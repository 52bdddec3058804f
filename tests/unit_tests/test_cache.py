"""Folders of the cache are whole or absent."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from langchain_hfembed.cache import cache_root, make_folder

NAME = "model-0123456789ab"


def _write(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).write_text(name)


def _make(root: Path, write=_write) -> Path:
    return make_folder(root / NAME, ("one", "two"), write)


def test_a_folder_is_made_once_and_again_when_a_file_is_lost(tmp_path):
    written = []

    def write(folder):
        written.append(folder)
        _write(folder)

    for _ in range(2):
        assert _make(tmp_path / "root", write) == tmp_path / "root" / NAME
    (tmp_path / "root" / NAME / "two").unlink()
    assert (_make(tmp_path / "root", write) / "two").read_text() == "two"
    assert len(written) == 2
    assert [path.name for path in (tmp_path / "root").iterdir()] == [NAME]


def test_what_could_not_be_written_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "one").write_text("half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        _make(tmp_path, fail)
    assert list(tmp_path.iterdir()) == []


def test_threads_that_race_write_it_once(tmp_path):
    written = []

    def write(folder):
        time.sleep(0.02)
        written.append(folder)
        _write(folder)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: _make(tmp_path, write), range(8)))
    assert len(written) == 1


def test_another_process_that_was_faster_keeps_its_folder(tmp_path):
    def lose(folder):
        _write(folder)
        winner = tmp_path / NAME
        winner.mkdir()
        _write(winner)
        (winner / "one").write_text("faster")

    assert (_make(tmp_path, lose) / "one").read_text() == "faster"
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize(("hours", "stays"), [(23, True), (25, False)])
def test_what_a_killed_process_left_is_swept_after_a_day(tmp_path, hours, stays):
    left, other = tmp_path / f".{NAME}.{'0f' * 16}", tmp_path / ".not-ours"
    for folder in (left, other):
        folder.mkdir()
        then = time.time() - hours * 3600
        os.utime(folder, (then, then))
    _make(tmp_path)
    assert left.exists() == stays
    assert other.exists()


def test_the_root_comes_from_the_argument_the_environment_or_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("HFEMBED_CACHE", raising=False)
    assert cache_root() == tmp_path / "xdg" / "langchain-hfembed"
    monkeypatch.setenv("HFEMBED_CACHE", str(tmp_path / "ours"))
    assert cache_root() == tmp_path / "ours"
    assert cache_root(tmp_path / "given") == tmp_path / "given"
