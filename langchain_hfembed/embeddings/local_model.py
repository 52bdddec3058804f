"""A Sentence Transformers model in memory: loading it, encoding, a pool of processes."""

from __future__ import annotations

import copy
import importlib
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from langchain_hfembed.embeddings.model_kind import Kind, require_kind
from langchain_hfembed.errors import CheckpointError, InvalidInputError, ModelNotFoundError
from langchain_hfembed.loading import Loaded

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_BACKEND_MODULES: dict[str, tuple[str, ...]] = {
    "torch": (),
    "onnx": ("onnxruntime", "optimum.onnxruntime"),
    "openvino": ("openvino", "optimum.intel"),
}
_COUNTED_AT_ONCE = 1024


class LocalModel:
    """A loaded model, with a tokenizer for each side, and one to count with.

    Args:
        model: The model.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        self.model = model
        self._for_queries = model
        if self.max_tokens("query") != self.max_tokens("document"):
            self._for_queries = _with_own_tokenizer(model)
        # transformers sets truncation and padding on the tokenizer with its first text. Here one
        # thread does it; later, tokenizers before 0.23 raise "Already borrowed" if others use it.
        # Its name was tokenize() once.
        preprocess = model.preprocess if hasattr(model, "preprocess") else model.tokenize
        has_sides = hasattr(model[0], "sub_modules")  # a Router: queries go another way
        for task in ({"task": "query"}, {"task": "document"}) if has_sides else ({},):
            preprocess([""], **task)
        self._counter: Loaded[Any] = Loaded()

    def max_tokens(self, side: str) -> int | None:
        """Where queries or documents are cut; None if nowhere."""
        first = self.model[0]
        expansion = (getattr(first, "query_expansion", None) or {}) if side == "query" else {}
        limit = (
            expansion.get("length")  # ColBERT pads queries to this many, and cuts them there
            or getattr(first, f"{side}_length", None)
            or getattr(self.model, "max_seq_length", None)
        )
        # Tokenizers that were told of no limit say infinity or 10**30.
        return int(limit) if limit is not None and limit < 10**9 else None

    def encode(
        self, method: str, texts: list[str], kwargs: dict[str, Any], side: str
    ) -> tuple[Any, int | None]:
        """The output, and the tokens of the widest batch; None if no batch was seen.

        Where no batch is as wide as the limit, no text was cut. Tokenising all texts a second time
        would say so too, but can take a GPU with a small model as long as the embedding itself.
        """
        widest = _Widest()
        hook = self.model[0].register_forward_pre_hook(widest)
        try:
            model = self._for_queries if side == "query" else self.model
            return getattr(model, method)(texts, **kwargs), widest.tokens
        finally:
            hook.remove()

    def count_longer(self, texts: list[str], prompt: str, limit: int) -> int:
        """How many texts have more tokens than the limit, prompt included."""
        tokenizer = self._counter.get("tokenizer", self._copy_tokenizer)
        if tokenizer is None:
            return 0
        # A token is a byte at least; only a leading space may be one without.
        room = limit - tokenizer.num_special_tokens_to_add() - 1 - len(prompt.encode())
        long = [prompt + text for text in texts if len(text.encode()) > room]
        count = 0
        for start in range(0, len(long), _COUNTED_AT_ONCE):
            batch = long[start : start + _COUNTED_AT_ONCE]
            ids = tokenizer(batch, truncation=False, padding=False, verbose=False)["input_ids"]
            count += sum(len(row) > limit for row in ids)
        return count

    def _copy_tokenizer(self) -> Any:
        tokenizer: Any = getattr(self.model, "tokenizer", None)
        if not hasattr(tokenizer, "num_special_tokens_to_add"):
            return None  # none of transformers'
        # The model's own would be left without truncation while other threads encode with it.
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer([""], truncation=False, padding=False)
        return tokenizer


def _with_own_tokenizer(model: SentenceTransformer) -> SentenceTransformer:
    """The same weights, with a copy of the tokenizer.

    ColBERT cuts and pads queries at another length than documents, and transformers sets that on
    the tokenizer at each call: with one for both, a thread's query cuts other threads' documents.
    """
    name = next(iter(model._modules))
    first = copy.copy(model[0])
    for attribute in ("processor", "tokenizer"):
        if attribute in vars(first):
            vars(first)[attribute] = copy.deepcopy(vars(first)[attribute])
    twin = copy.copy(model)
    twin._modules = {**model._modules, name: first}
    return twin


class _Widest:
    """A forward hook that keeps the largest width of the batches of its thread."""

    def __init__(self) -> None:
        self.tokens: int | None = None
        self._thread = threading.get_ident()

    def __call__(self, _module: object, arguments: tuple[Any, ...]) -> None:
        if threading.get_ident() == self._thread and "input_ids" in arguments[0]:
            self.tokens = max(self.tokens or 0, arguments[0]["input_ids"].shape[-1])


class Pool:
    """Processes with the model in them; started on first use, one call at a time.

    They answer all calls through one queue, so that two calls at once would get each other's.

    Args:
        model: The model.
        devices: A torch device for each of them; None for what Sentence Transformers chooses.
    """

    def __init__(self, model: SentenceTransformer, devices: list[str] | None) -> None:
        self._model, self._devices, self._home = model, devices, model.device
        self._lock = threading.Lock()
        self._stop: weakref.finalize[..., Any] | None = None

    def encode(self, method: str, texts: list[str], kwargs: dict[str, Any]) -> Any:
        """The output of a method of the model, computed by the processes."""
        with self._lock:
            if self._stop is None:
                self._processes = self._model.start_multi_process_pool(self._devices)
                # At exit, too, and when nobody holds the embeddings any longer.
                stop = self._model.stop_multi_process_pool
                self._stop = weakref.finalize(self, stop, self._processes)
            try:
                return getattr(self._model, method)(texts, pool=self._processes, **kwargs)
            except BaseException:
                self._close()  # what still lies in the queue would answer the next call
                raise

    def close(self) -> None:
        """Stop the processes; a later call starts them again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._stop is not None:
            self._stop()
            self._stop = None
            self._model.to(self._home)  # starting has moved it to the CPU


def model_class(kind: Kind) -> type[SentenceTransformer]:
    """A class of Sentence Transformers by its name.

    Raises:
        ImportError: If it is not installed, or too old.
    """
    try:
        module = importlib.import_module("sentence_transformers")
    except ModuleNotFoundError as error:
        raise ImportError(
            f'a {kind} needs the package {error.name}: pip install "langchain-hfembed[local]"'
        ) from error
    if not hasattr(module, kind):
        raise ImportError(
            f"sentence-transformers {module.__version__} has no {kind}: "
            'pip install "sentence-transformers>=6"'
        )
    found: type[SentenceTransformer] = getattr(module, kind)
    return found


def load(kind: Kind, arguments: dict[str, Any]) -> SentenceTransformer:
    """Load a model from a folder or the Hub.

    Args:
        kind: The name of its class.
        arguments: Of the class; a token may be a SecretStr.

    Raises:
        ImportError: If a package is missing; it says which to install.
        ModelNotFoundError: If the model is neither here nor on the Hub.
        CheckpointError: If the model's folder is damaged, or the model is of another kind.
        InvalidInputError: If the class knows no such argument.
    """
    make = model_class(kind)
    backend = arguments["backend"]
    try:
        for module in _BACKEND_MODULES[backend]:
            importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"backend={backend!r} needs more packages ({error}): pip install "
            f'"sentence-transformers[{backend}]"'
        ) from error

    from huggingface_hub.errors import HFValidationError
    from safetensors import SafetensorError

    name = arguments["model_name_or_path"]
    folder = Path(name).expanduser()
    is_folder = folder.is_dir()
    if not is_folder and (name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1):
        raise ModelNotFoundError(
            f"there is no model folder {name!r}; give the path of a folder that Sentence "
            "Transformers or transformers has saved, or a model id of the Hub"
        )
    arguments = {
        key: value.get_secret_value() if isinstance(value, SecretStr) else value
        for key, value in arguments.items()
    }
    arguments["model_name_or_path"] = str(folder) if is_folder else name

    try:
        return _make(make, kind, arguments, is_folder=is_folder)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise InvalidInputError(
            f"model_kwargs: {error}. What is not for {kind} but for the model in it "
            'goes one level deeper, as in model_kwargs={"model_kwargs": {"dtype": "float16"}}'
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        if is_folder:
            raise CheckpointError(
                f"the model in {folder} can't be loaded ({type(error).__name__}: {error})"
            ) from error
        if not isinstance(error, (OSError, HFValidationError)):
            raise
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise ModelNotFoundError(
            f"the model {name!r} is not on this machine and could not be fetched from the Hugging "
            f"Face Hub ({reason}). Check the name; with a network, run `hf download {name}` (a "
            'private model needs HF_TOKEN or model_kwargs={"token": ...}); without one, copy the '
            "model's folder here and pass its path as model_name"
        ) from error


def _make(
    make: type[SentenceTransformer], kind: Kind, arguments: dict[str, Any], *, is_folder: bool
) -> SentenceTransformer:
    """The model, once it is sure that it is of this kind; of a Hub's, the files come with it."""

    def check() -> None:
        name, folder = arguments["model_name_or_path"], arguments.get("cache_folder")
        require_kind(kind, name, cache_folder=folder, revision=arguments.get("revision"))

    if is_folder:
        check()
    model = make(**arguments)
    if not is_folder:
        check()
    return model
