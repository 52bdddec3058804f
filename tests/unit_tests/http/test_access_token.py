"""Where a token comes from, and which hosts may see it."""

from __future__ import annotations

import copy
import pickle
import traceback

import pytest
from pydantic import BaseModel, SecretStr

from langchain_hfembed.http.access_token import (
    FoundToken,
    checked_token,
    describe,
    find_token,
    is_hugging_face,
    token_for,
)

SECRET = "hf_abcdefghijklmnopqrstuvwxyz"
FOUND, PASSED = FoundToken(SECRET, "HF_TOKEN"), SecretStr(SECRET)

OWN = [
    "https://huggingface.co",
    "https://huggingface.co/models/x",
    "https://router.huggingface.co/hf-inference/models/x",
    "https://api-inference.huggingface.co:443/",
    "https://hf.co/x",
    "https://abc.eu-west-1.aws.endpoints.huggingface.cloud/embed",
    "https://ROUTER.HuggingFace.CO/",
    "HTTPS://huggingface.co/",
]
FOREIGN = [
    "http://huggingface.co",  # everybody on the way could read it
    "http://abc.endpoints.huggingface.cloud",
    "http://localhost:8080",
    "https://127.0.0.1",
    "https://[::1]:8080/",
    "https://example.com/huggingface.co",
    "https://example.com?https://huggingface.co",
    "https://example.com#.huggingface.co",
    "https://huggingface.co.example.com",
    "https://huggingface.co@example.com",
    "https://huggingface.co:443@example.com/",
    "https://myhuggingface.co",
    "https://nothf.co",
    "https://my-space.hf.space",  # a stranger's code
    "https://huggingface.com",
    "https://huggingface.co\t.example.com",
    "ftp://huggingface.co",
    "huggingface.co",
    "",
]


@pytest.mark.parametrize("url", OWN)
def test_a_token_that_was_found_goes_to_hugging_face_over_tls(url):
    assert is_hugging_face(url)
    assert token_for(url, FOUND) == SECRET


@pytest.mark.parametrize("url", FOREIGN)
def test_a_token_that_was_found_goes_nowhere_else(url):
    assert not is_hugging_face(url)
    assert token_for(url, FOUND) is None


@pytest.mark.parametrize("url", [*OWN, *FOREIGN])
def test_a_token_that_was_passed_goes_where_it_was_passed_for(url):
    assert token_for(url, PASSED) == SECRET


@pytest.mark.parametrize("url", [*OWN, *FOREIGN])
def test_no_token_goes_nowhere(url):
    assert token_for(url, None) is None


class Holder(BaseModel):
    token: SecretStr | None = None


@pytest.mark.parametrize(
    "travel",
    [
        copy.copy,
        copy.deepcopy,
        lambda token: pickle.loads(pickle.dumps(token)),
        lambda token: Holder(token=token).token,
        lambda token: Holder(token=token).model_copy().token,
        lambda token: Holder(token=token).model_copy(deep=True).token,
        lambda token: Holder(**Holder(token=token).model_dump()).token,
        lambda token: Holder.model_validate({"token": token}).token,
    ],
)
def test_a_token_stays_a_found_one_whatever_it_is_copied_by(travel):
    arrived = travel(FOUND)
    assert isinstance(arrived, FoundToken)
    assert arrived.source == "HF_TOKEN"
    assert token_for("https://example.com", arrived) is None
    assert token_for("https://huggingface.co", arrived) == SECRET


def test_a_found_token_never_equals_one_that_was_passed():
    assert FOUND != PASSED
    assert PASSED != FOUND
    assert len({FOUND, PASSED}) == 2
    assert {PASSED: "goes anywhere"}.get(FOUND) is None


def test_equal_tokens_of_one_kind_are_equal():
    assert FoundToken(SECRET, "HF_TOKEN") == FOUND
    assert hash(FoundToken(SECRET, "HF_TOKEN")) == hash(FOUND)
    assert FoundToken("another", "HF_TOKEN") != FOUND
    assert FOUND != SECRET


@pytest.mark.parametrize("show", [str, repr, "{}".format, "%s".__mod__])
def test_a_found_token_is_not_shown(show):
    assert SECRET not in show(FOUND)
    assert SECRET not in show(Holder(token=FOUND))
    assert SECRET not in Holder(token=FOUND).model_dump_json()


# Where it is found.


@pytest.fixture
def no_token(monkeypatch):
    """No variable is set, and nobody is logged in."""
    for name in ("HF_TOKEN", "HUGGINGFACEHUB_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    return monkeypatch


def test_without_variables_and_login_there_is_no_token(no_token):
    assert find_token() is None


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGINGFACEHUB_API_TOKEN"])
def test_a_variable_holds_the_token_and_is_named_as_its_source(no_token, name):
    no_token.setenv(name, f"  {SECRET}\n")
    token = find_token()
    assert token.get_secret_value() == SECRET
    assert token.source == name


def test_hf_token_comes_before_the_other_variable_and_variables_before_the_login(no_token):
    no_token.setattr("huggingface_hub.get_token", lambda: "of-the-login")
    assert find_token().get_secret_value() == "of-the-login"
    no_token.setenv("HUGGINGFACEHUB_API_TOKEN", "second")
    assert find_token().get_secret_value() == "second"
    no_token.setenv("HF_TOKEN", "first")
    assert find_token().get_secret_value() == "first"


@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_an_empty_variable_is_one_that_is_not_set(no_token, empty):
    no_token.setenv("HF_TOKEN", empty)
    assert find_token() is None
    no_token.setenv("HUGGINGFACEHUB_API_TOKEN", "second")
    assert find_token().get_secret_value() == "second"


ILLEGAL = ["hf_sécret", "hf_ secret", "hf_se\ncret", "hf_se\rcret", "hf_se\0cret", "hf_\x7fsecret"]


@pytest.mark.parametrize("illegal", ILLEGAL, ids=ascii)
def test_a_token_that_no_header_can_hold_is_refused_and_not_shown(illegal):
    with pytest.raises(ValueError, match="HF_TOKEN holds a character") as caught:
        checked_token(illegal, "HF_TOKEN")
    shown = "".join(traceback.format_exception(caught.value))
    assert illegal not in shown
    assert repr(illegal)[1:-1] not in shown
    assert "cret" not in str(caught.value)


def test_every_visible_character_of_ascii_may_be_in_a_token():
    token = "".join(map(chr, range(0x21, 0x7F)))
    assert checked_token(token, "HF_TOKEN") == token


def test_an_empty_token_is_refused():
    with pytest.raises(ValueError, match="api_key"):
        checked_token("", "api_key")


@pytest.mark.parametrize("illegal", [token for token in ILLEGAL if "\0" not in token], ids=ascii)
@pytest.mark.parametrize("place", ["HF_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "the Hub login"])
def test_wherever_a_token_is_found_an_illegal_one_is_refused_naming_the_place(
    no_token, place, illegal
):
    if place == "the Hub login":
        no_token.setattr("huggingface_hub.get_token", lambda: illegal)
    else:
        no_token.setenv(place, illegal)
    with pytest.raises(ValueError, match=place) as caught:
        find_token()
    assert "cret" not in str(caught.value)


# What is said of it.


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (None, "no token"),
        (FOUND, "the token of HF_TOKEN (…wxyz)"),
        (PASSED, "the token of api_key (…wxyz)"),
        (SecretStr("0123456789abcdef"), "the token of api_key (…cdef)"),
        # Of a short one, four characters would be too much of it.
        (SecretStr("0123456789abcde"), "the token of api_key (…)"),
        (SecretStr(""), "the token of api_key (…)"),
        (FoundToken("short", "the Hub login"), "the token of the Hub login (…)"),
    ],
)
def test_a_description_has_the_place_and_at_most_four_characters(token, said):
    assert describe(token) == said
