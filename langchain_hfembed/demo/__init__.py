"""The demo: a small multilingual model in BGE-M3's format that works offline, and a corpus."""

from __future__ import annotations

from langchain_hfembed.demo.model import (
    DOCUMENT_INSTRUCTION,
    QUERY_INSTRUCTION,
    demo_model_folder,
)
from langchain_hfembed.demo.search import demo_documents, demo_embeddings
from langchain_hfembed.demo.server import DemoServer

__all__ = [
    "DOCUMENT_INSTRUCTION",
    "QUERY_INSTRUCTION",
    "DemoServer",
    "demo_documents",
    "demo_embeddings",
    "demo_model_folder",
]
