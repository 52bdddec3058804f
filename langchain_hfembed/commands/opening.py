"""What the words on a command line open: an index, or a model."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from langchain_hfembed.errors import InvalidInputError

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

    from langchain_hfembed.embeddings.base import HybridEncoder
    from langchain_hfembed.index.base import HybridIndex

DEFAULT_MODEL = "BAAI/bge-m3"
DEFAULT_COLLECTION = "hfembed"
API_KEY = "QDRANT_API_KEY"
SOURCE_API_KEY = "QDRANT_SOURCE_API_KEY"
_EDGE = "edge:"
_PORT = 6333  # qdrant-client's, for https too
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_NO_PATH = re.compile(r"\w+://.*|[\w.-]+:\d+")  # another scheme, or host:6333
_SQLITE = b"SQLite format 3\x00"


def open_index(
    target: str, collection: str | None = None, *, key_name: str = API_KEY
) -> HybridIndex:
    """Open an index, or make it.

    Args:
        target: The URL of a Qdrant server; `edge:` and a folder for Qdrant Edge; or the path of a
            SQLite file.
        collection: Of the Qdrant server; None for `hfembed`.
        key_name: Variable of the environment that holds the server's key, if it has one.

    Raises:
        InvalidInputError: If there can be no such index.
        HybridIndexError: If it can't be opened.
    """
    _refuse_password(target)
    if is_server(target):
        from langchain_hfembed.index.qdrant.index import QdrantIndex

        key = os.environ.get(key_name)
        return QdrantIndex(collection or DEFAULT_COLLECTION, url=target, api_key=key)
    if collection is not None:
        raise InvalidInputError(f"--collection is for Qdrant servers, {target} is none")
    if target.startswith(_EDGE):
        from langchain_hfembed.index.qdrant.index import QdrantIndex

        return QdrantIndex(path=_edge_folder(target))
    if _NO_PATH.fullmatch(target):
        raise InvalidInputError(f"{target}: a URL starts with http:// or https://")
    if Path(target).expanduser().is_dir():
        raise InvalidInputError(
            f"{target} is a folder; an index of Qdrant Edge is named {_EDGE}{target}, and one of "
            "SQLite is a file, such as knowledge.db"
        )
    from langchain_hfembed.index.sqlite.index import SQLiteIndex

    return SQLiteIndex(target)


def open_existing_index(
    target: str, collection: str | None = None, *, key_name: str = API_KEY
) -> HybridIndex:
    """Open an index that is not empty, as `open_index` does; nothing is made.

    Raises:
        InvalidInputError: If there is none, or nothing in it.
        HybridIndexError: If it can't be opened.
    """
    require_index(target)
    index = open_index(target, collection, key_name=key_name)
    try:
        if not index.count():
            raise InvalidInputError(
                f"the index {target} is empty. To fill it: hfembed index FOLDER --to {target}"
            )
    except BaseException:
        index.close()
        raise
    return index


def require_index(target: str) -> None:
    """Refuse the name of an index that is not there.

    Raises:
        InvalidInputError: If there is none.
    """
    if _NO_PATH.fullmatch(target) and not is_server(target):
        raise InvalidInputError(f"{target}: a URL starts with http:// or https://")
    if not index_exists(target):
        raise InvalidInputError(
            f"there is no index {target}. To make one: hfembed index FOLDER --to {target}"
        )


def index_exists(target: str) -> bool:
    """Whether there is something that opening an index would not make; a server may be there."""
    if is_server(target):
        return True
    if target.startswith(_EDGE):
        return Path(_edge_folder(target)).is_dir()
    path = Path(target).expanduser()
    return path.exists() and not (path.is_file() and not path.stat().st_size)


def is_index(source: str) -> bool:
    """Whether this names an index rather than documents: a server, a folder of Edge, a file."""
    if is_server(source) or source.startswith(_EDGE):
        return True
    path = Path(source).expanduser()
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def place_of(target: str, collection: str | None = None) -> tuple[str, ...]:
    """Where an index is, the same for every spelling of it.

    Args:
        target: As for `open_index`, like the next one.
        collection: Of the Qdrant server; None for `hfembed`.

    Raises:
        InvalidInputError: If it is no place.
    """
    _refuse_password(target)
    if is_server(target):
        return (*_server(target), collection or DEFAULT_COLLECTION)
    path = _edge_folder(target) if target.startswith(_EDGE) else target
    return (str(Path(path).expanduser().resolve()),)


def source_key_name(source: str, to: str) -> str:
    """The variable that holds the key of the server that an index is moved from.

    A key is for one host: QDRANT_API_KEY, which the target gets, goes to no other one.
    """
    if not (is_server(source) and is_server(to)):
        return API_KEY
    is_one_host = _server(source)[0] == _server(to)[0]
    return API_KEY if is_one_host and not os.environ.get(SOURCE_API_KEY) else SOURCE_API_KEY


def open_model(name: str) -> Embeddings | HybridEncoder:
    """The encoder of a model, whatever its kind; nothing is loaded yet.

    Args:
        name: A model id of the Hub, a folder, the URL of a server that embeds (with the token that
            `hfembed check` would send), or `demo`.
    """
    from langchain_hfembed.embeddings.endpoint_base import is_url

    if is_url(name):
        from langchain_hfembed.embeddings.env import endpoint_from_env

        return endpoint_from_env(os.environ, name)
    from langchain_hfembed.demo.model import is_demo_model

    if name == "demo" or is_demo_model(name):
        from langchain_hfembed.demo.search import demo_embeddings

        return demo_embeddings()
    folder = Path(name).expanduser()
    if folder.is_dir():
        name = str(folder.resolve())  # as the index will name it, wherever that is opened
    if _is_bge_m3(name):
        from langchain_hfembed.embeddings.bge_m3 import BGEM3Embeddings

        return BGEM3Embeddings(model_name=name)
    return _sentence_transformer(name)


def model_of(index: HybridIndex) -> str:
    """The name of the model that an index was made by.

    Raises:
        InvalidInputError: If it does not tell, or should not be believed.
    """
    from langchain_hfembed.embeddings.endpoint_base import is_url

    model = index.model
    if model is None or not model.name:
        raise InvalidInputError("the index does not tell which model made it; give --model")
    if is_url(model.name):  # a stranger's index could send your questions anywhere
        raise InvalidInputError(
            f"the index was made by the server {model.name}; to ask it again, give --model "
            f"{model.name}"
        )
    return model.name


def is_server(target: str) -> bool:
    """Whether an index is a Qdrant server."""
    return target.startswith(("http://", "https://"))


def _refuse_password(target: str) -> None:
    # Any @: a password with a slash in it would pass for a path.
    if "://" in target and "@" in target:
        raise InvalidInputError(
            "the URL of an index can't hold a user or password, which would be shown: leave out "
            f"what stands before the @, and put the key into {API_KEY}"
        )


def _server(url: str) -> tuple[str, str, str]:
    """Host, port and path of a server. Not the scheme: a port has one server, whatever it speaks.

    Raises:
        InvalidInputError: If there are none.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORT
    except ValueError as error:
        raise InvalidInputError(f"{url} is no server's URL: {error}") from error
    if not host:
        raise InvalidInputError(f"{url} is no server's URL: it has no host")
    return "localhost" if host in _THIS_MACHINE else host, str(port), parts.path.rstrip("/")


def _edge_folder(target: str) -> str:
    folder = target.removeprefix(_EDGE)
    if not folder:
        raise InvalidInputError(f"{target!r}: a folder follows, as in edge:knowledge")
    return str(Path(folder).expanduser())


def _is_bge_m3(name: str) -> bool:
    """Whether a model has BGE-M3's heads; where nobody knows, so that BGE-M3's errors tell."""
    from langchain_hfembed.embeddings.checkpoint import COLBERT_HEAD, SPARSE_HEAD
    from langchain_hfembed.embeddings.model_kind import has_file

    if Path(name).is_dir():
        return has_file(name, COLBERT_HEAD) or has_file(name, SPARSE_HEAD)
    from huggingface_hub import file_exists
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # Of httpx or of httpx2, as huggingface_hub has it.
    connection_error: type[Exception] = HfHubHTTPError.__bases__[0]

    try:
        if has_file(name, COLBERT_HEAD):
            return True
        return file_exists(name, COLBERT_HEAD)
    except HFValidationError:  # a folder that is not there
        return True
    except (connection_error, OSError):  # no network
        return not has_file(name, "config.json")


def _sentence_transformer(name: str) -> Embeddings | HybridEncoder:
    from langchain_hfembed.embeddings.local import HuggingFaceEmbeddings
    from langchain_hfembed.embeddings.local_multi_vector import HuggingFaceMultiVectorEmbeddings
    from langchain_hfembed.embeddings.local_sparse import HuggingFaceSparseEmbeddings
    from langchain_hfembed.embeddings.model_kind import stated_kind

    if not Path(name).is_dir():
        _fetch_settings(name)
    kind = stated_kind(name)
    if kind == "SparseEncoder":
        return HuggingFaceSparseEmbeddings(model_name=name)
    if kind == "MultiVectorEncoder":
        return HuggingFaceMultiVectorEmbeddings(model_name=name)
    return HuggingFaceEmbeddings(model_name=name)


def _fetch_settings(name: str) -> None:
    """Bring the small files that tell a model's kind into the cache, as far as they can be had."""
    from contextlib import suppress

    from httpx import HTTPError
    from huggingface_hub import hf_hub_download

    repo_id = name if "/" in name else f"sentence-transformers/{name}"
    for file in ("modules.json", "config.json", "config_sentence_transformers.json"):
        with suppress(HTTPError, OSError, ValueError):  # loading it says what is wrong
            hf_hub_download(repo_id, file)
