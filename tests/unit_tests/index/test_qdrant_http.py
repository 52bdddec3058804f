"""A `QdrantIndex` on a server, played at the socket: what is sent, sent again, and said."""

from __future__ import annotations

import json
import re
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from langchain_hfembed import (
    AuthenticationError,
    EmbeddingError,
    EndpointTimeoutError,
    HybridEmbedding,
    HybridIndexError,
    IndexRecord,
    InvalidInputError,
    QdrantIndex,
    RateLimitError,
)
from langchain_hfembed.index.filters import parse_filter
from langchain_hfembed.vectors import VIEWS
from tests.encoders import HashEncoder, records

qdrant_client = pytest.importorskip("qdrant_client")
grpc = pytest.importorskip("grpc")
models = qdrant_client.models

ENCODER = HashEncoder()
TEXTS = {"one": "red apple", "two": "green apple tree", "three": "blue sky"}
KEY = "very-secret-key"


class QdrantServer:
    """Qdrant's REST interface over qdrant-client's local mode, which computes the answers.

    Attributes:
        requests: Methods and paths so far.
        bodies: What came with them.
        options: What stood after the `?` of each path.
        strict: Whether filters on what has no index are refused.
        most_indexes: How many keys of payloads may have one.
        schema: Which have one.
        failures: What to answer to the next requests instead: a status and headers, `"reset"` to
            drop the connection, or `"lose"` to do what is asked and drop it then.
    """

    def __init__(self) -> None:
        self.local = qdrant_client.QdrantClient(":memory:")
        self.requests: list[str] = []
        self.bodies: list[Any] = []
        self.options: list[str] = []
        self.strict = False
        self.most_indexes = 100
        self.schema: dict[str, Any] = {}
        self.keys: set[str | None] = set()
        self.failures: list[Any] = []
        self.delay = 0.0
        self.closed = threading.Event()
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None: ...

            def _answer(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path, _, options = self.path.partition("?")
                double.options.append(options)
                double.requests.append(f"{self.command} {path}")
                double.bodies.append(json.loads(raw or b"{}"))
                double.keys.add(self.headers.get("api-key"))
                failure = double.failures.pop(0) if double.failures else None
                if double.delay:
                    double.closed.wait(double.delay)
                if failure == "reset":
                    self._drop()
                elif failure is None or failure == "lose":
                    status, result = double.result(self.command, path, double.bodies[-1])
                    self._drop() if failure else self._send(status, result, {})
                else:
                    status, headers, *told = failure
                    self._send(status, told[0] if told else None, headers)

            do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - http.server's names

            def _drop(self) -> None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

            def _send(self, status: int, result: Any, headers: dict[str, str]) -> None:
                error = {"error": result or f"status {status} it is"}
                body = {"result": result, "status": "ok" if status < 400 else error, "time": 0.0}
                data = json.dumps(body, default=lambda it: it.model_dump(mode="json")).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign] # who timed out
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))

    def __enter__(self) -> QdrantServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        self.local.close()

    def result(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        _, _, name, *rest = path.split("/")
        does: dict[str, Callable[[], Any]] = {
            "GET exists": lambda: {"exists": self.local.collection_exists(name)},
            "GET ": lambda: self.local.get_collection(name).model_copy(
                update={"payload_schema": self.schema}
            ),
            "PUT ": lambda: self._create(name, models.CreateCollection.model_validate(body)),
            "PUT index": lambda: self._index(body["field_name"]),
            "PUT points": lambda: self.local.upsert(
                name,
                models.PointsList.model_validate(body).points,
                update_mode=body.get("update_mode"),
            ),
            "POST points": lambda: self.local.retrieve(
                name, body["ids"], body["with_payload"], body["with_vector"]
            ),
            "POST points/query/batch": lambda: self.local.query_batch_points(
                name, [_query_of(each) for each in body["searches"]]
            ),
            "POST points/scroll": lambda: self._scroll(name, body),
            "POST points/count": lambda: self.local.count(
                name, body.get("filter") and models.Filter.model_validate(body["filter"])
            ),
            "POST points/delete": lambda: self.local.delete(
                name, models.FilterSelector.model_validate(body)
            ),
        }
        if method == "PUT" and not rest and self.local.collection_exists(name):
            return 409, None
        if refusal := self._refusal(f"{method} {'/'.join(rest)}", body):
            return refusal
        return 200, does[f"{method} {'/'.join(rest)}"]()

    def _refusal(self, asked: str, body: Any) -> tuple[int, str] | None:
        """What a server says of the size of vectors, and in strict mode; Qdrant 1.17's words."""
        if asked == "PUT points":
            for point in body["points"]:
                size = sum(map(len, point["vector"].get("multi_vector", [])))
                if size >= 1024 * 1024:
                    return 422, f"Total size of all vectors ({size}) must be less than 1048576"
        if asked == "PUT index" and len(self.schema) >= self.most_indexes:
            return 400, "Collection already has the maximum number of payload indices"
        if self.strict and (missing := _filtered(body) - {*self.schema}):
            return 400, f"Index required but not found for {missing}"
        return None

    def _index(self, key: str) -> Any:
        self.schema[key] = models.PayloadIndexInfo(data_type="keyword", points=0)
        return _done()

    def _create(self, name: str, config: Any) -> bool:
        return self.local.create_collection(name, config.vectors, config.sparse_vectors)

    def _scroll(self, name: str, body: Any) -> Any:
        points, _ = self.local.scroll(
            name,
            limit=body["limit"],
            order_by=models.OrderBy.model_validate(body["order_by"]),
            with_payload=body["with_payload"],
            with_vectors=body["with_vector"],
        )
        return {"points": points, "next_page_offset": None}


def _filtered(body: Any) -> set[str]:
    """Keys of the payload that the filters of a request name."""
    if isinstance(body, list):
        return set().union(*map(_filtered, body))
    if not isinstance(body, dict):
        return set()
    named = {body["key"]} if "key" in body and {"match", "range"} & {*body} else set()
    return named.union(*map(_filtered, body.values()))


def _done() -> Any:
    return models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)


def _query_of(search: Any) -> Any:
    # Local mode warns that it has no use for the parameters.
    return models.QueryRequest.model_validate({**search, "params": None})


@pytest.fixture
def server() -> Iterator[QdrantServer]:
    with QdrantServer() as server:
        yield server


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No test waits; how long each would have."""
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waited.append)
    return waited


@pytest.fixture
def index(server: QdrantServer) -> Iterator[QdrantIndex]:
    with QdrantIndex("docs", url=server.url, multi_vector_dtype="float32") as index:
        index.upsert(records(ENCODER, TEXTS, year=2024))
        server.requests.clear()
        server.bodies.clear()
        yield index


def _query() -> HybridEmbedding:
    return ENCODER.encode_queries(["red sky"])[0]


# What is sent ---------------------------------------------------------------------------------


def test_everything_works_over_the_wire(index: QdrantIndex, server: QdrantServer):
    found = index.search(_query(), 5, parse_filter({"year": {"$gte": 2024}}))
    assert found.ids == ["one", "two", "three"]
    assert [record.text for record in found.records([2])] == ["blue sky"]
    with QdrantIndex("docs", client=server.local) as other:
        expected = other.score(_query(), found.ids)
    for view, values in expected.present():
        np.testing.assert_allclose(getattr(found.scores, view), values, atol=1e-6)
    assert [record.id for record in index.records()] == [*TEXTS]
    assert index.get(["two"], views=VIEWS)[0].embedding.views == VIEWS
    index.delete(["one"])
    assert index.count() == 2


def test_a_search_is_two_requests_and_its_texts_come_once(index: QdrantIndex, server: QdrantServer):
    found = index.search(_query(), 5)
    found.records([0, 1])
    assert server.requests == ["POST /collections/docs/points/query/batch"] * 2
    proposing, scoring = (body["searches"] for body in server.bodies)
    assert [search["using"] for search in proposing] == ["dense", "sparse"]
    assert [search["with_payload"] for search in proposing] == [["id", "order"]] * 2
    assert [search["with_payload"] for search in scoring] == [
        ["id", "text", "metadata"],
        False,
        False,
    ]
    assert all(search["params"]["exact"] for search in scoring)
    assert all(search["params"]["quantization"]["ignore"] for search in scoring)


def test_exact_is_passed_on_to_the_proposals(index: QdrantIndex, server: QdrantServer):
    with QdrantIndex("docs", url=server.url, exact=True) as exact:
        exact.candidates(_query(), 2)
    index.candidates(_query(), 2)
    asked = [body["searches"][0]["params"]["exact"] for body in server.bodies if "searches" in body]
    assert asked == [True, False]


def test_the_collection_is_made_as_it_was_asked_for(server: QdrantServer):
    quantization = models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8)
    )
    with QdrantIndex(
        url=server.url,
        shard_number=6,
        replication_factor=2,
        write_consistency_factor=2,
        quantization_config=quantization,
    ) as index:
        index.upsert(records(ENCODER, TEXTS, year=2024, place={"x": 1.5}))
    made = server.bodies[server.requests.index("PUT /collections/hfembed")]
    assert (made["shard_number"], made["replication_factor"]) == (6, 2)
    assert made["write_consistency_factor"] == 2
    assert made["vectors"]["dense"]["quantization_config"]["scalar"]["type"] == "int8"
    tokens = made["vectors"]["multi_vector"]
    assert tokens.get("quantization_config") is None
    assert (tokens["on_disk"], tokens["datatype"], tokens["hnsw_config"]["m"]) == (
        True,
        "float16",
        0,
    )
    indexed = [body["field_name"] for body in server.bodies if "field_name" in body]
    assert sorted(indexed) == ["leaves", "numbers.place_2e_x", "numbers.year", "order"]


def test_the_order_has_an_index_for_ranges_alone(server: QdrantServer):
    with QdrantIndex(url=server.url) as index:
        index.upsert(records(ENCODER, TEXTS))
    [schema] = [body["field_schema"] for body in server.bodies if body.get("field_name") == "order"]
    schema = {name: value for name, value in schema.items() if value is not None}
    assert schema == {"type": "integer", "lookup": False, "range": True, "enable_hnsw": False}


def test_the_properties_are_stored_where_there_are_none_and_read_back(server: QdrantServer):
    with QdrantIndex("docs", url=server.url) as index:
        index.upsert(records(ENCODER, TEXTS))
    first = server.requests.index("PUT /collections/docs/points")
    assert server.bodies[first]["update_mode"] == "insert_only"
    assert "ordering=strong" in server.options[first]
    assert server.requests[first + 1 :][:2] == [
        "GET /collections/docs/exists",
        "POST /collections/docs/points",
    ]


def test_no_more_than_32_paths_of_numbers_get_an_index(server: QdrantServer):
    with QdrantIndex(url=server.url) as index:
        index.upsert(records(ENCODER, TEXTS, **{f"key{number}": 1 for number in range(150)}))
        index.upsert(records(ENCODER, {"more": "text"}, other=1))
    indexed = [body["field_name"] for body in server.bodies if "field_name" in body]
    assert sum(name.startswith("numbers.") for name in indexed) == 32


def test_where_the_server_allows_no_more_indexes_the_rest_has_none(server: QdrantServer):
    server.most_indexes = 4  # two of which are for leaves and order
    with QdrantIndex("docs", url=server.url) as index:
        index.upsert(records(ENCODER, TEXTS, a=1, b=2, c=3, d=4))
        index.upsert(records(ENCODER, {"four": "red"}, e=5))
        assert len(server.schema) == 4
        assert server.requests.count("PUT /collections/docs/index") == 5
        for key in "abcd":
            assert index.candidates(_query(), 9, parse_filter({key: {"$gt": 0}})) == [*TEXTS]


def test_a_path_that_no_document_has_is_not_compared_in_strict_mode(index, server):
    server.strict = True
    for asked, found in (
        ({"year": {"$gt": 2000}}, [*TEXTS]),
        ({"nowhere": {"$gt": 2000}}, []),
        ({"$not": {"nowhere": {"$gt": 2000}}}, [*TEXTS]),
        ({"$or": [{"nowhere": {"$gt": 2000}}, {"year": 2024}]}, [*TEXTS]),
    ):
        assert index.candidates(_query(), 9, parse_filter(asked)) == found


def test_a_path_that_another_writer_indexed_is_compared(index, server):
    server.strict = True
    assert index.candidates(_query(), 9, parse_filter({"page": {"$gt": 1}})) == []
    with QdrantIndex("docs", url=server.url) as other:
        other.upsert(records(ENCODER, {"four": "red"}, page=2))
    assert index.candidates(_query(), 9, parse_filter({"page": {"$gt": 1}})) == ["four"]


def test_a_path_with_numbers_and_no_index_is_refused_not_passed_over(server: QdrantServer):
    server.most_indexes = 2
    with QdrantIndex("docs", url=server.url) as index:
        index.upsert(records(ENCODER, TEXTS, year=2024))
        server.strict = True
        with pytest.raises(HybridIndexError, match="Index required but not found"):
            index.candidates(_query(), 9, parse_filter({"year": {"$gt": 2000}}))


@pytest.mark.parametrize(
    ("tokens", "pooling", "takes", "fitting"), [(1024, 1, 1023, 2), (4096, 2, 2046, 5)]
)
def test_a_document_of_too_many_tokens_is_refused_before_anything_is_sent(
    server: QdrantServer, tokens, pooling, takes, fitting
):
    rng = np.random.default_rng(0)

    def record(id_: str, count: int) -> IndexRecord:
        return IndexRecord(
            id_, "", {}, HybridEmbedding(multi_vector=rng.normal(size=(count, 1024)))
        )

    message = (
        f"document 'long' has {tokens:,} token vectors of 1,024 .* takes {takes:,} at most"
        f".*token_pooling={fitting}"
    )
    with QdrantIndex("docs", url=server.url, token_pooling=pooling) as index:
        with pytest.raises(InvalidInputError, match=message):
            index.upsert([record("short", 1), record("long", tokens)])
        assert {request.split()[0] for request in server.requests} == {"GET"}
    with QdrantIndex("docs", url=server.url) as index:
        index.upsert([record("just", 1023)])  # which the server would refuse with one more
        assert index.count() == 1


def test_large_batches_are_sent_in_parts(server: QdrantServer):
    tokens = HybridEmbedding(multi_vector=np.ones((100, 50), np.float32))
    many = [IndexRecord(str(number), "", {}, tokens) for number in range(7)]
    with QdrantIndex("docs", url=server.url, batch_bytes=250_000) as index:
        index.upsert(many)
        sent = [len(body["points"]) for body in server.bodies if "points" in body]
        assert sent == [1, 2, 2, 2, 1]  # the properties come first
        assert index.count() == 7


# What goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", ["reset", "lose", (500, {}), (502, {}), (503, {}), (429, {})])
def test_passing_failures_are_sent_again(index: QdrantIndex, server: QdrantServer, waits, failure):
    server.failures = [failure, failure]
    index.upsert(records(ENCODER, {"four": "red tree"}))
    assert server.requests == ["PUT /collections/docs/points"] * 3
    assert len(waits) == 2
    assert index.count() == 4


def test_a_lost_reply_to_the_first_of_all_requests_does_no_harm(server: QdrantServer):
    with QdrantIndex("docs", url=server.url) as index:
        server.failures = [None, None, "lose", "lose"]  # the collection is made, and made again
        index.upsert(records(ENCODER, TEXTS))
        assert index.count() == 3


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, AuthenticationError, r"refused .*\(401\).*Pass an api_key"),
        (403, AuthenticationError, r"\(403\)"),
        (400, HybridIndexError, r"\(400\): .*status 400 it is"),
        (404, HybridIndexError, r"\(404\).*Check the URL"),
        (413, HybridIndexError, r"\(413\).*batch_bytes"),
    ],
)
def test_what_will_fail_again_is_sent_once(index, server, waits, status, kind, message):
    server.failures = [(status, {})] * 9
    with pytest.raises(kind, match=message) as raised:
        index.search(_query(), 5)
    assert server.url in str(raised.value)
    assert len(server.requests) == 1
    assert waits == []


def test_a_body_that_is_too_large_says_what_to_lower(index: QdrantIndex, server: QdrantServer):
    told = "JSON payload (33554433 bytes) is larger than allowed (limit: 33554432 bytes)."
    server.failures = [(400, {}, told)]
    with pytest.raises(HybridIndexError, match=r"\(400\).*larger than allowed.*Lower batch_bytes"):
        index.upsert(records(ENCODER, TEXTS))


def test_a_wait_until_a_date_is_sent_again_like_any_other(index, server, waits):
    server.failures = [(429, {"Retry-After": "Wed, 21 Oct 2065 07:28:00 GMT"})]
    assert index.count() == 3
    assert len(waits) == 1
    server.failures = [(429, {"Retry-After": "Wed, 21 Oct 2065 07:28:00 GMT"})] * 9
    with pytest.raises(RateLimitError):
        index.count()


@pytest.mark.parametrize("grpc", [False, True])
def test_a_client_that_its_owner_closed_is_named(server: QdrantServer, waits, grpc):
    client = qdrant_client.QdrantClient(server.url, prefer_grpc=grpc, check_compatibility=False)
    index = QdrantIndex("docs", client=client)
    client.close()
    with pytest.raises(HybridIndexError, match=r"was not asked: .*closed.*another one"):
        index.count()
    assert waits == []


def test_a_mistake_of_this_package_is_not_the_servers(index: QdrantIndex):
    def ask() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug") as raised:
        index._engine._send(ask)  # type: ignore[attr-defined]
    assert not isinstance(raised.value, EmbeddingError)


@pytest.mark.parametrize(
    ("code", "kind", "sent"),
    [
        ("UNKNOWN", HybridIndexError, 3),
        ("ABORTED", HybridIndexError, 3),
        ("CANCELLED", HybridIndexError, 3),
        ("UNAVAILABLE", HybridIndexError, 3),
        ("UNAUTHENTICATED", AuthenticationError, 1),
        ("INVALID_ARGUMENT", HybridIndexError, 1),
    ],
)
def test_grpc_codes_are_sent_again_where_they_pass(server: QdrantServer, waits, code, kind, sent):
    asked: list[str] = []

    class Aborting(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, call: Any) -> Any:
            def abort(_request: bytes, context: Any) -> None:
                asked.append(call.method)
                context.abort(grpc.StatusCode[code], "so be it")

            return grpc.unary_unary_rpc_method_handler(abort)

    aborting = grpc.server(ThreadPoolExecutor(2))
    aborting.add_generic_rpc_handlers((Aborting(),))
    port = aborting.add_insecure_port("127.0.0.1:0")
    aborting.start()
    client = qdrant_client.QdrantClient(
        server.url, grpc_port=port, prefer_grpc=True, check_compatibility=False
    )
    try:
        with pytest.raises(kind, match="so be it"):
            QdrantIndex("docs", client=client, max_retries=2).count()
        assert len(asked) == sent
    finally:
        client.close()
        aborting.stop(None).wait()


@pytest.mark.parametrize(
    ("failure", "kind"),
    [(500, HybridIndexError), (429, RateLimitError), ("reset", HybridIndexError)],
)
def test_retries_run_out(server: QdrantServer, failure, kind):
    server.failures = [failure if failure == "reset" else (failure, {})] * 9
    index = QdrantIndex("docs", url=server.url, max_retries=2)
    with index, pytest.raises(kind, match=re.escape(server.url)):
        index.count()
    assert len(server.requests) == 3


def test_a_wait_that_the_server_asks_for_is_kept(index, server, waits):
    server.failures = [(429, {"Retry-After": "7"})]
    index.count()
    assert 7 <= waits[0] <= 8


def test_a_wait_of_hours_raises_at_once_and_names_it(index, server, waits):
    server.failures = [(429, {"Retry-After": "7200"})]
    with pytest.raises(RateLimitError, match="asks to wait 7200 s"):
        index.count()
    assert waits == []


def test_no_reply_in_time_is_a_timeout(index: QdrantIndex, server: QdrantServer):
    with QdrantIndex("docs", url=server.url, timeout=0.5, max_retries=0) as quick:
        server.delay = 20
        with pytest.raises(EndpointTimeoutError, match="Raise timeout"):
            quick.count()


def test_no_server_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    index = QdrantIndex("docs", url=f"http://127.0.0.1:{port}", max_retries=1)
    with index, pytest.raises(HybridIndexError, match=f"//127.0.0.1:{port} can't be reached"):
        index.count()


@pytest.mark.parametrize("key", [KEY, SecretStr(KEY)])
def test_the_key_goes_to_the_server_and_nowhere_else(server: QdrantServer, key):
    with pytest.warns(UserWarning, match="insecure connection"):
        index = QdrantIndex("docs", url=server.url, api_key=key, max_retries=0)
    with index:
        assert KEY not in repr(index) + str(vars(index)) + repr(index._engine)
        assert index.count() == 0
        assert server.keys == {KEY}
        for failure in ((401, {}), (500, {}), "reset"):
            server.failures = [failure]
            with pytest.raises(EmbeddingError) as raised:
                index.count()
            told = traceback.format_exception(raised.value)
            assert KEY not in "".join(told)
