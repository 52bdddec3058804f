"""Whether vectors fit into an index: the same model, the same views, the same dimensions.

An index keeps what its first batch had as text properties, and holds all that comes later
against them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from langchain_hfembed.errors import HybridIndexError, IndexMismatchError, InvalidInputError
from langchain_hfembed.index.base import IndexModel
from langchain_hfembed.vectors import HybridEmbedding, check_views


def shape_of(embedding: HybridEmbedding) -> dict[str, str]:
    """The views of an embedding and their dimensions, as an index keeps them."""
    shape = {"views": ", ".join(embedding.views)}
    if embedding.dense is not None:
        shape["dense_dim"] = str(embedding.dense.shape[0])
    if embedding.multi_vector is not None:
        shape["multi_vector_dim"] = str(embedding.multi_vector.shape[1])
    return shape


def check_compression(
    dtype: str | None, dtypes: Sequence[str], token_pooling: int | None
) -> dict[str, str | None]:
    """How token vectors are asked to be stored, as properties; None for either is fine.

    Raises:
        InvalidInputError: If they can't be.
    """
    if dtype not in (None, *dtypes):
        raise InvalidInputError(f"multi_vector_dtype={dtype!r} must be one of {', '.join(dtypes)}")
    if token_pooling is not None and token_pooling < 1:
        raise InvalidInputError(f"token_pooling={token_pooling} must be 1 or more")
    pooling = None if token_pooling is None else str(token_pooling)
    return {"multi_vector_dtype": dtype, "token_pooling": pooling}


def new_properties(
    embedding: HybridEmbedding,
    model: IndexModel | None,
    asked: Mapping[str, str | None],
    path: str,
) -> dict[str, str]:
    """What a first batch settles, by an embedding of it.

    Args:
        embedding: Has the views and dimensions of all.
        model: What the vectors come from; None where nobody said.
        asked: `multi_vector_dtype` and `token_pooling`, None for the default.
        path: Of the index, for messages.

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
        "multi_vector_dtype": asked["multi_vector_dtype"] or "float16",
        "token_pooling": asked["token_pooling"] or "1",
        "model_name": model.name if model else "",
        "fingerprint": model.fingerprint if model else "",
    }
    if model is not None:
        require_model(properties, model, path)
    return properties


def model_in(properties: Mapping[str, str]) -> IndexModel | None:
    """The model that an index was made by; None where it does not tell."""
    if not properties.get("fingerprint"):
        return None
    views = check_views(properties["views"].split(", "))
    return IndexModel(properties["model_name"], properties["fingerprint"], views)


def require_compression(
    properties: Mapping[str, str], asked: Mapping[str, str | None], path: str
) -> None:
    """Raise HybridIndexError unless an index stores token vectors as it was asked to."""
    for name, value in asked.items():
        if value is not None and properties.get(name, value) != value:
            raise HybridIndexError(
                f"the index {path} has {name}={properties[name]}, not {value}; leave {name} out to "
                "use it as it is"
            )


def require_model(properties: Mapping[str, str], model: IndexModel, path: str) -> None:
    """Raise IndexMismatchError, naming both, unless the index was made by this model."""
    if not properties:
        return
    stored, views = properties["model_name"], ", ".join(model.views)
    if properties["fingerprint"] and properties["fingerprint"] != model.fingerprint:
        others = "other weights or other settings for documents" if stored == model.name else ""
        raise IndexMismatchError(
            f"the index {path} was made by the model {stored!r}, this is {model.name!r}"
            f"{f' with {others}' if others else ''}; their vectors can't be compared. Open it with "
            "the model and the settings that it was made with, or index the documents again into a "
            "new index"
        )
    if properties["views"] != views:
        raise IndexMismatchError(
            f"the index {path} holds the views {properties['views']}; the model {model.name!r} "
            f"gives {views}. Index the documents again into a new index"
        )


def require_same_model(bound: IndexModel, model: IndexModel, path: str) -> None:
    """Raise IndexMismatchError, naming both, unless an index object goes on with its model."""
    if (bound.fingerprint, bound.views) != (model.fingerprint, model.views):
        raise IndexMismatchError(
            f"the index {path} serves the model {bound.name!r} with the views "
            f"{', '.join(bound.views)}; it can't also serve {model.name!r} with "
            f"{', '.join(model.views)}. Give each model an index of its own"
        )


def require_shape(properties: Mapping[str, str], embedding: HybridEmbedding, path: str) -> None:
    """Raise IndexMismatchError unless a document has the views and dimensions of the index."""
    shape = shape_of(embedding)
    for name in ("views", "dense_dim", "multi_vector_dim"):
        if properties.get(name) != shape.get(name):
            raise IndexMismatchError(
                f"the index {path} has {name} {properties.get(name)}; an embedding with "
                f"{shape.get(name)} does not fit. Nothing of its batch was stored"
            )


def require_query_shape(properties: Mapping[str, str], query: HybridEmbedding, path: str) -> None:
    """Raise IndexMismatchError if a query has other views, or dimensions, than the index.

    It may have fewer views.
    """
    stored, shape = properties["views"].split(", "), shape_of(query)
    if unknown := [view for view in query.views if view not in stored]:
        raise IndexMismatchError(
            f"the index {path} holds the views {properties['views']}; a query with "
            f"{', '.join(unknown)} can't be scored"
        )
    for name in ("dense_dim", "multi_vector_dim"):
        if name in shape and shape[name] != properties.get(name):
            raise IndexMismatchError(
                f"the index {path} has {name} {properties.get(name)}, the query {shape[name]}: it "
                "was made by another model"
            )
