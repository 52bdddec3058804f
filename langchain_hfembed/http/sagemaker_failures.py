"""What AWS's errors mean, and what to do about them. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from langchain_hfembed.errors import (
    AuthenticationError,
    EmbeddingError,
    EndpointTimeoutError,
    InvalidInputError,
)
from langchain_hfembed.http.failures import Failure, Kind, Refusal, read_failure
from langchain_hfembed.http.retry import PassingFailure

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError


@dataclass(frozen=True)
class _Case:
    """A kind of error.

    Attributes:
        codes: AWS's names for it.
        kind: What to do about it.
        remedy: What a user can do; empty for what the kind says.
        says: What the message must hold, where the code alone does not tell.
    """

    codes: str
    kind: Kind
    remedy: str = ""
    says: str = ""


# The first that fits. A ValidationError is whatever SageMaker finds wrong with a request.
_CASES = (
    _Case("ValidationError ValidationException", "too_large", says="oversize body|value at 'body'"),
    _Case(
        "ValidationError ValidationException",
        "cold_start",
        "The inference component is scaled to zero: wait, raise its minimum number of copies, or "
        "raise cold_start_timeout",
        says="no capacity",
    ),
    _Case(
        "ValidationError ValidationException ResourceNotFound ResourceNotFoundException",
        "not_found",
        "Check endpoint_name, the region, and whose credentials these are: "
        "`aws sagemaker list-endpoints` lists what is there",
        says="not found|could not find|does not exist|ResourceNotFound",
    ),
    _Case(
        "ValidationError ValidationException",
        "invalid",
        "The endpoint hosts several models: give inference_component_name",
        says="inference component",
    ),
    _Case(
        "ValidationError ValidationException",
        "invalid",
        "Check endpoint_name, target_model and what else is passed to invoke_endpoint",
    ),
    _Case(
        "AccessDeniedException AccessDenied",
        "authentication",
        "Allow sagemaker:InvokeEndpoint on this endpoint for whom the message names",
    ),
    _Case(
        "ExpiredTokenException ExpiredToken RequestExpired",
        "authentication",
        "Renew the AWS credentials, with `aws sso login` or as you got them",
    ),
    _Case(
        "UnrecognizedClientException InvalidClientTokenId MissingAuthenticationTokenException",
        "authentication",
        "AWS does not know these credentials: check AWS_ACCESS_KEY_ID, or pass "
        "credentials_profile_name",
    ),
    _Case(
        "InvalidSignatureException SignatureDoesNotMatch IncompleteSignature",
        "authentication",
        "Check AWS_SECRET_ACCESS_KEY, and whether this machine's clock is right",
    ),
    _Case(
        "ThrottlingException Throttling ThrottledException TooManyRequestsException "
        "RequestLimitExceeded",
        "rate_limit",
    ),
    _Case("ModelNotReadyException", "cold_start"),
)

_KINDS_BY_STATUS: dict[int, Kind] = {
    401: "authentication",
    403: "authentication",
    404: "not_found",
    408: "unavailable",
    413: "too_large",
    429: "rate_limit",
}

# botocore's errors without an answer of the service; their names, since botocore may be absent.
_CREDENTIAL_ERRORS = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
        "SSOTokenLoadError",
        "SSOError",
        "LoginError",
        "ProfileNotFound",
        "ConfigNotFound",
        "NoAuthTokenError",
    }
)
_PASSING_ERRORS = frozenset(
    {"HTTPClientError", "ConnectionError", "ResponseStreamingError", "HTTPError"}
)
_CREDENTIALS_REMEDY = (
    "Run `aws configure` or `aws sso login`, set AWS_PROFILE or AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or pass credentials_profile_name or a client"
)

# Where a message quotes what was signed, in which the session token is.
_SIGNED = "The Canonical String"
# multi-model-server of a reply that is too large (aws/sagemaker-python-sdk#1096), and SageMaker.
_REPLY_TOO_LARGE = re.compile("message size exceed|entire response body", re.IGNORECASE)
_MESSAGE_LENGTH = 500


def read_client_error(error: ClientError, where: str) -> Exception:
    """What an answer other than success amounts to: a Refusal, or a PassingFailure.

    Args:
        error: What boto3 raised.
        where: The endpoint, for messages.

    Source:
        Errors of InvokeEndpoint and common errors, Amazon SageMaker API reference.
    """
    response: Mapping[str, Any] = error.response
    code = str(response.get("Error", {}).get("Code", ""))
    message = str(response.get("Error", {}).get("Message", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "ModelError":
        return _of_container(response, message, where)
    case = next(
        (
            case
            for case in _CASES
            if code in case.codes.split() and re.search(case.says, message, re.IGNORECASE)
        ),
        _by_status(status),
    )
    said = ": ".join(part for part in (code, message.partition(_SIGNED)[0].strip()) if part)
    if error.operation_name != "InvokeEndpoint":  # such as STS' AssumeRole, on the way there
        said = f"{error.operation_name}: {said}"
        if case.kind not in ("rate_limit", "unavailable"):
            case = _Case(code, "authentication", _CREDENTIALS_REMEDY)
    failure = Failure(
        case.kind,
        status,
        said[:_MESSAGE_LENGTH],
        blames_request=case.kind == "invalid",
        remedy=case.remedy,
    )
    return Refusal(failure)


def _of_container(response: Mapping[str, Any], message: str, where: str) -> Exception:
    """What the model's container said, by the rules for a server of its kind."""
    status = int(response.get("OriginalStatusCode", 500))
    said = str(response.get("OriginalMessage") or message)
    log = response.get("LogStreamArn")
    detail = f"its container; log: {log}" if log else "its container"
    if not status or "Your invocation timed out" in message:
        return PassingFailure(
            EndpointTimeoutError(
                f"{where} did not answer in time: {message} ({detail}). Lower batch_size, or give "
                "it a faster instance"
            )
        )
    failure = read_failure(status, {}, said.encode())
    if _REPLY_TOO_LARGE.search(said):
        failure = replace(failure, kind="invalid", remedy="Split the text, or use TEI")
    elif status == 503 and failure.kind == "cold_start" and "loading" not in said:
        # SageMaker asks those only that have started: the queue is full.
        failure = replace(failure, kind="rate_limit")
    return Refusal(failure, detail)


def read_broken_call(error: BotoCoreError | HTTPError, where: str) -> Exception:
    """What it means that there was no answer: an EmbeddingError, or a PassingFailure with one.

    Args:
        error: What boto3 raised.
        where: The endpoint, for messages.
    """
    names = {cls.__name__ for cls in type(error).__mro__}
    said = f"{type(error).__name__}: {error}".rstrip(".")
    if names & _CREDENTIAL_ERRORS:
        return AuthenticationError(f"{where} can't be asked: {said}. {_CREDENTIALS_REMEDY}")
    if "NoRegionError" in names:
        return InvalidInputError(
            f"{where} can't be asked: no region. Pass region_name, such as 'ap-northeast-2', or "
            "set AWS_DEFAULT_REGION"
        )
    if names & {"ParamValidationError", "InvalidRegionError", "UnknownServiceError"}:
        return InvalidInputError(f"{where} can't be asked: {said}. Change the parameter it names")
    if "ReadTimeoutError" in names:
        return PassingFailure(
            EndpointTimeoutError(
                f"{where} did not answer in time: {said}. Raise timeout, or lower batch_size"
            )
        )
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return EmbeddingError(
            f"{where} can't be trusted: {said}. If your own authority signed its certificate, name "
            "that authority in the variable AWS_CA_BUNDLE"
        )
    failed = EmbeddingError(
        f"{where} can't be reached: {said}. Check the region, the network, and AWS_ENDPOINT_URL if "
        "it is set"
    )
    return PassingFailure(failed) if names & _PASSING_ERRORS else failed


def _by_status(status: int) -> _Case:
    """What to do about an error with a name that says nothing to us."""
    kind = _KINDS_BY_STATUS.get(status, "unavailable" if status >= 500 else "failed")
    return _Case("", kind, _CREDENTIALS_REMEDY if kind == "authentication" else "")
