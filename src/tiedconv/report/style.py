"""The look of the figures: one colour, dash and marker per model, and axes with little but data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .._extras import require
from .._files import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE = "#1f2429", "#5c6670", "#d9dee3"
NARROW = "\u202f"  # a space that does not break, before units and between groups of digits

# Distinct under the three kinds of colour blindness (smallest CIELAB distance 16, simulated after Machado et al.,
# 2009), with a contrast of at least 3 to white. Dashes and markers distinguish models without colour.
COLOURS = ("#1d5bbf", "#d0740a", "#159a73", "#d24aa5", "#663c0a", "#50555c")
_DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1)), (0, (8, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Series:
    """How one model is drawn in every figure."""

    colour: str
    dash: Any
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """What ``Axes.plot`` takes to draw the model's line."""
        return {"color": self.colour, "linestyle": self.dash, "linewidth": 1.6}


def series(index: int) -> Series:
    """Return the style of the model at ``index``; the seventh has the first colour again, with another dash."""
    shift = index + index // len(COLOURS)
    return Series(COLOURS[index % len(COLOURS)], _DASHES[shift % len(_DASHES)], _MARKERS[shift % len(_MARKERS)])


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure (inches), unknown to pyplot."""
    figure: Figure = require("matplotlib.figure", extra="analysis").Figure((width, height), layout="constrained")
    return figure


def new_axes(width: float = 4.2, height: float = 2.7) -> "Axes":
    """Return the axes of a new figure (inches)."""
    return new_figure(width, height).add_subplot()


def tidy(ax: "Axes", *, xlabel: str = "", ylabel: str = "", grid: Literal["x", "y", "both"] | None = "y") -> None:
    """Remove the frame, set small grey ticks, put the y label above the axis, and draw the rules of a ``grid``."""
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom" and bool(grid))
        spine.set_color(MUTED)
        spine.set_linewidth(0.6)
    ax.tick_params(which="both", length=0, pad=4, labelsize=8, labelcolor=MUTED)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(axis=grid, color=RULE, linewidth=0.6)
    ax.set_xlabel(xlabel, fontsize=8, color=MUTED)
    if ylabel:
        ax.set_title(ylabel, loc="left", fontsize=8.5, color=INK, pad=8)


def short(label: str, length: int = 22) -> str:
    """Cut a label in the middle, where long model names differ least, and escape it for matplotlib.

    Matplotlib reads text between dollar signs as TeX, and fails on file names that are not UTF-8.
    """
    label = printable(label)
    if len(label) > length:
        head = (length - 1) // 2
        label = f"{label[:head]}…{label[head + 1 - length :]}"
    return label.replace("$", r"\$")


def class_name(classes: Sequence[str], index: int) -> str:
    """Return the name of a class, or its index if it has none."""
    return classes[index] if index < len(classes) else f"class {index}"


def si(value: float, position: float | None = None) -> str:
    """Write a count with the prefixes of the field: 883562 → ``884 k``, 1.2e7 → ``12 M``."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{_three_digits(value / factor)}{NARROW}{prefix}"
    return _three_digits(value)


def percent(value: float, position: float | None = None) -> str:
    """Write a fraction in per cent, with a space that does not break: 0.975 → ``97.5 %``."""
    return f"{100 * value:.6g}{NARROW}%"


def _three_digits(value: float) -> str:
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
