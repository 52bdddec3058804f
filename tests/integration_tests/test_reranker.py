"""`HuggingFaceEndpointReranker` against a TEI that serves a reranker, on loopback."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import SecretStr, ValidationError

from langchain_hfembed import (
    AuthenticationError,
    ColdStartError,
    EmbeddingError,
    HuggingFaceEndpointReranker,
    InvalidInputError,
    InvalidResponseError,
    ModelNotFoundError,
    RateLimitError,
)
from tests import tei_faults as faults
from tests.tei_contract import shared_words
from tests.tei_faults import Fault
from tests.tei_server import TEIServer

QUERY = "capital of Korea"
PAGES = [
    "the weather",
    "Seoul is the capital of Korea",
    "of course",
    "a capital idea of mine",
]
SECRET = "s3cr3t" * 4

Make = Callable[..., HuggingFaceEndpointReranker]


@pytest.fixture(scope="module")
def shared() -> Iterator[TEIServer]:
    with TEIServer(kind="reranker") as server:
        yield server


@pytest.fixture
def server(shared: TEIServer, quick_and_nobody: None) -> TEIServer:
    """Without faults and with an empty record."""
    shared.faults, shared.gate, shared.api_key, shared.score = {}, None, None, shared_words
    shared.has_info, shared.max_client_batch_size, shared.max_input_length = True, 32, 512
    shared.clear()
    return shared


@pytest.fixture
def make(server: TEIServer) -> Iterator[Make]:
    """Rerankers for the server; closed in the end."""
    made: list[HuggingFaceEndpointReranker] = []

    def reranker(**parameters: Any) -> HuggingFaceEndpointReranker:
        made.append(HuggingFaceEndpointReranker(**{"endpoint_url": server.url, **parameters}))
        return made[-1]

    yield reranker
    for each in made:
        each.close()


def documents(pages: list[str]) -> list[Document]:
    return [
        Document(page_content=page, id=f"id-{i}", metadata={"position": i, "nested": {"a": [i]}})
        for i, page in enumerate(pages)
    ]


def positions(found: Any) -> list[int]:
    return [document.metadata["position"] for document in found]


def scores(found: Any) -> list[float]:
    return [document.metadata["relevance_score"] for document in found]


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def posts(server: TEIServer) -> list[faults.Entry]:
    return [entry for entry in server.record if entry.method == "POST"]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_best_documents_come_first(asynchronous: bool, make: Make) -> None:
    """1 has all three words of the query, 3 has two, 2 one, and 0 none."""
    reranker = make()
    if asynchronous:
        found = await reranker.acompress_documents(documents(PAGES), QUERY)
    else:
        found = await asyncio.to_thread(reranker.compress_documents, documents(PAGES), QUERY)
    assert positions(found) == [1, 3, 2]
    assert scores(found) == [sigmoid(shared_words(QUERY, PAGES[i])) for i in (1, 3, 2)]


@pytest.mark.parametrize(("top_n", "count"), [(1, 1), (3, 3), (4, 4), (9, 4), (None, 4)])
def test_top_n_is_how_many_come_back(top_n: int | None, count: int, make: Make) -> None:
    found = make(top_n=top_n).compress_documents(documents(PAGES), QUERY)
    assert positions(found) == [1, 3, 2, 0][:count]


def test_three_come_back_unless_told_otherwise(make: Make) -> None:
    assert make().top_n == 3
    assert len(make().compress_documents(documents(["a"] * 5), "a")) == 3


def test_equal_scores_keep_the_documents_order(make: Make, server: TEIServer) -> None:
    """TEI itself puts the later one first."""
    server.max_client_batch_size = 4
    pages = ["Korea", "none", "Korea", "none", "Korea", "none"]
    found = make(top_n=None).compress_documents(documents(pages), QUERY)
    assert positions(found) == [0, 2, 4, 1, 3, 5]


def test_what_comes_back_are_copies_that_keep_id_and_metadata(make: Make) -> None:
    given_documents = documents(PAGES)
    before = copy.deepcopy(given_documents)
    found = make(top_n=None).compress_documents(given_documents, QUERY)
    assert given_documents == before
    for document in found:
        original = before[document.metadata["position"]]
        metadata = {**original.metadata, "relevance_score": document.metadata["relevance_score"]}
        assert (document.id, document.page_content) == (original.id, original.page_content)
        assert document.metadata == metadata
        assert all(document is not each for each in given_documents)


def test_a_score_of_before_is_replaced(make: Make) -> None:
    old = Document(page_content="Korea", metadata={"relevance_score": 7})
    [found] = make().compress_documents([old], "Korea")
    assert scores([found]) == [sigmoid(4)]
    assert old.metadata == {"relevance_score": 7}


def test_a_hundred_documents_go_in_batches_within_the_limit_and_are_merged(
    make: Make, server: TEIServer
) -> None:
    words = ["capital", "of", "Korea", "and", "some", "more", "words", "in", "a", "query"]
    query = " ".join(words)
    pages = [" ".join(words[: i * 7 % 11]) + f" x{i}" for i in range(100)]
    found = make(top_n=None, raw_scores=True).compress_documents(documents(pages), query)
    assert sorted(entry.inputs for entry in posts(server)) == [4, 32, 32, 32]
    expected = sorted(range(100), key=lambda i: -shared_words(query, pages[i]))
    assert positions(found) == expected
    assert scores(found) == [shared_words(query, pages[i]) for i in expected]


@settings(max_examples=25)
@given(st.lists(st.text("ab ", min_size=1, max_size=6), min_size=1, max_size=12), st.integers(1, 5))
def test_batches_do_not_show_in_the_result(
    shared_reranker: tuple[TEIServer, HuggingFaceEndpointReranker],
    pages: list[str],
    batch_size: int,
) -> None:
    """For any documents and any size of a batch: the order is that of one sort by score."""
    server, reranker = shared_reranker
    server.clear()
    resized = reranker.model_copy(update={"batch_size": batch_size})
    found = resized.compress_documents(documents(pages), "a b")
    ranked = sorted(range(len(pages)), key=lambda i: -shared_words("a b", pages[i]))
    assert positions(found) == ranked
    assert all(entry.inputs <= batch_size for entry in posts(server))


@pytest.fixture(scope="module")
def shared_reranker() -> Iterator[tuple[TEIServer, HuggingFaceEndpointReranker]]:
    """A server of its own, which no other test changes between two examples."""
    with (
        TEIServer(kind="reranker") as server,
        HuggingFaceEndpointReranker(endpoint_url=server.url, top_n=None) as reranker,
    ):
        yield server, reranker


@pytest.mark.parametrize("raw_scores", [False, True])
def test_raw_scores_are_logits_and_others_lie_between_0_and_1(raw_scores: bool, make: Make) -> None:
    found = make(raw_scores=raw_scores, top_n=None).compress_documents(documents(PAGES), QUERY)
    logits = [shared_words(QUERY, PAGES[i]) for i in positions(found)]
    assert scores(found) == (logits if raw_scores else [sigmoid(logit) for logit in logits])
    assert all(0 < score < 1 for score in scores(found)) is not raw_scores


@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        ({}, {"truncate": True, "raw_scores": False}),
        ({"truncate": False}, {"truncate": False, "raw_scores": False}),
        ({"truncate": None}, {"raw_scores": False}),
        (
            {"truncation_direction": "left"},
            {"truncate": True, "truncation_direction": "Left", "raw_scores": False},
        ),
        ({"raw_scores": True}, {"truncate": True, "raw_scores": True}),
    ],
)
def test_what_is_sent_is_what_tei_calls_it(
    parameters: dict[str, Any], options: dict[str, Any], make: Make, server: TEIServer
) -> None:
    make(**parameters).compress_documents(documents(["a"]), QUERY)
    [entry] = posts(server)
    assert (entry.path, entry.json) == ("/rerank", {"query": QUERY, "texts": ["a"], **options})


def test_a_document_that_is_too_long_is_cut_or_told_by_its_index(
    make: Make, server: TEIServer
) -> None:
    server.max_input_length = 5
    pages = ["a", "b b b b b", "c"]
    assert len(make(top_n=None).compress_documents(documents(pages), QUERY)) == 3
    with pytest.raises(InvalidInputError, match=r"text 1: .*less than 5 tokens") as caught:
        make(truncate=False).compress_documents(documents(pages), QUERY)
    assert caught.value.indices == (1,)


@pytest.mark.parametrize(
    ("path", "has_info", "asked"),
    [("", True, "/rerank"), ("", False, "/"), ("/rerank", True, "/rerank"), ("/", True, "/rerank")],
)
def test_a_bare_host_is_asked_for_rerank_and_a_path_is_used_as_it_is(
    path: str, has_info: bool, asked: str, make: Make, server: TEIServer
) -> None:
    server.has_info = has_info
    found = make(endpoint_url=server.url + path).compress_documents(documents(PAGES), QUERY)
    assert positions(found) == [1, 3, 2]
    assert [entry.path for entry in posts(server)] == [asked]


def test_no_documents_are_an_empty_list_and_no_request(make: Make, server: TEIServer) -> None:
    assert make().compress_documents([], QUERY) == []
    assert not server.record


@pytest.mark.parametrize(
    ("pages", "query", "indices", "told"),
    [
        (["a", "", "b", ""], "q", (1, 3), "document 1 is empty"),
        (["a"], "", (), "the query is empty"),
        (["a", "lone \ud800"], "q", (1,), "document 1"),
        (["a"], "lone \ud800", None, "query"),
    ],
)
def test_what_cant_be_ranked_is_told_before_anything_is_sent(
    pages: list[str],
    query: str,
    indices: tuple[int, ...] | None,
    told: str,
    make: Make,
    server: TEIServer,
) -> None:
    with pytest.raises(InvalidInputError, match=told) as caught:
        make().compress_documents(documents(pages), query)
    assert indices in (None, caught.value.indices)
    assert not server.record


def test_texts_are_sent_as_they_are(make: Make, server: TEIServer) -> None:
    pages = [" spaces ", "line\nbreak", "nul \0", "한국", "</s>"]
    make().compress_documents(documents(pages), "q\n?")
    [entry] = posts(server)
    assert sorted(entry.texts) == sorted(pages)
    assert entry.json["query"] == "q\n?"


@pytest.mark.parametrize(
    "fault",
    [faults.overloaded(), faults.unavailable(503), faults.status(500, text="oops"), faults.reset()],
    ids=["429", "503", "500", "reset"],
)
def test_a_passing_failure_is_sat_through(fault: Fault, make: Make, server: TEIServer) -> None:
    server.faults = {1: fault, 2: fault}
    assert positions(make().compress_documents(documents(PAGES), QUERY)) == [1, 3, 2]
    assert len(posts(server)) == 3


@pytest.mark.parametrize(
    ("fault", "kind", "told", "attempts"),
    [
        (faults.overloaded(), RateLimitError, "answered 429: Model is overloaded", 3),
        (faults.unavailable(503), ColdStartError, "answered 503", None),
        (faults.status(404), ModelNotFoundError, "answered 404", 1),
        (faults.status(401), AuthenticationError, "no token was sent", 1),
        (faults.vector_too_few(), InvalidResponseError, "4 texts with a finite score each", 1),
        (faults.nan_in_vector(), InvalidResponseError, "4 texts with a finite score each", 1),
        (faults.null_in_vector(), InvalidResponseError, "4 texts with a finite score each", 1),
        (Fault(alter=lambda ranks: [*ranks, ranks[0]]), InvalidResponseError, "score each", 1),
        (Fault(alter=lambda ranks: [ranks[0]] * 4), InvalidResponseError, "score each", 1),
        (Fault(alter=lambda ranks: [[0.5] for _ in ranks]), InvalidResponseError, "reranker", 1),
        (faults.status(200, json={"scores": [1]}), InvalidResponseError, "reranker", 1),
        (faults.html_page(), InvalidResponseError, "text/html, not JSON", 1),
        (faults.truncated_json(), InvalidResponseError, "not JSON", 1),
    ],
)
def test_a_lasting_failure_is_an_error_with_all_of_the_batch(
    fault: Fault,
    kind: type[EmbeddingError],
    told: str,
    attempts: int | None,
    make: Make,
    server: TEIServer,
) -> None:
    server.faults = lambda number, entry: fault
    with pytest.raises(kind, match=told) as caught:
        make(max_retries=2, cold_start_timeout=0.1).compress_documents(documents(PAGES), QUERY)
    assert type(caught.value) is kind
    assert caught.value.indices == (0, 1, 2, 3)
    assert attempts in (None, len(posts(server)))


def test_a_model_of_another_kind_is_told_in_the_servers_words(make: Make) -> None:
    with TEIServer(kind="embedding") as server:
        reranker = make(endpoint_url=server.url)
        with pytest.raises(
            EmbeddingError,
            match=r"424: .*not a re-ranker model.*for dense.*not for reranking",
        ) as caught:
            reranker.compress_documents(documents(PAGES), QUERY)
        assert type(caught.value) is EmbeddingError
        assert len(posts(server)) == 1


def test_after_a_failure_the_reranker_works_again(make: Make, server: TEIServer) -> None:
    server.faults = {1: faults.html_page()}
    reranker = make()
    with pytest.raises(InvalidResponseError):
        reranker.compress_documents(documents(PAGES), QUERY)
    assert positions(reranker.compress_documents(documents(PAGES), QUERY)) == [1, 3, 2]


async def test_many_at_once_get_each_their_own_answer(make: Make, server: TEIServer) -> None:
    reranker = make(top_n=1, max_concurrency=4)
    pages = [f"word{i}" for i in range(20)]
    found = await asyncio.gather(
        *(reranker.acompress_documents(documents(pages), page) for page in pages)
    )
    assert [positions(each) for each in found] == [[i] for i in range(20)]
    assert server.max_requests_in_flight <= 4


def test_a_token_that_was_passed_is_sent_and_one_that_was_found_is_not(
    make: Make, server: TEIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "f0und" * 4)
    make().compress_documents(documents(PAGES), QUERY)
    assert not any("authorization" in entry.headers for entry in server.record)
    server.clear()
    server.api_key = SECRET
    make(api_key=SECRET).compress_documents(documents(PAGES), QUERY)
    assert {entry.headers["authorization"] for entry in server.record} == {f"Bearer {SECRET}"}


def test_no_secret_is_in_what_is_printed_dumped_or_pickled(make: Make) -> None:
    reranker = make(
        api_key=SecretStr(SECRET), headers={"Authorization": f"Basic {SECRET}", "X-Key": "shown?"}
    )
    printed = f"{reranker!r} {reranker} {reranker.model_dump()} {reranker.model_dump_json()}"
    assert not re.search(r"s3cr3t|shown\?", printed)
    pickled = pickle.dumps(reranker)
    assert SECRET.encode() not in pickled
    revived = pickle.loads(pickled)
    assert revived.endpoint_url == reranker.endpoint_url
    assert set(revived.headers) == {"X-Key"}


def test_a_refused_token_is_told_by_its_last_letters_only(make: Make, server: TEIServer) -> None:
    server.api_key = "another"
    with pytest.raises(AuthenticationError, match=r"the token of api_key \(…cr3t\)") as caught:
        make(api_key=SECRET).compress_documents(documents(PAGES), QUERY)
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"top": 3}, "Extra inputs are not permitted"),
        ({"model": "org/model"}, "Extra inputs are not permitted"),
        ({"top_n": 0}, "greater than or equal to 1"),
        ({"endpoint_url": "localhost:8080"}, "must start with http"),
        ({"endpoint_url": None}, "endpoint_url"),
        ({"truncation_direction": "middle"}, "'left' or 'right'"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(
    parameters: dict[str, Any], told: str, make: Make
) -> None:
    with pytest.raises(ValidationError, match=told) as caught:
        make(**parameters, api_key=SECRET)
    assert next(iter(parameters)) in str(caught.value)
    assert SECRET not in str(caught.value)


def test_it_is_called_as_langchains_compression_retriever_calls_it(make: Make) -> None:
    """`ContextualCompressionRetriever` passes the callbacks by name, and takes any compressor."""
    reranker = make(top_n=1)
    assert isinstance(reranker, BaseDocumentCompressor)
    [found] = reranker.compress_documents(documents(PAGES), QUERY, callbacks=[])
    assert positions([found]) == [1]


def test_it_tells_about_its_server(make: Make, server: TEIServer) -> None:
    reranker = make()
    info = reranker.info()
    assert info is not None
    assert (info.model_id, info.max_client_batch_size) == ("org/model", 32)
    assert reranker.health() is True
    reranker.compress_documents(documents(PAGES), QUERY)
    assert reranker.metrics()['te_request_success{method="batch"}'] == 1


async def test_after_closing_it_opens_again(make: Make) -> None:
    async with make() as reranker:
        assert len(await reranker.acompress_documents(documents(PAGES), QUERY)) == 3
    with reranker:
        assert len(reranker.compress_documents(documents(PAGES), QUERY)) == 3
    reranker.close()
