"""How fast BGEM3Embeddings is, beside FlagEmbedding, and beside what the processor can do.

    python -m benchmarks.bge_m3 --model BAAI/bge-m3

Calls of so many texts, queries (about 16 tokens), short (60), long (400) and mixed; three views
unless a row says otherwise. All embed the same texts in turn, so that a busy machine is as busy for
one as for the other; a ratio is the median over the rounds of FlagEmbedding's time, called once
with its defaults, divided by a row's. The limit is the time that the model's floating-point
operations take at the rate of a large matrix product, measured in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from benchmarks.machine import processor
from langchain_hfembed.embeddings.bge_m3 import BGEM3Embeddings
from langchain_hfembed.embeddings.checkpoint import Checkpoint, find_checkpoint
from langchain_hfembed.embeddings.engines.processor import computes_bfloat16

_FLAG = "FlagEmbedding"
_LIMIT = "the limit"
_TOKENS = {"query": (8, 24), "short": (30, 90), "long": (300, 500), "mixed": (10, 500)}
_CASES = [
    ("query", 1),
    *((kind, count) for count in (1, 32, 128) for kind in ("short", "long", "mixed")),
    *(("short", 2000), ("long", 300)),
]
_ON_REQUEST = [("long", 2000), ("mixed", 2000)]  # an hour each
_FEW = 128  # texts, up to which those take part that are slow or of one view
_ROOT = Path(__file__).parents[1]

Encode = Callable[[list[str]], Any]


@dataclass(frozen=True)
class Contestant:
    """What embeds texts.

    Attributes:
        name: In the table.
        encode: Called with the texts of a call.
        most: Texts of its largest call; None for all.
    """

    name: str
    encode: Encode
    most: int | None = None


def main() -> None:
    """Print a table a case, or JSON."""
    arguments = _arguments()
    checkpoint = find_checkpoint(arguments.model, pooling=arguments.pooling)
    ours = BGEM3Embeddings(
        model_name=arguments.model,
        pooling=arguments.pooling,
        device=arguments.device,
        dtype=arguments.dtype,
        max_length=arguments.max_length,
        query_max_length=arguments.max_length,
    )
    contestants = list(make_contestants(ours, checkpoint, arguments))
    texts = Texts(ours)
    machine = {
        "processor": processor() if arguments.device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "model": Path(arguments.model).name,
        "dtype": arguments.dtype,
        "versions": {
            name: version(name)
            for name in ("FlagEmbedding", "onnxruntime", "torch", "transformers")
        },
    }
    _print_machine(machine, arguments)
    reports = []
    for kind, count in _CASES + _ON_REQUEST:
        if f"{kind}-{count}" not in arguments.cases:
            continue
        drawn = texts.draw(kind, count if count > 1 else 30)
        reports.append(measure(drawn, count, contestants, checkpoint, arguments))
        reports[-1]["kind"] = kind
        if not arguments.json:
            _print_table(reports[-1])
    if arguments.json:
        print(json.dumps({**machine, "cases": reports}))


def make_contestants(
    ours: BGEM3Embeddings, checkpoint: Checkpoint, arguments: argparse.Namespace
) -> Iterator[Contestant]:
    """What takes part, loaded and warm."""
    flag = _FlagEmbedding(checkpoint, ours, arguments)
    yield Contestant(_FLAG, flag.encode)
    yield Contestant("FlagEmbedding, its first batch once", flag.encode_once)
    yield Contestant("FlagEmbedding, three calls", flag.encode_three_times, _FEW)
    dense = _sentence_transformer(checkpoint, arguments)
    yield Contestant("sentence-transformers, dense only", dense.encode, _FEW)
    yield Contestant("torch", ours.encode_documents)
    yield Contestant(
        "torch, dense only", lambda texts: ours.encode_documents(texts, ["dense"]), _FEW
    )
    if arguments.device == "cpu":
        if computes_bfloat16():
            half = ours.model_copy(update={"dtype": "bfloat16"})
            yield Contestant("torch, bfloat16", half.encode_documents)
        onnx = ours.model_copy(update={"engine": "onnx"})
        yield Contestant("onnx", onnx.encode_documents)
        int8 = onnx.model_copy(update={"quantization": "int8"})
        yield Contestant("onnx, int8", int8.encode_documents)


class _FlagEmbedding:
    """FlagEmbedding's three ways."""

    def __init__(
        self, checkpoint: Checkpoint, ours: BGEM3Embeddings, arguments: argparse.Namespace
    ) -> None:
        from FlagEmbedding import BGEM3FlagModel

        [embedding] = ours.encode_documents(["width"], ["multi_vector"])
        assert embedding.multi_vector is not None
        self._model = BGEM3FlagModel(
            str(checkpoint.folder),
            use_fp16=arguments.dtype == "float16",
            use_bf16=arguments.dtype == "bfloat16",
            devices=arguments.device,
            pooling_method=checkpoint.pooling,
            colbert_dim=embedding.multi_vector.shape[1],
        )
        self._max_length = arguments.max_length
        self._forward = self._model.model.forward

    def encode(self, texts: list[str], **views: bool) -> Any:
        views = views or dict.fromkeys(
            ("return_dense", "return_sparse", "return_colbert_vecs"), True
        )
        return self._model.encode(texts, max_length=self._max_length, **views)

    def encode_once(self, texts: list[str]) -> Any:
        """Without the trial run of the first batch, which alone names no `truncate_dim`."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._forward(*args, **kwargs) if "truncate_dim" in kwargs else None

        self._model.model.forward = forward
        try:
            return self.encode(texts)
        finally:
            self._model.model.forward = self._forward

    def encode_three_times(self, texts: list[str]) -> Any:
        """A view a call, as tutorials have it."""
        names = ("return_dense", "return_sparse", "return_colbert_vecs")
        return [self.encode(texts, **{name: name == view for name in names}) for view in names]


def _sentence_transformer(checkpoint: Checkpoint, arguments: argparse.Namespace) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    transformer = Transformer(str(checkpoint.folder), max_seq_length=arguments.max_length)
    width = transformer.get_embedding_dimension()
    modules = [transformer, Pooling(width, pooling_mode=checkpoint.pooling), Normalize()]
    return SentenceTransformer(modules=modules, device=arguments.device)


class Texts:
    """Words of this project's own pages, so many tokens a text, the same ones each time."""

    def __init__(self, ours: BGEM3Embeddings) -> None:
        pages = sorted((_ROOT / "docs").glob("*.md"))
        self._words = [word for page in pages for word in page.read_text("utf-8").split()]
        sample = self._words[:: len(self._words) // 200]
        self._tokens_a_word = len(ours.tokenize(" ".join(sample))) / len(sample)

    def draw(self, kind: str, count: int) -> list[str]:
        """So many texts, of a length drawn evenly between two."""
        generator = random.Random(f"{kind} {count}")
        shortest, longest = (tokens / self._tokens_a_word for tokens in _TOKENS[kind])
        return [
            " ".join(
                generator.choices(self._words, k=round(generator.uniform(shortest, longest)) or 1)
            )
            for _ in range(count)
        ]


def measure(
    texts: list[str],
    count: int,
    contestants: Sequence[Contestant],
    checkpoint: Checkpoint,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Seconds a call, ratios to FlagEmbedding's one call, and the share of the limit reached.

    Args:
        texts: For one call or more.
        count: Texts of a call.
        contestants: Who takes part.
        checkpoint: Of the model, whose work is counted.
        arguments: Of the command line.
    """
    taking_part = [each for each in contestants if each.most is None or count <= each.most]
    calls = [texts[start : start + count] for start in range(0, len(texts), count)]
    flops, tokens = _flops(texts, checkpoint, arguments.max_length)
    seconds: dict[str, list[float]] = {each.name: [] for each in taking_part}
    seconds[_LIMIT] = []
    for each in taking_part:
        each.encode(calls[0])
    for turn in tqdm(range(arguments.rounds), f"calls of {count}", leave=False):
        # The other way round every second time: who comes first finds a cooler machine.
        for each in taking_part if turn % 2 == 0 else reversed(taking_part):
            started = time.perf_counter()
            for call in calls:
                each.encode(call)
            seconds[each.name].append((time.perf_counter() - started) / len(calls))
        rate = matrix_rate(checkpoint, arguments)
        seconds[_LIMIT].append(flops / rate / len(calls))

    def ratio(one: str, other: str) -> float:
        pairs = zip(seconds[one], seconds[other], strict=True)
        return statistics.median(first / second for first, second in pairs)

    return {
        "texts": count,
        "tokens": tokens / len(calls),
        "seconds": seconds,
        "rows": {
            name: {
                "milliseconds": 1e3 * statistics.median(values),
                "flag_embedding_over_it": ratio(_FLAG, name),
                "torch_over_it": ratio("torch", name),
                "share_of_limit": ratio(_LIMIT, name),
            }
            for name, values in seconds.items()
        },
    }


def _flops(texts: list[str], checkpoint: Checkpoint, max_length: int) -> tuple[float, int]:
    """Floating-point operations of the encoder's products over texts, and their tokens.

    A product of shapes (a, b) and (b, c) takes 2abc. A layer multiplies each token with four
    matrices of the hidden size and two of the inner size, and its queries with the keys, and the
    result with the values, of its text.
    """
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(checkpoint.folder)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    encoded = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    hidden, inner = config.hidden_size, config.intermediate_size
    lengths = [len(ids) for ids in encoded]
    linear = 2 * sum(lengths) * (4 * hidden * hidden + 2 * hidden * inner)
    attention = 4 * hidden * sum(length**2 for length in lengths)
    return config.num_hidden_layers * (linear + attention), sum(lengths)


def matrix_rate(checkpoint: Checkpoint, arguments: argparse.Namespace) -> float:
    """The best of several rates of a large product, in floating-point operations a second."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint.folder)
    dtype = getattr(torch, arguments.dtype)
    rows = 2048 if arguments.device == "cpu" else 16_384
    shape = {"device": arguments.device, "dtype": dtype}
    left = torch.rand(rows, config.hidden_size, **shape)
    right = torch.rand(config.intermediate_size, config.hidden_size, **shape)
    products: list[Callable[[], object]] = [lambda: torch.nn.functional.linear(left, right)]
    if arguments.device == "cpu":
        # What `torch.compile` calls; faster than MKL on some processors.
        pointwise = torch.ops.mkldnn._linear_pointwise
        packed = torch.ops.mkldnn._reorder_linear_weight(right)
        products.append(lambda: pointwise(left, packed, None, "none", [], ""))
    best = math.inf
    with torch.inference_mode():
        for product in products:
            for _ in range(10):
                started = time.perf_counter()
                product()
                if arguments.device != "cpu":
                    torch.cuda.synchronize()
                best = min(best, time.perf_counter() - started)
    operations = 2 * rows * int(config.hidden_size) * int(config.intermediate_size)
    return operations / best


def _print_machine(machine: dict[str, Any], arguments: argparse.Namespace) -> None:
    out = sys.stderr if arguments.json else sys.stdout
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    print(
        f"{machine['processor']}, {machine['threads']} threads, Python {machine['python']}; "
        f"{versions}\n{machine['model']} in {machine['dtype']}, median of {arguments.rounds}",
        file=out,
        flush=True,
    )


def _print_table(report: dict[str, Any]) -> None:
    print(f"\n{report['kind']}, calls of {report['texts']} texts, {report['tokens']:.0f} tokens\n")
    print("| | ms | FlagEmbedding / it | torch / it | of the limit |\n|---|---:|---:|---:|---:|")
    for name, row in report["rows"].items():
        print(
            f"| {name} | {row['milliseconds']:.1f} | {row['flag_embedding_over_it']:.2f} | "
            f"{row['torch_over_it']:.2f} | {row['share_of_limit']:.0%} |",
            flush=True,
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="a model id or folder; the demo model if absent")
    parser.add_argument("--pooling", choices=("cls", "mean"), help="if the checkpoint has none")
    parser.add_argument("--device", default="cpu", help="of all but the ONNX engines (%(default)s)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="float32 on a CPU, float16 on a GPU, unless given",
    )
    parser.add_argument("--max-length", type=int, default=512, help="tokens a text (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of each case (%(default)s)")
    cases, on_request = (
        [f"{kind}-{count}" for kind, count in pairs] for pairs in (_CASES, _ON_REQUEST)
    )
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=cases + on_request,
        default=cases,
        metavar="CASE",
        help=f"{', '.join(cases)}; if asked for, {', '.join(on_request)}",
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    arguments = parser.parse_args()
    arguments.dtype = arguments.dtype or ("float32" if arguments.device == "cpu" else "float16")
    if arguments.model is None:
        from langchain_hfembed.demo.model import demo_model_folder

        arguments.model = str(demo_model_folder())
    return arguments


if __name__ == "__main__":
    main()
