"""Text Embeddings Inference on loopback: its permits and payloads, faults, and a record of it all.

A real HTTP/1.1 server, so that what a test asserts of a client is asserted at the socket:

    with TEIServer(max_client_batch_size=8, faults={3: overloaded()}) as server:
        ...  # send to server.url
    assert max(entry.inputs for entry in server.record) <= 8
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import h11

from tests.tei_contract import (
    MAIN_ROUTE,
    Contract,
    RefusedError,
    hash_vectors,
    json_reply,
    plain_reply,
    texts_of,
)
from tests.tei_faults import Entry, Fault, Reply, Script

_PUBLIC = {"/", "/health", "/ping", "/metrics"}  # a GET there needs no key
_GETS = {*_PUBLIC, "/info"}
_POSTS = {"/embed", "/embed_all", "/embed_sparse", "/rerank", "/v1/embeddings"}


@dataclass
class Connections:
    """How many connections there have been, and are."""

    opened: int = 0
    open: int = 0


@dataclass(kw_only=True)
class TEIServer(Contract):
    """The server; runs between `start` and `stop`, or in a `with` block.

    Attributes:
        payload_limit: Bytes of a body.
        latency: Seconds that the model takes for a request.
        api_key: Asked for everywhere but at `/health` and `/metrics`.
        has_info: Other servers have no `/info`.
        faults: By POST, counted from 1; or a function that is asked about each.
        gate: Likewise, but asked about each request, GETs too; the number is that of POSTs so far.
        healthy: What `/health` says.
        max_record: Keep the last so many entries only, where memory is what a test measures.
        record: The requests, in the order of their arrival.
        max_inputs_in_flight: The most texts in flight at once, those of refused requests included.
        max_requests_in_flight: Likewise, POSTs.
    """

    payload_limit: int = 2_000_000
    latency: float = 0.0
    api_key: str | None = None
    has_info: bool = True
    info_delay: float = 0.0
    faults: Mapping[int, Fault] | Script = field(default_factory=dict)
    gate: Script | None = None
    healthy: bool = True
    max_record: int | None = None
    connections: Connections = field(init=False, default_factory=Connections)
    port: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all requests, and count from 1 again. Not while one is in flight."""
        self.record: list[Entry] = []
        self.posts = self.max_inputs_in_flight = self.max_requests_in_flight = 0
        self._inputs = self._requests = self._permits = self._successes = 0

    @property
    def url(self) -> str:
        """Where it is, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; once more on the same port after `stop`."""
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(started)), name="tei-server", daemon=True
        )
        self._thread.start()
        started.result(10)

    def stop(self) -> None:
        """Stop listening, and cut all connections."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    def __enter__(self) -> TEIServer:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    async def _run(self, started: Future[None]) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self.transports: set[asyncio.Transport] = set()
        try:
            listener = await self._loop.create_server(
                lambda: _Connection(self), "127.0.0.1", self.port, backlog=1024
            )
        except OSError as error:
            started.set_exception(error)
            return
        self.port = listener.sockets[0].getsockname()[1]
        with ThreadPoolExecutor(1) as self._model:  # like TEI, one forward pass at a time
            started.set_result(None)
            await self._stopped.wait()
            listener.close()
            for transport in list(self.transports):
                transport.abort()
            await asyncio.sleep(0)  # connections hear that they are lost, and end their requests

    @contextmanager
    def recorded(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> Iterator[Entry]:
        """A request's entry, from its arrival to its end."""
        document, post = _parse(body), method == "POST"
        self.posts += post
        entry = Entry(
            self.posts if post else 0, method, path, headers, len(body), document,
            texts_of(document), time.monotonic(),
        )  # fmt: skip
        self.record.append(entry)
        if self.max_record is not None:
            del self.record[: max(0, len(self.record) - self.max_record)]
        self._requests += post
        self._inputs += entry.inputs
        self.max_requests_in_flight = max(self.max_requests_in_flight, self._requests)
        self.max_inputs_in_flight = max(self.max_inputs_in_flight, self._inputs)
        try:
            yield entry
        finally:
            entry.ended = time.monotonic()
            self._requests -= post
            self._inputs -= entry.inputs
            self._successes += post and entry.status == 200

    def fault(self, entry: Entry) -> Fault:
        """What the script says about a request."""
        found = self.gate(self.posts, entry) if self.gate else None
        if found is None and entry.number:
            faults = self.faults
            found = faults(entry.number, entry) if callable(faults) else faults.get(entry.number)
        return found or Fault()

    async def reply(self, entry: Entry, fault: Fault) -> Reply:
        """The reply to a request."""
        if fault.cut != "drip":
            await asyncio.sleep(fault.delay)
        if fault.reply:
            return fault.reply
        public = entry.method == "GET" and entry.path in _PUBLIC
        key = f"Bearer {self.api_key}"
        if self.api_key and not public and entry.headers.get("authorization") != key:
            return Reply(401)
        path = MAIN_ROUTE[self.kind] if entry.path in ("/", "/invocations") else entry.path
        allowed = ["GET"] * (entry.path in _GETS) + ["POST"] * (path in _POSTS)
        if not allowed or (entry.path == "/info" and not self.has_info):
            return Reply(404)
        if entry.method not in allowed:
            return Reply(405, headers={"allow": ",".join(allowed)})
        if entry.method == "GET":
            return await self._get(entry.path)
        return await self._post(path, entry, fault)

    async def _get(self, path: str) -> Reply:
        if path == "/info":
            await asyncio.sleep(self.info_delay)
            return json_reply(self.info())
        if path == "/metrics":
            lines = [
                "# TYPE te_request_count counter",
                f'te_request_count{{method="batch"}} {self.posts}',
                "# TYPE te_request_success counter",
                f'te_request_success{{method="batch"}} {self._successes}',
                "# TYPE te_queue_size gauge",
                f"te_queue_size {max(0, self._requests - 1)}",
            ]
            return plain_reply(200, "\n".join(lines) + "\n")
        if not self.healthy:
            return self.refusal(path, RefusedError("Unhealthy", "unhealthy"))
        return Reply()

    async def _post(self, path: str, entry: Entry, fault: Fault) -> Reply:
        malformed = self.malformed(path, entry.headers, entry.json)
        if entry.body_bytes > self.payload_limit:
            malformed = plain_reply(413, "Failed to buffer the request body: length limit exceeded")
        if malformed:
            return malformed
        try:
            self.check(path, entry.json, entry.texts)
            with self._permitted(1 if self.before_1_9 else entry.inputs):
                texts = self.encode(path, entry.json, entry.texts)
                results = await self._infer(path, entry.json, texts)
                # The latency is all that a request takes, whatever this machine spends on it.
                await asyncio.sleep(entry.started + self.latency - time.monotonic())
        except RefusedError as refused:
            return self.refusal(path, refused)
        except Exception as error:  # noqa: BLE001 - whatever a model raises is a failed backend
            return self.refusal(path, RefusedError("Backend", f"Backend error: {error}"))
        results = fault.alter(results) if fault.alter else results
        return json_reply(self.document(path, entry.json, texts, results))

    async def _infer(self, path: str, document: Mapping[str, Any], texts: list[str]) -> list[Any]:
        if self.embed is hash_vectors:  # quicker than to hand it to another thread
            return self.results(path, document, texts)
        return await self._loop.run_in_executor(self._model, self.results, path, document, texts)

    @contextmanager
    def _permitted(self, count: int) -> Iterator[None]:
        if self._permits + count > self.max_concurrent_requests:
            raise RefusedError("Overloaded", "Model is overloaded")
        self._permits += count
        try:
            yield
        finally:
            self._permits -= count


def _parse(body: bytes) -> Any:
    """JSON, or None; a lone surrogate, which Python lets pass, is none either."""
    try:
        document = json.loads(body)
        if b"\\u" in body:
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return document


class _Connection(asyncio.Protocol):
    """Reads the requests of a connection, one after the other, and sends what they get.

    A protocol and not a stream, because it hears at once that a client has gone.
    """

    def __init__(self, server: TEIServer) -> None:
        self._server = server
        self._http = h11.Connection(h11.SERVER)
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.transports.add(transport)
        self._server.connections.opened += 1
        self._server.connections.open += 1

    def connection_lost(self, error: Exception | None) -> None:
        self._server.transports.discard(self._transport)
        self._server.connections.open -= 1
        if self._task:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._http.receive_data(data)
        self._advance()

    def _advance(self) -> None:
        try:
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    self._request, self._body = event, bytearray()
                elif isinstance(event, h11.Data):
                    self._body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    self._task = asyncio.create_task(self._answer(self._request, bytes(self._body)))
                    self._task.add_done_callback(self._answered)
                    return
                else:  # more data needed, an answer under way, or the client gone
                    return
        except h11.RemoteProtocolError:
            self._transport.close()

    async def _answer(self, request: h11.Request, body: bytes) -> None:
        headers = {name.decode(): value.decode("latin-1") for name, value in request.headers}
        path = request.target.decode("latin-1").partition("?")[0]
        with self._server.recorded(request.method.decode(), path, headers, body) as entry:
            fault = self._server.fault(entry)
            reply = await self._server.reply(entry, fault)
            await self._send(reply, fault)
            entry.status = reply.status

    def _answered(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        if task.exception() or self._http.our_state is not h11.DONE:
            self._transport.close()
            task.result()  # so that a mistake in a test's script is logged
        else:
            self._http.start_next_cycle()
            self._advance()

    async def _send(self, reply: Reply, fault: Fault) -> None:
        body = reply.body[: len(reply.body) // 2] if fault.cut == "json" else reply.body
        headers = [*reply.headers.items(), ("content-length", str(len(body)))]
        head = self._http.send(h11.Response(status_code=reply.status, headers=headers)) or b""
        if fault.cut == "reset":
            self._transport.write(head + body[: len(body) // 2])
            await asyncio.sleep(0.02)  # a reset takes along what the client has not read yet
            raw: socket.socket = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
            return
        if fault.cut == "drip":
            self._transport.write(head)
            size = len(body) // 20 + 1
            for at in range(0, len(body), size):
                await asyncio.sleep(fault.delay / 20)
                self._transport.write(body[at : at + size])
        else:
            self._transport.write(head + body)
        self._http.send(h11.Data(data=body))  # no more than bookkeeping: it writes nothing itself
        self._http.send(h11.EndOfMessage())
