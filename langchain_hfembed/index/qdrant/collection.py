"""A collection in Qdrant, and what its first batch settles: views, dimensions, model, precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from langchain_hfembed.errors import HybridIndexError
from langchain_hfembed.index.base import IndexModel
from langchain_hfembed.index.compatibility import new_properties, require_compression
from langchain_hfembed.index.filters import Filter
from langchain_hfembed.index.qdrant.payload import (
    LEAVES,
    ORDER,
    PROPERTIES_ID,
    compared_paths,
    condition_of,
    has_path,
    number_key,
    number_keys,
)
from langchain_hfembed.index.qdrant.plan import (
    Condition,
    Engine,
    Found,
    HasId,
    Layout,
    NoneOf,
    Point,
)
from langchain_hfembed.vectors import HybridEmbedding

# All points but the one that holds the properties.
DOCUMENTS = NoneOf((HasId((PROPERTIES_ID,)),))

_FORMAT = 1  # of what lies in a collection; a higher one is another package's business
# Each index costs files and memory, and servers in strict mode, as in Qdrant Cloud, allow 100 in
# all: this leaves room for the caller's own.
_INDEXED_NUMBERS = 32


class QdrantCollection:
    """A collection that is made with the first documents, and refused where it is not ours.

    Args:
        engine: Where it is.
        asked: `multi_vector_dtype` and `token_pooling`; None for what it has, or the default in a
            new one.
        quantization: As in `Layout`, likewise `on_disk`.
        on_disk: Whether dense and sparse vectors stay on disk.
    """

    def __init__(
        self,
        engine: Engine,
        asked: Mapping[str, str | None],
        *,
        quantization: Any,
        on_disk: bool,
    ) -> None:
        self.name = engine.name
        self._engine = engine
        self._asked = asked
        self._quantization = quantization
        self._on_disk = on_disk
        self._stored: dict[str, str] = {}
        self._fields: set[str] | None = None
        self._is_full = False

    def properties(self) -> dict[str, str]:
        """What the first batch settled; empty before it. It never changes, and is read once.

        Raises:
            HybridIndexError: If the collection is none of ours, is of a later version, or has
                another `multi_vector_dtype` or `token_pooling`.
        """
        self._engine.require_open()
        if self._stored or not self._engine.exists():
            return self._stored
        found = self._read()
        if not found:
            if not self._engine.count(DOCUMENTS):
                return {}
            # Once more: another writer may have stored them, and its first documents, meanwhile.
            found = self._read()
        if not found:
            raise HybridIndexError(
                f"{self.name} holds points of another program. It was not changed; "
                "give another collection_name or path"
            )
        properties: dict[str, str] = dict(found[0].payload["properties"])
        if int(properties.get("format", "1")) > _FORMAT:
            raise HybridIndexError(
                f"the index {self.name} has format {properties['format']}, this version reads "
                f"{_FORMAT} at most: pip install --upgrade langchain-hfembed"
            )
        require_compression(properties, self._asked, self.name)
        self._stored = properties
        return properties

    def new_properties(
        self, embedding: HybridEmbedding, model: IndexModel | None
    ) -> dict[str, str]:
        """What a first batch with such embeddings settles.

        Raises:
            InvalidInputError: If the embedding has no view.
            IndexMismatchError: If it has other views than the model.
        """
        settled = new_properties(embedding, model, self._asked, self.name)
        return {"format": str(_FORMAT), **settled}

    def create(self, properties: Mapping[str, str]) -> dict[str, str]:
        """Make the collection, and note its properties in it.

        Returns:
            What it has: another writer may have been faster, with other properties.

        Raises:
            HybridIndexError: If there is a collection that was made otherwise.
        """
        dims = {name: properties.get(f"{name}_dim") for name in ("dense", "multi_vector")}
        layout = Layout(
            dense_dim=None if dims["dense"] is None else int(dims["dense"]),
            has_sparse="sparse" in properties["views"].split(", "),
            multi_vector_dim=None if dims["multi_vector"] is None else int(dims["multi_vector"]),
            multi_vector_dtype=properties["multi_vector_dtype"],
            quantization=self._quantization,
            on_disk=self._on_disk,
        )
        fields = {LEAVES: "keyword", ORDER: "integer"}
        first = Point(PROPERTIES_ID, {"properties": dict(properties)})
        try:
            self._engine.create(layout, fields, first)
        except HybridIndexError:
            # Where another writer made it otherwise, its properties say in which way.
            if not self.properties():
                raise
        stored = self.properties()
        if not stored:
            raise HybridIndexError(
                f"{self.name} was made, but what was stored in it can't be read back. Nothing of "
                "the batch was stored; try again, and see whether all replicas run"
            )
        return stored

    def index_fields(self, payloads: Iterable[Mapping[str, Any]]) -> None:
        """Have Qdrant index the numbers of metadata at every path, when it is first seen."""
        fields = self._indexed()
        if fields is None:
            return
        for key in dict.fromkeys(key for payload in payloads for key in number_keys(payload)):
            if key in fields or self._is_full or len(fields) >= _INDEXED_NUMBERS:
                continue
            if self._engine.index_field(key, "float"):
                fields.add(key)
            else:
                self._is_full = True

    def condition_of(self, filter_: Filter) -> Condition:
        """What points must pass so that their metadata passes a filter.

        Servers in strict mode refuse to compare where there is no index, and a path gets one with
        its first number. So nothing is compared at a path that no document has.
        """
        unindexed = self._unindexed(filter_)
        if unindexed:
            self._fields = None  # another writer may have made it since
            unindexed = self._unindexed(filter_)
        absent = {path for path in unindexed if not self._engine.count(has_path(path))}
        return condition_of(filter_, absent)

    def _unindexed(self, filter_: Filter) -> set[str]:
        paths = compared_paths(filter_)
        fields = self._indexed() if paths else None
        return set() if fields is None else {p for p in paths if number_key(p) not in fields}

    def _indexed(self) -> set[str] | None:
        fields = self._fields
        if fields is None and (found := self._engine.fields()) is not None:
            self._fields = fields = found - {LEAVES, ORDER}
        return fields

    def _read(self) -> list[Found]:
        return self._engine.retrieve([PROPERTIES_ID], ("properties",), ())
