"""One forward pass of a BGE-M3 checkpoint in torch, all views out of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_hfembed.embeddings.checkpoint import (
    COLBERT_HEAD,
    SPARSE_HEAD,
    Checkpoint,
    Dtype,
)
from langchain_hfembed.embeddings.tokenizer import TextTokenizer
from langchain_hfembed.errors import CheckpointError, EmbeddingError
from langchain_hfembed.vectors import FloatArray, View

if TYPE_CHECKING:
    from pathlib import Path

    import torch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextOutput:
    """What the model says of one text; None for a view that was not asked for.

    Attributes:
        dense: Shape `(dim,)`.
        token_weights: One weight a token, special tokens included, shape `(tokens,)`, 0 or more.
        multi_vector: One vector a token but the first, shape `(tokens - 1, colbert_dim)`.
    """

    dense: FloatArray | None
    token_weights: FloatArray | None
    multi_vector: FloatArray | None


class TorchEngine:
    """Model, heads and tokenizer, as FlagEmbedding loads them.

    Args:
        checkpoint: The folder.
        device: A torch device; None for the first GPU, else Apple's, else the CPU.
        dtype: Precision of the weights; `"auto"` is float16 on GPUs and float32 on CPUs.
        normalize: Scale dense and token vectors to length 1.

    Raises:
        CheckpointError: If a head does not fit the model.
        ImportError: If FlagEmbedding is not installed.

    Attributes:
        tokenizer: The model's.
        max_positions: The most tokens a text can have.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, device: str | None, dtype: Dtype, normalize: bool
    ) -> None:
        import torch

        self.device = torch.device(device or _default_device())
        if dtype == "auto":
            dtype = "float32" if self.device.type == "cpu" else "float16"
        colbert_dim = _check_heads(checkpoint)
        m3_embedder = _m3_embedder()
        logger.info("loading %s on %s as %s", checkpoint.folder, self.device, dtype)
        with _no_progress_bar():
            loaded = m3_embedder(
                str(checkpoint.folder),
                use_fp16=dtype == "float16",
                use_bf16=dtype == "bfloat16",
                devices=[str(self.device)],
                pooling_method=checkpoint.pooling,
                colbert_dim=colbert_dim,
            )
        modules, tokenizer = loaded.model, loaded.tokenizer
        loaded.model = None  # else FlagEmbedding moves the weights to the CPU when it is collected
        modules.to(self.device).eval()
        self.encoder, self.pooling = modules.model, checkpoint.pooling
        self.sparse_head, self.colbert_head = modules.sparse_linear, modules.colbert_linear
        self.normalize = normalize
        if not getattr(tokenizer, "is_fast", False):
            raise CheckpointError(
                f"{checkpoint.folder} has no fast tokenizer; add a tokenizer.json, which "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes"
            )
        self.tokenizer = TextTokenizer(tokenizer.backend_tokenizer, tokenizer.all_special_ids)
        self.pad_id: int = tokenizer.pad_token_id or 0
        self.max_positions = _max_positions(self.encoder)

    def forward(self, batch: Sequence[Sequence[int]], views: Sequence[View]) -> list[TextOutput]:
        """Run the model once.

        Args:
            batch: Token ids of each text, special tokens included, without padding.
            views: What to compute.

        Returns:
            The outputs, one a text, float32.
        """
        import torch

        lengths = [len(ids) for ids in batch]
        padded = torch.full((len(batch), max(lengths)), self.pad_id)
        for row, ids in zip(padded, batch, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        is_token = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        padded, is_token = padded.to(self.device), is_token.to(self.device)
        with torch.inference_mode():
            hidden = self.encoder(
                input_ids=padded, attention_mask=is_token.long()
            ).last_hidden_state
            dense = self._dense(hidden, is_token) if "dense" in views else [None] * len(batch)
            # Padding is dropped before the heads: it costs nothing, and can't reach a maximum.
            tokens = hidden[is_token]
            weights: list[Any] = [None] * len(batch)
            if "sparse" in views:
                weights = _split(torch.relu(self.sparse_head(tokens)).squeeze(-1), lengths)
            vectors: list[Any] = [None] * len(batch)
            if "multi_vector" in views:
                projected = self._scaled(self.colbert_head(tokens))
                vectors = [rows[1:] for rows in _split(projected, lengths)]
        return [TextOutput(*parts) for parts in zip(dense, weights, vectors, strict=True)]

    def release_memory(self) -> None:
        """Give cached blocks back to the device, after it ran out of memory."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def _dense(self, hidden: torch.Tensor, is_token: torch.Tensor) -> FloatArray:
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            # float32, as FlagEmbedding has it: the sum over 8,192 tokens can exceed float16.
            mask = is_token.unsqueeze(-1).float()
            pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return _to_numpy(self._scaled(pooled))

    def _scaled(self, vectors: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory; on a CPU and on Apple's GPUs only the text tells."""
    import torch

    phrases = ("out of memory", "can't allocate memory", "not enough memory")  # the last: Windows
    return isinstance(error, torch.OutOfMemoryError) or any(
        phrase in str(error).lower() for phrase in phrases
    )


def _default_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _m3_embedder() -> Any:
    try:
        from FlagEmbedding import BGEM3FlagModel
    except ImportError as error:
        raise ImportError(
            'BGEM3Embeddings needs FlagEmbedding: pip install "langchain-hfembed[bge-m3]"'
        ) from error
    return BGEM3FlagModel


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Loading weights shows a bar, which lasts a moment and spoils the output of scripts."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _check_heads(checkpoint: Checkpoint) -> int:
    """Hold both heads against the model, since FlagEmbedding's own errors name no file.

    Returns:
        The dimension of the multi-vector view.
    """
    from transformers import AutoConfig

    hidden_size = AutoConfig.from_pretrained(checkpoint.folder).hidden_size
    colbert_dim = 0
    for name, rows in ((SPARSE_HEAD, 1), (COLBERT_HEAD, None)):
        weight, bias = _read_head(checkpoint.folder / name)
        dim = rows or next(iter(weight), 0)
        if not dim or weight != (dim, hidden_size) or bias != (dim,):
            needed = rows or "colbert_dim"
            raise CheckpointError(
                f"{checkpoint.folder / name} has a weight of shape {weight} and a bias of shape "
                f"{bias}; the model needs ({needed}, {hidden_size}) and ({needed},). It belongs to "
                "another model: copy the file that came with this one"
            )
        colbert_dim = dim
    return colbert_dim


def _read_head(file: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of a head's weight and bias."""
    import pickle

    import torch

    message = f"{file} is not a head of BGE-M3 (a state_dict with weight and bias)"
    try:
        # weights_only: a head out of an unknown folder must not be able to run code.
        state = torch.load(file, map_location="cpu", weights_only=True)
    # What a damaged file raises depends on the byte: an opcode, a length, an encoding.
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AssertionError,
        AttributeError,
        EOFError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        # Not torch's own words, which advise to load it with weights_only=False.
        raise CheckpointError(
            f"{message}: {type(error).__name__}. Copy it again from where the model came from"
        ) from error
    parts = state if isinstance(state, dict) else {}
    shapes = {name: tuple(part.shape) for name, part in parts.items() if torch.is_tensor(part)}
    if set(parts) != {"weight", "bias"} or len(shapes) != 2:
        raise CheckpointError(
            f"{message}; it holds {type(state).__name__} {sorted(map(str, parts))}"
        )
    return shapes["weight"], shapes["bias"]


def _max_positions(encoder: Any) -> int:
    """Positions of the model; RoBERTa's family counts them from `padding_idx + 1`."""
    table = getattr(encoder.embeddings, "position_embeddings", None)
    if table is None:
        raise EmbeddingError(f"{type(encoder).__name__} has no table of positions; unsupported")
    return int(table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1))


def _split(flat: torch.Tensor, lengths: list[int]) -> list[FloatArray]:
    return np.split(_to_numpy(flat), np.cumsum(lengths)[:-1])


def _to_numpy(tensor: torch.Tensor) -> FloatArray:
    array: FloatArray = tensor.float().cpu().numpy()
    return array
