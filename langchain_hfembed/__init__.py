"""LangChain embeddings for Hugging Face models, and hybrid retrieval with BGE-M3's three views.

Names are loaded when they are first used: importing this package loads neither torch nor
FlagEmbedding nor sentence_transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_hfembed.embeddings.base import HybridEncoder
    from langchain_hfembed.embeddings.bge_m3 import BGEM3Embeddings
    from langchain_hfembed.embeddings.composed import ComposedEncoder
    from langchain_hfembed.embeddings.endpoint import HuggingFaceEndpointEmbeddings
    from langchain_hfembed.embeddings.endpoint_sparse import HuggingFaceEndpointSparseEmbeddings
    from langchain_hfembed.embeddings.env import embeddings_from_env
    from langchain_hfembed.embeddings.local import HuggingFaceEmbeddings
    from langchain_hfembed.embeddings.local_multi_vector import HuggingFaceMultiVectorEmbeddings
    from langchain_hfembed.embeddings.local_sparse import HuggingFaceSparseEmbeddings
    from langchain_hfembed.embeddings.sagemaker import SageMakerEndpointEmbeddings
    from langchain_hfembed.errors import (
        AuthenticationError,
        CheckpointError,
        ColdStartError,
        EmbeddingError,
        EndpointTimeoutError,
        HybridIndexError,
        IndexLockedError,
        IndexMismatchError,
        InvalidInputError,
        InvalidResponseError,
        ModelNotFoundError,
        RateLimitError,
    )
    from langchain_hfembed.explain import Explanation, TokenMatch
    from langchain_hfembed.fusion import Fusion, ReciprocalRankFusion, WeightedSum
    from langchain_hfembed.hits import Hit
    from langchain_hfembed.http.report import EndpointReport
    from langchain_hfembed.http.tei import EndpointInfo
    from langchain_hfembed.index.base import HybridIndex, IndexRecord
    from langchain_hfembed.index.qdrant.index import QdrantIndex
    from langchain_hfembed.index.sqlite.index import SQLiteIndex
    from langchain_hfembed.index.transfer import copy_index, export_index, import_index
    from langchain_hfembed.rerankers import HuggingFaceEndpointReranker, HybridReranker
    from langchain_hfembed.retriever import HybridRetriever
    from langchain_hfembed.scoring import Scores, mean_maxsim, score, sparse_dot
    from langchain_hfembed.vectors import HybridEmbedding, PerView, SparseVector, View
    from langchain_hfembed.vectorstore import HybridVectorStore

_HOMES = {
    "embeddings.base": ("HybridEncoder",),
    "embeddings.bge_m3": ("BGEM3Embeddings",),
    "embeddings.composed": ("ComposedEncoder",),
    "embeddings.endpoint": ("HuggingFaceEndpointEmbeddings",),
    "embeddings.endpoint_sparse": ("HuggingFaceEndpointSparseEmbeddings",),
    "embeddings.env": ("embeddings_from_env",),
    "embeddings.local": ("HuggingFaceEmbeddings",),
    "embeddings.local_multi_vector": ("HuggingFaceMultiVectorEmbeddings",),
    "embeddings.local_sparse": ("HuggingFaceSparseEmbeddings",),
    "embeddings.sagemaker": ("SageMakerEndpointEmbeddings",),
    "errors": (
        "AuthenticationError",
        "CheckpointError",
        "ColdStartError",
        "EmbeddingError",
        "EndpointTimeoutError",
        "HybridIndexError",
        "IndexLockedError",
        "IndexMismatchError",
        "InvalidInputError",
        "InvalidResponseError",
        "ModelNotFoundError",
        "RateLimitError",
    ),
    "explain": ("Explanation", "TokenMatch"),
    "fusion": ("Fusion", "ReciprocalRankFusion", "WeightedSum"),
    "hits": ("Hit",),
    "http.report": ("EndpointReport",),
    "http.tei": ("EndpointInfo",),
    "index.base": ("HybridIndex", "IndexRecord"),
    "index.qdrant.index": ("QdrantIndex",),
    "index.sqlite.index": ("SQLiteIndex",),
    "index.transfer": ("copy_index", "export_index", "import_index"),
    "rerankers": ("HuggingFaceEndpointReranker", "HybridReranker"),
    "retriever": ("HybridRetriever",),
    "scoring": ("Scores", "mean_maxsim", "score", "sparse_dot"),
    "vectors": ("HybridEmbedding", "PerView", "SparseVector", "View"),
    "vectorstore": ("HybridVectorStore",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AuthenticationError",
    "BGEM3Embeddings",
    "CheckpointError",
    "ColdStartError",
    "ComposedEncoder",
    "EmbeddingError",
    "EndpointInfo",
    "EndpointReport",
    "EndpointTimeoutError",
    "Explanation",
    "Fusion",
    "Hit",
    "HuggingFaceEmbeddings",
    "HuggingFaceEndpointEmbeddings",
    "HuggingFaceEndpointReranker",
    "HuggingFaceEndpointSparseEmbeddings",
    "HuggingFaceMultiVectorEmbeddings",
    "HuggingFaceSparseEmbeddings",
    "HybridEmbedding",
    "HybridEncoder",
    "HybridIndex",
    "HybridIndexError",
    "HybridReranker",
    "HybridRetriever",
    "HybridVectorStore",
    "IndexLockedError",
    "IndexMismatchError",
    "IndexRecord",
    "InvalidInputError",
    "InvalidResponseError",
    "ModelNotFoundError",
    "PerView",
    "QdrantIndex",
    "RateLimitError",
    "ReciprocalRankFusion",
    "SQLiteIndex",
    "SageMakerEndpointEmbeddings",
    "Scores",
    "SparseVector",
    "TokenMatch",
    "View",
    "WeightedSum",
    "copy_index",
    "embeddings_from_env",
    "export_index",
    "import_index",
    "mean_maxsim",
    "score",
    "sparse_dot",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
