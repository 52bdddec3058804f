"""The test double of Text Embeddings Inference keeps TEI's own contract, and its faults happen."""

from __future__ import annotations

import base64
import json
import math
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings

from tests import tei_faults as faults
from tests.tei_contract import hash_vectors
from tests.tei_server import TEIServer

ROOT = Path(__file__).parents[2]
# TEI's description of itself, docs/openapi.json of huggingface/text-embeddings-inference.
OPENAPI = Path(os.environ.get("TEI_OPENAPI", ROOT.parent / "shared/data/tei/openapi.json"))
KINDS = {"/rerank": "reranker", "/embed_sparse": "sparse"}  # the others embed
POSTS = ["/embed", "/embed_all", "/embed_sparse", "/rerank", "/v1/embeddings"]
# A GET without parameters can't be invalid.
REQUESTS = [("POST", path, valid) for path in POSTS for valid in (True, False)]
REQUESTS += [("GET", path, True) for path in ("/info", "/health", "/metrics")]
TEXTS = ["a", "b c", "d e f"]
VECTORS = hash_vectors(TEXTS)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, TEIServer]]:
    """One of each kind; the limits are so low that generated texts reach them."""
    limits: dict[str, Any] = {"max_client_batch_size": 3, "max_input_length": 5}
    with (
        TEIServer(kind="embedding", prompts={"query": "query: "}, **limits) as embedding,
        TEIServer(kind="reranker", auto_truncate=False, **limits) as reranker,
        TEIServer(kind="sparse", **limits) as sparse,
    ):
        yield {"embedding": embedding, "reranker": reranker, "sparse": sparse}


@pytest.fixture(scope="module")
def description() -> Any:
    if not OPENAPI.is_file():
        pytest.skip(f"TEI's openapi.json is not at {OPENAPI}; TEI_OPENAPI may say where it is")
    schemathesis = pytest.importorskip("schemathesis")
    document = json.loads(OPENAPI.read_text(encoding="utf-8"))
    # The server renames this field when it writes it, and the description misses that: its own
    # examples have `type`.
    error = document["components"]["schemas"]["OpenAICompatErrorResponse"]
    error["properties"]["type"] = error["properties"].pop("error_type")
    error["required"] = ["message", "code", "type"]
    # A usize on the server, for which the description has no maximum.
    for schema in document["components"]["schemas"].values():
        if "dimensions" in schema.get("properties", {}):
            schema["properties"]["dimensions"]["maximum"] = 2**64 - 1
    return schemathesis.openapi.from_dict(document)


@pytest.mark.parametrize(("method", "path", "valid"), REQUESTS)
def test_it_keeps_teis_openapi_description(
    method: str, path: str, valid: bool, description: Any, servers: dict[str, TEIServer]
) -> None:
    """Replies to valid requests have the described types; invalid requests are refused.

    What refuses a request by its types is TEI's web framework, in plain text, which the
    description leaves out. Hence a valid request must never be answered in plain text.
    """
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi import checks

    mode = GenerationMode.POSITIVE if valid else GenerationMode.NEGATIVE
    excluded: list[Any] = [
        checks.positive_data_acceptance
    ]  # "" is of the right type, and refused as empty
    if not valid:
        excluded += [checks.content_type_conformance, checks.response_schema_conformance]
    url = servers[KINDS.get(path, "embedding")].url
    statuses = set()

    @given(case=description[path][method].as_strategy(generation_mode=mode))
    @settings(max_examples=50)
    def check(case: Any) -> None:
        response = case.call(base_url=url)
        statuses.add(response.status_code)
        case.validate_response(response, excluded_checks=excluded)

    check()
    assert (200 in statuses) == valid


def post(server: TEIServer, path: str = "/embed", **body: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=body or {"inputs": TEXTS}, timeout=5)


def error_type(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error_type"]


@pytest.mark.parametrize(("version", "code"), [("1.8.0", 413), ("1.9.3", 422)])
def test_limits_are_validation_errors_whose_status_depends_on_the_version(
    version: str, code: int
) -> None:
    with TEIServer(version=version, max_client_batch_size=2, max_input_length=2) as server:
        large = post(server, inputs=["a", "b", "c"])
        long = post(server, inputs="a b c", truncate=False)
        unknown = post(server, inputs="a", prompt_name="query")
        cut = [post(server, inputs="a b c", truncate=truncate) for truncate in (True, None)]
        left = post(server, inputs="a b c", truncation_direction="Left")
    assert [error_type(reply) for reply in (large, long, unknown)] == [(code, "Validation")] * 3
    assert large.json()["error"] == "batch size 3 > maximum allowed batch size 2"
    assert "must have less than 2 tokens. Given: 3" in long.json()["error"]
    assert "`query`" in unknown.json()["error"]
    assert [reply.json() for reply in cut] == [hash_vectors(["a b"])] * 2
    assert left.json() == hash_vectors(["b c"])


def test_null_leaves_truncation_to_the_server() -> None:
    with TEIServer(max_input_length=2, auto_truncate=False) as server:
        assert error_type(post(server, inputs="a b c", truncate=None)) == (422, "Validation")


@pytest.mark.parametrize("inputs", [[], "", ["a", "", "b"]])
def test_one_empty_text_fails_the_batch(inputs: object) -> None:
    with TEIServer() as server:
        assert error_type(post(server, inputs=inputs)) == (400, "Empty")


def test_wrong_types_are_refused_in_plain_text() -> None:
    with TEIServer() as server:
        replies = [
            post(server, inputs=1),
            post(server, inputs="a", truncate=1),
            post(server, inputs="a", truncation_direction="left"),
            post(server, truncate=True),
        ]
    assert {reply.status_code for reply in replies} == {422}
    assert {reply.headers["content-type"] for reply in replies} == {"text/plain; charset=utf-8"}


def test_a_body_over_the_limit_is_refused_in_plain_text() -> None:
    with TEIServer(payload_limit=100) as server:
        reply = post(server, inputs="a" * 100)
    assert (reply.status_code, reply.headers["content-type"][:10]) == (413, "text/plain")


def test_without_the_key_there_is_a_401_with_an_empty_body() -> None:
    with TEIServer(api_key="secret") as server:
        refused, public = post(server), httpx.get(server.url + "/health")
        allowed = httpx.get(server.url + "/info", headers={"authorization": "Bearer secret"})
    assert (refused.status_code, refused.content) == (401, b"")
    assert (public.status_code, allowed.status_code) == (200, 200)


def test_another_kind_of_model_is_a_backend_error() -> None:
    with TEIServer(kind="reranker") as server:
        assert error_type(post(server)) == (424, "Backend")
        assert post(server, "/", query="q", texts=["a"]).status_code == 200
    with TEIServer() as server:
        assert error_type(post(server, "/rerank", query="q", texts=["a"])) == (424, "Backend")
        assert error_type(post(server, "/embed_sparse")) == (424, "Backend")


def test_what_a_model_raises_is_a_backend_error() -> None:
    def embed(texts: list[str]) -> list[list[float]]:
        raise RuntimeError("out of memory")

    with TEIServer(embed=embed) as server:
        assert error_type(post(server)) == (424, "Backend")


def test_ranks_are_sorted_by_score_and_tell_their_text() -> None:
    with TEIServer(kind="reranker") as server:
        reply = post(server, "/rerank", query="a b", texts=["c", "a b", "b"], return_text=True)
    assert [(rank["index"], rank["text"]) for rank in reply.json()] == [
        (1, "a b"),
        (2, "b"),
        (0, "c"),
    ]
    assert all(0 < rank["score"] < 1 for rank in reply.json())


def test_vectors_are_scaled_and_shortened_on_request() -> None:
    with TEIServer(embed=lambda texts: [[3.0, 4.0, 0.0] for _ in texts]) as server:
        assert post(server, inputs="a").json() == [[0.6, 0.8, 0.0]]
        assert post(server, inputs="a", normalize=False).json() == [[3.0, 4.0, 0.0]]
        assert post(server, inputs="a", dimensions=1).json() == [[1.0]]
        assert error_type(post(server, inputs="a", dimensions=4)) == (422, "Validation")


def test_a_prompt_is_put_in_front() -> None:
    with TEIServer(prompts={"query": "query: "}) as server:
        assert post(server, inputs="a", prompt_name="query").json() == hash_vectors(["query: a"])


def test_openai_style_replies_are_indexed_and_may_be_base64() -> None:
    with TEIServer() as server:
        plain = post(server, "/v1/embeddings", input=TEXTS).json()["data"]
        packed = post(server, "/v1/embeddings", input=TEXTS, encoding_format="base64").json()[
            "data"
        ]
        refused = post(server, "/v1/embeddings", input=[])
    assert [(item["index"], item["embedding"]) for item in plain] == list(enumerate(VECTORS))
    first = np.frombuffer(base64.b64decode(packed[0]["embedding"]), "<f4")
    np.testing.assert_allclose(first, VECTORS[0], rtol=1e-6)
    assert refused.json()["type"] == "Empty"


def test_other_servers_have_no_info_and_a_sick_one_says_so() -> None:
    with TEIServer(has_info=False) as server:
        assert httpx.get(server.url + "/info").status_code == 404
        server.healthy = False
        assert error_type(httpx.get(server.url + "/health")) == (503, "Unhealthy")


@pytest.mark.parametrize(("version", "refused"), [("1.8.0", 0), ("1.9.3", 1)])
def test_permits_are_taken_per_text_since_1_9(version: str, refused: int) -> None:
    with (
        TEIServer(version=version, max_concurrent_requests=4, latency=0.3) as server,
        ThreadPoolExecutor(2) as pool,
    ):
        replies = list(pool.map(lambda _: post(server), range(2)))
    overloaded = [reply for reply in replies if reply.status_code == 429]
    assert len(overloaded) == refused
    assert all("retry-after" not in reply.headers for reply in overloaded)
    assert (server.max_inputs_in_flight, server.max_requests_in_flight) == (6, 2)


def test_64_requests_are_in_flight_at_once() -> None:
    with (
        TEIServer(latency=1.0) as server,
        httpx.Client(base_url=server.url, limits=httpx.Limits(max_connections=64)) as client,
        ThreadPoolExecutor(64) as pool,
    ):
        replies = pool.map(lambda _: client.post("/embed", json={"inputs": "a"}), range(64))
        codes = {reply.status_code for reply in replies}
    assert codes == {200}
    assert server.max_requests_in_flight == 64


def test_the_record_tells_what_was_asked_when_and_on_how_many_connections() -> None:
    with TEIServer(latency=0.05) as server:
        with httpx.Client(base_url=server.url) as client:
            client.get("/info")
            client.post("/embed", json={"inputs": TEXTS}, headers={"x-test": "1"})
            client.post("/embed", json={"inputs": []})
            assert (server.connections.opened, server.connections.open) == (1, 1)
        info, embed, empty = server.record
    assert (info.number, embed.number, empty.number) == (0, 1, 2)
    assert (embed.path, embed.texts, embed.inputs, embed.status) == ("/embed", TEXTS, 3, 200)
    assert embed.headers["x-test"] == "1"
    assert embed.ended is not None
    assert embed.ended - embed.started >= 0.05
    assert server.connections.open == 0


def test_of_a_long_record_the_end_is_kept() -> None:
    with TEIServer(max_record=2) as server:
        lengths = []
        for _ in range(4):
            post(server)
            lengths.append(len(server.record))
        metrics = httpx.get(server.url + "/metrics").text
    assert lengths == [1, 2, 2, 2]
    assert [entry.number for entry in server.record] == [4, 0]
    assert 'te_request_success{method="batch"} 4' in metrics.splitlines()


def test_a_client_that_leaves_gives_its_permits_back() -> None:
    with TEIServer(max_concurrent_requests=3, faults={1: faults.hang(30)}) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(server.url + "/embed", json={"inputs": TEXTS}, timeout=0.2)
        assert post(server).status_code == 200
    assert (server.record[0].status, server.max_inputs_in_flight) == (0, 3)


@pytest.mark.parametrize(
    ("fault", "code", "expected"),
    [
        (faults.overloaded(), 429, {"error": "Model is overloaded", "error_type": "Overloaded"}),
        (faults.unavailable(502), 502, {"error": "502 Service Unavailable"}),
        (
            faults.loading(20, "org/x"),
            503,
            {"error": "Model org/x is currently loading", "estimated_time": 20},
        ),
        (faults.status(500, json=[1]), 500, [1]),
        (faults.vector_too_few(), 200, VECTORS[:2]),
        (faults.null_in_vector(1), 200, [VECTORS[0], [None, *VECTORS[1][1:]], VECTORS[2]]),
        (faults.ragged(), 200, [VECTORS[0][:-1], *VECTORS[1:]]),
        (faults.token_level(), 200, [[vector, vector] for vector in VECTORS]),
    ],
)
def test_a_fault_happens_to_the_request_of_its_number(
    fault: faults.Fault, code: int, expected: object
) -> None:
    with TEIServer(faults={2: fault}) as server:
        replies = [post(server) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200, code, 200]
    assert replies[0].json() == replies[2].json() == VECTORS
    assert replies[1].json() == expected


def test_a_nan_is_written_bare() -> None:
    with TEIServer(faults={1: faults.nan_in_vector()}) as server:
        reply = post(server)
    assert reply.text.startswith("[[NaN, ")
    assert math.isnan(reply.json()[0][0])


def test_headers_of_a_fault_are_sent() -> None:
    limited = faults.status(429, headers={"Retry-After": "1"}, json={})
    script = {1: limited, 2: faults.html_page(), 3: faults.redirect("http://127.0.0.1:9/x")}
    with TEIServer(faults=script) as server:
        late, page, elsewhere = (post(server) for _ in range(3))
    assert late.headers["retry-after"] == "1"
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html")
    assert (elsewhere.status_code, elsewhere.headers["location"]) == (307, "http://127.0.0.1:9/x")


def test_a_reset_comes_in_the_middle_of_the_body() -> None:
    with TEIServer(faults={1: faults.reset()}) as server:
        with httpx.stream("POST", server.url + "/embed", json={"inputs": TEXTS}) as reply:
            pieces = reply.iter_raw()
            begun = next(pieces)
            with pytest.raises(httpx.ReadError, match="reset"):
                next(pieces)
        assert (reply.status_code, begun[:2]) == (200, b"[[")
        assert post(server).json() == VECTORS


def test_truncated_json_is_whole_as_http() -> None:
    with TEIServer(faults={1: faults.truncated_json()}) as server:
        reply = post(server)
    assert reply.content.startswith(b"[[")
    with pytest.raises(json.JSONDecodeError):
        reply.json()


def test_a_hanging_reply_comes_late_and_a_dripping_one_in_pieces() -> None:
    with TEIServer(faults={1: faults.hang(0.3), 2: faults.drip(0.4)}) as server:
        begun = time.monotonic()
        assert post(server).json() == VECTORS
        hung = time.monotonic() - begun
        reply = httpx.post(server.url + "/embed", json={"inputs": TEXTS}, timeout=0.3)
        assert reply.json() == VECTORS
        dripped = time.monotonic() - begun - hung
    assert hung >= 0.3
    assert dripped >= 0.4


def test_a_cold_start_lasts_from_the_first_request_on_and_may_hide_every_route() -> None:
    with TEIServer(gate=faults.starting(0.3)) as server:
        assert httpx.get(server.url + "/info").status_code == 503
        assert "error_type" not in post(server).json()
        time.sleep(0.3)
        assert post(server).json() == VECTORS


def test_a_script_is_asked_about_each_post() -> None:
    def script(number: int, entry: faults.Entry) -> faults.Fault | None:
        return faults.overloaded() if "b c" in entry.texts and number > 1 else None

    with TEIServer(faults=script) as server:
        codes = [post(server, inputs=text).status_code for text in ("b c", "b c", "a")]
    assert codes == [200, 429, 200]


def test_it_comes_back_on_the_same_port_and_leaves_no_thread() -> None:
    threads, server = threading.enumerate(), TEIServer()
    for _ in range(2):
        server.start()
        assert post(server).status_code == 200
        server.stop()
        with pytest.raises(httpx.ConnectError):
            post(server)
    assert set(threading.enumerate()) <= set(threads)
