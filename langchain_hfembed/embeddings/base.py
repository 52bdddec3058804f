"""What an encoder is, and what every encoder checks before it starts."""

from __future__ import annotations

import reprlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from langchain_hfembed.errors import EmbeddingError, InvalidInputError
from langchain_hfembed.vectors import HybridEmbedding, View

_READ_AHEAD = 1024
_READ_AHEAD_CHARACTERS = 400_000


class HybridEncoder(Protocol):
    """Turns texts into views. It is a LangChain `Embeddings` too, for its dense view."""

    @property
    def views(self) -> tuple[View, ...]:
        """The views that it computes."""
        ...

    @property
    def model_name(self) -> str:
        """What to call the model in messages."""
        ...

    @property
    def fingerprint(self) -> str:
        """Differs where documents would get other vectors; an index compares it on opening."""
        ...

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Dense vectors of documents, one of `dim` floats a text."""
        ...

    def embed_query(self, text: str) -> list[float]:
        """Dense vector of a query."""
        ...

    def encode_documents(
        self, texts: Sequence[str], views: Iterable[View] | None = None
    ) -> list[HybridEmbedding]:
        """The views of documents, in the order of the texts; `views` narrows them down."""
        ...

    def encode_queries(
        self, texts: Sequence[str], views: Iterable[View] | None = None
    ) -> list[HybridEmbedding]:
        """The views of queries, in the order of the texts; `views` narrows them down."""
        ...

    def iter_encode_documents(
        self, texts: Iterable[str], views: Iterable[View] | None = None
    ) -> Iterator[HybridEmbedding]:
        """The views of documents as they come, at most 1,024 texts read ahead."""
        ...

    def tokenize(self, text: str, *, is_query: bool = False) -> list[str]:
        """The tokens of a text, one string for each row of its multi-vector view."""
        ...

    def decode_token(self, token_id: int) -> str:
        """The token that an index of the sparse view stands for."""
        ...


def check_texts(texts: Iterable[str]) -> list[str]:
    """The texts as a list, once it is sure that every one can be encoded.

    Args:
        texts: Strings, possibly empty.

    Raises:
        InvalidInputError: If `texts` is itself a string, or one of them is no string, or holds a
            lone surrogate. `.indices` has the positions.
    """
    if isinstance(texts, (str, bytes)):
        raise InvalidInputError(
            f"expected a list of texts, got {type(texts).__name__}: {reprlib.repr(texts)}. "
            "Put it in a list: [text]"
        )
    if not isinstance(texts, Iterable):
        raise InvalidInputError(f"expected a list of texts, got {texts!r}")
    checked = list(texts)
    for position, text in enumerate(checked):
        check_text(text, position)
    return checked


def check_text(text: object, position: int | None, name: str = "text") -> None:
    """Raise InvalidInputError, naming the position, unless it is a string that UTF-8 can hold."""
    indices = [] if position is None else [position]
    name = name if position is None else f"{name} {position}"
    if not isinstance(text, str):
        raise InvalidInputError(
            f"{name} is {type(text).__name__} ({reprlib.repr(text)}), not a string. "
            "Convert it, or leave it out",
            indices=indices,
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"{name} holds the lone surrogate {text[error.start]!r} at character "
            f"{error.start}, which is no text. Read its source as UTF-8, or repair it with "
            "text.encode('utf-8', 'replace').decode()",
            indices=indices,
        ) from error


def check_not_empty(texts: Sequence[str], name: str = "text") -> None:
    """Raise InvalidInputError, naming the positions, if there is an empty one.

    Args:
        texts: What is to be sent to a server.
        name: What to call one of them.
    """
    empty = [position for position, text in enumerate(texts) if not text]
    if empty:
        which = "the query" if name == "query" else f"{name} {empty[0]}"
        others = f", and {len(empty) - 1} more of {len(texts)}" if len(empty) > 1 else ""
        raise InvalidInputError(
            f"{which} is empty{others}, which servers refuse. Leave it out", indices=empty
        )


def chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Cut a stream into lists to encode at once, and refuse what can't be encoded.

    A list ends at 1,024 texts, or earlier with long ones: the token vectors of 400,000 characters
    take about 1 GB in BGE-M3.

    Raises:
        InvalidInputError: See `check_texts`; positions count from the start of the stream.
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        check_texts(texts)  # which says what is wrong
    chunk: list[str] = []
    characters = 0
    for position, text in enumerate(texts):
        try:
            check_text(text, position)
        except InvalidInputError:
            if chunk:
                yield chunk  # what came before is not lost
            raise
        if chunk and characters + len(text) > _READ_AHEAD_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
        chunk.append(text)
        characters += len(text)
        if len(chunk) == _READ_AHEAD:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def encode_stream(
    texts: Iterable[str],
    encode: Callable[[list[str]], list[HybridEmbedding]],
    check: Callable[[Iterable[str]], object] = check_texts,
) -> Iterator[HybridEmbedding]:
    """Encode a stream chunk by chunk; see `chunks`.

    Args:
        texts: If they are a list, all of them are checked before the first is encoded.
        encode: Encodes some.
        check: Raises if a text can't be encoded.

    Raises:
        EmbeddingError: If a chunk fails; `.indices` and `.completed` count from the start of the
            stream.
    """
    if isinstance(texts, (list, tuple)):
        check(texts)
    first = 0
    for chunk in chunks(texts):
        try:
            embeddings = encode(chunk)
        except EmbeddingError as error:
            if first:
                error.indices = tuple(first + index for index in error.indices)
                error.completed = {first + i: vector for i, vector in error.completed.items()}
                error.args = (f"of the texts from number {first} on: {error}",)
            raise
        yield from embeddings
        del embeddings  # else there are two chunks in memory while the next one is computed
        first += len(chunk)


def warn(message: str) -> None:
    """Warn, naming the line that called this package, however deep inside of it we are."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("langchain_hfembed."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
