"""A collection in Qdrant, and what its first batch settles: views, dimensions, model, precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from langchain_hfembed.errors import HybridIndexError, InvalidInputError
from langchain_hfembed.index.base import IndexModel
from langchain_hfembed.index.compatibility import require_model, shape_of
from langchain_hfembed.index.qdrant.payload import LEAVES, ORDER, PROPERTIES_ID, number_keys
from langchain_hfembed.index.qdrant.plan import Engine, HasId, Layout, NoneOf, Point
from langchain_hfembed.vectors import HybridEmbedding

# All points but the one that holds the properties.
DOCUMENTS = NoneOf((HasId((PROPERTIES_ID,)),))

_INDEXED_NUMBERS = 100  # each index costs files and memory


class QdrantCollection:
    """A collection that is made with the first documents, and refused where it is not ours.

    Args:
        engine: Where it is.
        multi_vector_dtype: None for what it has, float16 in a new one.
        token_pooling: None for what it has, 1 in a new one.
        quantization: As in `Layout`, likewise `on_disk`.
        on_disk: Whether dense and sparse vectors stay on disk.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        multi_vector_dtype: str | None,
        token_pooling: int | None,
        quantization: Any,
        on_disk: bool,
    ) -> None:
        self.name = engine.name
        self._engine = engine
        self._asked = {"multi_vector_dtype": multi_vector_dtype, "token_pooling": token_pooling}
        self._quantization = quantization
        self._on_disk = on_disk
        self._stored: dict[str, str] = {}
        self._fields: set[str] | None = None

    def properties(self) -> dict[str, str]:
        """What the first batch settled; empty before it. It never changes, and is read once.

        Raises:
            HybridIndexError: If the collection is none of ours, or has another
                `multi_vector_dtype` or `token_pooling`.
        """
        self._engine.require_open()
        if self._stored or not self._engine.exists():
            return self._stored
        found = self._engine.retrieve([PROPERTIES_ID], ("properties",), ())
        if not found:
            if self._engine.count(DOCUMENTS):
                raise HybridIndexError(
                    f"{self.name} holds points of another program. It was not changed; "
                    "give another collection_name or path"
                )
            return {}
        properties: dict[str, str] = dict(found[0].payload["properties"])
        for name, value in self._asked.items():
            if value is not None and properties[name] != str(value):
                raise HybridIndexError(
                    f"the index {self.name} has {name}={properties[name]}, not {value}; "
                    f"leave {name} out to use it as it is"
                )
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
        if not embedding.views:
            raise InvalidInputError(
                "the embedding has no view. Records of get() have none unless asked for: "
                "get(ids, views=VIEWS)"
            )
        properties = {
            **shape_of(embedding),
            "multi_vector_dtype": str(self._asked["multi_vector_dtype"] or "float16"),
            "token_pooling": str(self._asked["token_pooling"] or 1),
            "model_name": model.name if model else "",
            "fingerprint": model.fingerprint if model else "",
        }
        if model is not None:
            require_model(properties, model, self.name)
        return properties

    def create(self, properties: Mapping[str, str]) -> None:
        """Make the collection, and note its properties in it."""
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
        self._engine.create(layout, fields, first)
        self._stored = dict(properties)

    def index_fields(self, payloads: Iterable[Mapping[str, Any]]) -> None:
        """Have Qdrant index the numbers of metadata at every path, when it is first seen."""
        if self._fields is None:
            self._fields = self._engine.fields() - {LEAVES, ORDER}
        for key in dict.fromkeys(key for payload in payloads for key in number_keys(payload)):
            # Beyond that filters work as well, only slower.
            if key not in self._fields and len(self._fields) < _INDEXED_NUMBERS:
                self._engine.index_field(key, "float")
                self._fields.add(key)
