"""Models through Inference Providers, against a Hub and providers on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import langchain_hfembed
from langchain_hfembed import (
    AuthenticationError,
    EmbeddingError,
    EndpointTimeoutError,
    HuggingFaceEndpointEmbeddings,
    InvalidInputError,
    InvalidResponseError,
    ModelNotFoundError,
    RateLimitError,
)
from tests import tei_faults as faults
from tests.hub_server import (
    DIRECT,
    HUB,
    OPENAI_STYLE,
    ROUTER,
    HubServer,
    forget_models,
    model_info,
    redirect,
    texts_by_size,
)
from tests.tei_contract import hash_vectors
from tests.tei_faults import Entry, Fault

MODEL = "org/model"
HF_KEY = "hf_" + "s3cr3t" * 4
OWN_KEY = "sk-" + "0wnk3y" * 4  # a provider's
TEXTS = ["a", "b c", "d e f"]
VECTORS = hash_vectors(TEXTS)
ANY = OPENAI_STYLE[0]
BOTH = ["hf-inference", ANY]

Make = Callable[..., HuggingFaceEndpointEmbeddings]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """Where all addresses lead; nobody is logged in, and waits for retries are short."""
    for name in ("HF_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("langchain_hfembed.http.retry._backoff", lambda state: 0.0)
    models = {
        MODEL: model_info("hf-inference", *OPENAI_STYLE),
        "org/unserved": model_info(),
        "org/chat": model_info("hf-inference", *OPENAI_STYLE, task="conversational"),
    }
    server = HubServer(models=models, prompts={"query": "query: "})
    with server:
        redirect(server, monkeypatch)
        yield server
    forget_models()


@pytest.fixture
def make(hub: HubServer) -> Iterator[Make]:
    """Embeddings for the model, with a token of Hugging Face; closed in the end."""
    made: list[HuggingFaceEndpointEmbeddings] = []

    def embeddings(**parameters: Any) -> HuggingFaceEndpointEmbeddings:
        made.append(
            HuggingFaceEndpointEmbeddings(**{"model": MODEL, "api_key": HF_KEY, **parameters})
        )
        return made[-1]

    yield embeddings
    for each in made:
        each.close()


def hub_fails(times: int, reply: Fault) -> faults.Script:
    """The Hub's first answers are this one."""
    left = iter(range(times))

    def script(number: int, entry: Entry) -> Fault | None:
        return reply if entry.path.startswith(HUB) and next(left, None) is not None else None

    return script


def secrets_in(error: BaseException | None) -> list[str]:
    """Tokens in an error, or in one that stands before it in a traceback."""
    found: list[str] = []
    while error is not None:
        found += re.findall(r"s3cr3t|0wnk3y", f"{error!r} {error}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


@pytest.mark.parametrize("provider", ["hf-inference", *OPENAI_STYLE])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_each_provider_gives_each_text_its_own_vector(
    provider: str, asynchronous: bool, make: Make, hub: HubServer
) -> None:
    """OpenAI-style replies come last vector first, and are sorted by their `index`."""
    embeddings = make(provider=provider)
    if asynchronous:
        vectors = await embeddings.aembed_documents(TEXTS)
        query = await embeddings.aembed_query(TEXTS[1])
    else:
        vectors = await asyncio.to_thread(embeddings.embed_documents, TEXTS)
        query = await asyncio.to_thread(embeddings.embed_query, TEXTS[1])
    assert (vectors, query) == (VECTORS, VECTORS[1])
    assert {entry.headers["authorization"] for entry in hub.sent} == {f"Bearer {HF_KEY}"}
    if provider == "hf-inference":
        assert {entry.path for entry in hub.sent} == {
            f"{ROUTER}/hf-inference/models/{MODEL}/pipeline/feature-extraction"
        }
    else:
        assert all(entry.path.startswith(f"{ROUTER}/{provider}/") for entry in hub.sent)
        assert {entry.json["model"] for entry in hub.sent} == {f"{provider}-model"}


@pytest.mark.parametrize("provider", [None, "auto"])
def test_without_a_provider_the_first_of_the_models_is_taken(
    provider: str | None, make: Make, hub: HubServer
) -> None:
    hub.models = {MODEL: model_info(ANY, "hf-inference")}
    assert make(provider=provider).embed_documents(TEXTS) == VECTORS
    assert [entry.path.split("/")[2] for entry in hub.sent] == [ANY]


@pytest.mark.parametrize(("provider", "lookups"), [(None, 2), ("hf-inference", 1), (ANY, 1)])
def test_the_hub_is_asked_for_the_first_request_only(
    provider: str | None, lookups: int, make: Make, hub: HubServer
) -> None:
    """Who serves the model, and, where that is hf-inference, for which task."""
    embeddings = make(provider=provider)
    for text in TEXTS:
        embeddings.embed_query(text)
    assert [entry.path for entry in hub.lookups] == [HUB + MODEL] * lookups


@pytest.mark.parametrize("provider", BOTH)
def test_many_texts_go_in_requests_of_32_and_come_back_in_order(
    provider: str, make: Make, hub: HubServer
) -> None:
    texts = [f"{'long ' * (i * 7 % 11)}text {i}" for i in range(107)]
    assert make(provider=provider).embed_documents(texts) == hash_vectors(texts)
    assert texts_by_size(hub.sent) == [32, 32, 32, 11]


def test_a_batch_size_is_kept(make: Make, hub: HubServer) -> None:
    texts = [str(i) for i in range(12)]
    assert make(provider=ANY, batch_size=5).embed_documents(texts) == hash_vectors(texts)
    assert texts_by_size(hub.sent) == [5, 5, 2]


@pytest.mark.parametrize("provider", BOTH)
def test_who_pays_is_said_in_a_header(provider: str, make: Make, hub: HubServer) -> None:
    make(provider=provider, bill_to="my-org").embed_query("a")
    make(provider=provider).embed_query("a")
    assert [entry.headers.get("x-hf-bill-to") for entry in hub.sent] == ["my-org", None]


def test_headers_of_ones_own_are_sent(make: Make, hub: HubServer) -> None:
    make(provider=ANY, headers={"X-Trace": "t"}).embed_query("a")
    [entry] = hub.sent
    assert (entry.headers["x-trace"], entry.headers["content-type"]) == ("t", "application/json")
    assert entry.headers["authorization"] == f"Bearer {HF_KEY}"


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"query_prompt": "query: "}, hash_vectors(["query: a"])[0]),
        ({"query_prompt_name": "query"}, hash_vectors(["query: a"])[0]),
        ({"document_prompt": "document: "}, hash_vectors(["a"])[0]),
        ({"dimensions": 3}, None),
        ({"normalize": False, "truncate": True, "dimensions": 16}, hash_vectors(["a"])[0]),
    ],
)
def test_what_hf_inference_is_asked_for_is_done(
    parameters: dict[str, Any], expected: list[float] | None, make: Make, hub: HubServer
) -> None:
    vector = make(provider="hf-inference", **parameters).embed_query("a")
    if expected is None:
        assert len(vector) == parameters["dimensions"]
    else:
        assert vector == expected
    [entry] = hub.sent
    options = {name: value for name, value in entry.json.items() if name != "inputs"}
    renamed = {"query_prompt_name": "prompt_name"}
    assert options == {
        renamed.get(name, name): value
        for name, value in parameters.items()
        if not name.endswith("_prompt")
    }


@pytest.mark.parametrize("provider", OPENAI_STYLE)
def test_dimensions_are_kept_or_refused_by_an_openai_style_provider(
    provider: str, make: Make, hub: HubServer
) -> None:
    """Never passed over: until 1.x, huggingface_hub leaves them out for nebius and sambanova."""
    embeddings = make(provider=provider, dimensions=4)
    try:
        lengths = {len(vector) for vector in embeddings.embed_documents(TEXTS)}
    except InvalidInputError as error:
        lengths = {4} if "dimensions" in str(error) and not hub.sent else set()
    assert lengths == {4}


def test_an_openai_style_provider_gets_the_prompts_text_and_its_own_name_of_the_model(
    make: Make, hub: HubServer
) -> None:
    make(provider=ANY, document_prompt="passage: ").embed_documents(["a"])
    [entry] = hub.sent
    assert entry.json == {"input": ["passage: a"], "model": f"{ANY}-model"}


@pytest.mark.parametrize(
    "fault", [faults.overloaded(), faults.loading(), faults.status(500, text="oops")]
)
@pytest.mark.parametrize("provider", BOTH)
def test_a_providers_passing_failure_is_sat_through(
    provider: str, fault: Fault, make: Make, hub: HubServer
) -> None:
    hub.faults = {1: fault, 2: fault}
    assert make(provider=provider).embed_documents(TEXTS) == VECTORS
    assert len(hub.sent) == 3


def test_retries_end(make: Make, hub: HubServer) -> None:
    hub.faults = lambda number, entry: faults.overloaded()
    with pytest.raises(RateLimitError, match="429") as caught:
        make(provider=ANY, max_retries=2).embed_documents(TEXTS)
    assert len(hub.sent) == 3
    assert caught.value.indices == (0, 1, 2)
    assert not secrets_in(caught.value)


def test_what_had_succeeded_is_not_lost(make: Make, hub: HubServer) -> None:
    hub.faults = {2: faults.vector_too_few()}
    texts = [f"text {i}" for i in range(4)]
    with pytest.raises(InvalidResponseError, match="2 texts with 1 vector") as caught:
        make(provider=ANY, batch_size=2, max_concurrency=1).embed_documents(texts)
    done = caught.value.completed
    assert sorted([*done, *caught.value.indices]) == [0, 1, 2, 3]
    assert all(vector == hash_vectors([texts[i]])[0] for i, vector in done.items())
    assert len(done) == 2


@pytest.mark.parametrize(
    "fault",
    [
        faults.status(429, headers={"RateLimit": '"api";r=0;t=0'}, json={"error": "slow"}),
        faults.status(500, text="oops"),
        faults.unavailable(503),
    ],
)
@pytest.mark.parametrize("provider", [None, *BOTH])
def test_the_hubs_passing_failure_is_sat_through(
    provider: str | None, fault: Fault, make: Make, hub: HubServer
) -> None:
    hub.gate = hub_fails(2, fault)
    assert make(provider=provider).embed_documents(TEXTS) == VECTORS
    assert len(hub.lookups) >= 3


def test_a_hub_that_is_down_is_no_endpoint_that_starts(make: Make, hub: HubServer) -> None:
    """What is starting has minutes to do so; the Hub has its retries."""
    hub.gate = hub_fails(99, faults.unavailable(503))
    with pytest.raises(EmbeddingError, match="503") as caught:
        make(provider=ANY, max_retries=2, cold_start_timeout=0.2).embed_query("a")
    assert type(caught.value) is EmbeddingError
    assert len(hub.lookups) == 3


def test_a_hub_that_hangs_is_left_at_the_timeout(make: Make, hub: HubServer) -> None:
    hub.gate = hub_fails(1, faults.hang(0.5))
    began = time.monotonic()
    with pytest.raises(EndpointTimeoutError, match=r"did not answer within 0\.1 s"):
        make(provider=ANY, timeout=0.1, max_retries=0).embed_query("a")
    assert time.monotonic() - began < 0.4


def test_a_wait_of_minutes_that_the_hub_asks_for_is_an_error_at_once(
    make: Make, hub: HubServer
) -> None:
    limited = faults.status(429, headers={"RateLimit": '"api";r=0;t=300'}, json={"error": "slow"})
    hub.gate = hub_fails(9, limited)
    with pytest.raises(RateLimitError, match="300 s"):
        make().embed_query("a")
    assert len(hub.lookups) == 1


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"model": "org/unserved"}, "no Inference Provider serves org/unserved"),
        ({"model": "org/unserved", "provider": ANY}, f"not supported by provider {ANY}"),
        ({"model": "org/chat", "provider": ANY}, "Supported task: conversational"),
        ({"model": "org/chat", "provider": "hf-inference"}, "doesn't support task"),
        ({"model": "org/missing"}, "404"),
        ({"model": "org/missing", "provider": "hf-inference"}, "404"),
        ({"model": "org/missing", "provider": ANY}, "404"),
        ({"provider": "no-such-provider"}, "'no-such-provider' not supported"),
        ({"provider": "groq"}, "not supported for provider 'groq'"),
        ({"model": "a/b/c"}, "a/b/c"),
    ],
)
def test_a_model_that_nobody_serves_is_said_at_once_and_no_text_is_sent(
    parameters: dict[str, Any], told: str, make: Make, hub: HubServer
) -> None:
    with pytest.raises(ModelNotFoundError, match=re.escape(told)) as caught:
        make(**parameters).embed_documents(TEXTS)
    assert str(parameters.get("model", MODEL)) in str(caught.value)
    assert not hub.sent
    assert len(hub.lookups) <= 1
    assert not secrets_in(caught.value)


def test_an_unknown_provider_is_not_a_matter_of_the_token(make: Make, hub: HubServer) -> None:
    with pytest.raises(ModelNotFoundError, match="no-such-provider"):
        make(provider="no-such-provider", api_key=None).embed_query("a")


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_the_hub_refuses_is_neither_a_missing_model_nor_a_texts_fault(
    status: int, make: Make, hub: HubServer
) -> None:
    """huggingface_hub's BadRequestError is a ValueError, too; batches are not cut for it."""
    hub.gate = hub_fails(99, faults.status(status, json={"error": "unexpected expand"}))
    with pytest.raises(EmbeddingError, match=f"{status}: unexpected expand") as caught:
        make(provider=ANY).embed_documents(TEXTS)
    assert not isinstance(caught.value, ModelNotFoundError)
    assert "text 0" not in str(caught.value)
    assert caught.value.indices == (0, 1, 2)
    assert len(hub.lookups) == 1


@pytest.mark.parametrize(
    "page",
    [faults.html_page(), faults.status(200, json=[]), faults.status(200, json={"id": 1})],
    ids=["html", "list", "no mapping"],
)
@pytest.mark.parametrize("provider", [None, *BOTH])
def test_a_hub_that_is_none_gives_an_error_of_ours(
    page: Fault, provider: str | None, make: Make, hub: HubServer
) -> None:
    """As behind a login portal or a mirror of the Hub."""
    hub.gate = hub_fails(99, page)
    with pytest.raises(EmbeddingError):
        make(provider=provider).embed_query("a")


@pytest.mark.parametrize("provider", OPENAI_STYLE)
def test_without_any_token_a_third_party_is_not_asked(
    provider: str, make: Make, hub: HubServer
) -> None:
    with pytest.raises(AuthenticationError, match="api_key"):
        make(provider=provider, api_key=None).embed_query("a")
    assert not hub.sent


def test_without_any_token_hf_inference_is_asked_all_the_same(make: Make, hub: HubServer) -> None:
    assert make(provider="hf-inference", api_key=None).embed_documents(TEXTS) == VECTORS
    assert not any("authorization" in entry.headers for entry in hub.record)


@pytest.mark.parametrize("provider", BOTH)
@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_told_by_its_source_and_last_letters(
    provider: str, status: int, make: Make, hub: HubServer
) -> None:
    hub.faults = {1: faults.status(status, json={"error": "Invalid credentials"})}
    with pytest.raises(
        AuthenticationError, match=r"sent: the token of api_key \(…cr3t\)"
    ) as caught:
        make(provider=provider).embed_query("a")
    assert len(hub.sent) == 1
    assert not secrets_in(caught.value)


def test_a_providers_own_key_goes_to_the_provider_itself(make: Make, hub: HubServer) -> None:
    assert make(provider=ANY, api_key=OWN_KEY).embed_documents(TEXTS) == VECTORS
    [entry] = hub.sent
    assert entry.path.startswith(f"{DIRECT}/{ANY}/")
    assert entry.headers["authorization"] == f"Bearer {OWN_KEY}"
    assert all(OWN_KEY not in str(lookup.headers) for lookup in hub.lookups)


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGINGFACEHUB_API_TOKEN"])
@pytest.mark.parametrize("secret", [HF_KEY, OWN_KEY])
@pytest.mark.parametrize("provider", [None, *BOTH])
def test_a_found_token_goes_to_nobody_but_hugging_face(
    variable: str,
    secret: str,
    provider: str | None,
    make: Make,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The double, at http://127.0.0.1, is not Hugging Face, whatever the path."""
    monkeypatch.setenv(variable, secret)
    with pytest.raises(AuthenticationError, match=f"the token of {variable} .* would go to") as e:
        make(provider=provider, api_key=None).embed_documents(TEXTS)
    assert not hub.sent
    assert not secrets_in(e.value)


def test_a_token_that_turns_up_later_goes_to_no_third_party(
    make: Make, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub looks for one with each request; ours was looked for once."""
    embeddings = make(provider=ANY, api_key=None)
    monkeypatch.setenv("HF_TOKEN", OWN_KEY)
    with pytest.raises(AuthenticationError):
        embeddings.embed_query("a")
    assert not hub.sent


def test_a_hub_that_cant_be_reached_is_tried_again_and_named(
    make: Make, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[object] = []

    def backoff(state: object) -> float:
        attempts.append(state)
        return 0.0

    monkeypatch.setattr("langchain_hfembed.http.retry._backoff", backoff)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        EmbeddingError, match=r"the Hub can't be reached: Connect\w*Error"
    ) as caught:
        make(max_retries=3).embed_documents(TEXTS)
    assert type(caught.value) is EmbeddingError
    assert caught.value.indices == (0, 1, 2)
    assert len(attempts) == 4
    assert not secrets_in(caught.value)


def test_a_provider_that_cant_be_reached_is_named(
    make: Make, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "INFERENCE_PROXY_TEMPLATE", "http://127.0.0.1:9/{provider}")
    with pytest.raises(EmbeddingError, match=f"127.0.0.1:9/{ANY}.* can't be reached") as caught:
        make(provider=ANY, max_retries=0).embed_query("a")
    assert not secrets_in(caught.value)


OFFLINE = """
import json, sys, time
from langchain_hfembed import EmbeddingError, HuggingFaceEndpointEmbeddings
began = time.monotonic()
try:
    HuggingFaceEndpointEmbeddings(
        model="org/model", provider=json.loads(sys.argv[1]), api_key="hf_s3cr3t"
    ).embed_query("a")
except EmbeddingError as error:
    print(json.dumps([type(error).__name__, str(error), time.monotonic() - began]))
"""


@pytest.mark.parametrize("provider", [None, "hf-inference"])
def test_offline_the_variable_is_named_and_nothing_is_tried_again(provider: str | None) -> None:
    """In a process of its own, since huggingface_hub reads the variable when it is imported."""
    process = subprocess.run(
        [sys.executable, "-c", OFFLINE, json.dumps(provider)],
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "PYTHONPATH": os.pathsep.join(
                [str(Path(langchain_hfembed.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
            ),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    kind, message, seconds = json.loads(process.stdout)
    assert kind == "EmbeddingError"
    assert "HF_HUB_OFFLINE is set" in message
    assert "s3cr3t" not in message
    assert seconds < 5  # six attempts wait for some 15 s


def test_of_a_model_without_a_server_there_is_nothing_to_ask(make: Make, hub: HubServer) -> None:
    embeddings = make(provider=ANY)
    assert embeddings.info() is None
    for ask in (embeddings.health, embeddings.metrics):
        with pytest.raises(InvalidInputError, match="needs the URL of a server"):
            ask()
    assert not hub.record


def test_no_text_sends_no_request(make: Make, hub: HubServer) -> None:
    assert make().embed_documents([]) == []
    assert not hub.record


@pytest.mark.parametrize("provider", [None, *BOTH])
def test_a_check_reports_what_a_provider_tells(
    provider: str | None, make: Make, hub: HubServer
) -> None:
    report = make(provider=provider).check()
    assert report.ok
    assert (report.reachable, report.authorised) == (True, True)
    assert (report.model, report.dimension, report.limits) == (MODEL, 16, {})
    assert report.endpoint == f"{MODEL} ({provider or 'Inference Providers'})"
    assert report.token == "the token of api_key (…cr3t)"
    assert report.round_trip_ms is not None
    assert texts_by_size(hub.sent) == [1]


@pytest.mark.parametrize(
    ("parameters", "reachable", "authorised", "told"),
    [
        ({"model": "org/unserved"}, False, None, "no Inference Provider serves"),
        ({"provider": ANY, "api_key": None}, None, False, "api_key"),
        ({"endpoint": "http://127.0.0.1:9"}, False, None, "the Hub can't be reached"),
        ({"fault": faults.status(401, json={})}, True, False, "answered 401"),
        ({"fault": faults.overloaded()}, True, None, "answered 429"),
    ],
)
def test_a_check_tells_what_is_wrong_without_retries(
    parameters: dict[str, Any],
    reachable: bool | None,
    authorised: bool | None,
    told: str,
    make: Make,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if fault := parameters.pop("fault", None):
        hub.faults = lambda number, entry: fault
    if endpoint := parameters.pop("endpoint", None):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    report = make(**parameters).check()
    assert told in (report.error or "")
    assert not report.ok
    assert reachable in (None, report.reachable)
    assert report.authorised is authorised
    assert len(hub.sent) <= 1
    assert not re.search("s3cr3t", f"{report!r} {report} {report.to_dict()}")
