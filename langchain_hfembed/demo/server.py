"""A server on this machine that speaks Text Embeddings Inference's API, with the demo model."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from langchain_hfembed.demo.model import DOCUMENT_INSTRUCTION, QUERY_INSTRUCTION
from langchain_hfembed.demo.search import demo_embeddings
from langchain_hfembed.scoring import unit_rows

if TYPE_CHECKING:
    from types import TracebackType

_MAX_BATCH = 32
_MAX_BODY = 2_000_000
_PROMPTS = {"query": QUERY_INSTRUCTION, "passage": DOCUMENT_INSTRUCTION}


class DemoServer:
    """Stands in for Text Embeddings Inference (TEI), so that code for endpoints runs offline.

    Loads the model (seconds), then listens on loopback until `close()`, or the end of a `with`
    block, and serves `/embed` (or `/rerank`), `/info`, `/health` and `/metrics`: TEI's paths,
    bodies and refusals, and real vectors. Texts are always cut at 512 tokens. For tutorials and
    tests; it asks for no token, and serves nobody but this machine.

    Args:
        reranker: Serve `/rerank` in place of `/embed`. The demo model is no re-ranker: its
            multi-vector score, from -1 to 1, stands in for one's.
        port: Where to listen; 0 for any free port.

    Attributes:
        url: Where it listens, such as `http://127.0.0.1:40123`.

    Raises:
        OSError: If the port is taken.

    Source:
        huggingface/text-embeddings-inference, `docs/openapi.json`, 1.9.

    Example:
        ```python
        from langchain_hfembed import HuggingFaceEndpointEmbeddings
        from langchain_hfembed.demo import DemoServer

        with DemoServer() as server:
            embeddings = HuggingFaceEndpointEmbeddings(endpoint_url=server.url)
            print(len(embeddings.embed_query("What is the capital of Korea?")))  # 384
        ```
    """

    def __init__(self, *, reranker: bool = False, port: int = 0) -> None:
        self._listener = _Listener(port, _Reranker() if reranker else _Embedder())
        self.url = f"http://127.0.0.1:{self._listener.server_port}"
        self._thread = threading.Thread(
            target=self._listener.serve_forever, args=(0.05,), name="demo-server", daemon=True
        )
        self._thread.start()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(url={self.url!r})"

    def close(self) -> None:
        """Stop listening; may be called again."""
        if self._thread.is_alive():
            self._listener.shutdown()
            self._thread.join()
        self._listener.server_close()

    def __enter__(self) -> DemoServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _RefusedError(Exception):
    """A request that is refused, with TEI's `error_type`."""

    STATUS: ClassVar = {"Empty": 400, "Validation": 422}

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.status = self.STATUS[error_type]


class _Model(Protocol):
    """What is served: its path, what `/info` calls it, and its answer to a request."""

    path: ClassVar[str]
    kind: ClassVar[dict[str, Any]]

    def answer(self, request: dict[str, Any]) -> list[Any]: ...


class _Embedder:
    path: ClassVar = "/embed"
    kind: ClassVar[dict[str, Any]] = {"embedding": {"pooling": "mean"}}

    def __init__(self) -> None:
        # Prompts and lengths (of vectors) are for each request to choose.
        self._encoder = demo_embeddings(
            query_instruction="", document_instruction="", normalize_embeddings=False
        )
        self._encoder.embed_query("ready")

    def answer(self, request: dict[str, Any]) -> list[list[float]]:
        given = request.get("inputs")
        texts = _checked([given] if isinstance(given, str) else given, "inputs")
        prompt = _prompt(request.get("prompt_name"))
        vectors = np.asarray(self._encoder.embed_documents([prompt + text for text in texts]))
        dimensions = request.get("dimensions")
        if dimensions is not None:
            if not (isinstance(dimensions, int) and 0 < dimensions <= vectors.shape[1]):
                raise _RefusedError(
                    "Validation", f"`dimensions` should be from 1 to {vectors.shape[1]}"
                )
            vectors = vectors[:, :dimensions]
        found: list[list[float]] = (
            unit_rows(vectors) if request.get("normalize", True) else vectors
        ).tolist()
        return found


class _Reranker:
    path: ClassVar = "/rerank"
    kind: ClassVar[dict[str, Any]] = {
        "reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    }

    def __init__(self) -> None:
        self._encoder = demo_embeddings()
        self._encoder.embed_query("ready")

    def answer(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        query, texts = request.get("query"), _checked(request.get("texts"), "texts")
        if not isinstance(query, str):
            raise _RefusedError("Validation", "`query` should be a string")
        scores = self._encoder.score(query, texts).multi_vector
        assert scores is not None
        named = request.get("return_text", False)
        return [
            {"index": int(at), "score": float(scores[at])} | ({"text": texts[at]} if named else {})
            for at in (-scores).argsort(kind="stable")
        ]


def _checked(texts: object, field: str) -> list[str]:
    if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise _RefusedError("Validation", f"`{field}` should be a list of strings")
    if not texts or "" in texts:
        raise _RefusedError("Empty", f"`{field}` cannot be empty")
    if len(texts) > _MAX_BATCH:
        limit = f"maximum allowed batch size {_MAX_BATCH}"
        raise _RefusedError("Validation", f"batch size {len(texts)} > {limit}")
    return texts


def _prompt(name: object) -> str:
    if name is None:
        return ""
    if isinstance(name, str) and name in _PROMPTS:
        return _PROMPTS[name]
    raise _RefusedError(
        "Validation",
        f"`default-prompt-name` is set to `{name}` but it was not found in the Sentence "
        f"Transformers prompts. Available prompts: {json.dumps(list(_PROMPTS))}",
    )


class _Listener(ThreadingHTTPServer):
    """The socket, the model behind it, and counts of what was asked."""

    daemon_threads = True

    def __init__(self, port: int, model: _Model) -> None:
        self.model = model
        self.counts = Counter(count=0, success=0)
        super().__init__(("127.0.0.1", port), _Handler)

    def info(self) -> dict[str, Any]:
        return {
            "model_id": "langchain-hfembed/demo",
            "model_sha": None,
            "model_dtype": "float32",
            "model_type": self.model.kind,
            "max_concurrent_requests": 512,
            "max_input_length": 512,
            "max_batch_tokens": 16_384,
            "max_batch_requests": None,
            "max_client_batch_size": _MAX_BATCH,
            "auto_truncate": True,
            "tokenization_workers": 1,
            "version": "1.9.3",
            "sha": None,
            "docker_label": None,
        }

    def metrics(self) -> str:
        """Counts in Prometheus' text format."""
        return "".join(
            f'# TYPE te_request_{name} counter\nte_request_{name}{{method="batch"}} {count}\n'
            for name, count in self.counts.items()
        )


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: _Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/info":
            self._send_json(200, self.server.info())
        elif self.path == "/metrics":
            self._send(200, self.server.metrics().encode(), "text/plain; version=0.0.4")
        else:
            self._send(200 if self.path == "/health" else 404)

    def do_POST(self) -> None:
        size = int(self.headers.get("content-length", 0))
        if size > _MAX_BODY:
            self.close_connection = True  # the body is left unread
            text = b"Failed to buffer the request body: length limit exceeded"
            return self._send(413, text, "text/plain; charset=utf-8")
        body = self.rfile.read(size)
        model, counts = self.server.model, self.server.counts
        if self.path not in ("/", model.path):
            return self._send(404)
        counts["count"] += 1
        try:
            answer = model.answer(_parsed(body))
        except _RefusedError as refused:
            document = {"error": str(refused), "error_type": refused.error_type}
            return self._send_json(refused.status, document)
        counts["success"] += 1
        return self._send_json(200, answer)

    def _send_json(self, status: int, document: object) -> None:
        self._send(status, json.dumps(document).encode(), "application/json")

    def _send(self, status: int, body: bytes = b"", content_type: str | None = None) -> None:
        self.send_response(status)
        if content_type is not None:
            self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: a notebook's output is its own."""


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError as error:
        raise _RefusedError("Validation", f"the body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise _RefusedError("Validation", "the body should be a JSON object")
    return found
