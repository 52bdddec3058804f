"""ONNX Runtime gives what torch gives; exports are made once, or taken from the model's folder."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from langchain_hfembed import BGEM3Embeddings, CheckpointError, EmbeddingError
from langchain_hfembed.embeddings.engines import onnx_export
from tests.checkpoints import build_xlm_roberta_checkpoint

TEXTS = [
    "the sea",
    "",
    "한강은 서울을 지나 바다로 흐른다.",
    "the river flows through the city to the sea " * 5,
    "cats cats cats",
    "dogs run; </s> literal <s> special <pad> tokens",
    "Seoul",
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HFEMBED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(xlmr_folder, tmp_path) -> Path:
    """A copy of the checkpoint, to be changed."""
    return Path(shutil.copytree(xlmr_folder, tmp_path / "model"))


def _pair(folder, **settings) -> tuple[BGEM3Embeddings, BGEM3Embeddings]:
    in_torch = BGEM3Embeddings(model=str(folder), **settings)
    return in_torch, in_torch.model_copy(update={"engine": "onnx"})


def _assert_same(one, other, tolerance=1e-5):
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(ours.dense, theirs.dense, atol=tolerance)
        np.testing.assert_allclose(ours.multi_vector, theirs.multi_vector, atol=tolerance)
        assert ours.sparse.to_dict() == pytest.approx(theirs.sparse.to_dict(), abs=tolerance)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize(
    "settings", [{"pooling": "cls"}, {"pooling": "mean"}, {"normalize_embeddings": False}]
)
def test_all_views_are_torchs(xlmr_folder, settings, batch_size):
    in_torch, in_onnx = _pair(xlmr_folder, batch_size=batch_size, **settings)
    _assert_same(in_onnx.encode_documents(TEXTS), in_torch.encode_documents(TEXTS))
    _assert_same(in_onnx.encode_queries(TEXTS[:2]), in_torch.encode_queries(TEXTS[:2]))


def test_all_views_of_a_real_bert_are_torchs(minilm_folder):
    in_torch, in_onnx = _pair(minilm_folder, pooling="mean")
    _assert_same(in_onnx.encode_documents(TEXTS), in_torch.encode_documents(TEXTS))


@pytest.mark.filterwarnings("ignore:.* are longer than .* tokens:UserWarning")
def test_a_text_of_the_longest_length_is_torchs(xlmr_folder):
    in_torch, in_onnx = _pair(xlmr_folder)
    longest = ["the river flows " * 1000]
    _assert_same(in_onnx.encode_documents(longest), in_torch.encode_documents(longest))
    assert len(in_onnx.encode_documents(longest)[0].multi_vector) == 2047


def test_views_that_were_not_asked_for_are_left_out(xlmr_folder):
    in_onnx = BGEM3Embeddings(model=str(xlmr_folder), engine="onnx")
    [embedding] = in_onnx.encode_documents(["the sea"], ["sparse"])
    assert embedding.views == ("sparse",)


def test_int8_is_near_to_float32_in_every_view(minilm_folder):
    in_torch, in_onnx = _pair(minilm_folder, pooling="mean")
    int8 = in_onnx.model_copy(update={"quantization": "int8"})
    texts = [text for text in TEXTS if text]
    exact = in_torch.encode_documents(texts)
    # From .9935, from .989 on average, and within .111, when this was written.
    for ours, one in zip(int8.encode_documents(texts), exact, strict=True):
        assert 0.99 < ours.dense @ one.dense < 0.99999  # and not float32 after all
        assert (ours.multi_vector * one.multi_vector).sum(axis=1).mean() > 0.985
        assert ours.sparse.to_dict() == pytest.approx(one.sparse.to_dict(), abs=0.12)


def test_the_heads_are_not_quantised(xlmr_folder, cache):
    BGEM3Embeddings(model=str(xlmr_folder), engine="onnx", quantization="int8").embed_query("sea")
    [path] = cache.glob("*int8*/model.onnx")
    nodes = onnx.load(path, load_external_data=False).graph.node
    products = [node.op_type for node in nodes if "states" in node.input]
    assert products == ["MatMul", "MatMul"]
    assert sum(node.op_type == "MatMulInteger" for node in nodes) == 2 * 4  # of two layers


def test_int8_is_worse_with_one_scale_for_all_tokens(minilm_folder, monkeypatch):
    """Why each token's row is scaled behind GELU."""
    in_torch, in_onnx = _pair(minilm_folder, pooling="mean")
    int8 = in_onnx.model_copy(update={"quantization": "int8"})
    exact = in_torch.encode_documents(TEXTS)

    def mean_cosine() -> float:
        int8._loaded.clear()
        rows = zip(int8.encode_documents(TEXTS), exact, strict=True)
        return np.concatenate(
            [(ours.multi_vector * one.multi_vector).sum(axis=1) for ours, one in rows]
        ).mean()

    scaled = mean_cosine()
    export = onnx_export._export
    monkeypatch.setattr(onnx_export, "_LAYOUT_VERSION", -1)
    monkeypatch.setattr(onnx_export, "_export", lambda one, path, for_int8: export(one, path))
    assert mean_cosine() < scaled - 0.002


@pytest.fixture
def exports(monkeypatch) -> list[bool]:
    """One entry an export from here on: whether it is for int8."""
    made = []
    real = onnx_export._export

    def export(checkpoint, path, *, for_int8=False):
        made.append(for_int8)
        real(checkpoint, path, for_int8=for_int8)

    monkeypatch.setattr(onnx_export, "_export", export)
    return made


def test_an_export_is_made_once_for_each_precision(xlmr_folder, exports, cache, caplog):
    for quantization in (None, None, "int8", "int8"):
        BGEM3Embeddings(
            model=str(xlmr_folder), engine="onnx", quantization=quantization
        ).embed_query("the sea")
    assert exports == [False, True]
    assert [record.name for record in caplog.records if record.name == "root"] == []
    assert all(folder.name[0] != "." for folder in cache.iterdir())
    assert sorted(file.name for folder in cache.iterdir() for file in folder.iterdir()) == [
        "model.onnx", "model.onnx", "model.onnx.data", "model.onnx.data",
    ]  # fmt: skip


def test_other_weights_are_another_export(xlmr_folder, tmp_path, exports):
    in_torch, in_onnx = _pair(build_xlm_roberta_checkpoint(tmp_path / "xlmr", seed=1))
    BGEM3Embeddings(model=str(xlmr_folder), engine="onnx").embed_query("the sea")
    np.testing.assert_allclose(in_onnx.embed_query("sea"), in_torch.embed_query("sea"), atol=1e-5)
    assert exports == [False, False]


def _save_foreign_export(model_folder: Path, target: Path, *, output: str, factor=1.0) -> None:
    """What other exporters write: padded states alone, out of ids and a mask."""
    from transformers import AutoModel

    class Exported(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = AutoModel.from_pretrained(model_folder, attn_implementation="eager")

        def forward(self, input_ids, attention_mask, token_type_ids):
            states = self.model(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            )
            return factor * states.last_hidden_state

    inputs = ["input_ids", "attention_mask", "token_type_ids"]
    ids = torch.full((2, 7), 5)
    target.parent.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is an old one
        torch.onnx.export(
            Exported().eval(),
            (ids, torch.ones_like(ids), torch.zeros_like(ids)),
            target,
            input_names=inputs,
            output_names=[output],
            dynamic_axes={key: {0: "texts", 1: "longest"} for key in [*inputs, output]},
            dynamo=False,
        )


@pytest.mark.parametrize("name", ["model.onnx", "onnx/model.onnx"])
@pytest.mark.parametrize("output", ["last_hidden_state", "token_embeddings", "some_name"])
def test_an_export_in_the_models_folder_is_used(folder, cache, exports, name, output):
    in_torch, _ = _pair(folder)
    _save_foreign_export(folder, folder / name, output=output)
    fresh = BGEM3Embeddings(model=str(folder), engine="onnx")
    _assert_same(fresh.encode_documents(TEXTS), in_torch.encode_documents(TEXTS))
    assert exports == []
    # It is that one: with other numbers in it, others come out.
    _save_foreign_export(folder, folder / name, output=output, factor=2.0)
    [changed] = BGEM3Embeddings(
        model=str(folder), engine="onnx", normalize_embeddings=False
    ).encode_documents(["the sea"], ["dense"])
    raw = in_torch.model_copy(update={"normalize_embeddings": False})
    np.testing.assert_allclose(
        changed.dense, 2 * raw.encode_documents(["the sea"])[0].dense, rtol=1e-4
    )


def test_int8_is_made_from_the_weights_whatever_export_there_is(folder, exports):
    _save_foreign_export(folder, folder / "model.onnx", output="last_hidden_state", factor=2.0)
    before = sorted(folder.iterdir())
    int8 = BGEM3Embeddings(model=str(folder), engine="onnx", quantization="int8")
    assert len(int8.embed_query("the sea")) == 32
    assert exports == [True]
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("views", [("dense",), ("sparse",), ("multi_vector",)])
def test_each_view_alone_comes_out_of_an_export_in_the_models_folder(folder, views):
    in_torch, in_onnx = _pair(folder)
    _save_foreign_export(folder, folder / "model.onnx", output="last_hidden_state")
    for ours, exact in zip(
        in_onnx.encode_documents(TEXTS, views), in_torch.encode_documents(TEXTS, views), strict=True
    ):
        assert ours.views == views
        if ours.sparse is not None:
            assert ours.sparse.to_dict() == pytest.approx(exact.sparse.to_dict(), abs=1e-5)
        else:
            [name] = views
            np.testing.assert_allclose(getattr(ours, name), getattr(exact, name), atol=1e-5)


def _save_graph(path: Path, inputs: list[str]) -> None:
    """A graph that hands its first input on, as floats."""
    nodes = [onnx.helper.make_node("Cast", inputs[:1], ["output"], to=onnx.TensorProto.FLOAT)]
    info = onnx.helper.make_tensor_value_info
    shape = ["texts", "longest"]
    graph = onnx.helper.make_graph(
        nodes,
        "other",
        [info(name, onnx.TensorProto.INT64, shape) for name in inputs],
        [info("output", onnx.TensorProto.FLOAT, shape)],
    )
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), path)


@pytest.mark.parametrize("inputs", [["input_ids"], ["input_ids", "bbox"]])
def test_an_export_of_something_else_is_refused_with_what_it_takes_and_gives(folder, inputs):
    _save_graph(folder / "model.onnx", inputs)
    with pytest.raises(CheckpointError, match=f"takes {', '.join(inputs)} and gives output"):
        BGEM3Embeddings(model=str(folder), engine="onnx").embed_query("the sea")


@pytest.mark.parametrize("message", ["bad allocation", "Failed to allocate memory for requested"])
def test_when_memory_runs_out_a_batch_is_halved(xlmr_folder, monkeypatch, message):
    in_torch, in_onnx = _pair(xlmr_folder)
    [engine] = in_onnx._engines()
    run, sizes = engine._run, []

    def refuse(batch, views):
        sizes.append(len(batch.lengths))
        if len(batch.lengths) > 2:
            raise RuntimeException(f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {message}")
        return run(batch, views)

    monkeypatch.setattr(engine, "_run", refuse)
    _assert_same(in_onnx.encode_documents(TEXTS), in_torch.encode_documents(TEXTS))
    assert sizes[0] == len(TEXTS)
    assert len(sizes) > 3


def test_another_error_of_onnx_runtime_passes_through(xlmr_folder, monkeypatch):
    in_onnx = BGEM3Embeddings(model=str(xlmr_folder), engine="onnx")
    [engine] = in_onnx._engines()
    monkeypatch.setattr(engine, "_first_position", 10_000_000)  # beyond the table
    with pytest.raises(Exception, match=r"(?i)out of (data )?bounds"):
        in_onnx.embed_query("the sea")


def test_the_files_may_be_read_by_the_same_people_as_the_folder(xlmr_folder, cache):
    BGEM3Embeddings(model=str(xlmr_folder), engine="onnx").embed_query("the sea")
    [folder] = cache.iterdir()
    for file in folder.iterdir():
        assert file.stat().st_mode & 0o777 == folder.stat().st_mode & 0o666


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
def test_a_damaged_export_is_named_with_what_to_do(xlmr_folder, cache, name):
    BGEM3Embeddings(model=str(xlmr_folder), engine="onnx").embed_query("the sea")
    [file] = cache.glob(f"*/{name}")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=f"{file.parent}.*Remove the folder.*is made again"):
        BGEM3Embeddings(model=str(xlmr_folder), engine="onnx").embed_query("the sea")


def test_a_cache_that_cannot_be_written_to_is_named_with_what_to_do(xlmr_folder, cache):
    cache.write_text("a file")
    with pytest.raises(EmbeddingError, match=f"{cache}.*Set HFEMBED_CACHE"):
        BGEM3Embeddings(model=str(xlmr_folder), engine="onnx").embed_query("the sea")


def test_a_lost_weights_file_is_made_again(xlmr_folder, cache, exports):
    for _ in range(2):
        BGEM3Embeddings(model=str(xlmr_folder), engine="onnx").embed_query("the sea")
        [data] = cache.glob("*/model.onnx.data")
        data.unlink()
    assert exports == [False, False]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_a_missing_package_is_named_before_anything_is_made(
    xlmr_folder, monkeypatch, exports, cache, package, quantization
):
    embeddings = BGEM3Embeddings(model=str(xlmr_folder), engine="onnx", quantization=quantization)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, package, None)
        with pytest.raises(
            ImportError, match=rf'{package}: pip install "langchain-hfembed\[onnx\]"'
        ):
            embeddings.embed_query("the sea")
    assert exports == []
    assert not cache.exists() or list(cache.iterdir()) == []
    assert len(embeddings.embed_query("the sea")) == 32


def test_onnx_is_needed_to_export_and_no_more(xlmr_folder, monkeypatch):
    BGEM3Embeddings(model=str(xlmr_folder), engine="onnx").embed_query("the sea")
    monkeypatch.setitem(sys.modules, "onnx", None)
    BGEM3Embeddings(model=str(xlmr_folder), engine="onnx").embed_query("the sea")


def test_a_model_that_cannot_be_exported_is_named_with_what_to_do(folder, cache):
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    with pytest.raises(CheckpointError, match=r"optimum-cli export onnx.*onnx/model\.onnx"):
        BGEM3Embeddings(model=str(folder), engine="onnx").embed_query("the sea")
    assert list(cache.iterdir()) == []
    assert len(BGEM3Embeddings(model=str(folder)).embed_query("the sea")) == 32
