"""The tree of errors, and what an error carries."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

import langchain_hfembed
from langchain_hfembed import errors
from langchain_hfembed.errors import (
    EmbeddingError,
    HybridIndexError,
    IndexLockedError,
    IndexMismatchError,
    InvalidInputError,
)

ALL = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if kind.__module__ == errors.__name__
]
every_error = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)


@every_error
def test_every_error_is_an_embedding_error_and_public(kind):
    assert issubclass(kind, EmbeddingError)
    assert getattr(langchain_hfembed, kind.__name__) is kind


def test_what_can_go_wrong_with_an_index_has_one_base():
    assert {kind for kind in ALL if issubclass(kind, HybridIndexError)} == {
        HybridIndexError,
        IndexLockedError,
        IndexMismatchError,
    }


def test_only_invalid_input_is_a_value_error():
    assert [kind for kind in ALL if issubclass(kind, ValueError)] == [InvalidInputError]


@every_error
@pytest.mark.parametrize(
    "travel",
    [
        *(lambda error, p=protocol: pickle.loads(pickle.dumps(error, p)) for protocol in range(6)),
        copy.copy,
        copy.deepcopy,
    ],
)
def test_an_error_arrives_whole_in_another_process(kind, travel):
    error = kind("text 3 of 9 is empty", indices=[3, 5], completed={0: [1.0, 2.0]})
    arrived = travel(error)
    assert type(arrived) is kind
    assert str(arrived) == "text 3 of 9 is empty"
    assert arrived.indices == (3, 5)
    assert arrived.completed == {0: [1.0, 2.0]}


@every_error
def test_an_error_with_nothing_to_add_has_no_indices_and_nothing_completed(kind):
    error = kind("no connection")
    assert error.indices == ()
    assert error.completed == {}
    assert str(error) == "no connection"


def test_indices_and_completed_do_not_follow_the_callers_later_changes():
    indices, completed = [1], {0: [1.0]}
    error = EmbeddingError("stopped", indices=indices, completed=completed)
    indices.append(2)
    completed[1] = [2.0]
    assert error.indices == (1,)
    assert error.completed == {0: [1.0]}


def test_indices_may_come_from_a_generator():
    assert EmbeddingError("stopped", indices=(i for i in (2, 4))).indices == (2, 4)


def test_two_errors_do_not_share_what_was_completed():
    first, second = EmbeddingError("a"), EmbeddingError("b")
    first.completed[0] = [1.0]
    assert second.completed == {}
