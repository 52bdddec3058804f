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

from tqdm.auto import tqdm

from langchain_hfembed import (
    BGEM3Embeddings,
    ComposedEncoder,
    HuggingFaceEmbeddings,
    HybridEncoder,
    HybridVectorStore,
)
from langchain_hfembed.demo.search import add_missing, demo_embeddings
from langchain_hfembed.evaluation import Collection, Evaluation, evaluate, load_beir
from langchain_hfembed.vectors import view_title

MEASURES = ("nDCG@10", "RR@10", "R@100")
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
        collection = load_beir(folder)
        store = indexed(collection, encoder, arguments.cache)
        results = measure(collection, store)
        store.close()
        if arguments.json:
            print(json.dumps({"collection": collection.name, **results.to_dict()}))
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


def measure(collection: Collection, store: HybridVectorStore) -> Evaluation:
    """Each view alone, and the store's fusion."""
    return evaluate(store, collection.queries, collection.qrels, show_progress=True)


def _print_table(collection: Collection, results: Evaluation) -> None:
    print(
        f"{collection.name}: {len(collection.documents)} documents, "
        f"{len(collection.queries)} queries\n"
    )
    print(f"| | {' | '.join(MEASURES)} |")
    print(f"|---|{'---:|' * len(MEASURES)}")
    for run, means in results.means.items():
        cells = [f"{100 * means[name]:.1f}" for name in MEASURES]
        print(f"| {view_title(run)} | {' | '.join(cells)} |")
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
