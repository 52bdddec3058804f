"""A dense call and a sparse call on the same texts: one forward pass, and the same numbers."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from langchain_hfembed import BGEM3Embeddings, EmbeddingError, HybridEmbedding, SparseVector
from langchain_hfembed.embeddings.one_pass import OnePass

TEXTS = ["the sea", "", "Cats sleep in the sun.", "한강은 서울을 지나 바다로 흐른다."]
orders = pytest.mark.parametrize("order", [("dense", "sparse"), ("sparse", "dense")])
sides = pytest.mark.parametrize("encode", ["encode_documents", "encode_queries"])


@pytest.fixture(scope="module")
def loaded(xlmr_folder) -> BGEM3Embeddings:
    loaded = BGEM3Embeddings(model=str(xlmr_folder), device="cpu")
    loaded.embed_query("load")
    return loaded


@pytest.fixture
def plain(loaded) -> BGEM3Embeddings:
    """Of which no adapter has been made."""
    ours = BGEM3Embeddings(model=loaded.model_name, device="cpu")
    ours._checkpoints, ours._loaded = loaded._checkpoints, loaded._loaded
    return ours


@pytest.fixture
def sharing(plain) -> BGEM3Embeddings:
    """Of which one has."""
    sharing = plain.model_copy()
    sharing._one_pass = OnePass(is_on=True)
    return sharing


@pytest.fixture
def views(loaded, monkeypatch) -> list[tuple[str, ...]]:
    """The views of each forward pass."""
    [engine], passes = loaded._engines(), []
    start = engine.start

    def watched(batch, wanted):
        passes.append(tuple(wanted))
        return start(batch, wanted)

    monkeypatch.setattr(engine, "start", watched)
    return passes


def _assert_equal(one, other):
    """To the bit: the model runs on the same batches."""
    assert [each.views for each in one] == [each.views for each in other]
    for ours, theirs in zip(one, other, strict=True):
        if ours.dense is not None:
            np.testing.assert_array_equal(ours.dense, theirs.dense)
        if ours.sparse is not None:
            assert ours.sparse.to_dict() == theirs.sparse.to_dict()


@orders
@sides
def test_two_calls_cost_one_pass_and_give_what_separate_calls_give(
    plain, sharing, views, encode, order
):
    separate = [getattr(plain, encode)(TEXTS, (view,)) for view in order]
    assert views == [("dense",), ("sparse",)] or views == [("sparse",), ("dense",)]
    views.clear()
    shared = [getattr(sharing, encode)(TEXTS, (view,)) for view in order]
    assert views == [("dense", "sparse")]
    for one, other in zip(shared, separate, strict=True):
        _assert_equal(one, other)


def test_langchains_dense_calls_share_their_pass(plain, sharing, views):
    assert sharing.embed_documents(TEXTS) == plain.embed_documents(TEXTS)
    assert sharing.embed_query("the sea") == plain.embed_query("the sea")
    views.clear()
    sharing.encode_documents(TEXTS, ("sparse",))
    sharing.encode_queries(["the sea"], ("sparse",))
    assert views == []


@pytest.mark.parametrize("adapter", ["as_qdrant_sparse", "as_milvus_sparse"])
def test_only_the_view_asked_for_is_computed_until_an_adapter_is_made(plain, views, adapter):
    plain.embed_query("the sea")
    assert views == [("dense",)]
    getattr(plain, adapter)()
    plain.embed_query("the sea")
    assert views == [("dense",), ("dense", "sparse")]


@pytest.mark.parametrize(
    "wanted", [("dense", "sparse"), ("multi_vector",), ("dense", "multi_vector"), None]
)
def test_other_combinations_of_views_go_straight_through(plain, sharing, views, wanted):
    sharing.embed_documents(TEXTS)
    _assert_equal(sharing.encode_documents(TEXTS, wanted), plain.encode_documents(TEXTS, wanted))
    assert views[1] == views[2]


def test_streaming_keeps_nothing(sharing, views):
    list(sharing.iter_encode_documents(TEXTS, ("dense",)))
    sharing.encode_documents(TEXTS, ("sparse",))
    assert views == [("dense",), ("dense", "sparse")]


def test_a_result_is_handed_out_once(sharing, views):
    for _ in range(2):
        sharing.embed_documents(TEXTS)
        sharing.encode_documents(TEXTS, ("sparse",))
    assert len(views) == 2
    sharing.encode_documents(TEXTS, ("sparse",))
    assert len(views) == 3


def test_the_same_view_twice_is_computed_twice(sharing, views):
    assert sharing.embed_documents(TEXTS) == sharing.embed_documents(TEXTS)
    assert len(views) == 2


def test_a_query_never_gets_what_the_same_text_left_as_a_document(sharing, views):
    ours = sharing.model_copy(update={"query_instruction": "the river "})
    ours.embed_documents(["the sea"])
    [query] = ours.encode_queries(["the sea"], ("sparse",))
    [document] = ours.encode_documents(["the sea"], ("sparse",))
    assert query.sparse.to_dict() != document.sparse.to_dict()
    assert len(views) == 2


def test_without_instructions_sides_are_told_apart_all_the_same(sharing, views):
    """Their maximum lengths differ."""
    sharing.embed_documents(["the sea"])
    sharing.encode_queries(["the sea"], ("sparse",))
    assert len(views) == 2


@pytest.mark.parametrize(
    "update", [{"document_instruction": "the "}, {"max_length": 4}, {"normalize_embeddings": False}]
)
@pytest.mark.filterwarnings("ignore:.* are longer than .* tokens:UserWarning")
def test_a_copy_with_other_settings_gets_its_own_results(plain, sharing, update):
    other = sharing.model_copy(update=update)
    for view in ("dense", "sparse"):
        sharing.encode_documents(TEXTS, ("sparse" if view == "dense" else "dense",))
        ours = other.encode_documents(TEXTS, (view,))
        _assert_equal(ours, plain.model_copy(update=update).encode_documents(TEXTS, (view,)))


@pytest.mark.parametrize("others", [TEXTS[:-1], TEXTS[::-1], [*TEXTS, "the sea"]])
def test_another_list_of_texts_gets_its_own_results(plain, sharing, others):
    sharing.embed_documents(TEXTS)
    _assert_equal(
        sharing.encode_documents(others, ("sparse",)), plain.encode_documents(others, ("sparse",))
    )


def test_the_callers_list_may_change_between_the_calls(plain, sharing):
    texts = list(TEXTS)
    sharing.embed_documents(texts)
    texts[0] = "another text"
    _assert_equal(
        sharing.encode_documents(texts, ("sparse",)), plain.encode_documents(texts, ("sparse",))
    )


def test_no_texts_need_no_pass_and_displace_nothing(sharing, views):
    sharing.embed_documents(TEXTS)
    for _ in range(100):
        assert sharing.embed_documents([]) == []
    sharing.encode_documents(TEXTS, ("sparse",))
    assert len(views) == 1


@pytest.mark.parametrize(
    "travel", [copy.deepcopy, lambda embeddings: pickle.loads(pickle.dumps(embeddings))]
)
def test_results_stay_behind_where_embeddings_travel_and_sharing_goes_along(
    plain, sharing, views, travel
):
    def passes(embeddings):
        embeddings._engines = plain._engines
        embeddings.encode_documents(TEXTS, ("sparse",))
        embeddings.embed_documents(TEXTS)
        return len(views)

    sharing.embed_documents(TEXTS)
    before = len(views)
    assert passes(travel(sharing)) == before + 1
    assert passes(travel(plain)) == before + 3


# The object alone, with an encoder that counts ------------------------------------------------


class Passes:
    """Encodes a text by its length, and remembers the views of each call."""

    def __init__(self) -> None:
        self.views = []
        self.one_pass = OnePass(is_on=True)
        self.before = lambda: None

    def __call__(self, texts, view, side="document", settings=""):
        def encode(views):
            self.views.append(views)
            self.before()
            return [
                HybridEmbedding(
                    dense=[len(text), 1.0] if "dense" in views else None,
                    sparse=SparseVector([len(text)], [1.0]) if "sparse" in views else None,
                )
                for text in texts
            ]

        return self.one_pass.encode(texts, (view,), encode, side=side, settings=lambda: settings)


@pytest.fixture
def passes() -> Passes:
    return Passes()


@pytest.mark.parametrize(("side", "kept"), [("document", 4), ("query", 64)])
def test_the_oldest_result_is_displaced_by_the_fifth_of_documents_and_the_65th_of_queries(
    passes, side, kept
):
    for number in range(kept + 1):
        passes([str(number)], "dense", side)
    passes.views.clear()
    for number in range(1, kept + 1):
        passes([str(number)], "sparse", side)
    assert passes.views == []
    passes(["0"], "sparse", side)
    assert passes.views == [("dense", "sparse")]


def test_queries_do_not_displace_what_documents_left(passes):
    passes(["a"], "dense")
    for number in range(100):
        passes([str(number)], "dense", "query")
    passes.views.clear()
    passes(["a"], "sparse")
    assert passes.views == []


def test_a_call_that_fails_leaves_nothing(passes):
    def fail():
        raise EmbeddingError("out of memory")

    passes.before = fail
    with pytest.raises(EmbeddingError, match="out of memory"):
        passes(["a"], "dense")
    passes.before = lambda: None
    passes(["a"], "sparse")
    assert len(passes.views) == 2


def test_two_threads_with_the_same_texts_need_two_passes_and_wait_for_nobody(passes):
    """Both compute at the same time, and each leaves a result for its own next call."""
    together = threading.Barrier(2, timeout=10)
    passes.before = together.wait
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda view: passes(["a"], view), ["dense", "dense"]))
        [[one], [other]] = pool.map(lambda view: passes(["a"], view), ["sparse", "sparse"])
    assert len(passes.views) == 2
    assert one.sparse.to_dict() == other.sparse.to_dict() == {1: 1.0}


def test_many_threads_each_get_the_results_of_their_own_texts_in_one_pass(passes):
    def search(number):
        text = "x" * number
        [dense], [sparse] = passes([text], "dense", "query"), passes([text], "sparse", "query")
        return dense.dense[0], sparse.sparse.to_dict()

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(search, range(1, 301)))
    assert results == [(number, {number: 1.0}) for number in range(1, 301)]
    assert len(passes.views) == 300


@pytest.mark.parametrize(("sizes", "kept"), [((3000, 1000), 2), ((3000, 2000), 1), ((9000,), 1)])
def test_no_more_than_4096_texts_are_kept_but_the_newest_call_always(sizes, kept):
    sharing = OnePass(is_on=True)
    calls = []

    def ask(number, size, view):
        def compute(views):
            calls.append(number)
            return [HybridEmbedding(dense=np.ones(1)) for _ in range(size)]

        texts = [f"{number} {position}" for position in range(size)]
        sharing.encode(texts, (view,), compute, side="document", settings=lambda: "s")

    for number, size in enumerate(sizes):
        ask(number, size, "dense")
    for number, size in reversed(list(enumerate(sizes))):
        ask(number, size, "sparse")
    assert len(calls) == 2 * len(sizes) - kept


def test_an_error_carries_no_dense_vectors_that_nobody_asked_for():
    def fail(views):
        raise EmbeddingError("no luck", indices=[1], completed={0: [1.0]})

    for view, completed in (("sparse", {}), ("dense", {0: [1.0]})):
        with pytest.raises(EmbeddingError) as caught:
            OnePass(is_on=True).encode(
                ["a", "b"], (view,), fail, side="document", settings=lambda: "s"
            )
        assert caught.value.completed == completed
