"""A model through Hugging Face's Inference Providers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from json import JSONDecodeError
from typing import TYPE_CHECKING

from pydantic import SecretStr

from langchain_hfembed.errors import (
    AuthenticationError,
    EmbeddingError,
    InvalidInputError,
    InvalidResponseError,
    ModelNotFoundError,
)
from langchain_hfembed.http.access_token import FoundToken, describe, find_token, is_hugging_face
from langchain_hfembed.http.failures import Kind, Refusal, read_failure
from langchain_hfembed.http.gate import Gate
from langchain_hfembed.http.replies import read_vectors
from langchain_hfembed.http.retry import PassingFailure
from langchain_hfembed.http.tei import EmbedOptions, json_body
from langchain_hfembed.http.transport import HttpTransport

if TYPE_CHECKING:
    from huggingface_hub.inference._common import RequestParameters

_BILL_TO = "X-HF-Bill-To"
# Where the Hub, asked about a model, is not like a server that is sent texts: it does not start
# but is down, and what it refuses is none of the texts.
_HUB_KINDS: dict[Kind, Kind] = {
    "cold_start": "unavailable",
    "invalid": "failed",
    "too_large": "failed",
}


class ProviderRoute:
    """A model through Inference Providers.

    huggingface_hub knows the providers: which serve a model, their URLs and formats. It builds the
    requests, and our transport sends them: `InferenceClient.feature_extraction` has no retries,
    mixes up replies that come in another order, keeps every response alive (1.33), and does not
    tell who will see the token.

    Args:
        gate: What lookups pass through.
        transport: Sends.
        model: Id on the Hub.
        provider: Its name there; None for the first of the user's that serves the model.
        bill_to: Organisation to bill.
        token: Access token.
    """

    def __init__(
        self,
        gate: Gate,
        transport: HttpTransport,
        model: str,
        *,
        provider: str | None,
        bill_to: str | None,
        token: SecretStr | None,
    ) -> None:
        self._gate = gate
        self.transport = transport
        self._model = model
        self._provider = provider
        self._headers = {_BILL_TO: bill_to} if bill_to else {}
        self._token = token
        self.where = f"{model} ({provider or 'Inference Providers'})"

    async def prepare(self) -> None:
        """Providers say nothing about themselves."""

    async def embed(self, texts: list[str], options: EmbedOptions) -> list[list[float]]:
        """One vector a text."""
        request = await self._ask(texts, options)
        reply = await self.transport.post(
            request.url, json_body(request.json), texts=len(texts), headers=request.headers
        )
        return read_vectors(reply, len(texts))

    async def _ask(self, texts: Sequence[str], options: EmbedOptions) -> RequestParameters:
        """A request for the provider; in a thread, since the Hub is asked who serves the model."""
        return await self._gate.send(
            lambda: asyncio.to_thread(self._request, texts, options), self.where
        )

    def _request(self, texts: Sequence[str], options: EmbedOptions) -> RequestParameters:
        """Where to send what."""
        # Looked for again: huggingface_hub would take one that has turned up since.
        token = self._token or find_token()
        request = self._prepared(texts, options, token)
        if isinstance(token, FoundToken) and not is_hugging_face(request.url):
            raise AuthenticationError(
                f"{describe(token)} would go to {request.url}, and what was found in the "
                "environment goes to Hugging Face only. A token of Hugging Face starts with hf_; "
                "pass a provider's own key as api_key="
            )
        if lost := sorted(set(options.given()) - set(request.json or ())):
            raise InvalidInputError(
                f"{self.where} takes no {', '.join(lost)} by way of this version of "
                "huggingface_hub. Leave it out, or upgrade huggingface_hub"
            )
        return request

    def _prepared(
        self, texts: Sequence[str], options: EmbedOptions, token: SecretStr | None
    ) -> RequestParameters:
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        try:
            from huggingface_hub.inference._providers import get_provider_helper
        except ImportError as error:
            raise ImportError(
                "this version of huggingface_hub builds requests in another way; "
                'pip install "huggingface_hub>=0.34,<3"'
            ) from error

        # Of huggingface_hub 1 and 2: the base of httpx's or httpx2's errors. That of 0.x, which
        # uses requests, is an OSError.
        connection_error: type[Exception] = HfHubHTTPError.__bases__[0]
        try:
            helper = get_provider_helper(
                self._provider,  # type: ignore[arg-type]  # a closed list there, which grows
                "feature-extraction",
                self._model,
            )
            if token is None and helper.provider != "hf-inference":
                raise AuthenticationError(
                    f"{self.where} needs a token; pass api_key= or set HF_TOKEN"
                )
            return helper.prepare_request(
                inputs=texts,
                parameters=options.given(),
                headers=self._headers,
                model=self._model,
                api_key=token.get_secret_value() if token else None,
            )
        except StopIteration:
            raise ModelNotFoundError(
                f"no Inference Provider serves {self._model}. Deploy it (TEI, Inference Endpoints) "
                "and give its URL, or choose another model"
            ) from None
        except OfflineModeIsEnabled as error:
            raise EmbeddingError(
                f"{self.where} needs the Hub, and HF_HUB_OFFLINE is set. Unset it, or give the URL "
                "of a server"
            ) from error
        except HfHubHTTPError as error:
            answer = error.response
            failure = read_failure(answer.status_code, answer.headers, answer.content)
            kind = _HUB_KINDS.get(failure.kind, failure.kind)
            raise Refusal(replace(failure, kind=kind)) from None
        except (JSONDecodeError, KeyError, TypeError) as error:
            raise InvalidResponseError(
                f"{self.where}: what the Hub says about the model can't be read: {error!r}. Check "
                "HF_ENDPOINT"
            ) from error
        # After HfHubHTTPError: the one for 400 is a ValueError, too.
        except ValueError as error:
            raise ModelNotFoundError(f"{self.where}: {error}") from error
        except (OSError, connection_error) as error:
            raise PassingFailure(
                EmbeddingError(
                    f"{self.where}: the Hub can't be reached: {type(error).__name__} {error}"
                )
            ) from error
