"""Texts into token ids and back, from many threads at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_hfembed.errors import CheckpointError


class TextTokenizer:
    """A `tokenizers.Tokenizer` that neither pads nor truncates.

    Transformers' wrapper sets both on the shared tokenizer at each call, so that threads with
    different lengths cut each other's texts. This one's state never changes.

    Args:
        backend: The `tokenizers.Tokenizer`. Its truncation and padding are turned off.
        special_ids: Ids of the tokens that stand for no text.

    Attributes:
        special_ids: Likewise, sorted.
    """

    def __init__(self, backend: Any, special_ids: list[int]) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.special_ids: NDArray[np.int64] = np.unique(np.array(special_ids, np.int64))
        framed = backend.encode("a").special_tokens_mask
        self._closing = len(framed) - framed.index(0) - framed.count(0)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, at full length."""
        return [encoding.ids for encoding in self._backend.encode_batch(texts)]

    def cut(self, ids: list[int], limit: int) -> list[int]:
        """The first `limit` ids, of which the closing special tokens remain the last."""
        if len(ids) <= limit:
            return ids
        kept = limit - self._closing
        return ids[:kept] + ids[len(ids) - self._closing :]

    def decode(self, token_id: int) -> str:
        """The text of a token, or its name where it has no text of its own."""
        text: str = self._backend.decode([token_id], skip_special_tokens=False)
        return text if text.strip() else str(self._backend.id_to_token(token_id) or "")


def load_tokenizer(folder: Path) -> TextTokenizer:
    """The tokenizer of a checkpoint.

    Raises:
        CheckpointError: If it can only be run in Python.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(
            f"{folder} has no fast tokenizer; add a tokenizer.json, which "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes"
        )
    return TextTokenizer(tokenizer.backend_tokenizer, tokenizer.all_special_ids)
