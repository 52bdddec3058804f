"""FlagEmbedding's interface to BGE-M3, so that code written for it changes its import line only."""

# ruff: noqa: PLR0917 - what can be passed by position is FlagEmbedding's choice

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from langchain_hfembed.embeddings.base import check_text, check_texts
from langchain_hfembed.embeddings.bge_m3 import BGEM3Embeddings
from langchain_hfembed.embeddings.checkpoint import Dtype, Pooling
from langchain_hfembed.embeddings.engines.choice import check_packages
from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.fusion import WeightedSum
from langchain_hfembed.loading import Loaded
from langchain_hfembed.scoring import Scores, mean_maxsim, sparse_dot, unit_rows
from langchain_hfembed.vectors import VIEWS, FloatArray, HybridEmbedding, SparseVector, View

T = TypeVar("T")
Weights = Mapping[str, float]
Mode = Literal["colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense"]

# Not scoring.score, which gives cosines: vectors that were not normalised have products here.
_SCORERS: dict[View, Callable[[Any, Any], float]] = {
    "dense": np.dot,
    "sparse": sparse_dot,
    "multi_vector": mean_maxsim,
}


@dataclass(eq=False)
class BGEM3FlagModel:
    """`FlagEmbedding.BGEM3FlagModel` over `BGEM3Embeddings`: its names, defaults and shapes.

    In float32 the numbers are FlagEmbedding's. These things differ on purpose:

    - Lexical weights are plain dicts of plain floats, in the order of the ids, and never hold a
      special token; FlagEmbedding's are a defaultdict of NumPy numbers, in the order of the text,
      which holds `<mask>`, and BERT's `[SEP]`.
    - `compute_score` gives each pair the scores that it has alone; FlagEmbedding's padding can add
      zero similarities to those of a batch.
    - Arrays are float32, whatever the model computes in, and own their memory.
    - The model is loaded on first use. A checkpoint without its heads is an error, an empty list
      gives empty results, and texts that are cut are warned of.
    - There is no `tokenizer`, no `model` and no pool of processes; see `embeddings`. Several
      devices share the texts of a call in threads.

    Example:
        ```python
        from langchain_hfembed.flag_embedding import BGEM3FlagModel

        model = BGEM3FlagModel("BAAI/bge-m3", use_fp16=True)
        output = model.encode(["BGE-M3 has three views."], return_sparse=True)
        output["dense_vecs"].shape, output["lexical_weights"]
        ```

    Attributes:
        model_name_or_path: A model id on the Hub or a folder.
        normalize_embeddings: Scale dense and token vectors to length 1.
        use_fp16: float16 on GPUs; float32 on CPUs, without rounding the weights to float16 first,
            as FlagEmbedding does.
        use_bf16: bfloat16 on GPUs, before `use_fp16`; float32 on CPUs.
        query_instruction_for_retrieval: For `encode_queries`.
        query_instruction_format: Where the instruction and the query go, in this order.
        devices: Torch devices, or numbers of CUDA devices; None for all CUDA devices, else Apple's,
            else the CPU.
        pooling_method: `"cls"` or `"mean"`, whatever `1_Pooling/config.json` says.
        trust_remote_code: False; no code of a model's is run.
        cache_dir: Where models from the Hub are kept.
        colbert_dim: Width that the token vectors must have, if above 0; it is read from the
            checkpoint.
        batch_size: Texts a forward pass, at most.
        query_max_length: Tokens that queries are cut at.
        passage_max_length: Tokens that passages are cut at, and the texts of `encode`.
        return_dense: Whether to compute `dense_vecs`.
        return_sparse: Whether to compute `lexical_weights`.
        return_colbert_vecs: Whether to compute `colbert_vecs`.
        truncate_dim: Keep the first so many dimensions of dense and token vectors.
        passage_instruction_for_retrieval: For `encode_corpus`.
        passage_instruction_format: Where the instruction and the passage go, in this order.
        embeddings: The `BGEM3Embeddings` that does the work, with the same loaded model; it puts no
            instructions in front.

    Raises:
        ValueError: If a parameter can't be honoured here.
    """

    model_name_or_path: str
    normalize_embeddings: bool = True
    use_fp16: bool = True
    use_bf16: bool = False
    query_instruction_for_retrieval: str | None = None
    query_instruction_format: str = "{}{}"
    devices: str | int | Sequence[str | int] | None = None
    pooling_method: str = "cls"
    trust_remote_code: bool = False
    cache_dir: str | None = None
    colbert_dim: int = -1
    batch_size: int = 256
    query_max_length: int = 512
    passage_max_length: int = 512
    return_dense: bool = True
    return_sparse: bool = False
    return_colbert_vecs: bool = False
    truncate_dim: int | None = None
    passage_instruction_for_retrieval: str | None = field(default=None, kw_only=True)
    passage_instruction_format: str = field(default="{}{}", kw_only=True)
    embeddings: BGEM3Embeddings = field(init=False, repr=False)
    _copies: Loaded[BGEM3Embeddings] = field(init=False, repr=False, default_factory=Loaded)

    def __post_init__(self) -> None:
        if self.trust_remote_code:
            raise ValueError(
                "trust_remote_code=True: no code of a model's is run here, and BGE-M3 has none. "
                "Leave it out; a model with code of its own needs FlagEmbedding"
            )
        if self.pooling_method not in get_args(Pooling):
            raise ValueError(f'pooling_method={self.pooling_method!r} must be "cls" or "mean"')
        if self.truncate_dim is not None:
            _check_least("truncate_dim", self.truncate_dim, 1)
        devices = _torch_devices(self.devices)
        on_gpus: Dtype = "float16" if self.use_fp16 else "float32"
        on_gpus = "bfloat16" if self.use_bf16 else on_gpus
        self.embeddings = BGEM3Embeddings(
            model_name=self.model_name_or_path,
            cache_folder=self.cache_dir,
            device=devices,
            dtype="float32" if any(name.startswith("cpu") for name in devices) else on_gpus,
            pooling=cast(Pooling, self.pooling_method),
            normalize_embeddings=self.normalize_embeddings,
        )

    def encode(
        self,
        sentences: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
    ) -> dict[str, Any]:
        """The views of texts, without an instruction; None is what the constructor was told.

        Args:
            sentences: Texts, or one.
            batch_size: Texts a forward pass, at most.
            max_length: Tokens that they are cut at.
            return_dense: Whether to compute `dense_vecs`.
            return_sparse: Whether to compute `lexical_weights`.
            return_colbert_vecs: Whether to compute `colbert_vecs`.

        Returns:
            `dense_vecs`, shape `(n, dim)`; `lexical_weights`, n dicts of weights by token id, a
            string; `colbert_vecs`, n arrays of shape `(tokens, dim)`; None for what was not asked
            for. For a lone string each is that of the one text.

        Raises:
            ValueError: If nothing is asked for, or a number is out of range.
            InvalidInputError: If a text can't be encoded.
            EmbeddingError: As `BGEM3Embeddings.encode_documents`.
        """
        maximum = _given(max_length, self.passage_max_length)
        asked = return_dense, return_sparse, return_colbert_vecs
        return self._encode(sentences, batch_size, maximum, asked)

    def encode_queries(
        self,
        queries: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
    ) -> dict[str, Any]:
        """The views of queries, with their instruction; see `encode`."""
        maximum = _given(max_length, self.query_max_length)
        asked = return_dense, return_sparse, return_colbert_vecs
        instruct = self.query_instruction_for_retrieval, self.query_instruction_format
        return self._encode(queries, batch_size, maximum, asked, instruct)

    def encode_corpus(
        self,
        corpus: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
    ) -> dict[str, Any]:
        """The views of passages, with their instruction; see `encode`."""
        maximum = _given(max_length, self.passage_max_length)
        asked = return_dense, return_sparse, return_colbert_vecs
        instruct = self.passage_instruction_for_retrieval, self.passage_instruction_format
        return self._encode(corpus, batch_size, maximum, asked, instruct)

    def compute_score(
        self,
        sentence_pairs: Sequence[Any],
        batch_size: int | None = None,
        max_query_length: int | None = None,
        max_passage_length: int | None = None,
        weights_for_different_modes: Sequence[float] | None = None,
    ) -> dict[Mode, Any]:
        """The scores of pairs of a query and a passage, without instructions.

        Args:
            sentence_pairs: Pairs, or one.
            batch_size: Texts a forward pass, at most.
            max_query_length: Tokens that queries are cut at.
            max_passage_length: Tokens that passages are cut at.
            weights_for_different_modes: Of dense, sparse and colbert, in this order; None for 1
                each.

        Returns:
            `colbert`, `sparse`, `dense`, and the weighted means `sparse+dense` (NaN where these two
            have no weight) and `colbert+sparse+dense`: a float a pair, in lists unless the pair is
            alone.

        Raises:
            InvalidInputError: If a pair is none, or a text can't be encoded.
            ValueError: If there are not three weights, one is negative, or all are 0.
        """
        is_alone = bool(sentence_pairs) and isinstance(sentence_pairs[0], str)
        pairs = _checked_pairs([sentence_pairs] if is_alone else sentence_pairs)
        weights = _given(weights_for_different_modes, (1, 1, 1))
        if len(weights) != 3:
            raise ValueError(
                f"weights_for_different_modes={weights}; give three, for dense, sparse, colbert"
            )
        of_dense, of_sparse, of_colbert = weights
        weighted = WeightedSum(of_dense, of_sparse, of_colbert, normalization=None)
        queries = self._copy(batch_size, _given(max_query_length, self.query_max_length))
        passages = self._copy(batch_size, _given(max_passage_length, self.passage_max_length))
        rows = map(  # of streams, so that the token vectors of all need not fit in memory
            _scores,
            queries.iter_encode_documents([query for query, _ in pairs]),
            passages.iter_encode_documents([passage for _, passage in pairs]),
        )
        dense, sparse, colbert = np.array(list(rows), np.float32).reshape(-1, 3).T
        none = np.full_like(dense, np.nan)
        scores: dict[Mode, FloatArray] = {
            "colbert": colbert,
            "sparse": sparse,
            "dense": dense,
            "sparse+dense": weighted(Scores(dense, sparse)) if of_dense + of_sparse else none,
            "colbert+sparse+dense": weighted(Scores(dense, sparse, colbert)),
        }
        return {mode: float(s[0]) if is_alone else s.tolist() for mode, s in scores.items()}

    def compute_lexical_matching_score(
        self,
        lexical_weights_1: Weights | Sequence[Weights],
        lexical_weights_2: Weights | Sequence[Weights],
    ) -> float | NDArray[np.float64]:
        """Sum, over the tokens that both have, of the product of their weights.

        Returns:
            A float for two dicts; an array of shape `(n, m)` for two lists.

        Raises:
            ValueError: If one is a list and the other is not, or a key is no token id.
        """
        if isinstance(lexical_weights_1, Mapping) and isinstance(lexical_weights_2, Mapping):
            return sparse_dot(_sparse(lexical_weights_1), _sparse(lexical_weights_2))
        if isinstance(lexical_weights_1, Mapping) or isinstance(lexical_weights_2, Mapping):
            raise ValueError("give two dicts of lexical weights, or two lists of dicts")
        rows, columns = ([_sparse(w) for w in ws] for ws in (lexical_weights_1, lexical_weights_2))
        scores = [sparse_dot(row, column) for row in rows for column in columns]
        return np.array(scores, np.float64).reshape(len(rows), len(columns))

    def colbert_score(self, q_reps: ArrayLike, p_reps: ArrayLike) -> np.float64:
        """Average, over the query's tokens, of each one's best match; see `mean_maxsim`.

        Args:
            q_reps: `colbert_vecs` of a query, shape `(query_tokens, dim)`.
            p_reps: `colbert_vecs` of a passage, shape `(passage_tokens, dim)`.

        Returns:
            A float that has `.item()`, as FlagEmbedding's tensor has.
        """
        query, passage = np.asarray(q_reps, np.float32), np.asarray(p_reps, np.float32)
        score: np.float64 = np.float64(mean_maxsim(query, passage))
        return score

    def convert_id_to_token(
        self, lexical_weights: Weights | Sequence[Weights]
    ) -> dict[str, float] | list[dict[str, float]]:
        """Weights by the text of their tokens, the largest where several have the same text.

        Returns:
            A dict for a dict, and for a list of one; else a list of dicts.
        """
        if isinstance(lexical_weights, Mapping):
            return self._by_text(lexical_weights)
        converted = [self._by_text(weights) for weights in lexical_weights]
        return converted[0] if len(converted) == 1 else converted

    def _by_text(self, lexical_weights: Weights) -> dict[str, float]:
        by_text: dict[str, float] = {}
        for token_id, weight in lexical_weights.items():
            text = self.embeddings.decode_token(int(token_id))
            by_text[text] = max(weight, by_text.get(text, weight))
        return by_text

    def _copy(self, batch_size: int | None, max_length: int) -> BGEM3Embeddings:
        """`embeddings` with other limits; kept, so that each warns once of the texts it cuts."""
        batch_size = _given(batch_size, self.batch_size)
        _check_least("batch_size", batch_size, 1)
        _check_least("max_length", max_length, 3)
        limits = {"batch_size": batch_size, "max_length": max_length}
        return self._copies.get(
            (batch_size, max_length), lambda: self.embeddings.model_copy(update=limits)
        )

    def _encode(
        self,
        texts: str | Iterable[str],
        batch_size: int | None,
        max_length: int,
        asked: Sequence[bool | None],
        instruct: tuple[str | None, str] = (None, ""),
    ) -> dict[str, Any]:
        defaults = self.return_dense, self.return_sparse, self.return_colbert_vecs
        wanted = [_given(one, default) for one, default in zip(asked, defaults, strict=True)]
        if not any(wanted):
            raise ValueError("set one of return_dense, return_sparse, return_colbert_vecs to True")
        is_alone = isinstance(texts, str)
        checked = check_texts([texts] if isinstance(texts, str) else texts)
        instruction, form = instruct
        if instruction is not None:
            form = form.replace("\\n", "\n")  # as FlagEmbedding reads what a shell can't write
            checked = [form.format(instruction, text) for text in checked]
        views = [view for view, is_wanted in zip(VIEWS, wanted, strict=True) if is_wanted]
        found = self._copy(batch_size, max_length).encode_documents(checked, views)
        dense = [e.dense for e in found if e.dense is not None]
        sparse = [e.sparse.to_dict() for e in found if e.sparse is not None]
        tokens = [e.multi_vector for e in found if e.multi_vector is not None]
        if tokens and 0 < self.colbert_dim != tokens[0].shape[1]:
            raise ValueError(
                f"colbert_dim={self.colbert_dim}, but the checkpoint's token vectors have "
                f"{tokens[0].shape[1]} dimensions; leave it out"
            )
        columns: tuple[Any, ...] = (
            self._resized(np.stack(dense) if dense else np.empty((0, 0), np.float32)),
            [{str(token): weight for token, weight in weights.items()} for weights in sparse],
            [self._resized(vectors) for vectors in tokens],
        )
        names = "dense_vecs", "lexical_weights", "colbert_vecs"
        return {
            name: (column[0] if is_alone else column) if is_wanted else None
            for name, column, is_wanted in zip(names, columns, wanted, strict=True)
        }

    def _resized(self, vectors: FloatArray) -> FloatArray:
        """A copy, which can be written to, of at most `truncate_dim` dimensions."""
        copied = vectors[..., : self.truncate_dim].copy()
        return unit_rows(copied) if self.truncate_dim and self.normalize_embeddings else copied


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name}={value}; it must be {least} or more")


def _torch_devices(devices: str | int | Sequence[str | int] | None) -> list[str]:
    if devices is None:
        check_packages()
        import torch

        if torch.cuda.is_available():
            return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        return ["mps" if torch.backends.mps.is_available() else "cpu"]
    named = devices if isinstance(devices, (list, tuple)) else [devices]
    return [f"cuda:{device}" if isinstance(device, int) else str(device) for device in named]


def _checked_pairs(pairs: Sequence[Any]) -> Sequence[tuple[str, str]]:
    for position, pair in enumerate(pairs):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise InvalidInputError(
                f"pair {position} is {pair!r}; give a query and a passage", indices=[position]
            )
        check_text(pair[0], position, "the query of pair")
        check_text(pair[1], position, "the passage of pair")
    return pairs


def _scores(query: HybridEmbedding, passage: HybridEmbedding) -> list[float]:
    """One a view, in the order of `VIEWS`."""
    return [score(getattr(query, view), getattr(passage, view)) for view, score in _SCORERS.items()]


def _sparse(weights: Weights) -> SparseVector:
    try:
        return SparseVector.from_dict({int(token): weight for token, weight in weights.items()})
    except ValueError as error:
        raise ValueError(
            f"lexical weights are by token id, as encode() gives them: {error}"
        ) from error
