"""BGEM3Embeddings on a random checkpoint: batching, failures, threads, copies, and bad input."""

from __future__ import annotations

import copy
import itertools
import json
import os
import pickle
import shutil
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from langchain_hfembed import (
    BGEM3Embeddings,
    CheckpointError,
    EmbeddingError,
    InvalidInputError,
    ModelNotFoundError,
    sparse_dot,
)
from langchain_hfembed.embeddings.base import chunks
from langchain_hfembed.embeddings.engines import heads, torch_engine
from langchain_hfembed.vectors import VIEWS
from tests.checkpoints import VOCABULARY_TEXT, build_xlm_roberta_checkpoint

WORDS = VOCABULARY_TEXT.split()
TEXTS = [
    "the sea",
    "",
    "한강은 서울을 지나 바다로 흐른다.",
    " ".join(WORDS[:40]),
    "cats cats cats",
    "🚀",
    " ".join(WORDS[20:30]),
    "a\nb\tc",
    "x\x00y",
    "Seoul",
]
HEADS = ("sparse_linear.pt", "colbert_linear.pt")
cut_on_purpose = pytest.mark.filterwarnings("ignore:.* are longer than .* tokens:UserWarning")


@pytest.fixture(scope="module")
def embeddings(xlmr_folder) -> BGEM3Embeddings:
    """Loaded; tests change copies of it, which share its weights."""
    loaded = BGEM3Embeddings(model=str(xlmr_folder))
    loaded.embed_query("load")
    return loaded


@pytest.fixture
def folder(xlmr_folder, tmp_path) -> Path:
    """A copy of the checkpoint, to be broken."""
    return Path(shutil.copytree(xlmr_folder, tmp_path / "model"))


def _assert_same(one, other, tolerance=1e-5):
    assert len(one) == len(other)
    for ours, theirs in zip(one, other, strict=True):
        assert ours.views == theirs.views
        if ours.dense is not None:
            np.testing.assert_allclose(ours.dense, theirs.dense, atol=tolerance)
        if ours.multi_vector is not None:
            np.testing.assert_allclose(ours.multi_vector, theirs.multi_vector, atol=tolerance)
        if ours.sparse is not None:
            weights = theirs.sparse.to_dict()
            assert ours.sparse.to_dict() == pytest.approx(weights, abs=tolerance)


@contextmanager
def _watching_forwards(embeddings, refuse=lambda batch: None):
    """Texts and longest text of the batches that reach the encoder; `refuse` may raise before."""
    shapes = []

    def before(module, args):
        [batch] = args
        shapes.append((len(batch.lengths), max(batch.lengths)))
        refuse(batch)

    hook = embeddings._engines()[0].encoder.register_forward_pre_hook(before)
    try:
        yield shapes
    finally:
        hook.remove()


# Batches and order ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_by_one(embeddings):
    return [embeddings.encode_documents([text])[0] for text in TEXTS]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_a_texts_views_do_not_depend_on_its_batch(embeddings, one_by_one, batch_size):
    ours = embeddings.model_copy(update={"batch_size": batch_size})
    with _watching_forwards(ours) as shapes:
        encoded = ours.encode_documents(TEXTS)
    _assert_same(encoded, one_by_one)
    assert len(shapes) == -(-len(TEXTS) // batch_size)


@settings(max_examples=15)
@given(order=st.permutations(range(len(TEXTS))), batch_size=st.integers(1, 11))
def test_the_order_of_results_is_the_order_of_texts(embeddings, one_by_one, order, batch_size):
    ours = embeddings.model_copy(update={"batch_size": batch_size})
    encoded = ours.encode_documents([TEXTS[position] for position in order])
    _assert_same(encoded, [one_by_one[position] for position in order])


def test_batches_keep_to_their_size_and_to_the_engines_tokens(embeddings, monkeypatch):
    monkeypatch.setattr(embeddings._engines()[0], "max_batch_tokens", 2000)
    ours = embeddings.model_copy(update={"batch_size": 32})
    lengths = [5] * 60 + [900] * 20
    with _watching_forwards(ours) as shapes:
        ours.encode_documents(["the " * length for length in lengths], ("dense",))
    assert sum(rows for rows, _ in shapes) == len(lengths)
    assert max(rows for rows, _ in shapes) == 32
    assert max(rows * tokens for rows, tokens in shapes) == 2 * 902 <= 2000


def test_all_views_come_out_of_one_forward_pass_a_query(embeddings):
    with _watching_forwards(embeddings) as shapes:
        [query] = embeddings.encode_queries(["Where is Seoul?"])
    assert query.views == VIEWS
    assert len(shapes) == 1


@pytest.mark.parametrize("views", [("dense",), ("sparse",), ("multi_vector", "dense"), VIEWS])
def test_only_the_views_asked_for_are_computed(embeddings, one_by_one, views):
    engine = embeddings._engines()[0]
    heads = {"sparse": engine.sparse_head, "multi_vector": engine.colbert_head}
    used = set()
    hooks = [
        head.register_forward_hook(lambda *_, view=view: used.add(view))
        for view, head in heads.items()
    ]
    try:
        encoded = embeddings.encode_documents(TEXTS, views)
        streamed = list(embeddings.iter_encode_documents(TEXTS, views))
        queries = embeddings.encode_queries(TEXTS, views)
    finally:
        for hook in hooks:
            hook.remove()
    assert used == {"sparse", "multi_vector"} & set(views)
    for results in (encoded, streamed, queries):
        assert {embedding.views for embedding in results} == {
            tuple(view for view in VIEWS if view in views)
        }
    for view in views:
        if view != "sparse":
            got, expected = getattr(encoded[3], view), getattr(one_by_one[3], view)
            np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("views", [(), ("colbert",), ("dense", "")])
def test_no_view_and_unknown_views_are_refused(embeddings, views):
    for encode in (
        embeddings.encode_documents,
        embeddings.encode_queries,
        lambda texts, views: list(embeddings.iter_encode_documents(texts, views)),
    ):
        with pytest.raises(ValueError, match="views must be one or more of"):
            encode(["a"], views)


def test_langchains_methods_give_the_dense_view_in_plain_floats(embeddings, one_by_one):
    vectors = embeddings.embed_documents(TEXTS)
    np.testing.assert_allclose(vectors, [one.dense for one in one_by_one], atol=1e-5)
    assert {type(value) for vector in vectors for value in vector} == {float}
    query = embeddings.embed_query(TEXTS[3])
    np.testing.assert_allclose(query, one_by_one[3].dense, atol=1e-5)
    assert {type(value) for value in query} == {float}


async def test_langchains_async_methods_give_the_same(embeddings):
    assert await embeddings.aembed_query("sea") == embeddings.embed_query("sea")
    assert await embeddings.aembed_documents(["sea"]) == embeddings.embed_documents(["sea"])


def test_a_result_does_not_keep_the_batch_alive(embeddings):
    for embedding in embeddings.encode_documents(TEXTS):
        arrays = (embedding.dense, embedding.multi_vector, embedding.sparse.values)
        assert all(array.base is None and array.dtype == np.float32 for array in arrays)


def test_without_normalisation_vectors_keep_their_length(embeddings, one_by_one):
    raw = embeddings.model_copy(update={"normalize_embeddings": False}).encode_documents(TEXTS)
    for embedding, unit in zip(raw, one_by_one, strict=True):
        length = np.linalg.norm(embedding.dense)
        assert abs(length - 1) > 1e-3
        np.testing.assert_allclose(embedding.dense / length, unit.dense, atol=1e-5)
        lengths = np.linalg.norm(embedding.multi_vector, axis=1, keepdims=True)
        np.testing.assert_allclose(embedding.multi_vector / lengths, unit.multi_vector, atol=1e-5)


def test_the_first_token_has_no_row_and_the_last_has(embeddings):
    [embedding] = embeddings.encode_documents([""])
    assert embedding.multi_vector.shape == (1, 32)
    assert embeddings.tokenize("") == ["</s>"]


def test_no_special_token_has_a_sparse_weight(embeddings):
    texts = ["", "<mask>", "<s> a </s> <pad> <unk> <mask>", "龍 żółw"]
    special = set(embeddings._engines()[0].tokenizer.special_ids.tolist())
    assert len(special) == 5
    for embedding in embeddings.encode_documents(texts):
        assert not special & embedding.sparse.to_dict().keys()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_nearly_the_same_in_float32(embeddings, one_by_one, dtype):
    import torch

    half = embeddings.model_copy(update={"dtype": dtype})
    weights = half._engines()[0].encoder.parameters()
    assert {weight.dtype for weight in weights} == {getattr(torch, dtype)}
    for embedding, exact in zip(half.encode_documents(TEXTS), one_by_one, strict=True):
        assert embedding.dense.dtype == embedding.multi_vector.dtype == np.float32
        assert embedding.dense @ exact.dense > 0.995
        assert (embedding.multi_vector * exact.multi_vector).sum(axis=1).min() > 0.99


@cut_on_purpose
def test_the_mean_over_a_long_text_does_not_overflow_float16(folder):
    """2,048 tokens with 100 in one place add up to more than float16's 65,504."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.LayerNorm.bias"][0] = 100
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    half, full = (
        BGEM3Embeddings(model=str(folder), pooling="mean", dtype=dtype)
        for dtype in ("float16", "float32")
    )
    text = "river " * 3000
    assert np.dot(half.embed_query(text), full.embed_query(text)) > 0.999
    assert np.dot(half.embed_documents([text])[0], full.embed_documents([text])[0]) > 0.999


def test_score_is_what_the_views_say(embeddings):
    query, documents = "Where is Seoul?", ["Seoul is the capital.", "cats", ""]
    scores = embeddings.score(query, documents)
    [asked], encoded = embeddings.encode_queries([query]), embeddings.encode_documents(documents)
    for position, document in enumerate(encoded):
        best = (asked.multi_vector @ document.multi_vector.T).max(axis=1)
        assert scores.dense[position] == pytest.approx(asked.dense @ document.dense, abs=1e-5)
        assert scores.multi_vector[position] == pytest.approx(best.mean(), abs=1e-5)
        assert scores.sparse[position] == pytest.approx(
            sparse_dot(asked.sparse, document.sparse), abs=1e-5
        )


def test_nothing_to_score_gives_no_scores(embeddings):
    scores = embeddings.score("Where?", [])
    assert [values.shape for _, values in scores.present()] == [(0,)] * 3


# What a caller passes in ----------------------------------------------------------------------


def test_the_callers_list_and_texts_stay_as_they_are(embeddings):
    texts = ["two\nlines", "  spaces  ", "tab\t"]
    before = list(texts)
    embeddings.encode_documents(texts)
    list(embeddings.iter_encode_documents(texts))
    assert all(text is same for text, same in zip(texts, before, strict=True))


def test_texts_reach_the_tokenizer_unaltered_behind_the_instruction(embeddings, monkeypatch):
    tokenizer = embeddings._engines()[0].tokenizer
    seen = []
    encode = tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda texts: seen.extend(texts) or encode(texts))
    text = " two\r\nlines\u2028and  \x00 more\n"
    ours = embeddings.model_copy(
        update={"query_instruction": "q:\n", "document_instruction": " d: "}
    )
    ours.encode_documents([text])
    ours.encode_queries([text])
    list(ours.iter_encode_documents([text]))
    assert seen == [f" d: {text}", f"q:\n{text}", f" d: {text}"]


def test_an_instruction_is_text_put_in_front(embeddings):
    ours = embeddings.model_copy(
        update={"query_instruction": "Where is ", "document_instruction": "the sea "}
    )
    encoded = ours.encode_documents(TEXTS)
    _assert_same(encoded, embeddings.encode_documents([f"the sea {text}" for text in TEXTS]))
    asked = ours.encode_queries(TEXTS)
    _assert_same(asked, embeddings.encode_queries([f"Where is {text}" for text in TEXTS]))
    np.testing.assert_allclose(ours.embed_query("Seoul"), asked[-1].dense, atol=1e-5)
    np.testing.assert_allclose(ours.embed_documents(["Seoul"])[0], encoded[-1].dense, atol=1e-5)


def test_an_empty_text_and_nul_are_texts(embeddings):
    empty, nul = embeddings.encode_documents(["", "\x00"])
    assert len(empty.dense) == len(nul.dense) == 32


BAD_LISTS = [
    ("a bare string", "Seoul", ()),
    ("bytes", b"Seoul", ()),
    ("nothing", None, ()),
    ("a number", 3, ()),
    ("a list with a number", [1], (0,)),
    ("None in the middle", ["a", None, "b"], (1,)),
    ("bytes in a list", ["a", "b", b"c"], (2,)),
    ("a list in a list", ["a", ["b", "c"]], (1,)),
    ("a lone surrogate", ["a", "b", "c \ud83d d"], (2,)),
    ("not a number", [float("nan")], (0,)),
]


@pytest.mark.parametrize(
    "encode",
    ["encode_documents", "encode_queries", "embed_documents", "iter_encode_documents"],
)
@pytest.mark.parametrize(
    ("texts", "indices"), [case[1:] for case in BAD_LISTS], ids=[case[0] for case in BAD_LISTS]
)
def test_what_is_no_list_of_texts_is_refused_with_its_position(embeddings, encode, texts, indices):
    with pytest.raises(InvalidInputError) as caught:
        list(getattr(embeddings, encode)(texts))
    assert caught.value.indices == indices
    assert all(str(index) in str(caught.value) for index in indices)


@pytest.mark.parametrize("text", [None, 3, b"a", ["a"], "\udfff"])
def test_a_query_that_is_no_text_is_refused(embeddings, text):
    with pytest.raises(InvalidInputError):
        embeddings.embed_query(text)
    with pytest.raises(InvalidInputError):
        embeddings.tokenize(text)
    with pytest.raises(InvalidInputError):
        embeddings.score(text, ["a"])


def test_no_texts_give_nothing_and_load_nothing():
    nowhere = BGEM3Embeddings(model="/no/such/folder")
    assert nowhere.embed_documents([]) == []
    assert nowhere.encode_documents([]) == []
    assert nowhere.encode_queries(()) == []
    assert list(nowhere.iter_encode_documents(iter([]))) == []


# Length ---------------------------------------------------------------------------------------


def test_cutting_warns_once_with_count_and_limit(embeddings):
    ours = BGEM3Embeddings(model=embeddings.model_name, max_length=8)
    texts = ["the", "the " * 9, "in", "the " * 12]  # a token a word, and two around them
    with pytest.warns(UserWarning, match=r"2 of 4 texts .* 8 tokens .*longest has 14") as caught:
        ours.encode_documents(texts)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.encode_documents(texts)
        ours.embed_query("the " * 600)


@pytest.mark.parametrize(
    "call",
    [
        lambda ours, text: ours.embed_documents([text]),
        lambda ours, text: ours.embed_query(text),
        lambda ours, text: ours.encode_queries([text]),
        lambda ours, text: list(ours.iter_encode_documents([text])),
        lambda ours, text: ours.score(text, []),
    ],
)
def test_the_warning_names_the_callers_file_whatever_was_called(embeddings, call):
    ours = embeddings.model_copy(update={"max_length": 8, "query_max_length": 8})
    ours._warned_of_truncation = False
    with pytest.warns(UserWarning, match="longer than 8 tokens") as caught:
        call(ours, "the " * 9)
    assert caught[0].filename == __file__


def test_a_text_of_just_the_limit_is_not_cut(embeddings):
    ours = BGEM3Embeddings(model=embeddings.model_name, max_length=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [embedding] = ours.encode_documents(["the " * 6])
    assert embedding.multi_vector.shape[0] == 7


@cut_on_purpose
def test_documents_and_queries_are_cut_each_at_their_own_length(embeddings):
    ours = embeddings.model_copy(update={"max_length": 9, "query_max_length": 5})
    [document], [query] = ours.encode_documents([TEXTS[3]]), ours.encode_queries([TEXTS[3]])
    assert len(document.multi_vector) == 8
    assert len(query.multi_vector) == 4
    # Cut from the right, the closing token kept.
    whole = embeddings.tokenize(TEXTS[3])
    assert ours.tokenize(TEXTS[3]) == [*whole[:7], "</s>"]
    assert ours.tokenize(TEXTS[3], is_query=True) == [*whole[:3], "</s>"]


@cut_on_purpose
@pytest.mark.parametrize("max_length", [2048, 2049, 8192])
def test_no_text_gets_more_tokens_than_the_model_has_positions(embeddings, max_length):
    ours = embeddings.model_copy(update={"max_length": max_length})
    with _watching_forwards(ours) as shapes:
        ours.encode_documents(["a " * 3000], ("dense",))
    assert shapes == [(1, 2048)]


@settings(max_examples=40)
@given(
    text=st.text(max_size=60) | st.text("ab \n서울한강<s>/🚀", max_size=60), is_query=st.booleans()
)
@cut_on_purpose
def test_tokenize_has_a_string_for_each_row_of_the_multi_vector(embeddings, text, is_query):
    ours = embeddings.model_copy(
        update={
            "max_length": 12,
            "query_max_length": 9,
            "query_instruction": "sea ",
            "document_instruction": "river: ",
        }
    )
    encode = ours.encode_queries if is_query else ours.encode_documents
    tokens = ours.tokenize(text, is_query=is_query)
    assert len(tokens) == len(encode([text], ("multi_vector",))[0].multi_vector)
    assert all(isinstance(token, str) for token in tokens)


def test_decoded_tokens_spell_the_text(embeddings):
    text = "The capital of Korea is Seoul. 한강은 흐른다."
    spelled = "".join(embeddings.tokenize(text)[:-1])
    assert spelled.replace(" ", "") == text.replace(" ", "")
    [embedding] = embeddings.encode_documents([text])
    decoded = [embeddings.decode_token(token) for token in embedding.sparse.indices.tolist()]
    assert decoded
    assert all(token.strip() in text for token in decoded)


# Progress -------------------------------------------------------------------------------------


def test_nothing_is_printed_unless_progress_is_asked_for(embeddings, capfd):
    quiet = BGEM3Embeddings(model=embeddings.model_name, batch_size=1)
    quiet.encode_documents(TEXTS)  # loads the weights too
    quiet.embed_query("sea")
    list(quiet.iter_encode_documents(TEXTS))
    assert capfd.readouterr() == ("", "")
    quiet.model_copy(update={"show_progress": True}).encode_documents(TEXTS)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert f"{len(TEXTS)}/{len(TEXTS)}" in shown.err


# Memory ---------------------------------------------------------------------------------------


def _out_of_memory_above(limit):
    import torch

    def refuse(batch):
        if len(batch.lengths) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return refuse


@pytest.mark.parametrize("fits", [1, 2, 3, 9])
def test_a_batch_that_does_not_fit_is_halved_and_nothing_changes(embeddings, one_by_one, fits):
    with _watching_forwards(embeddings, _out_of_memory_above(fits)) as shapes:
        encoded = embeddings.encode_documents(TEXTS)
    _assert_same(encoded, one_by_one)
    sizes = [rows for rows, _ in shapes]
    assert sizes[0] == len(TEXTS)
    assert sum(size for size in sizes if size <= fits) == len(TEXTS)
    assert len(sizes) <= 2 * len(TEXTS)


def test_torchs_own_refusal_on_a_cpu_counts_as_out_of_memory():
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55)
    assert torch_engine.is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("message", "memory"),
    [
        # c10/core/impl/alloc_cpu.cpp, on Linux and on Windows; torch's MPS allocator.
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes.", True),
        ("DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes.", True),
        ("MPS backend out of memory (MPS allocated: 18.00 GB)", True),
        ("mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)", False),
    ],
)
def test_out_of_memory_is_told_from_other_errors_by_its_text(message, memory):
    assert torch_engine.is_out_of_memory(RuntimeError(message)) is memory


def _no_memory_for(token_id):
    import torch

    def refuse(batch):
        if token_id in batch.ids:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return refuse


def _id_of(embeddings, word: str) -> int:
    return embeddings._engines()[0].tokenizer.encode([word])[0][1]


def test_a_text_that_does_not_fit_alone_is_named_and_the_others_are_not_lost(
    embeddings, one_by_one
):
    ours = embeddings.model_copy(update={"batch_size": 4})
    rocket = TEXTS.index("🚀")
    with (
        _watching_forwards(ours, _no_memory_for(_id_of(ours, "🚀"))),
        pytest.raises(EmbeddingError, match=f"text {rocket} .*cpu.*max_length") as caught,
    ):
        ours.encode_documents(TEXTS)
    assert caught.value.indices == (rocket,)
    completed = caught.value.completed
    assert len(completed) >= 4
    assert rocket not in completed
    for position, vector in completed.items():
        np.testing.assert_allclose(vector, one_by_one[position].dense, atol=1e-5)


def test_another_error_of_torch_passes_through(embeddings):
    def refuse(batch):
        raise RuntimeError("the size of tensor a must match")

    with (
        _watching_forwards(embeddings, refuse) as shapes,
        pytest.raises(RuntimeError, match="size of tensor") as caught,
    ):
        embeddings.encode_documents(TEXTS)
    assert not isinstance(caught.value, EmbeddingError)
    assert len(shapes) == 1


@pytest.fixture(scope="module")
def with_a_broken_token(embeddings, tmp_path_factory):
    """A model that knows no number for the rocket."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("broken") / "model"
    shutil.copytree(embeddings.model_name, folder)
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][_id_of(embeddings, "🚀")] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return BGEM3Embeddings(model=str(folder), batch_size=2)


@pytest.mark.parametrize("views", [None, ("dense",), ("sparse",), ("multi_vector",)])
def test_a_text_whose_output_is_not_finite_is_named_in_whichever_view(with_a_broken_token, views):
    rocket = TEXTS.index("🚀")
    with pytest.raises(EmbeddingError, match=f"text {rocket}: .* (NaN|finite)") as caught:
        with_a_broken_token.encode_documents(TEXTS, views)
    assert caught.value.indices == (rocket,)
    assert rocket not in caught.value.completed
    assert bool(caught.value.completed) == (views in (None, ("dense",)))


# Streaming ------------------------------------------------------------------------------------


def _many(n):
    return [f"{WORDS[i % len(WORDS)]} {i}" for i in range(n)]


def test_streaming_equals_encoding_and_reads_at_most_1024_ahead(embeddings):
    read = 0

    def counted(texts):
        nonlocal read
        for text in texts:
            read += 1
            yield text

    texts = _many(1100)
    ahead, streamed = [], []
    for position, embedding in enumerate(embeddings.iter_encode_documents(counted(texts))):
        ahead.append(read - position)
        streamed.append(embedding)
    assert max(ahead) <= 1024
    _assert_same(streamed, embeddings.encode_documents(texts))


def test_a_stream_is_not_read_before_its_first_result_is_asked_for(embeddings):
    texts = iter(_many(3))
    stream = embeddings.iter_encode_documents(texts)
    assert next(texts) == _many(1)[0]
    assert len(list(stream)) == 2


@pytest.fixture(scope="module")
def dense_only_of_many(embeddings):
    return embeddings.encode_documents(_many(1100), ("dense",))


def test_views_of_a_stream_may_come_from_an_iterator(embeddings, dense_only_of_many):
    streamed = embeddings.iter_encode_documents(iter(_many(1100)), iter(("dense",)))
    _assert_same(list(streamed), dense_only_of_many)


def test_a_bad_text_in_a_stream_comes_after_the_good_ones_with_its_position_in_the_stream(
    embeddings, dense_only_of_many
):
    texts = [*_many(1100)[:1098], None]
    stream = embeddings.iter_encode_documents(iter(texts), ("dense",))
    _assert_same(list(itertools.islice(stream, 1098)), dense_only_of_many[:1098])
    with pytest.raises(InvalidInputError, match="text 1098 ") as caught:
        next(stream)
    assert caught.value.indices == (1098,)


def test_out_of_memory_in_a_stream_names_the_position_in_the_stream(embeddings, dense_only_of_many):
    texts = _many(1100)
    texts[1090] = "<mask>"  # a token that no other text has
    stream = embeddings.iter_encode_documents(texts, ("dense",))
    marker = _id_of(embeddings, "<mask>")
    with (
        _watching_forwards(embeddings, _no_memory_for(marker)),
        pytest.raises(EmbeddingError, match=r"texts from number 1024 on: text 66 ") as caught,
    ):
        for _ in stream:
            pass
    assert caught.value.indices == (1090,)
    completed = caught.value.completed
    assert completed
    assert all(1024 <= position < 1100 and position != 1090 for position in completed)
    for position, vector in completed.items():
        np.testing.assert_allclose(vector, dense_only_of_many[position].dense, atol=1e-5)


@given(st.lists(st.integers(0, 500_000), max_size=12))
def test_a_chunk_holds_400_000_characters_or_one_text(lengths):
    texts = [letter * length for letter, length in zip(itertools.cycle("abc"), lengths)]
    cut = list(chunks(iter(texts)))
    assert list(itertools.chain(*cut)) == texts
    assert all(len(chunk) == 1 or sum(map(len, chunk)) <= 400_000 for chunk in cut)
    assert all(cut)


# Threads and copies ---------------------------------------------------------------------------


def _at_once(tasks):
    """Run the tasks in as many threads, all starting at the same moment."""
    barrier = threading.Barrier(len(tasks))

    def start(task):
        barrier.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return [future.result() for future in [pool.submit(start, task) for task in tasks]]


@cut_on_purpose
def test_eight_threads_with_eight_lengths_get_what_one_thread_gets(embeddings):
    texts = [" ".join(WORDS[start : start + 30]) for start in range(0, 60, 5)]
    objects = [
        embeddings.model_copy(update={"max_length": 5 + 3 * number, "batch_size": 1 + number})
        for number in range(8)
    ]
    expected = [one.encode_documents(texts) for one in objects]
    assert len({len(views[0].multi_vector) for views in expected}) == 8

    def again_and_again(one):
        return [one.encode_documents(texts) for _ in range(3)]

    for results, right in zip(
        _at_once([lambda one=one: again_and_again(one) for one in objects]), expected, strict=True
    ):
        for result in results:
            _assert_same(result, right)


def test_eight_threads_share_one_object(embeddings):
    parts = [_many(40)[start::8] for start in range(8)]
    expected = [embeddings.encode_documents(part) for part in parts]
    together = _at_once([lambda part=part: embeddings.encode_documents(part) for part in parts])
    for result, right in zip(together, expected, strict=True):
        _assert_same(result, right)


@pytest.fixture
def loads(monkeypatch):
    """What is loaded from here on, one entry a load; the loading itself is the real one."""
    loaded = []
    real = torch_engine.TorchEngine

    def load(*args, **kwargs):
        loaded.append(kwargs)
        time.sleep(0.05)  # long enough for every thread to arrive
        return real(*args, **kwargs)

    monkeypatch.setattr(torch_engine, "TorchEngine", load)
    return loaded


def test_the_first_use_from_eight_threads_loads_once(xlmr_folder, embeddings, loads):
    fresh = BGEM3Embeddings(model=str(xlmr_folder))
    vectors = _at_once([lambda: fresh.embed_query("sea")] * 8)
    assert len(loads) == 1
    np.testing.assert_allclose(vectors, [embeddings.embed_query("sea")] * 8, atol=1e-6)


def test_a_load_that_failed_is_tried_again(folder):
    ours = BGEM3Embeddings(model=str(folder))
    hidden = folder / "elsewhere.pt"
    (folder / HEADS[0]).rename(hidden)
    with pytest.raises(CheckpointError):
        ours.embed_query("sea")
    hidden.rename(folder / HEADS[0])
    assert len(ours.embed_query("sea")) == 32


@pytest.mark.parametrize(
    "travel",
    [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy, lambda e: e.model_copy(deep=True)],
    ids=["pickle", "deepcopy", "model_copy"],
)
def test_pickles_and_deep_copies_give_the_same_and_leave_the_weights_behind(embeddings, travel):
    configured = embeddings.model_copy(update={"document_instruction": "sea ", "batch_size": 2})
    arrived = travel(configured)
    assert arrived.model_dump() == configured.model_dump()
    assert len(pickle.dumps(configured)) < 5000
    _assert_same(arrived.encode_documents(TEXTS), configured.encode_documents(TEXTS))
    assert arrived._engines()[0] is not configured._engines()[0]


def test_a_copy_shares_the_weights_unless_its_settings_need_others(embeddings, loads):
    embeddings.model_copy(update={"max_length": 99, "query_instruction": "q"}).embed_query("sea")
    copy.copy(embeddings).embed_query("sea")
    assert len(loads) == 0
    mean = embeddings.model_copy(update={"pooling": "mean"})
    assert not np.allclose(mean.embed_query("sea"), embeddings.embed_query("sea"), atol=1e-3)
    assert len(loads) == 1
    assert embeddings.pooling is None


def test_the_models_name_goes_by_two_names(xlmr_folder):
    name = str(xlmr_folder)
    assert BGEM3Embeddings(model=name).model_name == BGEM3Embeddings(model_name=name).model == name


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"max_length": 2},
        {"query_max_length": 0},
        {"pooling": "max"},
        {"dtype": "int8"},
        {"normalise": True},
    ],
)
def test_wrong_settings_are_refused_by_name(wrong):
    [name] = wrong
    with pytest.raises(ValidationError, match=name):
        BGEM3Embeddings(model="x", **wrong)


# The folder -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*HEADS, "config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name) as caught:
        BGEM3Embeddings(model=str(folder)).embed_query("a")
    assert str(folder) in str(caught.value)


def _ill_heads():
    import torch

    weight, bias = torch.zeros(1, 32), torch.zeros(1)
    return {
        "of another width": {"weight": torch.zeros(1, 16), "bias": bias},
        "without dimensions": {"weight": torch.tensor(1.0), "bias": torch.tensor(1.0)},
        "with a vector for a weight": {"weight": weight[0], "bias": bias},
        "with a bias of another size": {"weight": weight, "bias": torch.zeros(3)},
        "with no rows": {"weight": torch.zeros(0, 32), "bias": torch.zeros(0)},
        "without a bias": {"weight": weight},
        "with more than a head": {"weight": weight, "bias": bias, "scale": bias},
        "with lists for tensors": {"weight": [[0.0] * 32], "bias": [0.0]},
        "with nothing for a weight": {"weight": None, "bias": bias},
        "that is a bare tensor": weight,
        "that is a list": [weight, bias],
        "that is a text": "weights",
    }


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("kind", _ill_heads())
def test_an_ill_shaped_head_is_named(xlmr_folder, tmp_path, name, kind):
    import torch

    folder = _linked(xlmr_folder, tmp_path / "model")
    (folder / name).unlink()
    torch.save(_ill_heads()[kind], folder / name)
    with pytest.raises(CheckpointError, match=name):
        BGEM3Embeddings(model=str(folder)).embed_query("a")


def _linked(source: Path, target: Path) -> Path:
    """A folder of links: cheaper than a copy where one file is replaced."""
    target.mkdir()
    for file in source.iterdir():
        if file.is_file():
            (target / file.name).symlink_to(file)
    return target


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04 torn", bytes(64)]
)
def test_a_head_that_is_no_head_at_all_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        BGEM3Embeddings(model=str(folder)).embed_query("a")


@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_a_head_with_a_damaged_byte_is_read_or_refused(xlmr_folder, tmp_path_factory, data):
    """Whatever the unpickler raises: an opcode, a length or an encoding may be wrong."""
    head = tmp_path_factory.getbasetemp() / "damaged.pt"
    content = bytearray((xlmr_folder / HEADS[0]).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    head.write_bytes(content)
    with suppress(CheckpointError):
        heads._read_state(head)


class _Intruder:
    """Unpickled by a careless reader, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _as_pickle(intruder, path):
    path.write_bytes(pickle.dumps({"weight": intruder, "bias": intruder}, protocol=2))


def _as_torch_file(intruder, path):
    import torch

    torch.save({"weight": intruder, "bias": intruder}, path)


@pytest.mark.parametrize("write", [_as_pickle, _as_torch_file])
@pytest.mark.parametrize("name", [*HEADS, "pytorch_model.bin"])
def test_a_strangers_model_runs_no_code(folder, tmp_path, write, name):
    trace = tmp_path / "trace"
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    write(_Intruder(trace), folder / name)
    with pytest.raises((CheckpointError, pickle.UnpicklingError, OSError, ValueError)):
        BGEM3Embeddings(model=str(folder)).embed_query("a")
    assert not trace.exists()
    # The file would have run code, had it been read without care.
    import torch

    with suppress(RuntimeError):
        torch.load(folder / name, weights_only=False)
    assert trace.is_dir()


def test_heads_of_another_width_than_the_model_are_accepted_for_multi_vectors(tmp_path):
    folder = build_xlm_roberta_checkpoint(tmp_path / "narrow", colbert_dim=5)
    [embedding] = BGEM3Embeddings(model=str(folder)).encode_documents(["the sea"])
    assert embedding.multi_vector.shape[1] == 5


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "a/b/c", "~/no-such-model-here"])
def test_a_path_that_is_not_there_is_named(name):
    with pytest.raises(ModelNotFoundError, match=name):
        BGEM3Embeddings(model=name).embed_query("a")


def test_a_model_that_is_not_here_fails_at_once_offline_and_says_how_to_get_it():
    start = time.perf_counter()
    with pytest.raises(ModelNotFoundError, match="hf download no-such/model-here"):
        BGEM3Embeddings(model="no-such/model-here").embed_query("a")
    assert time.perf_counter() - start < 5


def test_a_name_that_the_hub_cannot_have_is_refused():
    with pytest.raises(ModelNotFoundError, match="neither a folder nor a valid model id"):
        BGEM3Embeddings(model="two words/model").embed_query("a")


POOLINGS = {
    "the old format": ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
    "the old format, cls": (
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        "cls",
    ),
    "the new format": ({"embedding_dimension": 32, "pooling_mode": "mean"}, "mean"),
    "the new format, cls": ({"embedding_dimension": 32, "pooling_mode": "cls"}, "cls"),
    "no mode": ({"word_embedding_dimension": 32}, "cls"),
}


def _state_pooling(folder: Path, content: str) -> None:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(content)


@pytest.mark.parametrize(("stated", "pooling"), POOLINGS.values(), ids=POOLINGS)
def test_pooling_is_what_the_checkpoint_says(folder, embeddings, stated, pooling):
    _state_pooling(folder, json.dumps(stated))
    vector = BGEM3Embeddings(model=str(folder)).embed_query("the sea")
    expected = embeddings.model_copy(update={"pooling": pooling}).embed_query("the sea")
    np.testing.assert_allclose(vector, expected, atol=1e-6)


@pytest.mark.parametrize(
    "content",
    [
        '{"pooling_mode_cls_token": false, "pooling_mode_max_tokens": true}',
        '{"pooling_mode_weightedmean_tokens": true}',
        '{"pooling_mode_lasttoken": true}',
        '{"pooling_mode": "lasttoken"}',
        '{"pooling_mode": ["cls", "mean"]}',
        # Both: Sentence Transformers joins the two vectors.
        '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}',
        "not json",
        '["cls"]',
    ],
)
def test_a_pooling_that_bge_m3_does_not_have_is_refused_unless_overruled(folder, content):
    _state_pooling(folder, content)
    with pytest.raises(CheckpointError, match=r"1_Pooling.config\.json"):
        _ = BGEM3Embeddings(model=str(folder)).fingerprint
    assert BGEM3Embeddings(model=str(folder), pooling="mean").fingerprint


def test_a_missing_package_is_named_before_anything_is_fetched(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"needs torch: pip install .langchain-hfembed\[bge-m3\]"):
        BGEM3Embeddings(model_name="org/on-the-hub").embed_query("text")


# Fingerprint ----------------------------------------------------------------------------------


def test_a_copied_folder_has_the_same_fingerprint(folder, embeddings):
    for _ in range(2):
        assert BGEM3Embeddings(model=str(folder)).fingerprint == embeddings.fingerprint


def test_what_a_trainer_leaves_beside_the_model_is_no_part_of_it(folder, embeddings):
    (folder / "training_args.bin").write_bytes(b"epochs")
    assert BGEM3Embeddings(model=str(folder)).fingerprint == embeddings.fingerprint


def test_settings_that_change_no_documents_vector_change_no_fingerprint(embeddings):
    other = embeddings.model_copy(
        update={
            "pooling": "cls",
            "batch_size": 5,
            "query_instruction": "q",
            "query_max_length": 9,
            "show_progress": True,
        }
    )
    assert other.fingerprint == embeddings.fingerprint


@pytest.mark.parametrize("settings", [{"pooling": "mean"}, {"document_instruction": "passage: "}])
def test_settings_that_change_documents_change_the_fingerprint(embeddings, settings):
    assert embeddings.model_copy(update=settings).fingerprint != embeddings.fingerprint


@pytest.mark.parametrize(
    "name",
    [*HEADS, "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"],
)
def test_another_file_of_the_model_is_another_fingerprint(folder, embeddings, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert BGEM3Embeddings(model=str(folder)).fingerprint != embeddings.fingerprint


def test_the_fingerprint_needs_no_loaded_model(xlmr_folder, loads):
    assert BGEM3Embeddings(model=str(xlmr_folder)).fingerprint
    assert loads == []
