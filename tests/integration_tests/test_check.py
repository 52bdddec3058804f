"""`check()`, its report, `hfembed check`, and the credentials that both start from."""

from __future__ import annotations

import contextlib
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
from pydantic import ValidationError

import langchain_hfembed
from langchain_hfembed import EmbeddingError, HuggingFaceEndpointEmbeddings, InvalidInputError
from langchain_hfembed.embeddings.env import endpoint_from_env
from langchain_hfembed.http.report import EndpointReport
from tests import tei_faults as faults
from tests.tei_contract import hash_vectors
from tests.tei_faults import Fault
from tests.tei_server import TEIServer

pytest.importorskip("typer")
pytest.importorskip("rich")

KEY = "s3cr3t-of-the-server"
FOUND = "hf_f0und-in-the-environment"
NOWHERE = "http://127.0.0.1:9"
LIMITS = {
    "max_client_batch_size": 32,
    "max_concurrent_requests": 512,
    "max_input_length": 512,
    "max_batch_tokens": 16_384,
}

Check = Callable[..., EndpointReport]
Run = Callable[..., "Result"]


@pytest.fixture(scope="module")
def shared() -> Iterator[TEIServer]:
    with TEIServer() as server:
        yield server


@pytest.fixture
def server(
    shared: TEIServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[TEIServer]:
    """Without faults and with an empty record; nobody is logged in, no variable is set."""
    for name in (
        *("HF_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "HF_ENDPOINT_TOKEN"),
        *("HF_ENDPOINT_URL", "HF_MODEL_ID"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    shared.faults, shared.gate, shared.api_key, shared.has_info = {}, None, None, True
    shared.clear()
    yield shared
    shared.embed = hash_vectors


@pytest.fixture
def check(server: TEIServer) -> Check:
    """The report on the server, with these parameters."""

    def report(**parameters: Any) -> EndpointReport:
        given = {"endpoint_url": server.url, **parameters}
        return HuggingFaceEndpointEmbeddings(**given).check()

    return report


def paths(server: TEIServer) -> list[str]:
    return [entry.path for entry in server.record]


def test_all_is_well_is_reported_in_full(check: Check, server: TEIServer) -> None:
    report = check(api_key=KEY)
    assert report.ok
    assert report.round_trip_ms is not None
    assert 0 < report.round_trip_ms < 5000
    assert report == EndpointReport(
        endpoint=f"{server.url}/embed",
        token="the token of api_key (…rver)",
        reachable=True,
        authorised=True,
        model="org/model",
        dimension=16,
        limits=LIMITS,
        round_trip_ms=report.round_trip_ms,
    )
    assert paths(server) == ["/info", "/embed"]
    assert [entry.inputs for entry in server.record] == [0, 1]


def test_the_round_trip_is_that_of_a_text(check: Check, server: TEIServer) -> None:
    server.faults = {1: faults.hang(0.1)}
    report = check()
    assert report.round_trip_ms is not None
    assert 100 <= report.round_trip_ms < 1000


def test_a_check_asks_as_a_query_does(check: Check, server: TEIServer) -> None:
    report = check(dimensions=4, normalize=True, truncate=True)
    assert report.dimension == 4
    assert server.record[-1].json.keys() == {"inputs", "dimensions", "normalize", "truncate"}
    report = check(query_prompt_name="query")
    assert "`query`" in (report.error or "")


def test_nothing_answers(check: Check) -> None:
    report = check(endpoint_url=NOWHERE)
    assert (report.ok, report.reachable, report.authorised) == (False, False, None)
    assert (report.endpoint, report.model, report.dimension) == (NOWHERE, None, None)
    assert f"{NOWHERE}/ can't be reached" in (report.error or "").replace("/info", "/")


@pytest.mark.parametrize(
    ("parameters", "variables", "told"),
    [
        ({"api_key": "wr0ng-but-long-enough"}, {}, "sent: the token of api_key (…ough)"),
        ({}, {}, "no token was sent"),
        ({}, {"HF_TOKEN": KEY}, "the token of HF_TOKEN (…rver) was not sent to 127.0.0.1"),
    ],
)
@pytest.mark.parametrize("has_info", [True, False])
def test_a_token_that_is_not_accepted(
    parameters: dict[str, Any],
    variables: dict[str, str],
    told: str,
    has_info: bool,
    check: Check,
    server: TEIServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.api_key, server.has_info = KEY, has_info
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    report = check(**parameters)
    assert (report.ok, report.reachable, report.authorised) == (False, True, False)
    assert "answered 401" in (report.error or "")
    assert told in (report.error or "")
    for secret in (KEY, "wr0ng"):
        assert secret not in f"{report!r} {report} {report.to_dict()}"


@pytest.mark.parametrize(("model", "ok"), [("org/model", True), ("org/other", False), (None, True)])
def test_another_model_than_expected_is_an_error(model: str | None, ok: bool, check: Check) -> None:
    report = check(model=model)
    assert (report.ok, report.model, report.dimension) == (ok, "org/model", 16)
    assert ok or report.error == (
        "the server has org/model, not org/other. Change the model or the URL"
    )


@pytest.mark.parametrize("code", [502, 503])
def test_a_cold_start_is_reported_and_not_waited_for(
    code: int, check: Check, server: TEIServer
) -> None:
    server.gate = faults.starting(30, code)
    began = time.monotonic()
    report = check()
    assert time.monotonic() - began < 1
    assert (report.ok, report.reachable, report.authorised) == (False, True, None)
    assert f"answered {code}" in (report.error or "")
    assert len(server.record) <= 2


@pytest.mark.parametrize("model", [None, "org/model"])
def test_a_server_without_info_tells_no_limits(
    model: str | None, check: Check, server: TEIServer
) -> None:
    server.has_info = False
    report = check(model=model)
    assert (report.ok, report.authorised, report.dimension) == (True, True, 16)
    assert (report.model, report.limits) == (model, {})
    assert report.endpoint == f"{server.url}/"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (faults.overloaded(), "429"),
        (faults.status(500, text="oops"), "500: oops"),
        (faults.status(404), "404"),
        (faults.status(403, json={"error": "Forbidden"}), "403: Forbidden"),
        (faults.html_page(), "not JSON"),
        (faults.vector_too_few(), "1 texts with 0 vectors"),
        (faults.nan_in_vector(), "NaN"),
        (faults.token_level(), "one vector a token"),
        (faults.redirect(f"{NOWHERE}/embed"), "can't be reached"),
        (faults.reset(), "can't be reached"),
    ],
)
def test_what_is_wrong_with_a_text_is_reported_after_one_try(
    fault: Fault, told: str, check: Check, server: TEIServer
) -> None:
    server.faults = lambda number, entry: fault
    report = check()
    assert told in (report.error or "")
    assert (report.reachable, report.model, report.limits) == (True, "org/model", LIMITS)
    assert report.authorised is (False if told.startswith("403") else None)
    assert (report.dimension, report.round_trip_ms) == (None, None)
    assert paths(server) == ["/info", "/embed"]


def test_a_server_that_is_silent_is_left_at_the_timeout(check: Check, server: TEIServer) -> None:
    server.gate = lambda number, entry: faults.hang(1)
    report = check(timeout=0.1)
    assert not report.reachable
    assert "did not answer within 0.1 s" in (report.error or "")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTP_PROXY", "http://localhost:abc"),
        ("SSL_CERT_FILE", "/nowhere/ca.pem"),
        ("HTTP_PROXY", "ftp://127.0.0.1:9"),
    ],
)
def test_a_check_reports_what_the_environment_spoils(
    variable: str, value: str, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert variable in (check().error or "")


@pytest.mark.parametrize(
    "url", ["http://xn--/", "http://a\x01b/", "http://exa mple/", "http://../"]
)
def test_a_url_that_can_be_none_is_refused_or_reported(url: str, check: Check) -> None:
    with contextlib.suppress(ValidationError):
        assert not check(endpoint_url=url).reachable


def test_a_check_leaves_no_connection_and_changes_nothing(server: TEIServer) -> None:
    embeddings = HuggingFaceEndpointEmbeddings(endpoint_url=server.url)
    vector = embeddings.embed_query("a")
    reports = [embeddings.check(), embeddings.check()]
    assert all(report.ok for report in reports)
    assert embeddings.embed_query("a") == vector
    give_up = time.monotonic() + 5
    while server.connections.open > 1 and time.monotonic() < give_up:
        time.sleep(0.01)  # the server hears of a closed connection a little later
    assert server.connections.open == 1
    embeddings.close()


def test_a_report_is_read_line_by_line(check: Check, server: TEIServer) -> None:
    report = check(api_key=KEY)
    assert str(report).splitlines() == [
        "✓ token       the token of api_key (…rver)",
        f"✓ endpoint    {server.url}/embed",
        "✓ model       org/model",
        "✓ dimension   16",
        "✓ limits      max_client_batch_size 32, max_concurrent_requests 512, "
        "max_input_length 512, max_batch_tokens 16384",
        f"✓ round trip  {report.round_trip_ms:.0f} ms",
    ]


def test_a_report_marks_what_is_wrong_and_what_is_unknown(check: Check, server: TEIServer) -> None:
    server.api_key, server.has_info = KEY, False
    lines = str(check()).splitlines()
    assert [line[0] for line in lines] == ["✗", "✓", "-", "-", "-", "-", "✗"]
    assert lines[0] == "✗ token       no token"
    assert lines[2:6] == [
        "- model       unknown",
        "- dimension   unknown",
        "- limits      not told",
        "- round trip  none",
    ]
    assert lines[6].startswith(f"✗ error       {server.url}/ answered 401")
    assert str(check(endpoint_url=NOWHERE)).splitlines()[1] == f"✗ endpoint    {NOWHERE}"


@pytest.mark.parametrize("url", [None, NOWHERE])
def test_a_report_is_json(url: str | None, check: Check) -> None:
    report = check(**({"endpoint_url": url} if url else {}))
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert document == {"ok": report.ok, **{name: getattr(report, name) for name in FIELDS}}


FIELDS = (
    *("endpoint", "token", "reachable", "authorised", "model", "dimension", "limits"),
    *("round_trip_ms", "error"),
)


class Result:
    """How a command ended, and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in out + err
        for secret in (KEY, FOUND):
            assert secret not in out + err


@pytest.fixture
def run_check(
    server: TEIServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """`hfembed check` in this process; whatever it prints holds neither secret nor traceback."""
    from langchain_hfembed.cli import main

    def run(*arguments: object, **variables: str) -> Result:
        monkeypatch.setenv("COLUMNS", "400")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["hfembed", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Result(
            code if isinstance(code, int) else int(code is not None), *capsys.readouterr()
        )

    return run


def test_the_command_prints_a_line_for_each_thing_and_exits_with_0(
    run_check: Run, server: TEIServer
) -> None:
    result = run_check(server.url)
    assert (result.code, result.err) == (0, "")
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert lines[:4] == [
        "- token no token",
        f"✓ endpoint {server.url}/embed",
        "✓ model org/model",
        "✓ dimension 16",
    ]


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_the_command_exits_with_1_where_something_is_wrong(
    arguments: tuple[str, ...], run_check: Run
) -> None:
    result = run_check(NOWHERE, *arguments)
    assert result.code == 1
    assert "can't be reached" in result.out
    assert result.err == ""


def test_with_json_the_command_prints_the_report_and_nothing_else(
    run_check: Run, server: TEIServer
) -> None:
    result = run_check(server.url, "--json")
    document = json.loads(result.out)
    assert document.pop("round_trip_ms") > 0
    assert document == {
        "ok": True, "endpoint": f"{server.url}/embed", "token": "no token", "reachable": True,
        "authorised": True, "model": "org/model", "dimension": 16, "limits": LIMITS, "error": None,
    }  # fmt: skip
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize(
    ("variables", "sent", "told"),
    [
        ({}, None, "no token"),
        ({"HF_TOKEN": FOUND}, None, "the token of HF_TOKEN (…ment)"),
        ({"HUGGINGFACEHUB_API_TOKEN": FOUND}, None, "the token of HUGGINGFACEHUB_API_TOKEN"),
        ({"HF_ENDPOINT_TOKEN": KEY}, KEY, "the token of HF_ENDPOINT_TOKEN (…rver)"),
        (
            {"HF_ENDPOINT_TOKEN": KEY, "HF_TOKEN": FOUND},
            KEY,
            "the token of HF_ENDPOINT_TOKEN (…rver)",
        ),
        ({"HF_ENDPOINT_TOKEN": " "}, None, "no token"),
    ],
)
def test_the_variables_say_where_and_with_which_token(
    variables: dict[str, str], sent: str | None, told: str, run_check: Run, server: TEIServer
) -> None:
    result = run_check(HF_ENDPOINT_URL=server.url, **variables)
    assert result.code == 0
    assert told in result.out
    expected = None if sent is None else f"Bearer {sent}"
    assert {entry.headers.get("authorization") for entry in server.record} == {expected}


def test_the_model_of_the_variables_is_the_one_expected(run_check: Run, server: TEIServer) -> None:
    variables = {"HF_ENDPOINT_URL": server.url}
    assert run_check(**variables, HF_MODEL_ID="org/model").code == 0
    result = run_check(**variables, HF_MODEL_ID="org/other")
    assert result.code == 1
    assert "the server has org/model, not org/other" in result.out


def test_a_url_as_argument_replaces_url_and_model_of_the_variables(
    run_check: Run, server: TEIServer
) -> None:
    result = run_check(server.url, HF_ENDPOINT_URL=NOWHERE, HF_MODEL_ID="org/other")
    assert result.code == 0


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (("org/model",), {}),
        (("org/model", "--provider", "hf-inference"), {}),
        ((), {"HF_MODEL_ID": "org/model"}),
        (("org/model",), {"HF_ENDPOINT_URL": NOWHERE}),
    ],
)
def test_a_model_alone_is_looked_for_on_the_hub(
    arguments: tuple[str, ...],
    variables: dict[str, str],
    run_check: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which these tests can't reach: they run with HF_HUB_OFFLINE=1."""
    result = run_check(*arguments, **variables)
    assert result.code == 1
    assert "org/model" in result.out
    assert "HF_HUB_OFFLINE" in result.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), ("HF_ENDPOINT_URL", "HF_MODEL_ID")),
        (("https://",), ("must start with http",)),
        (("https://user:s3cr3t-of-the-server@host",), ("password",)),
        (("http://127.0.0.1:9", "--provider", "together"), ("provider='together'",)),
        (("localhost:8080",), ("colon",)),
        (("--credentials", "missing.json"), ("missing.json",)),
        (("--credentials", "missing.json", "http://127.0.0.1:9"), ("not both",)),
        (("--credentials", "."), ("Is a directory",)),
    ],
)
def test_what_the_command_cant_start_with_is_one_paragraph_on_the_error_output(
    arguments: tuple[str, ...], told: tuple[str, ...], run_check: Run, server: TEIServer
) -> None:
    result = run_check(*arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error:")
    assert all(part in result.err for part in told)
    assert not server.record


def write(folder: Path, document: object) -> Path:
    path = folder / "credentials.json"
    path.write_bytes(
        document if isinstance(document, bytes) else json.dumps(document).encode("utf-8")
    )
    return path


def test_a_credentials_file_says_where_and_with_which_token(
    run_check: Run, server: TEIServer, tmp_path: Path
) -> None:
    server.api_key = KEY
    document = {"endpoint": server.url, "api_key": KEY, "model_name": "org/model"}
    path = write(tmp_path, {**document, "context_window": 512})
    result = run_check("--credentials", path, "--json", HF_TOKEN=FOUND, HF_ENDPOINT_URL=NOWHERE)
    assert result.code == 0
    assert json.loads(result.out)["token"] == "the token of api_key (…rver)"
    assert {entry.headers["authorization"] for entry in server.record} == {f"Bearer {KEY}"}


def test_credentials_do_not_take_the_token_of_another_url(
    run_check: Run, server: TEIServer, tmp_path: Path
) -> None:
    server.api_key = KEY
    path = write(tmp_path, {"endpoint": server.url})
    assert run_check("--credentials", path, HF_ENDPOINT_TOKEN=KEY).code == 1


BAD_CREDENTIALS = [
    ({"endpoint": NOWHERE, "token": KEY}, "no such key as ['token']"),
    ({"endpoint": 8080, "api_key": KEY}, "endpoint is int, not str"),
    ({"endpoint": NOWHERE, "api_key": [KEY]}, "api_key is list, not str"),
    ({"endpoint": NOWHERE, "context_window": "512"}, "context_window is str, not int"),
    ({"endpoint": NOWHERE, "context_window": True}, "context_window is bool, not int"),
    ({"endpoint": NOWHERE, "context_window": 0}, "context_window"),
    ({"endpoint": NOWHERE, "api_key": f"{KEY} {KEY}"}, "api_key holds a character"),
    ({"api_key": KEY}, "neither an endpoint nor a model_name"),
    ({"api_key": KEY, "endpoint": "", "model_name": None}, "neither an endpoint nor"),
]
BAD_FILES = [
    (json.dumps([{"api_key": KEY}]).encode(), "not an object"),
    (json.dumps(KEY).encode(), "not an object"),
    (KEY.encode(), "not JSON"),
    (f'{{"api_key": "{KEY}"'.encode(), "not JSON"),
    (b"", "not JSON"),
    (f'{{"api_key": "{KEY}\xfc", "endpoint": "{NOWHERE}"}}'.encode("latin-1"), "not JSON"),
]


def refused(given: Any, told: str) -> None:
    """It is, in these words, and without any value in the error or before it in a traceback."""
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        HuggingFaceEndpointEmbeddings.from_credentials(given)
    error: BaseException | None = caught.value
    while error is not None:
        assert KEY not in f"{error!r} {error}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize(("document", "told"), BAD_CREDENTIALS)
@pytest.mark.parametrize("as_given", [dict, json.dumps])
def test_bad_credentials_are_told_without_any_value(
    document: dict[str, Any], told: str, as_given: Callable[[object], object], server: TEIServer
) -> None:
    refused(as_given(document), told)


@pytest.mark.parametrize(("document", "told"), [*BAD_CREDENTIALS, *BAD_FILES])
def test_a_bad_file_of_credentials_is_told_without_any_value(
    document: object, told: str, run_check: Run, tmp_path: Path
) -> None:
    path = write(tmp_path, document)
    refused(path, told)
    result = run_check("--credentials", path)
    assert (result.code, result.out) == (1, "")
    assert told in result.err


def test_json_that_is_no_object_is_not_shown_as_the_name_of_a_file() -> None:
    refused(f'[{{"api_key": "{KEY}"}}]', "not an object")


@pytest.mark.parametrize("as_json", [dict, json.dumps, "path", "str path"])
def test_credentials_are_a_mapping_json_or_a_path(
    as_json: Any, server: TEIServer, tmp_path: Path
) -> None:
    document = {
        "api_key": KEY, "endpoint": server.url, "model_name": "org/model", "context_window": 512
    }  # fmt: skip
    path = write(tmp_path, document)
    files: dict[Any, Any] = {"path": path, "str path": str(path)}
    given = files.get(as_json) or as_json(document)
    embeddings = HuggingFaceEndpointEmbeddings.from_credentials(given, batch_size=3)
    assert (embeddings.endpoint_url, embeddings.model) == (server.url, "org/model")
    assert (embeddings.context_window, embeddings.batch_size) == (512, 3)
    assert embeddings.huggingfacehub_api_token is not None
    assert embeddings.huggingfacehub_api_token.get_secret_value() == KEY
    assert KEY not in repr(embeddings)
    assert len(embeddings.embed_query("a")) == 16
    assert server.record[-1].headers["authorization"] == f"Bearer {KEY}"
    embeddings.close()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_in_front_of_the_json_does_not_matter(
    encoding: str, tmp_path: Path
) -> None:
    """Windows' editors and shells write one."""
    path = write(tmp_path, json.dumps({"endpoint": NOWHERE}).encode(encoding))
    text = "\ufeff" + json.dumps({"endpoint": NOWHERE})
    for given in (path, text):
        embeddings = HuggingFaceEndpointEmbeddings.from_credentials(given)
        assert embeddings.endpoint_url == NOWHERE


@pytest.mark.parametrize(
    ("document", "kwargs", "expected"),
    [
        ({"endpoint": NOWHERE, "context_window": 1}, {"context_window": 2}, {"context_window": 2}),
        ({"endpoint": NOWHERE}, {"endpoint_url": "http://b"}, {"endpoint_url": "http://b"}),
        ({"model_name": "a/b"}, {"model": "c/d"}, {"model": "c/d"}),
        ({"model_name": "a/b"}, {"repo_id": "c/d"}, {"model": "c/d"}),
        ({"model_name": "a/b", "api_key": KEY}, {"api_key": "other"}, {"token": "other"}),
        (
            {"model_name": "a/b", "api_key": KEY},
            {"huggingfacehub_api_token": "other"},
            {"token": "other"},
        ),
    ],
)
def test_a_parameter_wins_over_the_credentials(
    document: dict[str, Any], kwargs: dict[str, Any], expected: dict[str, Any], server: TEIServer
) -> None:
    """By either of its names."""
    embeddings = HuggingFaceEndpointEmbeddings.from_credentials(document, **kwargs)
    token = embeddings.huggingfacehub_api_token
    found = {**embeddings.__dict__, "token": token and token.get_secret_value()}
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("value", ["hf_line\nbreak", "hf_ü", "hf_a b"])
def test_a_token_that_no_header_can_hold_is_refused_by_its_variable(
    value: str, server: TEIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="HF_TOKEN holds a character") as caught:
        endpoint_from_env({"HF_TOKEN": value, "HF_MODEL_ID": "org/model"})
    assert value not in str(caught.value)


@pytest.mark.parametrize("way", ["url", "credentials"])
def test_the_command_says_which_variable_holds_a_broken_token(
    way: str, run_check: Run, tmp_path: Path
) -> None:
    path = write(tmp_path, {"endpoint": NOWHERE})
    arguments = [NOWHERE] if way == "url" else ["--credentials", path]
    result = run_check(*arguments, HF_TOKEN=f"{FOUND} {FOUND}")
    assert result.code == 1
    assert "HF_TOKEN holds a character" in result.err


@pytest.mark.parametrize(
    ("url", "code", "encoding"), [("", 0, "utf-8"), (NOWHERE, 1, "utf-8"), ("", 0, "ascii")]
)
def test_the_command_exits_likewise_whatever_letters_a_terminal_has(
    url: str, code: int, encoding: str, server: TEIServer
) -> None:
    """In a process of its own. Windows' terminals, for one, may know neither ✓ nor …."""
    process = subprocess.run(
        [sys.executable, "-m", "langchain_hfembed.cli", "check", url or server.url],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(langchain_hfembed.__file__).parents[1]),
            "PYTHONIOENCODING": encoding,
        },
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (process.returncode, process.stderr) == (code, "")
    assert "endpoint" in process.stdout


def test_errors_of_from_credentials_are_ours(server: TEIServer) -> None:
    for wrong in ({"token": KEY}, '{"api_key": 1, "endpoint": "x"}', "{"):
        with pytest.raises(InvalidInputError) as caught:
            HuggingFaceEndpointEmbeddings.from_credentials(wrong)
        assert isinstance(caught.value, EmbeddingError)
