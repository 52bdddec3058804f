"""A document as a point's payload, and a filter as conditions on it. No I/O.

What filters see of metadata (`filters.leaves`) is stored beside it: every leaf as a string in one
list, `leaves`, with one keyword index, and the numbers of each path once more as a list under
`numbers`, for comparisons. Metadata itself is a string of JSON, which comes back as it was: Qdrant
has no integers above 64 bits.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from uuid import UUID, uuid5

from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.index.base import IndexRecord
from langchain_hfembed.index.filters import Compare, Every, Filter, Leaf, Not, OneOf, Some, leaves
from langchain_hfembed.index.qdrant.plan import (
    AllOf,
    AnyOf,
    Condition,
    HasId,
    HasKeyword,
    InRange,
    NoneOf,
)

LEAVES, NUMBERS, ORDER = "leaves", "numbers", "order"
DOCUMENT = ("id", "text", "metadata")

# Points have UUIDs, callers any string.
_NAMESPACE = UUID("5d1f0c46-6a0e-5d1b-9a55-6c1f4a9b7e21")
# Where the properties of the index lie; a version 8 UUID, which uuid5() never gives.
PROPERTIES_ID = UUID("68666562-0000-8000-8000-000000000001")

_LONGEST = 128  # characters of a string or a path that are kept; longer ones are hashed
_LARGEST = float.fromhex("0x1.fffffffffffffp+1023")
_NOTHING = HasId(())
_EVERYTHING = NoneOf((_NOTHING,))
_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}


def point_id(id_: str) -> UUID | None:
    """The point of a document; None for what can't be an id: text that UTF-8 can't write."""
    return uuid5(_NAMESPACE, id_) if _is_text(id_) else None


def payload_of(record: IndexRecord, metadata: str, order: int) -> dict[str, Any]:
    """The payload of a document.

    Args:
        record: The document.
        metadata: Its metadata as JSON.
        order: A number that rises with each document that is stored.

    Raises:
        InvalidInputError: If its id or text can't be written as UTF-8.
    """
    for name in ("id", "text"):
        if not _is_text(getattr(record, name)):
            raise InvalidInputError(
                f"the {name} of document {record.id!r} holds half of a surrogate pair, which is no "
                "character. Remove it: value.encode(errors='ignore').decode()"
            )
    seen = set(leaves(record.metadata))
    numbers: dict[str, list[float]] = {}
    for leaf in seen:
        if leaf.kind == "number" and math.isfinite(float(leaf.value)):
            numbers.setdefault(escaped(leaf.path), []).append(float(leaf.value))
    return {
        "id": record.id,
        "text": record.text,
        "metadata": metadata,
        ORDER: order,
        LEAVES: sorted(map(keyword, seen)),
        NUMBERS: numbers,
    }


def number_keys(payload: Mapping[str, Any]) -> Iterable[str]:
    """Keys of a payload, with dots, at which it has numbers."""
    return (f"{NUMBERS}.{path}" for path in payload[NUMBERS])


def number_key(path: str) -> str:
    """The key of a payload, with dots, at which the numbers of this path lie."""
    return f"{NUMBERS}.{escaped(path)}"


def has_path(path: str) -> Condition:
    """Metadata has something at this path."""
    return HasKeyword(LEAVES, (keyword(Leaf(path, "present", "")),))


def compared_paths(filter_: Filter) -> set[str]:
    """Paths at which a filter compares numbers."""
    if isinstance(filter_, Compare):
        return {filter_.path}
    inner = (filter_.filter,) if isinstance(filter_, Not) else getattr(filter_, "filters", ())
    return set().union(*map(compared_paths, inner))


def condition_of(filter_: Filter, absent: Collection[str] = ()) -> Condition:
    """What points must pass so that their metadata passes a filter.

    Args:
        filter_: The filter.
        absent: Paths that no document has, at which every comparison fails.
    """
    if isinstance(filter_, OneOf):
        return (
            HasKeyword(LEAVES, tuple(map(keyword, filter_.leaves))) if filter_.leaves else _NOTHING
        )
    if isinstance(filter_, Compare):
        return _NOTHING if filter_.path in absent else _comparison(filter_)
    if isinstance(filter_, Not):
        return NoneOf((condition_of(filter_.filter, absent),))
    conditions = tuple(condition_of(each, absent) for each in filter_.filters)
    if isinstance(filter_, Every):
        return AllOf(conditions) if conditions else _EVERYTHING
    assert isinstance(filter_, Some)
    return AnyOf(conditions) if conditions else _NOTHING


def _comparison(filter_: Compare) -> Condition:
    key = number_key(filter_.path)
    infinite = {
        sign: HasKeyword(LEAVES, (keyword(Leaf(filter_.path, "number", sign)),))
        for sign in (math.inf, -math.inf)
    }
    upwards, inclusive = filter_.operator in (">", ">="), filter_.operator in (">=", "<=")
    beyond = math.inf if upwards else -math.inf
    # JSON has no infinity: as a value it is a leaf alone, and as a bound it is all numbers or none.
    if filter_.number == beyond:
        return infinite[beyond] if inclusive else _NOTHING
    if filter_.number == -beyond:
        finite = InRange(key, gte=-_LARGEST, lte=_LARGEST)
        at_bound = (infinite[-beyond],) if inclusive else ()
        return AnyOf((finite, infinite[beyond], *at_bound))
    return AnyOf((InRange(key, **{_BOUNDS[filter_.operator]: filter_.number}), infinite[beyond]))


def keyword(leaf: Leaf) -> str:
    """A leaf as a string that no other leaf has; equal numbers, 0.0 and -0.0, share one."""
    path = escaped(leaf.path)  # has no colon
    if leaf.kind == "number":
        return f"number:{path}:{float(leaf.value) + 0.0!r}"  # + 0.0 turns -0.0 into 0.0
    if leaf.kind == "boolean":
        return f"boolean:{path}:{'true' if leaf.value else 'false'}"
    value = str(leaf.value)
    if len(value) > _LONGEST or not _is_text(value):
        return f"long string:{path}:{_digest(value)}"
    return f"{leaf.kind}:{path}:{value}"


def escaped(path: str) -> str:
    """A path as a name that a key of a payload can have, `[A-Za-z0-9_-]`, one name a path.

    Other characters, and `_` itself, are their number in hexadecimal between two `_`: `source.file`
    becomes `source_2e_file`. The empty path is `_`, a long one `__` and its hash.
    """
    name = re.sub(r"[^A-Za-z0-9-]", lambda match: f"_{ord(match[0]):x}_", path) or "_"
    return name if len(name) <= _LONGEST else f"__{_digest(path)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
