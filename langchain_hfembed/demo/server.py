"""A server on this machine that speaks Text Embeddings Inference's API, with the demo model."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from langchain_hfembed.demo.answers import (
    MAX_BATCH,
    MAX_TOKENS,
    WRONG_KIND,
    Embedder,
    Model,
    RefusedError,
    Reranker,
    answered,
)

_MAX_BODY = 2_000_000


class DemoServer:
    """Stands in for Text Embeddings Inference (TEI), so that code for endpoints runs offline.

    Loads the model (seconds), then listens on loopback until `close()`, or the end of a `with`
    block, and serves `/embed` (or `/rerank`), `/info`, `/health` and `/metrics`: TEI's paths,
    bodies and refusals, and real vectors. Texts are cut at 512 tokens, or refused where a request
    says `"truncate": false`. For tutorials and tests; it asks for no token, and serves nobody but
    this machine.

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
        self._listener = _Listener(port, Reranker if reranker else Embedder)
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

    def __exit__(self, *_: object) -> None:
        self.close()


class _Listener(ThreadingHTTPServer):
    """The socket, the model behind it, and counts of what was asked."""

    allow_reuse_port = False  # a port that is taken is an error
    daemon_threads = True
    request_queue_size = 128  # each request is a connection of its own

    def __init__(self, port: int, load: Callable[[], Model]) -> None:
        super().__init__(("127.0.0.1", port), _Handler, bind_and_activate=False)
        self.counts = Counter(count=0, success=0)
        try:
            self.server_bind()  # before seconds of loading, which a taken port would waste
            self.model = load()
            self.server_activate()  # until now, who connects is refused
        except BaseException:
            self.server_close()
            raise

    def handle_error(self, *_: object) -> None:
        """Say nothing: the client has gone, and a notebook's output is its own."""

    def info(self) -> dict[str, Any]:
        return {
            "model_id": "langchain-hfembed/demo",
            "model_sha": None,
            "model_dtype": "float32",
            "model_type": self.model.kind,
            "max_concurrent_requests": 512,
            "max_input_length": MAX_TOKENS,
            "max_batch_tokens": 16_384,
            "max_batch_requests": None,
            "max_client_batch_size": MAX_BATCH,
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
    """One connection. HTTP/1.0, whose replies end it: `close()` leaves no idle one."""

    server: _Listener
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/info":
            self._send_json(200, self.server.info())
        elif self.path == "/metrics":
            self._send(200, self.server.metrics().encode(), "text/plain; version=0.0.4")
        else:
            self._send(200 if self.path == "/health" else 404)

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not re.fullmatch(r"[0-9]{1,18}", length):
            return self._send(411)
        if int(length) > _MAX_BODY:
            text = b"Failed to buffer the request body: length limit exceeded"
            return self._send(413, text, "text/plain; charset=utf-8")
        body = self.rfile.read(int(length))
        if self.path not in ("/", self.server.model.path, *WRONG_KIND):
            return self._send(404)
        self.server.counts["count"] += 1
        try:
            answer = answered(self.server.model, self.path, body)
        except RefusedError as refused:
            document = {"error": str(refused), "error_type": refused.error_type}
            return self._send_json(refused.status, document)
        self.server.counts["success"] += 1
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
