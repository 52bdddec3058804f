"""The encoder's last hidden states of texts, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

SPECIAL_TOKENS = (0, 1, 2, 3, 250001)
"""XLM-RoBERTa's <s>, <pad>, </s>, <unk>, <mask>: they never enter the sparse view."""


@dataclass(frozen=True)
class States:
    """The encoder's last hidden states of some texts, one after the other."""

    ids: Integers
    hidden: npt.NDArray[np.float16]
    offsets: Integers

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def rows(self, texts: Integers, skip: int = 0) -> tuple[Integers, Integers]:
        """Token rows of some texts, less the first `skip` of each, and where each text starts."""
        ranges = [np.arange(self.offsets[i] + skip, self.offsets[i + 1]) for i in texts]
        starts = np.cumsum([0, *map(len, ranges)])[:-1]
        return np.concatenate(ranges), starts

    def tensor(self, rows: Integers) -> torch.Tensor:
        """Hidden states of some token rows, as float32."""
        return torch.from_numpy(self.hidden[rows].astype(np.float32))

    def take(self, texts: Integers) -> States:
        """Those of some texts alone."""
        rows, starts = self.rows(texts)
        return States(self.ids[rows], self.hidden[rows], np.append(starts, len(rows)))

    def dense(self) -> Floats:
        """Mean-pooled, L2-normalised vectors, shape `(texts, hidden)`."""
        sums: Floats = np.add.reduceat(self.hidden.astype(np.float32), self.offsets[:-1])
        sums /= np.linalg.norm(sums, axis=1, keepdims=True)
        return sums


class Encoder:
    """The demo model's encoder, with a cache on disk."""

    def __init__(self, folder: Path, cache: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()
        self.cache = cache

    def encode(self, texts: list[str], name: str, max_length: int) -> States:
        """Hidden states of the texts; read from the cache where the same texts were encoded."""
        digest = hashlib.sha256(json.dumps([texts, max_length]).encode()).hexdigest()[:12]
        path = self.cache / f"{name}-{digest}.npz"
        if not path.is_file():
            self._encode(texts, name, max_length, path)
        with np.load(path) as arrays:
            return States(arrays["ids"], arrays["hidden"], arrays["offsets"])

    @torch.inference_mode()
    def _encode(self, texts: list[str], name: str, max_length: int, path: Path) -> None:
        token_ids = self.tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
        lengths = np.array([len(ids) for ids in token_ids])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        hidden = np.empty((offsets[-1], self.model.config.hidden_size), np.float16)
        order = np.argsort(-lengths, kind="stable")
        with tqdm(total=int(offsets[-1]), desc=name, unit="token", mininterval=5) as progress:
            start = 0
            while start < len(order):
                batch = order[start : start + max(1, 2048 // lengths[order[start]])]
                start += len(batch)
                padded = self.tokenizer.pad(
                    {"input_ids": [token_ids[i] for i in batch]}, return_tensors="pt"
                )
                states = self.model(**padded).last_hidden_state.to(torch.float16).numpy()
                for row, i in zip(states, batch, strict=True):
                    hidden[offsets[i] : offsets[i + 1]] = row[: lengths[i]]
                progress.update(int(lengths[batch].sum()))
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, ids=np.concatenate(token_ids), hidden=hidden, offsets=offsets)
