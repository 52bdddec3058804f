"""What a `HybridVectorStore` finds, refuses and keeps, held against plain loops."""

from __future__ import annotations

import asyncio
import datetime
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_hfembed import (
    EmbeddingError,
    Fusion,
    Hit,
    HybridIndexError,
    HybridRetriever,
    HybridVectorStore,
    IndexMismatchError,
    InvalidInputError,
    ReciprocalRankFusion,
    Scores,
    SQLiteIndex,
    View,
    WeightedSum,
)
from langchain_hfembed.vectors import VIEWS
from tests.encoders import HashEncoder

TEXTS = [
    "the capital of Korea is Seoul",
    "the capital of Japan is Tokyo",
    "cats sleep in the sun",
    "dogs run in the park",
    "한강은 서울을 지나 바다로 흐른다",
]


def make_store(texts: Iterable[str] = TEXTS, **kwargs: Any) -> HybridVectorStore:
    """A store in memory with ids "0", "1", ..."""
    encoder = kwargs.pop("encoder", None) or HashEncoder(kwargs.pop("views", VIEWS))
    store = HybridVectorStore(encoder, **kwargs)
    texts = list(texts)
    store.add_texts(texts, ids=[str(position) for position in range(len(texts))])
    return store


def ids_of(found: Iterable[Hit | Document]) -> list[str | None]:
    return [hit.document.id if isinstance(hit, Hit) else hit.id for hit in found]


# Searching ------------------------------------------------------------------------------------

some_views = st.sets(st.sampled_from(VIEWS), min_size=1).map(
    lambda chosen: tuple(view for view in VIEWS if view in chosen)
)
# Few words, so that texts share some, and some texts are the same.
word_lists = st.lists(st.sampled_from(["cat", "dog", "sun", "서울", "in", "the"]), max_size=5)
corpora = st.lists(word_lists.map(" ".join), min_size=1, max_size=8)
weights = st.floats(0, 3, width=16)
weighted = st.fixed_dictionaries(dict.fromkeys(VIEWS, weights)).filter(lambda w: any(w.values()))
fusions = st.one_of(
    st.builds(
        lambda w, normalization: WeightedSum(**w, normalization=normalization),
        weighted,
        st.sampled_from(["min_max", "dbsf", None]),
    ),
    st.builds(lambda w, constant: ReciprocalRankFusion(constant, **w), weighted, st.floats(0, 100)),
)


def view_score(view: View, query: Any, document: Any) -> float:
    """The score by its definition, in plain loops."""
    if view == "dense":
        return cosine(query, document)
    if view == "sparse":
        weights = document.to_dict()
        return sum(weight * weights.get(token, 0) for token, weight in query.to_dict().items())
    return sum(max(cosine(token, other) for other in document) for token in query) / len(query)


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True)) / (
        math.hypot(*a) * math.hypot(*b)
    )


def fused(fusion: Any, columns: dict[View, list[float]]) -> list[float]:
    """The fusion by its definition, in plain loops over float64."""
    n = len(next(iter(columns.values())))
    sums = [0.0] * n
    for view, scores in columns.items():
        weight = getattr(fusion, view)
        if isinstance(fusion, ReciprocalRankFusion):
            terms = [1 / (fusion.rank_constant + rank) for rank in ranked(scores)]
        else:
            terms = normalised(scores, fusion.normalization)
            weight /= sum(getattr(fusion, present) for present in columns)
        sums = [total + weight * term for total, term in zip(sums, terms, strict=True)]
    return sums


def normalised(scores: list[float], normalization: str | None) -> list[float]:
    if normalization is None:
        return scores
    low, high = min(scores), max(scores)
    if low == high:
        return [float(high > 0)] * len(scores)
    if normalization == "min_max":
        return [(score - low) / (high - low) for score in scores]
    mean = math.fsum(scores) / len(scores)
    deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores))
    return [min(1, max(0, (score - mean) / (6 * deviation) + 0.5)) for score in scores]


def ranked(scores: Sequence[float]) -> list[int]:
    order = sorted(range(len(scores)), key=lambda position: (-scores[position], position))
    return [order.index(position) + 1 for position in range(len(scores))]


@settings(max_examples=60)
@given(texts=corpora, query=word_lists.map(" ".join), views=some_views, fusion=fusions)
def test_search_over_everything_equals_scoring_and_fusing_every_document(
    texts: list[str], query: str, views: tuple[View, ...], fusion: Any
) -> None:
    if not any(getattr(fusion, view) for view in views):
        fusion = WeightedSum()
    encoder = HashEncoder(views, dim=8)
    store = make_store(
        texts, encoder=encoder, index=SQLiteIndex(multi_vector_dtype="float32"), fusion=fusion
    )
    hits = store.search(query, k=len(texts), fetch_k=len(texts))
    assert sorted(ids_of(hits)) == sorted(str(position) for position in range(len(texts)))
    by_position = sorted(hits, key=lambda hit: int(hit.document.id))

    [encoded] = encoder.encode_queries([query])
    columns: dict[View, list[float]] = {}
    for view in VIEWS:
        found = [getattr(hit.scores, view) for hit in by_position]
        if view not in views:
            assert found == [None] * len(texts)
            assert [getattr(hit.ranks, view) for hit in hits] == [None] * len(texts)
            continue
        for text, score in zip(texts, found, strict=True):
            [document] = encoder.encode_documents([text])
            expected = view_score(view, getattr(encoded, view), getattr(document, view))
            assert score == pytest.approx(expected, abs=1e-5)
        assert [getattr(hit.ranks, view) for hit in by_position] == ranked(found)
        columns[view] = found
    # From the very scores above: fusing what was computed twice would turn a difference in the
    # last bit into another rank.
    assert [hit.score for hit in by_position] == pytest.approx(fused(fusion, columns), abs=1e-5)
    assert hits == sorted(hits, key=lambda hit: (-hit.score, int(hit.document.id)))


@settings(max_examples=30)
@given(texts=corpora, query=word_lists.map(" ".join), k=st.integers(1, 10), fusion=fusions)
def test_the_best_k_are_the_first_k_of_all(
    texts: list[str], query: str, k: int, fusion: Fusion
) -> None:
    store = make_store(texts)
    everything = store.search(query, k=100, fusion=fusion)
    assert len(everything) == len(texts)
    assert store.search(query, k=k, fusion=fusion) == everything[:k]
    assert store.similarity_search(query, k, fusion=fusion) == [
        hit.document for hit in everything[:k]
    ]
    assert store.similarity_search_with_score(query, k, fusion=fusion) == [
        (hit.document, hit.score) for hit in everything[:k]
    ]


def test_a_document_that_shares_words_with_the_query_comes_first() -> None:
    store = make_store()
    for query, expected in {"Seoul Korea": "0", "Tokyo": "1", "cats": "2", "바다로": "4"}.items():
        assert ids_of(store.search(query, k=1)) == [expected]


@pytest.mark.parametrize("views", [VIEWS, ("dense",), ("sparse",), ("multi_vector",)])
@pytest.mark.parametrize("fusion", [WeightedSum(), ReciprocalRankFusion()])
def test_documents_of_one_text_rank_in_the_order_in_which_they_were_stored(
    views: tuple[View, ...], fusion: Fusion
) -> None:
    store = make_store(["the cat"] * 23 + ["a dog"], views=views, fusion=fusion)
    assert ids_of(store.search("cat", k=23)) == [str(position) for position in range(23)]
    store.add_texts(["the cat"], ids=["3"])  # stored anew, hence last
    assert ids_of(store.search("cat", k=23))[-1] == "3"


def test_fetch_k_is_raised_to_k() -> None:
    assert len(make_store(fetch_k=1).search("the capital", k=5)) == 5
    assert len(make_store().search("the capital", k=5, fetch_k=1)) == 5


def test_fetch_k_limits_the_candidates() -> None:
    store = make_store()
    assert len(store.search("the capital", k=1, fetch_k=1)) == 1
    assert len(make_store(fetch_k=2)._hits(store.encoder.encode_queries(["sun"])[0], 2)) == 2


@pytest.mark.parametrize("bad", [0, -1])
@pytest.mark.parametrize(
    "use",
    [
        lambda store, bad: store.search("x", k=bad),
        lambda store, bad: store.search("x", fetch_k=bad),
        lambda store, bad: store.similarity_search("x", k=bad),
        lambda store, bad: store.similarity_search_with_score("x", k=bad),
        lambda store, bad: store.similarity_search_with_relevance_scores("x", k=bad),
        lambda store, bad: store.similarity_search_by_vector([1.0] * 32, k=bad),
        lambda store, bad: store.max_marginal_relevance_search("x", k=bad),
        lambda store, bad: store.max_marginal_relevance_search("x", fetch_k=bad),
        lambda store, bad: store.max_marginal_relevance_search_by_vector([1.0] * 32, k=bad),
        lambda store, bad: store.max_marginal_relevance_search_by_vector([1.0] * 32, fetch_k=bad),
        lambda store, bad: HybridVectorStore(HashEncoder(), fetch_k=bad),
    ],
)
def test_counts_below_1_are_refused(use: Callable[[Any, int], object], bad: int) -> None:
    with pytest.raises(InvalidInputError, match=rf"k={bad} must be a whole number, 1 or more"):
        use(make_store(), bad)


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.add_texts(["x"], unknown=1),
        lambda store: store.add_documents([Document("x")], unknown=1),
        lambda store: store.delete(["0"], unknown=1),
        lambda store: store.search("x", unknown=1),
        lambda store: store.similarity_search("x", unknown=1),
        lambda store: store.similarity_search_with_score("x", unknown=1),
        lambda store: store.similarity_search_with_relevance_scores("x", unknown=1),
        lambda store: store.similarity_search_by_vector([1.0] * 32, unknown=1),
        lambda store: store.max_marginal_relevance_search("x", unknown=1),
        lambda store: store.max_marginal_relevance_search_by_vector([1.0] * 32, unknown=1),
        lambda store: HybridVectorStore.from_texts(["x"], HashEncoder(), unknown=1),
        lambda store: store.as_retriever(search_kwargs={"unknown": 1}).invoke("x"),
    ],
)
def test_unknown_arguments_are_refused_by_name(use: Callable[[Any], object]) -> None:
    store = make_store()
    with pytest.raises(TypeError, match="unknown"):
        use(store)
    assert store.index.count() == len(TEXTS)


@pytest.mark.parametrize("query", [None, 5, b"bytes", ["list"], "\ud800"])
def test_a_query_that_is_no_text_is_refused(query: Any) -> None:
    with pytest.raises(InvalidInputError):
        make_store().search(query)


# Fusion ---------------------------------------------------------------------------------------


def test_a_custom_fusion_gets_the_scores_of_all_candidates_and_decides() -> None:
    seen: list[Scores] = []

    def by_sparse_alone(scores: Scores) -> np.ndarray:
        seen.append(scores)
        return -scores.sparse

    store = make_store(views=("dense", "sparse"))
    hits = store.search("the cats in the sun", k=5, fusion=by_sparse_alone)
    [scores] = seen
    assert scores.multi_vector is None
    assert scores.dense.shape == scores.sparse.shape == (5,)
    assert [hit.score for hit in hits] == sorted(-scores.sparse, reverse=True)
    assert ids_of(hits)[-1] == "2"


def test_the_stores_own_fusion_is_used_unless_another_is_given() -> None:
    store = make_store(fusion=lambda scores: np.arange(len(scores)))
    assert ids_of(store.search("cats", k=5)) == ["4", "3", "2", "1", "0"]
    assert ids_of(store.search("cats", k=1, fusion=WeightedSum())) == ["2"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda scores: 1.0,
        lambda scores: np.ones(len(scores) + 1),
        lambda scores: np.ones((len(scores), 1)),
        lambda scores: np.full(len(scores), np.nan),
        lambda scores: np.full(len(scores), np.inf),
    ],
)
def test_a_fusion_that_does_not_return_one_finite_number_a_candidate_is_named(
    wrong: Fusion,
) -> None:
    with pytest.raises(ValueError, match=r"fusion .* must return 5 finite scores"):
        make_store().search("cats", fusion=wrong)


@pytest.mark.parametrize(
    "fusion", [WeightedSum(0, 0, 1), ReciprocalRankFusion(dense=0, sparse=0, multi_vector=1)]
)
def test_a_fusion_without_weight_for_any_view_that_there_is_names_the_views(
    fusion: Fusion,
) -> None:
    store = make_store(views=("dense", "sparse"))
    with pytest.raises(ValueError, match=r"no weight to any view .* dense, sparse"):
        store.search("cats", fusion=fusion)


# Adding ---------------------------------------------------------------------------------------


def test_adding_returns_the_ids_in_the_order_of_the_texts() -> None:
    store = HybridVectorStore(HashEncoder())
    assert store.add_texts(["x", "y"], ids=["b", "a"]) == ["b", "a"]
    new = store.add_texts(iter(["x", "y", "x"]))
    assert len(set(new)) == 3
    assert [d.page_content for d in store.get_by_ids(new)] == ["x", "y", "x"]
    mixed = store.add_texts(["z", "w"], ids=[None, "c"])  # type: ignore[list-item]
    assert mixed[1] == "c"
    assert store.get_by_ids(mixed)[0].page_content == "z"
    assert store.index.count() == 7


def test_more_texts_than_a_batch_are_stored_in_order() -> None:
    store = HybridVectorStore(HashEncoder(("dense",), dim=2))
    ids = store.add_texts(str(number) for number in range(300))
    assert [d.page_content for d in store.get_by_ids(ids)] == [str(n) for n in range(300)]


def test_batches_before_a_failure_are_kept_and_can_be_completed() -> None:
    class FailsOnce(HashEncoder):
        def iter_encode_documents(self, texts: Any, views: Any = None) -> Any:
            for position, embedding in enumerate(super().iter_encode_documents(texts, views)):
                if position == 200:
                    raise EmbeddingError("the server went away")
                yield embedding

    store = HybridVectorStore(FailsOnce(dim=2))
    ids = [str(number) for number in range(300)]
    with pytest.raises(EmbeddingError, match="went away"):
        store.add_texts(ids, ids=ids)
    kept = store.index.count()
    assert 0 < kept <= 200
    assert ids_of(store.get_by_ids(ids)) == ids[:kept]
    store.add_texts(ids[kept:], ids=ids[kept:])
    assert ids_of(store.get_by_ids(ids)) == ids


@pytest.mark.parametrize(
    "texts",
    [
        ["fine", None],
        ["fine", 5],
        ["fine", b"bytes"],
        ["fine", "lone \ud800 surrogate"],
        "a text, not a list",
        b"bytes",
        None,
        7,
    ],
)
def test_texts_that_cannot_be_stored_are_refused_before_anything_is_encoded(texts: Any) -> None:
    store = make_store()
    store.encoder.encoded.clear()
    with pytest.raises(InvalidInputError) as caught:
        store.add_texts(texts)
    if isinstance(texts, list):
        assert caught.value.indices == (1,)
    assert store.encoder.encoded == []
    assert store.index.count() == len(TEXTS)


@pytest.mark.parametrize(
    "others",
    [
        {"ids": ["a"]},
        {"ids": ["a", "b", "c"]},
        {"ids": []},
        {"ids": ["a", 5]},
        {"ids": ["a", "\ud800"]},
        {"ids": "ab"},
        {"metadatas": [{}]},
        {"metadatas": []},
        {"metadatas": [{}, {}, {}]},
        {"metadatas": [{}, "text"]},
        {"metadatas": [{}, [("key", 1)]]},
        {"metadatas": [{}, {"key": math.nan}]},
    ],
)
def test_ids_and_metadata_that_do_not_fit_are_refused_before_anything_is_encoded(
    others: dict[str, Any],
) -> None:
    store = HybridVectorStore(HashEncoder())
    with pytest.raises(InvalidInputError):
        store.add_texts(["x", "y"], **others)
    assert store.encoder.encoded == []
    assert store.index.count() == 0


@pytest.mark.parametrize(
    "value",
    [
        datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
        (1, 2),
        {1: "one"},
        {"deeper": {None: 1}},
        math.nan,
        [math.inf],
        {1, 2},
        b"bytes",
        Path("x"),
        np.float32(1),
        10**5000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_metadata_that_is_not_json_names_its_document_and_key(value: Any) -> None:
    store = HybridVectorStore(HashEncoder())
    documents = [
        Document("x", id="good", metadata={"when": 1}),
        Document("y", id="doc 7", metadata={"fine": 1, "when": value}),
    ]
    with pytest.raises(InvalidInputError, match=r"'doc 7'.*'when'") as caught:
        store.add_documents(documents)
    assert "'fine'" not in str(caught.value)
    assert store.index.count() == 0


def test_metadata_comes_back_equal() -> None:
    metadata = {"a": [1, 2.5, None, True, {"b": "서울 😀 \0"}], "": {}, "big": 2**80, "nil": None}
    store = HybridVectorStore(HashEncoder())
    store.add_texts(["x"], [metadata], ids=["1"])
    [document] = store.get_by_ids(["1"])
    assert repr(document.metadata) == repr(metadata)
    assert store.similarity_search("x")[0].metadata == metadata


def test_documents_keep_their_ids_and_others_get_one() -> None:
    store = HybridVectorStore(HashEncoder())
    documents = [Document("x", id="1"), Document("y"), Document("z", id="3")]
    ids = store.add_documents(documents)
    assert (ids[0], ids[2]) == ("1", "3")
    assert ids_of(store.get_by_ids(ids)) == ids
    assert store.add_documents(documents, ids=["4", "5", "6"]) == ["4", "5", "6"]
    assert store.index.count() == 6


def test_neither_the_callers_documents_nor_the_stores_are_altered_through_one_another() -> None:
    given_ = [Document("x\n", metadata={"list": [1]}), Document("y", id="2")]
    before = [document.model_copy(deep=True) for document in given_]
    store = HybridVectorStore(HashEncoder())
    ids = store.add_documents(given_)
    assert given_ == before
    given_[0].metadata["list"].append(2)
    for returned in (store.get_by_ids(ids[:1])[0], store.search("x", k=1)[0].document):
        assert returned == Document("x\n", id=ids[0], metadata={"list": [1]})
        returned.metadata["list"].append(3)
        returned.page_content = "changed"
    assert store.get_by_ids(ids[:1]) == [Document("x\n", id=ids[0], metadata={"list": [1]})]


def test_an_update_replaces_text_metadata_and_vectors() -> None:
    store = make_store()
    store.add_texts(["birds fly south"], [{"new": True}], ids=["2"])
    assert store.get_by_ids(["2"]) == [Document("birds fly south", id="2", metadata={"new": True})]
    assert ids_of(store.search("birds", k=1)) == ["2"]
    [hit] = [hit for hit in store.search("cats sleep", k=5) if hit.document.id == "2"]
    assert hit.scores.sparse == 0


# Deleting -------------------------------------------------------------------------------------


def test_deleted_documents_are_not_found_and_the_others_are() -> None:
    store = make_store()
    assert store.delete(["2", "nobody", "4"]) is True
    assert ids_of(store.get_by_ids([str(n) for n in range(5)])) == ["0", "1", "3"]
    assert sorted(ids_of(store.search("cats sleep", k=9))) == ["0", "1", "3"]


def test_delete_without_ids_empties_the_store_and_it_can_be_filled_again() -> None:
    store = make_store()
    assert store.delete([]) is True
    assert store.index.count() == len(TEXTS)
    assert store.delete() is True
    assert store.index.count() == 0
    assert store.search("cats") == []
    store.add_texts(["cats"], ids=["new"])
    assert ids_of(store.search("cats")) == ["new"]


@pytest.mark.parametrize("method", ["delete", "get_by_ids"])
def test_one_string_is_no_list_of_ids(method: str) -> None:
    """Else delete("12") would delete the documents "1" and "2"."""
    store = make_store()
    with pytest.raises(InvalidInputError, match=r"\['12'\]"):
        getattr(store, method)("12")
    assert store.index.count() == len(TEXTS)


# Plain embeddings, and searching by a vector ----------------------------------------------------


def test_plain_embeddings_are_taken_as_the_dense_view_alone() -> None:
    embeddings = DeterministicFakeEmbedding(size=6)
    store = make_store(encoder=embeddings)
    assert store.embeddings is embeddings
    hits = store.search("query", k=5, fusion=WeightedSum(normalization=None))
    query = embeddings.embed_query("query")
    expected = [cosine(query, vector) for vector in embeddings.embed_documents(TEXTS)]
    assert ids_of(hits) == [str(n) for n in np.argsort(-np.array(expected))]
    for hit in hits:
        assert hit.score == pytest.approx(expected[int(hit.document.id)], abs=1e-6)
        assert hit.scores.dense == pytest.approx(hit.score)
        assert hit.scores.sparse is hit.scores.multi_vector is hit.ranks.sparse is None


def test_what_is_no_encoder_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="'all-MiniLM-L6-v2'"):
        HybridVectorStore("all-MiniLM-L6-v2")  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_a_search_by_vector_ranks_by_the_cosine_alone(scale: float) -> None:
    store = make_store(fusion=WeightedSum(0, 1, 0))
    vector = [scale * x for x in store.embeddings.embed_query("the capital of dogs")]
    expected = [cosine(vector, other) for other in store.embeddings.embed_documents(TEXTS)]
    best_first = [str(position) for position in np.argsort(-np.array(expected))]
    assert ids_of(store.similarity_search_by_vector(vector, k=5)) == best_first
    assert ids_of(store.similarity_search_by_vector(vector, k=2)) == best_first[:2]


@pytest.mark.parametrize("vector", [[1.0] * 31, [], [math.nan] * 32, [[1.0] * 32]])
def test_a_vector_of_another_shape_is_refused(vector: Any) -> None:
    with pytest.raises((IndexMismatchError, ValueError)):
        make_store().similarity_search_by_vector(vector)


def test_a_search_by_vector_without_a_dense_view_names_the_views() -> None:
    with pytest.raises(IndexMismatchError, match="sparse, multi_vector"):
        make_store(views=("sparse", "multi_vector")).similarity_search_by_vector([1.0] * 32)


# Maximal marginal relevance ---------------------------------------------------------------------

NEAR_AND_FAR = ["red cat", "red cat", "cat red", "red dog", "green bird"]


def greedy(query: Sequence[float], vectors: Sequence[Any], k: int, weight: float) -> list[int]:
    """Maximal marginal relevance by its definition, ties to the first."""
    chosen: list[int] = []
    while len(chosen) < min(k, len(vectors)):
        values = {
            n: weight * cosine(query, vectors[n])
            - (1 - weight) * max((cosine(vectors[n], vectors[m]) for m in chosen), default=0)
            for n in range(len(vectors))
            if n not in chosen
        }
        chosen.append(max(values, key=lambda n: round(values[n], 5)))
    return chosen


@pytest.mark.parametrize("weight", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("k", [1, 3, 5, 9])
def test_marginal_relevance_chooses_by_its_definition_among_the_best_hits(
    weight: float, k: int
) -> None:
    store = make_store()
    query = "the capital in the sun"
    best = ids_of(store.search(query, k=max(k, 4)))
    vectors = store.embeddings.embed_documents([TEXTS[int(id_)] for id_ in best])
    expected = greedy(store.embeddings.embed_query(query), vectors, k, weight)
    found = store.max_marginal_relevance_search(query, k=k, fetch_k=4, lambda_mult=weight)
    assert ids_of(found) == [best[position] for position in expected]


@pytest.mark.parametrize("search", ["text", "vector"])
def test_marginal_relevance_of_1_is_the_dense_ranking_and_of_0_avoids_copies(search: str) -> None:
    store = make_store(NEAR_AND_FAR)
    vector = store.embeddings.embed_query("red cat")

    def mmr(**kwargs: Any) -> list[str | None]:
        if search == "text":
            return ids_of(store.max_marginal_relevance_search("red cat", **kwargs))
        return ids_of(store.max_marginal_relevance_search_by_vector(vector, **kwargs))

    ranking = ids_of(store.similarity_search_by_vector(vector, k=5))
    assert set(ranking[:3]) == {"0", "1", "2"}
    assert set(mmr(k=3, lambda_mult=1)) == {"0", "1", "2"}
    assert mmr(k=5, lambda_mult=1)[3:] == ranking[3:]
    assert set(mmr(k=3, lambda_mult=0)[1:]) == {"3", "4"}
    # Only among the best three, all alike, there is nothing else to choose.
    assert set(mmr(k=3, fetch_k=3, lambda_mult=0)) == {"0", "1", "2"}


@pytest.mark.parametrize("views", [("sparse",), ("multi_vector",), ("sparse", "multi_vector")])
def test_marginal_relevance_without_a_dense_view_says_so(views: tuple[View, ...]) -> None:
    with pytest.raises(InvalidInputError, match="dense"):
        make_store(views=views).max_marginal_relevance_search("cat")


def test_a_document_deleted_during_a_diverse_search_does_not_shift_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index.db"
    store = make_store(NEAR_AND_FAR, path=path)
    writer = SQLiteIndex(path)
    expected = store.max_marginal_relevance_search("red cat", k=5, lambda_mult=0.5)
    get = store.index.get

    def get_after_deletion(ids: Sequence[str], *, views: Collection[View] = ()) -> Any:
        if views:
            writer.delete(["0"])
        return get(ids, views=views)

    monkeypatch.setattr(store.index, "get", get_after_deletion)
    assert store.max_marginal_relevance_search("red cat", k=5, lambda_mult=0.5) == expected
    assert store.index.count() == 4
    store.close()
    writer.close()


# Making and opening stores ----------------------------------------------------------------------


def test_a_store_from_texts_on_a_path_can_be_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "index.db"
    store = HybridVectorStore.from_texts(
        TEXTS, HashEncoder(), [{"n": n} for n in range(5)], ids=list("abcde"), path=path
    )
    before = store.search("the capital", k=5)
    store.close()
    store = HybridVectorStore(HashEncoder(), path=str(path))
    assert store.search("the capital", k=5) == before
    assert [d.metadata for d in store.get_by_ids(list("abcde"))] == [{"n": n} for n in range(5)]
    store.close()


def test_a_store_from_documents_uses_the_index_and_the_options_given() -> None:
    index = SQLiteIndex()
    fusion = ReciprocalRankFusion()
    documents = [Document("cats", id="1", metadata={"a": 1}), Document("dogs")]
    store = HybridVectorStore.from_documents(
        documents, HashEncoder(), index=index, fusion=fusion, fetch_k=7
    )
    assert store.index is index
    assert (store.fusion, store.fetch_k) == (fusion, 7)
    assert index.count() == 2
    assert store.get_by_ids(["1"]) == documents[:1]


def test_an_index_and_a_path_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="not both"):
        HybridVectorStore(HashEncoder(), SQLiteIndex(), path=tmp_path / "index.db")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_path_is_an_error_and_not_an_index_in_memory() -> None:
    """A path out of an unset variable would else lose everything at the end of the program."""
    with pytest.raises(HybridIndexError):
        HybridVectorStore(HashEncoder(), path="")


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.search("cats"),
        lambda store: store.add_texts(["x"]),
        lambda store: store.similarity_search_by_vector([1.0] * 32),
        lambda store: store.max_marginal_relevance_search("cats"),
    ],
)
@pytest.mark.parametrize(
    ("other", "names"),
    [
        (HashEncoder(model_name="another"), ("'hash'", "'another'")),
        (HashEncoder(fingerprint="finetuned"), ("'hash'", "other weights")),
        (HashEncoder(("dense",)), ("dense, sparse, multi_vector", "gives dense.")),
    ],
)
def test_an_index_of_another_model_is_refused_at_first_use_naming_both(
    tmp_path: Path,
    use: Callable[[HybridVectorStore], object],
    other: HashEncoder,
    names: tuple[str, str],
) -> None:
    path = tmp_path / "index.db"
    make_store(path=path).close()
    before = path.read_bytes()
    store = HybridVectorStore(other, path=path)
    with pytest.raises(IndexMismatchError) as caught:
        use(store)
    assert all(name in str(caught.value) for name in (*names, str(path)))
    store.close()
    assert path.read_bytes() == before


def test_two_models_cannot_share_an_index_even_while_it_is_empty() -> None:
    """Else the vectors of the first would be stored under the name of the second."""
    index = SQLiteIndex()
    first = HybridVectorStore(HashEncoder(model_name="first"), index)
    second = HybridVectorStore(HashEncoder(model_name="second"), index)
    assert first.search("cats") == []
    with pytest.raises(IndexMismatchError, match=r"'first'.*'second'"):
        second.search("cats")
    first.add_texts(["cats"])
    with pytest.raises(IndexMismatchError, match=r"'first'.*'second'"):
        second.add_texts(["cats"])


@pytest.mark.parametrize("views", [VIEWS, ("dense",), ("sparse",), ("multi_vector",)])
@pytest.mark.parametrize("emptied", [False, True])
def test_an_empty_store_finds_nothing_and_raises_nothing(
    views: tuple[View, ...], emptied: bool
) -> None:
    store = make_store(TEXTS if emptied else [], views=views)
    store.delete()
    shapes = []

    def fusion(scores: Scores) -> np.ndarray:
        shapes.extend((view, values.shape) for view, values in scores.present())
        return sum(values for _, values in scores.present())  # type: ignore[return-value]

    for each in (None, WeightedSum(normalization=None), ReciprocalRankFusion(), fusion):
        assert store.search("cats", fusion=each) == []
    assert shapes == [(view, (0,)) for view in views]
    assert store.get_by_ids(["0"]) == []
    assert store.similarity_search_with_relevance_scores("cats") == []
    if "dense" in views:
        assert store.max_marginal_relevance_search("cats") == []
        assert store.similarity_search_by_vector([1.0] * 32) == []


def test_a_closed_store_says_so() -> None:
    store = make_store()
    store.close()
    store.close()
    for use in (
        lambda: store.search("cats"),
        lambda: store.add_texts(["x"]),
        lambda: store.get_by_ids(["0"]),
        lambda: store.delete(["0"]),
    ):
        with pytest.raises(HybridIndexError, match="closed"):
            use()


# LangChain's other ways in ----------------------------------------------------------------------


async def test_every_asynchronous_method_does_what_its_synchronous_one_does() -> None:
    store, same = make_store([]), make_store([])
    ids = list("abcde")
    metadatas = [{"n": n} for n in range(5)]
    assert await store.aadd_texts(TEXTS, metadatas, ids=ids) == ids
    same.add_texts(TEXTS, metadatas, ids=ids)
    assert await store.aadd_documents([Document("late", id="f")]) == ["f"]
    same.add_documents([Document("late", id="f")])
    query, fusion = "the capital", ReciprocalRankFusion()
    assert await store.asearch(query, 3, 2, fusion) == same.search(query, 3, 2, fusion)
    assert await store.asearch(query, k=5, fetch_k=1) == same.search(query, k=5, fetch_k=1)
    assert await store.asimilarity_search(query, k=2, fusion=fusion) == same.similarity_search(
        query, k=2, fusion=fusion
    )
    assert await store.asimilarity_search_with_score(query) == same.similarity_search_with_score(
        query
    )
    vector = store.embeddings.embed_query(query)
    assert await store.asimilarity_search_by_vector(
        vector, k=2
    ) == same.similarity_search_by_vector(vector, k=2)
    assert await store.amax_marginal_relevance_search(
        query, k=2
    ) == same.max_marginal_relevance_search(query, k=2)
    assert await store.aget_by_ids(["c", "a"]) == same.get_by_ids(["c", "a"])
    assert await store.adelete(["a"]) is True
    assert ids_of(await store.aget_by_ids(ids)) == ids[1:]
    other = await HybridVectorStore.afrom_texts(TEXTS, HashEncoder(), ids=ids, fetch_k=9)
    assert (other.index.count(), other.fetch_k) == (5, 9)


def test_as_retriever_searches_by_similarity_with_its_arguments() -> None:
    store = make_store()
    retriever = store.as_retriever(search_kwargs={"k": 2, "fusion": WeightedSum(0, 1, 0)})
    expected = store.similarity_search("cats", k=2, fusion=WeightedSum(0, 1, 0))
    assert retriever.invoke("cats") == expected


def test_as_retriever_searches_by_marginal_relevance() -> None:
    store = make_store(NEAR_AND_FAR)
    retriever = store.as_retriever(
        search_type="mmr", search_kwargs={"k": 3, "fetch_k": 5, "lambda_mult": 0.0}
    )
    found = ids_of(retriever.invoke("red cat"))
    assert set(found[1:]) == {"3", "4"}


async def test_as_retriever_keeps_the_documents_above_a_threshold() -> None:
    store = make_store()
    scored = store.similarity_search_with_score("the capital of Korea", k=5)
    threshold = scored[2][1]
    retriever = store.as_retriever(
        search_type="similarity_score_threshold",
        search_kwargs={"k": 5, "score_threshold": threshold},
    )
    expected = [document for document, score in scored if score >= threshold]
    assert retriever.invoke("the capital of Korea") == expected
    assert await retriever.ainvoke("the capital of Korea") == expected
    assert len(expected) == 3


@pytest.mark.parametrize(
    ("normalization", "weights"),
    [
        ("min_max", (0.4, 0.2, 0.4)),
        ("min_max", (1, 1, 1)),
        ("min_max", (0.2, 0.4, 0.1)),  # in float32 these two add up to 1.0000001
        ("min_max", (0.3, 0.5, 0.1)),
        ("dbsf", (0.4, 0.2, 0.4)),
        ("dbsf", (0.2, 0.4, 0.1)),
    ],
)
def test_normalised_scores_are_relevance_scores_from_0_to_1(
    normalization: Any, weights: tuple[float, float, float]
) -> None:
    """LangChain warns of any other, if only by the last bit."""
    store = make_store(fusion=WeightedSum(*weights, normalization))
    found = store.similarity_search_with_relevance_scores(TEXTS[0], k=5)
    assert [score for _, score in found] == [hit.score for hit in store.search(TEXTS[0], k=5)]
    assert all(0 <= score <= 1 for _, score in found)


# Beside LangChain's other parts ------------------------------------------------------------------


def test_langchains_search_by_type_returns_documents() -> None:
    """Its self-query retriever calls `search(query, search_type, **kwargs)`."""
    store = make_store()
    documents = store.similarity_search("the capital", k=2)
    assert store.search("the capital", "similarity", k=2) == documents
    assert store.search("the capital", search_type="similarity", k=2) == documents


async def test_langchains_async_search_by_type_returns_documents() -> None:
    store = make_store()
    documents = store.similarity_search("the capital", k=2)
    assert await store.asearch("the capital", "similarity", k=2) == documents


def test_the_indexing_api_skips_what_is_unchanged_and_deletes_what_is_gone() -> None:
    from langchain_core.indexing import InMemoryRecordManager, index

    store = HybridVectorStore(HashEncoder())
    manager = InMemoryRecordManager(namespace="test")
    manager.create_schema()
    documents = [Document(page_content=text, metadata={"source": text}) for text in TEXTS]

    def run(documents: list[Document]) -> dict[str, int]:
        return dict(
            index(
                documents,
                manager,
                store,
                cleanup="full",
                source_id_key="source",
                key_encoder="sha256",
            )
        )

    assert run(documents)["num_added"] == len(TEXTS)
    assert run(documents)["num_skipped"] == len(TEXTS)
    assert run(documents[1:])["num_deleted"] == 1
    assert store.index.count() == len(TEXTS) - 1


def test_batches_end_where_token_vectors_grow_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else 128 texts of 8,192 tokens would take 4 GB before the first is stored."""
    store = HybridVectorStore(HashEncoder())
    sizes: list[int] = []
    upsert = store.index.upsert
    monkeypatch.setattr(
        store.index, "upsert", lambda records: (sizes.append(len(records)), upsert(records))
    )
    monkeypatch.setattr("langchain_hfembed.index.base._BATCH_BYTES", 1)
    store.add_texts(TEXTS)
    assert sizes == [1] * len(TEXTS)
    monkeypatch.undo()
    monkeypatch.setattr(
        store.index, "upsert", lambda records: (sizes.append(len(records)), upsert(records))
    )
    sizes.clear()
    store.add_texts(TEXTS, batch_size=2)
    assert sizes == [2, 2, 1]


def test_a_store_closes_with_its_block(tmp_path: Path) -> None:
    with HybridVectorStore(HashEncoder(), path=tmp_path / "index.db") as store:
        store.add_texts(TEXTS)
    with pytest.raises(HybridIndexError, match="closed"):
        store.search("the capital")


@pytest.mark.parametrize("use", [HybridVectorStore.delete, HybridVectorStore.get_by_ids])
def test_ids_that_are_no_strings_are_named(use: Callable[..., object]) -> None:
    with pytest.raises(InvalidInputError, match="id 1 is int"):
        use(make_store(), ["a", 1])


@pytest.fixture
def filtered() -> HybridVectorStore:
    store = HybridVectorStore(HashEncoder())
    texts = [f"cats number {number}" for number in range(12)]
    store.add_texts(texts, [{"n": number} for number in range(12)], ids=[str(n) for n in range(12)])
    return store


ASKED = {"n": {"$gte": 9}}


@pytest.mark.parametrize(
    "search",
    [
        lambda store: [hit.document for hit in store.search("cats", filter=ASKED)],
        lambda store: store.similarity_search("cats", filter=ASKED),
        lambda store: [d for d, _ in store.similarity_search_with_score("cats", filter=ASKED)],
        lambda store: store.similarity_search_by_vector(
            store.encoder.embed_query("cats"), filter=ASKED
        ),
        lambda store: store.max_marginal_relevance_search("cats", filter=ASKED),
        lambda store: store.max_marginal_relevance_search_by_vector(
            store.encoder.embed_query("cats"), filter=ASKED
        ),
        lambda store: store.as_retriever(search_kwargs={"filter": ASKED}).invoke("cats"),
        lambda store: HybridRetriever(store=store, filter=ASKED).invoke("cats"),
        lambda store: asyncio.run(HybridRetriever(store=store, filter=ASKED).ainvoke("cats")),
        lambda store: asyncio.run(store.asimilarity_search("cats", filter=ASKED)),
    ],
)
def test_every_search_takes_a_filter(
    filtered: HybridVectorStore, search: Callable[[HybridVectorStore], list[Document]]
) -> None:
    assert {document.id for document in search(filtered)} == {"9", "10", "11"}


def test_a_wrong_filter_is_found_before_the_model_runs(
    filtered: HybridVectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HashEncoder, "encode_queries", lambda *_: pytest.fail("encoded"))
    with pytest.raises(InvalidInputError, match=r"no operator '\$near'"):
        filtered.search("cats", filter={"n": {"$near": 3}})
    with pytest.raises(InvalidInputError, match=r"no operator '\$near'"):
        filtered.max_marginal_relevance_search("cats", filter={"n": {"$near": 3}})


@pytest.mark.parametrize("name", ["top_k", "filters"])
def test_arguments_that_search_does_not_take_are_named(name: str) -> None:
    """A filter that is ignored would return what it should have kept out."""
    store = make_store()
    for search in (store.search, store.similarity_search, store.similarity_search_with_score):
        with pytest.raises(TypeError, match=f"unknown arguments: {name}"):
            search("cat", **{name: 3})


def test_metadata_that_is_not_json_is_named_by_position() -> None:
    """The id may be one that the caller has never seen."""
    with pytest.raises(InvalidInputError, match=r"text 1: metadata .*'day'") as caught:
        make_store().add_texts(["a", "b"], [{}, {"day": datetime.date(2026, 1, 1)}])
    assert caught.value.indices == (1,)
