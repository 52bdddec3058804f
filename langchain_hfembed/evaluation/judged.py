"""Queries with judgements, and how well a ranking of their candidates agrees with these."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from langchain_hfembed.embeddings.base import check_text, warn
from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.evaluation.collection import HIGHEST, is_relevance
from langchain_hfembed.scoring import Scores
from langchain_hfembed.vectors import FloatArray
from langchain_hfembed.vectorstore import HybridVectorStore

try:
    import pytrec_eval
except ImportError as error:
    raise ImportError(f'{error}; measures need: pip install "langchain-hfembed[eval]"') from error


@dataclass(frozen=True, eq=False)
class JudgedQuery:
    """A query, its candidates, and what is known of them.

    Attributes:
        id: Its id.
        candidates: The ids of n documents.
        scores: Their scores in each view, shape `(n,)` each.
        relevance: Of judged documents, candidates or not, by id; 0 is not relevant.
    """

    id: str
    candidates: list[str]
    scores: Scores
    relevance: Mapping[str, int]


def score_queries(
    store: HybridVectorStore,
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    *,
    fetch_k: int | None = None,
    show_progress: bool = False,
) -> list[JudgedQuery]:
    """Search once for each query that has judgements; whatever is measured later starts from here.

    Args:
        store: Where to search.
        queries: Texts by query id.
        qrels: Relevance by query id and document id.
        fetch_k: Candidates of the dense and of the sparse view, each; None for the store's.
        show_progress: Show a bar.

    Warns:
        UserWarning: If relevant documents are not in the store; they count as not found.

    Raises:
        InvalidInputError: If no query has judgements, one is blank, none of the relevant documents
            is in the store, or the judgements are not of the right types.
    """
    _check_types(queries, qrels)
    judged = {query_id: text for query_id, text in queries.items() if qrels.get(query_id)}
    if blank := [query_id for query_id, text in judged.items() if not text.strip()]:
        raise InvalidInputError(f"the query {blank[0]!r} is blank; write it, or leave it out")
    if not judged:
        raise InvalidInputError(
            f"none of the {len(queries)} queries has a judgement. Check that the ids in qrels are "
            "those of the queries"
        )
    _check_documents(store, [qrels[query_id] for query_id in judged])
    found = store.candidates(list(judged.values()), fetch_k)
    with tqdm(found, total=len(judged), desc="searching", disable=not show_progress) as bar:
        return [
            JudgedQuery(query_id, candidates.ids, candidates.scores, qrels[query_id])
            for query_id, candidates in zip(judged, bar, strict=True)
        ]


def _check_types(queries: object, qrels: object) -> None:
    if not isinstance(queries, Mapping) or not isinstance(qrels, Mapping):
        raise InvalidInputError(
            f"queries and qrels are {type(queries).__name__} and {type(qrels).__name__}; give "
            "dictionaries by query id: {'q1': 'what does 424 mean?'}, {'q1': {'document-id': 1}}"
        )
    for query_id, text in queries.items():
        check_text(text, None, f"the query {query_id!r}")
    for query_id, judgements in qrels.items():
        if not isinstance(judgements, Mapping) or not all(map(is_relevance, judgements.values())):
            raise InvalidInputError(
                f"the judgements of {query_id!r} are {reprlib.repr(judgements)}. Give whole "
                f"numbers up to {HIGHEST} by document id, such as {{'document-id': 1}}"
            )


def _check_documents(store: HybridVectorStore, judgements: Iterable[Mapping[str, int]]) -> None:
    """Warn of relevant documents that are not there, which lowers all measures; refuse none."""
    relevant = dict.fromkeys(
        document_id
        for relevance in judgements
        for document_id, degree in relevance.items()
        if degree > 0
    )
    found = {document.id for document in store.get_by_ids(list(relevant))}
    if not (missing := [document_id for document_id in relevant if document_id not in found]):
        return
    if not found:
        raise InvalidInputError(
            f"none of the {len(relevant)} relevant documents is in the store, such as "
            f"{missing[0]!r}. Fill the store, or give qrels its documents' ids"
        )
    warn(
        f"{len(missing)} of {len(relevant)} relevant documents are not in the store, such as "
        f"{missing[0]!r}, and count as not found. Check that qrels have its documents' ids"
    )


class Judge:
    """Measures rankings of the candidates of some queries.

    Args:
        queries: The queries.
        k: Where rankings are cut.

    Source:
        trec_eval, by way of pytrec_eval: Van Gysel and de Rijke 2018, arXiv:1805.01597.
    """

    def __init__(self, queries: Sequence[JudgedQuery], k: Iterable[int]) -> None:
        self._queries = queries
        self._k = tuple(k)
        cuts = ",".join(map(str, self._k))
        self._evaluator = pytrec_eval.RelevanceEvaluator(
            {query.id: dict(query.relevance) for query in queries},
            {f"ndcg_cut.{cuts}", f"recall.{cuts}", "recip_rank"},
        )

    def measure(self, scores: Iterable[FloatArray]) -> dict[str, NDArray[np.float64]]:
        """Measures of each query, by name.

        Args:
            scores: Of each query's candidates; higher is better. Equal ones are ordered as
                trec_eval does it, by id.

        Returns:
            nDCG, RR (reciprocal rank) and R (recall) at each k, in `[0, 1]`, shape `(queries,)`.
        """
        deepest = max(self._k)
        run = {
            query.id: _best(query.candidates, values, deepest)
            for query, values in zip(self._queries, scores, strict=True)
        }
        found = self._evaluator.evaluate(run)
        rows = [found[query.id] for query in self._queries]
        measures = {}
        for k in self._k:
            rr = np.array([row["recip_rank"] for row in rows])
            measures[f"nDCG@{k}"] = np.array([row[f"ndcg_cut_{k}"] for row in rows])
            measures[f"RR@{k}"] = np.where(rr >= 1 / k, rr, 0)
            measures[f"R@{k}"] = np.array([row[f"recall_{k}"] for row in rows])
        return measures


def _best(ids: list[str], scores: FloatArray, k: int) -> dict[str, float]:
    """The best k, and what ties with the last of them: nothing else can be among the first k."""
    if k < len(ids):
        kept = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
        ids, scores = [ids[position] for position in kept], scores[kept]
    return dict(zip(ids, scores.tolist(), strict=True))
