"""How well each view and their fusion retrieve, on test collections in BEIR's form.

    python -m benchmarks.quality path/to/tydiqa-ko path/to/scifact

Each view alone, then the default fusion, over the store's candidates: the best 100 of the dense and
the best 100 of the sparse view. So the multi-vector view ranks again what these two found, as in
the store. The index of a collection is kept (`--cache`); a second run only searches.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import ir_measures
from ir_measures import RR, R, nDCG
from tqdm.auto import tqdm

from benchmarks.beir import Collection, read_collection
from langchain_hfembed import (
    BGEM3Embeddings,
    ComposedEncoder,
    HuggingFaceEmbeddings,
    HybridEncoder,
    HybridVectorStore,
)
from langchain_hfembed.demo.search import add_missing, demo_embeddings
from langchain_hfembed.hits import find

MEASURES = (nDCG @ 10, RR @ 10, R @ 100)
_BATCH = 256
_PRECISION = ("dtype", "engine", "quantization")


def main() -> None:
    """Print a table a collection."""
    arguments = _arguments()
    encoder = make_encoder(arguments)
    tqdm.write(
        f"{Path(encoder.model_name).name}, torch {version('torch')}, {platform.machine()}, "
        f"Python {platform.python_version()}",
        sys.stderr,
    )
    for folder in arguments.collections:
        collection = read_collection(folder)
        store = indexed(collection, encoder, arguments.cache)
        results = measure(collection, store)
        store.close()
        if arguments.json:
            print(json.dumps({"collection": collection.name, "results": results}))
        else:
            _print_table(collection, results)


def make_encoder(arguments: argparse.Namespace) -> HybridEncoder:
    """The demo model, a BGE-M3, or a model of Sentence Transformers as the dense view alone."""
    if arguments.dense is not None:
        return ComposedEncoder(
            dense=HuggingFaceEmbeddings(
                model_name=arguments.dense,
                query_prompt=arguments.query_instruction or None,
                document_prompt=arguments.document_instruction or None,
            )
        )
    precision = {name: getattr(arguments, name) for name in _PRECISION}
    if arguments.model is not None:
        return BGEM3Embeddings(
            model_name=arguments.model,
            query_instruction=arguments.query_instruction,
            document_instruction=arguments.document_instruction,
            **precision,
        )
    return demo_embeddings().model_copy(update=precision)


def indexed(collection: Collection, encoder: HybridEncoder, cache: Path) -> HybridVectorStore:
    """A store with the whole collection, continued where an earlier run stopped."""
    contents = "".join(document.page_content for document in collection.documents)
    # An index does not tell precisions of a model apart; here they are what is compared.
    precision = [str(getattr(encoder, name, "")) for name in _PRECISION]
    version = hashlib.sha256(f"{encoder.fingerprint} {precision} {contents}".encode())
    path = cache / f"{collection.name}-{version.hexdigest()[:12]}.db"
    store = HybridVectorStore(encoder, path=path)
    started = time.perf_counter()
    added = add_missing(store, collection.documents, batch_size=_BATCH, show_progress=True)
    if added:
        tqdm.write(
            f"indexed {added} documents in {time.perf_counter() - started:.0f} s", sys.stderr
        )
    return store


def measure(collection: Collection, store: HybridVectorStore) -> dict[str, dict[str, float]]:
    """Measures, in percent, by view and for the fusion."""
    views = store.encoder.views
    runs: dict[str, dict[str, dict[str, float]]] = {name: {} for name in (*views, "fusion")}
    queries = store.encoder.encode_queries(list(collection.queries.values()))
    pairs = zip(collection.queries, queries, strict=True)
    for query_id, query in tqdm(pairs, total=len(queries), desc=f"searching {collection.name}"):
        everything = len(collection.documents)
        hits = find(store.index, query, k=everything, fetch_k=store.fetch_k, fusion=store.fusion)
        for view in views:
            runs[view][query_id] = {str(hit.document.id): getattr(hit.scores, view) for hit in hits}
        runs["fusion"][query_id] = {str(hit.document.id): hit.score for hit in hits}
    return {
        name: {
            str(measure): round(100 * value, 1)
            for measure, value in ir_measures.calc_aggregate(
                MEASURES, collection.qrels, run
            ).items()
        }
        for name, run in runs.items()
    }


def _print_table(collection: Collection, results: dict[str, dict[str, float]]) -> None:
    print(
        f"{collection.name}: {len(collection.documents)} documents, "
        f"{len(collection.queries)} queries\n"
    )
    names = [str(measure) for measure in MEASURES]
    print(f"| | {' | '.join(names)} |")
    print(f"|---|{'---:|' * len(names)}")
    for run, values in results.items():
        print(f"| {run.replace('_', '-')} | {' | '.join(f'{values[n]:.1f}' for n in names)} |")
    print()


def model_arguments() -> argparse.ArgumentParser:
    """Which model, and where its indexes are kept; a parent of other parsers."""
    parser = argparse.ArgumentParser(add_help=False)
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", help="a model id or folder; the demo model if absent")
    model.add_argument("--dense", help="a Sentence Transformers model instead, dense alone")
    parser.add_argument("--dtype", default="float32", help="of BGE-M3")
    parser.add_argument("--engine", choices=("torch", "onnx"), default="torch", help="of BGE-M3")
    parser.add_argument("--quantization", choices=("int8",), help="of BGE-M3 with --engine onnx")
    parser.add_argument("--query-instruction", default="")
    parser.add_argument("--document-instruction", default="")
    parser.add_argument("--cache", type=Path, default=Path(".benchmarks"), help="for the indexes")
    return parser


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None, parents=[model_arguments()]
    )
    parser.add_argument("collections", nargs="+", type=Path, help="folders in BEIR's form")
    parser.add_argument("--json", action="store_true", help="a line of JSON a collection")
    return parser.parse_args()


if __name__ == "__main__":
    main()
