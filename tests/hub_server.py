"""The Hub and the Inference Providers on loopback: who serves a model, and what they answer.

hf-inference is a TEI behind another path; all others speak OpenAI's format, and answer in another
order than they were asked in, as they may. Faults and the record are those of `tests.tei_server`:

    server = HubServer(models={"org/model": model_info("scaleway")})
    with server:
        redirect(server, monkeypatch)
        ...  # what huggingface_hub asks of the Hub and of providers arrives at the server

Source:
    huggingface_hub: `HfApi.model_info`, `inference/_providers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.inference._providers import PROVIDERS, _common, hf_inference

from tests.tei_contract import json_reply
from tests.tei_faults import Entry, Fault, Reply
from tests.tei_server import TEIServer

TASK = "feature-extraction"
HUB = "/api/models/"
ROUTER, DIRECT = "/router", "/direct"  # a provider through Hugging Face, and with its own key
OPENAI_STYLE = sorted(
    name for name, tasks in PROVIDERS.items() if TASK in tasks and name != "hf-inference"
)


def model_info(*providers: str, task: str = TASK) -> dict[str, Any]:
    """What the Hub says about a model, `expand` or not: its task, and who serves it as what."""
    mapping = {
        name: {"status": "live", "providerId": f"{name}-model", "task": task} for name in providers
    }
    return {"pipeline_tag": task, "tags": [task], "inferenceProviderMapping": mapping}


@dataclass(kw_only=True)
class HubServer(TEIServer):
    """The server.

    Attributes:
        models: What the Hub says, by id; it has no other models.
    """

    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def lookups(self) -> list[Entry]:
        """What the Hub was asked."""
        return [entry for entry in self.record if entry.path.startswith(HUB)]

    @property
    def sent(self) -> list[Entry]:
        """What providers were sent."""
        return [entry for entry in self.record if entry.method == "POST"]

    async def reply(self, entry: Entry, fault: Fault) -> Reply:
        """The reply of the Hub, or of the provider that the path names."""
        if fault.reply is None and entry.path.startswith(HUB):
            await asyncio.sleep(fault.delay)
            name = entry.path.removeprefix(HUB)
            if name in self.models:
                return json_reply({"id": name, **self.models[name]})
            missing = {"x-error-code": "RepoNotFound", "x-error-message": "Repository not found"}
            return replace(json_reply({"error": "Repository not found"}, 404), headers=missing)
        if entry.path.endswith(f"/pipeline/{TASK}"):
            entry = replace(entry, path="/embed")
        elif entry.path.endswith("/embeddings"):
            entry = replace(entry, path="/v1/embeddings")
        return await super().reply(entry, fault)

    def document(
        self, path: str, document: Mapping[str, Any], texts: list[str], results: list[Any]
    ) -> object:
        """Results in the format of the route; OpenAI's last one first."""
        reply: Any = super().document(path, document, texts, results)
        if isinstance(reply, dict):
            reply["data"].reverse()
        return reply


def redirect(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub's addresses lead to the server. Its code stays as it is."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    router = f"{server.url}{ROUTER}/{{provider}}"
    monkeypatch.setattr(constants, "INFERENCE_PROXY_TEMPLATE", router)
    for name in OPENAI_STYLE:
        url = f"{server.url}{DIRECT}/{name}"
        monkeypatch.setattr(PROVIDERS[name][TASK], "base_url", url)
    url = router.format(provider="hf-inference")  # there it was formatted once, on import
    monkeypatch.setattr(PROVIDERS["hf-inference"][TASK], "base_url", url)
    forget_models()


def forget_models() -> None:
    """Empty what huggingface_hub remembers of models, for whole processes."""
    _common._fetch_inference_provider_mapping.cache_clear()
    hf_inference._check_supported_task.cache_clear()


def texts_by_size(entries: Sequence[Entry]) -> list[int]:
    """How many texts each request held, largest first."""
    return sorted((entry.inputs for entry in entries), reverse=True)
