"""Trains the demo model's two linear heads on freely licensed text and writes them to one file.

The encoder stays as it is. Its hidden states are computed once a text and cached; then

* the multi-vector head starts as a partial PCA whitening and is tuned contrastively on the mean
  MaxSim score;
* the sparse head starts as a ridge regression onto BM25's term weights and is tuned likewise on
  the dot product.

Text: the LibreOffice help in Korean and English (MPL-2.0), fetched with `apt-get download`, and,
with `--beir DIR ...`, the *training* split of BEIR folders. Documents that a folder judges for a
test query are not read, nor are their queries. Run it on a Debian system:

    python scripts/train_demo_heads.py --work-folder /tmp/demo-heads --beir tydiqa-ko scifact
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import random
import re
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse
import torch
from safetensors.numpy import save as safetensors_bytes
from torch.nn import functional
from tqdm import tqdm

from langchain_hfembed.demo import DOCUMENT_INSTRUCTION, QUERY_INSTRUCTION, demo_model_folder
from langchain_hfembed.demo.model import HEADS_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.int64]

SPECIAL_TOKENS = (0, 1, 2, 3, 250001)
"""XLM-RoBERTa's <s>, <pad>, </s>, <unk>, <mask>: they never enter the sparse view."""


# Text -----------------------------------------------------------------------------------------


@dataclass
class Source:
    """Documents of one origin, and queries that each have one or more of them as their answer."""

    name: str
    licence: str
    max_length: int
    """Tokens at which its documents are cut."""
    documents: list[str] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True)
class DebianText:
    """Where a Debian package keeps its HTML pages, and what to take of them."""

    package: str
    folder: str
    licence: str
    korean: bool
    sections: int


DEBIAN_TEXTS = (
    DebianText("libreoffice-help-ko", "usr/share/libreoffice/help/ko/text", "MPL-2.0", True, 1600),
    DebianText(
        "libreoffice-help-en-us", "usr/share/libreoffice/help/en-US/text", "MPL-2.0", False, 600
    ),
)


class _Blocks(HTMLParser):
    """Splits a page into `(is_heading, text)` blocks."""

    ignored = frozenset(
        ("script", "style", "noscript", "nav", "header", "aside", "footer", "pre", "head")
    )
    headings = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
    breaks = headings | frozenset(
        ("p", "div", "li", "td", "th", "dt", "dd", "tr", "table", "ul", "ol", "br")
    )

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[tuple[bool, str]] = []
        self.parts: list[str] = []
        self.heading = False
        self.depth_ignored = 0

    def flush(self) -> None:
        text = " ".join("".join(self.parts).split())
        if text:
            self.blocks.append((self.heading, text))
        self.parts, self.heading = [], False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.depth_ignored += tag in self.ignored
        if tag in self.breaks:
            self.flush()
            self.heading = tag in self.headings

    def handle_endtag(self, tag: str) -> None:
        self.depth_ignored -= tag in self.ignored
        if tag in self.breaks:
            self.flush()

    def handle_data(self, data: str) -> None:
        if self.depth_ignored <= 0:
            self.parts.append(data)


def page_sections(html: str) -> list[tuple[str, str]]:
    """Headings of a page, each with the text below it."""
    parser = _Blocks()
    parser.feed(html)
    parser.flush()
    sections: list[tuple[str, list[str]]] = []
    for heading, text in parser.blocks:
        if heading:
            sections.append((re.sub(r"^[\dA-Z]+(\.\d+)*\.\s+", "", text), []))
        elif sections:
            sections[-1][1].append(text)
    return [(heading, " ".join(texts)) for heading, texts in sections]


def korean_share(text: str) -> float:
    """Share of Hangul among the letters of a text."""
    letters = len(re.findall(r"[^\W\d_]", text))
    return len(re.findall(r"[가-힣]", text)) / max(1, letters)


def debian_source(text: DebianText, folder: Path, rng: random.Random) -> Source:
    """Sections of a package's pages; a section's heading and one of its sentences ask for it.

    The sentence is taken out of the section, as in the inverse cloze task (arXiv:1906.00300).
    """
    root = fetch_debian_package(text.package, folder)
    sections = {
        (heading, body[:1200])
        for page in sorted((root / text.folder).rglob("*.html"))
        for heading, body in page_sections(page.read_text(encoding="utf-8", errors="replace"))
        if len(body) >= 120 and (not text.korean or korean_share(body) > 0.5)
    }
    if not sections:
        raise SystemExit(f"No text under {root / text.folder}; is it another Debian release?")
    chosen = sorted(sections)
    rng.shuffle(chosen)
    source = Source(text.package, text.licence, 256)
    seen: set[str] = set()
    for heading, whole in chosen[: text.sections]:
        body = whole
        sentences = [s for s in re.split(r"(?<=[.!?])\s+", body) if 20 <= len(s) <= 200]
        asked = [heading] if len(heading.split()) >= 2 and heading not in seen else []
        if len(sentences) >= 3:
            sentence = rng.choice(sentences)
            body = " ".join(body.replace(sentence, " ", 1).split())
            asked.append(sentence)
        seen.update(asked)
        source.documents.append(body)
        source.queries += asked
        source.answers += [[len(source.documents) - 1]] * len(asked)
    return source


def fetch_debian_package(name: str, folder: Path) -> Path:
    """Download a package and unpack it, without installing it; kept in `folder`."""
    root = folder / name
    if root.is_dir():
        return root
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", name], cwd=folder, check=True)
        archive = max(folder.glob(f"{name}_*.deb"))
        subprocess.run(["dpkg", "-x", str(archive), f"{root}.part"], check=True)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise SystemExit(
            f"The Debian package {name} could not be fetched ({error}). On Debian or Ubuntu run "
            f"`apt-get update` first; elsewhere unpack the package into {root} by hand."
        ) from error
    return Path(f"{root}.part").rename(root)


def beir_source(folder: Path) -> Source:
    """The training split of a BEIR folder, without anything that its test split judges."""
    required = ("queries.train.jsonl", "qrels.train.tsv")
    if missing := [name for name in required if not (folder / name).is_file()]:
        raise SystemExit(f"{folder} is no BEIR folder with a training split: no {missing[0]}")
    test_file = folder / "qrels.tsv"
    held_back = {document for _, document in _qrels(test_file)} if test_file.is_file() else set()
    corpus = {
        row["_id"]: f"{row['title']} {row['text']}".strip()
        for row in _json_lines(next(folder.glob("corpus.jsonl*")))
    }
    texts = {row["_id"]: row["text"] for row in _json_lines(folder / "queries.train.jsonl")}
    judged: dict[str, list[str]] = {}
    for query, document in _qrels(folder / "qrels.train.tsv"):
        judged.setdefault(query, []).append(document)
    kept = {query: ids for query, ids in judged.items() if not held_back.intersection(ids)}
    ids = sorted({document for found in kept.values() for document in found})
    position = {document: index for index, document in enumerate(ids)}
    return Source(
        folder.name,
        "see the folder's README",
        512,
        [corpus[document] for document in ids],
        [texts[query] for query in kept],
        [[position[document] for document in found] for found in kept.values()],
    )


def _qrels(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8") as file:
        rows = csv.reader(file, delimiter="\t")
        next(rows)
        return [(row[0], row[1]) for row in rows if int(row[2]) > 0]


def _json_lines(path: Path) -> list[dict[str, str]]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


# Hidden states --------------------------------------------------------------------------------


@dataclass(frozen=True)
class States:
    """The encoder's last hidden states of some texts, one after the other."""

    ids: Integers
    hidden: npt.NDArray[np.float16]
    offsets: Integers

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def rows(self, texts: Integers, skip: int = 0) -> tuple[Integers, Integers]:
        """Token rows of some texts, less the first `skip` of each, and where each text starts."""
        ranges = [np.arange(self.offsets[i] + skip, self.offsets[i + 1]) for i in texts]
        starts = np.cumsum([0, *map(len, ranges)])[:-1]
        return np.concatenate(ranges), starts

    def dense(self) -> Floats:
        """Mean-pooled, L2-normalised vectors, shape `(texts, hidden)`."""
        sums: Floats = np.add.reduceat(self.hidden.astype(np.float32), self.offsets[:-1])
        sums /= np.linalg.norm(sums, axis=1, keepdims=True)
        return sums


class Encoder:
    """The demo model's encoder, with a cache on disk."""

    def __init__(self, folder: Path, cache: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()
        self.cache = cache

    def encode(self, texts: list[str], name: str, max_length: int) -> States:
        """Hidden states of the texts; read from the cache where the same texts were encoded."""
        digest = hashlib.sha256(json.dumps([texts, max_length]).encode()).hexdigest()[:12]
        path = self.cache / f"{name}-{digest}.npz"
        if not path.is_file():
            self._encode(texts, name, max_length, path)
        with np.load(path) as arrays:
            return States(arrays["ids"], arrays["hidden"], arrays["offsets"])

    @torch.inference_mode()
    def _encode(self, texts: list[str], name: str, max_length: int, path: Path) -> None:
        token_ids = self.tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
        lengths = np.array([len(ids) for ids in token_ids])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        hidden = np.empty((offsets[-1], self.model.config.hidden_size), np.float16)
        order = np.argsort(-lengths, kind="stable")
        with tqdm(total=int(offsets[-1]), desc=name, unit="token", mininterval=5) as progress:
            start = 0
            while start < len(order):
                batch = order[start : start + max(1, 2048 // lengths[order[start]])]
                start += len(batch)
                padded = self.tokenizer.pad(
                    {"input_ids": [token_ids[i] for i in batch]}, return_tensors="pt"
                )
                states = self.model(**padded).last_hidden_state.to(torch.float16).numpy()
                for row, i in zip(states, batch, strict=True):
                    hidden[offsets[i] : offsets[i + 1]] = row[: lengths[i]]
                progress.update(int(lengths[batch].sum()))
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, ids=np.concatenate(token_ids), hidden=hidden, offsets=offsets)


# Heads ----------------------------------------------------------------------------------------


@dataclass
class Heads:
    """Both linear heads: weights of shape `(out, hidden)` and biases of shape `(out,)`."""

    colbert_weight: torch.Tensor
    colbert_bias: torch.Tensor
    sparse_weight: torch.Tensor
    sparse_bias: torch.Tensor

    def multi_vector(self, hidden: torch.Tensor) -> torch.Tensor:
        """L2-normalised token vectors."""
        return functional.normalize(hidden @ self.colbert_weight.T + self.colbert_bias, dim=-1)

    def token_weights(self, hidden: torch.Tensor) -> torch.Tensor:
        """Sparse weight of each token, before the maximum over equal tokens."""
        return torch.relu(hidden @ self.sparse_weight[0] + self.sparse_bias)


@dataclass(frozen=True)
class Task:
    """A source with its hidden states, split into queries for training and for validation."""

    source: Source
    queries: States
    documents: States
    training: Integers
    validation: Integers
    hard_negatives: Integers
    """Documents that the dense view finds for a query and that don't answer it, `(queries, n)`."""


def make_task(source: Source, queries: States, documents: States, seed: int) -> Task:
    """Hold back a tenth of the documents, and all their queries, for validation."""
    rng = np.random.default_rng(seed)
    held_out = rng.random(len(documents)) < 0.1
    # A query with one answer on either side is used on neither.
    shares = np.array([held_out[answers].mean() for answers in source.answers])
    scores = queries.dense() @ documents.dense().T
    for row, answers in zip(scores, source.answers, strict=True):
        row[answers] = -np.inf
    scores[:, held_out] = -np.inf
    nearest = np.argsort(-scores, axis=1)[:, :24]
    return Task(
        source,
        queries,
        documents,
        np.flatnonzero(shares == 0),
        np.flatnonzero(shares == 1),
        nearest,
    )


def partial_whitening(tasks: list[Task], power: float, dims: int) -> tuple[Floats, Floats]:
    """PCA of the token states; the kept directions are divided by `variance ** power`.

    A power of 0.5 whitens fully. Returns a weight of shape `(dims, hidden)` and its bias.
    """
    sample = np.concatenate(
        [states.hidden[::5] for task in tasks for states in (task.documents, task.queries)]
    ).astype(np.float64)
    mean = sample.mean(0)
    variances, directions = np.linalg.eigh(np.cov(sample - mean, rowvar=False))
    kept = np.argsort(-variances)[:dims]
    weight = directions[:, kept].T / variances[kept, None] ** power
    return weight.astype(np.float32), (-weight @ mean).astype(np.float32)


def bm25_ridge(tasks: list[Task], penalty: float) -> tuple[Floats, np.float32]:
    """Weights that predict, from a token's state, its share of a BM25 score.

    Both sides of the dot product come from one head, so each gets the root of the idf; the
    document side also BM25's saturation (k1 1.2, b 0.75), known for each token of the text.
    """
    frequency: dict[int, int] = {}
    total = 0
    for task in tasks:
        for start, stop in zip(
            task.documents.offsets[:-1], task.documents.offsets[1:], strict=True
        ):
            total += 1
            for token in np.unique(task.documents.ids[start:stop]).tolist():
                frequency[token] = frequency.get(token, 0) + 1
    states, targets = [], []
    for task in tasks:
        average = np.diff(task.documents.offsets).mean()
        for texts, saturated in ((task.documents, True), (task.queries, False)):
            for start, stop in zip(texts.offsets[:-1], texts.offsets[1:], strict=True):
                ids, inverse, counts = np.unique(
                    texts.ids[start:stop], return_inverse=True, return_counts=True
                )
                seen = np.array([frequency.get(token, 0) for token in ids.tolist()])
                weight = np.sqrt(np.log1p((total - seen + 0.5) / (seen + 0.5)))
                if saturated:
                    norm = 1.2 * (0.25 + 0.75 * (stop - start) / average)
                    weight = weight * 2.2 * counts / (counts + norm)
                weight[np.isin(ids, SPECIAL_TOKENS)] = 0
                targets.append(weight[inverse])
                states.append(texts.hidden[start:stop])
    features = np.concatenate(states).astype(np.float32)
    target = np.concatenate(targets).astype(np.float32)
    mean, target_mean = features.mean(0), target.mean()
    features -= mean
    gram = features.T @ features / len(features) + penalty * np.eye(features.shape[1])
    weight = np.linalg.solve(gram, features.T @ (target - target_mean) / len(features))
    return weight.astype(np.float32), np.float32(target_mean - weight @ mean)


# Contrastive tuning ---------------------------------------------------------------------------


def batches(
    tasks: list[Task], steps: int, size: int, rng: np.random.Generator
) -> Iterator[tuple[Task, Integers, Integers, torch.Tensor]]:
    """Random batches, each of one task.

    Yields:
        The task; `size` queries; their answers followed by one hard negative each, no document
        twice; and which of these documents answer which query though they are not its own.
    """
    shares = np.sqrt([len(task.training) for task in tasks])
    for number in rng.choice(len(tasks), steps, p=shares / shares.sum()):
        task = tasks[number]
        queries: list[int] = []
        positives: dict[int, None] = {}
        for query in rng.permutation(task.training).tolist():
            answer = int(rng.choice(task.source.answers[query]))
            if answer not in positives:
                queries.append(query)
                positives[answer] = None
            if len(queries) == size:
                break
        negatives = dict.fromkeys(int(rng.choice(task.hard_negatives[q])) for q in queries)
        documents = list(positives | negatives)
        others = torch.zeros(len(queries), len(documents), dtype=torch.bool)
        for row, query in enumerate(queries):
            for column, document in enumerate(documents):
                others[row, column] = column != row and document in task.source.answers[query]
        yield task, np.array(queries), np.array(documents), others


def tune(
    heads: Heads, tasks: list[Task], args: argparse.Namespace, *, view: str, steps: int, size: int
) -> None:
    """Tune one head in place so that a query scores its own document above the others."""
    rng = np.random.default_rng(args.seed)
    if view == "multi_vector":
        parameters, rate = [heads.colbert_weight, heads.colbert_bias], args.colbert_rate
    else:
        parameters, rate = [heads.sparse_weight, heads.sparse_bias], args.sparse_rate
    # Rates are relative to a parameter's own size: the heads differ by orders of magnitude.
    groups = [
        {"params": [p.requires_grad_()], "lr": rate * float(p.detach().abs().mean())}
        for p in parameters
    ]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=steps
    )
    progress = tqdm(batches(tasks, steps, size, rng), total=steps, desc=view, mininterval=5)
    average = 0.0
    for step, (task, queries, documents, others) in enumerate(progress):
        if view == "multi_vector":
            scores = batch_maxsim(heads, task, queries, documents) / args.temperature
        else:
            scores = batch_sparse(heads, task, queries, documents)
        loss = functional.cross_entropy(
            scores.masked_fill(others, -torch.inf), torch.arange(len(queries))
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        average += (loss.item() - average) / min(step + 1, 50)
        progress.set_postfix(loss=f"{average:.3f}", refresh=False)
    for parameter in parameters:
        parameter.requires_grad_(False)


def rescale_sparse(heads: Heads, tasks: list[Task], positive: float = 0.3) -> None:
    """Scale the sparse head so that a query scores its answer `positive` on average.

    This changes no ranking of the view: the scores of a ReLU head are homogeneous. It puts them on
    the scale of BGE-M3's, so that sums without normalisation make sense too.
    """
    scores = [
        batch_sparse(
            heads, task, np.array([query]), np.array(task.source.answers[query][:1])
        ).item()
        for task in tasks
        for query in task.training[:200].tolist()
    ]
    factor = (positive / float(np.mean(scores))) ** 0.5
    heads.sparse_weight *= factor
    heads.sparse_bias *= factor


def _states(states: States, rows: Integers) -> torch.Tensor:
    return torch.from_numpy(states.hidden[rows].astype(np.float32))


def batch_maxsim(heads: Heads, task: Task, queries: Integers, documents: Integers) -> torch.Tensor:
    """Mean MaxSim of every query with every document, shape `(queries, documents)`."""
    query_rows, query_starts = task.queries.rows(queries, skip=1)
    document_rows, document_starts = task.documents.rows(documents, skip=1)
    query_vectors = heads.multi_vector(_states(task.queries, query_rows))
    document_vectors = heads.multi_vector(_states(task.documents, document_rows))
    lengths = np.diff([*document_starts, len(document_rows)])
    padded = torch.nn.utils.rnn.pad_sequence(
        list(torch.split(document_vectors, lengths.tolist())), batch_first=True
    )
    absent = torch.arange(padded.shape[1]) >= torch.from_numpy(lengths)[:, None]
    cosines = (query_vectors @ padded.flatten(0, 1).T).view(-1, *padded.shape[:2])
    best = cosines.masked_fill(absent, -torch.inf).amax(-1)
    counts = np.diff([*query_starts, len(query_rows)])
    return torch.stack([part.mean(0) for part in torch.split(best, counts.tolist())])


def batch_sparse(heads: Heads, task: Task, queries: Integers, documents: Integers) -> torch.Tensor:
    """Sparse dot product of every query with every document, shape `(queries, documents)`."""
    wanted = task.queries.rows(queries)[0]
    vocabulary = np.setdiff1d(task.queries.ids[wanted], SPECIAL_TOKENS)

    def matrix(states: States, texts: Integers) -> torch.Tensor:
        rows, starts = states.rows(texts)
        text = np.repeat(np.arange(len(texts)), np.diff([*starts, len(rows)]))
        column = np.searchsorted(vocabulary, states.ids[rows]).clip(max=len(vocabulary) - 1)
        known = vocabulary[column] == states.ids[rows]
        weights = heads.token_weights(_states(states, rows[known]))
        cells = torch.from_numpy(text[known] * len(vocabulary) + column[known])
        empty = torch.zeros(len(texts) * len(vocabulary))
        return empty.scatter_reduce(0, cells, weights, "amax").view(len(texts), -1)

    return matrix(task.queries, queries) @ matrix(task.documents, documents).T


# Validation -----------------------------------------------------------------------------------


def sparse_matrix(heads: Heads, states: States) -> scipy.sparse.csr_matrix:
    """Sparse vectors of all texts, one a row."""
    cells: dict[tuple[int, int], float] = {}
    text = np.repeat(np.arange(len(states)), np.diff(states.offsets))
    weights = np.concatenate(
        [
            heads.token_weights(_states(states, rows)).numpy()
            for rows in np.array_split(np.arange(len(states.ids)), len(states.ids) // 65536 + 1)
        ]
    )
    kept = (weights > 0) & ~np.isin(states.ids, SPECIAL_TOKENS)
    for row, column, weight in zip(
        text[kept].tolist(), states.ids[kept].tolist(), weights[kept].tolist(), strict=True
    ):
        cells[row, column] = max(weight, cells.get((row, column), 0.0))
    places = np.array(list(cells), dtype=np.int64).reshape(-1, 2).T
    values = np.array(list(cells.values()), dtype=np.float32)
    return scipy.sparse.csr_matrix((values, places), (len(states), 250_002))


def all_scores(heads: Heads, queries: States, documents: States) -> dict[str, Floats]:
    """Scores of every query with every document, by view, each of shape `(queries, documents)`."""
    query_rows, query_starts = queries.rows(np.arange(len(queries)), skip=1)
    query_vectors = heads.multi_vector(_states(queries, query_rows))
    multi_vector = np.empty((len(queries), len(documents)), np.float32)
    counts = np.diff([*query_starts, len(query_rows)])[:, None]
    for part in np.array_split(np.arange(len(documents)), len(documents) // 32 + 1):
        rows, starts = documents.rows(part, skip=1)
        cosines = (query_vectors @ heads.multi_vector(_states(documents, rows)).T).numpy()
        best = np.maximum.reduceat(cosines, starts, axis=1)
        multi_vector[:, part] = np.add.reduceat(best, query_starts, axis=0) / counts
    sparse = sparse_matrix(heads, queries) @ sparse_matrix(heads, documents).T
    return {
        "dense": queries.dense() @ documents.dense().T,
        "sparse": sparse.toarray(),
        "multi_vector": multi_vector,
    }


def fuse(scores: dict[str, Floats], weights: dict[str, float], fetch_k: int = 100) -> Floats:
    """The package's default fusion; documents that are no candidates get -inf."""
    fused = np.full_like(scores["dense"], -np.inf)
    for row in range(len(fused)):
        candidates = np.unique(
            np.concatenate([np.argsort(-scores[v][row])[:fetch_k] for v in ("dense", "sparse")])
        )
        total = np.zeros(len(candidates), np.float32)
        for view, weight in weights.items():
            values = scores[view][row, candidates]
            total += weight * (values - values.min()) / max(np.ptp(values), 1e-12)
        fused[row, candidates] = total
    return fused


DEFAULT_WEIGHTS = {"dense": 0.4, "sparse": 0.2, "multi_vector": 0.4}


def ndcg_at_10(scores: Floats, answers: list[list[int]]) -> float:
    """Mean nDCG@10 of binary judgements, in percent."""
    gains = 1 / np.log2(np.arange(2, 12))
    found = []
    for row, relevant in zip(scores, answers, strict=True):
        hits = np.isin(np.argsort(-row, kind="stable")[:10], relevant)
        found.append((hits * gains[: len(hits)]).sum() / gains[: min(10, len(relevant))].sum())
    return 100 * float(np.mean(found))


def evaluate(
    heads: Heads, queries: States, documents: States, answers: list[list[int]]
) -> dict[str, float]:
    """nDCG@10 of each view alone, over all documents, and of the default fusion."""
    scores = all_scores(heads, queries, documents)
    scores["fused"] = fuse(scores, DEFAULT_WEIGHTS)
    return {view: ndcg_at_10(values, answers) for view, values in scores.items()}


# The program ----------------------------------------------------------------------------------


def initial_heads(tasks: list[Task], args: argparse.Namespace) -> Heads:
    """The untuned heads: partial whitening and ridge regression."""
    colbert_weight, colbert_bias = partial_whitening(tasks, args.power, args.dims)
    sparse_weight, sparse_bias = bm25_ridge(tasks, args.ridge)
    return Heads(
        torch.from_numpy(colbert_weight),
        torch.from_numpy(colbert_bias),
        torch.from_numpy(sparse_weight)[None],
        torch.tensor([sparse_bias]),
    )


def print_table(title: str, heads: Heads, tasks: list[Task]) -> None:
    """Print nDCG@10 of the held-out queries, with each task's documents as the corpus."""
    print(f"\n{title} (nDCG@10, held-out training queries)")
    print(f"{'source':24}{'queries':>8}{'dense':>8}{'sparse':>8}{'multi':>8}{'fused':>8}")
    for task in tasks:
        lengths = [
            range(task.queries.offsets[i], task.queries.offsets[i + 1]) for i in task.validation
        ]
        rows = np.concatenate(lengths)
        offsets = np.cumsum([0, *map(len, lengths)])
        queries = States(task.queries.ids[rows], task.queries.hidden[rows], offsets)
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
    heads = initial_heads(tasks, args)
    print_table("Before tuning", heads, tasks)
    tune(heads, tasks, args, view="sparse", steps=args.sparse_steps, size=96)
    rescale_sparse(heads, tasks)
    tune(heads, tasks, args, view="multi_vector", steps=args.colbert_steps, size=32)
    print_table("After tuning", heads, tasks)
    write_heads(heads, sources, args)


if __name__ == "__main__":
    main()
