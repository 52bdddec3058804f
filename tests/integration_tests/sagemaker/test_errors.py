"""Each error of AWS's, of its containers and of boto3: which of ours it becomes, and its advice."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import anyio
import pytest
from botocore.exceptions import ClientError, SSLError

from langchain_hfembed import SageMakerEndpointEmbeddings
from langchain_hfembed.errors import (
    AuthenticationError,
    ColdStartError,
    EmbeddingError,
    EndpointTimeoutError,
    InvalidInputError,
    ModelNotFoundError,
    RateLimitError,
)
from tests.integration_tests.endpoint.helpers import TEXTS
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
        model_error(500, "CorruptedFrameException: Message size exceed limit: 7000000"),
        InvalidInputError,
        ("Split the text",),
    ),
    "a body that is too large": (
        aws_error(400, "ValidationError", "Request of size 5000000 has oversize body."),
        InvalidInputError,
        ("split the text",),
    ),
    "no answer from the container": (
        aws_error(424, "ModelError", "Could not get a response", OriginalStatusCode=0),
        EndpointTimeoutError,
        ("Could not get a response",),
    ),
    "a container's 400 about time": (
        model_error(400, "the date in this text timed out"),
        InvalidInputError,
        ("text 0",),
    ),
    "a queue that is full": (
        model_error(503, "ServiceUnavailableException: no worker is available"),
        RateLimitError,
        ("Lower max_concurrency",),
    ),
    "a container that loads": (
        model_error(503, "Model org/model is currently loading"),
        ColdStartError,
        (),
    ),
    "a time-out of AWS's": (aws_error(408, "RequestTimeout", "Slow"), EmbeddingError, ("later",)),
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


def test_a_message_that_quotes_the_session_token_is_cut_before_it(
    server: SageMakerServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As AWS's messages about signatures do."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-session-token")
    said = (
        "The request signature we calculated does not match. The Canonical String for this "
        "request should have been 'POST\nx-amz-security-token:{token}\n'"
    )
    server.faults = lambda number, entry: aws_error(
        403,
        "InvalidSignatureException",
        said.format(token=entry.headers["x-amz-security-token"]),
    )
    with pytest.raises(AuthenticationError, match="does not match") as raised:
        connect(server).embed_query("a")
    assert "the-session-token" not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "AccessDenied", AuthenticationError),
        (400, "ValidationError", AuthenticationError),
        (400, "InvalidIdentityToken", AuthenticationError),
        (400, "Throttling", RateLimitError),
        (500, "InternalFailure", EmbeddingError),
    ],
)
def test_an_error_on_the_way_to_credentials_is_about_credentials(
    status: int, code: str, expected: type[EmbeddingError]
) -> None:
    """Such as that of a role which must not be assumed: boto3 raises it from `invoke_endpoint`."""
    answer = {
        "Error": {"Code": code, "Message": "no"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    client = Mock()
    client.invoke_endpoint.side_effect = ClientError(answer, "AssumeRole")
    embeddings = SageMakerEndpointEmbeddings(endpoint_name="e", client=client, max_retries=0)
    with pytest.raises(expected, match="AssumeRole: ") as raised:
        embeddings.embed_query("a")
    assert type(raised.value) is expected
    assert ("aws configure" in str(raised.value)) == (expected is AuthenticationError)


def test_a_reply_that_is_too_large_is_asked_for_in_parts(
    server: SageMakerServer, connect: Connect
) -> None:
    """And only that one: the limits are as they were."""
    large = model_error(500, "CorruptedFrameException: Message size exceed limit: 7000000")
    server.faults = lambda number, entry: (
        large if "text 500" in " ".join(entry.texts) and entry.inputs > 8 else None
    )
    assert len(connect(server, max_concurrency=1).embed_documents(TEXTS)) == 1000
    assert [entry.inputs for entry in server.record if entry.status == 200].count(32) >= 25


def test_a_body_that_aws_refuses_is_sent_in_parts(
    server: SageMakerServer, connect: Connect
) -> None:
    """A serverless endpoint takes 4 MB, and says so as a ValidationError."""
    large = aws_error(400, "ValidationError", "Request of size 5000000 has oversize body.")
    server.faults = lambda number, entry: large if entry.body_bytes > 1000 else None
    embeddings = connect(server)
    embeddings.embed_documents(TEXTS[:100])
    server.clear()
    embeddings.embed_documents(TEXTS[:100])
    assert {entry.status for entry in server.record} <= {0, 200}


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


def test_calls_that_were_given_up_do_not_hold_up_others(
    server: SageMakerServer, connect: Connect
) -> None:
    """Their threads wait on, whose number is not limited."""
    server.faults = lambda number, entry: Fault(delay=3) if entry.texts == ["slow"] else None
    embeddings = connect(server, max_concurrency=1)

    async def give_up() -> None:
        with anyio.move_on_after(0.1):
            await embeddings.aembed_query("slow")

    async def all_of_it() -> float:
        for _ in range(3):
            await give_up()
        started = time.monotonic()
        await embeddings.aembed_query("quick")
        return time.monotonic() - started

    assert asyncio.run(all_of_it()) < 1.5


def test_the_interpreter_ends_while_a_call_hangs(server: SageMakerServer, connect: Connect) -> None:
    server.faults = lambda number, entry: Fault(delay=30)
    connect(server)  # for the environment
    code = """
import langchain_hfembed
embeddings = langchain_hfembed.SageMakerEndpointEmbeddings(
    endpoint_name="my-endpoint", region_name="us-east-1", timeout=0.5, max_retries=0
)
client = embeddings.model_copy(update={"timeout": 20})
import threading, time
threading.Thread(target=client.embed_query, args=["a"], daemon=True).start()
time.sleep(1)
"""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert time.monotonic() - started < 15


def test_an_answer_that_is_cut_off_midway_is_tried_again(
    server: SageMakerServer, connect: Connect
) -> None:
    """Also that of an error, whose body boto3 reads by other means."""
    cut = replace(aws_error(503, "ServiceUnavailable", "x" * 5000), cut="reset")
    server.faults = {1: cut, 2: Fault(cut="reset")}
    assert connect(server).embed_query("a")
    assert len(server.record) == 3


def test_an_address_that_is_none_is_named(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", "vpce-1.amazonaws.com")
    with pytest.raises(InvalidInputError, match="AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"):
        connect().embed_query("a")


def test_a_certificate_of_nobody_we_trust_is_not_tried_again(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = SSLError(endpoint_url="https://x", error="[SSL: CERTIFICATE_VERIFY_FAILED]")
    client = Mock()
    client.invoke_endpoint.side_effect = error
    with pytest.raises(EmbeddingError, match="AWS_CA_BUNDLE"):
        connect(client=client).embed_query("a")
    client.invoke_endpoint.assert_called_once()


def test_without_boto3(
    server: SageMakerServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ImportError, match=r'pip install "langchain-hfembed\[sagemaker\]"'):
        connect(server).embed_query("a")
