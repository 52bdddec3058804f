"""Which kind of Sentence Transformers model something is: one vector, weights, or token vectors.

Sentence Transformers loads any kind as any other, and gives the layers that are missing random
weights.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal, get_args

from langchain_hfembed.errors import CheckpointError

Kind = Literal["SentenceTransformer", "SparseEncoder", "MultiVectorEncoder"]

_OTHER_NAMES: dict[str, Kind] = {"ColBERT": "MultiVectorEncoder"}  # PyLate's
# What transformers' own format must hold, so that no layer is missing; any encoder has a mean.
_ARCHITECTURES: dict[Kind, tuple[str, ...]] = {
    "SentenceTransformer": ("",),
    "SparseEncoder": ("ForMaskedLM",),
    "MultiVectorEncoder": ("HF_ColBERT", "ForRetrieval"),
}


def kind_of(model: object) -> Kind | None:
    """The kind of a loaded model; None if it is none of Sentence Transformers."""
    # Not isinstance(): before 6.0 a SparseEncoder is a SentenceTransformer, too. And so nothing is
    # imported here.
    kinds: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
    theirs = (c for c in type(model).__mro__ if c.__module__.startswith("sentence_transformers."))
    return next((kinds[c.__name__] for c in theirs if c.__name__ in kinds), None)


def require_kind(kind: Kind, name: str, *, cache_folder: str | None, revision: str | None) -> None:
    """Raise CheckpointError if a model is of another kind, as far as its files say, or damaged.

    Args:
        kind: What it should be.
        name: Its folder, or its name on the Hub, once it is in the cache.
        cache_folder: Where models from the Hub are kept.
        revision: Branch, tag or commit on the Hub.
    """

    def settings_in(filename: str) -> dict[str, Any]:
        return _settings(name, filename, cache_folder, revision)

    architectures = settings_in("config.json").get("architectures") or []
    fits = any(a.endswith(_ARCHITECTURES[kind]) for a in architectures)
    if _content(name, "modules.json", cache_folder, revision) is not None:
        settings = settings_in("config_sentence_transformers.json")
        found = settings.get("model_type", "SentenceTransformer")
        found = _OTHER_NAMES.get(found, found)
        if found == kind or "HF_ColBERT" in architectures:
            return
    elif not architectures or fits:
        return
    else:
        found = f"plain {architectures[0]}"
    own = "; for BGE-M3's own, pass BGEM3Embeddings()" if "bge-m3" in name.lower() else ""
    raise CheckpointError(
        f"{name} is a {found}, not a {kind}, and would get random weights for what it lacks. Give "
        f"a model that was trained as one{own}"
    )


def stated_kind(name: str) -> Kind:
    """The kind that a model's files say it is of; without any such file, a dense model.

    Args:
        name: Its folder, or its name on the Hub, once these files of it are in the cache:
            `modules.json`, `config.json` and `config_sentence_transformers.json`.

    Raises:
        CheckpointError: If one of them is damaged.
    """
    architectures = _settings(name, "config.json").get("architectures") or []
    for architecture in architectures:
        if architecture.endswith(_ARCHITECTURES["MultiVectorEncoder"]):
            return "MultiVectorEncoder"
    if _content(name, "modules.json") is None:
        return "SentenceTransformer"
    settings = _settings(name, "config_sentence_transformers.json")
    found = settings.get("model_type", "SentenceTransformer")
    found = _OTHER_NAMES.get(found, found)
    return found if found in get_args(Kind) else "SentenceTransformer"


def has_file(name: str, filename: str) -> bool:
    """Whether a model that is on this machine has such a file."""
    return _file(name, filename, None, None) is not None


def _content(
    name: str, filename: str, cache_folder: str | None = None, revision: str | None = None
) -> Any:
    path = _file(name, filename, cache_folder, revision)
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8
        raise CheckpointError(f"{path} is damaged: {error}. Download the model again") from error


def _settings(
    name: str, filename: str, cache_folder: str | None = None, revision: str | None = None
) -> dict[str, Any]:
    """The settings in a file of a model; none if there is no such file."""
    found = _content(name, filename, cache_folder, revision)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{filename} of {name} holds {found!r:.50}, no object; download the model again"
        )
    return found


def _file(name: str, filename: str, cache_folder: str | None, revision: str | None) -> Path | None:
    """A file of a model that is on this machine; None if there is none."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        path = folder / filename
        return path if path.is_file() else None

    from huggingface_hub import try_to_load_from_cache

    repo_id = name if "/" in name else f"sentence-transformers/{name}"
    cache = cache_folder or os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    found = try_to_load_from_cache(repo_id, filename, cache_dir=cache, revision=revision)
    return Path(found) if isinstance(found, str) else None
