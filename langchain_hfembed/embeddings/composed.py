"""An encoder whose views come from different models, wherever these run."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.embeddings import Embeddings
from langchain_core.runnables import run_in_executor
from langchain_core.runnables.config import ContextThreadPoolExecutor

from langchain_hfembed.embeddings.base import HybridEncoder, check_texts, encode_stream
from langchain_hfembed.embeddings.bge_m3 import BGEM3Embeddings
from langchain_hfembed.embeddings.dense import DenseEncoder, as_encoder, without_cache
from langchain_hfembed.embeddings.endpoint import HuggingFaceEndpointEmbeddings
from langchain_hfembed.embeddings.endpoint_base import is_url
from langchain_hfembed.embeddings.endpoint_sparse import HuggingFaceEndpointSparseEmbeddings
from langchain_hfembed.embeddings.local import HuggingFaceEmbeddings
from langchain_hfembed.embeddings.local_base import LocalBase
from langchain_hfembed.embeddings.local_multi_vector import HuggingFaceMultiVectorEmbeddings
from langchain_hfembed.embeddings.local_sparse import HuggingFaceSparseEmbeddings
from langchain_hfembed.embeddings.model_kind import kind_of
from langchain_hfembed.embeddings.single_view import SingleView, no_dense_view
from langchain_hfembed.embeddings.sparse_adapters import SparseAdapters
from langchain_hfembed.errors import EmbeddingError, InvalidInputError, InvalidResponseError
from langchain_hfembed.http.base_client import RemoteClient
from langchain_hfembed.http.client import EndpointClient
from langchain_hfembed.http.closing import Closing
from langchain_hfembed.vectors import HybridEmbedding, PerView, View, check_views

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder

    Model = SentenceTransformer | SparseEncoder | MultiVectorEncoder
    Part = str | os.PathLike[str] | Embeddings | HybridEncoder | Model


_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/.*)?")


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


class ComposedEncoder(Closing, Embeddings, SparseAdapters):
    """Any dense, sparse and multi-vector models as one encoder; any of them may be absent.

    Models that run elsewhere are called at the same time, while those that run here compute one
    after the other. One object given for several views computes them in one pass.

    Args:
        dense: Any LangChain `Embeddings`; or, as for the others, an encoder with this view, a
            loaded model of Sentence Transformers (here a `SentenceTransformer`), the name or
            folder of one, or the URL of a server that embeds.
        sparse: A `SparseEncoder` (SPLADE), its name, or the URL of a TEI with `/embed_sparse`.
        multi_vector: A `MultiVectorEncoder` (ColBERT), or its name.

    Raises:
        InvalidInputError: If there is no part at all, or one can't compute its view.
        ValueError: If a name or a URL can't be one.

    Example:
        ```py
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
        self._parts = PerView[HybridEncoder](
            **{view: _as_part(part, view) for view, part in given.present()}
        )
        if not self.views:
            raise InvalidInputError("give at least one of dense=, sparse= and multi_vector=")

    @property
    def views(self) -> tuple[View, ...]:
        """The views that have a part."""
        return tuple(view for view, _ in self._parts.present())

    @property
    def model_name(self) -> str:
        """The names of the parts."""
        return " + ".join(dict.fromkeys(part.model_name for _, part in self._parts.present()))

    @property
    def model(self) -> str:
        """The same, under the name that LangChain's caches look for."""
        return self.model_name

    @property
    def fingerprint(self) -> str:
        """Differs with a part's own, or with which part has which view."""
        parts = [(view, part.fingerprint) for view, part in self._parts.present()]
        whole = next(part for _, part in self._parts.present())
        if whole.views == self.views and all(part is whole for _, part in self._parts.present()):
            return whole.fingerprint  # it makes no difference that it is composed
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
            EmbeddingError: If a part fails, once those that were called have ended; the message
                names its views, `.completed` has dense vectors of the dense part.
        """
        wanted = self._wanted(views)
        return self._encode(self._check(texts, wanted), wanted, is_query=False)

    def encode_queries(
        self, texts: Sequence[str], views: Iterable[View] | None = None
    ) -> list[HybridEmbedding]:
        """The views of queries; see `encode_documents`."""
        wanted = self._wanted(views)
        return self._encode(self._check(texts, wanted), wanted, is_query=True)

    def iter_encode_documents(
        self, texts: Iterable[str], views: Iterable[View] | None = None
    ) -> Iterator[HybridEmbedding]:
        """The views of documents as they come, at most 1,024 texts read ahead."""
        wanted = self._wanted(views)
        return encode_stream(
            texts,
            lambda chunk: self._encode(self._check(chunk, wanted), wanted, is_query=False),
            lambda texts: self._check(texts, wanted),
        )

    def tokenize(self, text: str, *, is_query: bool = False) -> list[str]:
        """The tokens of a text, one string a row of its multi-vector view; without it, none."""
        part = self._parts.multi_vector
        return [] if part is None else part.tokenize(text, is_query=is_query)

    def decode_token(self, token_id: int) -> str:
        """The token that an index of the sparse view stands for."""
        part = self._parts.sparse
        return str(token_id) if part is None else part.decode_token(token_id)

    def close(self) -> None:
        """Close the parts' connections and processes; a later call opens them again."""
        for _, part in self._parts.present():
            model = _model_of(part)
            if isinstance(model, (RemoteClient, LocalBase, ComposedEncoder)):
                model.close()

    async def aclose(self) -> None:
        """Close the parts' connections and processes; a later call opens them again."""
        await run_in_executor(None, self.close)

    def __repr__(self) -> str:
        parts = [f"{view}={part.model_name!r}" for view, part in self._parts.present()]
        return f"{type(self).__name__}({', '.join(parts)})"

    def _expect_sparse_calls(self) -> None:
        part = self._parts.sparse
        if part is self._parts.dense and isinstance(part, SparseAdapters):
            part._expect_sparse_calls()  # elsewhere nobody asks it for dense vectors, too

    def _dense_part(self) -> HybridEncoder:
        if self._parts.dense is None:
            raise no_dense_view(self.model_name)
        return self._parts.dense

    def _wanted(self, views: Iterable[View] | None) -> tuple[View, ...]:
        wanted = self.views if views is None else check_views(views)
        if absent := [view for view in wanted if view not in self.views]:
            raise InvalidInputError(
                f"views={views!r}: there is no part for {' and '.join(absent)}, only for "
                f"{' and '.join(self.views)}"
            )
        return wanted

    def _check(self, texts: Iterable[str], wanted: tuple[View, ...]) -> list[str]:
        """What a part would refuse, before another one has worked for nothing."""
        checked = check_texts(texts)
        for view, part in self._parts.present():
            if view in wanted and isinstance(part, SingleView):
                part.check_texts(checked)
        return checked

    def _encode(
        self, texts: list[str], wanted: tuple[View, ...], *, is_query: bool
    ) -> list[HybridEmbedding]:
        if not texts:
            return []

        def run(job: _Job) -> _Outcome:
            part = job.part
            encode = part.encode_queries if is_query else part.encode_documents
            try:
                embeddings = encode(texts, job.views)
            except EmbeddingError as error:
                return error
            if len(embeddings) != len(texts):
                return InvalidResponseError(
                    f"{part.model_name} returned {len(embeddings)} embeddings for {len(texts)} "
                    "texts"
                )
            return embeddings

        outcomes = _at_once(self._jobs(wanted), run)
        _raise_first(outcomes)
        columns = {
            view: embeddings
            for job, embeddings in outcomes.items()
            for view in job.views
            if not isinstance(embeddings, EmbeddingError)
        }
        return [
            HybridEmbedding(**{view: getattr(columns[view][i], view) for view in wanted})
            for i in range(len(texts))
        ]

    def _jobs(self, wanted: tuple[View, ...]) -> list[_Job]:
        """The parts to call, each of them once."""
        jobs: dict[int, _Job] = {}
        for view, part in self._parts.present():
            if view in wanted:
                known = jobs.get(id(part))
                jobs[id(part)] = _Job(part, (*known.views, view) if known else (view,))
        return list(jobs.values())


_Outcome = list[HybridEmbedding] | EmbeddingError


@dataclass(frozen=True, eq=False)  # told apart as objects: few parts can be hashed
class _Job:
    """What one part has to compute."""

    part: HybridEncoder
    views: tuple[View, ...]


def _at_once(jobs: list[_Job], run: Callable[[_Job], _Outcome]) -> dict[_Job, _Outcome]:
    """What becomes of jobs: those elsewhere in threads, those here in turn, meanwhile."""
    elsewhere = [job for job in jobs if not _runs_here(job.part)]
    outcomes: dict[_Job, _Outcome] = {}
    if jobs == elsewhere[:1]:  # no other one to wait for
        return {job: run(job) for job in jobs}
    # Models here would only take each other's processor, and twice the memory.
    with ContextThreadPoolExecutor(max(1, len(elsewhere))) as threads:
        waiting = {job: threads.submit(run, job) for job in elsewhere}
        for job in jobs:
            if job not in waiting:
                outcomes[job] = run(job)
                if isinstance(outcomes[job], EmbeddingError):
                    break
        return outcomes | {job: future.result() for job, future in waiting.items()}


def _raise_first(outcomes: dict[_Job, _Outcome]) -> None:
    """Raise the first error, with the dense vectors that there are, and no other's."""
    errors = {job: each for job, each in outcomes.items() if isinstance(each, EmbeddingError)}
    if not errors:
        return
    dense = next((each for job, each in outcomes.items() if "dense" in job.views), [])
    completed = (
        dense.completed
        if isinstance(dense, EmbeddingError)
        else {i: e.dense.tolist() for i, e in enumerate(dense) if e.dense is not None}
    )
    job, error = next(iter(errors.items()))
    error.completed = completed
    error.args = (f"{' and '.join(job.views)}: {error}",)
    raise error


def _runs_here(part: HybridEncoder) -> bool:
    """Whether a part is known to compute on this machine; embeddings of others may."""
    model = _model_of(part)
    if isinstance(model, ComposedEncoder):
        return all(_runs_here(inner) for _, inner in model._parts.present())
    return isinstance(model, (LocalBase, BGEM3Embeddings))


def _model_of(part: HybridEncoder) -> Any:
    """What computes in the end, behind caches."""
    return without_cache(part.embeddings) if isinstance(part, DenseEncoder) else part


def _as_part(given: Any, view: View) -> HybridEncoder:
    """An encoder with this view, out of whatever was given for it.

    Raises:
        InvalidInputError: If there is no way.
    """
    maker = _MAKERS[view]
    made: Any = given
    if isinstance(given, (str, os.PathLike)):
        name = os.fspath(given)
        if ("://" in name and not is_url(name)) or _HOST_AND_PORT.fullmatch(name):
            raise InvalidInputError(f"{view}={name!r}: a URL starts with http:// or https://")
        if not is_url(name):
            made = maker.local(model_name=name)
        elif maker.endpoint is not None:
            made = maker.endpoint(endpoint_url=name)
        else:
            raise InvalidInputError(
                f"{view}={name!r}: no server is known that gives this view. Pass the name of a "
                f"{maker.local._kind}, which runs here"
            )
    elif kind := kind_of(given):
        if kind != maker.local._kind:
            raise InvalidInputError(f"{view}= takes a {maker.local._kind}, not a {kind}")
        made = maker.local(client=given)
    elif isinstance(given, type) or not hasattr(given, "embed_documents"):
        raise InvalidInputError(
            f"{view}={given!r} can't be a part: pass an encoder, LangChain Embeddings, a loaded "
            f"{maker.local._kind}, or the name of one"
        )
    part = as_encoder(made)
    if view not in part.views:
        raise InvalidInputError(
            f"{view}={part.model_name!r} ({type(given).__name__}) has no {view} view, only "
            f"{' and '.join(part.views)}"
        )
    return part
