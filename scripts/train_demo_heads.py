"""Trains the demo model's two linear heads on freely licensed text and writes them to one file.

The encoder stays as it is. Its hidden states are computed once a text and cached; then

* the multi-vector head starts as a partial PCA whitening and is tuned contrastively on the mean
  MaxSim score;
* the sparse head starts as a ridge regression onto BM25's term weights and is tuned likewise on
  the dot product.

Text: the LibreOffice help in Korean and English (MPL-2.0), fetched with `apt-get download`, and,
with `--beir DIR ...`, the *training* split of BEIR folders. Documents that a folder judges for a
test query are not read, nor are their queries. Run it on a Debian system, from the repository's
root, in the environment that `make` builds:

    python scripts/train_demo_heads.py --work-folder /tmp/demo-heads --beir tydiqa-ko scifact
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save as safetensors_bytes

from langchain_hfembed.demo import DOCUMENT_INSTRUCTION, QUERY_INSTRUCTION, demo_model_folder
from langchain_hfembed.demo.model import HEADS_FILE
from scripts.contrastive_tuning import rescale_sparse, tune
from scripts.debian_sections import DEBIAN_TEXTS
from scripts.head_validation import evaluate
from scripts.linear_heads import Heads, untuned_heads
from scripts.token_states import Encoder
from scripts.training_data import Source, Task, beir_source, debian_source, make_task


def main() -> None:
    """Fetch, encode, train, validate, write."""
    args = parse_arguments()
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    sources = [debian_source(text, args.work_folder / "debian", rng) for text in DEBIAN_TEXTS]
    sources += [beir_source(folder) for folder in args.beir]
    encoder = Encoder(demo_model_folder(), args.work_folder / "states")
    tasks = []
    for source in sources:
        queries = [QUERY_INSTRUCTION + text for text in source.queries]
        documents = [DOCUMENT_INSTRUCTION + text for text in source.documents]
        tasks.append(
            make_task(
                source,
                encoder.encode(queries, f"{source.name}-queries", 128),
                encoder.encode(documents, f"{source.name}-documents", source.max_length),
                args.seed,
            )
        )
    heads = untuned_heads(tasks, dims=args.dims, power=args.power, penalty=args.ridge)
    print_table("Before tuning", heads, tasks)
    tune(
        heads,
        tasks,
        "sparse",
        steps=args.sparse_steps,
        size=96,
        rate=args.sparse_rate,
        temperature=1,
        seed=args.seed,
    )
    rescale_sparse(heads, tasks)
    tune(
        heads,
        tasks,
        "multi_vector",
        steps=args.colbert_steps,
        size=32,
        rate=args.colbert_rate,
        temperature=args.temperature,
        seed=args.seed,
    )
    print_table("After tuning", heads, tasks)
    write_heads(heads, sources, args)


def print_table(title: str, heads: Heads, tasks: list[Task]) -> None:
    """Print nDCG@10 of the held-out queries, with each task's documents as the corpus."""
    print(f"\n{title} (nDCG@10, held-out training queries)")
    print(f"{'source':24}{'queries':>8}{'dense':>8}{'sparse':>8}{'multi':>8}{'fused':>8}")
    for task in tasks:
        queries = task.queries.take(task.validation)
        answers = [task.source.answers[i] for i in task.validation]
        found = evaluate(heads, queries, task.documents, answers)
        columns = "".join(f"{value:8.1f}" for value in found.values())
        print(f"{task.source.name:24}{len(answers):8}{columns}", flush=True)


def write_heads(heads: Heads, sources: list[Source], args: argparse.Namespace) -> None:
    """Write the heads as float16, with where they come from."""
    recipe = {
        "encoder": "intfloat/multilingual-e5-small",
        "seed": args.seed,
        "training_text": {source.name: source.licence for source in sources},
    }
    tensors = {
        "colbert_linear.weight": heads.colbert_weight,
        "colbert_linear.bias": heads.colbert_bias,
        "sparse_linear.weight": heads.sparse_weight,
        "sparse_linear.bias": heads.sparse_bias,
    }
    halves = {name: tensor.numpy().astype(np.float16) for name, tensor in tensors.items()}
    # One key only: safetensors writes several in an order that changes from run to run.
    args.output.write_bytes(safetensors_bytes(halves, {"recipe": json.dumps(recipe)}))
    print(f"\nWritten: {args.output} ({args.output.stat().st_size:,} bytes)")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work-folder", type=Path, required=True, help="keeps text and states")
    parser.add_argument("--beir", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--output", type=Path, default=HEADS_FILE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dims", type=int, default=128, help="of the multi-vector head")
    parser.add_argument("--power", type=float, default=0.25, help="of the whitening")
    parser.add_argument("--ridge", type=float, default=1e-4)
    parser.add_argument("--temperature", type=float, default=0.02, help="of the MaxSim score")
    parser.add_argument("--colbert-steps", type=int, default=160)
    parser.add_argument("--colbert-rate", type=float, default=0.03)
    parser.add_argument("--sparse-steps", type=int, default=400)
    parser.add_argument("--sparse-rate", type=float, default=0.08)
    return parser.parse_args()


if __name__ == "__main__":
    main()
