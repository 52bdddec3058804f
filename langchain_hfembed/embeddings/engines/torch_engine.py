"""One forward pass of a BGE-M3 checkpoint in torch, all views out of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from threadpoolctl import ThreadpoolController
from torch import nn

from langchain_hfembed.embeddings.checkpoint import Checkpoint, Dtype
from langchain_hfembed.embeddings.engines import processor
from langchain_hfembed.embeddings.engines.base import (
    Batch,
    BatchOutput,
    is_out_of_memory,
    max_cached_tokens,
)
from langchain_hfembed.embeddings.engines.bert import Bert, is_bert
from langchain_hfembed.embeddings.engines.heads import read_heads
from langchain_hfembed.embeddings.engines.packed import PackedEncoder, on_device
from langchain_hfembed.embeddings.engines.padded import PaddedEncoder
from langchain_hfembed.embeddings.engines.pretrained import load_model, max_positions
from langchain_hfembed.embeddings.tokenizer import load_tokenizer
from langchain_hfembed.vectors import View

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

logger = logging.getLogger(__name__)

_GPU_TOKENS = 16_384
# What pays for one thread more. Threads meet after each operation, and on a busy machine wait there
# for one that has no core: a query of a small model took up to 180 ms with two threads on two busy
# cores, up to 16 with one; on two idle cores 6 and 7.
_FLOPS_A_THREAD = 2e9


class TorchEngine:
    """Model, heads and tokenizer in torch; see `Engine`.

    Args:
        checkpoint: The folder.
        device: A torch device; None for the first GPU, else Apple's, else the CPU.
        dtype: Precision to compute in; `"auto"` is float16 on GPUs, bfloat16 on CPUs that have it
            in hardware, float32 on others.
        normalize: Scale dense and token vectors to length 1.

    Raises:
        CheckpointError: If a head does not fit the model.
        ValueError: If the device can't be used here.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, device: str | None, dtype: Dtype, normalize: bool
    ) -> None:
        target = _usable(device or _default_device())
        if dtype == "auto":
            dtype = _default_dtype(target)
        logger.info("loading %s on %s as %s", checkpoint.folder, target, dtype)
        model = load_model(checkpoint)
        heads = read_heads(checkpoint.folder, model.config.hidden_size)
        self.max_positions = max_positions(model)
        self.tokenizer = load_tokenizer(checkpoint.folder)
        self.pooling, self.normalize = checkpoint.pooling, normalize
        placed = {"device": target, "dtype": getattr(torch, dtype)}
        self.sparse_head, self.colbert_head = (head.to(**placed) for head in heads)
        model.to(**placed)
        self.device = model.device  # with its number: which "cuda" means depends on the thread
        self.device_name = str(self.device)
        self.encoder = PackedEncoder(Bert(model)) if is_bert(model) else PaddedEncoder(model)
        self.max_batch_tokens = _GPU_TOKENS
        if self.device.type == "cpu":
            self.max_batch_tokens = max_cached_tokens(model.config)
        self._threads = ThreadpoolController().select(user_api="openmp")

    def start(self, batch: Batch, views: Collection[View]) -> Callable[[], BatchOutput]:
        """Run the model; see `Engine.start`."""
        try:
            with torch.inference_mode(), self._threads_for(batch):
                return self._read_out(self._forward(batch, views))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Not in the except block, where the traceback holds the tensors that filled the memory.
        self._release_memory()
        raise MemoryError

    def _forward(self, batch: Batch, views: Collection[View]) -> dict[str, torch.Tensor]:
        """The outputs in float32, in which they are normalised, too."""
        pool = self._pooling_of(batch)
        states = self.encoder(batch)
        outputs = {}
        if "dense" in views:
            outputs["dense"] = self._scaled(pool(states))
        if "sparse" in views:
            outputs["token_weights"] = torch.relu(self.sparse_head(states)).squeeze(-1).float()
        if "multi_vector" in views:
            outputs["token_vectors"] = self._scaled(self.colbert_head(states))
        return outputs

    def _pooling_of(self, batch: Batch) -> Callable[[torch.Tensor], torch.Tensor]:
        """From states of tokens to one a text; before the encoder runs, for which it would wait."""
        if self.pooling == "cls":
            starts = on_device(batch.starts, self.device)
            return lambda states: states[starts]
        texts, lengths = on_device(batch.texts, self.device), on_device(batch.lengths, self.device)

        def mean(states: torch.Tensor) -> torch.Tensor:
            # float32, as FlagEmbedding has it: the sum over 8,192 tokens can exceed float16.
            shape = len(lengths), states.shape[1]
            sums = torch.zeros(shape, dtype=torch.float32, device=self.device)
            return sums.index_add_(0, texts, states.float()) / lengths[:, None]

        return mean

    def _scaled(self, vectors: torch.Tensor) -> torch.Tensor:
        vectors = vectors.float()
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors

    def _read_out(self, outputs: dict[str, torch.Tensor]) -> Callable[[], BatchOutput]:
        """Copy to the host; off a CUDA device without waiting for it."""
        if self.device.type != "cuda":
            host, wait = {name: tensor.cpu() for name, tensor in outputs.items()}, _nothing
        else:
            host = {
                name: torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(
                    tensor, non_blocking=True
                )
                for name, tensor in outputs.items()
            }
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(torch.cuda.current_stream(self.device))
            wait = copied.synchronize

        def finish() -> BatchOutput:
            wait()
            arrays = {name: tensor.numpy() for name, tensor in host.items()}
            return BatchOutput(
                arrays.get("dense"), arrays.get("token_weights"), arrays.get("token_vectors")
            )

        return finish

    def _threads_for(self, batch: Batch) -> AbstractContextManager[Any]:
        """As many threads as the batch pays for; OpenMP's setting, which is this thread's alone."""
        pays_for = 1 + int(self.encoder.flops_a_token * len(batch.ids) / _FLOPS_A_THREAD)
        if self.device.type != "cpu" or pays_for >= torch.get_num_threads():
            return nullcontext()
        # Not torch.set_num_threads, which is also what threads born meanwhile start with.
        limited: AbstractContextManager[Any] = self._threads.limit(limits=pays_for)
        return limited

    def _release_memory(self) -> None:
        """Give cached blocks back to the device, after it ran out of memory."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()


def _usable(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    # Of a build without it AssertionError, of one that finds none RuntimeError.
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"device={name!r} can't be used here: {reason}. Leave it out for the first GPU, else "
            'the CPU, or give one that there is, such as "cpu"'
        ) from error
    return device


def _default_device() -> str:
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _default_dtype(device: torch.device) -> Dtype:
    if device.type != "cpu":
        return "float16"
    return "bfloat16" if processor.computes_bfloat16() else "float32"


def _nothing() -> None:
    pass
