"""Amazon SageMaker's runtime API on loopback, in front of the containers that people deploy there.

Source:
    InvokeEndpoint, Amazon SageMaker API reference; the errors' header is botocore's rest-json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

from tests.tei_contract import hash_vectors, json_reply
from tests.tei_faults import Entry, Fault, Reply
from tests.tei_server import TEIServer

ENDPOINT = "my-endpoint"
_PATH = re.compile(r"/endpoints/([^/]+)/invocations")
BODY_LIMIT = 6_291_456


def aws_error(status: int, code: str, message: str, **fields: Any) -> Fault:
    """An error as AWS writes it; its name is in a header."""
    body = json.dumps({"message": message, "Message": message, **fields}).encode()
    headers = {"content-type": "application/json", "x-amzn-errortype": f"{code}:http://aws/doc/"}
    return Fault(Reply(status, body, headers))


def model_error(status: int, said: str, *, log: bool = True) -> Fault:
    """What comes of a container's answer that is no success."""
    party = "client" if status < 500 else "server"
    fields = {"OriginalStatusCode": status, "OriginalMessage": said}
    if log:
        fields["LogStreamArn"] = "arn:aws:logs:us-east-1:1:log-group:/aws/sagemaker/my-endpoint"
    message = f'Received {party} error ({status}) from primary with message "{said}". See the log'
    return aws_error(424, "ModelError", message, **fields)


def token_vectors(text: str) -> list[list[float]]:
    """One vector a word, and two more for [CLS] and [SEP]."""
    return hash_vectors(["[CLS]", *text.split(), "[SEP]"])


# What the toolkits answer a list of texts with.
TOOLKITS: dict[str, Callable[[list[str]], object]] = {
    "sentence embeddings": lambda texts: {"embeddings": hash_vectors(texts)},
    "feature extraction": lambda texts: [[token_vectors(text)] for text in texts],
    "feature extraction, flat": lambda texts: [token_vectors(text) for text in texts],
}


@dataclass(kw_only=True)
class SageMakerServer(TEIServer):
    """An endpoint; `faults` are errors of AWS's.

    Attributes:
        toolkit: What the container answers, if it is no TEI.
    """

    toolkit: Callable[[list[str]], object] | None = None

    async def reply(self, entry: Entry, fault: Fault) -> Reply:
        """AWS's answer, around the container's."""
        if fault.reply:
            return fault.reply
        found = _PATH.fullmatch(entry.path)
        if found is None or unquote(found[1]) != ENDPOINT:
            name = found[1] if found else entry.path
            message = f"Endpoint {name} of account 123456789012 not found."
            return _reply(aws_error(400, "ValidationError", message))
        if entry.body_bytes > BODY_LIMIT:
            return Reply(413, b'{"message": "HTTP content length exceeded 6291456 bytes."}')
        if self.toolkit is not None:
            return json_reply(self.toolkit(entry.texts))
        reply = await super().reply(replace(entry, path="/invocations"), fault)
        if reply.status == 200:
            return reply
        return _reply(model_error(reply.status, reply.body.decode()))


def _reply(fault: Fault) -> Reply:
    assert fault.reply is not None
    return fault.reply
