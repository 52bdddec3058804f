"""The filter language: which documents a search may find, by their metadata. No I/O.

`parse_filter` turns LangChain's dicts into a small tree, which each index translates; `leaves` is
what of metadata a filter can see, and `matches` is what a filter means.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from langchain_hfembed.errors import InvalidInputError

LeafKind = Literal["string", "number", "boolean", "null", "present"]


@dataclass(frozen=True)
class Leaf:
    """A value in metadata that filters can see.

    Attributes:
        path: The keys that lead to it, joined by dots.
        kind: What it is; `"present"` stands beside every value, dicts and lists included.
        value: Itself, numbers as 64-bit floats; `""` where the kind says everything.
    """

    path: str
    kind: LeafKind
    value: str | float


@dataclass(frozen=True)
class OneOf:
    """One of these leaves is there."""

    leaves: tuple[Leaf, ...]


@dataclass(frozen=True)
class Compare:
    """A number at a path compares so to another one."""

    path: str
    operator: Literal["<", "<=", ">", ">="]
    number: float


@dataclass(frozen=True)
class Every:
    """All of these hold; of none, always."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True)
class Some:
    """One of these holds; of none, never."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True)
class Not:
    """This does not hold."""

    filter: Filter


Filter = OneOf | Compare | Every | Some | Not


def parse_filter(given: object) -> Filter:
    """A filter out of LangChain's form.

    Args:
        given: Conditions on metadata that must all hold: `{"key": value}`, or `{"key": {"$gt": 3,
            "$lt": 9}}`; `"a.b"` is the key `b` in the dict at `a`, or a key `a.b`. And
            `{"$and": [...]}`, `{"$or": [...]}` and `{"$not": {...}}` of filters. Operators are
            `$eq $ne $gt $gte $lt $lte $in $nin $exists $not`. A list in metadata matches where an
            element of it does. `$ne`, `$nin` and `$not` also match a missing key.

    Raises:
        InvalidInputError: If an operator is unknown, or what it is given is of no use to it.
    """
    if not isinstance(given, Mapping):
        raise InvalidInputError(
            f"a filter is a dict such as {{'year': {{'$gte': 2024}}}}, not {_shown(given)}"
        )
    return Every(tuple(_entry(key, value) for key, value in given.items()))


def matches(filter_: Filter, metadata: Mapping[str, Any]) -> bool:
    """Whether metadata passes a filter."""
    return _holds(filter_, set(leaves(metadata)))


def leaves(metadata: Mapping[str, Any]) -> Iterator[Leaf]:
    """What filters can see of metadata.

    Dicts are entered, also in dicts; lists give their elements, but not what is in these.
    """
    return _leaves("", metadata)


def _leaves(prefix: str, metadata: Mapping[str, Any]) -> Iterator[Leaf]:
    for key, value in metadata.items():
        path = f"{prefix}{key}"
        yield Leaf(path, "present", "")
        if isinstance(value, Mapping):
            yield from _leaves(f"{path}.", value)
            continue
        for element in value if isinstance(value, list) else [value]:
            if not isinstance(element, (Mapping, list)):
                yield _leaf(path, element)


def _leaf(path: str, value: object) -> Leaf:
    if isinstance(value, str):
        return Leaf(path, "string", value)
    if isinstance(value, bool):
        return Leaf(path, "boolean", float(value))
    if isinstance(value, (int, float)):
        return Leaf(path, "number", _as_float(value))
    return Leaf(path, "null", "")


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer of more than 300 digits
        return math.inf if number > 0 else -math.inf


def _entry(key: object, value: Any) -> Filter:
    """What one entry of a filter's dict asks for."""
    if key in ("$and", "$or"):
        if not isinstance(value, (list, tuple)):
            raise InvalidInputError(f"{key} takes a list of filters, not {_shown(value)}")
        filters = tuple(map(parse_filter, value))
        return Every(filters) if key == "$and" else Some(filters)
    if key == "$not":
        return Not(parse_filter(value))
    if not isinstance(key, str) or key.startswith("$"):
        raise InvalidInputError(
            f"a filter has no {key!r}; it takes keys of metadata, $and, $or and $not"
        )
    return _conditions(key, value)


def _conditions(path: str, value: Any) -> Filter:
    """What is asked of the value at a path."""
    if not isinstance(value, Mapping):
        return _equals(path, value)
    if not value:
        raise InvalidInputError(f"the filter on {path!r} is empty; leave it out")
    for operator in value:
        if operator not in _OPERATORS:
            raise InvalidInputError(
                f"the filter on {path!r} has no operator {operator!r}; there are "
                f"{', '.join(_OPERATORS)}. A key within {path!r} is {path!r} + '.key'"
            )
    return Every(tuple(_OPERATORS[name](path, operand) for name, operand in value.items()))


def _equals(path: str, value: object) -> Filter:
    return OneOf((_leaf(path, _scalar(path, value)),))


def _in(path: str, values: object) -> Filter:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Collection):
        raise InvalidInputError(f"$in and $nin on {path!r} take a list, not {_shown(values)}")
    return OneOf(tuple(_leaf(path, _scalar(path, value)) for value in values))


def _exists(path: str, wanted: object) -> Filter:
    if not isinstance(wanted, bool):
        raise InvalidInputError(f"$exists on {path!r} takes True or False, not {_shown(wanted)}")
    present = OneOf((Leaf(path, "present", ""),))
    return present if wanted else Not(present)


def _compare(operator: Literal["<", "<=", ">", ">="]) -> Callable[[str, object], Filter]:
    def condition(path: str, number: object) -> Filter:
        is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
        if not is_number or math.isnan(_as_float(number)):  # type: ignore[arg-type]
            raise InvalidInputError(
                f"the filter on {path!r} compares numbers, not {_shown(number)}. Store a date as a "
                "number, such as its timestamp()"
            )
        return Compare(path, operator, _as_float(number))  # type: ignore[arg-type]

    return condition


def _scalar(path: str, value: object) -> object:
    if value is not None and not isinstance(value, (str, bool, int, float)):
        raise InvalidInputError(
            f"the filter on {path!r} compares with strings, numbers, booleans and None, not "
            f"{_shown(value)}. For one of several values, use $in"
        )
    return value


_OPERATORS: dict[str, Callable[[str, Any], Filter]] = {
    "$eq": _equals,
    "$ne": lambda path, value: Not(_equals(path, value)),
    "$gt": _compare(">"),
    "$gte": _compare(">="),
    "$lt": _compare("<"),
    "$lte": _compare("<="),
    "$in": _in,
    "$nin": lambda path, values: Not(_in(path, values)),
    "$exists": _exists,
    "$not": lambda path, value: Not(_conditions(path, value)),
}
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda number, other: number < other,
    "<=": lambda number, other: number <= other,
    ">": lambda number, other: number > other,
    ">=": lambda number, other: number >= other,
}


def _holds(filter_: Filter, seen: Collection[Leaf]) -> bool:
    if isinstance(filter_, OneOf):
        return any(leaf in seen for leaf in filter_.leaves)
    if isinstance(filter_, Compare):
        compares = _COMPARISONS[filter_.operator]
        return any(compares(number, filter_.number) for number in _numbers(filter_.path, seen))
    if isinstance(filter_, Not):
        return not _holds(filter_.filter, seen)
    holds = (_holds(inner, seen) for inner in filter_.filters)
    return all(holds) if isinstance(filter_, Every) else any(holds)


def _numbers(path: str, seen: Iterable[Leaf]) -> Iterator[float]:
    for leaf in seen:
        if leaf.path == path and leaf.kind == "number":
            yield float(leaf.value)


def _shown(value: object) -> str:
    return f"{type(value).__name__} ({reprlib.repr(value)})"
