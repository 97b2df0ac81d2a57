"""Names in a figure, beside what they name and without overlap."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._extras import require
from . import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_LINE = 10.5  # points from one line of text to the next


def label_ends(ax: "Axes", lines: Mapping[str, "Line2D"]) -> None:
    """Write the models' names right of the axes, at the heights where their lines end."""
    finite = {
        label: [y for y in np.asarray(line.get_ydata(), float) if math.isfinite(y)] for label, line in lines.items()
    }
    ends = {label: values[-1] for label, values in finite.items() if values}
    to_axes = (ax.transData - ax.transAxes).transform
    height = ax.get_window_extent().height / ax.figure.dpi * 72
    wanted = [float(to_axes((ax.get_xlim()[1], value))[1]) for value in ends.values()]
    placed = spread_out(wanted, _LINE / height)
    for label, old, new in zip(ends, wanted, placed, strict=True):
        arrow = {"arrowstyle": "-", "color": lines[label].get_color(), "linewidth": 0.8, "relpos": (0, 0.5)}
        ax.annotate(
            style.short(label),
            xy=(1, old),
            xytext=(1.05, new),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=style.INK,
            arrowprops=arrow,
        )


def legend(ax: "Axes", marks: Sequence[tuple[Any, str]], columns: int = 1) -> None:
    """Write names beside what is drawn of the models, above the title of the axes."""
    offset_copy = require("matplotlib.transforms", extra="analysis").offset_copy
    above_title = offset_copy(ax.transAxes, ax.figure, x=-4, y=24, units="points")
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "bbox_transform": above_title}
    look: dict[str, Any] = {"frameon": False, "fontsize": 8, "labelcolor": style.INK, "ncols": columns}
    drawn = ax.legend(
        [mark for mark, _ in marks], ["model"] * len(marks), borderaxespad=0, borderpad=0.2, **place, **look
    )
    for text, (_, name) in zip(drawn.get_texts(), marks, strict=True):
        text.set_text(name)  # only now: matplotlib leaves out labels that begin with "_"


def spread_out(positions: Sequence[float], gap: float) -> list[float]:
    """Move positions apart to at least ``gap`` from each other, as little as their order allows (least squares)."""
    isotonic_regression = require("scipy.optimize", extra="analysis").isotonic_regression
    order = np.argsort(positions, kind="stable")
    steps = gap * np.arange(len(order))  # with these taken off, positions a gap apart are equal
    moved = np.empty(len(order))
    moved[order] = isotonic_regression(np.take(positions, order) - steps).x + steps
    return moved.tolist()
