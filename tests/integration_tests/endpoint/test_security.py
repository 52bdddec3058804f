"""Who gets to see a token: its server, and nobody else, however the object is shown or moved."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from langchain_core.load import dumpd, dumps
from pydantic import ValidationError

from langchain_hfembed import HuggingFaceEndpointEmbeddings
from langchain_hfembed.errors import AuthenticationError, EmbeddingError, InvalidInputError
from tests import tei_faults as faults
from tests.integration_tests.endpoint.helpers import Connect, Embed, outcome, posts
from tests.tei_contract import hash_vectors
from tests.tei_faults import Entry, Fault
from tests.tei_server import TEIServer

ROOT = Path(__file__).parents[3]
SECRET = "hf_Secret0123456789abcdefghijklmnopqrstuv"
# Messages may end in the last four characters, which tell two tokens apart.
SECRET_PARTS = (SECRET, SECRET[:-4], SECRET[:12], SECRET[3:15])
TEXTS = ["a", "b c"]
VECTORS = hash_vectors(TEXTS)
Duplicate = Callable[[HuggingFaceEndpointEmbeddings], HuggingFaceEndpointEmbeddings]


def leaks(shown: object) -> list[str]:
    """Parts of the token in what is shown."""
    text = shown.decode("latin-1") if isinstance(shown, bytes) else str(shown)
    return [part for part in SECRET_PARTS if part in text]


def from_token_file(url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    path.write_text(SECRET)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(path))
    return {"endpoint_url": url}


def from_environment(url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    return {"endpoint_url": url}


def from_header(url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"endpoint_url": url, "headers": {"Authorization": f"Bearer {SECRET}"}}


def passed(url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"endpoint_url": url, "api_key": SECRET}


SOURCES = [passed, from_environment, from_token_file, from_header]


@pytest.fixture(params=SOURCES, ids=lambda source: source.__name__)
def holder(
    request: pytest.FixtureRequest,
    server: TEIServer,
    connect: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> HuggingFaceEndpointEmbeddings:
    """A client in use, with the token from each place that a token comes from."""
    embeddings = connect(**request.param(server.url, tmp_path / "token", monkeypatch))
    assert embeddings.embed_documents(TEXTS) == VECTORS
    return embeddings


SHOWN: dict[str, Callable[[HuggingFaceEndpointEmbeddings], object]] = {
    "repr": repr,
    "str": str,
    "format": "{0!r} {0!s} {0}".format,
    "model_dump": lambda e: e.model_dump(),
    "model_dump by alias": lambda e: e.model_dump(by_alias=True),
    "model_dump(json)": lambda e: e.model_dump(mode="json"),
    "model_dump_json": lambda e: e.model_dump_json(),
    "dict": dict,
    "vars": vars,
    "rich": lambda e: list(e.__rich_repr__()),
    "json schema": lambda e: e.model_json_schema(),
    "dumpd": dumpd,
    "dumps": dumps,
    "pickle": pickle.dumps,
    "pickle 0": lambda e: pickle.dumps(e, protocol=0),
    "pickle of a copy": lambda e: pickle.dumps(e.model_copy(deep=True)),
    "state": lambda e: repr(e.__getstate__()),
    "settings": lambda e: repr(e._settings()),
    "report": lambda e: f"{e.check()} {e.check()!r} {e.check().to_dict()}",
}


@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN)
def test_a_token_is_nowhere_to_be_seen(
    show: Callable[[HuggingFaceEndpointEmbeddings], object], holder: HuggingFaceEndpointEmbeddings
) -> None:
    assert leaks(show(holder)) == []


def test_every_secret_header_is_hidden_like_the_token(server: TEIServer, connect: Connect) -> None:
    embeddings = connect(server, headers={"X-Api-Key": SECRET})
    embeddings.embed_query("a")
    shows = {name: show for name, show in SHOWN.items() if "pickle" not in name}
    assert [name for name, show in shows.items() if leaks(show(embeddings))] == []


def test_the_token_file_and_home_of_the_hub_are_read_and_kept_here(tmp_path: Path) -> None:
    """In processes of their own: huggingface_hub reads these variables when it is imported."""
    (tmp_path / "token").write_text(SECRET + "\n")
    program = """if True:
        import pickle, sys
        from langchain_hfembed import HuggingFaceEndpointEmbeddings
        embeddings = HuggingFaceEndpointEmbeddings(endpoint_url=sys.argv[1])
        assert embeddings.huggingfacehub_api_token.get_secret_value() == sys.argv[2]
        embeddings.embed_query("a")
        print(repr(embeddings), pickle.dumps(embeddings), embeddings.model_dump_json())
    """
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    with TEIServer() as server:
        for name, value in {"HF_TOKEN_PATH": tmp_path / "token", "HF_HOME": tmp_path}.items():
            done = subprocess.run(
                [sys.executable, "-c", program, server.url, SECRET],
                env={**environment, name: str(value)},
                cwd=ROOT,
                capture_output=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr.decode()
            assert leaks(done.stdout + done.stderr) == []
        assert len(server.record) == 4
        assert not any("authorization" in entry.headers for entry in server.record)


# Logs and tracebacks.


def chain(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + str(error.__dict__)


def test_logs_at_debug_do_not_hold_the_token(
    connect: Connect, embed: Embed, caplog: pytest.LogCaptureFixture
) -> None:
    script = {1: faults.status(500), 2: faults.reset(), 3: faults.unavailable(), 5: faults.hang(1)}
    with caplog.at_level(logging.DEBUG), TEIServer(api_key=SECRET, faults=script) as server:
        embeddings = connect(server, api_key=SECRET, headers={"X-Secret": SECRET}, timeout=0.3)
        for _ in range(3):
            assert embed(embeddings, TEXTS) == VECTORS
        server.api_key = "another"
        assert isinstance(outcome(embed, embeddings, TEXTS), AuthenticationError)
        embeddings.close()
    names = {record.name.partition(".")[0] for record in caplog.records}
    assert {"httpx", "httpcore", "langchain_hfembed"} <= names
    shown = [f"{r.getMessage()} {r.args!r} {r.exc_text} {r.__dict__}" for r in caplog.records]
    assert leaks("\n".join(shown)) == []


def test_a_whole_program_in_pythons_development_mode_does_not_show_the_token(
    server: TEIServer,
) -> None:
    program = """if True:
        import asyncio, logging, sys
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
        from langchain_hfembed import HuggingFaceEndpointEmbeddings
        embeddings = HuggingFaceEndpointEmbeddings(endpoint_url=sys.argv[1], api_key=sys.argv[2])
        asyncio.run(embeddings.aembed_query("a"), debug=True)
        HuggingFaceEndpointEmbeddings(
            endpoint_url="http://127.0.0.1:9", api_key=sys.argv[2], max_retries=0
        ).embed_query("a")
    """
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program, server.url, SECRET],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert b"can't be reached" in done.stderr
    assert b"DEBUG:httpcore" in done.stderr
    assert leaks(done.stdout + done.stderr) == []


FAILURES: dict[str, Fault] = {
    "401": faults.status(401, json={"error": "Unauthorized"}),
    "403": faults.status(403),
    "404": faults.status(404),
    "422": faults.status(422),
    "429": faults.status(429, headers={"Retry-After": "500"}),
    "500": faults.status(500),
    "503": faults.unavailable(),
    "page": faults.html_page(),
    "half": faults.truncated_json(),
    "reset": faults.reset(),
    "hang": faults.hang(2),
    "301": faults.redirect("/elsewhere", 301),
    "loop": faults.redirect("/embed", 307),
    "too few": faults.vector_too_few(),
}


@pytest.mark.parametrize("fault", FAILURES.values(), ids=FAILURES)
def test_no_error_of_a_server_shows_the_token(fault: Fault, connect: Connect, embed: Embed) -> None:
    with TEIServer(faults=lambda number, entry: fault) as server:
        embeddings = connect(
            server,
            api_key=SECRET,
            headers={"X-Secret": SECRET},
            max_retries=1,
            timeout=0.3,
            cold_start_timeout=0.05,
        )
        error = outcome(embed, embeddings, TEXTS)
    assert isinstance(error, EmbeddingError)
    assert leaks(chain(error)) == []
    assert leaks(pickle.dumps(error)) == []


def echo(kind: str, padding: int) -> Callable[[int, Entry], Fault]:
    """A server that tells what it was sent: proxies and debug pages do that."""

    def script(number: int, entry: Entry) -> Fault:
        said = "x" * padding + entry.headers.get("authorization", "").removeprefix("Bearer ")
        return {
            "401": faults.status(401, json={"error": said, "error_type": "Unauthorized"}),
            "500 text": faults.status(500, text=said),
            "400 page": faults.status(
                400, text=f"<p>{said}</p>", headers={"content-type": "text/html"}
            ),
            "200 page": faults.status(
                200, text=f"<p>{said}</p>", headers={"content-type": "text/html"}
            ),
            "200 object": faults.status(200, json={"detail": said}),
            "200 string": faults.status(200, json=said),
            "content type": faults.status(200, text="x", headers={"content-type": said}),
        }[kind]

    return script


ECHOES = ["401", "500 text", "400 page", "200 page", "200 object", "200 string", "content type"]


# Where messages are cut, a token may be cut through as well.
@pytest.mark.parametrize("padding", [0, 55, 100, 480])
@pytest.mark.parametrize("kind", ECHOES)
def test_a_server_that_echoes_the_token_does_not_put_it_into_our_errors(
    kind: str, padding: int, connect: Connect
) -> None:
    with TEIServer(faults=echo(kind, padding)) as server:
        with pytest.raises(EmbeddingError) as caught:
            connect(server, max_retries=0, api_key=SECRET).embed_documents(["a"])
        assert posts(server)[0].headers["authorization"] == f"Bearer {SECRET}"
    assert leaks(chain(caught.value)) == []


@pytest.mark.parametrize("kind", ECHOES)
def test_a_server_that_echoes_the_token_of_a_header_does_not_put_it_into_our_errors(
    kind: str, connect: Connect
) -> None:
    """What is secret in `Bearer TOKEN` is the token, and it is echoed alone."""
    with TEIServer(faults=echo(kind, 0)) as server:
        with pytest.raises(EmbeddingError) as caught:
            connect(
                server, max_retries=0, headers={"Authorization": f"Bearer {SECRET}"}
            ).embed_documents(["a"])
        assert posts(server)[0].headers["authorization"] == f"Bearer {SECRET}"
    assert leaks(chain(caught.value)) == []


@pytest.mark.parametrize("port", ["closed", "not HTTP"])
def test_no_error_of_a_connection_shows_the_token(
    port: str, connect: Connect, embed: Embed
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if port == "closed":
            listener.close()
        else:

            def answer() -> None:
                with suppress(OSError):  # the test may be over before it is asked again
                    for _ in range(2):
                        connection, _ = listener.accept()
                        with connection:
                            connection.recv(65536)
                            connection.sendall(b"220 mail.example.org ESMTP\r\n")

            threading.Thread(target=answer, daemon=True).start()
        embeddings = connect(
            endpoint_url=url, api_key=SECRET, headers={"X-Secret": SECRET}, max_retries=0
        )
        error = outcome(embed, embeddings, TEXTS)
    assert type(error) is EmbeddingError
    assert leaks(chain(error)) == []


INVALID: dict[str, dict[str, Any]] = {
    "a token with a space": {"api_key": f"{SECRET} x"},
    "a token with a line break": {"api_key": f"{SECRET}\nX-Other: y"},
    "a token beyond ASCII": {"api_key": f"{SECRET}é"},
    "a token in bytes": {"api_key": f"{SECRET}é".encode()},
    "a token in a list": {"api_key": [SECRET]},
    "a header with a line break": {"headers": {"X-Secret": f"{SECRET}\r\nX-Other: y"}},
    "a header beyond ASCII": {"headers": {"X-Secret": f"{SECRET}é"}},
    "a header in a list": {"headers": {"X-Secret": [SECRET]}},
    "headers as text": {"headers": f"X-Secret: {SECRET}"},
    "another parameter": {"api_key": SECRET, "timeout": -1},
    "an unknown parameter": {"api_key": SECRET, "token": SECRET},
    "a password in the URL": {"endpoint_url": f"http://user:{SECRET}@127.0.0.1:9"},
    "a password in the model": {"model": f"http://user:{SECRET}@127.0.0.1:9"},
    "a user in the URL": {"endpoint_url": f"http://{SECRET}@127.0.0.1:9"},
    "a password in no URL": {"endpoint_url": f"user:{SECRET}@127.0.0.1:9"},
    "a password in another URL": {"endpoint_url": f"ftp://user:{SECRET}@127.0.0.1:9"},
}


@pytest.mark.parametrize("parameters", INVALID.values(), ids=INVALID)
def test_no_error_of_construction_shows_the_token(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        HuggingFaceEndpointEmbeddings(**{"endpoint_url": "http://127.0.0.1:9", **parameters})
    assert leaks(chain(caught.value)) == []


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGINGFACEHUB_API_TOKEN"])
def test_no_error_of_the_environment_shows_the_token(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, f"{SECRET} é")
    with pytest.raises(ValueError, match=name) as caught:
        HuggingFaceEndpointEmbeddings(endpoint_url="http://127.0.0.1:9")
    assert leaks(chain(caught.value)) == []


@pytest.mark.parametrize(
    "credentials",
    [
        {"api_key": SECRET},
        {"api_key": [SECRET], "endpoint": "http://127.0.0.1:9"},
        {"api_key": SECRET, "endpoint": 7},
        {"api_key": SECRET, "endpoint": "http://127.0.0.1:9", "extra": SECRET},
        {"api_key": f"{SECRET} é", "endpoint": "http://127.0.0.1:9"},
        f'{{"api_key": "{SECRET}", ',
        f'{{"api_key": "{SECRET}"}} trailing',
    ],
)
def test_no_error_of_credentials_shows_the_token(credentials: Any) -> None:
    with pytest.raises((InvalidInputError, ValidationError)) as caught:
        HuggingFaceEndpointEmbeddings.from_credentials(credentials)
    assert leaks(chain(caught.value)) == []


# Where a token that was found goes.

DUPLICATES: dict[str, Duplicate] = {
    "itself": lambda e: e,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "model_copy": lambda e: e.model_copy(),
    "model_copy(deep)": lambda e: e.model_copy(deep=True),
    "pickle": lambda e: pickle.loads(pickle.dumps(e)),
    "pickle of a deepcopy": lambda e: pickle.loads(pickle.dumps(copy.deepcopy(e))),
    "deepcopy of a deepcopy": lambda e: copy.deepcopy(copy.deepcopy(e)),
    "model_dump": lambda e: HuggingFaceEndpointEmbeddings(**e.model_dump()),
    "model_dump by alias": lambda e: HuggingFaceEndpointEmbeddings(**e.model_dump(by_alias=True)),
    "model_validate": lambda e: HuggingFaceEndpointEmbeddings.model_validate(e.model_dump()),
    "dict": lambda e: HuggingFaceEndpointEmbeddings(**dict(e)),
    "construct": lambda e: HuggingFaceEndpointEmbeddings.model_construct(**dict(e)),
    "the token alone": lambda e: HuggingFaceEndpointEmbeddings(
        endpoint_url=e.endpoint_url, huggingfacehub_api_token=e.huggingfacehub_api_token
    ),
}


def by_url(url: str) -> HuggingFaceEndpointEmbeddings:
    return HuggingFaceEndpointEmbeddings(endpoint_url=url)


def by_model(url: str) -> HuggingFaceEndpointEmbeddings:
    return HuggingFaceEndpointEmbeddings(model=url)


def by_repo_id(url: str) -> HuggingFaceEndpointEmbeddings:
    return HuggingFaceEndpointEmbeddings(repo_id=url)


def by_credentials(url: str) -> HuggingFaceEndpointEmbeddings:
    return HuggingFaceEndpointEmbeddings.from_credentials({"endpoint": url, "api_key": ""})


def by_empty_key(url: str) -> HuggingFaceEndpointEmbeddings:
    return HuggingFaceEndpointEmbeddings(endpoint_url=url, huggingfacehub_api_token="")


def moved(url: str) -> HuggingFaceEndpointEmbeddings:
    """From the Hub, where it would be sent, to another host."""
    return HuggingFaceEndpointEmbeddings(
        model="org/model", endpoint_url="https://api.endpoints.huggingface.cloud"
    ).model_copy(update={"endpoint_url": url})


MAKERS = [by_url, by_model, by_repo_id, by_credentials, by_empty_key, moved]
# Each way to make an object, and each way to duplicate one that came from another host.
WAYS = [(make, "itself") for make in MAKERS]
WAYS += [(make, name) for make in (by_url, moved) for name in DUPLICATES if name != "itself"]


@pytest.mark.parametrize(("make", "duplicate"), WAYS)
@pytest.mark.parametrize("place", ["HF_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "file"])
def test_a_token_that_was_found_never_reaches_another_host(
    place: str,
    make: Callable[[str], HuggingFaceEndpointEmbeddings],
    duplicate: str,
    running: TEIServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if place == "file":
        from_token_file(running.url, tmp_path / "token", monkeypatch)
    else:
        monkeypatch.setenv(place, SECRET)
    running.clear()
    with DUPLICATES[duplicate](make(running.url)) as embeddings:
        token = embeddings.huggingfacehub_api_token
        assert token is not None
        assert token.get_secret_value() == SECRET
        assert embeddings.embed_query("a") == VECTORS[0]
    assert len(running.record) == 2
    assert [leaks(entry.headers) for entry in running.record] == [[], []]


@pytest.fixture(scope="module")
def running() -> Iterator[TEIServer]:
    """One server for a table of many rows."""
    with TEIServer() as server:
        yield server


def test_a_token_passed_as_the_environments_own_counts_as_passed(
    server: TEIServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal text, another wish: what someone passed, goes where it was passed for."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    connect(server, api_key=os.environ["HF_TOKEN"]).embed_query("a")
    connect(server).embed_query("a")
    sent = [entry.headers.get("authorization") for entry in posts(server)]
    assert sent == [f"Bearer {SECRET}", None]


# Redirects.

CUSTOM = {"X-Tenant": "blue", "Cookie": "session=1"}


@pytest.mark.parametrize("code", [307, 308])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_redirect_to_another_port_drops_token_and_headers(
    method: str, code: int, connect: Connect, embed: Embed
) -> None:
    with TEIServer() as other:

        def script(number: int, entry: Entry) -> Fault | None:
            there = f"{other.url}{entry.path}"
            return faults.redirect(there, code) if entry.method == method else None

        with TEIServer(gate=script) as server:
            embeddings = connect(server, api_key=SECRET, headers=CUSTOM)
            assert embed(embeddings, TEXTS) == VECTORS
            assert {entry.headers["authorization"] for entry in server.record} == {
                f"Bearer {SECRET}"
            }
            assert {entry.headers["x-tenant"] for entry in server.record} == {"blue"}
        assert [entry.method for entry in other.record] == [method]
    headers = other.record[0].headers
    assert {"authorization", "x-tenant", "cookie"} & set(headers) == set()
    assert leaks(headers) == []
    if method == "POST":
        assert headers["content-type"] == "application/json"


def test_a_redirect_that_comes_back_does_not_bring_the_token_along(connect: Connect) -> None:
    """Over another host and back: what was dropped stays dropped."""
    with TEIServer() as server:

        def home(number: int, entry: Entry) -> Fault:
            return faults.redirect(f"{server.url}/embed?home")

        with TEIServer(faults=home) as other:
            server.faults = {1: faults.redirect(f"{other.url}/embed")}
            connect(server, api_key=SECRET).embed_query("a")
            assert "authorization" not in other.record[-1].headers
        assert "authorization" not in posts(server)[-1].headers


@pytest.mark.parametrize("code", [307, 308])
@pytest.mark.parametrize("relative", [True, False])
def test_a_redirect_on_the_same_host_keeps_token_and_headers(
    relative: bool, code: int, connect: Connect, embed: Embed
) -> None:
    with TEIServer(api_key=SECRET) as server:

        def script(number: int, entry: Entry) -> Fault | None:
            there = "/embed" if relative else f"{server.url}/embed"
            return faults.redirect(there, code) if entry.path == "/invocations" else None

        server.faults = script
        embeddings = connect(
            endpoint_url=f"{server.url}/invocations", api_key=SECRET, headers=CUSTOM
        )
        assert embed(embeddings, TEXTS) == VECTORS
    sent = posts(server)
    assert [entry.path for entry in sent] == ["/invocations", "/embed"]
    assert {entry.headers["authorization"] for entry in sent} == {f"Bearer {SECRET}"}
    assert {entry.headers["x-tenant"] for entry in sent} == {"blue"}


def test_a_refusal_behind_a_redirect_says_where_it_led(connect: Connect) -> None:
    with TEIServer(api_key="other") as other:
        script = {1: faults.redirect(f"{other.url}/embed")}
        with TEIServer(faults=script) as server, pytest.raises(AuthenticationError) as caught:
            connect(server, api_key=SECRET).embed_query("a")
    assert f"{other.url}/embed" in str(caught.value)
    assert leaks(chain(caught.value)) == []


@pytest.mark.parametrize("code", [301, 302, 303])
def test_a_redirect_that_turns_post_into_get_is_an_error_that_names_the_new_url(
    code: int, connect: Connect, embed: Embed
) -> None:
    with TEIServer() as server:
        there = f"{server.url}/new/embed"
        server.faults = lambda number, entry: faults.redirect(there, code)
        error = outcome(embed, connect(server, api_key=SECRET), TEXTS)
    assert type(error) is EmbeddingError
    assert there in str(error)
    assert error.indices == (0, 1)
    assert [entry.path for entry in server.record] == ["/info", "/embed"]


def test_redirects_without_end_are_an_error(connect: Connect, embed: Embed) -> None:
    with TEIServer(faults=lambda number, entry: faults.redirect("/embed")) as server:
        error = outcome(embed, connect(server), TEXTS)
    assert type(error) is EmbeddingError
    assert "again and again" in str(error)
    assert len(posts(server)) < 10


@pytest.mark.parametrize(
    "location", ["http://[", "ftp://127.0.0.1/embed", "http://127.0.0.1:99999/embed"]
)
def test_a_redirect_that_leads_nowhere_is_our_error(
    location: str, connect: Connect, embed: Embed
) -> None:
    with TEIServer(faults=lambda number, entry: faults.redirect(location)) as server:
        error = outcome(embed, connect(server, max_retries=0), TEXTS)
    assert type(error) is EmbeddingError


# TLS.


class _Embedder(BaseHTTPRequestHandler):
    """`/embed` over TLS, where the double has none."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_error(404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        reply = json.dumps(hash_vectors(json.loads(body)["inputs"])).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_arguments: object) -> None:
        pass


class _TLSServer(ThreadingHTTPServer):
    """Counts connections; a client that goes during the handshake is no error of ours."""

    accepted = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        self.accepted += 1
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """One that nobody knows."""
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 127.0.0.1, with its key in the same file."""
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SSL_CERT_FILE name the authority."""
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


@contextmanager
def tls_server(certificate: Path) -> Iterator[_TLSServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with _TLSServer(("127.0.0.1", 0), _Embedder) as server:
        server.daemon_threads = True
        # The handshake belongs to a connection's own thread, not to accept().
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_certificate_that_nobody_vouches_for_is_an_error_at_once(
    certificate: Path, connect: Connect, embed: Embed
) -> None:
    with tls_server(certificate) as server:
        url = f"https://127.0.0.1:{server.server_port}"
        started = time.monotonic()
        error = outcome(embed, connect(endpoint_url=url, api_key=SECRET), TEXTS)
        assert time.monotonic() - started < 5
        assert server.accepted == 1
    assert type(error) is EmbeddingError
    assert url in str(error)
    assert "SSL_CERT_FILE" in str(error)
    assert leaks(chain(error)) == []


def test_ssl_cert_file_names_an_authority_as_the_error_promises(
    certificate: Path, trusted: None, connect: Connect, embed: Embed
) -> None:
    with tls_server(certificate) as server:
        url = f"https://127.0.0.1:{server.server_port}/embed"
        assert embed(connect(endpoint_url=url), TEXTS) == VECTORS


def test_a_certificate_of_another_name_is_an_error(
    certificate: Path, trusted: None, connect: Connect
) -> None:
    with tls_server(certificate) as server:
        embeddings = connect(endpoint_url=f"https://localhost:{server.server_port}")
        with pytest.raises(EmbeddingError, match="can't be trusted"):
            embeddings.embed_query("a")
        assert server.accepted == 1
