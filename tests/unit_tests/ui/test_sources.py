"""What the page searches: pasted lines, and the model that the environment names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from langchain_hfembed import HuggingFaceEndpointEmbeddings, InvalidInputError
from langchain_hfembed.ui import sources
from langchain_hfembed.ui.sources import PastedTexts, model_from_env, typed_model
from langchain_hfembed.vectors import HybridEmbedding
from tests.encoders import HashEncoder


def _texts(pasted: PastedTexts) -> set[str]:
    return {hit.document.page_content for hit in pasted.store.search("one", 9)}


def test_only_new_lines_are_embedded() -> None:
    encoder = HashEncoder()
    pasted = PastedTexts(encoder)
    assert pasted.update("one\ntwo\n\n  two  \nthree") == 3
    assert pasted.update("zero\ntwo\nthree\n") == 3
    assert encoder.encoded == ["one", "two", "three", "zero"]
    assert _texts(pasted) == {"zero", "two", "three"}


def test_a_line_that_comes_back_is_found_again() -> None:
    pasted = PastedTexts(HashEncoder())
    for lines in ("one\ntwo", "two", "one\ntwo"):
        pasted.update(lines)
    assert _texts(pasted) == {"one", "two"}
    assert pasted.update("") == 0
    assert _texts(pasted) == set()


def test_a_failure_stores_nothing_and_leaves_the_texts_to_be_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = HashEncoder()
    pasted = PastedTexts(encoder)
    lines = [f"line {n}" for n in range(200)]
    whole = encoder.iter_encode_documents

    def broken(texts: Iterable[str], views: Any = None) -> Iterator[HybridEmbedding]:
        for embedding, text in zip(whole(texts, views), lines, strict=False):
            if text == "line 150":
                raise OSError("the server is down")
            yield embedding

    with monkeypatch.context() as patched:
        patched.setattr(encoder, "iter_encode_documents", broken)
        with pytest.raises(OSError, match="down"):
            pasted.update("\n".join(lines))
    assert pasted.store.index.count() == 0
    assert pasted.update("one") == 1
    assert _texts(pasted) == {"one"}
    assert pasted.update("\n".join(lines)) == pasted.store.index.count() == 200


def test_each_change_is_another_version() -> None:
    pasted = PastedTexts(HashEncoder())
    versions = []
    for lines in ("one", "one\ntwo", "two\none\n", "two"):
        pasted.update(lines)
        versions.append(pasted.version)
    assert versions[1] == versions[2]
    assert len(set(versions)) == 3


@pytest.mark.parametrize("url", ["http://stranger:8080", "https://stranger.huggingface.cloud"])
def test_a_server_is_not_named_on_the_page(url: str) -> None:
    with pytest.raises(InvalidInputError, match=f"hfembed ui --model {url}"):
        typed_model(url)


def test_the_environment_chooses_an_endpoint_or_a_model_of_any_kind_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "open_model", lambda name: HashEncoder(model_name=name))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    env = {"USE_HF_API": "false", "HF_MODEL_ID": "BAAI/bge-m3"}
    local = model_from_env(env)
    assert isinstance(local, HashEncoder)
    assert local.model_name == "BAAI/bge-m3"
    endpoint = model_from_env(env | {"USE_HF_API": "true", "HF_ENDPOINT_URL": "http://tei:8080"})
    assert isinstance(endpoint, HuggingFaceEndpointEmbeddings)
    with pytest.raises(InvalidInputError, match="USE_HF_API is not set"):
        model_from_env({})
