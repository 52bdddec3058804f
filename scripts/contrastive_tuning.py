"""Tunes the heads so that a query scores its own document above the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from scripts.linear_heads import Heads
from scripts.token_states import SPECIAL_TOKENS, Integers, States
from scripts.training_data import Task


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
    heads: Heads,
    tasks: list[Task],
    view: Literal["sparse", "multi_vector"],
    *,
    steps: int,
    size: int,
    rate: float,
    temperature: float,
    seed: int,
) -> None:
    """Tune one head in place.

    Args:
        heads: Both heads.
        tasks: What to train on.
        view: Whose head.
        steps: Batches, of one task each.
        size: Queries in a batch, at most.
        rate: The highest learning rate, as a share of a parameter's mean absolute value.
        temperature: What the scores are divided by.
        seed: Of the batches.
    """
    rng = np.random.default_rng(seed)
    if view == "multi_vector":
        parameters, score = [heads.colbert_weight, heads.colbert_bias], batch_maxsim
    else:
        parameters, score = [heads.sparse_weight, heads.sparse_bias], batch_sparse
    # Rates are relative to a parameter's own size: the heads differ by orders of magnitude.
    rates = [rate * float(parameter.detach().abs().mean()) for parameter in parameters]
    optimizer = torch.optim.Adam(
        [
            {"params": [parameter.requires_grad_()], "lr": own_rate}
            for parameter, own_rate in zip(parameters, rates, strict=True)
        ]
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps)
    progress = tqdm(batches(tasks, steps, size, rng), total=steps, desc=view, mininterval=5)
    average = 0.0
    for step, (task, queries, documents, others) in enumerate(progress):
        scores = score(heads, task, queries, documents) / temperature
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


def batch_maxsim(heads: Heads, task: Task, queries: Integers, documents: Integers) -> torch.Tensor:
    """Mean MaxSim of every query with every document, shape `(queries, documents)`."""
    query_rows, query_starts = task.queries.rows(queries, skip=1)
    document_rows, document_starts = task.documents.rows(documents, skip=1)
    query_vectors = heads.multi_vector(task.queries.tensor(query_rows))
    document_vectors = heads.multi_vector(task.documents.tensor(document_rows))
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
        weights = heads.token_weights(states.tensor(rows[known]))
        cells = torch.from_numpy(text[known] * len(vocabulary) + column[known])
        empty = torch.zeros(len(texts) * len(vocabulary))
        return empty.scatter_reduce(0, cells, weights, "amax").view(len(texts), -1)

    return matrix(task.queries, queries) @ matrix(task.documents, documents).T
