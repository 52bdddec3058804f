"""Credentials as a mapping, as JSON, and as a file."""

from __future__ import annotations

import json
import os
import traceback
from collections import UserDict
from pathlib import Path

import pytest

from langchain_hfembed.embeddings.credentials import read_credentials
from langchain_hfembed.errors import InvalidInputError

SECRET = "hf_abcdefghijklmnop"
ALL = {
    "api_key": SECRET,
    "endpoint": "https://abc.endpoints.huggingface.cloud",
    "model_name": "BAAI/bge-m3",
    "context_window": 8192,
}
ARGUMENTS = {
    "api_key": SECRET,
    "endpoint_url": "https://abc.endpoints.huggingface.cloud",
    "model": "BAAI/bge-m3",
    "context_window": 8192,
}


def as_path(credentials, folder: Path) -> Path:
    path = folder / "credentials.json"
    path.write_text(json.dumps(credentials, ensure_ascii=False), "utf-8")
    return path


class Pathlike:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return os.fspath(self._path)


every_form = pytest.mark.parametrize(
    "form",
    [
        lambda credentials, folder: credentials,
        lambda credentials, folder: UserDict(credentials),
        lambda credentials, folder: json.dumps(credentials),
        lambda credentials, folder: "\n " + json.dumps(credentials, indent=2) + "\n",
        as_path,
        lambda credentials, folder: str(as_path(credentials, folder)),
        lambda credentials, folder: Pathlike(as_path(credentials, folder)),
    ],
    ids=["dict", "mapping", "json", "json with spaces", "Path", "path", "PathLike"],
)


@every_form
def test_all_keys_become_arguments(form, tmp_path):
    assert read_credentials(form(ALL, tmp_path)) == ARGUMENTS


@every_form
@pytest.mark.parametrize("empty", [None, ""])
@pytest.mark.parametrize("key", ALL)
def test_a_key_without_a_value_is_left_out(form, key, empty, tmp_path):
    read = read_credentials(form({**ALL, key: empty}, tmp_path))
    assert len(read) == 3
    assert read.items() <= ARGUMENTS.items()


@pytest.mark.parametrize("key", ["endpoint", "model_name"])
def test_an_endpoint_or_a_model_is_enough(key):
    assert list(read_credentials({key: "x"})) == [{"endpoint": "endpoint_url"}.get(key, "model")]


def test_the_mapping_is_left_as_it_is():
    credentials = {**ALL, "context_window": None}
    read_credentials(credentials)
    assert credentials == {**ALL, "context_window": None}


def refusal(credentials) -> str:
    with pytest.raises(InvalidInputError) as caught:
        read_credentials(credentials)
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown
    return str(caught.value)


@every_form
def test_an_unknown_key_is_refused_naming_it_and_those_there_are(form, tmp_path):
    said = refusal(form({**ALL, "apikey": SECRET}, tmp_path))
    assert "apikey" in said
    assert "api_key, endpoint, model_name, context_window" in said


@every_form
@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("api_key", [SECRET], "api_key is list, not str"),
        ("api_key", 3, "api_key is int, not str"),
        ("endpoint", {"url": SECRET}, "endpoint is dict, not str"),
        ("model_name", True, "model_name is bool, not str"),
        ("context_window", "8192", "context_window is str, not int"),
        ("context_window", 8192.5, "context_window is float, not int"),
        ("context_window", True, "context_window is bool, not int"),
    ],
)
def test_a_value_of_another_type_is_refused_and_not_shown(form, key, value, said, tmp_path):
    assert said in refusal(form({**ALL, key: value}, tmp_path))


@every_form
@pytest.mark.parametrize("rest", [{}, {"api_key": SECRET}, {"endpoint": "", "model_name": None}])
def test_neither_endpoint_nor_model_is_refused(form, rest, tmp_path):
    assert "neither an endpoint nor a model_name" in refusal(form(rest, tmp_path))


BROKEN = [
    f'{{"api_key": "{SECRET}",}}',
    f'{{"api_key": "{SECRET}"',
    f"{{'api_key': '{SECRET}'}}",
    f'{{"api_key": "{SECRET}"}} and more',
]


@pytest.mark.parametrize("text", [*BROKEN, '{"a":' * 100_000], ids=lambda text: text[-20:])
def test_what_is_not_json_is_refused_and_not_shown(text, tmp_path):
    path = tmp_path / "credentials.json"
    path.write_text(text, "utf-8")
    assert "not JSON" in refusal(text)
    assert refusal(path) == f"{path}: not JSON"


@pytest.mark.parametrize("text", [f'["{SECRET}"]', f'"{SECRET}"', "3", "null"])
def test_a_file_with_json_that_is_no_object_is_refused(text, tmp_path):
    path = tmp_path / "credentials.json"
    path.write_text(text, "utf-8")
    assert refusal(path) == f"{path}: JSON, but not an object"


def test_a_file_that_is_not_utf_8_is_refused_and_not_shown(tmp_path):
    path = tmp_path / "credentials.json"
    path.write_bytes(json.dumps({**ALL, "model_name": "é"}, ensure_ascii=False).encode("latin-1"))
    assert str(path) in refusal(path)


def test_a_file_that_an_editor_of_windows_wrote_can_be_read(tmp_path):
    path = tmp_path / "credentials.json"
    path.write_text(json.dumps(ALL), "utf-8-sig")
    assert read_credentials(path) == ARGUMENTS


def test_json_with_a_byte_order_mark_is_not_taken_for_a_path():
    """The error about a file that is not there would show the token."""
    assert read_credentials("\ufeff" + json.dumps(ALL)) == ARGUMENTS


def test_json_that_is_a_list_is_not_taken_for_a_path():
    assert "not an object" in refusal(json.dumps([ALL]))


def test_a_file_that_is_not_there_is_an_os_error_naming_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        read_credentials(tmp_path / "missing.json")
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        read_credentials(str(tmp_path / "missing.json"))


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    as_path(ALL, tmp_path)
    assert read_credentials("~/credentials.json") == ARGUMENTS


def test_json_in_quotes_is_not_taken_for_a_path():
    quoted = "'" + '{"api_key": "hf_secret", "endpoint": "http://127.0.0.1:9"}' + "'"
    with pytest.raises(InvalidInputError, match="not JSON") as caught:
        read_credentials(quoted)
    assert "hf_secret" not in str(caught.value)
