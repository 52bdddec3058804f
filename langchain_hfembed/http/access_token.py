"""Where an access token comes from, and which hosts may see it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from langchain_hfembed.errors import InvalidInputError

_VARIABLES = ("HF_TOKEN", "HUGGINGFACEHUB_API_TOKEN")
# Dedicated endpoints are on huggingface.cloud. Not hf.space: a Space is for strangers to try.
_OWN_HOSTS = ("huggingface.co", "hf.co", "huggingface.cloud")
_TOKEN = re.compile(r"[!-~]+")


class NamedToken(SecretStr):
    """A token that was passed, by way of a variable.

    Args:
        secret_value: The token.
        source: The variable.
    """

    def __init__(self, secret_value: str, source: str) -> None:
        super().__init__(secret_value)
        self.source = source


class FoundToken(SecretStr):
    """A token that was found on this machine, not passed for one endpoint.

    It goes to Hugging Face's own hosts only. A type and not a flag, so that this survives whatever
    an object is copied by, `Model(**other.model_dump())` included.

    Args:
        secret_value: The token.
        source: The variable or file that held it.
    """

    def __init__(self, secret_value: str, source: str) -> None:
        super().__init__(secret_value)
        self.source = source

    def __eq__(self, other: object) -> bool:
        """Never equal to a token that was passed, which may go to other hosts."""
        return isinstance(other, FoundToken) and super().__eq__(other)

    def __hash__(self) -> int:
        return hash((FoundToken, super().__hash__()))


def setting(env: Mapping[str, Any], name: str) -> str:
    """A variable without the spaces around it; empty where it is not set.

    Files of settings, such as Streamlit's secrets, have booleans and numbers, too.
    """
    value = env.get(name)
    return "" if value is None else str(value).strip()


def find_token(env: Mapping[str, Any] = os.environ) -> FoundToken | None:
    """The token of the environment, else of the user's login to the Hub, else none."""
    for name in _VARIABLES:
        if value := setting(env, name):
            return FoundToken(checked_token(value, name), name)
    from huggingface_hub import get_token

    value = get_token() or ""
    return FoundToken(checked_token(value, "the Hub login"), "the Hub login") if value else None


def checked_token(token: str, source: str) -> str:
    """The token, if a header can hold it.

    Raises:
        ValueError: If it has a space, a control character or a letter beyond ASCII. The message
            does not show it.
    """
    if not _TOKEN.fullmatch(token):
        raise InvalidInputError(
            f"{source} holds a character that no token has, such as a space or a letter beyond "
            "ASCII; copy it again"
        )
    return token


def token_for(url: str, token: SecretStr | None) -> str | None:
    """The token as text, if this URL's host may see it.

    One that was passed goes wherever it was meant for; one that was found goes to Hugging Face's
    own hosts, over TLS.
    """
    if token is None or (isinstance(token, FoundToken) and not is_hugging_face(url)):
        return None
    return token.get_secret_value()


def is_hugging_face(url: str) -> bool:
    """Whether a URL leads to a host of Hugging Face, over TLS."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    return parts.scheme == "https" and any(
        host == own or host.endswith(f".{own}") for own in _OWN_HOSTS
    )


def describe(token: SecretStr | None) -> str:
    """Where a token came from, and its last characters, enough to tell two apart."""
    if token is None:
        return "no token"
    source = getattr(token, "source", "api_key")
    secret = token.get_secret_value()
    return f"the token of {source} (…{secret[-4:] if len(secret) >= 16 else ''})"
