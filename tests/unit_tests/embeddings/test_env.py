"""Embeddings that environment variables describe: the side of the endpoints."""

from __future__ import annotations

import traceback

import pytest
from pydantic import SecretStr

from langchain_hfembed import HuggingFaceEmbeddings, HuggingFaceEndpointEmbeddings
from langchain_hfembed.embeddings.env import embeddings_from_env, endpoint_from_env
from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.http.access_token import FoundToken, token_for

PRIVATE = "http://10.0.0.7:8080"
DEDICATED = "https://abc.eu-west-1.aws.endpoints.huggingface.cloud"
HUB = "https://router.huggingface.co"


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    """This machine has no variables, and nobody is logged in."""
    for name in (
        "USE_HF_API",
        "HF_MODEL_ID",
        "HF_ENDPOINT_URL",
        "HF_ENDPOINT_TOKEN",
        "HF_TOKEN",
        "HUGGINGFACEHUB_API_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    return monkeypatch


def from_env(**env: str) -> HuggingFaceEndpointEmbeddings:
    embeddings = embeddings_from_env({"USE_HF_API": "true", **env})
    assert isinstance(embeddings, HuggingFaceEndpointEmbeddings)
    return embeddings


@pytest.mark.parametrize("switch", ["true", "True", "TRUE", " true\n", "1", "yes", "Yes", True, 1])
def test_the_switch_is_on(switch):
    embeddings = from_env(USE_HF_API=switch, HF_MODEL_ID="BAAI/bge-m3")
    assert embeddings.model == "BAAI/bge-m3"


@pytest.mark.parametrize("env", [{}, {"USE_HF_API": ""}, {"USE_HF_API": " "}, {"USE_HF_API": None}])
def test_a_missing_switch_is_named(env):
    with pytest.raises(
        InvalidInputError, match="USE_HF_API is not set; set it to true for an endpoint"
    ):
        embeddings_from_env({**env, "HF_MODEL_ID": "x"})


@pytest.mark.parametrize("switch", ["maybe", "2", "t", "on"])
def test_a_switch_without_meaning_is_named_with_its_value(switch):
    with pytest.raises(InvalidInputError, match=f"USE_HF_API is '{switch}'"):
        embeddings_from_env({"USE_HF_API": switch, "HF_MODEL_ID": "x"})


@pytest.mark.parametrize("empty", [{}, {"HF_MODEL_ID": " ", "HF_ENDPOINT_URL": ""}])
def test_neither_url_nor_model_is_refused_naming_both(empty):
    with pytest.raises(InvalidInputError, match="neither HF_ENDPOINT_URL nor HF_MODEL_ID"):
        from_env(**empty)


def test_this_machine_needs_a_model():
    with pytest.raises(InvalidInputError, match="HF_MODEL_ID is not set"):
        embeddings_from_env({"USE_HF_API": "false", "HF_ENDPOINT_URL": PRIVATE})


def test_a_model_alone_is_served_by_inference_providers():
    embeddings = from_env(HF_MODEL_ID=" BAAI/bge-m3 ")
    assert (embeddings.model, embeddings.endpoint_url) == ("BAAI/bge-m3", None)


def test_a_url_is_asked_whatever_the_models_name():
    embeddings = from_env(HF_ENDPOINT_URL=f" {PRIVATE} ", HF_MODEL_ID="BAAI/bge-m3")
    assert (embeddings.model, embeddings.endpoint_url) == ("BAAI/bge-m3", PRIVATE)
    assert from_env(HF_ENDPOINT_URL=PRIVATE).endpoint_url == PRIVATE


@pytest.mark.parametrize("url", ["10.0.0.7:8080", "ftp://10.0.0.7", "http://"])
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="must start with http"):
        from_env(HF_ENDPOINT_URL=url)


# Tokens.


@pytest.mark.parametrize("url", [PRIVATE, DEDICATED])
def test_the_endpoints_token_goes_to_the_endpoint_wherever_it_is(url):
    embeddings = from_env(HF_ENDPOINT_URL=url, HF_ENDPOINT_TOKEN=" secret ", HF_TOKEN="hf_public")
    assert token_for(url, embeddings.huggingfacehub_api_token) == "secret"


def test_the_hubs_token_goes_to_hugging_face_only():
    token = from_env(HF_ENDPOINT_URL=PRIVATE, HF_TOKEN="hf_public").huggingfacehub_api_token
    assert isinstance(token, FoundToken)
    assert token.source == "HF_TOKEN"
    assert token_for(PRIVATE, token) is None
    assert token_for(DEDICATED, token) == "hf_public"


def test_the_endpoints_token_does_not_go_to_inference_providers():
    embeddings = from_env(HF_MODEL_ID="x", HF_ENDPOINT_TOKEN="secret", HF_TOKEN="hf_public")
    assert token_for(HUB, embeddings.huggingfacehub_api_token) == "hf_public"
    alone = from_env(HF_MODEL_ID="x", HF_ENDPOINT_TOKEN="secret")
    assert alone.huggingfacehub_api_token is None


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_token_is_none(empty):
    embeddings = from_env(HF_ENDPOINT_URL=DEDICATED, HF_ENDPOINT_TOKEN=empty, HF_TOKEN="hf_public")
    assert token_for(DEDICATED, embeddings.huggingfacehub_api_token) == "hf_public"
    none = from_env(HF_ENDPOINT_URL=DEDICATED, HF_ENDPOINT_TOKEN=empty, HF_TOKEN=empty)
    assert none.huggingfacehub_api_token is None


def test_without_variables_the_login_to_the_hub_is_found(no_token):
    no_token.setattr("huggingface_hub.get_token", lambda: "hf_login")
    token = from_env(HF_ENDPOINT_URL=DEDICATED).huggingfacehub_api_token
    assert isinstance(token, FoundToken)
    assert token_for(PRIVATE, token) is None
    assert token_for(DEDICATED, token) == "hf_login"


@pytest.mark.parametrize("name", ["HF_ENDPOINT_TOKEN", "HF_TOKEN"])
@pytest.mark.parametrize("illegal", ["hf_se\ncret", "hf_sé cret", "hf_se\0cret"], ids=ascii)
def test_a_token_that_no_header_can_hold_is_refused_and_not_shown(name, illegal):
    with pytest.raises(ValueError, match="holds a character that no token has") as caught:
        from_env(**{"HF_ENDPOINT_URL": DEDICATED, name: illegal})
    assert "cret" not in str(caught.value)
    assert illegal not in "".join(traceback.format_exception(caught.value))


def test_no_token_is_shown():
    embeddings = from_env(HF_ENDPOINT_URL=PRIVATE, HF_ENDPOINT_TOKEN="very-secret-indeed")
    assert "secret" not in repr(embeddings)
    assert "secret" not in str(embeddings.model_dump())


# Another target than the environment's.


def test_a_target_takes_the_place_of_the_environments_url_and_model():
    env = {"HF_ENDPOINT_URL": PRIVATE, "HF_MODEL_ID": "BAAI/bge-m3"}
    elsewhere = endpoint_from_env(env, "http://10.0.0.8")
    assert (elsewhere.endpoint_url, elsewhere.model) == ("http://10.0.0.8", None)
    model = endpoint_from_env(env, "intfloat/e5-small")
    assert (model.endpoint_url, model.model) == (None, "intfloat/e5-small")
    assert endpoint_from_env({}, "intfloat/e5-small").model == "intfloat/e5-small"


def test_the_endpoints_token_does_not_go_to_a_model_on_inference_providers():
    env = {"HF_ENDPOINT_URL": PRIVATE, "HF_ENDPOINT_TOKEN": "secret", "HF_TOKEN": "hf_public"}
    token = endpoint_from_env(env, "intfloat/e5-small").huggingfacehub_api_token
    assert token == FoundToken("hf_public", "HF_TOKEN")
    assert token != SecretStr("hf_public")


def test_another_url_does_not_get_the_token_of_the_environments():
    env = {"HF_ENDPOINT_URL": PRIVATE, "HF_ENDPOINT_TOKEN": "secret"}
    own = endpoint_from_env(env, PRIVATE).huggingfacehub_api_token
    assert token_for(PRIVATE, own) == "secret"
    elsewhere = endpoint_from_env(env, "http://10.0.0.8").huggingfacehub_api_token
    assert elsewhere is None or isinstance(elsewhere, FoundToken)


def test_parameters_are_handed_on():
    embeddings = endpoint_from_env({"HF_MODEL_ID": "x"}, batch_size=3, timeout=7)
    assert (embeddings.batch_size, embeddings.timeout) == (3, 7)


def test_this_machine_runs_the_same_model():
    local = embeddings_from_env({"USE_HF_API": "false", "HF_MODEL_ID": "org/model"})
    assert isinstance(local, HuggingFaceEmbeddings)
    assert local.model == "org/model"


@pytest.mark.parametrize("model", [{}, {"HF_MODEL_ID": " "}])
def test_this_machine_needs_a_model_and_says_which_variable(model):
    with pytest.raises(InvalidInputError, match="HF_MODEL_ID is not set"):
        embeddings_from_env({"USE_HF_API": "false", **model})
