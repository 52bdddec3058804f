"""What smaller token vectors cost: bytes a document, and quality on a collection in BEIR's form.

    python -m benchmarks.compression path/to/scifact

The collection is encoded once, by `benchmarks.quality`, and its index is kept; from there it is
copied into an index for each way to store token vectors. Each ranks the same candidates, the best
100 of the dense and the best 100 of the sparse view, by the multi-vector view alone and by the
default fusion.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from tqdm.auto import tqdm

from benchmarks.quality import indexed, make_encoder, measure, model_arguments
from langchain_hfembed import HybridVectorStore, SQLiteIndex, copy_index
from langchain_hfembed.evaluation import Collection, load_beir
from langchain_hfembed.index.sqlite.token_codec import MultiVectorDtype

_WAYS: tuple[tuple[MultiVectorDtype, int], ...] = (
    ("float16", 1),
    ("int8", 1),
    ("float16", 2),
    ("int8", 2),
    ("float16", 4),
    ("int8", 4),
)


def main() -> None:
    """Print a line for each way to store token vectors."""
    arguments = _arguments()
    encoder = make_encoder(arguments)
    collection = load_beir(arguments.collection)
    lines: list[dict[str, object]] = []
    with indexed(collection, encoder, arguments.cache) as source:
        for dtype, pooling in tqdm(_WAYS):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "index.db"
                index = SQLiteIndex(path, multi_vector_dtype=dtype, token_pooling=pooling)
                with HybridVectorStore(encoder, index) as store:
                    copy_index(source.index, index)
                    results = measure(collection, store).means
                lines.append(
                    {
                        "multi_vector_dtype": dtype,
                        "token_pooling": pooling,
                        "bytes_a_document": round(path.stat().st_size / len(collection.documents)),
                        "multi_vector": round(100 * results["multi_vector"]["nDCG@10"], 1),
                        "fusion": round(100 * results["fusion"]["nDCG@10"], 1),
                    }
                )
    if arguments.json:
        print(json.dumps({"collection": collection.name, "lines": lines}))
    else:
        _print(collection, lines)


def _print(collection: Collection, lines: list[dict[str, object]]) -> None:
    print(f"{collection.name}: {len(collection.documents)} documents, nDCG@10\n")
    print("| token vectors | pooled by | bytes a document | multi-vector | fusion |")
    print("|---|---:|---:|---:|---:|")
    for line in lines:
        print(
            f"| {line['multi_vector_dtype']} | {line['token_pooling']} "
            f"| {line['bytes_a_document']:,} | {line['multi_vector']} | {line['fusion']} |"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None, parents=[model_arguments()]
    )
    parser.add_argument("collection", type=Path, help="a folder in BEIR's form")
    parser.add_argument("--json", action="store_true", help="a line of JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
