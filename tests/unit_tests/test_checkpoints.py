"""FlagEmbedding itself takes the checkpoints that all other tests rely on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import build_xlm_roberta_checkpoint

TEXTS = {
    "English": "The capital of Korea is Seoul.",
    "Korean": "한강은 서울을 지나 바다로 흐른다.",
    "emoji": "🚀 ❤️ 👩‍💻",
    "one token": "river",
    "long": "the river " * 1000,
}


@pytest.mark.slow  # FlagEmbedding takes seconds to import.
@pytest.mark.parametrize("checkpoint", ["xlmr_folder", "minilm_folder"])
def test_flagembedding_gives_three_views_of_every_text(
    checkpoint: str, request: pytest.FixtureRequest
) -> None:
    from FlagEmbedding import BGEM3FlagModel

    folder: Path = request.getfixturevalue(checkpoint)
    positions = {"xlmr_folder": 2048, "minilm_folder": 512}[checkpoint]
    model = BGEM3FlagModel(str(folder), use_fp16=False, devices="cpu", batch_size=64)
    views = model.encode(
        list(TEXTS.values()), max_length=positions, return_sparse=True, return_colbert_vecs=True
    )

    assert np.isfinite(views["dense_vecs"]).all()
    for text, lexical, vectors in zip(
        TEXTS.values(), views["lexical_weights"], views["colbert_vecs"], strict=True
    ):
        ids = model.tokenizer(text, truncation=True, max_length=positions)["input_ids"]
        special = {str(i) for i in model.tokenizer.all_special_ids}
        assert set(lexical) <= {str(i) for i in ids} - special
        assert lexical or model.tokenizer.unk_token_id in ids
        assert len(vectors) == len(ids) - 1
    assert len(views["colbert_vecs"][-1]) == min(2002, positions) - 1

    scores = model.compute_score(
        [(TEXTS["one token"], TEXTS["long"])], max_passage_length=positions
    )
    assert scores["sparse"][0] > 0


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".json"])
def test_the_same_seed_builds_the_same_files(suffix: str, tmp_path: Path) -> None:
    first = build_xlm_roberta_checkpoint(tmp_path / "first", seed=3)
    again = build_xlm_roberta_checkpoint(tmp_path / "again", seed=3)
    files = [path.name for path in sorted(first.glob(f"*{suffix}"))]
    assert files
    for name in files:
        assert (first / name).read_bytes() == (again / name).read_bytes(), name


def test_another_seed_builds_another_model(tmp_path: Path) -> None:
    one = build_xlm_roberta_checkpoint(tmp_path / "one", seed=1)
    two = build_xlm_roberta_checkpoint(tmp_path / "two", seed=2)
    for name in ("model.safetensors", "colbert_linear.pt", "sparse_linear.pt"):
        assert (one / name).read_bytes() != (two / name).read_bytes(), name


def test_token_vectors_of_a_random_checkpoint_point_both_ways(xlmr_folder: Path) -> None:
    """Else padding counted as a similarity of 0 would rarely change a maximum."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    head = torch.load(xlmr_folder / "colbert_linear.pt", weights_only=True)
    tokenizer = AutoTokenizer.from_pretrained(xlmr_folder)
    model = AutoModel.from_pretrained(xlmr_folder).eval()
    with torch.no_grad():
        english, korean = (
            model(**tokenizer(TEXTS[name], return_tensors="pt")).last_hidden_state[0]
            @ head["weight"].T
            + head["bias"]
            for name in ("English", "Korean")
        )
    negative = (english @ korean.T < 0).float().mean()
    assert 0.25 < negative < 0.75
