"""What is sent to an endpoint, and what becomes of its replies."""

from __future__ import annotations

import asyncio
import copy
import pickle
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import boto3
import numpy as np
import pytest
from botocore.config import Config

from langchain_hfembed import HybridVectorStore, SageMakerEndpointEmbeddings
from langchain_hfembed.errors import EmbeddingError, InvalidInputError, InvalidResponseError
from tests.integration_tests.endpoint.helpers import TEXTS, VECTORS, eventually
from tests.integration_tests.sagemaker.conftest import Connect
from tests.sagemaker_server import (
    BODY_LIMIT,
    ENDPOINT,
    TOOLKITS,
    SageMakerServer,
    aws_error,
    model_error,
    token_vectors,
)
from tests.tei_contract import hash_vectors


def unit(vectors: Any) -> np.ndarray:
    rows = np.array(vectors)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


MEANS = unit([np.mean(token_vectors(text), axis=0) for text in TEXTS])
EXPECTED = {
    None: VECTORS,
    "sentence embeddings": VECTORS,
    "feature extraction": MEANS,
    "feature extraction, flat": MEANS,
}


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("toolkit", EXPECTED)
def test_1000_texts_come_back_in_order(
    toolkit: str | None, is_async: bool, connect: Connect
) -> None:
    answer = TOOLKITS[toolkit] if toolkit else None
    with SageMakerServer(toolkit=answer, latency=0.01) as server:
        embeddings = connect(server)
        if is_async:
            vectors = asyncio.run(embeddings.aembed_documents(TEXTS))
        else:
            vectors = embeddings.embed_documents(TEXTS)
        np.testing.assert_allclose(vectors, EXPECTED[toolkit], atol=1e-12)
        assert {type(value) for value in vectors[0]} == {float}
        assert max(entry.inputs for entry in server.record) == 32
        assert server.max_requests_in_flight <= 8
        if toolkit is None:  # the others answer at once
            assert server.max_requests_in_flight > 4


def test_cls_pooling_takes_the_first_token(connect: Connect) -> None:
    with SageMakerServer(toolkit=TOOLKITS["feature extraction"]) as server:
        vectors = connect(server, pooling="cls").embed_documents(["a b", "c"])
    np.testing.assert_allclose(vectors, hash_vectors(["[CLS]"] * 2), atol=1e-12)


@pytest.mark.parametrize("toolkit", ["feature extraction", "sentence embeddings"])
def test_without_normalize_vectors_of_toolkits_stay_as_they_are(
    toolkit: str, connect: Connect
) -> None:
    def doubled(texts: list[str]) -> object:
        if toolkit == "feature extraction":
            return [[[[2 * x for x in token] for token in token_vectors(t)]] for t in texts]
        return {"embeddings": [[2 * x for x in vector] for vector in hash_vectors(texts)]}

    with SageMakerServer(toolkit=doubled) as server:
        raw = connect(server, normalize=False).embed_query("a b")
        scaled = connect(server).embed_query("a b")
    expected = (
        2 * np.mean(token_vectors("a b"), axis=0)
        if toolkit == "feature extraction"
        else 2 * np.array(hash_vectors(["a b"])[0])
    )
    np.testing.assert_allclose(raw, expected)
    assert np.linalg.norm(scaled) == pytest.approx(1)


def test_without_normalize_tei_is_asked_not_to(server: SageMakerServer, connect: Connect) -> None:
    connect(server, normalize=False).embed_query("a")
    connect(server).embed_query("a")
    assert [entry.json for entry in server.record] == [
        {"inputs": ["a"], "normalize": False},
        {"inputs": ["a"]},
    ]


def test_a_zero_vector_stays_zero(connect: Connect) -> None:
    with SageMakerServer(toolkit=lambda texts: [[0.0, 0.0] for _ in texts]) as server:
        assert connect(server).embed_query("a") == [0, 0]


def test_names_and_arguments_reach_the_endpoint(server: SageMakerServer, connect: Connect) -> None:
    embeddings = connect(
        server,
        inference_component_name="component",
        target_model="model.tar.gz",
        endpoint_kwargs={"TargetVariant": "blue"},
        model_kwargs={"truncate": True},
        content_type="application/json; charset=utf-8",
        query_prompt="query: ",
        document_prompt="passage: ",
    )
    embeddings.embed_documents(["a"])
    embeddings.embed_query("b")
    first, second = server.record
    prefix = "x-amzn-sagemaker-"
    sent = {name: first.headers[prefix + name] for name in
            ("inference-component", "target-model", "target-variant")}  # fmt: skip
    assert sent == {
        "inference-component": "component",
        "target-model": "model.tar.gz",
        "target-variant": "blue",
    }
    assert first.path == f"/endpoints/{ENDPOINT}/invocations"
    assert first.headers["content-type"] == "application/json; charset=utf-8"
    assert first.headers["accept"] == "application/json"
    assert first.json == {"inputs": ["passage: a"], "truncate": True}
    assert second.json["inputs"] == ["query: b"]


def test_no_text_sends_nothing_and_needs_no_credentials(
    server: SageMakerServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert connect(server).embed_documents([]) == []
    assert server.record == []


# Limits


def test_a_body_over_six_megabytes_is_sent_in_parts(connect: Connect) -> None:
    texts = [f"{number} " + "가" * 200_000 for number in range(24)]  # 14 MB
    with SageMakerServer(payload_limit=2 * BODY_LIMIT) as server:
        vectors = connect(server).embed_documents(texts)
        sizes = [entry.body_bytes for entry in server.record]
    np.testing.assert_allclose(
        vectors, hash_vectors([" ".join(text.split()) for text in texts]), atol=1e-12
    )
    assert len(sizes) == 3
    assert 5_900_000 < max(sizes) <= BODY_LIMIT


def test_a_body_is_as_long_as_allowed_but_no_longer(
    server: SageMakerServer, connect: Connect
) -> None:
    """Quotes, commas, `model_kwargs` and escapes are counted."""
    limit = 1024
    embeddings = connect(server, max_body_bytes=limit, model_kwargs={"truncate": True})
    embeddings.embed_documents(['"\n' * (1 + number % 50) for number in range(300)])
    assert limit - 250 < max(entry.body_bytes for entry in server.record) <= limit


def test_a_container_that_takes_less_is_sent_less(connect: Connect) -> None:
    """TEI takes 2 MB unless told otherwise, and says so by a 413."""
    texts = [f"{number} " + "a" * 100_000 for number in range(32)]
    with SageMakerServer(payload_limit=2_000_000) as server:
        embeddings = connect(server)
        vectors = embeddings.embed_documents(texts)
        server.clear()
        embeddings.embed_documents(texts)
        again = [entry.status for entry in server.record]
    np.testing.assert_allclose(vectors, hash_vectors(texts), atol=1e-12)
    assert 424 not in again


def test_a_batch_limit_is_learned_from_the_container(connect: Connect) -> None:
    with SageMakerServer(max_client_batch_size=10) as server:
        vectors = connect(server).embed_documents(TEXTS[:200])
        good = [entry.inputs for entry in server.record if entry.status == 200]
    np.testing.assert_allclose(vectors, VECTORS[:200], atol=1e-12)
    assert max(good) == 10


def test_a_text_that_can_never_be_sent_is_named_before_anything_is(
    server: SageMakerServer, connect: Connect
) -> None:
    texts = ["a", "b" * BODY_LIMIT, "c"]
    with pytest.raises(InvalidInputError, match="text 1 takes 6,291,459 bytes") as raised:
        connect(server).embed_documents(texts)
    assert raised.value.indices == (1,)
    assert server.record == []


def test_a_text_that_is_too_long_for_the_model_is_named(connect: Connect) -> None:
    texts = [*TEXTS[:40], "word " * 600]
    with SageMakerServer(auto_truncate=False) as server:
        with pytest.raises(InvalidInputError, match=r"must have less than 512 tokens") as raised:
            connect(server).embed_documents(texts)
        good = connect(server, model_kwargs={"truncate": True}).embed_documents(texts)
    assert raised.value.indices == (40,)
    assert set(raised.value.completed) >= set(range(20))
    assert len(good) == 41


@pytest.mark.parametrize("text", ["", 3, "\ud800"])
def test_what_is_no_text_is_refused(text: Any, server: SageMakerServer, connect: Connect) -> None:
    with pytest.raises(InvalidInputError) as raised:
        connect(server).embed_documents(["a", text])
    assert raised.value.indices == (1,)
    assert server.record == []


# Replies that are none

BAD_REPLIES: dict[str, tuple[Any, str, tuple[int, ...]]] = {
    "one vector too few": (lambda texts: hash_vectors(texts)[1:], "2 vectors", (0, 1, 2)),
    "null": (lambda texts: [[1.0], [None], [1.0]], "null, NaN or infinity", (1,)),
    "NaN in a token": (
        lambda texts: [[[[1.0]]], [[[float("nan")]]], [[[1.0]]]], "null, NaN or infinity", (1,),
    ),
    "token vectors of two lengths": (
        lambda texts: [[[[1.0, 2.0]]], [[[1.0, 2.0], [1.0]]], [[[1.0, 2.0]]]], "of one length", (1,)
    ),
    "texts of two dimensions": (lambda texts: [[[[1.0]]], [[[1.0, 2.0]]], [[[1.0]]]],
                                "of one length", (1,)),
    "a number that no float holds": (
        lambda texts: [[[[1.0]]], [[[10**400]]], [[[1.0]]]], "of one length", (1,),
    ),
    "numbers in quotes": (
        lambda texts: [[[[1.0]]], [[["1.0"]]], [[[1.0]]]], "of one length", (1,)
    ),
    "a text without tokens": (lambda texts: [[[[1.0]]], [[]], [[[1.0]]]], "of one length", (1,)),
    "a classification": (lambda texts: [{"label": "A"}] * 3, "of one length", (0, 1, 2)),
    "another document": (lambda texts: {"answer": 42}, "with dict", (0, 1, 2)),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_REPLIES)
def test_a_reply_that_is_not_one_finite_vector_a_text_is_refused(
    case: str, connect: Connect
) -> None:
    toolkit, said, indices = BAD_REPLIES[case]
    with (
        SageMakerServer(toolkit=toolkit) as server,
        pytest.raises(InvalidResponseError, match=said) as raised,
    ):
        connect(server).embed_documents(["a", "b", "c"])
    assert raised.value.indices == indices


def test_a_reply_that_is_no_json_is_refused(connect: Connect) -> None:
    with SageMakerServer() as server:
        server.faults = {1: faults_html()}
        with pytest.raises(InvalidResponseError, match="did not answer with JSON: '<html>"):
            connect(server).embed_query("a")


def faults_html() -> Any:
    from tests.tei_faults import status

    return status(200, text="<html>welcome</html>")


def test_two_token_vectors_of_one_text_are_not_taken_for_two_texts(connect: Connect) -> None:
    """`[1][2][1][dim]` is no form that any container answers in."""
    with (
        SageMakerServer(toolkit=lambda texts: [[[[1.0, 0.0]], [[0.0, 1.0]]]]) as server,
        pytest.raises(InvalidResponseError, match="of one length"),
    ):
        connect(server).embed_query("a")


# Retries


def test_boto3_does_not_retry_on_its_own(server: SageMakerServer, connect: Connect) -> None:
    server.faults = lambda number, entry: aws_error(400, "ThrottlingException", "Rate exceeded")
    with pytest.raises(EmbeddingError):
        connect(server, max_retries=2).embed_query("a")
    assert len(server.record) == 3


PASSING = {
    "throttled": aws_error(400, "ThrottlingException", "Rate exceeded"),
    "not ready": aws_error(429, "ModelNotReadyException", "The model is being loaded"),
    "scaled to zero": aws_error(
        400, "ValidationError", "Inference Component has no capacity to process this request."
    ),
    "unavailable": aws_error(503, "ServiceUnavailable", "Try again"),
    "internal": aws_error(500, "InternalFailure", "Try again"),
    "dependency": aws_error(530, "InternalDependencyException", "Try again"),
    "container down": model_error(500, "Worker died."),
    "container overloaded": model_error(429, '{"error": "busy", "error_type": "Overloaded"}'),
    "container too slow": aws_error(
        424,
        "ModelError",
        "Received server error (0) from primary with message 'Your invocation timed out'",
        OriginalStatusCode=0,
    ),
}


@pytest.mark.parametrize("case", PASSING)
def test_what_passes_is_tried_again(case: str, server: SageMakerServer, connect: Connect) -> None:
    server.faults = {2: PASSING[case], 3: PASSING[case]}
    vectors = connect(server).embed_documents(TEXTS[:200])
    np.testing.assert_allclose(vectors, VECTORS[:200], atol=1e-12)


def test_a_failure_keeps_what_succeeded(server: SageMakerServer, connect: Connect) -> None:
    unlucky = TEXTS[500]
    server.faults = lambda number, entry: (
        model_error(424, "CUDA error") if unlucky in entry.texts else None
    )
    with pytest.raises(EmbeddingError, match="CUDA error") as raised:
        connect(server).embed_documents(TEXTS)
    assert 500 in raised.value.indices
    assert len(raised.value.indices) <= 32
    assert raised.value.completed
    for position, vector in raised.value.completed.items():
        np.testing.assert_allclose(vector, VECTORS[position], atol=1e-12)


# The object


def test_a_given_client_is_used_and_left_open(
    server: SageMakerServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(retries={"total_max_attempts": 1}, user_agent_extra="mine/1")
    client = boto3.Session().client(
        "sagemaker-runtime", region_name="eu-west-1", endpoint_url=server.url, config=config
    )
    closed = Mock()
    monkeypatch.setattr(client, "close", closed)
    with connect(client=client) as embeddings:
        embeddings.embed_query("a")
    closed.assert_not_called()
    monkeypatch.undo()
    assert "mine/1" in server.record[0].headers["user-agent"]
    client.close()


def test_close_closes_all_connections_and_a_later_call_opens_new_ones(
    server: SageMakerServer, connect: Connect
) -> None:
    embeddings = connect(server)
    for _ in range(2):
        assert embeddings.embed_query("a") == pytest.approx(hash_vectors(["a"])[0])
        assert server.connections.open == 1
        embeddings.close()
        assert eventually(lambda: not server.connections.open)


def test_connections_are_kept_for_as_many_requests_as_are_in_flight(connect: Connect) -> None:
    with SageMakerServer(latency=0.02) as server:
        embeddings = connect(server, max_concurrency=12)
        for _ in range(3):
            embeddings.embed_documents(TEXTS[:400])
        assert server.connections.opened <= 12


def test_a_pickled_copy_works(server: SageMakerServer, connect: Connect) -> None:
    embeddings = connect(server)
    embeddings.embed_query("a")
    other: SageMakerEndpointEmbeddings = pickle.loads(pickle.dumps(embeddings))
    with other:
        assert other == embeddings
        assert other.embed_query("a") == embeddings.embed_query("a")


def test_an_object_with_a_client_is_copied_but_not_pickled(connect: Connect) -> None:
    client = boto3.client("sagemaker-runtime", region_name="us-east-1")
    embeddings = connect(client=client, model_kwargs={"truncate": True})
    deep = copy.deepcopy(embeddings)
    assert deep.client is client
    assert deep.model_kwargs is not embeddings.model_kwargs
    with pytest.raises(TypeError, match="give region_name and credentials_profile_name instead"):
        pickle.dumps(embeddings)
    client.close()


def test_it_is_the_dense_view_of_a_store(server: SageMakerServer, connect: Connect) -> None:
    embeddings = connect(server, model="org/model")
    store = HybridVectorStore.from_texts(["a b", "c d"], embeddings)
    assert store.encoder.model_name == "org/model"
    [hit] = store.search("c d", k=1)
    assert (hit.document.page_content, hit.score) == ("c d", pytest.approx(1))


def test_a_fingerprint_differs_where_documents_would_get_other_vectors() -> None:
    def fingerprint(**given: Any) -> str:
        return SageMakerEndpointEmbeddings(**{"endpoint_name": "e", **given}).fingerprint

    others = [
        {},
        {"endpoint_name": "f"},
        {"model": "org/model"},
        {"inference_component_name": "c"},
        {"target_model": "m"},
        {"document_prompt": "passage: "},
        {"pooling": "cls"},
        {"normalize": False},
        {"model_kwargs": {"truncate": True}},
        {"endpoint_kwargs": {"TargetVariant": "blue"}},
        {"endpoint_kwargs": {"TargetContainerHostname": "one"}},
    ]
    assert len({fingerprint(**given) for given in others}) == len(others)
    assert fingerprint(model="m", region_name="a") == fingerprint(model="m", endpoint_name="f")
    assert fingerprint(query_prompt="query: ", batch_size=2) == fingerprint()
    assert fingerprint(endpoint_kwargs={"InferenceId": "1"}) == fingerprint()
    one, two = {"a": 1, "b": UUID(int=1)}, {"b": str(UUID(int=1)), "a": 1}
    assert fingerprint(model_kwargs=one) == fingerprint(model_kwargs=two)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"endpoint_name": ""}, "give the name alone"),
    "an ARN": ({"endpoint_name": "arn:aws:sagemaker:a:1:endpoint/e"}, "or an ARN"),
    "client and region": ({"client": Mock(), "region_name": "a"}, "leave out region_name"),
    "another client": ({"client": object()}, r"boto3\.client\('sagemaker-runtime'\)"),
    "an argument twice": ({"endpoint_kwargs": {"TargetModel": "m"}}, "TargetModel, which is made"),
    "texts in model_kwargs": ({"model_kwargs": {"inputs": []}}, "which are the texts"),
    "no JSON": ({"model_kwargs": {"a": object()}}, "is not JSON"),
    "no pooling": ({"pooling": "max"}, "'mean' or 'cls'"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_arguments_that_can_not_work_are_refused(case: str) -> None:
    given, said = MISTAKES[case]
    with pytest.raises(ValueError, match=said):
        SageMakerEndpointEmbeddings(**{"endpoint_name": "e", **given})
