"""How well the heads retrieve: each view alone, and the package's default search."""

from __future__ import annotations

import numpy as np
import pytrec_eval
import scipy.sparse

from langchain_hfembed import Scores, WeightedSum
from langchain_hfembed.scoring import top_k
from langchain_hfembed.vectors import View
from scripts.linear_heads import Heads
from scripts.token_states import SPECIAL_TOKENS, Floats, Integers, States


def evaluate(
    heads: Heads, queries: States, documents: States, answers: list[list[int]]
) -> dict[str, float]:
    """nDCG@10 of each view alone, over all documents, and of the default search ("fused")."""
    scores = all_scores(heads, queries, documents)
    rankings: dict[str, list[Integers]] = {
        view: [top_k(row, 10) for row in values] for view, values in scores.items()
    }
    rankings["fused"] = [
        default_search(Scores(**{view: values[query] for view, values in scores.items()}), 10)
        for query in range(len(queries))
    ]
    return {name: ndcg_at_10(found, answers) for name, found in rankings.items()}


def sparse_matrix(heads: Heads, states: States) -> scipy.sparse.csr_matrix:
    """Sparse vectors of all texts, one a row."""
    cells: dict[tuple[int, int], float] = {}
    text = np.repeat(np.arange(len(states)), np.diff(states.offsets))
    weights = np.concatenate(
        [
            heads.token_weights(states.tensor(rows)).numpy()
            for rows in np.array_split(np.arange(len(states.ids)), len(states.ids) // 65536 + 1)
        ]
    )
    kept = (weights > 0) & ~np.isin(states.ids, SPECIAL_TOKENS)
    for row, column, weight in zip(
        text[kept].tolist(), states.ids[kept].tolist(), weights[kept].tolist(), strict=True
    ):
        cells[row, column] = max(weight, cells.get((row, column), 0.0))
    places = np.array(list(cells), dtype=np.int64).reshape(-1, 2).T
    values = np.array(list(cells.values()), dtype=np.float32)
    return scipy.sparse.csr_matrix((values, places), (len(states), 250_002))


def all_scores(heads: Heads, queries: States, documents: States) -> dict[View, Floats]:
    """Scores of every query with every document, by view, each of shape `(queries, documents)`."""
    query_rows, query_starts = queries.rows(np.arange(len(queries)), skip=1)
    query_vectors = heads.multi_vector(queries.tensor(query_rows))
    multi_vector = np.empty((len(queries), len(documents)), np.float32)
    counts = np.diff([*query_starts, len(query_rows)])[:, None]
    for part in np.array_split(np.arange(len(documents)), len(documents) // 32 + 1):
        rows, starts = documents.rows(part, skip=1)
        cosines = (query_vectors @ heads.multi_vector(documents.tensor(rows)).T).numpy()
        best = np.maximum.reduceat(cosines, starts, axis=1)
        multi_vector[:, part] = np.add.reduceat(best, query_starts, axis=0) / counts
    sparse = sparse_matrix(heads, queries) @ sparse_matrix(heads, documents).T
    return {
        "dense": queries.dense() @ documents.dense().T,
        "sparse": sparse.toarray(),
        "multi_vector": multi_vector,
    }


def default_search(scores: Scores, k: int, fetch_k: int = 100) -> Integers:
    """What `HybridVectorStore.search` finds with its default fusion.

    Args:
        scores: One query's scores of all documents, in all three views.
        k: How many documents, at most.
        fetch_k: Candidates of the dense and of the sparse view, each.

    Returns:
        Positions of documents, the best first, ties by position.
    """
    assert scores.dense is not None
    assert scores.sparse is not None
    if fetch_k >= len(scores):
        candidates = np.arange(len(scores))
    else:
        sparse = top_k(scores.sparse, fetch_k)
        candidates = np.union1d(top_k(scores.dense, fetch_k), sparse[scores.sparse[sparse] > 0])
    fused = WeightedSum()(Scores(**{view: values[candidates] for view, values in scores.present()}))
    return candidates[top_k(fused, k)]


def ndcg_at_10(rankings: list[Integers], answers: list[list[int]]) -> float:
    """Mean nDCG@10 of binary judgements, in percent; one ranking and its answers a query."""
    qrels = {str(query): dict.fromkeys(map(str, found), 1) for query, found in enumerate(answers)}
    # Ranks stand in for scores: among equal scores the measure would order documents by id.
    run = {
        str(query): {str(document): -float(rank) for rank, document in enumerate(ranking)}
        for query, ranking in enumerate(rankings)
    }
    measured = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(run)
    return 100 * float(np.mean([values["ndcg_cut_10"] for values in measured.values()]))
