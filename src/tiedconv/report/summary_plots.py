"""Plots of layer summaries: how many directions the features use, and where the parameters are."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from ..analysis.summary import LayerSummary
from . import style
from .labels import label_ends

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


def plot_ranks(summaries: Mapping[str, Sequence[LayerSummary]], ax: "Axes | None" = None) -> "Axes":
    """Draw the effective rank of each layer as a share of its channels, from the first layer to the last.

    One point per layer, and for each model a line through the medians of every tenth of its depth, since layers of the
    same block differ much. Depth is relative, so that models of different depths can be compared. Layers measured on no
    more positions than they have channels are left out: the number of images limits their rank.

    Args:
        summaries: for each model what :func:`tiedconv.analysis.summarize` returned.
        ax: where to draw. None: on a new figure.
    """
    ax = style.new_axes(5.2, 3) if ax is None else ax
    lines = {}
    for index, (label, layers) in enumerate(summaries.items()):
        points = [(x, layer.rank_share) for x, layer in zip(_depths(layers), layers, strict=True) if layer.measurable]
        if not points:
            continue
        look = style.series(index)
        tenths = [[point for point in points if min(9, int(10 * point[0])) == tenth] for tenth in range(10)]
        line = [tuple(map(statistics.median, zip(*tenth, strict=True))) for tenth in tenths if tenth]
        x, y = zip(*points, strict=True)
        ax.scatter(x, y, s=12, color=look.colour, marker=look.marker, alpha=0.5, linewidths=0)
        (lines[label],) = ax.plot(*zip(*line, strict=True), **look.line)
    _finish(ax, lines, "Effective rank, share of the channels")
    ax.yaxis.set_major_formatter(style.percent)
    return ax


def plot_parameters(summaries: Mapping[str, Sequence[LayerSummary]], ax: "Axes | None" = None) -> "Axes":
    """Draw how many parameters there are up to each layer, a line per model; norms are not counted.

    Args:
        summaries, ax: as in :func:`plot_ranks`.
    """
    ax = style.new_axes(5.2, 3) if ax is None else ax
    lines = {}
    for index, (label, layers) in enumerate(summaries.items()):
        if not layers:
            continue
        look = style.series(index)
        sums = list(accumulate(layer.params for layer in layers))
        (lines[label],) = ax.plot(_depths(layers), sums, **look.line)
        ax.plot(1, sums[-1], color=look.colour, marker=look.marker, markersize=4, clip_on=False)
    _finish(ax, lines, "Parameters up to this layer")
    ax.yaxis.set_major_formatter(style.si)
    return ax


def _depths(layers: Sequence[LayerSummary]) -> list[float]:
    return [i / max(1, len(layers) - 1) for i in range(len(layers))]


def _finish(ax: "Axes", lines: Mapping[str, "Line2D"], ylabel: str) -> None:
    style.tidy(ax, xlabel="Depth, from the first layer to the last", ylabel=ylabel)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
    ax.xaxis.set_major_formatter(style.percent)
    ax.locator_params(axis="y", nbins=5, steps=[1, 2, 5, 10])
    ax.set_xlim(0, 1.01)
    ax.set_ylim(bottom=0)
    label_ends(ax, lines)
