"""Devices and threads of the torch engine; its numbers are test_bge_m3_parity.py's."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from langchain_hfembed import BGEM3Embeddings
from langchain_hfembed.embeddings.engines import processor

TEXTS = [f"the river {number} flows to the sea " * (1 + number % 3) for number in range(40)]


@pytest.fixture(scope="module")
def embeddings(xlmr_folder) -> BGEM3Embeddings:
    return BGEM3Embeddings(model=str(xlmr_folder))


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def _threads_within(embeddings, texts) -> list[tuple[int, int]]:
    """Threads in each forward pass: this thread's number, and that of one born meanwhile."""
    seen = []

    def before(module, args):
        elsewhere = []
        other = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
        other.start()
        other.join()
        seen.append((torch.get_num_threads(), *elsewhere))

    [engine] = embeddings._engines()
    hook = engine.encoder.register_forward_pre_hook(before)
    try:
        embeddings.encode_queries(texts)
    finally:
        hook.remove()
    return seen


@pytest.mark.parametrize(("flops_a_token", "threads"), [(1e6, 1), (1e9, 2)])
def test_a_query_gets_as_many_threads_as_its_work_pays_for(
    embeddings, monkeypatch, two_threads, flops_a_token, threads
):
    """On a busy machine each meeting of threads costs milliseconds."""
    [engine] = embeddings._engines()
    monkeypatch.setattr(engine.encoder, "flops_a_token", flops_a_token)
    assert _threads_within(embeddings, ["the sea"]) == [(threads, 2)]
    assert torch.get_num_threads() == 2


def test_the_number_of_threads_is_put_back_after_an_error(embeddings, monkeypatch, two_threads):
    [engine] = embeddings._engines()
    monkeypatch.setattr(engine.encoder, "flops_a_token", 1)
    monkeypatch.setattr(engine, "_scaled", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        embeddings.embed_query("the sea")
    assert torch.get_num_threads() == 2


def test_several_devices_give_what_one_gives_and_share_the_work(embeddings, xlmr_folder):
    pair = BGEM3Embeddings(model=str(xlmr_folder), device=["cpu", "cpu:0"], batch_size=2)
    calls, together = [0, 0], threading.Barrier(2)

    def before(number):
        calls[number] += 1
        if calls[number] == 1:
            together.wait(30)

    for number, engine in enumerate(pair._engines()):
        engine.encoder.register_forward_pre_hook(lambda *_, number=number: before(number))
    for ours, theirs in zip(
        pair.encode_documents(TEXTS), embeddings.encode_documents(TEXTS), strict=True
    ):
        np.testing.assert_allclose(ours.dense, theirs.dense, atol=1e-5)
        np.testing.assert_allclose(ours.multi_vector, theirs.multi_vector, atol=1e-5)
    assert sum(calls) == len(TEXTS) // 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_vectors_have_length_1_in_float32_whatever_the_model_computes_in(xlmr_folder, dtype):
    embeddings = BGEM3Embeddings(model=str(xlmr_folder), dtype=dtype)
    for embedding in embeddings.encode_documents(TEXTS[:3]):
        assert np.linalg.norm(embedding.dense) == pytest.approx(1, abs=1e-6)
        lengths = np.linalg.norm(embedding.multi_vector, axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-6)


@pytest.mark.parametrize(("has_it", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_a_cpu_computes_in_bfloat16_where_it_has_it(xlmr_folder, monkeypatch, has_it, dtype):
    monkeypatch.setattr(processor, "computes_bfloat16", lambda: has_it)
    embeddings = BGEM3Embeddings(model=str(xlmr_folder))
    assert len(embeddings.embed_query("the sea")) == 32
    [engine] = embeddings._engines()
    assert {weight.dtype for weight in engine.encoder.parameters()} == {getattr(torch, dtype)}


def test_whether_a_processor_has_bfloat16_is_what_it_says_of_itself(real_processor):
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        pytest.skip("this system does not tell")
    flags = cpuinfo.read_text().split()
    assert real_processor() == ("avx512_bf16" in flags or "amx_tile" in flags)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": []}, "names no device"),
        ({"quantization": "int8"}, 'needs engine="onnx"'),
        ({"engine": "onnx", "device": "cuda:0"}, 'one device, "cpu", not cuda:0'),
        ({"engine": "onnx", "device": ["cpu", "cpu"]}, 'one device, "cpu", not cpu, cpu'),
        ({"engine": "onnx", "dtype": "float16"}, "computes in float32"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(embeddings, settings, message):
    with pytest.raises(ValidationError, match=message):
        BGEM3Embeddings(model="x", **settings)
    copied = embeddings.model_copy(update=settings)  # which pydantic does not check
    with pytest.raises(ValueError, match=message):
        copied.embed_query("the sea")


def test_a_model_with_other_layers_gives_what_transformers_gives(xlmr_folder, tmp_path):
    from transformers import AutoTokenizer, ElectraConfig, ElectraModel

    folder = shutil.copytree(xlmr_folder, tmp_path / "electra")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = ElectraConfig(
        vocab_size=len(tokenizer),
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = ElectraModel(config).eval()
    model.save_pretrained(folder)
    embeddings = BGEM3Embeddings(model=str(folder), normalize_embeddings=False)
    for text, vector in zip(TEXTS[:4], embeddings.embed_documents(TEXTS[:4]), strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        np.testing.assert_allclose(vector, states[0, 0], atol=1e-5)


@pytest.mark.parametrize("settings", [{"engine": "onxx"}, {"dtype": "float64"}])
def test_a_copy_with_a_setting_that_there_is_not_is_refused(embeddings, settings):
    [(name, value)] = settings.items()
    with pytest.raises(ValueError, match=f"{name}='{value}' is none of"):
        embeddings.model_copy(update=settings).embed_query("the sea")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "xpu:99"])
def test_a_device_that_there_is_not_is_named(xlmr_folder, device):
    with pytest.raises(ValueError, match=f"device='{device}' can't be used here"):
        BGEM3Embeddings(model=str(xlmr_folder), device=device).embed_query("the sea")


@pytest.mark.slow
def test_a_model_is_loaded_without_flag_embedding(xlmr_folder):
    """Whose import takes longer than loading."""
    program = (
        "import sys\n"
        "sys.modules['FlagEmbedding'] = None\n"
        "from langchain_hfembed import BGEM3Embeddings\n"
        f"BGEM3Embeddings(model={str(xlmr_folder)!r}).embed_query('sea')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
