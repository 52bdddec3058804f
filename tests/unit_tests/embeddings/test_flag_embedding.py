"""FlagEmbedding's interface over BGEM3Embeddings, beside FlagEmbedding itself."""

from __future__ import annotations

import inspect
import json
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from langchain_hfembed import InvalidInputError
from langchain_hfembed.embeddings import bge_m3
from langchain_hfembed.flag_embedding import BGEM3FlagModel
from tests.checkpoints import build_xlm_roberta_checkpoint

pytestmark = [
    # Long texts are cut here on purpose; a test of its own holds the warning to its word.
    pytest.mark.filterwarnings("ignore:.* are longer than .* tokens:UserWarning"),
    # The first test pays for importing FlagEmbedding and building the checkpoints.
    pytest.mark.timeout(600),
]

TEXTS = [
    "The capital of Korea is Seoul. Where does the river flow?",
    "서울",
    "",
    "the sea the sea the sea",
    "한강은 서울을 지나 바다로 흐른다. " * 12,
    "a",
]
PAIRS = [
    ("Where is the sea? 서울은 어디인가", TEXTS[0]),
    ("interaction", "through"),  # the best match of some token is negative
    ("interaction", TEXTS[4]),
    ("", "🚀 and a river"),
]
ALL = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}
METHODS = ["encode", "encode_queries", "encode_corpus"]


@dataclass(frozen=True)
class Pair:
    """One checkpoint in both implementations, made with the same arguments."""

    folder: Path
    arguments: dict[str, Any]

    def make(self, **more: Any) -> tuple[BGEM3FlagModel, Any]:
        from FlagEmbedding import BGEM3FlagModel as FlagEmbeddings

        arguments = {"use_fp16": False, "devices": "cpu", **self.arguments, **more}
        made = (make(str(self.folder), **arguments) for make in (BGEM3FlagModel, FlagEmbeddings))
        ours, theirs = made
        return ours, theirs


@pytest.fixture(scope="module", params=["cls", "mean, narrow", "not normalised", "bert"])
def pair(request, tmp_path_factory) -> Pair:
    if request.param == "bert":
        return Pair(request.getfixturevalue("minilm_folder"), {"pooling_method": "mean"})
    if request.param == "mean, narrow":
        folder = build_xlm_roberta_checkpoint(tmp_path_factory.mktemp("narrow"), colbert_dim=24)
        return Pair(folder, {"pooling_method": "mean", "colbert_dim": 24})
    folder = request.getfixturevalue("xlmr_folder")
    return Pair(folder, {"normalize_embeddings": request.param == "cls"})


@pytest.fixture(scope="module")
def both(pair) -> tuple[BGEM3FlagModel, Any]:
    return pair.make()


@pytest.fixture
def ours(xlmr_folder) -> BGEM3FlagModel:
    return BGEM3FlagModel(str(xlmr_folder), devices="cpu")


def _assert_same(output, expected) -> None:
    """The same keys, types and shapes, and numbers within 1e-4."""
    assert list(output) == list(expected)
    assert [value is None for value in output.values()] == [v is None for v in expected.values()]
    dense, weights, tokens = expected.values()
    if dense is not None:
        _assert_close(output["dense_vecs"], dense)
    if isinstance(weights, dict):
        _assert_same_weights(output["lexical_weights"], weights)
    for one, other in zip(*_lists(output["lexical_weights"], weights), strict=True):
        _assert_same_weights(one, other)
    if isinstance(tokens, np.ndarray):
        _assert_close(output["colbert_vecs"], tokens)
    for one, other in zip(*_lists(output["colbert_vecs"], tokens), strict=True):
        _assert_close(one, other)


def _lists(one, other) -> tuple[Any, Any]:
    return (one, other) if isinstance(other, list) else ([], [])


def _assert_close(array, expected) -> None:
    assert array.shape == expected.shape
    np.testing.assert_allclose(array, expected, atol=1e-4)


def _assert_same_weights(weights, expected) -> None:
    assert weights == pytest.approx(dict(expected), abs=1e-4)
    assert {type(token) for token in weights} <= {str}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[0]], ids=["list", "lone string"])
def test_each_method_gives_flag_embeddings_output(both, method, texts):
    ours, theirs = (getattr(model, method)(texts, **ALL) for model in both)
    _assert_same(ours, theirs)


@pytest.mark.parametrize("method", [*METHODS, "compute_score"])
def test_each_method_has_flag_embeddings_parameters_in_its_order(method):
    from FlagEmbedding import BGEM3FlagModel as FlagEmbeddings

    _assert_same_parameters(getattr(BGEM3FlagModel, method), getattr(FlagEmbeddings, method))


def test_the_constructor_has_flag_embeddings_parameters_in_its_order():
    from FlagEmbedding import BGEM3FlagModel as FlagEmbeddings

    _assert_same_parameters(BGEM3FlagModel, FlagEmbeddings)


def _assert_same_parameters(ours, theirs) -> None:
    parameters = [
        [
            (p.name, p.default)
            for p in inspect.signature(callable_).parameters.values()
            if p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        for callable_ in (ours, theirs)
    ]
    assert parameters[0] == parameters[1]


def test_dense_vectors_alone_are_the_default(both):
    ours, theirs = (model.encode(TEXTS) for model in both)
    assert ours["lexical_weights"] is None
    assert ours["colbert_vecs"] is None
    _assert_same(ours, theirs)


@pytest.mark.parametrize("view", ALL)
def test_a_call_overrules_what_the_constructor_was_told(pair, view):
    """Each method, in both directions."""
    for told in (True, False):
        models = pair.make(**dict.fromkeys(ALL, told))
        asked = {name: name == view for name in ALL}
        for method in METHODS:
            ours, theirs = (getattr(model, method)(TEXTS[:2], **asked) for model in models)
            _assert_same(ours, theirs)


def test_nothing_to_return_is_refused(ours):
    with pytest.raises(ValueError, match="return_dense, return_sparse, return_colbert_vecs"):
        ours.encode(TEXTS, return_dense=False)


def test_instructions_go_where_the_formats_say(pair):
    models = pair.make(
        query_instruction_for_retrieval="find the river",
        query_instruction_format="{}: \\n{} the end",
        passage_instruction_for_retrieval="the city",
        passage_instruction_format="{}\n{}",
        **ALL,
    )
    for method in METHODS:
        for texts in (TEXTS, TEXTS[0]):
            ours, theirs = (getattr(model, method)(texts) for model in models)
            _assert_same(ours, theirs)
    by_method = [getattr(models[0], method)(TEXTS[0])["dense_vecs"] for method in METHODS]
    assert np.abs(by_method[0] - by_method[1]).max() > 1e-3
    assert np.abs(by_method[0] - by_method[2]).max() > 1e-3
    scores = (model.compute_score(PAIRS[0]) for model in models)  # which has no instructions
    assert next(scores) == pytest.approx(next(scores), abs=1e-4)


def test_texts_are_cut_where_constructor_and_call_say(pair):
    models = pair.make(query_max_length=6, passage_max_length=9, **ALL)
    for method in METHODS:
        for limits in ({}, {"max_length": 4}):
            ours, theirs = (getattr(model, method)(TEXTS, **limits) for model in models)
            _assert_same(ours, theirs)
    for limits in ({}, {"max_query_length": 4}, {"max_passage_length": 5}):
        scores = (model.compute_score(PAIRS[0], **limits) for model in models)
        assert next(scores) == pytest.approx(next(scores), abs=1e-4)


def test_max_length_above_the_positions_cuts_there(ours):
    """FlagEmbedding dies of it."""
    long = "the sea " * 2000
    assert len(ours.encode(long, max_length=8192, **ALL)["colbert_vecs"]) == 2047


@pytest.mark.parametrize("truncate_dim", [1, 8, 10_000])
def test_truncated_vectors_are_flag_embeddings(pair, truncate_dim):
    ours, theirs = (m.encode(TEXTS, **ALL) for m in pair.make(truncate_dim=truncate_dim))
    _assert_same(ours, theirs)


@pytest.mark.parametrize("method", METHODS)
def test_no_batch_is_larger_than_batch_size(ours, monkeypatch, method):
    sizes = []
    start = bge_m3.batching.Batch.of

    def of(texts):
        sizes.append(len(texts))
        return start(texts)

    monkeypatch.setattr(bge_m3.batching.Batch, "of", of)
    getattr(ours, method)(TEXTS, batch_size=2)
    ours.batch_size = 4
    getattr(ours, method)(TEXTS)
    assert sizes == [2, 2, 2, 4, 2]


def test_the_model_is_loaded_once_and_not_before_it_is_used(xlmr_folder, monkeypatch):
    loads, load = [], bge_m3.load_engines

    def count(*arguments, **settings):
        loads.append(arguments)
        return load(*arguments, **settings)

    monkeypatch.setattr(bge_m3, "load_engines", count)
    model = BGEM3FlagModel(str(xlmr_folder), devices="cpu")
    assert not loads
    weights = model.encode(TEXTS, batch_size=2, max_length=7, **ALL)["lexical_weights"]
    model.encode_queries(TEXTS, batch_size=3)
    model.compute_score(PAIRS, max_query_length=5)
    model.convert_id_to_token(weights)
    model.embeddings.embed_query("a")
    assert len(loads) == 1


@pytest.mark.parametrize("weights", [None, [0.4, 0.2, 0.4], [1, 0.3, 1], (0, 0, 1)])
def test_scores_are_compute_scores_of_each_pair_alone(both, weights):
    ours, theirs = both
    scores = ours.compute_score(PAIRS, weights_for_different_modes=weights)
    for position, pair in enumerate(PAIRS):
        expected = theirs.compute_score(pair, weights_for_different_modes=weights)
        assert list(scores) == list(expected)
        of_pair = {mode: values[position] for mode, values in scores.items()}
        assert of_pair == pytest.approx(expected, abs=1e-4, nan_ok=True)
        alone = ours.compute_score(list(pair), weights_for_different_modes=weights)
        assert alone == pytest.approx(of_pair, abs=1e-5, nan_ok=True)


def test_flag_embeddings_scores_of_a_batch_hold_the_paddings_zeros(xlmr_folder):
    """Else there is nothing for `compute_score` to differ in, and the docstring says too much."""
    ours, theirs = Pair(xlmr_folder, {}).make()
    scores = [model.compute_score(PAIRS)["colbert"] for model in (ours, theirs)]
    assert scores[1][1] > scores[0][1] + 1e-3


def test_pairs_stay_together_in_a_long_stream(ours):
    """1,024 texts are encoded at a time."""
    pairs = PAIRS * 300
    scores = ours.compute_score(pairs)
    for mode, values in ours.compute_score(PAIRS).items():
        assert scores[mode] == pytest.approx(values * 300, abs=1e-5)


def test_lexical_scores_are_flag_embeddings(both):
    ours, theirs = both
    [queries, passages] = [
        model.encode(TEXTS, return_sparse=True)["lexical_weights"] for model in (theirs, ours)
    ]
    # Ours takes FlagEmbedding's weights, too.
    expected = theirs.compute_lexical_matching_score(queries, queries[:4])
    for weights in (queries, passages):
        table = ours.compute_lexical_matching_score(weights, weights[:4])
        assert table.shape == (6, 4)
        np.testing.assert_allclose(table, expected, atol=1e-3)
        score = ours.compute_lexical_matching_score(weights[0], weights[3])
        assert score == pytest.approx(expected[0, 3], abs=1e-3)
        assert type(score) is float
    assert ours.compute_lexical_matching_score([], queries).shape == (0, 6)


def test_lexical_weights_that_are_none_are_refused(ours):
    with pytest.raises(ValueError, match=r"two dicts .* or two lists"):
        ours.compute_lexical_matching_score({"5": 1.0}, [{"5": 1.0}])
    with pytest.raises(ValueError, match=r"by token id.*river"):
        ours.compute_lexical_matching_score({"river": 1.0}, {"river": 1.0})


def test_colbert_scores_are_flag_embeddings(both):
    ours, theirs = both
    one, other = theirs.encode([PAIRS[1][0], TEXTS[0]], return_colbert_vecs=True)["colbert_vecs"]
    score = ours.colbert_score(one, other)
    assert score.item() == pytest.approx(theirs.colbert_score(one, other).item(), abs=1e-5)
    assert isinstance(score, float)


def test_tokens_are_flag_embeddings_but_for_those_without_text(both):
    ours, theirs = both
    ids = {str(number): 1.0 + number for number in range(min(theirs.tokenizer.vocab_size, 3000))}
    differ = {}
    for number, weight in ids.items():
        [text], [expected] = (m.convert_id_to_token({number: weight}) for m in (ours, theirs))
        if text != expected:
            differ[expected] = text
    assert differ in ({}, {"": "▁"})


def test_a_list_of_one_is_converted_to_a_dict(both):
    ours, theirs = both
    weights = theirs.encode([TEXTS[0], "the river"], return_sparse=True)["lexical_weights"]
    for some in (weights, weights[:1], weights[0], []):
        assert ours.convert_id_to_token(some) == theirs.convert_id_to_token(some)


def test_of_tokens_with_the_same_text_the_largest_weight_is_kept(ours):
    tokenizer = ours.embeddings._engines()[0].tokenizer
    ids = [tokenizer._backend.token_to_id(piece) for piece in ("▁a", "a")]
    for weights in ([2.0, 1.0], [1.0, 2.0]):
        given = {str(number): weight for number, weight in zip(ids, weights, strict=True)}
        assert ours.convert_id_to_token(given) == {"a": 2.0}


def test_lexical_weights_are_json(ours):
    weights = ours.encode(TEXTS, return_sparse=True)["lexical_weights"]
    assert json.loads(json.dumps(weights)) == weights


def test_arrays_can_be_written_to(ours):
    """FlagEmbedding's can, and code that scales them in place is not rare."""
    output = ours.encode(TEXTS, **ALL)
    for array in (output["dense_vecs"], *output["colbert_vecs"]):
        np.multiply(array, 2, out=array)
    assert torch.from_numpy(output["colbert_vecs"][0]).norm(dim=-1)[0] == pytest.approx(2)


def test_empty_lists_give_empty_results(ours):
    output = ours.encode([], **ALL)
    assert len(output["dense_vecs"]) == 0
    assert output["lexical_weights"] == output["colbert_vecs"] == []
    assert set(map(len, ours.compute_score([]).values())) == {0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trust_remote_code": True}, "Leave it out"),
        ({"pooling_method": "last_token"}, '"cls" or "mean"'),
        ({"truncate_dim": 0}, "truncate_dim=0; it must be 1 or more"),
        ({"devices": []}, "names no device"),
    ],
)
def test_what_cannot_be_honoured_is_refused(xlmr_folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        BGEM3FlagModel(str(xlmr_folder), **arguments)


def test_unknown_parameters_are_refused(xlmr_folder):
    """FlagEmbedding ignores them, `device` among them, which it once had."""
    with pytest.raises(TypeError, match="device"):
        BGEM3FlagModel(str(xlmr_folder), device="cpu")


def test_another_colbert_dim_than_the_checkpoints_is_refused(xlmr_folder):
    model = BGEM3FlagModel(str(xlmr_folder), devices="cpu", colbert_dim=24)
    with pytest.raises(ValueError, match=r"colbert_dim=24, .* 32 dimensions"):
        model.encode(TEXTS, return_colbert_vecs=True)


@pytest.mark.parametrize("limits", [{"batch_size": 0}, {"max_length": 2}])
def test_limits_out_of_range_are_refused(ours, limits):
    [(name, value)] = limits.items()
    for method in METHODS:
        with pytest.raises(ValueError, match=f"{name}={value}; it must be"):
            getattr(ours, method)(TEXTS, **limits)


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, 1, 1], [-1, 1, 1], [0, 0, 0]])
def test_weights_that_are_not_three_or_weigh_nothing_are_refused(ours, weights):
    with pytest.raises(ValueError, match="weight"):
        ours.compute_score(PAIRS, weights_for_different_modes=weights)


def test_a_text_that_is_none_is_named_with_an_instruction_too(xlmr_folder):
    """It must not become the text "None"."""
    model = BGEM3FlagModel(str(xlmr_folder), devices="cpu", query_instruction_for_retrieval="a ")
    for method in METHODS:
        with pytest.raises(InvalidInputError, match="text 1 is NoneType") as caught:
            getattr(model, method)(["a", None])
        assert caught.value.indices == (1,)


@pytest.mark.parametrize("wrong", [("a",), ("a", "b", "c"), None, "ab", ("a", None), (5, "b")])
def test_a_pair_that_is_none_is_named(ours, wrong):
    with pytest.raises(InvalidInputError, match="pair 1 is ") as caught:
        ours.compute_score([("a", "b"), wrong])
    assert caught.value.indices == (1,)


@pytest.mark.parametrize(
    ("devices", "named", "is_cpu"),
    [
        ("cpu", ["cpu"], True),
        ("cuda:1", ["cuda:1"], False),
        (1, ["cuda:1"], False),
        ([0, 1], ["cuda:0", "cuda:1"], False),
        (["cuda:0", "cpu"], ["cuda:0", "cpu"], True),
        (torch.device("cuda", 1), ["cuda:1"], False),
        (None, ["cuda:0", "cuda:1", "cuda:2"], False),
    ],
)
def test_devices_and_precision_are_flag_embeddings(monkeypatch, devices, named, is_cpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for settings, dtype in (
        ({}, "float16"),
        ({"use_fp16": False}, "float32"),
        ({"use_bf16": True}, "bfloat16"),
        ({"use_fp16": False, "use_bf16": True}, "bfloat16"),
    ):
        embeddings = BGEM3FlagModel("BAAI/bge-m3", devices=devices, **settings).embeddings
        assert embeddings.device == named
        assert embeddings.dtype == ("float32" if is_cpu else dtype)


def test_without_a_gpu_it_is_apples_or_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for has_mps, device in ((True, "mps"), (False, "cpu")):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda has=has_mps: has)
        assert BGEM3FlagModel("BAAI/bge-m3").embeddings.device == [device]


def test_without_torch_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"needs torch: pip install .*\[bge-m3\]"):
        BGEM3FlagModel("BAAI/bge-m3")


def test_on_a_cpu_use_fp16_leaves_weights_and_results_in_float32(xlmr_folder):
    fp16, fp32 = (
        BGEM3FlagModel(str(xlmr_folder), devices="cpu", use_fp16=use_fp16).encode(TEXTS, **ALL)
        for use_fp16 in (True, False)
    )
    np.testing.assert_array_equal(fp16["dense_vecs"], fp32["dense_vecs"])
    assert fp16["dense_vecs"].dtype == np.float32


def test_texts_that_are_cut_are_warned_of_once(ours):
    with pytest.warns(UserWarning, match="longer than 6 tokens") as caught:  # noqa: PT031 - once
        ours.encode(TEXTS, max_length=6)
        ours.encode_corpus(TEXTS, max_length=6)
    assert [warning.filename for warning in caught] == [__file__]


def test_it_can_be_pickled(ours):
    expected = ours.encode(TEXTS)["dense_vecs"]
    ours.query_max_length = 6
    copy = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(copy.encode(TEXTS)["dense_vecs"], expected)
    assert copy.query_max_length == 6


def test_importing_it_imports_neither_torch_nor_flag_embedding():
    code = (
        "import sys, langchain_hfembed.flag_embedding as f; f.BGEM3FlagModel\n"
        "assert not {'torch', 'FlagEmbedding', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
