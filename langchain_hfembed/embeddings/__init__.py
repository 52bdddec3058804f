"""The embedding classes, one file an encoder; names are loaded when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_hfembed.embeddings.bge_m3 import BGEM3Embeddings
    from langchain_hfembed.embeddings.composed import ComposedEncoder
    from langchain_hfembed.embeddings.endpoint import HuggingFaceEndpointEmbeddings
    from langchain_hfembed.embeddings.endpoint_sparse import HuggingFaceEndpointSparseEmbeddings
    from langchain_hfembed.embeddings.env import embeddings_from_env
    from langchain_hfembed.embeddings.local import HuggingFaceEmbeddings
    from langchain_hfembed.embeddings.local_multi_vector import HuggingFaceMultiVectorEmbeddings
    from langchain_hfembed.embeddings.local_sparse import HuggingFaceSparseEmbeddings
    from langchain_hfembed.embeddings.sagemaker import SageMakerEndpointEmbeddings

_HOME_OF = {
    "BGEM3Embeddings": "bge_m3",
    "ComposedEncoder": "composed",
    "HuggingFaceEmbeddings": "local",
    "HuggingFaceEndpointEmbeddings": "endpoint",
    "HuggingFaceEndpointSparseEmbeddings": "endpoint_sparse",
    "HuggingFaceMultiVectorEmbeddings": "local_multi_vector",
    "HuggingFaceSparseEmbeddings": "local_sparse",
    "SageMakerEndpointEmbeddings": "sagemaker",
    "embeddings_from_env": "env",
}

__all__ = [
    "BGEM3Embeddings",
    "ComposedEncoder",
    "HuggingFaceEmbeddings",
    "HuggingFaceEndpointEmbeddings",
    "HuggingFaceEndpointSparseEmbeddings",
    "HuggingFaceMultiVectorEmbeddings",
    "HuggingFaceSparseEmbeddings",
    "SageMakerEndpointEmbeddings",
    "embeddings_from_env",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
