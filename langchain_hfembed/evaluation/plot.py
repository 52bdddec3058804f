"""Draws a measure over the weights of the views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from langchain_hfembed.fusion import WeightedSum
from langchain_hfembed.vectors import VIEWS, View, view_title

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError(f'{error}; plots need: pip install "langchain-hfembed[eval]"') from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.tri import TriContourSet

    from langchain_hfembed.evaluation.tuning import Tuning

_HEIGHT = np.sqrt(3) / 2
_CORNERS = np.array([[0, 0], [1, 0], [0.5, _HEIGHT]])  # of dense, sparse, multi-vector


def plot_weights(tuning: Tuning) -> Figure:
    """Draw a tuning's grid: a triangle for three views, a line for two.

    A figure of its own, which pyplot knows nothing of: nothing has to be closed.
    """
    views = [view for view in VIEWS if any(getattr(fusion, view) for fusion in tuning.grid)]
    figure = Figure(figsize=(6.4, 5.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(
        f"{tuning.measure} of {len(tuning.query_ids)} queries: best {100 * tuning.in_sample:.1f}, "
        f"held out {100 * tuning.held_out.mean():.1f}",
        fontsize=11,
        pad=24,
    )
    if len(views) == len(VIEWS):
        surface = _triangle(axes, tuning)
        figure.colorbar(surface, shrink=0.8, label=f"{tuning.measure}, percent", format="%.1f")
    else:
        _line(axes, tuning, *views)
    return figure


def _triangle(axes: Axes, tuning: Tuning) -> TriContourSet:
    x, y = _places(tuning.grid).T
    surface = axes.tricontourf(x, y, 100 * tuning.means, levels=20, cmap="viridis")
    marks: tuple[tuple[str, WeightedSum, str, int], ...] = (
        ("default", WeightedSum(), "o", 50),
        ("best", tuning.fusion, "*", 180),
    )
    for label, fusion, marker, size in marks:
        left, height = _places([fusion])[0]
        axes.scatter(
            left,
            height,
            size,
            "white",
            marker=marker,
            edgecolor="black",
            label=label,
            zorder=3,
            clip_on=False,
        )
    for (left, height), view, side in zip(
        _CORNERS, VIEWS, ("right", "left", "center"), strict=True
    ):
        is_below = height == 0
        axes.annotate(
            view_title(view),
            (left, height),
            xytext=(0, -6 if is_below else 6),
            textcoords="offset points",
            horizontalalignment=side,
            verticalalignment="top" if is_below else "bottom",
        )
    axes.legend(loc="upper left", frameon=False)
    axes.set_aspect("equal")
    axes.margins(0.12)
    axes.axis("off")
    return surface


def _line(axes: Axes, tuning: Tuning, first: View, second: View) -> None:
    weights = np.array([getattr(fusion, second) for fusion in tuning.grid])
    order = weights.argsort()
    axes.plot(weights[order], 100 * tuning.means[order], marker=".")
    best = getattr(tuning.fusion, second), 100 * tuning.in_sample
    axes.scatter(*best, marker="*", s=180, zorder=3, label="best")
    axes.set_xlabel(f"weight of {view_title(second)}; the rest is {view_title(first)}'s")
    axes.set_ylabel(f"{tuning.measure}, percent")
    axes.legend(frameon=False)


def _places(grid: Sequence[WeightedSum]) -> NDArray[np.float64]:
    """Where weights lie in the triangle, shape `(len(grid), 2)`."""
    weights = np.array([[getattr(fusion, view) for view in VIEWS] for fusion in grid])
    places: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True) @ _CORNERS
    return places
