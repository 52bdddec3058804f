"""BGE-M3: dense, sparse and multi-vector views of a text, out of one forward pass."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from langchain_core.embeddings import Embeddings
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)
from tqdm.auto import tqdm
from typing_extensions import Self

from langchain_hfembed import scoring
from langchain_hfembed.embeddings.base import check_texts, encode_stream, warn
from langchain_hfembed.embeddings.checkpoint import (
    Checkpoint,
    Dtype,
    EngineName,
    Pooling,
    Quantization,
    find_checkpoint,
)
from langchain_hfembed.embeddings.engines import batching
from langchain_hfembed.embeddings.engines.choice import check_packages, check_settings, load_engines
from langchain_hfembed.embeddings.one_pass import OnePass, Side
from langchain_hfembed.embeddings.sparse_adapters import SparseAdapters
from langchain_hfembed.loading import Loaded
from langchain_hfembed.vectors import VIEWS, HybridEmbedding, View, check_views

if TYPE_CHECKING:
    from langchain_hfembed.embeddings.engines.base import Engine


class BGEM3Embeddings(BaseModel, SparseAdapters, Embeddings):
    """Dense, sparse and multi-vector embeddings of BGE-M3, or any checkpoint in its format.

    To LangChain it is an `Embeddings` with the dense view; `encode_documents` and
    `encode_queries` give all three out of one forward pass. In float32 the numbers are
    FlagEmbedding's, with two differences: special tokens never appear among the sparse weights,
    whichever the family of the tokenizer (FlagEmbedding leaves BERT's `[SEP]` and every `<mask>`
    in), and a checkpoint without its heads is an error (FlagEmbedding goes on with random ones).

    The model is loaded on first use. Objects can be shared between threads, and pickled.

    Example:
        ```python
        from langchain_hfembed import BGEM3Embeddings

        embeddings = BGEM3Embeddings(model_name="BAAI/bge-m3")
        vector = embeddings.embed_query("What is BGE-M3?")
        [embedding] = embeddings.encode_documents(["BGE-M3 has three views."])
        embedding.dense.shape, len(embedding.sparse), embedding.multi_vector.shape
        ```

    Attributes:
        model_name: A model id on the Hub or a folder. `model` is another name for it.
        revision: Branch, tag or commit on the Hub. What is on the disk already is used without
            asking the Hub for something newer.
        cache_folder: Where models from the Hub are kept; None for Hugging Face's default.
        device: A torch device such as `"cuda:0"`, or a list of them, which share the texts, each
            with a copy of the model; None for the first GPU, else Apple's, else the CPU.
        dtype: Precision to compute in; `"auto"` is float16 on GPUs, bfloat16 on CPUs that have it
            in hardware (AVX512-BF16, AMX), float32 on others.
        engine: What runs the model: `"torch"`, or ONNX Runtime, `"onnx"`, which answers single
            queries faster. The model is exported once, into the cache (`HFEMBED_CACHE`); an export
            in its folder is used.
        quantization: `"int8"` for 8-bit arithmetic with `engine="onnx"`: faster, and less exact; a
            text's vectors then depend a little on the others of its batch (cosine about .998).
        batch_size: Texts a forward pass, at most; the longer they are, the fewer, and when
            memory runs out a batch is halved.
        max_length: Tokens a document is cut at, also cut at the positions of the model.
        query_max_length: Tokens a query is cut at.
        pooling: How the dense vector is made, `"cls"` or `"mean"`; None for what the checkpoint
            says in `1_Pooling/config.json`, else cls.
        query_instruction: Put in front of each query.
        document_instruction: Put in front of each document.
        normalize_embeddings: Scale dense and token vectors to length 1.
        show_progress: Show a progress bar.

    Source:
        Chen et al. 2024, arXiv:2402.03216.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True, protected_namespaces=())

    model_name: str = Field(default="BAAI/bge-m3", alias="model", min_length=1)
    revision: str | None = None
    cache_folder: str | None = None
    device: str | list[str] | None = None
    dtype: Dtype = "auto"
    engine: EngineName = "torch"
    quantization: Quantization | None = None
    batch_size: int = Field(default=256, ge=1)
    max_length: int = Field(default=8192, ge=3)
    query_max_length: int = Field(default=512, ge=3)
    pooling: Pooling | None = None
    query_instruction: str = ""
    document_instruction: str = ""
    normalize_embeddings: bool = True
    show_progress: bool = False

    _checkpoints: Loaded[Checkpoint] = PrivateAttr(default_factory=Loaded)
    _loaded: Loaded[tuple[Engine, ...]] = PrivateAttr(default_factory=Loaded)
    _one_pass: OnePass = PrivateAttr(default_factory=OnePass)
    _warned_of_truncation: bool = PrivateAttr(default=False)

    @field_validator("model_name", mode="before")
    @classmethod
    def _folder_as_text(cls, value: object) -> object:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        check_settings(self.engine, self._devices, self.dtype, self.quantization)
        return self

    @property
    def _devices(self) -> tuple[str | None, ...]:
        return tuple(self.device) if isinstance(self.device, list) else (self.device,)

    @property
    def views(self) -> tuple[View, ...]:
        """All three."""
        return VIEWS

    @property
    def model(self) -> str:
        """The model's name, under the name that LangChain's caches look for."""
        return self.model_name

    @property
    def fingerprint(self) -> str:
        """Differs with the weights, the tokenizer, the pooling or the document instruction.

        Not with `max_length`, so that it can be raised without indexing everything again.
        """
        checkpoint = self._checkpoint()
        settings = (checkpoint.content_hash, checkpoint.pooling, self.document_instruction)
        return hashlib.sha256(repr(settings).encode()).hexdigest()[:32]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Dense vectors of documents.

        Args:
            texts: The documents.

        Returns:
            One vector of `dim` floats a text, in the order of the texts.

        Raises:
            InvalidInputError: If a text can't be encoded.
        """
        return [_dense(embedding) for embedding in self.encode_documents(texts, ("dense",))]

    def embed_query(self, text: str) -> list[float]:
        """Dense vector of a query, `dim` floats."""
        return _dense(self.encode_queries([text], ("dense",))[0])

    def encode_documents(
        self, texts: Sequence[str], views: Iterable[View] | None = None
    ) -> list[HybridEmbedding]:
        """All views of documents, out of one forward pass a batch.

        Args:
            texts: The documents. An empty string is a text.
            views: Compute these only; None for all.

        Returns:
            One embedding a text, in the order of the texts.

        Raises:
            InvalidInputError: If `texts` is no list of strings, or one of them can't be encoded.
            ModelNotFoundError: If the model is neither here nor on the Hub.
            CheckpointError: If the model's folder is not complete.
            EmbeddingError: If memory runs out even for one text alone, or the model's output is
                not finite; `.indices` names the text.
        """
        return self._encode_side(texts, views, "document")

    def encode_queries(
        self, texts: Sequence[str], views: Iterable[View] | None = None
    ) -> list[HybridEmbedding]:
        """All views of queries; see `encode_documents`."""
        return self._encode_side(texts, views, "query")

    def iter_encode_documents(
        self, texts: Iterable[str], views: Iterable[View] | None = None
    ) -> Iterator[HybridEmbedding]:
        """The views of documents as they come, so that a corpus need not fit in memory.

        Args:
            texts: The documents; at most 1,024 are read ahead.
            views: Compute these only; None for all.

        Yields:
            One embedding a text, in the order of the texts.

        Raises:
            InvalidInputError: If a text can't be encoded, once it is reached.
        """
        wanted = VIEWS if views is None else check_views(views)
        instruction, maximum = self.document_instruction, self.max_length
        return encode_stream(texts, lambda chunk: self._encode(chunk, instruction, maximum, wanted))

    def score(self, query: str, documents: Sequence[str]) -> scoring.Scores:
        """Score documents for a query, like FlagEmbedding's `compute_score` a pair at a time.

        Args:
            query: The query.
            documents: The documents.

        Returns:
            Float arrays `dense`, `sparse` and `multi_vector` of shape `(len(documents),)`.
        """
        [encoded] = self.encode_queries([query])
        return scoring.score(encoded, self.encode_documents(documents))

    def tokenize(self, text: str, *, is_query: bool = False) -> list[str]:
        """The tokens of a text, one string for each row of its multi-vector view.

        Args:
            text: A document, or a query.
            is_query: Whether it is a query, which has another instruction and maximum.
        """
        instruction = self.query_instruction if is_query else self.document_instruction
        maximum = self.query_max_length if is_query else self.max_length
        [text] = check_texts([text])
        [ids] = self._token_ids([instruction + text], maximum)
        return [self.decode_token(token_id) for token_id in ids[1:]]

    def decode_token(self, token_id: int) -> str:
        """The text of a token, or its name where it has no text of its own."""
        return self._engines()[0].tokenizer.decode(token_id)

    def _checkpoint(self) -> Checkpoint:
        settings = (self.model_name, self.revision, self.cache_folder, self.pooling)
        return self._checkpoints.get(settings, self._find_checkpoint)

    def _find_checkpoint(self) -> Checkpoint:
        check_packages()
        return find_checkpoint(
            self.model_name,
            revision=self.revision,
            cache_folder=self.cache_folder,
            pooling=self.pooling,
        )

    def _engines(self) -> tuple[Engine, ...]:
        checkpoint = self._checkpoint()
        settings = (self.engine, self._devices, self.dtype, self.quantization)
        return self._loaded.get(
            (checkpoint, *settings, self.normalize_embeddings),
            lambda: load_engines(checkpoint, *settings, normalize=self.normalize_embeddings),
        )

    def _expect_sparse_calls(self) -> None:
        self._one_pass.switch_on()

    def _encode_side(
        self, texts: Sequence[str], views: Iterable[View] | None, side: Side
    ) -> list[HybridEmbedding]:
        checked = check_texts(texts)
        is_query = side == "query"
        instruction = self.query_instruction if is_query else self.document_instruction
        maximum = self.query_max_length if is_query else self.max_length
        return self._one_pass.encode(
            checked,
            VIEWS if views is None else check_views(views),
            lambda wanted: self._encode(checked, instruction, maximum, wanted),
            side=side,
            settings=lambda: repr(self),
        )

    def _encode(
        self,
        texts: list[str],
        instruction: str,
        maximum: int,
        wanted: tuple[View, ...],
    ) -> list[HybridEmbedding]:
        if not texts:
            return []
        token_ids = self._token_ids([instruction + text for text in texts], maximum)
        with tqdm(total=len(texts), unit="text", disable=not self.show_progress) as bar:
            return batching.encode(
                self._engines(),
                token_ids,
                wanted,
                batch_size=self.batch_size,
                on_done=bar.update,
            )

    def _token_ids(self, texts: list[str], maximum: int) -> list[list[int]]:
        engine = self._engines()[0]
        limit = min(maximum, engine.max_positions)
        token_ids = engine.tokenizer.encode(texts)
        too_long = [len(ids) for ids in token_ids if len(ids) > limit]
        if too_long and not self._warned_of_truncation:
            self._warned_of_truncation = True
            warn(
                f"{len(too_long)} of {len(texts)} texts are longer than {limit} tokens (the "
                f"longest has {max(too_long)}) and were cut there. Split them, or raise max_length "
                "(of queries, query_max_length) where the model has more positions. This is said "
                "once"
            )
        return [engine.tokenizer.cut(ids, limit) for ids in token_ids]


def _dense(embedding: HybridEmbedding) -> list[float]:
    assert embedding.dense is not None
    vector: list[float] = embedding.dense.tolist()
    return vector
