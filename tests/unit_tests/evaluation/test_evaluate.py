"""Measures are trec_eval's, of what a search returns; differences say how sure they are."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from langchain_hfembed import HybridVectorStore, ReciprocalRankFusion, WeightedSum
from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.evaluation import Collection, evaluate, load_beir, tune_weights
from langchain_hfembed.evaluation.judged import Judge, JudgedQuery
from langchain_hfembed.evaluation.report import paired_difference
from langchain_hfembed.hits import find
from langchain_hfembed.scoring import Scores
from tests.encoders import HashEncoder
from tests.unit_tests.evaluation.conftest import DOCUMENTS, QRELS, QUERIES

# Test collections that are not ours to pass on; where they lie beside the project, they are used.
SHARED = Path(__file__).parents[4] / "shared" / "data"
NAMES = {
    "nDCG@10": "ndcg_cut_10",
    "R@10": "recall_10",
    "nDCG@100": "ndcg_cut_100",
    "R@100": "recall_100",
}


@pytest.fixture
def store() -> Iterator[HybridVectorStore]:
    with HybridVectorStore(HashEncoder()) as store:
        store.add_texts(list(DOCUMENTS.values()), ids=list(DOCUMENTS))
        yield store


def by_pytrec_eval(
    store: HybridVectorStore, queries: Mapping[str, str], qrels: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, float]]:
    """The measures of searches, all of whose candidates go into pytrec_eval."""
    runs: dict[str, dict[str, dict[str, float]]] = {}
    for query_id, query in zip(
        queries, store.encoder.encode_queries([*queries.values()]), strict=True
    ):
        hits = find(store.index, query, k=10_000, fetch_k=store.fetch_k, fusion=store.fusion)
        for view, _ in hits[0].scores.present():
            run = runs.setdefault(view, {})
            run[query_id] = {str(h.document.id): getattr(h.scores, view) for h in hits}
        runs.setdefault("fusion", {})[query_id] = {str(h.document.id): h.score for h in hits}
    judge = pytrec_eval.RelevanceEvaluator(
        {query_id: dict(qrels[query_id]) for query_id in queries},
        {"ndcg_cut.10,100", "recall.10,100"},
    )
    found: dict[str, dict[str, float]] = {}
    for ranking, run in runs.items():
        measured = judge.evaluate(run).values()
        found[ranking] = {o: float(np.mean([m[t] for m in measured])) for o, t in NAMES.items()}
        for k in (10, 100):
            rr = [reciprocal_rank(run[query_id], qrels[query_id], k) for query_id in queries]
            found[ranking][f"RR@{k}"] = float(np.mean(rr))
    return found


def reciprocal_rank(run: dict[str, float], relevance: Mapping[str, int], k: int) -> float:
    """Equal scores in trec_eval's order: the greater id comes first."""
    order = sorted(run, key=lambda id_: (run[id_], id_), reverse=True)[:k]
    return next((1 / rank for rank, i in enumerate(order, 1) if relevance.get(i, 0) > 0), 0.0)


def shortened(collection: Collection) -> HybridVectorStore:
    """A store with the beginnings of the documents, which take less time."""
    store = HybridVectorStore(HashEncoder(dim=16))
    store.add_texts(
        [" ".join(document.page_content.split()[:24]) for document in collection.documents],
        ids=[str(document.id) for document in collection.documents],
    )
    return store


@pytest.mark.slow
@pytest.mark.parametrize("name", ["limit-small", "scifact", "tydiqa-ko"])
def test_measures_are_those_of_pytrec_eval_on_real_collections(name: str) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"the collection {name} is not here")
    collection = load_beir(SHARED / name)
    queries = dict(list(collection.queries.items())[:300])
    with shortened(collection) as store:
        expected = by_pytrec_eval(store, queries, collection.qrels)
        found = evaluate(store, queries, collection.qrels).means
    assert found.keys() == expected.keys() == {"dense", "sparse", "multi_vector", "fusion"}
    for ranking, measures in expected.items():
        assert found[ranking] == pytest.approx(measures, abs=1e-12)
        assert found[ranking].keys() == measures.keys()


def test_a_small_collection_by_hand(store: HybridVectorStore) -> None:
    evaluation = evaluate(store, QUERIES, QRELS, (1, 6))
    assert evaluation.query_ids == tuple(QUERIES)
    assert evaluation.measures == ["nDCG@1", "RR@1", "R@1", "nDCG@6", "RR@6", "R@6"]
    ranked = {q: [hit.document.id for hit in store.search(t, k=6)] for q, t in QUERIES.items()}
    for position, (query, order) in enumerate(ranked.items()):
        judged = QRELS[query]
        gains = [judged.get(str(id_), 0) / math.log2(rank + 2) for rank, id_ in enumerate(order)]
        ideal = sum(
            gain / math.log2(rank + 2)
            for rank, gain in enumerate(sorted(judged.values(), reverse=True))
        )
        first = next(rank for rank, id_ in enumerate(order, 1) if judged.get(str(id_), 0) > 0)
        relevant = [id_ for id_, relevance in judged.items() if relevance > 0]
        found = sum(id_ in order for id_ in relevant) / len(relevant)
        values = evaluation.values["fusion"]
        assert values["nDCG@6"][position] == pytest.approx(sum(gains) / ideal)
        assert values["RR@6"][position] == pytest.approx(1 / first)
        assert values["RR@1"][position] == (first == 1)
        assert values["R@6"][position] == pytest.approx(found)
    assert evaluation.means["fusion"]["R@6"] == 1


@given(
    scores=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=30),
    relevant=st.sets(st.integers(0, 35), min_size=1),
    k=st.integers(1, 40),
)
def test_cutting_a_ranking_first_changes_no_measure(
    scores: list[float], relevant: set[int], k: int
) -> None:
    """However many candidates tie at the cut."""
    ids = [f"d{number}" for number in range(len(scores))]
    values = np.array(scores, np.float32)
    relevance = {f"d{number}": 1 for number in relevant}
    query = JudgedQuery("q", ids, Scores(dense=values), relevance)
    found = Judge([query], [k]).measure([values])
    whole = pytrec_eval.RelevanceEvaluator(
        {"q": relevance}, {f"ndcg_cut.{k}", f"recall.{k}", "recip_rank"}
    ).evaluate({"q": dict(zip(ids, scores, strict=True))})["q"]
    assert found[f"nDCG@{k}"] == pytest.approx(whole[f"ndcg_cut_{k}"])
    assert found[f"R@{k}"] == pytest.approx(whole[f"recall_{k}"])
    is_within = whole["recip_rank"] >= 1 / k
    assert found[f"RR@{k}"] == pytest.approx(whole["recip_rank"] if is_within else 0)


def test_fusions_are_compared_by_name(store: HybridVectorStore) -> None:
    fusions = {"weighted": WeightedSum(sparse=1), "ranks": ReciprocalRankFusion()}
    evaluation = evaluate(store, QUERIES, QRELS, fusions=fusions)
    assert list(evaluation.means) == ["dense", "sparse", "multi_vector", "weighted", "ranks"]
    store.fusion = fusions["weighted"]
    alone = evaluate(store, QUERIES, QRELS)
    assert alone.means["fusion"] == evaluation.means["weighted"]
    assert evaluation.baseline == "weighted"


def test_one_view_is_measured_too() -> None:
    store = HybridVectorStore(HashEncoder(views=["dense"]))
    store.add_texts(list(DOCUMENTS.values()), ids=list(DOCUMENTS))
    means = evaluate(store, QUERIES, QRELS).means
    assert list(means) == ["dense", "fusion"]
    assert means["dense"] == means["fusion"]


def test_as_many_candidates_are_looked_at_as_are_measured(store: HybridVectorStore) -> None:
    store.fetch_k = 1
    shallow, deep = (evaluate(store, QUERIES, QRELS, [k]) for k in (1, 6))
    assert deep.means["fusion"]["R@6"] > shallow.means["fusion"]["R@1"]
    assert deep.means["fusion"]["R@6"] == 1


# Differences


def test_a_difference_is_a_mean_and_its_interval() -> None:
    rng = np.random.default_rng(0)
    noise, baseline = rng.normal(0, 0.1, 400), rng.uniform(0, 1, 400)
    found = paired_difference(baseline + 0.03 + noise, baseline)
    expected = 0.03 + noise.mean()
    assert found.mean == pytest.approx(expected)
    # For so many queries it is the interval of the normal distribution.
    margin = 1.96 * noise.std() / math.sqrt(400)
    assert found.low == pytest.approx(expected - margin, abs=margin / 10)
    assert found.high == pytest.approx(expected + margin, abs=margin / 10)
    assert (
        str(found) == f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    )


def test_a_difference_is_the_same_each_time_and_the_other_way_round() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.uniform(0, 1, (2, 50))
    there, back = paired_difference(one, other), paired_difference(other, one)
    assert paired_difference(one, other) == there
    assert (back.mean, back.low) == pytest.approx((-there.mean, -there.high), abs=2e-3)


def test_equal_rankings_do_not_differ(store: HybridVectorStore) -> None:
    evaluation = evaluate(store, QUERIES, QRELS)
    same = evaluation.difference("dense", "dense")
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    sparse = evaluation.difference("sparse", measure="R@10")
    expected = evaluation.means["sparse"]["R@10"] - evaluation.means["fusion"]["R@10"]
    assert sparse.mean == pytest.approx(expected)


# Output


def test_a_table_is_printed(store: HybridVectorStore) -> None:
    evaluation = evaluate(store, QUERIES, QRELS)
    head, *rows = str(evaluation).splitlines()
    named = ["nDCG@10", "RR@10", "R@100"]
    assert head.split() == [*named, "nDCG@10", "vs", "fusion", "[95", "%", "CI]"]
    assert [row.split()[0] for row in rows] == ["dense", "sparse", "multi-vector", "fusion"]
    assert rows[3].split()[1] == f"{100 * evaluation.means['fusion']['nDCG@10']:.1f}"
    assert f"{evaluation.difference('multi_vector')}" in rows[2]


def test_of_one_query_there_are_measures_but_no_differences(store: HybridVectorStore) -> None:
    evaluation = evaluate(store, {"q1": QUERIES["q1"]}, QRELS)
    assert "CI" not in str(evaluation)
    assert evaluation.to_dict()["differences"] == {}
    with pytest.raises(InvalidInputError, match="two or more"):
        evaluation.difference("dense")


def test_an_evaluation_is_json(store: HybridVectorStore) -> None:
    evaluation = evaluate(store, QUERIES, QRELS)
    found = json.loads(json.dumps(evaluation.to_dict()))
    assert found["queries"] == 6
    assert found["measures"]["fusion"]["nDCG@10"] == evaluation.means["fusion"]["nDCG@10"]
    assert found["differences"]["dense"]["nDCG@10"].keys() == {"mean", "low", "high"}


# Mistakes


@pytest.mark.parametrize("k", [(), 10, (0,), ("10",), (10, -1), None])
def test_cuts_are_whole_numbers(k: object, store: HybridVectorStore) -> None:
    with pytest.raises(InvalidInputError, match=r"such as \(10, 100\)"):
        evaluate(store, QUERIES, QRELS, k)  # type: ignore[arg-type]


@pytest.mark.parametrize("fetch_k", [0, -5, 1.5])
def test_candidates_are_counted_in_whole_numbers(fetch_k: Any, store: HybridVectorStore) -> None:
    for call in (evaluate, tune_weights):
        with pytest.raises(InvalidInputError, match="fetch_k"):
            call(store, QUERIES, QRELS, fetch_k=fetch_k)
    with pytest.raises(InvalidInputError, match="fetch_k"):
        store.candidates(["a"], fetch_k)  # at once, and not when the first one is asked for


@pytest.mark.parametrize("names", [["dense"], []])
def test_fusions_have_names_of_their_own(names: list[str], store: HybridVectorStore) -> None:
    with pytest.raises(InvalidInputError, match="must have names"):
        evaluate(store, QUERIES, QRELS, fusions=dict.fromkeys(names, WeightedSum()))


@pytest.mark.parametrize("qrels", [{}, {"other": {"limits": 1}}, {"q1": {}}])
def test_without_judgements_nothing_is_measured(
    qrels: dict[str, dict[str, int]], store: HybridVectorStore
) -> None:
    with pytest.raises(InvalidInputError, match="none of the 6 queries has a judgement"):
        evaluate(store, QUERIES, qrels)


def test_relevant_documents_that_are_not_there_are_warned_of(store: HybridVectorStore) -> None:
    qrels = {**QRELS, "q6": {"loading": 1, "laoding": 1}}
    with pytest.warns(UserWarning, match=r"1 of 7 relevant documents .* such as 'laoding'"):
        evaluation = evaluate(store, QUERIES, qrels)
    assert evaluation.values["fusion"]["R@10"][5] == 0.5


WRONG_TYPES: dict[str, tuple[object, object, str]] = {
    "queries as a list": (["a"], QRELS, "list and dict; give dictionaries"),
    "swapped": (QRELS, QUERIES, "the query 'q1' is dict"),
    "sets of ids": (
        QUERIES,
        {"q1": {"limits"}},
        "the judgements of 'q1' are {'limits'}. Give",
    ),
    "fractions": (QUERIES, {"q1": {"limits": 0.5}}, "Give whole numbers"),
    "a time": (QUERIES, {"q1": {"limits": 10**10}}, "up to 1000"),
    "a blank query": ({**QUERIES, "q1": " "}, QRELS, "the query 'q1' is blank"),
}


@pytest.mark.parametrize("case", WRONG_TYPES)
def test_what_is_of_the_wrong_type_is_named(case: str, store: HybridVectorStore) -> None:
    queries, qrels, said = WRONG_TYPES[case]
    with pytest.raises(InvalidInputError, match=said):
        evaluate(store, queries, qrels)  # type: ignore[arg-type]


def test_a_store_without_any_relevant_document_is_an_error() -> None:
    with pytest.raises(InvalidInputError, match=r"none of the 6 .* Fill the store"):
        evaluate(HybridVectorStore(HashEncoder()), QUERIES, QRELS)


def test_an_unknown_name_is_an_error(store: HybridVectorStore) -> None:
    evaluation = evaluate(store, QUERIES, QRELS)
    with pytest.raises(InvalidInputError, match="no 'colbert'; rankings are dense, sparse, multi"):
        evaluation.difference("colbert")
    with pytest.raises(InvalidInputError, match=r"no 'MAP'; .* measures nDCG@10, RR@10"):
        evaluation.difference("dense", measure="MAP")
