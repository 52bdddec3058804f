"""`HuggingFaceEndpointSparseEmbeddings` against a TEI that serves a SPLADE model, on loopback."""

from __future__ import annotations

import copy
import math
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from langchain_hfembed import (
    AuthenticationError,
    ColdStartError,
    EmbeddingError,
    HybridVectorStore,
    IndexMismatchError,
    InvalidInputError,
    InvalidResponseError,
    ModelNotFoundError,
    RateLimitError,
)
from langchain_hfembed.embeddings.endpoint_sparse import HuggingFaceEndpointSparseEmbeddings
from langchain_hfembed.vectors import HybridEmbedding
from tests import tei_faults as faults
from tests.tei_contract import sparse_weights
from tests.tei_faults import Fault
from tests.tei_server import TEIServer

# Of many lengths, so that the order of sending is not the order of the list.
TEXTS = [f"text {number}" + f" word{number % 5}" * (number * 7 % 23) for number in range(100)]
SECRET = "s3cr3t" * 4

Make = Callable[..., HuggingFaceEndpointSparseEmbeddings]


@pytest.fixture(scope="module")
def shared() -> Iterator[TEIServer]:
    with TEIServer(kind="sparse") as server:
        yield server


@pytest.fixture
def server(shared: TEIServer, quick_and_nobody: None) -> TEIServer:
    """Without faults and with an empty record."""
    shared.faults, shared.gate, shared.api_key, shared.prompts = {}, None, None, {}
    shared.has_info, shared.max_client_batch_size, shared.max_input_length = True, 32, 512
    shared.model_id = "org/model"
    shared.clear()
    return shared


@pytest.fixture
def make(server: TEIServer) -> Iterator[Make]:
    """Encoders for the server; closed in the end."""
    made: list[HuggingFaceEndpointSparseEmbeddings] = []

    def encoder(**parameters: Any) -> HuggingFaceEndpointSparseEmbeddings:
        given = {"endpoint_url": server.url, **parameters}
        made.append(HuggingFaceEndpointSparseEmbeddings(**given))
        return made[-1]

    yield encoder
    for each in made:
        each.close()


def weights(embeddings: list[HybridEmbedding]) -> list[dict[int, float]]:
    """Rounded to what float32 holds."""
    assert all(embedding.views == ("sparse",) for embedding in embeddings)
    found = [embedding.sparse.to_dict() for embedding in embeddings if embedding.sparse is not None]
    return [{i: round(value, 5) for i, value in each.items()} for each in found]


def expected(*texts: str) -> list[dict[int, float]]:
    rows = map(sparse_weights, texts)
    return [{int(pair["index"]): round(pair["value"], 5) for pair in row} for row in rows]


def posts(server: TEIServer) -> list[faults.Entry]:
    return [entry for entry in server.record if entry.method == "POST"]


def asked_for_info(server: TEIServer) -> int:
    return sum(entry.path == "/info" for entry in server.record)


# What is sent, and what comes back.


def test_each_text_gets_its_own_vector_whatever_the_batches(make: Make, server: TEIServer) -> None:
    encoder = make()
    assert encoder.views == ("sparse",)
    assert weights(encoder.encode_documents(TEXTS)) == expected(*TEXTS)
    assert sorted(entry.inputs for entry in posts(server)) == [4, 32, 32, 32]
    assert weights(encoder.encode_queries(TEXTS[::-1])) == expected(*TEXTS[::-1])
    assert asked_for_info(server) == 1


def test_a_stream_gives_the_same_vectors_as_a_list(make: Make, server: TEIServer) -> None:
    stream = make().iter_encode_documents(iter(TEXTS))
    assert not server.record
    assert weights(list(stream)) == expected(*TEXTS)


def test_a_batch_is_no_larger_than_asked_for_or_taken(make: Make, server: TEIServer) -> None:
    server.max_client_batch_size = 8
    make().encode_documents(TEXTS)
    assert max(entry.inputs for entry in posts(server)) == 8
    server.clear()
    make(batch_size=3).encode_documents(TEXTS)
    assert max(entry.inputs for entry in posts(server)) == 3


def test_texts_are_sent_as_they_are(make: Make, server: TEIServer) -> None:
    texts = [" spaces ", "line\nbreak", "nul \0", "한국", "</s>"]
    make().encode_documents(texts)
    [entry] = posts(server)
    assert sorted(entry.texts) == sorted(texts)
    assert entry.json.keys() == {"inputs"}


def test_no_texts_are_an_empty_list_and_no_request(make: Make, server: TEIServer) -> None:
    encoder = make()
    assert encoder.encode_documents([]) == encoder.encode_queries([]) == []
    assert list(encoder.iter_encode_documents([])) == []
    assert not server.record


def test_a_text_without_tokens_has_an_empty_vector(make: Make) -> None:
    assert weights(make().encode_documents(["a", " ", "b"])) == expected("a", " ", "b")
    assert expected(" ") == [{}]


@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        ({"truncate": True}, {"truncate": True}),
        ({"truncate": False}, {"truncate": False}),
        ({"truncation_direction": "left"}, {"truncation_direction": "Left"}),
    ],
)
def test_what_is_sent_is_what_tei_calls_it(
    parameters: dict[str, Any], options: dict[str, Any], make: Make, server: TEIServer
) -> None:
    make(**parameters).encode_documents(["a"])
    [entry] = posts(server)
    assert (entry.path, entry.json) == ("/embed_sparse", {"inputs": ["a"], **options})


def test_a_text_in_front_is_put_before_queries_or_documents_alone(
    make: Make, server: TEIServer
) -> None:
    encoder = make(query_prompt="query: ", document_prompt="passage: ")
    assert weights(encoder.encode_queries(["a"])) == expected("query: a")
    assert weights(encoder.encode_documents(["a"])) == expected("passage: a")
    assert weights(list(encoder.iter_encode_documents(["a"]))) == expected("passage: a")


def test_the_models_own_prompts_are_asked_for_by_name(make: Make, server: TEIServer) -> None:
    server.prompts = {"q": "query: ", "d": "passage: "}
    encoder = make(query_prompt_name="q", document_prompt_name="d")
    assert weights(encoder.encode_queries(["a"])) == expected("query: a")
    assert weights(encoder.encode_documents(["a"])) == expected("passage: a")
    assert [entry.json["prompt_name"] for entry in posts(server)] == ["q", "d"]
    with pytest.raises(InvalidInputError, match="`x` but it was not found") as caught:
        make(document_prompt_name="x").encode_documents(["a", "b"])
    assert caught.value.indices == ()


@pytest.mark.parametrize(
    ("path", "has_info", "asked"),
    [
        ("", True, "/embed_sparse"),
        ("/", True, "/embed_sparse"),
        ("", False, "/"),
        ("/embed_sparse", True, "/embed_sparse"),
        ("/invocations", True, "/invocations"),
    ],
)
def test_a_bare_host_is_asked_for_embed_sparse_and_a_path_is_used_as_it_is(
    path: str, has_info: bool, asked: str, make: Make, server: TEIServer
) -> None:
    server.has_info = has_info
    encoder = make(endpoint_url=server.url + path)
    assert weights(encoder.encode_documents(["a b"])) == expected("a b")
    assert [entry.path for entry in posts(server)] == [asked]


# What is refused, and what fails.


@pytest.mark.parametrize(
    ("texts", "indices", "told"),
    [
        (["a", "", "b", ""], (1, 3), "text 1 is empty"),
        (["a", "lone \ud800"], (1,), "text 1"),
        (["a", 3], (1,), "text 1 is int"),
        ("a", (), "expected a list"),
        (None, (), "expected a list"),
    ],
)
def test_what_cant_be_sent_is_told_before_anything_is(
    texts: Any, indices: tuple[int, ...], told: str, make: Make, server: TEIServer
) -> None:
    # A prompt makes no empty text a full one.
    encoder = make(document_prompt="passage: ", query_prompt="query: ")
    for encode in (
        encoder.encode_documents,
        encoder.encode_queries,
        lambda texts: list(encoder.iter_encode_documents(texts)),
    ):
        with pytest.raises(InvalidInputError, match=told) as caught:
            encode(texts)
        if told == "text 1 is empty":  # in a stream, what came before a text is sent
            assert not server.record
        assert caught.value.indices == indices


def test_an_empty_text_far_down_a_stream_is_told_by_its_position(make: Make) -> None:
    texts = ["a"] * 1500
    texts[1300] = ""
    stream = make().iter_encode_documents(texts)
    with pytest.raises(InvalidInputError) as caught:
        for _ in stream:
            pass
    assert caught.value.indices == (1300,)


def test_a_text_that_is_too_long_is_cut_or_told_by_its_position(
    make: Make, server: TEIServer
) -> None:
    server.max_input_length = 5
    texts = [f"a{number}" for number in range(40)]
    texts[17] = "b c d e f g"
    first, last = weights([make().encode_documents(texts)[17]]), expected("b c d e f")
    assert first == last
    left = make(truncation_direction="left").encode_documents(texts)
    assert weights([left[17]]) == expected("c d e f g")
    with pytest.raises(InvalidInputError, match=r"text 17: .*less than 5 tokens") as caught:
        make(truncate=False).encode_documents(texts)
    assert caught.value.indices == (17,)


@pytest.mark.parametrize(
    "fault",
    [faults.overloaded(), faults.unavailable(503), faults.status(500, text="oops"), faults.reset()],
    ids=["429", "503", "500", "reset"],
)
def test_a_passing_failure_is_sat_through(fault: Fault, make: Make, server: TEIServer) -> None:
    server.faults = {1: fault}
    assert weights(make().encode_documents(["a", "b"])) == expected("a", "b")
    assert len(posts(server)) == 2


def spoilt(row: Any) -> Fault:
    """The first text gets this vector."""
    return Fault(alter=lambda rows: [row, *rows[1:]])


@pytest.mark.parametrize(
    ("fault", "kind", "told", "indices", "attempts"),
    [
        (faults.overloaded(), RateLimitError, "429: Model is overloaded", (0, 1, 2), 3),
        (faults.unavailable(503), ColdStartError, "answered 503", (0, 1, 2), None),
        (faults.status(404), ModelNotFoundError, "answered 404", (0, 1, 2), 1),
        (faults.status(401), AuthenticationError, "no token was sent", (0, 1, 2), 1),
        (faults.vector_too_few(), InvalidResponseError, "3 texts with 2 vectors", (0, 1, 2), 1),
        (spoilt([{"index": 3, "value": None}]), InvalidResponseError, "null, NaN", (2,), 1),
        (spoilt([{"index": 3, "value": math.nan}]), InvalidResponseError, "null, NaN", (2,), 1),
        (spoilt([{"index": 3, "value": 1}] * 2), InvalidResponseError, "twice", (2,), 1),
        (spoilt({"index": 3, "value": 1}), InvalidResponseError, "index and value", (2,), 1),
        (faults.html_page(), InvalidResponseError, "text/html, not JSON", (0, 1, 2), 1),
        (faults.truncated_json(), InvalidResponseError, "not JSON", (0, 1, 2), 1),
    ],
)
def test_a_lasting_failure_is_an_error_with_the_texts_concerned(
    fault: Fault,
    kind: type[EmbeddingError],
    told: str,
    indices: tuple[int, ...],
    attempts: int | None,
    make: Make,
    server: TEIServer,
) -> None:
    """The longest text is sent first, which is the last one."""
    server.faults = lambda number, entry: fault
    with pytest.raises(kind, match=told) as caught:
        make(max_retries=2, cold_start_timeout=0.1).encode_documents(["a", "bb", "ccc"])
    assert type(caught.value) is kind
    assert caught.value.indices == indices
    assert caught.value.completed == {}
    assert attempts in (None, len(posts(server)))


def test_only_the_texts_of_the_request_that_failed_are_named(make: Make, server: TEIServer) -> None:
    """`.completed` is for dense vectors, and stays empty."""
    server.faults = {2: faults.html_page()}
    encoder = make(batch_size=10, max_concurrency=1)
    with pytest.raises(InvalidResponseError) as caught:
        encoder.encode_documents(TEXTS)
    failed = posts(server)[1]
    assert sorted(TEXTS[i] for i in caught.value.indices) == sorted(failed.texts)
    assert caught.value.completed == {}
    assert weights(encoder.encode_documents(TEXTS[:3])) == expected(*TEXTS[:3])


def test_a_dense_model_is_told_in_the_servers_words(make: Make) -> None:
    with TEIServer(kind="embedding") as server:
        with pytest.raises(
            EmbeddingError,
            match=r"/embed_sparse answered 424: .*SPLADE pooling.*serves.*dense.*--pooling splade",
        ) as caught:
            make(endpoint_url=server.url).encode_documents(["a"])
        assert type(caught.value) is EmbeddingError
        assert len(posts(server)) == 1


def test_a_url_of_dense_vectors_is_told_to_be_one(make: Make) -> None:
    with (
        TEIServer(kind="embedding") as server,
        pytest.raises(InvalidResponseError, match=r"dense vectors.* SPLADE model") as caught,
    ):
        make(endpoint_url=f"{server.url}/embed").encode_documents(["a", "b"])
    assert caught.value.indices == (0, 1)


def test_dense_vectors_and_other_views_are_refused(make: Make, server: TEIServer) -> None:
    encoder = make()
    for refused in (
        lambda: encoder.embed_query("a"),
        lambda: encoder.embed_documents(["a"]),
        lambda: encoder.encode_documents(["a"], ("dense",)),
    ):
        with pytest.raises(InvalidInputError, match=re.escape(server.url)):
            refused()
    assert weights(encoder.encode_documents(["a"], ("sparse",))) == expected("a")


# Its name, and what an index knows it by.


def test_the_fingerprint_is_that_of_the_servers_model_wherever_it_is(
    make: Make, server: TEIServer
) -> None:
    here = make().fingerprint
    assert re.fullmatch("[0-9a-f]{32}", here)
    assert make(endpoint_url=f"{server.url}/embed_sparse").fingerprint == here
    assert make(model="org/model").fingerprint == here
    with TEIServer(kind="sparse") as elsewhere:
        assert make(endpoint_url=elsewhere.url).fingerprint == here
        elsewhere.model_id = "org/another"
        assert make(endpoint_url=elsewhere.url).fingerprint != here


def test_a_model_that_is_named_is_not_asked_for(make: Make, server: TEIServer) -> None:
    encoder = make(model="org/splade")
    assert encoder.model_name == "org/splade"
    assert encoder.fingerprint == make(model="org/splade", endpoint_url="http://x").fingerprint
    assert not server.record


def test_a_copy_for_another_url_asks_there(make: Make) -> None:
    with TEIServer(kind="sparse", model_id="org/other") as other:
        moved = make().model_copy(update={"endpoint_url": other.url})
        assert moved.model_name == other.url
        assert moved.fingerprint == make(model="org/other").fingerprint


def test_what_follows_a_urls_path_is_in_no_message(make: Make) -> None:
    assert make(endpoint_url="http://localhost:1/x?key=secret").model_name == "http://localhost:1/x"


@pytest.mark.parametrize("nameless", ["no info", "a folder"])
def test_a_server_that_names_no_model_is_known_by_its_url(
    nameless: str, make: Make, server: TEIServer
) -> None:
    """On Inference Endpoints every model lies in /repository."""
    with TEIServer(kind="sparse") as elsewhere:
        for each in (server, elsewhere):
            each.has_info, each.model_id = nameless != "no info", "/repository"
        encoder = make()
        assert encoder.model_name == server.url
        assert encoder.fingerprint == make().fingerprint
        assert encoder.fingerprint != make(endpoint_url=elsewhere.url).fingerprint


@pytest.mark.parametrize(
    ("parameters", "differs"),
    [
        ({"document_prompt": "passage: "}, True),
        ({"document_prompt_name": "passage: "}, True),
        ({"document_prompt": ""}, False),
        ({"query_prompt": "query: "}, False),
        ({"query_prompt_name": "query"}, False),
        ({"truncate": True, "truncation_direction": "left"}, False),
        ({"batch_size": 3, "api_key": SECRET}, False),
    ],
)
def test_the_fingerprint_differs_with_what_is_put_in_front_of_documents_alone(
    parameters: dict[str, Any], differs: bool, make: Make
) -> None:
    assert (make(**parameters).fingerprint != make().fingerprint) is differs


def test_a_server_that_is_away_has_no_fingerprint(make: Make, server: TEIServer) -> None:
    """The URL in its place would shut out an index that was made while it was there."""
    server.gate = lambda number, entry: faults.status(500)
    with pytest.raises(EmbeddingError, match="answered 500"):
        _ = make(max_retries=1).fingerprint


# In a store.


def test_a_store_finds_texts_by_their_sparse_view_alone(
    make: Make, server: TEIServer, tmp_path: Path
) -> None:
    pages = ["the weather", "Seoul is the capital of Korea", "a capital idea"]
    path = tmp_path / "index.db"
    store = HybridVectorStore(make(), path=path)
    store.add_texts(pages, ids=["0", "1", "2"])
    hits = store.search("capital of Korea", k=2)
    assert [hit.document.id for hit in hits] == ["1", "2"]
    assert hits[0].scores.sparse == pytest.approx(3 * math.log(2) ** 2)
    assert hits[0].scores.dense is None
    store.index.close()

    reopened = HybridVectorStore(make(api_key=SECRET, query_prompt="Seoul "), path=path)
    assert reopened.similarity_search("?", k=1)[0].page_content == pages[1]
    reopened.index.close()
    with pytest.raises(IndexMismatchError):
        HybridVectorStore(make(document_prompt="x"), path=path).similarity_search("a")


# The object.


def test_threads_share_one_encoder_and_get_each_their_own_vectors(
    make: Make, server: TEIServer
) -> None:
    encoder = make(max_concurrency=4)
    barrier = threading.Barrier(8)

    def encode(number: int) -> list[dict[int, float]]:
        barrier.wait(10)
        return weights(encoder.encode_documents(TEXTS[number::8]))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(encode, range(8)))
    assert found == [expected(*TEXTS[number::8]) for number in range(8)]
    assert server.max_requests_in_flight <= 4
    assert asked_for_info(server) == 1


def test_pickling_drops_the_token_and_keeps_the_rest(make: Make, server: TEIServer) -> None:
    encoder = make(
        api_key=SecretStr(SECRET), headers={"Authorization": f"Basic {SECRET}"}, model="org/splade"
    )
    encoder.encode_documents(["a"])
    pickled = pickle.dumps(encoder)
    assert SECRET.encode() not in pickled
    revived = pickle.loads(pickled)
    assert revived.huggingfacehub_api_token is None
    assert revived.fingerprint == encoder.fingerprint
    assert weights(revived.encode_documents(["a"])) == expected("a")
    assert "authorization" not in posts(server)[-1].headers
    revived.close()
    assert copy.deepcopy(encoder) == encoder


def test_no_secret_is_in_what_is_printed_or_dumped(make: Make) -> None:
    encoder = make(api_key=SECRET, headers={"X-Key": "shown?"})
    printed = f"{encoder!r} {encoder} {encoder.model_dump()} {encoder.model_dump_json()}"
    assert not re.search(r"s3cr3t|shown\?", printed)


def test_a_token_that_was_passed_is_sent(make: Make, server: TEIServer) -> None:
    server.api_key = SECRET
    make(api_key=SECRET).encode_documents(["a"])
    assert {entry.headers["authorization"] for entry in server.record} == {f"Bearer {SECRET}"}


@pytest.mark.parametrize(("show_progress", "shown"), [(True, True), (False, False)])
def test_a_progress_bar_is_shown_over_documents_if_asked_for(
    show_progress: bool, shown: bool, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = make(show_progress=show_progress)
    encoder.encode_queries(["a"])
    assert not capsys.readouterr().err
    encoder.encode_documents(["a", "b"])
    assert ("2/2" in capsys.readouterr().err) is shown


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"normalize": True}, "Extra inputs are not permitted"),
        ({"dimensions": 3}, "Extra inputs are not permitted"),
        ({"endpoint_url": "localhost:8080"}, "must start with http"),
        ({"endpoint_url": None}, "endpoint_url"),
        ({"truncation_direction": "middle"}, "'left' or 'right'"),
        ({"query_prompt": "q: ", "query_prompt_name": "q"}, "give one"),
        ({"document_prompt": "d: ", "document_prompt_name": "d"}, "give one"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(
    parameters: dict[str, Any], told: str, make: Make
) -> None:
    with pytest.raises(ValidationError, match=told) as caught:
        make(**parameters, api_key=SECRET)
    assert next(iter(parameters)) in str(caught.value)
    assert SECRET not in str(caught.value)


def test_the_url_is_required() -> None:
    with pytest.raises(ValidationError, match="endpoint_url"):
        HuggingFaceEndpointSparseEmbeddings()
