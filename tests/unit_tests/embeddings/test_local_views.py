"""Local sparse and multi-vector models: Sentence Transformers' numbers, names, and errors."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from langchain_hfembed import (
    HuggingFaceEmbeddings,
    HuggingFaceMultiVectorEmbeddings,
    HuggingFaceSparseEmbeddings,
)
from langchain_hfembed.errors import (
    CheckpointError,
    EmbeddingError,
    InvalidInputError,
    ModelNotFoundError,
)

TEXTS = [
    "the sea",
    "",
    "서",
    "in\n\nthe",
    "🚀",
]
SIDES = ["query", "document"]


@pytest.fixture(scope="module")
def sparse(splade_folder):
    return HuggingFaceSparseEmbeddings(model=splade_folder, model_kwargs={"device": "cpu"})


@pytest.fixture(scope="module")
def colbert(colbert_folder):
    return HuggingFaceMultiVectorEmbeddings(model=colbert_folder, model_kwargs={"device": "cpu"})


@pytest.fixture(params=["sparse", "colbert"])
def encoder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def splade_model(splade_folder):
    from sentence_transformers import SparseEncoder

    return SparseEncoder(str(splade_folder), device="cpu")


@pytest.fixture(scope="module")
def colbert_model(colbert_folder):
    from sentence_transformers import MultiVectorEncoder

    return MultiVectorEncoder(str(colbert_folder), device="cpu")


def _encode(encoder, side, texts):
    return (encoder.encode_queries if side == "query" else encoder.encode_documents)(texts)


def _weights(embeddings, width):
    rows = np.zeros((len(embeddings), width), np.float32)
    for row, embedding in zip(rows, embeddings, strict=True):
        row[embedding.sparse.indices] = embedding.sparse.values
    return rows


# Numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_sparse_weights_are_sentence_transformers_own(sparse, splade_model, side):
    theirs = getattr(splade_model, f"encode_{side}")(TEXTS, convert_to_sparse_tensor=False).numpy()
    ours = _weights(_encode(sparse, side, TEXTS), theirs.shape[1])
    assert np.abs(ours - theirs).max() < 1e-6
    assert 0 < np.count_nonzero(ours) < ours.size / 2


@pytest.mark.parametrize("side", SIDES)
def test_token_vectors_are_sentence_transformers_own(colbert, colbert_model, side):
    theirs = getattr(colbert_model, f"encode_{side}")(TEXTS, convert_to_numpy=True)
    for embedding, rows in zip(_encode(colbert, side, TEXTS), theirs, strict=True):
        np.testing.assert_allclose(embedding.multi_vector, rows, rtol=0, atol=1e-6)


def test_queries_and_documents_differ(encoder):
    [query], [document] = encoder.encode_queries(["the sea"]), encoder.encode_documents(["the sea"])
    assert repr(query) != repr(document)


def test_the_largest_weights_are_kept(splade_folder, sparse):
    few = HuggingFaceSparseEmbeddings(model=splade_folder, max_active_dims=5)
    [cut], [whole] = few.encode_documents(["the sea"]), sparse.encode_documents(["the sea"])
    assert len(cut.sparse) == 5
    weights = whole.sparse.to_dict()
    assert set(cut.sparse.to_dict()) == set(sorted(weights, key=weights.get)[-5:])


def test_a_prompt_of_the_callers_replaces_the_models(splade_folder, sparse):
    plain = HuggingFaceSparseEmbeddings(model=splade_folder, query_prompt="")
    as_query = HuggingFaceSparseEmbeddings(model=splade_folder, document_prompt="query: ")
    text = "the sea"
    assert (
        as_query.encode_documents([text])[0].sparse.to_dict()
        == sparse.encode_queries([text])[0].sparse.to_dict()
        == plain.encode_queries([f"query: {text}"])[0].sparse.to_dict()
    )


def test_queries_of_a_model_without_inference_go_their_own_way(splade_model):
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    static = SparseStaticEmbedding(splade_model.tokenizer, frozen=True)
    router = Router.for_query_document([static], list(splade_model), default_route=None)
    model = SparseEncoder(modules=[router])
    encoder = HuggingFaceSparseEmbeddings(client=model, model_name="asymmetric")
    [query] = encoder.encode_queries(["the sea"])
    ids = splade_model.tokenizer("the sea", add_special_tokens=False)["input_ids"]
    assert set(ids) <= set(query.sparse.indices.tolist())
    [document] = encoder.encode_documents(["the sea"])
    assert len(document.sparse) != len(query.sparse)


# Tokens ---------------------------------------------------------------------------------------


def test_sparse_indices_have_the_tokenizers_words(sparse, splade_model):
    [token_id] = splade_model.tokenizer("river", add_special_tokens=False)["input_ids"]
    assert sparse.decode_token(token_id) == "river"
    assert sparse.decode_token(splade_model.tokenizer.mask_token_id) == "<mask>"
    assert sparse.decode_token(999_999) == "999999"


def test_every_row_of_a_document_has_its_token(colbert):
    text = "the river. the city."
    tokens = colbert.tokenize(text)
    [embedding] = colbert.encode_documents([text])
    assert len(tokens) == len(embedding.multi_vector)
    assert tokens[0] == "<s>"
    assert tokens[-1] == "</s>"
    assert [t for t in tokens if t in ("the", "river", "city")] == ["the", "river", "the", "city"]
    assert "." not in tokens  # it is on the model's list of what to skip


def test_every_row_of_a_query_has_its_token_the_expansion_included(colbert):
    tokens = colbert.tokenize("the sea", is_query=True)
    [embedding] = colbert.encode_queries(["the sea"])
    assert len(tokens) == len(embedding.multi_vector) == 12
    assert tokens[-1] == "<mask>"


def test_rows_of_pooled_tokens_are_numbered(colbert_folder):
    pytest.importorskip("sentence_transformers", minversion="6.2")
    from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

    pooled = HuggingFaceMultiVectorEmbeddings(
        model=colbert_folder,
        encode_kwargs={"token_pooling": HierarchicalTokenPooling(pool_factor=2)},
    )
    text = "the sea cats sleep in the sun dogs run"
    [embedding] = pooled.encode_documents([text])
    tokens = pooled.tokenize(text)
    assert tokens == [f"#{number}" for number in range(len(embedding.multi_vector))]


# As an encoder --------------------------------------------------------------------------------


def test_one_view_is_there_and_others_are_refused(encoder):
    other = "dense"
    assert encoder.views == (encoder.view,)
    assert encoder.encode_documents(["a"], encoder.views)[0].views == encoder.views
    for encode in (encoder.encode_documents, encoder.encode_queries, encoder.iter_encode_documents):
        with pytest.raises(InvalidInputError, match=f"the {encoder.view} view alone"):
            encode(["a"], (other,))


def test_langchains_dense_calls_say_what_to_call_instead(encoder):
    with pytest.raises(InvalidInputError, match=r"no dense view.*encode_documents"):
        encoder.embed_documents(["a"])
    with pytest.raises(InvalidInputError, match="no dense view"):
        encoder.embed_query("a")


def test_nothing_gives_nothing_without_a_model():
    for cls in (HuggingFaceSparseEmbeddings, HuggingFaceMultiVectorEmbeddings):
        assert cls(model="no/such").encode_documents([]) == []
        assert list(cls(model="no/such").iter_encode_documents(iter([]))) == []


def test_what_is_no_text_is_refused_with_its_position(encoder):
    with pytest.raises(InvalidInputError) as caught:
        encoder.encode_documents(["a", None])
    assert caught.value.indices == (1,)


def test_a_stream_gives_what_a_list_gives(encoder):
    texts = [f"the sea {number}" for number in range(5)] * 3
    streamed = [repr(e) for e in encoder.iter_encode_documents(iter(texts))]
    assert streamed == [repr(e) for e in encoder.encode_documents(texts)]


def test_positions_in_a_stream_count_from_its_start(encoder, monkeypatch):
    monkeypatch.setattr("langchain_hfembed.embeddings.base._READ_AHEAD", 2)

    def fail(texts, **_):
        if "bad" in texts:
            raise EmbeddingError("text 1 is bad", indices=[1], completed={0: [1.0]})
        return texts

    monkeypatch.setattr(type(encoder), "_encode", lambda self, texts, **kwargs: fail(texts))
    stream = encoder.iter_encode_documents(["a", "b", "c", "bad", "d"])
    assert [next(stream), next(stream)] == ["a", "b"]
    with pytest.raises(EmbeddingError, match="from number 2 on: text 1 is bad") as caught:
        next(stream)
    assert caught.value.indices == (3,)
    assert caught.value.completed == {2: [1.0]}


def test_texts_that_are_cut_warn_once(splade_folder, colbert_folder):
    for cls, folder in (
        (HuggingFaceSparseEmbeddings, splade_folder),
        (HuggingFaceMultiVectorEmbeddings, colbert_folder),
    ):
        encoder = cls(model=folder)
        with pytest.warns(UserWarning, match="1 of 2 texts are longer than the 48 tokens"):
            encoder.encode_documents(["the sea", "the " * 60])
        encoder.encode_documents(["the " * 60])


def test_a_query_is_cut_at_the_length_of_the_expansion(colbert_folder):
    encoder = HuggingFaceMultiVectorEmbeddings(model=colbert_folder)
    encoder.encode_queries(["the sea"])
    with pytest.warns(UserWarning, match="longer than the 12 tokens"):
        encoder.encode_queries(["the " * 20])


def test_a_pickle_holds_no_weights_and_encodes_alike(encoder):
    pickled = pickle.dumps(encoder)
    assert len(pickled) < 5000
    copied = pickle.loads(pickled)
    assert repr(copied.encode_queries(["the sea"])) == repr(encoder.encode_queries(["the sea"]))


def test_threads_get_their_own_results(encoder):
    texts = [f"the sea {'in ' * number}" for number in range(16)]
    expected = [repr(encoder.encode_documents([text])) for text in texts]
    found = {}
    barrier = threading.Barrier(4)

    def work(first):
        barrier.wait()
        for position in range(first, 16, 4):
            found[position] = repr(encoder.encode_documents([texts[position]]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[position] for position in range(16)] == expected


def test_queries_and_long_documents_at_once_are_each_cut_at_their_own_length(colbert_folder):
    encoder = HuggingFaceMultiVectorEmbeddings(model=colbert_folder)
    document, shapes, stop = "the " * 40, [], threading.Event()
    [expected] = encoder.encode_documents([document])

    def ask():
        while not stop.is_set():
            shapes.append(encoder.encode_queries(["the sea"])[0].multi_vector.shape)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        found = [encoder.encode_documents([document])[0] for _ in range(60)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {e.multi_vector.shape for e in found} == {expected.multi_vector.shape}
    assert expected.multi_vector.shape[0] > 40
    assert set(shapes) == {(12, 16)}


def test_tokens_are_named_without_starting_processes(colbert_folder, monkeypatch):
    encoder = HuggingFaceMultiVectorEmbeddings(model=colbert_folder, multi_process=["cpu", "cpu"])
    monkeypatch.setattr(encoder, "_pool", lambda _: pytest.fail("a pool"), raising=False)
    assert "sea" not in encoder.tokenize("a")


def test_the_fingerprint_tells_what_changes_documents():
    cls = HuggingFaceSparseEmbeddings
    base = cls(model="a/b").fingerprint
    same = [
        cls(model="a/b", query_prompt="q: "),
        cls(model="a/b", encode_kwargs={"batch_size": 8}),
        cls(model="a/b", show_progress=True),
        cls(model="a/b", model_kwargs={"device": "cpu", "token": "hf_x"}),
        cls(model="a/b", model_kwargs={"prompts": {"query": "q: "}}),
        cls(model="a/b", model_kwargs={"model_kwargs": {"dtype": "float16"}}),
        cls(model="a/b", encode_kwargs={"convert_to_tensor": True}),
    ]
    others = [
        cls(model="a/c"),
        cls(model="a/b", document_prompt="d: "),
        cls(model="a/b", max_active_dims=5),
        cls(model="a/b", model_kwargs={"revision": "v2"}),
        cls(model="a/b", model_kwargs={"max_active_dims": 5}),
        cls(model="a/b", model_kwargs={"prompts": {"document": "d: "}}),
        HuggingFaceMultiVectorEmbeddings(model="a/b"),
    ]
    assert {encoder.fingerprint for encoder in same} == {base}
    assert len({base, *(encoder.fingerprint for encoder in others)}) == 8


# A loaded model, and what is no model ---------------------------------------------------------


def test_a_loaded_model_is_used_as_it_is(splade_model, colbert_model):
    sparse = HuggingFaceSparseEmbeddings(client=splade_model)
    assert sparse._local_model().model is splade_model
    assert sparse.model_name == splade_model.transformers_model.name_or_path
    colbert = HuggingFaceMultiVectorEmbeddings(client=colbert_model, model_name="mine")
    assert colbert.model_name == "mine"
    assert len(colbert.encode_queries(["a"])) == 1


def test_a_model_of_another_kind_is_refused(splade_model, colbert_model):
    with pytest.raises(ValidationError, match="client is MultiVectorEncoder, not a SparseEncoder"):
        HuggingFaceSparseEmbeddings(client=colbert_model, model_name="a")
    with pytest.raises(ValidationError, match="client is SparseEncoder, not a MultiVectorEnc"):
        HuggingFaceMultiVectorEmbeddings(client=splade_model, model_name="a")


@pytest.mark.parametrize(
    ("cls", "fixture", "message"),
    [
        (HuggingFaceSparseEmbeddings, "xlmr_folder", "is a plain XLMRobertaModel, not a SparseEnc"),
        (HuggingFaceSparseEmbeddings, "colbert_folder", "is a MultiVectorEncoder, not a SparseEnc"),
        (HuggingFaceMultiVectorEmbeddings, "minilm_folder", "is a SentenceTransformer, not a M"),
        (HuggingFaceMultiVectorEmbeddings, "splade_folder", "is a SparseEncoder, not a MultiVecto"),
        (HuggingFaceEmbeddings, "splade_folder", "is a SparseEncoder, not a SentenceTransformer"),
    ],
)
def test_a_model_of_another_kind_never_gets_random_layers(cls, fixture, message, request):
    encoder = cls(model=request.getfixturevalue(fixture))
    dense = cls is HuggingFaceEmbeddings
    with pytest.raises(CheckpointError, match=message):
        (encoder.embed_documents if dense else encoder.encode_documents)(["a"])


def test_a_model_of_the_hub_is_held_against_its_kind_too(xlmr_folder, tmp_path, monkeypatch):
    model = tmp_path / "models--BAAI--bge-m3"
    shutil.copytree(xlmr_folder, model / "snapshots" / "0")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0")
    encoder = HuggingFaceMultiVectorEmbeddings(model="BAAI/bge-m3", cache_folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"not a MultiVectorEncoder.*pass BGEM3Embeddings"):
        encoder.encode_queries(["a"])


def test_a_splade_in_transformers_own_format_is_one(splade_folder, tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(splade_folder / name, tmp_path)
    ours = HuggingFaceSparseEmbeddings(model=tmp_path).encode_queries(["query: the sea"])
    theirs = HuggingFaceSparseEmbeddings(model=splade_folder).encode_queries(["the sea"])
    assert ours[0].sparse.to_dict() == pytest.approx(theirs[0].sparse.to_dict(), abs=1e-5)


def test_a_model_is_needed():
    with pytest.raises(ValidationError, match=r"model_name is missing.*SparseEncoder"):
        HuggingFaceSparseEmbeddings()


def test_a_missing_folder_is_an_error_that_names_it(tmp_path):
    encoder = HuggingFaceSparseEmbeddings(model=tmp_path / "none")
    with pytest.raises(ModelNotFoundError, match="none"):
        encoder.encode_queries(["a"])


def test_an_older_sentence_transformers_without_the_class_says_what_to_install(monkeypatch):
    import sentence_transformers

    monkeypatch.delattr(sentence_transformers, "MultiVectorEncoder", raising=False)
    encoder = HuggingFaceMultiVectorEmbeddings(model="a/b")
    with pytest.raises(ImportError, match=r'has no MultiVectorEncoder: pip install ".*>=6"'):
        encoder.encode_queries(["a"])


def test_weights_that_are_no_numbers_are_an_error_with_its_text(splade_folder, tmp_path):
    import torch

    encoder = HuggingFaceSparseEmbeddings(model=splade_folder)
    model = encoder._local_model().model
    with torch.no_grad():
        model[0].model.lm_head.bias[7] = float("nan")
    with pytest.raises(EmbeddingError, match=r"weights of .* for 2 of 2 texts") as caught:
        encoder.encode_documents(["the sea", "the"])
    assert caught.value.indices == (0, 1)


def test_token_vectors_that_are_no_numbers_are_an_error_with_its_text(colbert_folder, tmp_path):
    import torch

    encoder = HuggingFaceMultiVectorEmbeddings(model=colbert_folder)
    with torch.no_grad():
        encoder._local_model().model[1].linear.weight[0] = float("nan")
    with pytest.raises(EmbeddingError, match=r"token vectors of .* for 2 of 2 texts") as caught:
        encoder.encode_documents(["the sea", "the"])
    assert caught.value.indices == (0, 1)


TWO_PROCESSES = """
import sys
import numpy as np
from langchain_hfembed import HuggingFaceMultiVectorEmbeddings, HuggingFaceSparseEmbeddings

if __name__ == "__main__":
    texts = ["the sea", "", "in the park"] * 4
    for cls, folder in (
        (HuggingFaceSparseEmbeddings, sys.argv[1]),
        (HuggingFaceMultiVectorEmbeddings, sys.argv[2]),
    ):
        arguments = {"model": folder, "model_kwargs": {"device": "cpu"}}
        with cls(**arguments, multi_process=["cpu", "cpu"]) as pooled:
            ours = pooled.encode_documents(texts)
        for one, other in zip(ours, cls(**arguments).encode_documents(texts), strict=True):
            if one.sparse is not None:
                assert one.sparse.indices.tolist() == other.sparse.indices.tolist()
                np.testing.assert_allclose(one.sparse.values, other.sparse.values, atol=1e-5)
            else:
                np.testing.assert_allclose(one.multi_vector, other.multi_vector, atol=1e-5)
    print("the same")
"""


@pytest.mark.slow
def test_two_processes_give_the_same(splade_folder, colbert_folder, tmp_path):
    """In a program of its own, as processes talk through sockets, which tests may not."""
    program = tmp_path / "two_processes.py"
    program.write_text(TWO_PROCESSES)
    done = subprocess.run(
        [sys.executable, str(program), str(splade_folder), str(colbert_folder)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.stdout.strip() == "the same", done.stderr
