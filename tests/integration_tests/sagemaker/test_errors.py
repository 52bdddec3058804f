"""Each error of AWS's, of its containers and of boto3: which of ours it becomes, and its advice."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import pytest

from langchain_hfembed.errors import (
    AuthenticationError,
    ColdStartError,
    EmbeddingError,
    EndpointTimeoutError,
    InvalidInputError,
    ModelNotFoundError,
    RateLimitError,
)
from tests.integration_tests.sagemaker.conftest import Connect
from tests.sagemaker_server import SageMakerServer, aws_error, model_error
from tests.tei_faults import Fault

# What the endpoint answers, our error, and what its message must hold.
ANSWERS: dict[str, tuple[Fault, type[EmbeddingError], tuple[str, ...]]] = {
    "endpoint not found": (
        aws_error(400, "ValidationError", "Endpoint x of account 1 not found."),
        ModelNotFoundError,
        ("Endpoint x of account 1 not found. ", "endpoint_name", "aws sagemaker list-endpoints"),
    ),
    "inference component not found": (
        aws_error(400, "ValidationError", 'Could not find inference component "c".'),
        ModelNotFoundError,
        ("endpoint_name",),
    ),
    "inference component missing": (
        aws_error(400, "ValidationError", "Inference Component Name header is required"),
        InvalidInputError,
        ("give inference_component_name",),
    ),
    "another validation": (
        aws_error(400, "ValidationError", "Value at 'targetModel' failed to satisfy constraint"),
        InvalidInputError,
        ("target_model",),
    ),
    "scaled to zero": (
        aws_error(400, "ValidationError", "Inference Component has no capacity to process this"),
        ColdStartError,
        ("scaled to zero",),
    ),
    "access denied": (
        aws_error(403, "AccessDeniedException", "User: arn:aws:iam::1:user/u is not authorized"),
        AuthenticationError,
        ("arn:aws:iam::1:user/u", "Allow sagemaker:InvokeEndpoint"),
    ),
    "expired token": (
        aws_error(403, "ExpiredTokenException", "The security token included is expired"),
        AuthenticationError,
        ("aws sso login",),
    ),
    "unknown key": (
        aws_error(403, "UnrecognizedClientException", "The security token is invalid"),
        AuthenticationError,
        ("AWS_ACCESS_KEY_ID", "credentials_profile_name"),
    ),
    "wrong secret": (
        aws_error(403, "InvalidSignatureException", "The signature does not match"),
        AuthenticationError,
        ("AWS_SECRET_ACCESS_KEY", "clock"),
    ),
    "throttled": (
        aws_error(400, "ThrottlingException", "Rate exceeded"),
        RateLimitError,
        ("Lower max_concurrency",),
    ),
    "throttled by status": (aws_error(429, "Whatever", "Slow down"), RateLimitError, ()),
    "model not ready": (
        aws_error(429, "ModelNotReadyException", "Model is being loaded"),
        ColdStartError,
        ("cold_start_timeout",),
    ),
    "unavailable": (aws_error(503, "ServiceUnavailable", "Unavailable"), EmbeddingError, ("503",)),
    "forbidden by a proxy": (aws_error(403, "Whatever", "No"), AuthenticationError, ()),
    "something new": (aws_error(418, "Teapot", "Short and stout"), EmbeddingError, ("Teapot",)),
    "model error": (
        model_error(500, "CUDA out of memory"),
        EmbeddingError,
        ("CUDA out of memory", "log-group:/aws/sagemaker/my-endpoint"),
    ),
    "model error, no log": (model_error(500, "boom", log=False), EmbeddingError, ("container)",)),
    "TEI's own": (
        model_error(424, '{"error": "inference failed", "error_type": "Backend"}'),
        EmbeddingError,
        ("inference failed", "its container"),
    ),
    "a toolkit's own": (
        model_error(400, '{"code": 400, "type": "InternalServerException", "message": "size 600"}'),
        InvalidInputError,
        ("text 0", "size 600"),
    ),
    "a reply that is too large": (
        model_error(500, "Response payload size exceeded the maximum"),
        InvalidInputError,
        ("split the text",),
    ),
    "the container is too slow": (
        aws_error(424, "ModelError", "Your invocation timed out", OriginalStatusCode=0),
        EndpointTimeoutError,
        ("Lower batch_size",),
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_that_is_no_success(case: str, server: SageMakerServer, connect: Connect) -> None:
    fault, expected, words = ANSWERS[case]
    server.faults = lambda number, entry: fault
    with pytest.raises(expected) as raised:
        connect(server, max_retries=0).embed_query("a")
    assert type(raised.value) is expected
    said = str(raised.value)
    assert "the SageMaker endpoint my-endpoint in us-east-1" in said
    for word in words:
        assert word in said
    assert "secret-key-of-tests" not in said


@pytest.mark.parametrize(
    ("case", "indices"),
    [("inference component missing", ()), ("a toolkit's own", (0,)), ("access denied", (0, 1))],
)
def test_texts_are_blamed_only_for_what_they_did(
    case: str, indices: tuple[int, ...], server: SageMakerServer, connect: Connect
) -> None:
    server.faults = lambda number, entry: ANSWERS[case][0]
    with pytest.raises(EmbeddingError) as raised:
        connect(server, max_concurrency=1).embed_documents(["a", "b"])
    assert raised.value.indices == indices


@pytest.mark.parametrize("case", [c for c, (_, e, _) in ANSWERS.items() if e in
                                  (AuthenticationError, ModelNotFoundError)])  # fmt: skip
def test_what_will_not_change_is_not_asked_again(
    case: str, server: SageMakerServer, connect: Connect
) -> None:
    server.faults = lambda number, entry: ANSWERS[case][0]
    with pytest.raises(EmbeddingError):
        connect(server).embed_query("a")
    assert len(server.record) == 1


# Without an answer


def test_no_credentials(
    server: SageMakerServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AuthenticationError, match=r"NoCredentialsError.*aws configure"):
        connect(server).embed_query("a")
    assert server.record == []


def test_half_of_the_credentials(
    server: SageMakerServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AuthenticationError, match="PartialCredentialsError"):
        connect(server).embed_query("a")


def test_a_profile_that_is_not_there(server: SageMakerServer, connect: Connect) -> None:
    with pytest.raises(AuthenticationError, match=r"profile \(nobody\) could not be found"):
        connect(server, credentials_profile_name="nobody").embed_query("a")


def test_a_profile_gives_region_and_credentials(
    server: SageMakerServer, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "config"
    file.write_text(
        "[profile work]\nregion = ap-northeast-2\n"
        "aws_access_key_id = AKIAWORK\naws_secret_access_key = s\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    connect(server, credentials_profile_name="work", region_name=None).embed_query("a")
    assert "Credential=AKIAWORK/" in server.record[0].headers["authorization"]
    assert "/ap-northeast-2/sagemaker/" in server.record[0].headers["authorization"]


def test_no_region(server: SageMakerServer, connect: Connect) -> None:
    with pytest.raises(InvalidInputError, match=r"no region.*region_name"):
        connect(server, region_name=None).embed_query("a")


def test_a_parameter_that_boto3_refuses(server: SageMakerServer, connect: Connect) -> None:
    with pytest.raises(InvalidInputError, match=r"Unknown parameter.*Typo") as raised:
        connect(server, endpoint_kwargs={"Typo": "x"}).embed_documents(["a"])
    assert raised.value.indices == ()


def test_nobody_listens(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", f"http://127.0.0.1:{port}")
    with pytest.raises(EmbeddingError, match="can't be reached: EndpointConnectionError") as raised:
        connect(max_retries=1).embed_documents(["a"])
    assert raised.value.indices == (0,)


@pytest.mark.parametrize("cut", ["reset", ""], ids=["reset", "slow"])
def test_a_connection_that_breaks_is_tried_again(
    cut: str, server: SageMakerServer, connect: Connect
) -> None:
    broken = Fault(cut="reset") if cut else Fault(delay=1)
    server.faults = {1: broken}
    assert connect(server, timeout=0.3).embed_query("a")
    assert len(server.record) == 2


def test_an_endpoint_that_does_not_answer_in_time(
    server: SageMakerServer, connect: Connect
) -> None:
    server.faults = lambda number, entry: Fault(delay=5)
    started = time.monotonic()
    with pytest.raises(EndpointTimeoutError, match="Raise timeout, or lower batch_size"):
        connect(server, timeout=0.2, max_retries=1).embed_query("a")
    assert time.monotonic() - started < 4


def test_without_boto3(
    server: SageMakerServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ImportError, match=r'pip install "langchain-hfembed\[sagemaker\]"'):
        connect(server).embed_query("a")
