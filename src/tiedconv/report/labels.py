"""Where names stand in a figure: beside the line or the point that they name, without overlap."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# Offsets in points and the alignment that goes with them, the preferred side first.
_SIDES = (
    (8, 0, "left"),
    (-8, 0, "right"),
    (0, 11, "center"),
    (0, -11, "center"),
    (8, 11, "left"),
    (-8, 11, "right"),
    (8, -11, "left"),
    (-8, -11, "right"),
    (0, 22, "center"),
    (0, -22, "center"),
)
_LINE = 10.5  # points from one line of text to the next


def label_ends(ax: "Axes", lines: Mapping[str, "Line2D"]) -> None:
    """Write the models' names right of the axes, at the heights where their lines end; empty lines have none."""
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


def label_points(ax: "Axes", points: Mapping[str, tuple[float, float, float]]) -> None:
    """Write names beside points (x, y and half the length of the bar), each on the first side where it hits nothing."""
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # fixes the scales that the boxes are measured in
    frame = ax.get_window_extent()
    taken = [box for x, y, bar in points.values() for box in (_around(ax, x, y, 4), _around(ax, x, y, 1, bar))]
    for label, (x, y, _) in points.items():
        text = ax.annotate(
            style.short(label),
            xy=(x, y),
            xytext=(0, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=style.INK,
        )
        for side in _SIDES:
            box = _move(text, side)
            if frame.x0 <= box.x0 and box.x1 <= frame.x1 and not any(box.overlaps(other) for other in taken):
                break
        else:
            box = _move(text, _SIDES[0])
        taken.append(box)


def _around(ax: "Axes", x: float, y: float, radius: float, bar: float = 0) -> "Bbox":
    """Return the box, in pixels, that reaches ``radius`` points around a point with a vertical bar."""
    left, low = ax.transData.transform((x, y - bar))
    right, high = ax.transData.transform((x, y + bar))
    pad = radius * ax.figure.dpi / 72
    return ax.bbox.frozen().from_extents(left - pad, low - pad, right + pad, high + pad)


def _move(text: "Annotation", side: tuple[float, float, str]) -> "Bbox":
    dx, dy, align = side
    text.xyann = (dx, dy)
    text.set_horizontalalignment(align)  # type: ignore[arg-type]
    return text.get_window_extent()


def spread_out(positions: Sequence[float], gap: float) -> list[float]:
    """Move positions apart to at least ``gap`` from each other, keeping their order and each group's centre."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    groups: list[list[int]] = []
    centres: list[float] = []

    def reach(k: int) -> float:
        return (len(groups[k]) - 1) * gap / 2

    for i in order:
        groups.append([i])
        centres.append(positions[i])
        while len(groups) > 1 and centres[-1] - reach(-1) < centres[-2] + reach(-2) + gap - 1e-12:
            last, before = groups.pop(), groups.pop()
            groups.append(before + last)
            centres[-2:] = [sum(positions[j] for j in groups[-1]) / len(groups[-1])]
    moved = [0.0] * len(positions)
    for k, group in enumerate(groups):
        for n, i in enumerate(group):
            moved[i] = centres[k] - reach(k) + n * gap
    return moved
