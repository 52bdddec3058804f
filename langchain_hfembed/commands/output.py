"""How hits look, in the cells of a table and as JSON; and what is said of an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

if TYPE_CHECKING:
    from langchain_hfembed.hits import Hit

VIEW_TITLES = {"dense": "dense", "sparse": "sparse", "multi_vector": "multi-vector"}


def cell(rank: int | None, score: float | None) -> str:
    """Rank and score of a hit in a view, the first one in colour."""
    if rank is None or score is None:
        return "-"
    text = f"#{rank} {score:.2f}"
    return f"[bold green]{text}[/bold green]" if rank == 1 else text


def hit_to_dict(hit: Hit) -> dict[str, Any]:
    """A hit as JSON, without its metadata."""
    return {
        "id": hit.document.id,
        "text": hit.document.page_content,
        "score": hit.score,
        "scores": hit.scores.to_dict(),
        "ranks": hit.ranks.to_dict(),
    }


def message_of(error: Exception) -> str:
    """What an error says, in one paragraph: pydantic's without the names of its own."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(
        ": ".join([*map(str, problem["loc"]), problem["msg"].removeprefix("Value error, ")])
        for problem in error.errors()
    )
