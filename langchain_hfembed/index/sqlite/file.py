"""The file under a `SQLiteIndex`: its schema, its transactions, its errors in our words."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

from langchain_hfembed.errors import HybridIndexError, IndexLockedError
from langchain_hfembed.index.sqlite.metadata import TABLE, add_leaves

_APPLICATION_ID = int.from_bytes(b"HFEB", "big")
_SCHEMA_VERSION = 2
_PAGE_BYTES = 16_384
# What brings a file of a layout to the next one.
_MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {1: add_leaves}

# Keys are never used twice, so that a process which has loaded up to a key can ask for what came
# after it. An update is a removal and an addition. Vectors of the two searched views, read whole
# at opening, lie apart from the multi-vectors, read for a few candidates.
_SCHEMA = (
    """CREATE TABLE properties (
        name TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE documents (
        key INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        text TEXT NOT NULL,
        metadata TEXT NOT NULL
    )""",
    """CREATE TABLE vectors (
        key INTEGER PRIMARY KEY,
        dense BLOB,
        sparse_indices BLOB,
        sparse_values BLOB
    )""",
    "CREATE TABLE multi_vectors (key INTEGER PRIMARY KEY, vectors BLOB NOT NULL)",
    TABLE,
    "CREATE TABLE removals (number INTEGER PRIMARY KEY AUTOINCREMENT, key INTEGER NOT NULL)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
)


class SQLiteFile:
    """One connection, shared by the threads of a process, one at a time.

    Args:
        path: The file, made where it is missing, or `":memory:"`.
        busy_timeout: Seconds to wait for another writer.

    Raises:
        HybridIndexError: If the file is not an index, is damaged, or is of a newer version. It is
            left untouched.
    """

    def __init__(self, path: str, busy_timeout: float) -> None:
        self.path = path if path == ":memory:" else str(Path(path).expanduser())
        self._busy_timeout = busy_timeout
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        if self.path != ":memory:":
            _refuse_foreign(Path(self.path))
            _make_folder(Path(self.path).parent)
        with self._errors():
            self._connection = sqlite3.connect(
                self.path, timeout=busy_timeout, isolation_level=None, check_same_thread=False
            )
            try:
                # A stranger's file may define views and triggers; none gets to call functions.
                self._connection.execute("PRAGMA trusted_schema = OFF")
                self._prepare()
            except BaseException:
                self.close()
                raise

    def _prepare(self) -> None:
        # Who opens an index that is there does not wait for its writer.
        with self.transaction() as connection:
            is_new = _is_empty(connection)
            if not is_new:  # before, what an interrupted process has left could not be read
                application = _pragma(connection, "application_id")
                _require_ours(Path(self.path), application, _pragma(connection, "user_version"))
        if is_new:
            # Token vectors of a document have 20 to 400 KB; from pages of 4 KB, SQLite's own
            # choice, those of BGE-M3 are read a fifth more slowly.
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            with self.transaction("IMMEDIATE") as connection:
                if _is_empty(connection):  # else another process was faster
                    for statement in _SCHEMA:
                        connection.execute(statement)
        while (version := _pragma(connection, "user_version")) in _MIGRATIONS:
            with self.transaction("IMMEDIATE") as connection:
                if _pragma(connection, "user_version") == version:  # else another was faster
                    _MIGRATIONS[version](connection)
                    connection.execute(f"PRAGMA user_version = {version + 1}")
        connection.execute("SELECT * FROM properties").fetchall()
        # After the schema is in the file itself, so that the file is known as ours from then on.
        _switch_to_wal(connection, self._busy_timeout)
        # Token vectors, most of what is read, are never read twice: a cache of 2 MB, SQLite's own
        # choice, is slower by a tenth than one that stays within the processor's.
        connection.execute("PRAGMA cache_size = -512")
        # An acknowledged batch survives a loss of power, too; fullfsync is macOS's word for it.
        for setting in ("synchronous = FULL", "fullfsync = ON", "checkpoint_fullfsync = ON"):
            connection.execute(f"PRAGMA {setting}")

    @contextmanager
    def transaction(
        self, kind: Literal["DEFERRED", "IMMEDIATE"] = "DEFERRED"
    ) -> Iterator[sqlite3.Connection]:
        """Run statements that see one state and are kept or dropped together.

        Args:
            kind: `"IMMEDIATE"` to write, which waits for other writers. A transaction within
                another one of the same thread is part of it.

        Raises:
            HybridIndexError: If the index is closed, SQLite fails, or something is to be written
                within a transaction for reading.
            IndexLockedError: If another writer was busy for too long.
        """
        with self._open() as connection:
            if connection.in_transaction:
                if kind == "IMMEDIATE":
                    raise HybridIndexError(
                        f"the index {self.path} can't be changed within snapshot(); leave it first"
                    )
                yield connection
                return
            try:
                connection.execute(f"BEGIN {kind}")
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def compact(self) -> None:
        """Give back the space of what was removed.

        Raises:
            HybridIndexError: If the index is closed, within a transaction, or SQLite fails.
            IndexLockedError: If another writer was busy for too long.
        """
        with self._open() as connection:
            if connection.in_transaction:
                raise HybridIndexError(
                    f"the index {self.path} can't be compacted within snapshot(); leave it first"
                )
            try:
                connection.execute("VACUUM")
            except sqlite3.OperationalError as error:
                if "full" not in str(error):
                    raise
                raise HybridIndexError(
                    f"compacting {self.path} takes its size twice, beside it and in the folder for "
                    f"temporary files, and one of them is full ({error}). Nothing was changed; "
                    "free some space, or set SQLITE_TMPDIR, and try again"
                ) from error
            (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if is_busy:
                raise IndexLockedError(
                    f"the index {self.path} is compacted, but somebody read an older state of it "
                    f"for more than {self._busy_timeout:g} s: the file becomes smaller at a later "
                    "addition or compact()"
                )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone."""
        # Before the lock, which another thread may have held when this process was forked.
        if self._process != os.getpid():
            raise HybridIndexError(
                f"the index {self.path} was opened in another process, from which this one was "
                "forked; SQLite can't share a connection so. Open the index again here"
            )
        with self._lock, self._errors():
            if self._connection is None:
                raise HybridIndexError(f"the index {self.path} is closed; open it again to use it")
            yield self._connection

    def close(self) -> None:
        """Close the file; it can be repeated."""
        if self._process != os.getpid():
            return
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._translated(str(error)) from error
        except UnicodeDecodeError as error:  # SQLite's message quotes what is damaged
            raise self._translated(f"can't decode {error.object!r}") from error

    def _translated(self, reason: str) -> HybridIndexError:
        """Our error for what SQLite says; what quotes the file's contents comes first."""
        if any(sign in reason for sign in ("malformed", "not a database", "decode")):
            return HybridIndexError(
                f"the index {self.path} is damaged ({reason}). It was left as it is: restore a "
                "copy of it, or index the documents again into a new file"
            )
        if "is locked" in reason:
            return IndexLockedError(
                f"another process is writing to the index {self.path} and did not finish within "
                f"{self._busy_timeout:g} s. Nothing was changed. Let one process write and any "
                "number read, or raise busy_timeout"
            )
        if "disk is full" in reason:
            return HybridIndexError(
                f"the disk with the index {self.path} is full ({reason}). Nothing was changed, and "
                "all that was stored before is there; free some space and try again"
            )
        return HybridIndexError(f"the index {self.path} can't be used: {reason}")


def _switch_to_wal(connection: sqlite3.Connection, busy_timeout: float) -> None:
    """Here SQLite itself does not wait for processes that create the same file just now."""
    deadline = time.monotonic() + busy_timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (number,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(number)


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HybridIndexError(
            f"the index's folder {path} can't be made: {error.strerror}. Give another path"
        ) from error


def _refuse_foreign(path: Path) -> None:
    """Look at the header without locks and without writing, which opening it normally may do.

    Through SQLite, not `open()`: a process that closes the file by itself loses all locks that its
    other connections hold there (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    """
    if path.is_dir():
        raise HybridIndexError(f"{path} is a folder; give the path of a file in it")
    try:
        if not path.stat().st_size:
            return
    except FileNotFoundError:
        return
    except OSError as error:
        raise HybridIndexError(
            f"the index {path} can't be opened: {error.strerror}. Give the path of a file"
        ) from error
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as probe:
            application, version = _pragma(probe, "application_id"), _pragma(probe, "user_version")
    except sqlite3.Error as error:
        if any(Path(f"{path}{suffix}").exists() for suffix in ("-wal", "-journal")):
            return  # a process was killed while it wrote here; SQLite mends that when it opens it
        raise HybridIndexError(
            f"{path} is not an index ({error}). It was not touched; give another path"
        ) from error
    _require_ours(path, application, version)


def _require_ours(path: Path, application: int, version: int) -> None:
    if application != _APPLICATION_ID:
        raise HybridIndexError(
            f"{path} is a SQLite database of another program. It was not touched; give another path"
        )
    if version > _SCHEMA_VERSION:
        raise HybridIndexError(
            f"the index {path} has layout {version}; this version of langchain-hfembed reads up to "
            f"{_SCHEMA_VERSION}. Upgrade: pip install -U langchain-hfembed"
        )
