"""Text Embeddings Inference over HTTP: its paths, what they are sent, what it says of itself.

Source:
    TEI's OpenAPI description, `docs/openapi.json` of huggingface/text-embeddings-inference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import orjson

from langchain_hfembed.errors import InvalidInputError

EMBED, EMBED_SPARSE, RERANK = "/embed", "/embed_sparse", "/rerank"
OPENAI = "/v1/embeddings"
DENSE, RANKS = "dense embeddings (/embed)", "reranking (/rerank)"
SPARSE = "sparse embeddings (/embed_sparse: SPLADE, started with --pooling splade)"
LIMITS = (
    "max_client_batch_size",
    "max_concurrent_requests",
    "max_input_length",
    "max_batch_tokens",
)

# A name, labels, a value, and perhaps a time.
_SAMPLE = re.compile(r"(?P<name>[^\s#{][^\s{]*(?:\{.*\})?)\s+(?P<value>\S+)(?:\s+-?\d+)?\s*")


@dataclass(frozen=True)
class EmbedOptions:
    """What TEI is asked to do with texts; None leaves it to the server.

    Attributes:
        normalize: Scale vectors to length 1.
        truncate: Cut texts that are too long, instead of refusing them.
        truncation_direction: Which end is cut off.
        dimensions: Keep the first so many, of a Matryoshka model.
        prompt_name: A prompt of the model, put in front by the server.
    """

    normalize: bool | None = None
    truncate: bool | None = None
    truncation_direction: Literal["left", "right"] | None = None
    dimensions: int | None = None
    prompt_name: str | None = None

    def given(self) -> dict[str, Any]:
        """Those that are not left to the server."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class EndpointInfo:
    """What a server says about itself at `/info`.

    Attributes:
        model_id: The model.
        version: Of the server.
        max_client_batch_size: Texts a request, at most.
        max_concurrent_requests: Texts in flight, at most (requests, before 1.9).
        max_input_length: Tokens a text, at most.
        max_batch_tokens: Tokens a forward pass.
        auto_truncate: Whether longer texts are cut unless the request says otherwise.
        model_type: What it serves, such as `{"embedding": {"pooling": "cls"}}`.
    """

    model_id: str
    version: str | None = None
    max_client_batch_size: int | None = None
    max_concurrent_requests: int | None = None
    max_input_length: int | None = None
    max_batch_tokens: int | None = None
    auto_truncate: bool | None = None
    model_type: Mapping[str, Any] | str | None = None


def embed_body(texts: Sequence[str], options: EmbedOptions) -> bytes:
    """A request of `/embed` or `/embed_sparse`, as JSON."""
    return json_body({"inputs": texts, **_spelt(options.given())})


def speaks_openai(url: str) -> bool:
    """Whether a URL is a route in OpenAI's format."""
    return urlsplit(url).path.rstrip("/").endswith(OPENAI)


def openai_body(texts: Sequence[str], options: EmbedOptions, model: str | None) -> bytes:
    """A request of `/v1/embeddings`, as JSON; servers other than TEI want a model's name in it.

    Raises:
        InvalidInputError: If an option is given that OpenAI's format does not know.
    """
    given = options.given()
    if unknown := sorted(set(given) - {"dimensions"}):
        raise InvalidInputError(
            f"{OPENAI} does not know {', '.join(unknown)}; leave it out, or give the "
            f"URL of a TEI's {EMBED}"
        )
    return json_body({"input": texts, "model": model or "default", **given})


def rerank_body(query: str, texts: Sequence[str], options: Mapping[str, Any]) -> bytes:
    """A request of `/rerank` for the relevance of texts for a query, as JSON."""
    return json_body({"query": query, "texts": texts, **_spelt(options)})


def _spelt(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as TEI spells them: `Left`, not `left`."""
    spelt = {name: value for name, value in options.items() if value is not None}
    if "truncation_direction" in spelt:
        spelt["truncation_direction"] = spelt["truncation_direction"].capitalize()
    return spelt


def json_body(document: object) -> bytes:
    """Compact JSON."""
    return orjson.dumps(document)


def read_json(body: bytes) -> Any:
    """A document of JSON; with NaN too, whose texts can then be named.

    Raises:
        ValueError: If it is none.
        RecursionError: If it is too deep.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)


def text_bytes(text: str) -> int:
    """Bytes that a text takes in a request, its quotes and comma included."""
    return len(orjson.dumps(text)) + 1


def read_info(reply: object) -> EndpointInfo | None:
    """What `/info` says; None where the reply is not TEI's."""
    if not isinstance(reply, dict) or not isinstance(reply.get("model_id"), str):
        return None
    numbers = {name: reply[name] for name in LIMITS if type(reply.get(name)) is int}
    others = {name: reply.get(name) for name in ("version", "auto_truncate", "model_type")}
    return EndpointInfo(reply["model_id"], **numbers, **others)


def served(info: EndpointInfo) -> str | None:
    """What a server's model is for; None where it does not say so."""
    if not isinstance(info.model_type, Mapping):
        return None
    embedding = info.model_type.get("embedding")
    if isinstance(embedding, Mapping):
        return SPARSE if embedding.get("pooling") == "splade" else DENSE
    return RANKS if "reranker" in info.model_type else None


def read_metrics(text: str) -> dict[str, float]:
    """Samples of a page in Prometheus' text format, by name and labels.

    Source:
        https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    samples = {}
    for line in text.splitlines():
        if sample := _SAMPLE.fullmatch(line):
            with suppress(ValueError):
                samples[sample["name"]] = float(sample["value"])
    return samples
