"""SQLite, Qdrant Edge and qdrant-client find the same documents, with the same scores.

All are held against the definition, too: score everything, keep what passes the filter. Where
`QDRANT_URL` is set, a server joins in.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_hfembed import (
    HybridEmbedding,
    HybridIndex,
    IndexRecord,
    QdrantIndex,
    SparseVector,
    SQLiteIndex,
    View,
    WeightedSum,
    scoring,
)
from langchain_hfembed.fusion import fuse
from langchain_hfembed.hits import Hit, find
from langchain_hfembed.index.filters import Filter, matches, parse_filter
from langchain_hfembed.vectors import VIEWS
from tests.unit_tests.index.test_filters import filters, metadatas

qdrant_client = pytest.importorskip("qdrant_client")
pytest.importorskip("qdrant_edge")

DIM, TOKEN_DIM, WORDS = 6, 4, 12
TOLERANCE = 1e-5

views = st.sets(st.sampled_from(VIEWS), min_size=1).map(
    lambda chosen: tuple(view for view in VIEWS if view in chosen)
)


def _embedding(rng: np.random.Generator, of: Sequence[View]) -> HybridEmbedding:
    """Continuous numbers, which never tie; some texts have no words, some share none."""
    words = np.sort(rng.choice(WORDS, rng.integers(0, 5), replace=False)).astype(np.int32)
    weights = rng.uniform(0.1, 2, len(words)).astype(np.float32)
    tokens = rng.normal(size=(rng.integers(1, 5), TOKEN_DIM)).astype(np.float32)
    return HybridEmbedding(
        rng.normal(size=DIM).astype(np.float32) if "dense" in of else None,
        SparseVector(words, weights) if "sparse" in of else None,
        tokens if "multi_vector" in of else None,
    )


@contextmanager
def _places() -> Iterator[dict[str, HybridIndex]]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        opened: dict[str, Any] = {
            "sqlite": SQLiteIndex(multi_vector_dtype="float32"),
            "edge": QdrantIndex(path=Path(folder) / "edge", multi_vector_dtype="float32"),
            "local": QdrantIndex(
                client=qdrant_client.QdrantClient(":memory:"), multi_vector_dtype="float32"
            ),
        }
        if "QDRANT_URL" in os.environ:
            opened["server"] = stack.enter_context(server_index())
        for index in opened.values():
            stack.callback(index.close)
        yield opened


@contextmanager
def server_index() -> Iterator[QdrantIndex]:
    """A collection of its own on the server at `QDRANT_URL`, removed afterwards."""
    url, name = os.environ["QDRANT_URL"], f"hfembed-test-{uuid4().hex}"
    key = os.environ.get("QDRANT_API_KEY")
    client = qdrant_client.QdrantClient(url=url, api_key=key, check_compatibility=False)
    try:
        yield QdrantIndex(name, client=client, multi_vector_dtype="float32")
    finally:
        client.delete_collection(name)
        client.close()


def _found(hits: Sequence[Hit]) -> list[str | None]:
    return [hit.document.id for hit in hits]


def _numbers(hits: Sequence[Hit]) -> np.ndarray:
    return np.array(
        [
            [np.nan if number is None else number for number in (*hit.scores.to_dict().values(),)]
            + [hit.score]
            for hit in hits
        ]
    )


def _by_definition(
    records: Sequence[IndexRecord], query: HybridEmbedding, filter_: Filter | None
) -> tuple[list[str], scoring.Scores]:
    passing = [each for each in records if filter_ is None or matches(filter_, each.metadata)]
    scores = scoring.score(query, (each.embedding for each in passing))
    if not passing:
        scores = scoring.Scores(**dict.fromkeys(query.views, np.zeros(0, np.float32)))
    return [each.id for each in passing], scores


@st.composite
def _weights(draw: st.DrawFn, of: Sequence[View]) -> WeightedSum:
    weight = st.floats(0.1, 1)
    normalization = draw(st.sampled_from(["min_max", "dbsf", None]))
    return WeightedSum(**{view: draw(weight) for view in of}, normalization=normalization)


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_index_finds_the_same_documents_with_the_same_scores(data: st.DataObject) -> None:
    stored = data.draw(views, label="views")
    asked = data.draw(views.map(lambda some: [v for v in some if v in stored] or stored))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    seen = data.draw(st.lists(metadatas, max_size=9), label="metadata")
    records = [
        IndexRecord(f"id {number}", f"text {number}", each, _embedding(rng, stored))
        for number, each in enumerate(seen)
    ]
    # Some are stored twice, the second time with other vectors, and some are removed.
    first = [IndexRecord(each.id, "old", {}, _embedding(rng, stored)) for each in records[::2]]
    removed = [each.id for each in records if rng.random() < 0.2]
    left = [each for each in records if each.id not in removed]
    with _places() as indexes:
        for index in indexes.values():
            index.upsert(first)
            index.upsert(records)
            index.delete(removed)
            assert index.count() == len(left)
        for _ in range(3):
            query = _embedding(rng, asked)
            given_filter = data.draw(st.none() | filters, label="filter")
            filter_ = None if given_filter is None else parse_filter(given_filter)
            fetch_k = data.draw(st.integers(1, 12), label="fetch_k")
            k = data.draw(st.integers(1, 12), label="k")
            fusion = data.draw(_weights(asked), label="fusion")
            found = {
                name: find(index, query, k=k, fetch_k=fetch_k, fusion=fusion, filter_=filter_)
                for name, index in indexes.items()
            }
            for name, hits in found.items():
                assert _found(hits) == _found(found["sqlite"]), name
                np.testing.assert_allclose(
                    _numbers(hits), _numbers(found["sqlite"]), atol=TOLERANCE, err_msg=name
                )
                assert [hit.document for hit in hits] == [h.document for h in found["sqlite"]]
            proposals = {name: i.candidates(query, fetch_k, filter_) for name, i in indexes.items()}
            assert all(proposal == proposals["sqlite"] for proposal in proposals.values())
            if fetch_k >= len(left):
                ids, scores = _by_definition(left, query, filter_)
                fused = fuse(fusion, scores)
                best = scoring.top_k(fused, k)
                assert proposals["edge"] == ids
                assert _found(found["edge"]) == [ids[position] for position in best]
                np.testing.assert_allclose(
                    [hit.score for hit in found["edge"]], fused[best], atol=TOLERANCE
                )
