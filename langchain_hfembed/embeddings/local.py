"""Dense embeddings computed on this machine, by Sentence Transformers."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import numpy as np
from langchain_core.embeddings import Embeddings
from pydantic import Field, field_validator

from langchain_hfembed.embeddings.base import check_texts
from langchain_hfembed.embeddings.local_base import LocalBase, Side
from langchain_hfembed.embeddings.model_kind import Kind
from langchain_hfembed.errors import EmbeddingError

# Not int8 and uint8: Sentence Transformers scales these by the smallest and largest value of each
# call's own vectors, so that a query's would have nothing in common with the documents'.
Precision = Literal["float32", "binary", "ubinary"]


class HuggingFaceEmbeddings(LocalBase, Embeddings):
    """Dense embeddings of a Sentence Transformers model that runs here.

    Queries and documents get the model's own prompts, where it has any (`encode_query` and
    `encode_document` of Sentence Transformers); texts are otherwise left as they are. Parameters
    are named as in langchain_huggingface.

    The model is loaded on first use. Objects can be shared between threads, and pickled.

    Example:
        ```python
        from langchain_hfembed import HuggingFaceEmbeddings

        embeddings = HuggingFaceEmbeddings(model_name="BAAI/bge-m3")
        vectors = embeddings.embed_documents(["Seoul is the capital of Korea."])
        query = embeddings.embed_query("What is the capital of Korea?")
        ```

    Attributes:
        model_name: A model id on the Hub or a folder. `model` is another name for it.
        client: A loaded SentenceTransformer, to be used instead; `model_name` is then only its
            name. Pickles and deep copies contain it, weights and all.
        cache_folder: Where models from the Hub are kept; None for Hugging Face's default.
        backend: What runs the model.
        model_kwargs: Arguments of SentenceTransformer, such as `device`, `revision`,
            `trust_remote_code`, `prompts` or `token`. A token is held as a SecretStr; pickling
            drops it.
        encode_kwargs: Arguments of its `encode`, such as `batch_size` or `normalize_embeddings`.
        query_encode_kwargs: Likewise for queries, on top of `encode_kwargs`.
        query_prompt_name: The prompt of the model for queries; None for its own, "query".
        document_prompt_name: Likewise for documents.
        query_prompt: Text put in front of queries instead, such as E5's `"query: "`; `""` for
            none at all.
        document_prompt: Likewise for documents.
        truncate_dim: Keep the first so many dimensions, of a Matryoshka model.
        precision: `"binary"` and `"ubinary"` give the signs of the dimensions, eight packed in a
            number, for stores that compare bits.
        multi_process: Spread documents over processes: True for one on each GPU, or four on the
            CPU; a list of torch devices for one on each of them. They start with the first
            documents and stay until `close`. Queries are computed here, and need not wait.
        show_progress: Show a progress bar over documents.

    Raises:
        ValueError: If arguments contradict each other.
    """

    _kind: ClassVar[Kind] = "SentenceTransformer"
    _forced: ClassVar[dict[str, Any]] = {"convert_to_numpy": True, "convert_to_tensor": False}

    model_name: str = Field(default="sentence-transformers/all-mpnet-base-v2", alias="model")
    truncate_dim: int | None = Field(default=None, ge=1)
    precision: Precision = "float32"

    @field_validator("encode_kwargs", "query_encode_kwargs")
    @classmethod
    def _check_encode_kwargs(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        if kwargs.get("output_value", "sentence_embedding") != "sentence_embedding":
            raise ValueError("output_value is not for embeddings, which are one vector a text")
        if kwargs.get("precision", "float32") not in get_args(Precision):
            raise ValueError(
                f"precision={kwargs['precision']!r}; it can be {', '.join(get_args(Precision))}. "
                "Integers are scaled by the texts of one call, and compare to no other call's"
            )
        return kwargs

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of documents.

        Args:
            texts: The documents. An empty string is a text.

        Returns:
            One vector of `dim` floats a text, in the order of the texts.

        Raises:
            InvalidInputError: If `texts` is no list of strings, or one of them can't be encoded;
                or if the model knows no such prompt or argument.
            ModelNotFoundError: If the model is neither here nor on the Hub.
            CheckpointError: If the model's folder is damaged.
            EmbeddingError: If a vector is not finite; `.indices` has its texts, `.completed` the
                other vectors.
            ImportError: If a package is missing; it says which to install.
        """
        checked = check_texts(texts)
        return self._vectors(checked, "document") if checked else []

    def embed_query(self, text: str) -> list[float]:
        """Vector of a query, `dim` floats; see `embed_documents`."""
        [vector] = self._vectors(check_texts([text]), "query")
        return vector

    def _own_arguments(self) -> dict[str, Any]:
        return {"precision": self.precision, "truncate_dim": self.truncate_dim}

    def _vectors(self, texts: list[str], side: Side) -> list[list[float]]:
        # float64, Python's own: packed bits are integers, and LangChain wants floats.
        vectors = np.asarray(self._run(texts, side), np.float64)
        finite = np.isfinite(vectors).all(axis=1)
        if finite.all():
            rows: list[list[float]] = vectors.tolist()
            return rows
        failed, done = np.flatnonzero(~finite).tolist(), np.flatnonzero(finite).tolist()
        raise EmbeddingError(
            f"{self.model_name} gave vectors with NaN or infinity for {len(failed)} of "
            f"{len(vectors)} texts (the first is text {failed[0]}). In half precision, try "
            'model_kwargs={"model_kwargs": {"dtype": "float32"}}; else its weights are damaged',
            indices=failed,
            completed={position: vectors[position].tolist() for position in done},
        )
