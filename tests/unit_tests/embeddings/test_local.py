"""HuggingFaceEmbeddings on small models: Sentence Transformers' numbers, and the rest."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from langchain_core.load import dumps
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from pydantic import ValidationError

from langchain_hfembed.embeddings import local_base, local_model
from langchain_hfembed.embeddings.local import HuggingFaceEmbeddings
from langchain_hfembed.errors import (
    CheckpointError,
    EmbeddingError,
    InvalidInputError,
    ModelNotFoundError,
)
from tests.checkpoints import VOCABULARY_TEXT, build_xlm_roberta_checkpoint

PROMPTS = {"query": "query: ", "document": "passage: ", "dogs": "dogs run "}
LIMIT = 48  # tokens that the model with prompts reads
TEXTS = [
    "the sea",
    "",
    "한강은 서울을 지나 바다로 흐른다.",
    "cats sleep in the sun;\n\ndogs run\tin the park",
    "  Seoul  ",
    "🚀",
    "x\x00y",
]
SIDES = ["query", "document"]


@pytest.fixture(scope="module")
def prompted_folder(tmp_path_factory) -> Path:
    """A random model of Sentence Transformers' format, with prompts, that reads 48 tokens."""
    folder = tmp_path_factory.mktemp("prompted")
    build_xlm_roberta_checkpoint(folder, pooling="mean")
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {
                    "idx": int(name),
                    "name": name,
                    "path": path,
                    "type": f"sentence_transformers.models.{kind}",
                }
                for name, path, kind in modules
            ]
        )
    )
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": LIMIT}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": PROMPTS}))
    return folder


@pytest.fixture(scope="module")
def embeddings(prompted_folder) -> HuggingFaceEmbeddings:
    """Loaded; tests change copies of it, which share its weights."""
    loaded = HuggingFaceEmbeddings(model=str(prompted_folder), model_kwargs={"device": "cpu"})
    loaded.embed_query("load")
    return loaded


@pytest.fixture
def model(embeddings):
    """The SentenceTransformer in it."""
    return embeddings._local_model().model


@pytest.fixture
def changed(embeddings):
    """Embeddings with other arguments and the same weights, which can still warn."""

    def make(**arguments):
        ours = HuggingFaceEmbeddings(
            model=embeddings.model, model_kwargs=embeddings.model_kwargs, **arguments
        )
        ours._models = embeddings._models
        return ours

    return make


@pytest.fixture
def constructed(monkeypatch):
    """What SentenceTransformer is called with; it raises before it loads anything."""
    import sentence_transformers

    calls = []

    def construct(**arguments):
        calls.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", construct)

    def call(**arguments):
        with pytest.raises(KeyboardInterrupt):
            HuggingFaceEmbeddings(**arguments).embed_query("a")
        return calls[-1]

    return call


def _vectors(embeddings, side, texts=TEXTS):
    if side == "document":
        return np.array(embeddings.embed_documents(texts))
    return np.array([embeddings.embed_query(text) for text in texts])


# The numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("folder", ["prompted_folder", "minilm_folder"])
def test_the_numbers_are_those_of_sentence_transformers(folder, side, request):
    from sentence_transformers import SentenceTransformer

    path = str(request.getfixturevalue(folder))
    theirs = SentenceTransformer(path, device="cpu")
    encode = theirs.encode_query if side == "query" else theirs.encode_document
    ours = HuggingFaceEmbeddings(model=path, model_kwargs={"device": "cpu"})
    np.testing.assert_allclose(_vectors(ours, side), encode(TEXTS), rtol=0, atol=1e-6)


def test_the_models_prompts_make_a_difference(embeddings, model):
    """Else the test above would say nothing about prompts."""
    query, document = (_vectors(embeddings, side, ["the sea"]) for side in SIDES)
    plain = model.encode(["the sea"])
    for one, other in ((query, document), (query, plain), (document, plain)):
        assert np.abs(one - other).max() > 1e-2


def test_vectors_are_lists_of_pythons_floats_in_the_order_of_the_texts(embeddings):
    texts = [f"{number} cats" * number for number in range(1, 8)]
    vectors = embeddings.embed_documents(texts)
    assert type(vectors) is list
    assert {type(vector) for vector in vectors} == {list}
    assert {type(value) for vector in vectors for value in vector} == {float}
    assert {type(value) for value in embeddings.embed_query("a")} == {float}
    one_by_one = [embeddings.embed_documents([text])[0] for text in texts]
    np.testing.assert_allclose(vectors, one_by_one, atol=1e-5)


def test_texts_reach_the_model_unaltered_and_the_callers_list_stays(embeddings, model, monkeypatch):
    seen = []
    for side in SIDES:
        encode = getattr(model, f"encode_{side}")
        monkeypatch.setattr(
            model,
            f"encode_{side}",
            lambda texts, _=encode, **k: seen.extend(texts) or _(texts, **k),
        )
    texts = [" two\r\nlines\u2028and  \x00 more\n", ""]
    before = list(texts)
    embeddings.embed_documents(texts)
    embeddings.embed_query(texts[0])
    assert seen == [*before, before[0]]
    assert all(text is same for text, same in zip(texts, before, strict=True))


def test_truncate_dim_keeps_the_first_dimensions(embeddings, changed):
    ours = changed(truncate_dim=5)
    for side in SIDES:
        np.testing.assert_allclose(
            _vectors(ours, side), _vectors(embeddings, side)[:, :5], atol=1e-6
        )


@pytest.mark.parametrize(("precision", "offset"), [("ubinary", 0), ("binary", -128)])
def test_binary_precision_packs_signs_into_floats(embeddings, changed, precision, offset):
    ours = changed(precision=precision)
    for side in SIDES:
        bits = np.packbits(_vectors(embeddings, side) > 0, axis=-1).astype(float) + offset
        np.testing.assert_array_equal(_vectors(ours, side), bits)
    assert {type(value) for value in ours.embed_query("a")} == {float}


def test_vectors_that_are_not_finite_are_refused_with_their_texts(prompted_folder):
    import torch
    from sentence_transformers import SentenceTransformer

    client = SentenceTransformer(str(prompted_folder), device="cpu")
    [dogs] = client.tokenizer("dogs", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        client.transformers_model.get_input_embeddings().weight[dogs] = float("nan")
    ours = HuggingFaceEmbeddings(client=client)
    with pytest.raises(EmbeddingError, match=r"2 of 4 texts.*first is text 1") as caught:
        ours.embed_documents(["the sea", "dogs", "cats", "the dogs"])
    assert caught.value.indices == (1, 3)
    good = ours.embed_documents(["the sea", "cats"])
    assert caught.value.completed.keys() == {0, 2}
    np.testing.assert_allclose([caught.value.completed[0], caught.value.completed[2]], good, 1e-4)
    with pytest.raises(EmbeddingError, match="text 0"):
        ours.embed_query("dogs")


# Prompts and arguments ------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_a_prompt_by_text_is_put_in_front_of_its_side_alone(embeddings, changed, model, side):
    ours = changed(**{f"{side}_prompt": "the capital "})
    expected = model.encode(TEXTS, prompt="the capital ")
    np.testing.assert_allclose(_vectors(ours, side), expected, atol=1e-6)
    [other] = set(SIDES) - {side}
    np.testing.assert_allclose(_vectors(ours, other), _vectors(embeddings, other), atol=1e-6)


@pytest.mark.parametrize("side", SIDES)
def test_a_prompt_by_name_is_the_models(changed, model, side):
    ours = changed(**{f"{side}_prompt_name": "dogs"})
    expected = model.encode(TEXTS, prompt="dogs run ")
    np.testing.assert_allclose(_vectors(ours, side), expected, atol=1e-6)


@pytest.mark.parametrize("side", SIDES)
def test_an_empty_prompt_is_none_at_all(changed, model, side):
    ours = changed(**{f"{side}_prompt": ""})
    np.testing.assert_allclose(_vectors(ours, side), model.encode(TEXTS), atol=1e-6)


def test_query_arguments_are_merged_over_encode_kwargs(changed, model):
    ours = changed(
        encode_kwargs={"normalize_embeddings": True, "truncate_dim": 8},
        query_encode_kwargs={"truncate_dim": 4},
    )
    documents = model.encode_document(TEXTS, normalize_embeddings=True, truncate_dim=8)
    queries = model.encode_query(TEXTS, normalize_embeddings=True, truncate_dim=4)
    np.testing.assert_allclose(_vectors(ours, "document"), documents, atol=1e-6)
    np.testing.assert_allclose(_vectors(ours, "query"), queries, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "prompt"),
    [
        ({"encode_kwargs": {"prompt": "cats "}}, "cats "),
        (
            {"encode_kwargs": {"prompt": "cats "}, "query_encode_kwargs": {"prompt_name": "dogs"}},
            "dogs run ",
        ),
        (
            {"encode_kwargs": {"prompt_name": "dogs"}, "query_encode_kwargs": {"prompt": "a "}},
            "a ",
        ),
        ({"encode_kwargs": {"prompt": "cats "}, "query_prompt_name": "dogs"}, "dogs run "),
        ({"encode_kwargs": {"prompt_name": "dogs"}, "query_prompt": ""}, ""),
    ],
)
def test_a_queries_prompt_replaces_the_one_of_encode_kwargs(changed, model, arguments, prompt):
    """Both at once would reach encode(), which takes the text and forgets the name."""
    ours = changed(**arguments)
    np.testing.assert_allclose(
        _vectors(ours, "query"), model.encode(TEXTS, prompt=prompt), atol=1e-6
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"query_prompt": "a", "query_prompt_name": "query"},
        {"document_prompt": "a", "document_prompt_name": "query"},
        {"document_prompt": "a", "encode_kwargs": {"prompt": "b"}},
        {"document_prompt_name": "a", "encode_kwargs": {"prompt": "b"}},
        {"query_prompt": "", "query_encode_kwargs": {"prompt_name": "b"}},
        {"query_encode_kwargs": {"prompt_name": "b", "prompt": "c"}},
    ],
)
def test_two_prompts_for_one_side_are_refused(arguments):
    with pytest.raises(ValidationError, match="are two prompts for a"):
        HuggingFaceEmbeddings(**arguments)


@pytest.mark.parametrize("side", SIDES)
def test_a_task_of_the_callers_own_reaches_the_model(changed, model, monkeypatch, side):
    tasks = []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda features, task, **_: tasks.append(task) or forward(features)
    )
    ours = changed(encode_kwargs={"task": "text-matching"})
    np.testing.assert_allclose(_vectors(ours, side), model.encode(TEXTS, task="x"), atol=1e-6)
    _vectors(changed(), side)
    assert set(tasks) == {"text-matching", "x", side}


@pytest.mark.parametrize("to", [{"convert_to_tensor": True}, {"convert_to_numpy": False}])
def test_conversions_that_others_ask_for_change_nothing(embeddings, changed, to):
    assert changed(encode_kwargs=to).embed_documents(["a"]) == embeddings.embed_documents(["a"])


@pytest.mark.parametrize(
    "arguments", [{"query_prompt_name": "passage"}, {"encode_kwargs": {"prompt_name": "passage"}}]
)
def test_an_unknown_prompt_is_refused_with_the_models_own(changed, arguments):
    with pytest.raises(ValueError, match=r"no prompt named 'passage'; it has 'query', .*'dogs'"):
        changed(**arguments).embed_query("a")


@pytest.mark.parametrize("name", ["btch_size", "inputs", "sentences", "kwargs", "pool"])
def test_an_unknown_argument_of_encode_is_refused_with_those_that_there_are(changed, name):
    for arguments in ({"encode_kwargs": {name: 1}}, {"query_encode_kwargs": {name: 1}}):
        with pytest.raises(InvalidInputError, match=f"has no {name}; it has batch_size"):
            changed(**arguments).embed_query("a")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"encode_kwargs": {"output_value": "token_embeddings"}}, "output_value"),
        ({"encode_kwargs": {"precision": "int8"}}, "Integers are scaled by the texts of one call"),
        ({"query_encode_kwargs": {"precision": "uint8"}}, "it can be float32, binary, ubinary"),
        ({"precision": "int8"}, "precision"),
        ({"model_kwargs": {"backend": "ipex"}}, "it can be torch, onnx, openvino"),
        ({"backend": "ipex"}, "backend"),
        ({"truncate_dim": 0}, "truncate_dim"),
        ({"model": ""}, "model"),
        ({"normalize": True}, "normalize"),
        ({"client": "all-MiniLM-L6-v2"}, "client is str, not a SentenceTransformer"),
    ],
)
def test_arguments_that_cannot_work_are_refused_at_once(arguments, match):
    with pytest.raises(ValidationError, match=match):
        HuggingFaceEmbeddings(**arguments)


def test_what_langchain_huggingface_takes_is_taken(constructed):
    arguments = constructed(
        model_name="some/model",
        cache_folder="cache",
        model_kwargs={"device": "cpu", "revision": "main", "trust_remote_code": True},
        encode_kwargs={"normalize_embeddings": True},
        query_encode_kwargs={"prompt_name": "query"},
        multi_process=False,
        show_progress=False,
    )
    assert arguments == {
        "model_name_or_path": "some/model",
        "cache_folder": "cache",
        "backend": "torch",
        "device": "cpu",
        "revision": "main",
        "trust_remote_code": True,
    }


def test_the_default_is_langchain_huggingfaces(constructed):
    assert constructed() == {
        "model_name_or_path": "sentence-transformers/all-mpnet-base-v2",
        "cache_folder": None,
        "backend": "torch",
    }


def test_the_name_is_there_under_both_names(tmp_path):
    for ours in (HuggingFaceEmbeddings(model="a/b"), HuggingFaceEmbeddings(model_name="a/b")):
        assert ours.model == ours.model_name == "a/b"
    ours = HuggingFaceEmbeddings(model=tmp_path, cache_folder=tmp_path)
    assert ours.model == ours.cache_folder == str(tmp_path)


def test_progress_is_shown_over_documents_if_asked_for(changed, capsys):
    changed().embed_documents(["a"])
    changed(show_progress=True).embed_query("a")
    assert "Batches" not in capsys.readouterr().err
    changed(show_progress=True).embed_documents(["a"])
    assert "Batches: 100%" in capsys.readouterr().err


# What a caller passes in ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "indices"),
    [
        ("Seoul", ()),
        (b"Seoul", ()),
        (None, ()),
        (3, ()),
        ([1], (0,)),
        (["a", None, "b"], (1,)),
        (["a", ["b", "c"]], (1,)),
        (["a", "b", "c \ud83d d"], (2,)),
    ],
    ids=repr,
)
def test_what_is_no_list_of_texts_is_refused_before_anything_is_loaded(texts, indices):
    with pytest.raises(InvalidInputError) as caught:
        HuggingFaceEmbeddings(model="/no/such/folder").embed_documents(texts)
    assert caught.value.indices == indices


@pytest.mark.parametrize("text", [None, 3, b"a", ["a"], "\udfff"], ids=repr)
def test_a_query_that_is_no_text_is_refused_before_anything_is_loaded(text):
    with pytest.raises(InvalidInputError):
        HuggingFaceEmbeddings(model="/no/such/folder").embed_query(text)


def test_no_texts_give_nothing_and_load_nothing():
    assert HuggingFaceEmbeddings(model="/no/such/folder").embed_documents([]) == []


def test_other_iterables_of_texts_are_taken(embeddings):
    expected = embeddings.embed_documents(["a", "b"])
    assert embeddings.embed_documents(("a", "b")) == expected
    assert embeddings.embed_documents(text for text in "ab") == expected


# Length ---------------------------------------------------------------------------------------


@pytest.fixture
def longest(model) -> str:
    """A document of just the limit: with its prompt, and the two tokens at the ends."""
    [prompt] = model.tokenizer([PROMPTS["document"]], truncation=False)["input_ids"]
    return "the " * (LIMIT - len(prompt))


@pytest.fixture
def no_counting(monkeypatch):
    monkeypatch.setattr(local_model.LocalModel, "count_longer", lambda *_: pytest.fail("counted"))


def test_cutting_warns_once_with_count_and_limit(changed):
    ours = changed()
    texts = ["the", "the " * 60, "in", "the " * 70]
    with pytest.warns(UserWarning, match=f"2 of 4 texts are longer than the {LIMIT} tok") as caught:
        ours.embed_documents(texts)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    ours.embed_documents(texts)  # warnings are errors here
    ours.embed_query(texts[1])


def test_a_long_query_warns_too(changed):
    with pytest.warns(UserWarning, match="1 of 1 texts") as caught:
        changed().embed_query("the " * 60)
    assert caught[0].filename == __file__


def test_a_text_of_just_the_limit_is_not_cut_and_one_token_more_is(changed, model, longest):
    ours = changed()
    [ids] = model.tokenizer([PROMPTS["document"] + longest], truncation=False)["input_ids"]
    assert len(ids) == LIMIT
    ours.embed_documents([longest])
    with pytest.warns(UserWarning, match="1 of 2 texts"):
        ours.embed_documents([longest, f"{longest}the"])


def test_a_prompt_counts(changed, longest):
    changed(document_prompt="").embed_documents([f"{longest}the the"])
    with pytest.warns(UserWarning, match="1 of 1 texts"):
        changed(document_prompt=PROMPTS["document"] + "the ").embed_documents([longest])
    with pytest.warns(UserWarning, match="1 of 1 texts"):
        changed(document_prompt_name="document").embed_documents([f"{longest}the"])


@pytest.mark.usefixtures("no_counting")
def test_texts_below_the_limit_are_not_tokenised_a_second_time(changed, longest):
    changed().embed_documents([longest.removesuffix("the "), *TEXTS] * 20)


def test_texts_are_counted_where_batches_cannot_be_seen(changed, longest, monkeypatch):
    """In other processes, or in a compiled model."""
    monkeypatch.setattr(local_model._Widest, "__call__", lambda *_: None)
    changed().embed_documents([longest, *TEXTS])
    with pytest.warns(UserWarning, match="2 of 3 texts"):
        changed().embed_documents([longest, f"{longest}the", "the " * 99])


def test_counting_leaves_the_models_tokenizer_as_it_is(changed, model):
    """Or another thread's texts would reach the model uncut."""
    backend = model.tokenizer.backend_tokenizer
    before = backend.truncation, backend.padding
    assert before[0]["max_length"] == LIMIT
    with pytest.warns(UserWarning, match="1 of 1"):
        changed().embed_documents(["the " * 99])
    assert (backend.truncation, backend.padding) == before


def test_a_model_without_a_limit_or_a_tokenizer_never_warns(changed, model, monkeypatch):
    monkeypatch.setattr(type(model), "max_seq_length", float("inf"))
    changed().embed_documents(["the " * 99])
    monkeypatch.setattr(type(model), "max_seq_length", None)
    changed().embed_documents(["the " * 99])


def test_threads_that_all_cut_warn_once_between_them(changed, monkeypatch):
    ours = changed()
    barrier = threading.Barrier(8)  # all have seen that nobody has warned yet
    monkeypatch.setattr(local_model.LocalModel, "count_longer", lambda *_: barrier.wait(20) + 1)
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("always")
        list(pool.map(lambda _: ours.embed_documents(["the " * 99]), range(8)))
    assert len(caught) == 1


def test_threads_each_look_at_their_own_batches(changed, model, longest, monkeypatch):
    counted = set()
    count = local_model.LocalModel.count_longer
    monkeypatch.setattr(
        local_model.LocalModel,
        "count_longer",
        lambda self, texts, *rest: counted.add(len(texts)) or count(self, texts, *rest),
    )
    ours, stop = changed(), threading.Event()

    def embed_short():
        while not stop.is_set():
            ours.embed_documents(["the sea"] * 3)

    with ThreadPoolExecutor(1) as pool:
        short = pool.submit(embed_short)
        try:
            for _ in range(50):
                ours.embed_documents([longest])  # as wide as the limit, so it is counted
        finally:
            stop.set()
        short.result()
    assert counted == {1}
    assert not model[0]._forward_pre_hooks


# Loading, threads and copies ------------------------------------------------------------------


def test_importing_and_constructing_load_neither_torch_nor_sentence_transformers():
    code = (
        "import sys; from langchain_hfembed.embeddings.local import HuggingFaceEmbeddings as E\n"
        "E(model='a/b', backend='onnx', multi_process=True).close()\n"
        "print({'torch', 'sentence_transformers', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_threads_load_the_model_once_and_get_their_own_vectors(prompted_folder, monkeypatch):
    loads = []
    load = local_base.load

    def slow(kind, arguments):
        loads.append(arguments)
        time.sleep(0.1)
        return load(kind, arguments)

    monkeypatch.setattr(local_base, "load", slow)
    ours = HuggingFaceEmbeddings(model=prompted_folder, model_kwargs={"device": "cpu"})
    texts = [f"{word} cats" for word in VOCABULARY_TEXT.split()[:40]]
    barrier = threading.Barrier(8)

    def embed(number):
        barrier.wait()
        return ours.embed_documents(texts[number::8]), ours.embed_query(texts[number])

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(embed, range(8)))
    assert len(loads) == 1
    for number, (documents, query) in enumerate(results):
        np.testing.assert_allclose(documents, ours.embed_documents(texts[number::8]), atol=1e-6)
        np.testing.assert_allclose(query, ours.embed_query(texts[number]), atol=1e-6)


def test_the_tokenizer_is_set_up_before_threads_share_it(minilm_folder):
    """Tokenizers before 0.23 raise "Already borrowed" if one thread does it while others use it."""
    ours = HuggingFaceEmbeddings(model=minilm_folder, model_kwargs={"device": "cpu"})
    backend = ours._local_model().model.tokenizer.backend_tokenizer
    before = backend.truncation, backend.padding
    assert None not in before
    ours.embed_query("a")
    ours.embed_documents(["a", "b c"])
    assert (backend.truncation, backend.padding) == before


async def test_async_methods_give_the_same_and_leave_the_loop_free(changed, model, monkeypatch):
    ours = changed()
    assert await ours.aembed_documents(TEXTS) == ours.embed_documents(TEXTS)
    assert await ours.aembed_query("sea") == ours.embed_query("sea")

    started, release = threading.Event(), threading.Event()

    def encode(texts, **_):
        started.set()
        assert release.wait(10)
        return np.ones((len(texts), 2))

    monkeypatch.setattr(model, "encode_query", encode)
    task = asyncio.create_task(ours.aembed_query("sea"))
    while not started.is_set():
        await asyncio.sleep(0.001)  # would never come back if the loop were blocked
    release.set()
    assert await task == [1.0, 1.0]


@pytest.mark.parametrize("make", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy])
def test_copies_load_again_and_give_the_same(embeddings, make):
    ours = make(embeddings)
    assert ours == embeddings or ours.model_dump() == embeddings.model_dump()
    assert not ours._models.clear()
    assert ours.embed_query("sea") == embeddings.embed_query("sea")


def test_weights_do_not_travel_in_pickles(embeddings):
    assert len(pickle.dumps(embeddings)) < 5_000


def test_shallow_copies_share_the_weights_unless_they_are_of_another_model(embeddings, tmp_path):
    same = embeddings.model_copy(update={"truncate_dim": 3})
    assert same._local_model() is embeddings._local_model()
    other = embeddings.model_copy(update={"model_name": str(tmp_path / "none")})
    with pytest.raises(ModelNotFoundError):
        other.embed_query("a")


def test_a_client_is_used_as_it_is_and_travels(model, monkeypatch):
    monkeypatch.setattr(local_base, "load", lambda *_: pytest.fail("loaded"))
    ours = HuggingFaceEmbeddings(client=model)
    assert ours.model == model.transformers_model.name_or_path
    np.testing.assert_allclose(_vectors(ours, "query"), model.encode_query(TEXTS), atol=1e-6)
    there = pickle.loads(pickle.dumps(ours))
    assert there.client is not model
    np.testing.assert_allclose(_vectors(there, "query"), _vectors(ours, "query"), atol=1e-6)
    assert "client" not in repr(ours)
    assert "client" not in ours.model_dump()


def test_a_client_has_the_name_that_it_is_given_and_needs_one(model, monkeypatch):
    assert HuggingFaceEmbeddings(client=model, model_name="mine").model == "mine"
    monkeypatch.setattr(model.transformers_model, "name_or_path", "")
    with pytest.raises(ValidationError, match="pass model_name, too"):
        HuggingFaceEmbeddings(client=model)


# Secrets --------------------------------------------------------------------------------------

TOKEN = "hf_neverToBeSeen"


@pytest.mark.parametrize("name", ["token", "use_auth_token"])
def test_a_token_reaches_sentence_transformers_and_shows_nowhere(constructed, name):
    kwargs = {name: TOKEN}
    ours = HuggingFaceEmbeddings(model="a/b", model_kwargs=kwargs)
    shown = (repr(ours), str(ours), repr(ours.model_dump()), ours.model_dump_json(), dumps(ours))
    assert not any(TOKEN in text for text in shown)
    assert TOKEN.encode() not in pickle.dumps(ours)
    assert kwargs == {name: TOKEN}  # the caller's own dict
    for same in (ours, copy.deepcopy(ours)):
        with pytest.raises(KeyboardInterrupt):
            same.embed_query("a")
    assert constructed(model="a/b", model_kwargs=kwargs)[name] == TOKEN
    assert "token" not in constructed(model="a/b")


def test_a_token_that_is_a_switch_stays_one(constructed):
    assert constructed(model_kwargs={"token": False})["token"] is False
    there = pickle.loads(pickle.dumps(HuggingFaceEmbeddings(model_kwargs={"token": False})))
    assert there.model_kwargs == {"token": False}


def test_a_token_does_not_show_in_errors():
    with pytest.raises(ValidationError) as invalid:
        HuggingFaceEmbeddings(model_kwargs={"token": TOKEN, "backend": "none"})
    with pytest.raises(ModelNotFoundError) as missing:
        HuggingFaceEmbeddings(model="a/b", model_kwargs={"token": TOKEN}).embed_query("a")
    assert TOKEN not in f"{invalid.value}{missing.value}"


# What is missing ------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["sentence_transformers", "torch"])
def test_a_missing_package_is_named_with_the_command(module, monkeypatch):
    for name in list(sys.modules):
        if name.partition(".")[0] == "sentence_transformers":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "langchain-hfembed\[local\]"') as caught:
        HuggingFaceEmbeddings().embed_query("a")
    assert module in str(caught.value)


@pytest.mark.parametrize(
    ("backend", "module"), [("onnx", "onnxruntime"), ("openvino", "optimum.intel")]
)
@pytest.mark.parametrize("where", ["parameter", "model_kwargs"])
def test_a_backends_missing_packages_are_named(backend, module, where, monkeypatch):
    for name in local_model._BACKEND_MODULES[backend]:
        monkeypatch.setitem(sys.modules, name, None)
    given = {"backend": backend}
    ours = HuggingFaceEmbeddings(**given if where == "parameter" else {"model_kwargs": given})
    command = rf'pip install "sentence-transformers\[{backend}\]"'
    with pytest.raises(ImportError, match=command):
        ours.embed_query("a")


def test_a_backend_whose_packages_are_there_is_passed_on(constructed, monkeypatch):
    for name in local_model._BACKEND_MODULES["onnx"]:
        monkeypatch.setitem(sys.modules, name, sys)
    assert constructed(model="a/b", backend="onnx")["backend"] == "onnx"


@pytest.mark.parametrize("name", ["/no/such/folder", "./none", "~/none/none", "a\\b", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(name):
    with pytest.raises(ModelNotFoundError) as caught:
        HuggingFaceEmbeddings(model=name).embed_query("a")
    assert f"no model folder {name!r}" in str(caught.value)


@pytest.mark.parametrize("name", ["nobody/nothing", "nothing", "not a: name/b"])
def test_a_model_that_is_nowhere_is_named(name, tmp_path):
    with pytest.raises(ModelNotFoundError, match="is not on this machine and could not") as caught:
        HuggingFaceEmbeddings(model=name, cache_folder=tmp_path).embed_query("a")
    assert repr(name) in str(caught.value)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "modules.json"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"[")])
def test_a_damaged_folder_is_named(prompted_folder, tmp_path, file, damage):
    folder = Path(shutil.copytree(prompted_folder, tmp_path / "model"))
    damage(folder / file)
    ours = HuggingFaceEmbeddings(model=folder, model_kwargs={"device": "cpu"})
    if file == "modules.json" and not (folder / file).exists():
        ours.embed_query("a")  # then it is any model of transformers
        return
    with pytest.raises(CheckpointError) as caught:
        ours.embed_query("a")
    assert str(folder) in str(caught.value)


def test_an_argument_that_sentence_transformers_does_not_know_is_named(prompted_folder):
    ours = HuggingFaceEmbeddings(model=prompted_folder, model_kwargs={"dtype": "float16"})
    with pytest.raises(InvalidInputError, match=r"'dtype'.*one level deeper"):
        ours.embed_query("a")


# Processes ------------------------------------------------------------------------------------


@pytest.fixture
def pooled(changed, model, monkeypatch):
    """Embeddings for a pool that is this process; the calls that reach it."""
    calls = []
    monkeypatch.setattr(
        model,
        "start_multi_process_pool",
        lambda devices: calls.append(devices) or {"n": len(calls)},
    )
    monkeypatch.setattr(model, "stop_multi_process_pool", lambda pool: calls.append("stop"))
    encode = model.encode

    @functools.wraps(encode)
    def encode_here(*args, pool=None, **kwargs):
        if pool is not None:
            calls.append(pool["n"])
        return encode(*args, **kwargs)

    monkeypatch.setattr(model, "encode", encode_here)

    def make(**arguments):
        return changed(**{"multi_process": ["cpu", "cpu"], **arguments}), calls

    return make


def test_one_pool_is_started_for_all_documents_and_none_for_queries(pooled, embeddings):
    ours, calls = pooled()
    ours.embed_query("a")
    assert ours.embed_documents([]) == []
    assert calls == []
    assert ours.embed_documents(TEXTS) == embeddings.embed_documents(TEXTS)
    ours.embed_documents(TEXTS)
    ours.embed_query("a")
    assert calls == [["cpu", "cpu"], 1, 1]


def test_closing_stops_the_pool_once_and_a_later_call_starts_another(pooled):
    ours, calls = pooled()
    ours.close()
    with ours as same:
        same.embed_documents(["a"])
    ours.close()
    assert calls == [["cpu", "cpu"], 1, "stop"]
    ours.embed_documents(["a"])
    assert calls[3:] == [["cpu", "cpu"], 4]
    ours.close()


def test_a_pool_stops_when_nobody_holds_the_embeddings(pooled):
    ours, calls = pooled(multi_process=True)
    ours.embed_documents(["a"])
    del ours
    gc.collect()
    assert calls == [None, 1, "stop"]


def test_what_fails_in_a_pool_does_not_answer_the_next_call(pooled, model, monkeypatch):
    ours, calls = pooled()
    with monkeypatch.context() as patch:
        patch.setattr(model, "encode_document", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ours.embed_documents(["a"])
    assert calls == [["cpu", "cpu"], "stop"]
    ours.embed_documents(["a"])
    assert calls[2:] == [["cpu", "cpu"], 3]
    ours.close()


def test_calls_take_turns_in_a_pool(pooled, model, monkeypatch):
    ours, _ = pooled()
    inside, most = [], []

    def encode(texts, **_):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return np.ones((len(texts), 2))

    monkeypatch.setattr(model, "encode_document", encode)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: ours.embed_documents(["a"]), range(8)))
    assert most == [1] * 8
    ours.close()


TWO_PROCESSES = """
import sys, warnings
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from langchain_hfembed.embeddings.local import HuggingFaceEmbeddings

def is_alive(process):
    try:
        return process.is_alive()
    except ValueError:  # closed
        return False

if __name__ == "__main__":
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(sys.argv[1], device="cpu")
    texts = [f"{number} cats" * (number % 5) for number in range(30)]
    arguments = {"normalize_embeddings": True, "truncate_dim": 8, "batch_size": 4}
    expected = theirs.encode(texts, prompt="dogs run ", **arguments)
    with HuggingFaceEmbeddings(
        model=sys.argv[1],
        model_kwargs={"device": "cpu"},
        encode_kwargs={**arguments, "chunk_size": 7},
        document_prompt_name="dogs",
        multi_process=["cpu", "cpu"],
    ) as ours:
        np.testing.assert_allclose(ours.embed_documents(texts), expected, atol=1e-6)
        [pool] = ours._pools._things.values()
        processes = list(pool._processes["processes"])
        assert len(processes) == 2
        with ThreadPoolExecutor(4) as threads:
            parts = list(threads.map(lambda first: ours.embed_documents(texts[first::4]), range(4)))
        for first, part in enumerate(parts):
            np.testing.assert_allclose(part, expected[first::4], atol=1e-6)
        query = theirs.encode_query("a", **arguments)
        np.testing.assert_allclose(ours.embed_query("a"), query, atol=1e-6)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ours.embed_documents(["the " * 99, "a"])
        assert "1 of 2 texts are longer" in str(caught[0].message)
        assert pool._processes["processes"] == processes
        assert all(map(is_alive, processes))
    assert not any(map(is_alive, processes))
    ours.embed_documents(["a"])  # in new ones, which end with the program
    print("the same")
"""


@pytest.mark.slow
def test_two_processes_give_the_same_with_the_same_arguments(prompted_folder, tmp_path):
    """In a program of its own, as processes talk through sockets, which tests may not."""
    program = tmp_path / "two_processes.py"
    program.write_text(TWO_PROCESSES)
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, str(program), str(prompted_folder)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.stdout.strip() == "the same", done.stderr


# LangChain's standard tests -------------------------------------------------------------------


class _OnTheSmallModel:
    @pytest.fixture(autouse=True)
    def _folder(self, prompted_folder):
        self.folder = prompted_folder

    @property
    def embeddings_class(self):
        return HuggingFaceEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": str(self.folder), "model_kwargs": {"device": "cpu"}}


class TestHuggingFaceEmbeddingsUnit(_OnTheSmallModel, EmbeddingsUnitTests):
    pass


class TestHuggingFaceEmbeddingsIntegration(_OnTheSmallModel, EmbeddingsIntegrationTests):
    pass
