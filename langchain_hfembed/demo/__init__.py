"""The demo model: a small multilingual encoder in BGE-M3's format that works offline.

`demo_model_folder()` returns its folder, for `BGEM3Embeddings` or FlagEmbedding to load.
"""

from __future__ import annotations

from langchain_hfembed.demo.model import (
    DOCUMENT_INSTRUCTION,
    QUERY_INSTRUCTION,
    demo_model_folder,
)

__all__ = ["DOCUMENT_INSTRUCTION", "QUERY_INSTRUCTION", "demo_model_folder"]
