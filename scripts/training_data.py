"""What the heads are trained on: documents, queries that they answer, their hidden states."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from langchain_hfembed.evaluation import load_beir
from scripts.debian_sections import DebianText, debian_sections
from scripts.token_states import Integers, States


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


def debian_source(text: DebianText, folder: Path, rng: random.Random) -> Source:
    """Sections of a package's pages; a section's heading and one of its sentences ask for it.

    The sentence is taken out of the section, as in the inverse cloze task (arXiv:1906.00300).
    """
    chosen = debian_sections(text, folder)
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


def beir_source(folder: Path) -> Source:
    """The training split of a BEIR folder, without anything that its test split judges."""
    required = ("queries.train.jsonl", "qrels.train.tsv", "queries.jsonl", "qrels.tsv")
    if missing := [name for name in required if not (folder / name).is_file()]:
        raise SystemExit(
            f"{folder} is no BEIR folder with a training and a test split: no {missing[0]}"
        )
    tested, trained = load_beir(folder), load_beir(folder, "train", corpus=False)
    held_back = {document for judged in tested.qrels.values() for document in judged}
    corpus = {str(document.id): document.page_content for document in tested.documents}
    answers = {
        query: [document for document, relevance in judged.items() if relevance > 0]
        for query, judged in trained.qrels.items()
    }
    kept = {q: ids for q, ids in answers.items() if ids and not held_back.intersection(ids)}
    ids = sorted({document for found in kept.values() for document in found})
    position = {document: index for index, document in enumerate(ids)}
    return Source(
        folder.name,
        "see the folder's README",
        512,
        [corpus[document] for document in ids],
        [trained.queries[query] for query in kept],
        [[position[document] for document in found] for found in kept.values()],
    )


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
