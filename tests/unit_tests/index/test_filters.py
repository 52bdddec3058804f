"""The filter language: what each operator means, by itself and in the index, and its errors."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_hfembed import HybridIndexError, InvalidInputError, SQLiteIndex
from langchain_hfembed.index.filters import matches, parse_filter
from tests.encoders import HashEncoder, records

ENCODER = HashEncoder()
LONG = "long " * 100

# An oracle of its own: straight over the dicts, without leaves ---------------------------------


def _values(metadata: Any, path: str) -> list[Any]:
    """All values at a path, which may be cut at any of its dots."""
    if not isinstance(metadata, Mapping):
        return []
    found = [metadata[path]] if path in metadata else []
    for cut in (position for position, letter in enumerate(path) if letter == "."):
        if path[:cut] in metadata:
            found += _values(metadata[path[:cut]], path[cut + 1 :])
    return found


def _elements(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool) or value is None or wanted is None:
        return value is wanted
    if isinstance(value, str) or isinstance(wanted, str):
        return isinstance(value, str) and isinstance(wanted, str) and value == wanted
    return _is_number(value) and _float(value) == _float(wanted)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _compare(value: Any, operator: str, number: float) -> bool:
    if not _is_number(value):
        return False
    left, right = _float(value), _float(number)
    return {
        "$gt": left > right,
        "$gte": left >= right,
        "$lt": left < right,
        "$lte": left <= right,
    }[operator]


def _condition(metadata: Any, path: str, operator: str, operand: Any) -> bool:
    values = _values(metadata, path)
    elements = [element for value in values for element in _elements(value)]
    if operator == "$exists":
        return bool(values) is operand
    if operator == "$not":
        return not _asked(metadata, path, operand)
    if operator in ("$ne", "$nin"):
        return not _condition(metadata, path, {"$ne": "$eq", "$nin": "$in"}[operator], operand)
    if operator == "$eq":
        return any(_same(element, operand) for element in elements)
    if operator == "$in":
        return any(_same(element, wanted) for element in elements for wanted in operand)
    return any(_compare(element, operator, operand) for element in elements)


def _asked(metadata: Any, path: str, asked: Any) -> bool:
    if not isinstance(asked, dict):
        return _condition(metadata, path, "$eq", asked)
    return all(_condition(metadata, path, operator, value) for operator, value in asked.items())


def passes(metadata: dict[str, Any], asked: dict[str, Any]) -> bool:
    def entry(key: str, value: Any) -> bool:
        if key == "$and":
            return all(passes(metadata, inner) for inner in value)
        if key == "$or":
            return any(passes(metadata, inner) for inner in value)
        if key == "$not":
            return not passes(metadata, value)
        return _asked(metadata, key, value)

    return all(entry(key, value) for key, value in asked.items())


# Few keys and few values, so that filters hit ---------------------------------------------------

keys = st.sampled_from(["a", "b", "a.b", "서울", 'q"uo\\te', "n\0ul"])
plain = [None, True, False, 0, 1, 1.0, -1.5, 2**53, 2**53 + 1, 10**400, "", "a", "서울", "1", "A"]
odd = ["a\0", "a\0b", "true", LONG, LONG + "!", "\ud800", 'q"uo\\te', "%"]
scalars = st.sampled_from([*plain, *odd])
metadata = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
metadatas = st.dictionaries(keys, metadata, max_size=3)
numbers = st.sampled_from([0, 1, 0.5, -2, 2**53, 1e300, math.inf, 10**400])
paths = st.lists(keys, min_size=1, max_size=2).map(".".join)
conditions = st.deferred(
    lambda: st.one_of(
        scalars,
        st.fixed_dictionaries(
            {},
            optional={
                "$eq": scalars,
                "$ne": scalars,
                "$in": st.lists(scalars, max_size=3),
                "$nin": st.lists(scalars, max_size=3),
                "$exists": st.booleans(),
                **dict.fromkeys(("$gt", "$gte", "$lt", "$lte"), numbers),
                "$not": st.fixed_dictionaries({"$eq": scalars}),
            },
        ).filter(bool),
    )
)
filters = st.recursive(
    st.dictionaries(paths, conditions, max_size=2),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "$and": st.lists(inner, max_size=3),
            "$or": st.lists(inner, max_size=3),
            "$not": inner,
        },
    ),
    max_leaves=4,
)


@given(metadatas, filters)
def test_a_filter_means_what_a_plain_loop_over_dicts_finds(found, asked):
    assert matches(parse_filter(asked), found) is passes(found, asked)


def _index(found: list[dict[str, Any]]) -> SQLiteIndex:
    index = SQLiteIndex()
    for number, each in enumerate(found):
        index.upsert(records(ENCODER, {str(number): f"text {number}"}, **each))
    return index


@given(st.lists(metadatas, max_size=6), filters)
def test_an_index_proposes_exactly_the_documents_that_pass(found, asked):
    with _index(found) as index:
        [query] = ENCODER.encode_queries(["text"])
        ids = index.candidates(query, 100, parse_filter(asked))
    assert ids == [str(n) for n, each in enumerate(found) if passes(each, asked)]


# The meaning, spelt out -------------------------------------------------------------------------

DOCUMENT = {
    "year": 2024,
    "lang": "ko",
    "tags": ["news", 7],
    "draft": False,
    "owner": None,
    "source": {"file": "a.md", "pages": {"first": 3}},
    "a.b": "dotted",
    "none": [],
}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, True),
        ({"year": 2024}, True),
        ({"year": 2024.0}, True),
        ({"year": "2024"}, False),
        ({"lang": "ko", "year": 2023}, False),
        ({"tags": "news"}, True),
        ({"tags": 7}, True),
        ({"tags": {"$gt": 6}}, True),
        ({"draft": False}, True),
        ({"draft": 0}, False),
        ({"owner": None}, True),
        ({"missing": None}, False),
        ({"source.file": "a.md"}, True),
        ({"source.pages.first": {"$gte": 3, "$lt": 4}}, True),
        ({"a.b": "dotted"}, True),
        ({"year": {"$gt": 2024}}, False),
        ({"lang": {"$in": ["en", "ko"]}}, True),
        ({"lang": {"$in": []}}, False),
        ({"lang": {"$nin": []}}, True),
        ({"lang": {"$ne": "ko"}}, False),
        ({"missing": {"$ne": "ko"}}, True),
        ({"missing": {"$nin": ["ko"]}}, True),
        ({"missing": {"$not": {"$gt": 3}}}, True),
        ({"missing": {"$gt": 3}}, False),
        ({"owner": {"$exists": True}}, True),
        ({"none": {"$exists": True}}, True),
        ({"source": {"$exists": True}}, True),
        ({"missing": {"$exists": False}}, True),
        ({"$or": [{"year": 1}, {"lang": "ko"}]}, True),
        ({"$or": []}, False),
        ({"$and": []}, True),
        ({"$and": [{"year": 2024}, {"lang": "en"}]}, False),
        ({"$not": {"lang": "en", "year": 2024}}, True),
        ({"$not": {}}, False),
    ],
)
def test_what_a_filter_means(asked, expected):
    assert matches(parse_filter(asked), DOCUMENT) is expected
    assert passes(DOCUMENT, asked) is expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("lang = 'ko'", "a filter is a dict"),
        (None, "a filter is a dict"),
        ({"$nor": []}, r"no '\$nor'; it takes keys of metadata"),
        ({7: 1}, "a filter has no 7"),
        ({"year": {"$regex": "2"}}, r"no operator '\$regex'; there are \$eq, \$ne"),
        ({"source": {"file": "a.md"}}, r"A key within 'source' is 'source' \+ '.key'"),
        ({"year": {}}, "is empty"),
        ({"year": {"$gt": "2024-01-01"}}, r"compares numbers, not str.*timestamp\(\)"),
        ({"year": {"$gt": True}}, "compares numbers, not bool"),
        ({"year": {"$lt": math.nan}}, "compares numbers"),
        ({"lang": {"$in": "ko"}}, r"\$in and \$nin on 'lang' take a list"),
        ({"lang": {"$in": [["ko"]]}}, "compares with strings, numbers"),
        ({"tags": ["news"]}, r"compares with strings.*For one of several values, use \$in"),
        ({"lang": {"$exists": 1}}, "takes True or False"),
        ({"$and": {"year": 1}}, r"\$and takes a list"),
        ({"$or": [7]}, "a filter is a dict"),
        ({"$not": [1]}, "a filter is a dict"),
    ],
)
def test_a_filter_that_makes_no_sense_says_what_would(asked, message):
    with pytest.raises(InvalidInputError, match=message):
        parse_filter(asked)


# In the index -----------------------------------------------------------------------------------


def _found(index: SQLiteIndex, asked: dict[str, Any]) -> list[str]:
    [query] = ENCODER.encode_queries(["text"])
    return index.candidates(query, 100, parse_filter(asked))


def test_a_filter_comes_before_the_cut():
    found = [{"odd": bool(number % 2)} for number in range(20)]
    with _index(found) as index:
        [query] = ENCODER.encode_queries(["text 4"])
        assert "4" in index.candidates(query, 1)
        ids = index.candidates(query, 3, parse_filter({"odd": True}))
        assert 3 <= len(ids) <= 6
        assert all(int(id_) % 2 for id_ in ids)


def test_what_was_replaced_or_deleted_is_found_no_longer():
    with _index([{"lang": "ko"}, {"lang": "ko"}, {"lang": "en"}]) as index:
        index.upsert(records(ENCODER, {"0": "text 0"}, lang="de", tags=["x"]))
        assert _found(index, {"lang": "ko"}) == ["1"]
        assert _found(index, {"lang": "de", "tags": "x"}) == ["0"]
        index.delete(["1"])
        assert _found(index, {"lang": "ko"}) == []
        index.delete()
        assert _found(index, {}) == []
        with index._file.transaction() as connection:  # nor does it take room
            assert connection.execute("SELECT * FROM metadata_leaves").fetchall() == []


def test_another_process_reading_filters_what_was_committed_since(tmp_path: Path):
    with SQLiteIndex(tmp_path / "i.db") as writer, SQLiteIndex(tmp_path / "i.db") as reader:
        for number in range(3):
            writer.upsert(records(ENCODER, {str(number): f"text {number}"}, lang="ko"))
            assert _found(reader, {"lang": "ko"}) == [str(n) for n in range(number + 1)]
        writer.delete(["1"])
        assert _found(reader, {"lang": "ko"}) == ["0", "2"]


def _downgrade(path: Path) -> None:
    """Make a file of layout 1, which had no table of metadata."""
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE metadata_leaves")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()


def test_a_file_of_layout_1_is_brought_up_to_date(tmp_path: Path):
    path = tmp_path / "old.db"
    with SQLiteIndex(path) as index:
        index.upsert(records(ENCODER, {"a": "text"}, lang="ko", n=[1, {"x": 2}]))
        index.upsert(records(ENCODER, {"b": "text"}, lang="en"))
    _downgrade(path)
    for _ in range(2):
        with SQLiteIndex(path) as index:
            assert _found(index, {"lang": "ko", "n": 1}) == ["a"]
            assert [record.id for record in index.get(["a", "b"])] == ["a", "b"]


def test_a_migration_that_is_cut_off_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch):
    path = tmp_path / "old.db"
    with SQLiteIndex(path) as index:
        for id_ in "abc":
            index.upsert(records(ENCODER, {id_: "text"}, lang=id_))
    _downgrade(path)

    def insert(connection, key, metadata):
        if key == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("langchain_hfembed.index.sqlite.metadata.insert_leaves", insert)
        with pytest.raises(KeyboardInterrupt):
            SQLiteIndex(path)
    connection = sqlite3.connect(path)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert "metadata_leaves" not in tables
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()
    with SQLiteIndex(path) as index:
        assert _found(index, {"lang": "c"}) == ["c"]


def test_a_layout_of_the_future_is_refused_in_words(tmp_path: Path):
    path = tmp_path / "new.db"
    with SQLiteIndex(path) as index:
        index.upsert(records(ENCODER, {"a": "text"}))
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 3")
    connection.close()
    with pytest.raises(HybridIndexError, match=r"layout 3; this version .* reads up to 2"):
        SQLiteIndex(path)


def test_a_long_string_takes_no_more_room_than_its_digest():
    with _index([{"summary": "x" * 100_000}, {"summary": "x" * 100_000 + "y"}]) as index:
        assert _found(index, {"summary": "x" * 100_000}) == ["0"]
        with index._file.transaction() as connection:
            longest = connection.execute("SELECT MAX(length(value)) FROM metadata_leaves")
            assert longest.fetchone() == (32,)
