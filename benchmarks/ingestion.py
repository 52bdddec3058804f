"""What storing documents costs beside encoding them, and the memory that many texts take.

    python -m benchmarks.ingestion

`HybridVectorStore.add_texts` into a new file, in turn with the encoder alone over the same texts;
then, in a process of its own, the three views of many short texts at once.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from benchmarks.bge_m3 import Texts
from benchmarks.machine import processor, rss
from langchain_hfembed.embeddings.bge_m3 import BGEM3Embeddings
from langchain_hfembed.vectorstore import HybridVectorStore


def main() -> None:
    """Print both."""
    arguments = _arguments()
    embeddings = make_embeddings(arguments)
    report: dict[str, Any] = {
        "processor": processor(),
        "model": Path(embeddings.model_name).name,
        "storing": {
            kind: storing(embeddings, Texts(embeddings).draw(kind, count), arguments.rounds)
            for kind, count in (("short", arguments.texts), ("long", arguments.texts // 8))
        },
    }
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        report["memory"] = pool.apply(memory, (arguments,))
    if arguments.json:
        print(json.dumps(report))
        return
    print(f"{report['processor']}, {report['model']}, median of {arguments.rounds}\n")
    for kind, result in report["storing"].items():
        print(
            f"{result['texts']} {kind} texts: encoding {result['encoding']:.2f} s, add_texts "
            f"{result['add_texts']:.2f} s; {result['overhead']:+.1%}"
        )
    found = report["memory"]
    print(
        f"{found['texts']} short texts: {found['peak'] / 1e9:.2f} GB beyond the "
        f"{found['loaded'] / 1e9:.2f} GB with the model loaded; the results alone have "
        f"{found['results'] / 1e9:.2f} GB"
    )


def make_embeddings(arguments: argparse.Namespace) -> BGEM3Embeddings:
    """The model that the command line names, else the demo's."""
    if arguments.model is None:
        from langchain_hfembed.demo.search import demo_embeddings

        return demo_embeddings()
    return BGEM3Embeddings(model_name=arguments.model, pooling=arguments.pooling)


def storing(embeddings: BGEM3Embeddings, texts: list[str], rounds: int) -> dict[str, Any]:
    """Seconds of encoding alone and with storing, and by how much the one exceeds the other."""
    seconds: dict[str, list[float]] = {"encoding": [], "add_texts": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in tqdm(range(rounds + 1), f"{len(texts)} texts", leave=False):
            store = HybridVectorStore(embeddings, path=Path(folder) / f"{turn}.db")
            started = time.perf_counter()
            for _ in embeddings.iter_encode_documents(texts):
                pass
            encoded = time.perf_counter()
            store.add_texts(texts)
            stored = time.perf_counter()
            store.close()
            if turn:  # the first one is for warming up
                seconds["encoding"].append(encoded - started)
                seconds["add_texts"].append(stored - encoded)
    ratios = (both / one for one, both in zip(*seconds.values(), strict=True))
    return {
        "texts": len(texts),
        "overhead": statistics.median(ratios) - 1,
        **{name: statistics.median(values) for name, values in seconds.items()},
    }


def memory(arguments: argparse.Namespace) -> dict[str, int]:
    """Bytes in use with the model loaded, and how many more at most while texts are encoded."""
    embeddings = make_embeddings(arguments)
    texts = Texts(embeddings).draw("short", arguments.memory_texts)
    embeddings.encode_documents(texts[:1])
    loaded = rss()
    with _watching_memory() as seen:
        results = embeddings.encode_documents(texts)
    arrays = [
        array
        for each in results
        if each.dense is not None and each.sparse is not None and each.multi_vector is not None
        for array in (each.dense, each.sparse.indices, each.sparse.values, each.multi_vector)
    ]
    return {
        "texts": len(texts),
        "loaded": loaded,
        "peak": max(seen) - loaded,
        "results": sum(array.nbytes for array in arrays),
    }


@contextmanager
def _watching_memory() -> Iterator[list[int]]:
    seen, ended = [rss()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            seen.append(rss())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="a model id or folder; the demo model if absent")
    parser.add_argument("--pooling", choices=("cls", "mean"), help="if the checkpoint has none")
    parser.add_argument("--texts", type=int, default=1024, help="to store (%(default)s)")
    parser.add_argument(
        "--memory-texts", type=int, default=10_000, help="to encode at once (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of storing (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
