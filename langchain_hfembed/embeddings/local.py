"""Dense embeddings computed on this machine, by Sentence Transformers."""

from __future__ import annotations

import inspect
import os
import warnings
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from langchain_core.embeddings import Embeddings
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from langchain_hfembed.embeddings.base import check_texts
from langchain_hfembed.embeddings.local_model import LocalModel, Pool, load
from langchain_hfembed.errors import EmbeddingError, InvalidInputError
from langchain_hfembed.loading import Loaded

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Side = Literal["query", "document"]
Backend = Literal["torch", "onnx", "openvino"]
# Not int8 and uint8: Sentence Transformers scales these by the smallest and largest value of each
# call's own vectors, so that a query's would have nothing in common with the documents'.
Precision = Literal["float32", "binary", "ubinary"]

_PROMPTS = ("prompt", "prompt_name")
_TOKENS = ("token", "use_auth_token")
_NOT_YOURS = {"inputs", "sentences", "kwargs", "pool"}


class HuggingFaceEmbeddings(BaseModel, Embeddings):
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

    model_config = ConfigDict(
        extra="forbid",
        populate_by_name=True,
        protected_namespaces=(),
        hide_input_in_errors=True,  # model_kwargs may hold a token
    )

    model_name: str = Field(
        default="sentence-transformers/all-mpnet-base-v2", alias="model", min_length=1
    )
    client: Any = Field(default=None, exclude=True, repr=False)
    cache_folder: str | None = None
    backend: Backend = "torch"
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    encode_kwargs: dict[str, Any] = Field(default_factory=dict)
    query_encode_kwargs: dict[str, Any] = Field(default_factory=dict)
    query_prompt_name: str | None = None
    document_prompt_name: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    truncate_dim: int | None = Field(default=None, ge=1)
    precision: Precision = "float32"
    multi_process: bool | list[str] = False
    show_progress: bool = False

    _models: Loaded[LocalModel] = PrivateAttr(default_factory=Loaded)
    _pools: Loaded[Pool] = PrivateAttr(default_factory=Loaded)
    # Whoever takes the one item warns; list.pop() lets no two threads have it.
    _warnings_left: list[str] = PrivateAttr(default_factory=lambda: ["truncation"])

    @field_validator("model_name", "cache_folder", mode="before")
    @classmethod
    def _folder_as_text(cls, value: object) -> object:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @field_validator("model_kwargs")
    @classmethod
    def _check_model_kwargs(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        backend = kwargs.get("backend", "torch")
        if backend not in get_args(Backend):
            raise ValueError(f"backend={backend!r}; it can be {', '.join(get_args(Backend))}")
        return {
            name: SecretStr(value) if name in _TOKENS and isinstance(value, str) else value
            for name, value in kwargs.items()
        }

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

    @model_validator(mode="after")
    def _check_prompts(self) -> Self:
        for side, kwargs in (("document", "encode_kwargs"), ("query", "query_encode_kwargs")):
            prompts = [
                f"{side}_{name}" for name in _PROMPTS if getattr(self, f"{side}_{name}") is not None
            ]
            prompts += [f"{kwargs}[{name!r}]" for name in _PROMPTS if name in getattr(self, kwargs)]
            if len(prompts) > 1:
                raise ValueError(f"{' and '.join(prompts)} are two prompts for a {side}; keep one")
        return self

    @model_validator(mode="after")
    def _check_client(self) -> Self:
        if self.client is None:
            return self
        from sentence_transformers import SentenceTransformer

        if not isinstance(self.client, SentenceTransformer):
            raise ValueError(f"client is {type(self.client).__name__}, not a SentenceTransformer")
        if "model_name" not in self.model_fields_set:
            name = getattr(self.client.transformers_model, "name_or_path", None)
            if not name:  # the default's name would mix up the caches of two models
                raise ValueError("client does not know its name; pass model_name, too")
            self.model_name = name
        return self

    @property
    def model(self) -> str:
        """The model's name, under the name that LangChain's caches look for."""
        return self.model_name

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
        return self._embed(checked, "document") if checked else []

    def embed_query(self, text: str) -> list[float]:
        """Vector of a query, `dim` floats; see `embed_documents`."""
        [vector] = self._embed(check_texts([text]), "query")
        return vector

    def close(self) -> None:
        """Stop the processes of `multi_process`; a later call starts them again."""
        for pool in self._pools.clear():
            pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _embed(self, texts: list[str], side: Side) -> list[list[float]]:
        local = self._local_model()
        kwargs = self._arguments(local.model, side)
        # A task of the caller's own goes to encode(): the other two set theirs.
        method = "encode" if "task" in kwargs else f"encode_{side}"
        if self.multi_process and side == "document":
            output, widest = self._pool(local.model).encode(method, texts, kwargs), None
        else:
            output, widest = local.encode(method, texts, kwargs)
        self._warn_of_truncation(local, texts, _prompt(local.model, kwargs, side), widest)
        return _floats(output, self.model_name)

    def _local_model(self) -> LocalModel:
        arguments = {
            "model_name_or_path": self.model_name,
            "cache_folder": self.cache_folder,
            "backend": self.backend,
            **self.model_kwargs,
        }
        settings = repr(arguments) if self.client is None else id(self.client)
        return self._models.get(
            settings,
            lambda: LocalModel(load(arguments) if self.client is None else self.client),
        )

    def _pool(self, model: SentenceTransformer) -> Pool:
        devices = self.multi_process if isinstance(self.multi_process, list) else None
        settings = (id(model), tuple(devices or ()))
        return self._pools.get(settings, lambda: Pool(model, devices))

    def _arguments(self, model: SentenceTransformer, side: Side) -> dict[str, Any]:
        """The arguments of encode(), once it is sure that the model knows them."""
        fields = {name: getattr(self, f"{side}_{name}") for name in _PROMPTS}
        prompts = {name: value for name, value in fields.items() if value is not None}
        layers = [self.encode_kwargs, prompts, self.query_encode_kwargs]
        merged: dict[str, Any] = {
            "precision": self.precision,
            "truncate_dim": self.truncate_dim,
            "show_progress_bar": self.show_progress and side == "document",
        }
        for layer in layers if side == "query" else layers[:2]:
            if layer.keys() & set(_PROMPTS):  # a prompt by name replaces one by text, too
                merged = {name: value for name, value in merged.items() if name not in _PROMPTS}
            merged |= layer
        known = {*inspect.signature(model.encode).parameters, *model.get_model_kwargs()}
        known = (known | {"task", "processing_kwargs"}) - _NOT_YOURS
        if unknown := sorted(merged.keys() - known):
            raise InvalidInputError(
                f"encode_kwargs: encode() of {self.model_name} has no {', '.join(unknown)}; "
                f"it has {', '.join(sorted(known))}"
            )
        prompt_name = merged.get("prompt_name")
        if prompt_name is not None and prompt_name not in model.prompts:
            raise InvalidInputError(
                f"{self.model_name} has no prompt named {prompt_name!r}; it has "
                f"{', '.join(map(repr, model.prompts)) or 'none'}. A text of your own goes into "
                f"{side}_prompt"
            )
        return merged | {"convert_to_numpy": True, "convert_to_tensor": False}

    def _warn_of_truncation(
        self, local: LocalModel, texts: list[str], prompt: str, widest: int | None
    ) -> None:
        limit = local.max_tokens
        if not self._warnings_left or limit is None or (widest or limit) < limit:
            return
        too_long = local.count_longer(texts, prompt, limit)
        if not too_long:
            return
        try:
            self._warnings_left.pop()
        except IndexError:  # another thread was faster
            return
        warnings.warn(
            f"{too_long} of {len(texts)} texts are longer than the {limit} tokens that "
            f"{self.model_name} reads, and were cut there. Split them. This is said once",
            stacklevel=4,
        )

    def __getstate__(self) -> dict[Any, Any]:
        """Without tokens; Hugging Face looks for one in the environment."""
        state = super().__getstate__()
        kwargs = {k: v for k, v in self.model_kwargs.items() if not isinstance(v, SecretStr)}
        return {**state, "__dict__": {**state["__dict__"], "model_kwargs": kwargs}}


def _prompt(model: SentenceTransformer, kwargs: dict[str, Any], side: str) -> str:
    """What encode() puts in front of each text."""
    if kwargs.get("prompt") is not None:
        return str(kwargs["prompt"])
    return model.prompts.get(kwargs.get("prompt_name") or side) or ""


def _floats(output: Any, model_name: str) -> list[list[float]]:
    # float64, Python's own: packed bits are integers, and LangChain wants floats.
    vectors = np.asarray(output, np.float64)
    finite = np.isfinite(vectors).all(axis=1)
    if finite.all():
        rows: list[list[float]] = vectors.tolist()
        return rows
    failed, done = np.flatnonzero(~finite).tolist(), np.flatnonzero(finite).tolist()
    raise EmbeddingError(
        f"{model_name} gave vectors with NaN or infinity for {len(failed)} of {len(vectors)} texts "
        f"(the first is text {failed[0]}). In half precision, try "
        'model_kwargs={"model_kwargs": {"dtype": "float32"}}; else its weights are damaged',
        indices=failed,
        completed={position: vectors[position].tolist() for position in done},
    )
