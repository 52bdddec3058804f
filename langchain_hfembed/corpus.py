"""Files as documents to index: folders of text and Markdown, and JSON Lines. Without any model.

Files are read one after the other, so that a corpus need not fit in memory. What can't be read is
noted, and does not stop the rest.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from langchain_core.documents import Document

from langchain_hfembed.errors import InvalidInputError

MARKDOWN = (".md", ".markdown")
TEXT = (".txt", *MARKDOWN)
JSON_LINES = (".jsonl", ".ndjson")
CHUNK_SIZE = 2000

_NOTED = 20  # problems that are kept in full


@dataclass(frozen=True)
class Piece:
    """A document to index.

    Attributes:
        document: The document, with its id.
        size: How much of the corpus it stands for, in bytes of its file.
    """

    document: Document
    size: float = 1


@dataclass
class Problems:
    """What could not be read, the first ones in full.

    Attributes:
        messages: The first ones.
        count: How many there were.
    """

    messages: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, message: str) -> None:
        """Note one."""
        self.count += 1
        if len(self.messages) < _NOTED:
            self.messages.append(message)


class TextFiles:
    """Text and Markdown files, cut into pieces.

    A piece's id is `source#number`, where the source is the file's path, from the folder's own
    name on. Its metadata has `source`, the number as `chunk`, and `start_index`, the character of
    the file where it starts. Hidden files and folders are left out, and links to folders.

    Args:
        path: A folder, which is searched to its depth, or one file.
        name: What sources start with instead of the folder's name; for one file, its source.
        chunk_size: Characters a piece, at most; 0 for whole files.

    Raises:
        InvalidInputError: If there is no text file.

    Attributes:
        name: What all sources start with, or are.
        is_folder: Whether it is a folder.
        is_complete: Whether every folder in it could be listed.
        size: Bytes of all files.
        sources: The sources of all files, also of those that can't be read.
        lengths: How many pieces those files have that were read so far.
        problems: What could not be read.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, name: str | None = None, chunk_size: int = CHUNK_SIZE
    ) -> None:
        root = Path(path).expanduser()
        self.is_folder = root.is_dir()
        self.name = root.resolve().name if name is None else name
        self.problems = Problems()
        self.lengths: dict[str, int] = {}
        self._chunk_size = chunk_size
        self._paths = {
            self._source(root, file): file
            for file in (_text_files(root, self.problems) if self.is_folder else [root])
        }
        if not self._paths:
            raise InvalidInputError(f"there is no {_either(TEXT)} file in the folder {path}")
        self.is_complete = not self.problems.count
        self.sources = self._paths.keys()
        self._sizes = {source: _size(file) for source, file in self._paths.items()}
        self.size = sum(self._sizes.values())

    def __iter__(self) -> Iterator[Piece]:
        for source, path in self._paths.items():
            try:
                source.encode()
                if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
                    self.problems.add(f"{_shown(path)} can't be read: it is not a regular file")
                    continue
                text = path.read_bytes().decode("utf-8-sig")  # read_text() would alter newlines
            except UnicodeError as error:
                self.problems.add(f"{_shown(path)} is not UTF-8: {error}. Convert it")
                continue
            except OSError as error:
                self.problems.add(f"{_shown(path)} can't be read: {error.strerror or error}")
                continue
            pieces = split(text, self._chunk_size, markdown=path.suffix.lower() in MARKDOWN)
            self.lengths[source] = len(pieces)
            for number, (start, piece) in enumerate(pieces):
                metadata = {"source": source, "chunk": number, "start_index": start}
                document = Document(
                    id=piece_id(source, number), page_content=piece, metadata=metadata
                )
                yield Piece(document, self._sizes[source] / len(pieces))

    def _source(self, root: Path, file: Path) -> str:
        parts = (self.name, file.relative_to(root).as_posix()) if self.is_folder else (self.name,)
        return "/".join(part for part in parts if part)


class JSONLines:
    """Documents out of a file with one JSON object a line.

    An object has `text` (or `page_content`) and, if it likes, `id` (or `_id`), `title` and
    `metadata`. A title is put in front of the text, as BEIR does it; whatever else there is
    becomes metadata, too. Without an id, the file's name and the number of the line are the id.

    Args:
        path: The file.
        name: What the ids of lines without one start with, instead of the file's name.

    Attributes:
        size: Bytes of the file.
        problems: Which lines could not be read.
    """

    def __init__(self, path: str | os.PathLike[str], *, name: str | None = None) -> None:
        self._path = Path(path).expanduser()
        self.name = self._path.name if name is None else name
        self.size = _size(self._path)
        self.problems = Problems()

    def __iter__(self) -> Iterator[Piece]:
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if not content.strip():
                    continue
                try:
                    document = _document(content, piece_id(self.name, number))
                except (ValueError, RecursionError) as error:
                    self.problems.add(f"{self._path}, line {number}: {error}")
                    continue
                yield Piece(document, len(line))


Corpus = TextFiles | JSONLines


def open_corpus(
    path: str | os.PathLike[str], *, name: str | None = None, chunk_size: int = CHUNK_SIZE
) -> Corpus:
    """The documents of a folder, a text file or a file of JSON Lines.

    Args:
        path: Which; its suffix says what it is.
        name: See `TextFiles` and `JSONLines`.
        chunk_size: Characters a piece of a text file, at most; 0 for whole files.

    Raises:
        InvalidInputError: If there is no such file or folder, or nothing that can be indexed.
    """
    found = Path(path).expanduser()
    suffix = found.suffix.lower()
    if found.is_dir() or (found.is_file() and suffix in TEXT):
        return TextFiles(found, name=name, chunk_size=chunk_size)
    if found.is_file() and suffix in JSON_LINES:
        return JSONLines(found, name=name)
    if found.exists():
        raise InvalidInputError(f"{path} is neither a folder nor {_either((*TEXT, *JSON_LINES))}")
    raise InvalidInputError(f"there is no file or folder {path}")


def piece_id(source: str, number: int) -> str:
    """The id of a piece of a file."""
    return f"{source}#{number}"


def split(text: str, chunk_size: int, *, markdown: bool = False) -> list[tuple[int, str]]:
    """Cut a text where it does least harm: at headings, paragraphs, lines, words.

    Args:
        text: The text.
        chunk_size: Characters a piece, at most; 0 for no limit.
        markdown: Whether it is Markdown, which is cut at headings first.

    Returns:
        Where each piece starts, and the piece. Nothing is lost but white space at the cuts, and
        nothing is altered; of white space alone there is no piece.
    """
    if len(text) <= chunk_size or not chunk_size:
        return [(0, text)] if text.strip() else []
    try:
        from langchain_text_splitters import Language, RecursiveCharacterTextSplitter
    except ImportError as error:
        raise ImportError(
            f'{error}; files are cut into pieces with: pip install "langchain-hfembed[cli]"'
        ) from error
    separators = (
        RecursiveCharacterTextSplitter.get_separators_for_language(Language.MARKDOWN)
        if markdown
        else None
    )
    splitter = RecursiveCharacterTextSplitter(
        separators, is_separator_regex=markdown, chunk_size=chunk_size, chunk_overlap=0
    )
    pieces: list[tuple[int, str]] = []
    end = 0
    for piece in splitter.split_text(text):
        start = text.index(piece, end)
        end = start + len(piece)
        pieces.append((start, piece))
    return pieces


def _text_files(folder: Path, problems: Problems) -> Iterator[Path]:
    def note(error: OSError) -> None:
        problems.add(f"the folder {error.filename} can't be read: {error.strerror}")

    for root, folders, names in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in TEXT:
                yield Path(root, name)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # reading it will say what is wrong
        return 0


def _document(line: bytes, default_id: str) -> Document:
    """The document of a line of JSON.

    Raises:
        ValueError: If it is none; the message does not name the line.
    """
    entry = json.loads(line.decode(), parse_constant=_no_number, parse_float=_finite)
    if not isinstance(entry, dict):
        raise ValueError(f"a line is an object such as {{'id': '1', 'text': '…'}}, not {entry!r}")
    if b"\\ud" in line.lower():  # half of a pair, which no UTF-8 can hold
        json.dumps(entry, ensure_ascii=False).encode()
    if entry.get("type") == "Document" and "page_content" in entry:
        del entry["type"]  # which LangChain's own dumps have
    id_ = _one_of(entry, "id", "_id")
    text = _one_of(entry, "text", "page_content")
    title, metadata = entry.pop("title", None), entry.pop("metadata", None)
    if isinstance(id_, int) and not isinstance(id_, bool):
        id_ = str(id_)
    for name, value in (("id", id_), ("text", text), ("title", title)):
        if not isinstance(value, str) and not (value is None and name != "text"):
            found = "missing" if value is None else f"{value!r}, not a string"
            raise ValueError(f"the {name} is {found}")
    if not isinstance(metadata, dict | None):
        raise ValueError(f"the metadata is {metadata!r}, not an object")
    if twice := entry.keys() & (metadata or {}).keys():
        raise ValueError(f"{', '.join(sorted(twice))} is in the metadata and beside it; keep one")
    return Document(
        id=default_id if id_ is None else id_,
        page_content=f"{title} {text}".strip() if title else text,
        metadata={**(metadata or {}), **entry},
    )


def _one_of(entry: dict[str, Any], *names: str) -> Any:
    """Take out the value that goes by one of these names; None if there is none."""
    found = [name for name in names if name in entry]
    if len(found) > 1:
        raise ValueError(f"has both {' and '.join(found)}; keep one")
    return entry.pop(found[0]) if found else None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits} is too large")
    return number


def _shown(path: Path) -> str:
    """A path as it can be printed, even if its name is not UTF-8."""
    return str(path).encode(errors="backslashreplace").decode()


def _either(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
