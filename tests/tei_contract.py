"""What Text Embeddings Inference makes of a request: checks, refusals and results. No I/O.

Source:
    huggingface/text-embeddings-inference: `router/src/http/server.rs`, `core/src/infer.rs`,
    `core/src/tokenization.rs`; its OpenAPI description for the types.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.tei_faults import Reply

Check = Callable[[Any], bool]

MAIN_ROUTE = {"embedding": "/embed", "reranker": "/rerank", "sparse": "/embed_sparse"}
_CODES = {"Validation": 422, "Empty": 400, "Overloaded": 429, "Backend": 424, "Unhealthy": 503}
_VOCABULARY = 30_522


class RefusedError(Exception):
    """TEI's `error_type` and message."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


def json_reply(document: object, code: int = 200) -> Reply:
    """A reply with a JSON body."""
    return Reply(code, json.dumps(document).encode(), {"content-type": "application/json"})


def plain_reply(code: int, text: str) -> Reply:
    """A reply with text as its body."""
    return Reply(code, text.encode(), {"content-type": "text/plain; charset=utf-8"})


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_str(value: Any) -> bool:
    return isinstance(value, str)


def _is_uint(value: Any, limit: int = 2**64) -> bool:
    return isinstance(value, int) and not _is_bool(value) and 0 <= value < limit


def _is_list(value: Any, check: Check) -> bool:
    return isinstance(value, list) and all(map(check, value))


def _is_text(value: Any) -> bool:
    """Text, or the ids of its tokens."""
    return _is_str(value) or _is_list(value, lambda item: _is_uint(item, 2**32))


def _is_input(value: Any) -> bool:
    return _is_text(value) or _is_list(value, _is_text)


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _one_of(*values: str) -> Check:
    return lambda value: value in values


_CUT = {"truncate": _or_null(_is_bool), "truncation_direction": _one_of("Left", "Right")}
_INPUTS = {"inputs": _is_input, **_CUT, "prompt_name": _or_null(_is_str)}
# What each route's deserialiser takes; it passes over what it does not know.
_FIELDS: dict[str, dict[str, Check]] = {
    "/embed": {**_INPUTS, "normalize": _is_bool, "dimensions": _or_null(_is_uint)},
    "/embed_all": _INPUTS,
    "/embed_sparse": _INPUTS,
    "/rerank": {
        "query": _is_str,
        "texts": lambda value: _is_list(value, _is_str),
        **_CUT,
        "raw_scores": _is_bool,
        "return_text": _is_bool,
    },
    "/v1/embeddings": {
        "input": _is_input,
        "model": _or_null(_is_str),
        "user": _or_null(_is_str),
        "dimensions": _or_null(_is_uint),
        "encoding_format": _one_of("float", "base64"),
    },
}
_REQUIRED = {"input", "inputs", "query", "texts"}
_WRONG_KIND = {
    "/embed_sparse": "Model is not an embedding model with SPLADE pooling",
    "/rerank": "model is not a re-ranker model",
}


def texts_of(document: Any) -> list[str]:
    """The texts of a request, token ids written as words; empty where it has none."""
    if not isinstance(document, dict):
        return []
    value: Any = next(
        (document[key] for key in ("inputs", "input", "texts") if key in document), []
    )
    one = _is_str(value) or (value and _is_list(value, _is_uint))
    if not (one or _is_list(value, _is_text)):
        return []
    return [
        text if isinstance(text, str) else " ".join(map(str, text))
        for text in ([value] if one else value)
    ]


def hash_vectors(texts: list[str], dim: int = 16) -> list[list[float]]:
    """Unit vectors that depend on the whole text, the same ones in every process."""
    vectors = []
    for text in texts:
        digest = hashlib.shake_128(text.encode()).digest(2 * dim)
        vectors.append(_unit(struct.unpack(f"<{dim}h", digest)))
    return vectors


def _unit(vector: Sequence[float]) -> list[float]:
    length = math.hypot(*vector)
    # A unit vector stays as it is, to the last bit, so that a test may compare with ==.
    return (
        list(vector)
        if abs(length - 1) < 1e-9 or not length
        else [value / length for value in vector]
    )


def shared_words(query: str, text: str) -> float:
    """A logit: 4 for a text with all of the query's words, -4 for one with none."""
    words = set(query.split())
    return 8 * len(words & set(text.split())) / max(1, len(words)) - 4


def sparse_weights(text: str) -> list[dict[str, float]]:
    """Counts of words, each word at a place of its own, in the order of the places."""
    places = Counter(
        int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little") % _VOCABULARY
        for word in text.split()
    )
    return [{"index": place, "value": math.log1p(n)} for place, n in sorted(places.items())]


@dataclass(kw_only=True)
class Contract:
    """A server's model and limits.

    Attributes:
        version: Before 1.9, Validation is a 413, and a request takes one permit.
        model_id: What it says is served.
        kind: Of model; a route of another kind answers Backend.
        embed: The model: texts in, vectors out. What it raises becomes Backend.
        score: The re-ranker: query and text in, logit out.
        prompts: By name, put in front of each text.
        max_concurrent_requests: Permits. Who comes when there are too few is refused.
        max_input_length: In tokens, which are words here.
        auto_truncate: What `truncate` is where a request says nothing, or null.
    """

    version: str = "1.9.3"
    model_id: str = "org/model"
    kind: Literal["embedding", "reranker", "sparse"] = "embedding"
    embed: Callable[[list[str]], Sequence[Sequence[float]]] = hash_vectors
    score: Callable[[str, str], float] = shared_words
    prompts: Mapping[str, str] = field(default_factory=dict)
    max_client_batch_size: int = 32
    max_concurrent_requests: int = 512
    max_input_length: int = 512
    auto_truncate: bool = True

    @property
    def before_1_9(self) -> bool:
        """Whether the server has the older statuses and permits."""
        return tuple(map(int, self.version.split(".")[:2])) < (1, 9)

    def info(self) -> dict[str, Any]:
        """What it says at `/info`."""
        labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        model_types: dict[str, dict[str, Any]] = {
            "embedding": {"embedding": {"pooling": "mean"}},
            "reranker": {"reranker": labels},
            "sparse": {"embedding": {"pooling": "splade"}},
        }
        return {
            "model_id": self.model_id, "model_sha": None, "model_dtype": "float32",
            "served_model_name": self.model_id, "model_type": model_types[self.kind],
            "max_concurrent_requests": self.max_concurrent_requests,
            "max_input_length": self.max_input_length, "max_batch_tokens": 16_384,
            "max_batch_requests": None, "max_client_batch_size": self.max_client_batch_size,
            "auto_truncate": self.auto_truncate, "tokenization_workers": 1,
            "version": self.version, "sha": None, "docker_label": None,
        }  # fmt: skip

    def refusal(self, path: str, error: RefusedError) -> Reply:
        """A refusal as a reply, in the format of the route."""
        code = _CODES[error.error_type]
        if error.error_type == "Validation" and self.before_1_9:
            code = 413
        if path == "/v1/embeddings":
            # OpenAPI calls the last one error_type; the server renames it when it writes it.
            return json_reply({"message": str(error), "code": code, "type": error.error_type}, code)
        return json_reply({"error": str(error), "error_type": error.error_type}, code)

    def malformed(self, path: str, headers: Mapping[str, str], document: Any) -> Reply | None:
        """The web framework's refusal, which is plain text: no JSON, or not the right types."""
        if not headers.get("content-type", "").startswith("application/json"):
            return plain_reply(415, "Expected request with `Content-Type: application/json`")
        if document is None:
            return plain_reply(400, "Failed to parse the request body as JSON")
        problem = "invalid type: expected struct"
        if isinstance(document, dict):
            wrong = [
                f"{name}: invalid type" if name in document else f"missing field `{name}`"
                for name, check in _FIELDS[path].items()
                if not (check(document[name]) if name in document else name not in _REQUIRED)
            ]
            if not wrong:
                return None
            problem = wrong[0]
        text = f"Failed to deserialize the JSON body into the target type: {problem}"
        return plain_reply(422, text)

    def check(self, path: str, document: Mapping[str, Any], texts: list[str]) -> None:
        """What is checked of the batch, before its texts are looked at.

        Raises:
            RefusedError: If it is empty, too large, or for another kind of model.
        """
        if not texts:
            raise RefusedError("Empty", "`inputs` cannot be empty")
        if path != MAIN_ROUTE[self.kind] and (self.kind != "embedding" or path in _WRONG_KIND):
            message = _WRONG_KIND.get(path, "Model is not an embedding model")
            raise RefusedError("Backend", f"Backend error: {message}")
        if len(texts) > self.max_client_batch_size:
            limit = f"maximum allowed batch size {self.max_client_batch_size}"
            raise RefusedError("Validation", f"batch size {len(texts)} > {limit}")
        if document.get("dimensions") == 0:
            raise _invalid("`dimensions` should be positive")

    def encode(self, path: str, document: Mapping[str, Any], texts: list[str]) -> list[str]:
        """The texts as the model sees them, with prompt and cut to length.

        Raises:
            RefusedError: If one is empty or too long, or the prompt is unknown.
        """
        prompt, query = self._prompt(document.get("prompt_name")), document.get("query", "")
        truncate = document.get("truncate")
        truncate = self.auto_truncate if truncate is None else truncate
        encoded = []
        for text in texts:
            if not text and not query:
                raise RefusedError("Empty", "Input validation error: `inputs` cannot be empty")
            words, limit = (prompt + text).split(), self.max_input_length
            count = len(words) + len(query.split())
            if count <= limit:
                encoded.append(prompt + text)
            elif not truncate:
                given = f"must have less than {limit} tokens. Given: {count}"
                raise _invalid(f"`inputs` {given}")
            else:
                keep = slice(-limit, None) if _cuts_left(document) else slice(limit)
                encoded.append(" ".join(words[keep]))
        return encoded

    def _prompt(self, name: str | None) -> str:
        if name is None:
            return ""
        if name in self.prompts:
            return self.prompts[name]
        where = "no prompts were found in the Sentence Transformers configuration"
        if self.prompts:
            known = json.dumps(list(self.prompts))
            where = (
                f"it was not found in the Sentence Transformers prompts. Available prompts: {known}"
            )
        raise _invalid(f"`default-prompt-name` is set to `{name}` but {where}")

    def results(self, path: str, document: Mapping[str, Any], texts: list[str]) -> list[Any]:
        """One result a text, from the model."""
        if path == "/embed_all":
            return [[list(v) for v in self.embed(text.split() or [text])] for text in texts]
        if path == "/embed_sparse":
            return [sparse_weights(text) for text in texts]
        if path == "/rerank":
            return self._ranks(document, texts)
        vectors = [list(vector) for vector in self.embed(texts)]
        dimensions = document.get("dimensions")
        if dimensions is not None:
            if vectors and dimensions > len(vectors[0]):
                raise _invalid(
                    "`dimensions` should be smaller than the maximum embedding dimension."
                )
            vectors = [vector[:dimensions] for vector in vectors]
        return [_unit(vector) for vector in vectors] if document.get("normalize", True) else vectors

    def _ranks(self, document: Mapping[str, Any], texts: list[str]) -> list[Any]:
        ranks: list[dict[str, Any]] = []
        for index, text in enumerate(texts):
            score = self.score(document["query"], text)
            score = score if document.get("raw_scores") else 1 / (1 + math.exp(-score))
            given = {"text": document["texts"][index]} if document.get("return_text") else {}
            ranks.append({"index": index, **given, "score": score})
        # Sorted upwards and then reversed, as TEI does it: the later of two equals comes first.
        return sorted(ranks, key=lambda rank: float(rank["score"]))[::-1]

    def document(
        self, path: str, document: Mapping[str, Any], texts: list[str], results: list[Any]
    ) -> object:
        """Results in the format of the route."""
        if path != "/v1/embeddings":
            return results
        if document.get("encoding_format") == "base64":
            results = [base64.b64encode(struct.pack(f"<{len(r)}f", *r)).decode() for r in results]
        tokens = sum(len(text.split()) for text in texts)
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "embedding": result, "index": index}
                for index, result in enumerate(results)
            ],
            "model": "org/model",
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


def _invalid(message: str) -> RefusedError:
    return RefusedError("Validation", f"Input validation error: {message}")


def _cuts_left(document: Mapping[str, Any]) -> bool:
    return document.get("truncation_direction") == "Left"
