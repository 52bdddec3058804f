"""Folders that are made once and kept: whole or absent, whichever process makes them."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

_TEMPORARY_NAME = re.compile(r"\..+-[0-9a-f]{12}\.[0-9a-f]{32}(\.old)?")
_ABANDONED_AFTER = 24 * 60 * 60  # seconds; writing takes some, on a machine that sleeps more

_lock = threading.Lock()


def cache_root(cache_folder: str | Path | None = None) -> Path:
    """Where this package keeps what it has made.

    Args:
        cache_folder: None means the environment's `HFEMBED_CACHE`, else `langchain-hfembed` in the
            user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`).
    """
    chosen = cache_folder or os.environ.get("HFEMBED_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches).absolute() / "langchain-hfembed"


def make_folder(folder: Path, files: Collection[str], write: Callable[[Path], None]) -> Path:
    """Make a folder unless it is there.

    It is written beside its place, then renamed. Several processes may ask at the same time.

    Args:
        folder: Where it belongs. Its name ends in 12 hexadecimal digits, which tell versions apart;
            what killed processes left under such names is removed.
        files: What it holds once it is complete.
        write: Writes them into the folder that it is given.

    Returns:
        `folder`, complete.
    """

    def is_complete() -> bool:
        return all((folder / name).is_file() for name in files)

    # Once a process; other processes may write too, and the first to finish wins.
    with _lock:
        if not is_complete():
            _make(folder, is_complete, write)
    return folder


def _make(folder: Path, is_complete: Callable[[], bool], write: Callable[[Path], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    # Not mkdtemp: its mode of 0700 would lock other users out of a shared cache.
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    discarded = temporary.with_name(f"{temporary.name}.old")
    temporary.mkdir()
    try:
        write(temporary)
        if folder.is_dir() and not is_complete():
            folder.rename(discarded)  # somebody removed files from it
        try:
            temporary.rename(folder)
        except OSError:
            if not is_complete():  # else another process was faster, with the same files
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(discarded, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Remove what killed processes left in `root`."""
    for path in root.iterdir():
        if _TEMPORARY_NAME.fullmatch(path.name):
            with suppress(FileNotFoundError):  # another process sweeps too
                if path.stat().st_mtime < time.time() - _ABANDONED_AFTER:
                    shutil.rmtree(path, ignore_errors=True)
