"""Batches and results, with an engine that computes nothing."""

from __future__ import annotations

import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_hfembed import EmbeddingError
from langchain_hfembed.embeddings.engines.base import Batch, BatchOutput
from langchain_hfembed.embeddings.engines.batching import encode, lexical_weights
from langchain_hfembed.vectors import VIEWS

SPECIAL = np.array([0, 2])


class Engine:
    """Its vectors are made of the ids, its weights are them divided by ten."""

    device_name = "nowhere"
    max_positions = 100

    def __init__(self, max_batch_tokens=1000):
        self.tokenizer = SimpleNamespace(special_ids=SPECIAL)
        self.max_batch_tokens = max_batch_tokens
        self.events = []
        self.before = lambda batch: None

    def start(self, batch, views):
        self.before(batch)
        number = sum(name == "start" for name, _ in self.events)
        self.events.append(("start", number))

        def finish():
            self.events.append(("finish", number))
            ids = batch.ids.astype(np.float32)
            sums = np.add.reduceat(ids, batch.starts)
            return BatchOutput(
                np.stack([sums, batch.lengths], axis=1).astype(np.float32)
                if "dense" in views
                else None,
                ids / 10 if "sparse" in views else None,
                np.stack([ids, ids], axis=1) if "multi_vector" in views else None,
            )

        return finish


def _encode(texts, *engines, views=VIEWS, batch_size=4, on_done=lambda count: None):
    return encode(engines, texts, views, batch_size=batch_size, on_done=on_done)


TEXTS = st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=8), max_size=12)


@settings(max_examples=60)
@given(texts=TEXTS, batch_size=st.integers(1, 5), budget=st.integers(1, 40))
@pytest.mark.parametrize("engines", [1, 3])
def test_every_text_gets_its_own_views_in_its_place(engines, texts, batch_size, budget):
    done = []
    encoded = _encode(
        texts,
        *(Engine(budget) for _ in range(engines)),
        batch_size=batch_size,
        on_done=done.append,
    )
    assert sum(done) == len(encoded) == len(texts)
    for ids, embedding in zip(texts, encoded, strict=True):
        assert embedding.dense.tolist() == [sum(ids), len(ids)]
        assert embedding.multi_vector[:, 0].tolist() == ids[1:]
        expected = {token: token / 10 for token in ids if token not in SPECIAL}
        assert embedding.sparse.to_dict() == pytest.approx(expected)


def test_a_batch_is_started_before_the_one_before_it_is_read_out():
    """Else a GPU would wait for the processor."""
    engine = Engine()
    _encode([[1, 3]] * 6, engine, batch_size=2)
    assert engine.events == [
        ("start", 0), ("start", 1), ("finish", 0), ("start", 2), ("finish", 1), ("finish", 2),
    ]  # fmt: skip


def test_what_does_not_fit_is_halved_while_the_batch_before_it_is_kept():
    engine = Engine()

    def before(batch):
        if len(batch.lengths) > 2 and engine.events:
            raise MemoryError

    engine.before = before
    encoded = _encode([[1, number] for number in range(3, 15)], engine, batch_size=4)
    assert [int(embedding.multi_vector[0, 0]) for embedding in encoded] == list(range(3, 15))
    assert len(engine.events) == 2 * (1 + 4)  # one of four texts, four of two


def test_an_error_names_its_text_and_keeps_what_was_started_before_it():
    engine = Engine()

    def before(batch):
        if 9 in batch.ids:
            raise MemoryError

    engine.before = before
    with pytest.raises(EmbeddingError, match=r"text 2 \(2 tokens\).*nowhere") as caught:
        _encode([[1, 1, 1], [1, 1, 3], [1, 9]], engine, batch_size=1)
    assert caught.value.indices == (2,)
    assert caught.value.completed == {0: [3, 3], 1: [5, 3]}


def test_several_engines_share_the_batches():
    engines = [Engine(), Engine()]
    together = threading.Barrier(2)
    for engine in engines:
        engine.before = lambda batch, engine=engine: engine.events or together.wait(10)
    _encode([[1, 3]] * 8, *engines, batch_size=1)
    assert all(engine.events for engine in engines)
    assert sum(len(engine.events) for engine in engines) == 2 * 8


def test_when_one_of_several_engines_fails_the_others_end():
    failing, other = Engine(), Engine()
    failed = threading.Event()

    def fail(batch):
        failed.set()
        raise RuntimeError("the driver is gone")

    failing.before = fail
    other.before = lambda batch: failed.wait(10)
    with pytest.raises(RuntimeError, match="the driver is gone"):
        _encode([[1, 3]] * 10_000, failing, other, batch_size=1)
    assert len(other.events) < 10_000


@pytest.mark.parametrize("engines", [1, 2])
def test_ctrl_c_ends_every_engine_at_its_batch(engines):
    """A pool of threads would go on until all texts are done."""
    working = [Engine() for _ in range(engines)]
    for engine in working:
        engine.before = lambda batch: time.sleep(0.002)

    done = []

    def press(count):
        done.append(count)
        if len(done) == 10:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        _encode([[1, 3]] * 2000, *working, batch_size=1, on_done=press)
    assert sum(done) < 1000


def test_progress_is_told_by_one_thread_at_a_time():
    inside, most = [], []

    def tell(count):
        inside.append(1)
        time.sleep(0.001)
        most.append(len(inside))
        inside.pop()

    _encode([[1, 3]] * 40, *(Engine() for _ in range(4)), batch_size=1, on_done=tell)
    assert max(most) == 1


@settings(max_examples=200)
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from([0, 1, 2, 5, 2**31 - 1]),
                st.floats(-2, 2, width=32) | st.just(float("nan")),
            ),
            min_size=1,
            max_size=9,
        ),
        min_size=1,
        max_size=5,
    )
)
def test_lexical_weights_are_the_largest_of_each_token_that_is_not_special(texts):
    batch = Batch.of([[token for token, _ in text] for text in texts])
    weights = np.array([weight for text in texts for _, weight in text], np.float32)
    for text, (tokens, largest) in zip(
        texts, lexical_weights(batch, weights, SPECIAL), strict=True
    ):
        expected = {}
        for token, weight in text:
            if token not in SPECIAL and not weight <= 0:  # NaN stays, to come to light
                expected[token] = np.maximum(expected.get(token, 0), np.float32(weight))
        assert tokens.dtype == np.int32
        assert tokens.tolist() == sorted(expected)
        np.testing.assert_array_equal(largest, [expected[token] for token in tokens.tolist()])
