"""The file under a `SQLiteIndex`: its schema, its transactions, its errors in our words."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from langchain_hfembed.errors import HybridIndexError, IndexLockedError

_APPLICATION_ID = int.from_bytes(b"HFEB", "big")
_SCHEMA_VERSION = 1

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
    "CREATE TABLE removals (number INTEGER PRIMARY KEY AUTOINCREMENT, key INTEGER NOT NULL)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
)

_MAGIC = b"SQLite format 3\0"
_HEADER_SIZE = 100
_USER_VERSION = slice(60, 64)
_APPLICATION = slice(68, 72)


class SQLiteFile:
    """One connection, shared by the threads of a process, one at a time.

    Args:
        path: The file, made where it is missing, or `":memory:"`.
        busy_timeout: Seconds to wait for another writer.

    Raises:
        HybridIndexError: If the file is not an index, is damaged, or is of a newer version. It is
            left untouched.

    Source:
        Header fields: https://www.sqlite.org/fileformat2.html#the_database_header
    """

    def __init__(self, path: str, busy_timeout: float) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        if path != ":memory:":
            _refuse_foreign(Path(path))
            _make_folder(Path(path).parent)
        with self._errors():
            self._connection = sqlite3.connect(
                path, timeout=busy_timeout, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(busy_timeout)
            except BaseException:
                self.close()
                raise

    def _prepare(self, busy_timeout: float) -> None:
        # Who opens an index that is there does not wait for its writer.
        with self.transaction() as connection:
            is_new = _is_empty(connection)
        if is_new:
            with self.transaction("IMMEDIATE") as connection:
                if _is_empty(connection):  # else another process was faster
                    for statement in _SCHEMA:
                        connection.execute(statement)
        connection.execute("SELECT * FROM properties").fetchall()
        # After the schema is in the file itself, so that the file is known as ours from then on.
        _switch_to_wal(connection, busy_timeout)
        # An acknowledged batch survives a loss of power, too.
        connection.execute("PRAGMA synchronous = FULL")

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
        with self._lock, self._errors():
            if self._connection is None:
                raise HybridIndexError(f"the index {self.path} is closed; open it again to use it")
            connection = self._connection
            if connection.in_transaction:
                if kind == "IMMEDIATE":
                    raise HybridIndexError(
                        f"the index {self.path} can't be changed within snapshot(); leave it first"
                    )
                yield connection
                return
            connection.execute(f"BEGIN {kind}")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file; it can be repeated."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _translated(str(error), self.path) from error
        except UnicodeDecodeError as error:  # SQLite's message quotes what is damaged
            raise _translated(f"can't decode {error.object!r}", self.path) from error


def _translated(reason: str, path: str) -> HybridIndexError:
    if "locked" in reason or "busy" in reason:
        return IndexLockedError(
            f"another process is writing to the index {path} and did not finish in time. Nothing "
            "was changed. Let one process write and any number read, or raise busy_timeout"
        )
    if "full" in reason:
        return HybridIndexError(
            f"the disk with the index {path} is full ({reason}). The batch was not stored, all "
            "earlier ones were; free some space and add it again"
        )
    if "malformed" in reason or "not a database" in reason or "decode" in reason:
        return HybridIndexError(
            f"the index {path} is damaged ({reason}). It was left as it is: restore a copy of it, "
            "or index the documents again into a new file"
        )
    return HybridIndexError(f"the index {path} can't be used: {reason}")


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
    """Look at the header, as opening a file with SQLite may already write to it."""
    try:
        with path.open("rb") as stream:
            header = stream.read(_HEADER_SIZE)
    except FileNotFoundError:
        return
    except OSError as error:
        raise HybridIndexError(
            f"the index {path} can't be opened: {error.strerror}. Give the path of a file"
        ) from error
    if not header:
        return
    if not header.startswith(_MAGIC) or len(header) < _HEADER_SIZE:
        raise HybridIndexError(
            f"{path} is not an index (no SQLite file). It was not touched; give another path"
        )
    if int.from_bytes(header[_APPLICATION], "big") != _APPLICATION_ID:
        raise HybridIndexError(
            f"{path} is a SQLite database of another program. It was not touched; give another path"
        )
    version = int.from_bytes(header[_USER_VERSION], "big")
    if version > _SCHEMA_VERSION:
        raise HybridIndexError(
            f"the index {path} has layout {version}; this version of langchain-hfembed reads up to "
            f"{_SCHEMA_VERSION}. Upgrade: pip install -U langchain-hfembed"
        )
