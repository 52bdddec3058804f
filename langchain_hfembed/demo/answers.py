"""What the demo's server answers to a request, or why it refuses to. No sockets.

Source:
    huggingface/text-embeddings-inference: `docs/openapi.json`, 1.9, and its refusals' wording.
"""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from langchain_hfembed.demo.model import DOCUMENT_INSTRUCTION, QUERY_INSTRUCTION
from langchain_hfembed.demo.search import demo_embeddings
from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.scoring import unit_rows

if TYPE_CHECKING:
    from langchain_hfembed.embeddings.bge_m3 import BGEM3Embeddings

MAX_BATCH = 32
MAX_TOKENS = 512
# By path, what is said where another kind of model is served.
WRONG_KIND = {
    "/embed": "Model is not an embedding model",
    "/embed_sparse": "Model is not an embedding model with SPLADE pooling",
    "/rerank": "model is not a re-ranker model",
}
_PROMPTS = {"query": QUERY_INSTRUCTION, "passage": DOCUMENT_INSTRUCTION}


class RefusedError(Exception):
    """A request that is refused, with TEI's `error_type`."""

    STATUS: ClassVar = {"Empty": 400, "Validation": 422, "Backend": 424}

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.status = self.STATUS[error_type]


class Model(Protocol):
    """What is served: its path, what `/info` calls it, and its answer to a request."""

    path: ClassVar[str]
    kind: ClassVar[dict[str, Any]]

    def answer(self, request: dict[str, Any]) -> list[Any]:
        """The reply's document; RefusedError where there is none."""
        ...


class Embedder:
    """Makes vectors."""

    path: ClassVar = "/embed"
    kind: ClassVar[dict[str, Any]] = {"embedding": {"pooling": "mean"}}

    def __init__(self) -> None:
        # Prompts and lengths (of vectors) are for each request to choose.
        self._encoder = _loaded(
            query_instruction="", document_instruction="", normalize_embeddings=False
        )

    def answer(self, request: dict[str, Any]) -> list[list[float]]:
        """A vector a text."""
        given = request.get("inputs")
        texts = _checked([given] if isinstance(given, str) else given, "inputs")
        prompt = _prompt(request.get("prompt_name"))
        texts = [prompt + text for text in texts]
        if request.get("truncate") is False:
            _check_lengths(self._encoder, texts)
        vectors = np.asarray(self._encoder.embed_documents(texts))
        dimensions = request.get("dimensions")
        if dimensions is not None:
            longest = vectors.shape[1]
            if type(dimensions) is not int or not 0 < dimensions <= longest:  # True is an int, too
                raise RefusedError("Validation", f"`dimensions` should be from 1 to {longest}")
            vectors = vectors[:, :dimensions]
        found: list[list[float]] = (
            unit_rows(vectors) if request.get("normalize", True) else vectors
        ).tolist()
        return found


class Reranker:
    """Orders texts by a query."""

    path: ClassVar = "/rerank"
    kind: ClassVar[dict[str, Any]] = {
        "reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    }

    def __init__(self) -> None:
        self._encoder = _loaded()

    def answer(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """Indices and scores, best first."""
        query, texts = request.get("query"), _checked(request.get("texts"), "texts")
        if not isinstance(query, str):
            raise RefusedError("Validation", "`query` should be a string")
        if request.get("truncate") is False:  # of query and text together, as re-rankers read them
            _check_lengths(self._encoder, [f"{query} {text}" for text in texts])
        scores = self._encoder.score(query, texts).multi_vector
        assert scores is not None
        named = request.get("return_text", False)
        return [
            {"index": int(at), "score": float(scores[at])} | ({"text": texts[at]} if named else {})
            for at in (-scores).argsort(kind="stable")
        ]


def _loaded(**settings: Any) -> BGEM3Embeddings:
    encoder = demo_embeddings(**settings)
    # It warns of the first text that it cuts. TEI doesn't, and a thread's warning reaches nobody.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        encoder.tokenize("ready " * MAX_TOKENS)
    return encoder


def _check_lengths(encoder: BGEM3Embeddings, texts: list[str]) -> None:
    # The first token has no row of its own. Longer texts are cut before they can be counted.
    if any(len(encoder.tokenize(text)) + 1 >= MAX_TOKENS for text in texts):
        limit = f"must have less than {MAX_TOKENS} tokens. Given: {MAX_TOKENS} or more"
        raise RefusedError("Validation", f"Input validation error: `inputs` {limit}")


def _checked(texts: object, field: str) -> list[str]:
    if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise RefusedError("Validation", f"`{field}` should be a list of strings")
    if not texts or "" in texts:
        raise RefusedError("Empty", f"`{field}` cannot be empty")
    if len(texts) > MAX_BATCH:
        limit = f"maximum allowed batch size {MAX_BATCH}"
        raise RefusedError("Validation", f"batch size {len(texts)} > {limit}")
    return texts


def _prompt(name: object) -> str:
    if name is None:
        return ""
    if isinstance(name, str) and name in _PROMPTS:
        return _PROMPTS[name]
    raise RefusedError(
        "Validation",
        f"`default-prompt-name` is set to `{name}` but it was not found in the Sentence "
        f"Transformers prompts. Available prompts: {json.dumps(list(_PROMPTS))}",
    )


def answered(model: Model, path: str, body: bytes) -> list[Any]:
    """A model's answer to a request at its own path, at `/`, or at that of another kind of model.

    Raises:
        RefusedError: If there is none, whatever the reason.
    """
    if path not in ("/", model.path):
        raise RefusedError("Backend", f"Backend error: {WRONG_KIND[path]}")
    try:
        return model.answer(_parsed(body))
    except RefusedError:
        raise
    except InvalidInputError as error:
        raise RefusedError("Validation", f"Input validation error: {error}") from error
    except Exception as error:
        # Else it would end a thread, and the client would see a connection break.
        raise RefusedError("Backend", f"Backend error: {error!r}") from error


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError("Validation", f"the body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise RefusedError("Validation", "the body should be a JSON object")
    return found
