"""What every model of Sentence Transformers has here: parameters, loading, encode()."""

from __future__ import annotations

import hashlib
import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

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

from langchain_hfembed.embeddings.base import warn
from langchain_hfembed.embeddings.local_model import LocalModel, Pool, load
from langchain_hfembed.embeddings.model_kind import Kind, kind_of
from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.loading import Loaded

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Side = Literal["query", "document"]
Backend = Literal["torch", "onnx", "openvino"]

_PROMPTS = ("prompt", "prompt_name")
_TOKENS = ("token", "use_auth_token")
_NOT_YOURS = {"inputs", "sentences", "kwargs", "pool"}
# On the vectors of documents.
_WITHOUT_EFFECT = {
    *("batch_size", "show_progress_bar", "chunk_size"),
    *("device", "cache_folder", "local_files_only", "trust_remote_code", "model_card_data"),
    *("backend", "similarity_fn_name", "model_kwargs"),  # the last one has the precision
}
# sentence-transformers takes the first of these prompts that a model has.
_SIDE_PROMPTS: dict[str, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}


class LocalBase(BaseModel):
    """A model of Sentence Transformers, loaded on first use; subclasses read its output.

    Attributes:
        model_name: A model id on the Hub or a folder. `model` is another name for it.
        client: A loaded model, to be used instead; `model_name` is then only its name. Pickles and
            deep copies contain it, weights and all.
        cache_folder: Where models from the Hub are kept; None for Hugging Face's default.
        backend: What runs the model.
        model_kwargs: Arguments of the model's class, such as `device`, `revision`,
            `trust_remote_code`, `prompts` or `token`. A token is held as a SecretStr; pickling
            drops it.
        encode_kwargs: Arguments of its `encode`, such as `batch_size`.
        query_encode_kwargs: Likewise for queries, on top of `encode_kwargs`.
        query_prompt_name: The prompt of the model for queries; None for its own, "query".
        document_prompt_name: Likewise for documents.
        query_prompt: Text put in front of queries instead; `""` for none at all.
        document_prompt: Likewise for documents.
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

    _kind: ClassVar[Kind]
    _forced: ClassVar[dict[str, Any]]

    model_name: str = Field(default="", alias="model")
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
            if not self.model_name:
                raise ValueError(f"model_name is missing: the name or folder of a {self._kind}")
            return self
        if kind_of(self.client) != self._kind:
            raise ValueError(f"client is {type(self.client).__name__}, not a {self._kind}")
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

    def close(self) -> None:
        """Stop the processes of `multi_process`; a later call starts them again."""
        for pool in self._pools.clear():
            pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def fingerprint(self) -> str:
        """Differs with the model's name and with arguments that change the vectors of documents.

        Not with the weights, whose folder would have to be read; nor with what was set on a
        `client`.
        """
        encoding = self._layered("document")
        loading = dict(self.model_kwargs)
        prompts = loading.pop("prompts", None) or {}
        folder = Path(self.model_name).expanduser()
        settings = (
            self._kind,
            str(folder.resolve()) if folder.is_dir() else self.model_name,
            sorted((name, text) for name, text in prompts.items() if name != "query"),
            [
                sorted((k, v) for k, v in kwargs.items() if k not in ignored)
                for kwargs, ignored in (
                    (loading, {*_WITHOUT_EFFECT, *_TOKENS}),
                    (encoding, {*_WITHOUT_EFFECT, *self._forced}),
                )
            ],
        )
        return hashlib.sha256(repr(settings).encode()).hexdigest()[:32]

    def _run(self, texts: list[str], side: Side, forced: dict[str, Any] | None = None) -> Any:
        """What the model's `encode` returns for texts that were checked.

        Args:
            texts: At least one.
            side: What they are.
            forced: Arguments of `encode` that nobody can change; None for the class's own. With
                others, nothing goes to the processes of `multi_process`.
        """
        local = self._local_model()
        kwargs = self._arguments(local.model, side) | (self._forced if forced is None else forced)
        # A task of the caller's own goes to encode(): the other two set theirs.
        method = "encode" if "task" in kwargs else f"encode_{side}"
        if self.multi_process and side == "document" and forced is None:
            output, widest = self._pool(local.model).encode(method, texts, kwargs), None
        else:
            output, widest = local.encode(method, texts, kwargs, side)
        self._warn_of_truncation(local, texts, side, kwargs, widest)
        return output

    def _token_texts(self, token_ids: list[int]) -> list[str]:
        """The text of each token, or its name where it has no text of its own."""
        tokenizer = self._local_model().model.tokenizer
        names = tokenizer.convert_ids_to_tokens(token_ids)
        texts = [tokenizer.decode([token_id]) for token_id in token_ids]
        return [
            text if text.strip() else str(name or token_id)  # an id may lie beyond the vocabulary
            for text, name, token_id in zip(texts, names, token_ids, strict=True)
        ]

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
            lambda: LocalModel(load(self._kind, arguments) if self.client is None else self.client),
        )

    def _pool(self, model: SentenceTransformer) -> Pool:
        devices = self.multi_process if isinstance(self.multi_process, list) else None
        settings = (id(model), tuple(devices or ()))
        return self._pools.get(settings, lambda: Pool(model, devices))

    def _own_arguments(self) -> dict[str, Any]:
        """Arguments of encode() that are fields of a subclass."""
        return {}

    def _layered(self, side: Side) -> dict[str, Any]:
        """The arguments of encode(), the later ones on top of the earlier ones."""
        fields = {name: getattr(self, f"{side}_{name}") for name in _PROMPTS}
        prompts = {name: value for name, value in fields.items() if value is not None}
        layers = [self.encode_kwargs, prompts, self.query_encode_kwargs]
        merged = self._own_arguments()
        merged["show_progress_bar"] = self.show_progress and side == "document"
        for layer in layers if side == "query" else layers[:2]:
            if layer.keys() & set(_PROMPTS):  # a prompt by name replaces one by text, too
                merged = {name: value for name, value in merged.items() if name not in _PROMPTS}
            merged |= layer
        return merged

    def _arguments(self, model: SentenceTransformer, side: Side) -> dict[str, Any]:
        """The arguments of encode(), once it is sure that the model knows them."""
        merged = self._layered(side)
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
        return merged

    def _warn_of_truncation(
        self,
        local: LocalModel,
        texts: list[str],
        side: Side,
        kwargs: dict[str, Any],
        widest: int | None,
    ) -> None:
        limit = local.max_tokens(side)
        if not self._warnings_left or limit is None or (widest or limit) < limit:
            return
        too_long = local.count_longer(texts, _prompt(local.model, kwargs, side), limit)
        if not too_long:
            return
        try:
            self._warnings_left.pop()
        except IndexError:  # another thread was faster
            return
        warn(
            f"{too_long} of {len(texts)} texts are longer than the {limit} tokens that "
            f"{self.model_name} reads, and were cut there. Split them. This is said once"
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
    name = kwargs.get("prompt_name")
    names = (name,) if name is not None else _SIDE_PROMPTS[side]
    return next((model.prompts[name] for name in names if name in model.prompts), "") or ""
