"""Embeddings chosen by environment variables: one switch between an endpoint and this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from langchain_core.embeddings import Embeddings
from pydantic import SecretStr

from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.http.access_token import NamedToken, checked_token, find_token, setting

if TYPE_CHECKING:
    from langchain_hfembed.embeddings.endpoint import HuggingFaceEndpointEmbeddings

_SWITCH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def embeddings_from_env(env: Mapping[str, Any] = os.environ) -> Embeddings:
    """Embeddings as environment variables describe them.

    - `USE_HF_API`: `true` for an endpoint, `false` for this machine.
    - `HF_MODEL_ID`: the model, on either side.
    - `HF_ENDPOINT_URL`: a server; without it, Inference Providers serve the model.
    - `HF_ENDPOINT_TOKEN`: the token for that server, wherever it is.
    - `HF_TOKEN`: the token for Hugging Face; no other host gets it.

    Args:
        env: The variables.

    Returns:
        A `HuggingFaceEndpointEmbeddings` or a `HuggingFaceEmbeddings`.

    Raises:
        InvalidInputError: If a variable is missing, or has no meaning; the message names it.
    """
    if wants_endpoint(env):
        return endpoint_from_env(env)

    from langchain_hfembed.embeddings.local import HuggingFaceEmbeddings

    return HuggingFaceEmbeddings(model_name=local_model(env))


def wants_endpoint(env: Mapping[str, Any]) -> bool:
    """What `USE_HF_API` says.

    Raises:
        InvalidInputError: If it is missing, or has no meaning.
    """
    switch = setting(env, "USE_HF_API").lower()
    if switch not in _SWITCH:
        found = f"USE_HF_API is {switch!r}" if switch else "USE_HF_API is not set"
        raise InvalidInputError(
            f"{found}; set it to true for an endpoint, to false for this machine"
        )
    return _SWITCH[switch]


def local_model(env: Mapping[str, Any]) -> str:
    """The name of the model for this machine.

    Raises:
        InvalidInputError: If `HF_MODEL_ID` is missing.
    """
    model = setting(env, "HF_MODEL_ID")
    if not model:
        raise InvalidInputError("HF_MODEL_ID is not set; USE_HF_API=false needs it")
    return model


def endpoint_from_env(
    env: Mapping[str, Any], target: str | None = None, **parameters: Any
) -> HuggingFaceEndpointEmbeddings:
    """Embeddings behind the endpoint of the environment, or behind another one.

    Args:
        env: The variables; see `embeddings_from_env`.
        target: A URL or a model, instead of the environment's.
        parameters: Of `HuggingFaceEndpointEmbeddings`.

    Raises:
        InvalidInputError: If there is neither a URL nor a model.
    """
    from langchain_hfembed.embeddings.endpoint import HuggingFaceEndpointEmbeddings
    from langchain_hfembed.embeddings.endpoint_base import is_url

    env_url = setting(env, "HF_ENDPOINT_URL") or None
    url, model = env_url, setting(env, "HF_MODEL_ID") or None
    if target is not None:
        url, model = (target, None) if is_url(target) else (None, target)
    if url is None and model is None:
        raise InvalidInputError(
            "neither HF_ENDPOINT_URL nor HF_MODEL_ID is set; an endpoint needs one of them"
        )
    token: SecretStr | None = find_token(env)
    # Another URL does not get the token that was meant for the environment's.
    if url is not None and env_url in (None, url):
        own_token = setting(env, "HF_ENDPOINT_TOKEN")
        if own_token:
            name = "HF_ENDPOINT_TOKEN"
            token = NamedToken(checked_token(own_token, name), name)
    return HuggingFaceEndpointEmbeddings(
        endpoint_url=url, model=model, huggingfacehub_api_token=token, **parameters
    )
