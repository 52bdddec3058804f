"""How fast HuggingFaceEmbeddings is, side by side with Sentence Transformers itself.

    python -m benchmarks.local --model sentence-transformers/all-MiniLM-L6-v2

Both embed the same texts with the same arguments, 100 in turn, so that a busy machine is as busy
for one as for the other; the ratio is the median over the turns. Where its packages are installed,
the ONNX backend takes part, too.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from langchain_hfembed.embeddings.local import HuggingFaceEmbeddings

_PLAIN, _OURS, _ONNX = "SentenceTransformer", "HuggingFaceEmbeddings", "HuggingFaceEmbeddings, ONNX"
_IN_TURN = 100
_WORDS = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").split()


def main() -> None:
    """Print the throughput of each, and its ratio to Sentence Transformers."""
    arguments = _arguments()
    texts = make_texts(arguments.texts, arguments.words)
    contestants, missing = make_contestants(arguments)
    seconds = measure(contestants, texts, arguments.rounds)
    ratios = {
        name: statistics.median(
            plain / own for plain, own in zip(seconds[_PLAIN], seconds[name], strict=True)
        )
        for name in seconds
    }
    machine: dict[str, Any] = {
        "device": _device(arguments.device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {
            name: version(name) for name in ("sentence-transformers", "torch", "transformers")
        },
    }
    # A round's texts at the median speed of their turns.
    speeds = {
        name: len(texts) * arguments.rounds / (statistics.median(values) * len(values))
        for name, values in seconds.items()
    }
    if arguments.json:
        report = {
            **machine,
            "texts": len(texts),
            "seconds": seconds,
            "texts_per_second": speeds,
            "ratio": ratios,
            "missing": missing,
        }
        print(json.dumps(report))
        return
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    print(f"{machine['device']}, {machine['threads']} threads, Python {machine['python']}")
    print(f"{versions}; {len(texts)} texts, median of {arguments.rounds}\n")
    print("| | texts/s | ratio |\n|---|---:|---:|")
    for name, speed in speeds.items():
        print(f"| {name} | {speed:.1f} | {ratios[name]:.3f} |")
    if missing:
        print(f"\nWithout the ONNX backend: {missing}")


def make_texts(count: int, most_words: int) -> list[str]:
    """Texts of 1 to so many words of the README, the same ones each time."""
    generator = random.Random(0)
    return [
        " ".join(generator.choices(_WORDS, k=generator.randint(1, most_words)))
        for _ in range(count)
    ]


def make_contestants(
    arguments: argparse.Namespace,
) -> tuple[dict[str, Callable[[list[str]], Any]], str]:
    """What embeds texts, loaded and warm, by name; and what is missing for the rest."""
    model = SentenceTransformer(arguments.model, device=arguments.device)
    batch = {"batch_size": arguments.batch_size}
    ours = HuggingFaceEmbeddings(client=model, encode_kwargs=batch)
    contestants: dict[str, Callable[[list[str]], Any]] = {
        _PLAIN: lambda texts: model.encode(texts, **batch).tolist(),
        _OURS: ours.embed_documents,
    }
    onnx = HuggingFaceEmbeddings(
        model_name=arguments.model,
        backend="onnx",
        model_kwargs={"device": arguments.device},
        encode_kwargs=batch,
    )
    missing = ""
    try:
        onnx.embed_query("warm up")
    except ImportError as error:
        missing = str(error)
    else:
        contestants[_ONNX] = onnx.embed_documents
    for embed in contestants.values():
        embed(["warm up"] * arguments.batch_size)
    return contestants, missing


def measure(
    contestants: dict[str, Callable[[list[str]], Any]], texts: list[str], rounds: int
) -> dict[str, list[float]]:
    """Seconds by name, one for each turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    slices = [texts[start : start + _IN_TURN] for start in range(0, len(texts), _IN_TURN)]
    for turn, part in enumerate(tqdm(slices * rounds, leave=False)):
        # The other way round every second time: who comes first finds a cooler machine.
        for name in list(contestants) if turn % 2 == 0 else list(reversed(contestants)):
            started = time.perf_counter()
            contestants[name](part)
            seconds[name].append(time.perf_counter() - started)
    return seconds


def _device(name: str) -> str:
    return torch.cuda.get_device_name() if name.startswith("cuda") else platform.machine()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--words", type=int, default=20, help="the most a text has")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
