"""A credentials file: `{"api_key", "endpoint", "model_name", "context_window"}`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langchain_hfembed.errors import InvalidInputError

Credentials = Mapping[str, Any] | str | os.PathLike[str]

_PARAMETERS = {
    "api_key": "api_key",
    "endpoint": "endpoint_url",
    "model_name": "model",
    "context_window": "context_window",
}


def read_credentials(credentials: Credentials) -> dict[str, Any]:
    """Constructor arguments out of credentials; keys without a value are left out.

    Args:
        credentials: A mapping, JSON, or the path of a JSON file.

    Raises:
        InvalidInputError: If a key is unknown, a value has another type, or neither endpoint nor
            model is there. No value is shown.
        OSError: If the file can't be read.
    """
    where = "the credentials"
    if isinstance(credentials, str) and any(sign in credentials for sign in "{["):
        credentials = _parsed(credentials.lstrip("\ufeff"), where)
    elif not isinstance(credentials, Mapping):
        where = str(credentials)
        credentials = _parsed(Path(credentials).expanduser().read_bytes(), where)
    unknown = sorted(map(str, set(credentials) - set(_PARAMETERS)))
    if unknown:
        raise InvalidInputError(
            f"{where}: no such key as {unknown}; there are {', '.join(_PARAMETERS)}"
        )
    given = {key: value for key, value in credentials.items() if value not in (None, "")}
    for key, value in given.items():
        expected = int if key == "context_window" else str
        if not isinstance(value, expected) or isinstance(value, bool):
            raise InvalidInputError(
                f"{where}: {key} is {type(value).__name__}, not {expected.__name__}"
            )
    if "endpoint" not in given and "model_name" not in given:
        raise InvalidInputError(f"{where}: there is neither an endpoint nor a model_name")
    return {_PARAMETERS[key]: value for key, value in given.items()}


def _parsed(text: str | bytes, where: str) -> Mapping[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInputError(f"{where}: not JSON") from None  # the cause would hold the text
    if not isinstance(document, dict):
        raise InvalidInputError(f"{where}: JSON, but not an object")
    return document
