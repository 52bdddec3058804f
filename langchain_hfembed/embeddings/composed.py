"""An encoder whose views come from different models, wherever these run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.embeddings import Embeddings
from langchain_core.runnables.config import ContextThreadPoolExecutor
from typing_extensions import Self

from langchain_hfembed.embeddings.base import HybridEncoder, check_texts, encode_stream
from langchain_hfembed.embeddings.bge_m3 import BGEM3Embeddings
from langchain_hfembed.embeddings.dense import DenseEncoder, as_encoder, without_cache
from langchain_hfembed.embeddings.endpoint import HuggingFaceEndpointEmbeddings, is_url
from langchain_hfembed.embeddings.endpoint_sparse import HuggingFaceEndpointSparseEmbeddings
from langchain_hfembed.embeddings.local import HuggingFaceEmbeddings
from langchain_hfembed.embeddings.local_base import LocalBase
from langchain_hfembed.embeddings.local_model import kind_of
from langchain_hfembed.embeddings.local_multi_vector import HuggingFaceMultiVectorEmbeddings
from langchain_hfembed.embeddings.local_sparse import HuggingFaceSparseEmbeddings
from langchain_hfembed.embeddings.single_view import no_dense_view
from langchain_hfembed.embeddings.sparse_adapters import SparseAdapters
from langchain_hfembed.errors import InvalidInputError, InvalidResponseError
from langchain_hfembed.http.client import EndpointClient
from langchain_hfembed.vectors import HybridEmbedding, PerView, View, check_views

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder

    Model = SentenceTransformer | SparseEncoder | MultiVectorEncoder
    Part = str | os.PathLike[str] | Embeddings | HybridEncoder | Model


@dataclass(frozen=True)
class _Maker:
    """What makes an encoder out of a name, a URL or a loaded model."""

    local: type[LocalBase]
    endpoint: type[EndpointClient] | None


_MAKERS: dict[View, _Maker] = {
    "dense": _Maker(HuggingFaceEmbeddings, HuggingFaceEndpointEmbeddings),
    "sparse": _Maker(HuggingFaceSparseEmbeddings, HuggingFaceEndpointSparseEmbeddings),
    "multi_vector": _Maker(HuggingFaceMultiVectorEmbeddings, None),  # TEI serves none
}


class ComposedEncoder(Embeddings, SparseAdapters):
    """Any dense, sparse and multi-vector models as one encoder; any of them may be absent.

    Models that run elsewhere are called at the same time, while those that run here compute one
    after the other. One object given for several views computes them in one pass.

    Args:
        dense: Any LangChain `Embeddings`; or, as for the others, an encoder with this view, a
            loaded model of Sentence Transformers (here a `SentenceTransformer`), the name or
            folder of one, or the URL of a server that embeds.
        sparse: A `SparseEncoder` (SPLADE), its name, or the URL of a TEI with `/embed_sparse`.
        multi_vector: A `MultiVectorEncoder` (ColBERT), or its name.

    Attributes:
        parts: The encoder of each view, None where it is absent.

    Raises:
        InvalidInputError: If there is no part at all, or one can't compute its view.

    Example:
        ```python no-run
        from langchain_hfembed import ComposedEncoder, HuggingFaceEmbeddings, HybridVectorStore

        encoder = ComposedEncoder(
            dense=HuggingFaceEmbeddings(model_name="intfloat/multilingual-e5-small"),
            sparse="http://localhost:8080",
        )
        store = HybridVectorStore(encoder, path="knowledge.db")
        ```
    """

    def __init__(
        self,
        *,
        dense: Part | None = None,
        sparse: Part | None = None,
        multi_vector: Part | None = None,
    ) -> None:
        given = PerView[Any](dense, sparse, multi_vector)
        self.parts = PerView[HybridEncoder](
            **{view: _as_part(part, view) for view, part in given.present()}
        )
        if not self.views:
            raise InvalidInputError("give at least one of dense=, sparse= and multi_vector=")

    @property
    def views(self) -> tuple[View, ...]:
        """The views that have a part."""
        return tuple(view for view, _ in self.parts.present())

    @property
    def model_name(self) -> str:
        """The names of the parts."""
        return " + ".join(dict.fromkeys(part.model_name for _, part in self.parts.present()))

    @property
    def model(self) -> str:
        """The same, under the name that LangChain's caches look for."""
        return self.model_name

    @property
    def fingerprint(self) -> str:
        """Differs with a part's own, or with which part has which view."""
        parts = [(view, part.fingerprint) for view, part in self.parts.present()]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Dense vectors of documents, by the dense part.

        Raises:
            InvalidInputError: If there is none.
        """
        return self._dense_part().embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """Dense vector of a query, by the dense part; see `embed_documents`."""
        return self._dense_part().embed_query(text)

    def encode_documents(
        self, texts: Sequence[str], views: Iterable[View] | None = None
    ) -> list[HybridEmbedding]:
        """The views of documents.

        Args:
            texts: The documents.
            views: Compute these only; None for all that have a part.

        Returns:
            One embedding a text, in the order of the texts.

        Raises:
            InvalidInputError: If `texts` is no list of strings, one of them can't be encoded, or a
                view is asked for that has no part.
            EmbeddingError: If a part fails, once all have ended.
        """
        return self._encode(check_texts(texts), self._wanted(views), is_query=False)

    def encode_queries(
        self, texts: Sequence[str], views: Iterable[View] | None = None
    ) -> list[HybridEmbedding]:
        """The views of queries; see `encode_documents`."""
        return self._encode(check_texts(texts), self._wanted(views), is_query=True)

    def iter_encode_documents(
        self, texts: Iterable[str], views: Iterable[View] | None = None
    ) -> Iterator[HybridEmbedding]:
        """The views of documents as they come, at most 1,024 texts read ahead."""
        wanted = self._wanted(views)
        return encode_stream(texts, lambda chunk: self._encode(chunk, wanted, is_query=False))

    def tokenize(self, text: str, *, is_query: bool = False) -> list[str]:
        """The tokens of a text, one string a row of its multi-vector view; without it, none."""
        part = self.parts.multi_vector
        return [] if part is None else part.tokenize(text, is_query=is_query)

    def decode_token(self, token_id: int) -> str:
        """The token that an index of the sparse view stands for."""
        part = self.parts.sparse
        return str(token_id) if part is None else part.decode_token(token_id)

    def close(self) -> None:
        """Close the parts' connections and processes; a later call opens them again."""
        for _, part in self.parts.present():
            model = part.embeddings if isinstance(part, DenseEncoder) else part
            if isinstance(model, (EndpointClient, LocalBase, ComposedEncoder)):
                model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _expect_sparse_calls(self) -> None:
        if isinstance(part := self.parts.sparse, SparseAdapters):
            part._expect_sparse_calls()

    def _dense_part(self) -> HybridEncoder:
        if self.parts.dense is None:
            raise no_dense_view(self.model_name)
        return self.parts.dense

    def _wanted(self, views: Iterable[View] | None) -> tuple[View, ...]:
        wanted = self.views if views is None else check_views(views)
        if absent := [view for view in wanted if view not in self.views]:
            raise InvalidInputError(
                f"views={views!r}: there is no part for {' and '.join(absent)}, only for "
                f"{' and '.join(self.views)}"
            )
        return wanted

    def _encode(
        self, texts: list[str], wanted: tuple[View, ...], *, is_query: bool
    ) -> list[HybridEmbedding]:
        if not texts:
            return []
        jobs = self._jobs(wanted)

        def encode(job: _Job) -> list[HybridEmbedding]:
            part = job.part
            embeddings = (part.encode_queries if is_query else part.encode_documents)(
                texts, job.views
            )
            if len(embeddings) != len(texts):
                raise InvalidResponseError(
                    f"{part.model_name} returned {len(embeddings)} embeddings for {len(texts)} "
                    "texts"
                )
            return embeddings

        columns: dict[View, list[HybridEmbedding]] = {}
        for job, embeddings in zip(jobs, _at_once(jobs, encode), strict=True):
            columns.update(dict.fromkeys(job.views, embeddings))
        return [
            HybridEmbedding(**{view: getattr(columns[view][i], view) for view in wanted})
            for i in range(len(texts))
        ]

    def _jobs(self, wanted: tuple[View, ...]) -> list[_Job]:
        """The parts to call, each of them once."""
        jobs: dict[int, _Job] = {}
        for view, part in self.parts.present():
            if view in wanted:
                known = jobs.get(id(part))
                jobs[id(part)] = _Job(part, (*known.views, view) if known else (view,))
        return list(jobs.values())


@dataclass(frozen=True, eq=False)  # told apart as objects: few parts can be hashed
class _Job:
    """What one part has to compute."""

    part: HybridEncoder
    views: tuple[View, ...]


def _at_once(
    jobs: list[_Job], encode: Callable[[_Job], list[HybridEmbedding]]
) -> list[list[HybridEmbedding]]:
    """The results of jobs: those elsewhere in threads, those here in turn, meanwhile."""
    elsewhere = [job for job in jobs if not _runs_here(job.part)]
    if len(jobs) == 1 or not elsewhere:
        return [encode(job) for job in jobs]
    # Models here would only take each other's processor, and twice the memory.
    with ContextThreadPoolExecutor(len(elsewhere)) as threads:
        waiting = {job: threads.submit(encode, job) for job in elsewhere}
        here = {job: encode(job) for job in jobs if job not in waiting}
        return [waiting[job].result() if job in waiting else here[job] for job in jobs]


def _runs_here(part: HybridEncoder) -> bool:
    """Whether a part is known to compute on this machine; embeddings of others may."""
    model = without_cache(part.embeddings) if isinstance(part, DenseEncoder) else part
    return isinstance(model, (LocalBase, BGEM3Embeddings, ComposedEncoder))


def _as_part(given: Any, view: View) -> HybridEncoder:
    """An encoder with this view, out of whatever was given for it.

    Raises:
        InvalidInputError: If there is no way.
    """
    maker = _MAKERS[view]
    made: Any = given
    if isinstance(given, (str, os.PathLike)):
        name = os.fspath(given)
        if not is_url(name):
            made = maker.local(model_name=name)
        elif maker.endpoint is not None:
            made = maker.endpoint(endpoint_url=name)
        else:
            raise InvalidInputError(
                f"{view}={name!r}: no server is known that gives this view. Pass the name of a "
                f"{maker.local.kind}, which runs here"
            )
    elif kind := kind_of(given):
        if kind != maker.local.kind:
            raise InvalidInputError(f"{view}= takes a {maker.local.kind}, not a {kind}")
        made = maker.local(client=given)
    part = as_encoder(made)
    if view not in part.views:
        raise InvalidInputError(
            f"{view}={given!r} has no {view} view, only {' and '.join(part.views)}"
        )
    return part
