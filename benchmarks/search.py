"""How fast a search in an index is, how good its candidates are, and what opening it costs.

    python -m benchmarks.search --documents 50000

`SQLiteIndex` and, where it is installed, Qdrant Edge hold the same synthetic documents. Half of
what each view says of a document is its topic's, one of a thousand, and half is its own: documents
that are near in one view tend to be near in the others, as in real texts. With `--independent` the
views know nothing of each other, which is the hardest case: candidates of the two overlap least,
and a document that is good in all three is the rarest. Both engines answer each query in turn, so
that a busy machine is as busy for one as for the other. Recall is held against the fusion of the
scores of all documents.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from benchmarks.machine import processor
from langchain_hfembed.fusion import Fusion, WeightedSum
from langchain_hfembed.hits import find
from langchain_hfembed.index.base import HybridIndex, IndexRecord
from langchain_hfembed.index.filters import Filter, parse_filter
from langchain_hfembed.index.qdrant.index import QdrantIndex
from langchain_hfembed.index.sqlite.index import SQLiteIndex
from langchain_hfembed.vectors import HybridEmbedding, SparseVector

_DENSE, _TOKENS, _TOKEN_DIM, _WEIGHTS = 384, 80, 128, 60
_QUERY_TOKENS, _QUERY_WEIGHTS = 16, 8
_VOCABULARY, _TOPICS = 30_000, 1_000
_K = 10
_HALF = parse_filter({"half": 1})
_FUSIONS: Mapping[str, Fusion] = {
    "min_max": WeightedSum(),
    "raw": WeightedSum(normalization=None),
}


def main() -> None:
    """Print, for each engine: documents a second, opening, memory, latency and recall."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.folder or Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        report = _measure(arguments, root)
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)


def _measure(arguments: argparse.Namespace, root: Path) -> dict[str, Any]:
    texts = _Texts(independent=arguments.independent)
    name = f"{arguments.documents}{'-independent' if arguments.independent else ''}"
    paths = {"SQLiteIndex": root / f"{name}.db"}
    if find_spec("qdrant_edge"):
        paths["Qdrant Edge"] = root / f"{name}.edge"
    rates = {name: _fill(name, path, texts, arguments.documents) for name, path in paths.items()}
    opened = {name: _in_a_process_of_its_own(name, path, texts) for name, path in paths.items()}
    queries = list(texts.views(arguments.queries, 1, _QUERY_TOKENS, _QUERY_WEIGHTS))
    with ExitStack() as stack:
        indexes = {name: _open(name, path) for name, path in paths.items()}
        for index in indexes.values():
            stack.callback(index.close)
        seconds = {
            str(fetch_k): _latencies(indexes, queries, fetch_k) for fetch_k in arguments.fetch_k
        }
        filtered = _latencies(indexes, queries, arguments.fetch_k[0], _HALF)
        recalls = _recalls(indexes, queries[: arguments.exhaustive], arguments)
    return {
        "documents": arguments.documents,
        "independent": arguments.independent,
        "machine": {
            "processor": processor(),
            "cores": multiprocessing.cpu_count(),
            "python": platform.python_version(),
        },
        "versions": {name: version(name) for name in ("numpy", "scipy")}
        | ({"qdrant-edge-py": version("qdrant-edge-py")} if "Qdrant Edge" in paths else {}),
        "engines": {
            name: {
                "documents_per_second": rates[name],
                "bytes": _bytes(paths[name]),
                "open_seconds": opened[name].open_seconds,
                "first_search_seconds": opened[name].first_search_seconds,
                "peak_rss_bytes": opened[name].peak_rss_bytes,
                "searches": {
                    fetch_k: {
                        "p50_ms": 1e3 * statistics.median(by_engine[name]),
                        "p95_ms": 1e3 * float(np.quantile(by_engine[name], 0.95)),
                        "recall_at_10": recalls[fetch_k][name],
                    }
                    for fetch_k, by_engine in seconds.items()
                },
                "half_p50_ms": 1e3 * statistics.median(filtered[name]),
            }
            for name in paths
        },
        # Query by query, the two in turn.
        "sqlite_per_edge": {
            fetch_k: statistics.median(
                ours / theirs
                for ours, theirs in zip(
                    by_engine["SQLiteIndex"], by_engine["Qdrant Edge"], strict=True
                )
            )
            for fetch_k, by_engine in seconds.items()
            if "Qdrant Edge" in by_engine
        },
    }


class _Texts:
    """Views of texts that there are not, the same for the same seed.

    Args:
        independent: Whether the views know nothing of each other.
    """

    def __init__(self, *, independent: bool) -> None:
        generator = np.random.default_rng(3)
        self._share = 0 if independent else 0.5
        self._dense = generator.standard_normal((_TOPICS, _DENSE), np.float32)
        self._words = generator.integers(0, _VOCABULARY, (_TOPICS, 100))
        self._tokens = generator.standard_normal((_TOPICS, 40, _TOKEN_DIM), np.float32)

    def views(self, count: int, seed: int, tokens: int, weights: int) -> Iterator[HybridEmbedding]:
        """So many texts, of so many tokens and sparse weights."""
        generator = np.random.default_rng(seed)
        common_tokens, common_words = int(self._share * tokens), int(self._share * weights)
        for _ in range(count):
            topic = generator.integers(_TOPICS)
            dense = generator.standard_normal(_DENSE, np.float32)
            vectors = generator.standard_normal((tokens, _TOKEN_DIM), np.float32)
            # Frequencies fall as those of words do.
            words = (_VOCABULARY * generator.random(weights) ** 3).astype(np.int64)
            if self._share:
                dense += self._dense[topic]
                vectors[:common_tokens] += generator.choice(self._tokens[topic], common_tokens)
                words[:common_words] = generator.choice(self._words[topic], common_words)
            indices = np.unique(words).astype(np.int32)
            values = generator.random(len(indices), np.float32) + 0.01
            yield HybridEmbedding(dense, SparseVector(indices, values), vectors)


def _open(name: str, path: Path) -> HybridIndex:
    return SQLiteIndex(path) if name == "SQLiteIndex" else QdrantIndex(path=path)


def _fill(name: str, path: Path, texts: _Texts, documents: int) -> float | None:
    """Store the documents, at so many a second; None where an earlier run has stored them."""
    index = _open(name, path)
    try:
        if index.count() == documents:
            return None
        storing, batch = 0.0, []
        embeddings = texts.views(documents, 0, _TOKENS, _WEIGHTS)
        for number, embedding in enumerate(tqdm(embeddings, name, documents), 1):
            batch.append(
                IndexRecord(str(number), f"text {number}", {"half": number % 2}, embedding)
            )
            if len(batch) == 256 or number == documents:
                start = time.perf_counter()
                index.upsert(batch)
                storing += time.perf_counter() - start
                batch = []
        return documents / storing
    finally:
        index.close()


@dataclass(frozen=True)
class _Opened:
    open_seconds: float
    first_search_seconds: float
    peak_rss_bytes: int


def _in_a_process_of_its_own(name: str, path: Path, texts: _Texts) -> _Opened:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_opened, (name, path, texts))


def _opened(name: str, path: Path, texts: _Texts) -> _Opened:
    """What opening an index, and a hundred searches in it, cost."""
    first, *others = texts.views(100, 2, _QUERY_TOKENS, _QUERY_WEIGHTS)
    start = time.perf_counter()
    index = _open(name, path)
    opened = time.perf_counter()
    find(index, first, k=_K, fetch_k=100, fusion=WeightedSum())
    searched = time.perf_counter()
    for query in others:
        find(index, query, k=_K, fetch_k=100, fusion=WeightedSum())
    peak = _peak_rss()
    index.close()
    return _Opened(opened - start, searched - opened, peak)


def _peak_rss() -> int:
    """In bytes. On Linux not ru_maxrss, which a child process takes over from its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _latencies(
    indexes: Mapping[str, HybridIndex],
    queries: list[HybridEmbedding],
    fetch_k: int,
    filter_: Filter | None = None,
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in indexes}
    for number, query in enumerate([*queries[:5], *queries]):
        for name, index in indexes.items():
            start = time.perf_counter()
            find(index, query, k=_K, fetch_k=fetch_k, fusion=WeightedSum(), filter_=filter_)
            if number >= 5:  # the first ones are for warming up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _recalls(
    indexes: Mapping[str, HybridIndex],
    queries: list[HybridEmbedding],
    arguments: argparse.Namespace,
) -> dict[str, dict[str, dict[str, float]]]:
    """Recall by `fetch_k`, engine and normalisation."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {
        str(fetch_k): {name: {fusion: [] for fusion in _FUSIONS} for name in indexes}
        for fetch_k in arguments.fetch_k
    }
    for query in tqdm(queries, "exhaustive"):
        everything = indexes["SQLiteIndex"].search(query, arguments.documents)
        for title, fusion in _FUSIONS.items():
            order = np.argsort(-fusion(everything.scores), kind="stable")[:_K]
            best = {everything.ids[position] for position in order}
            for fetch_k in arguments.fetch_k:
                for name, index in indexes.items():
                    hits = find(index, query, k=_K, fetch_k=fetch_k, fusion=fusion)
                    ids = {hit.document.id for hit in hits}
                    found[str(fetch_k)][name][title].append(len(best & ids) / _K)
    return {
        fetch_k: {
            name: {title: statistics.fmean(values) for title, values in by_fusion.items()}
            for name, by_fusion in by_engine.items()
        }
        for fetch_k, by_engine in found.items()
    }


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _print(report: dict[str, Any]) -> None:
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    print(f"{report['machine']['processor']}, Python {report['machine']['python']}, {versions}")
    print(
        f"{report['documents']:,} documents: dense {_DENSE}, about {_WEIGHTS} sparse weights, "
        f"{_TOKENS} token vectors of {_TOKEN_DIM}; {report['machine']['cores']} cores"
        f"{'; independent views' if report['independent'] else ''}\n"
    )
    header = ("", "stores/s", "disk", "opening", "first search", "peak memory")
    print("{:12} {:>9} {:>9} {:>9} {:>13} {:>12}".format(*header))
    for name, engine in report["engines"].items():
        rate = engine["documents_per_second"]
        print(
            f"{name:12} {'-' if rate is None else f'{rate:.0f}':>9} "
            f"{engine['bytes'] / 1e9:>6.2f} GB {engine['open_seconds']:>7.2f} s "
            f"{engine['first_search_seconds']:>11.2f} s {engine['peak_rss_bytes'] / 1e6:>9.0f} MB"
        )
    print("\n{:12} {:>8} {:>9} {:>9} {:>25}".format("", "fetch_k", "p50", "p95", "recall@10"))
    for name, engine in report["engines"].items():
        for fetch_k, search in engine["searches"].items():
            recall = ", ".join(f"{n} {value:.3f}" for n, value in search["recall_at_10"].items())
            print(
                f"{name:12} {fetch_k:>8} {search['p50_ms']:>6.1f} ms {search['p95_ms']:>6.1f} ms "
                f"{recall:>25}"
            )
    for name, engine in report["engines"].items():
        print(f"{name:12} {engine['half_p50_ms']:.1f} ms with a filter that half of them pass")
    for fetch_k, ratio in report["sqlite_per_edge"].items():
        print(f"SQLiteIndex takes {ratio:.2f} of Edge's time with fetch_k {fetch_k}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--exhaustive", type=int, default=30, help="queries that recall is of")
    parser.add_argument("--fetch-k", type=int, nargs="+", default=[100, 200])
    parser.add_argument("--independent", action="store_true", help="views that share no topics")
    parser.add_argument("--folder", type=Path, help="keep the indexes here for the next run")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
