"""Drawing functions: each draws numbers already computed on ``ax``, or on a new figure, and returns the axes.

If several models are drawn, the argument maps their labels to data. A model's place in the mapping decides its colour,
dash and marker. One without data keeps its place, so that colours agree between figures.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._extras import require
from ..analysis.similarity import Histogram
from . import style
from .labels import label_ends, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_curves(
    curves: Mapping[str, Sequence[Sequence[float]]],
    ax: "Axes | None" = None,
    *,
    ylabel: str = "",
    percent: bool = False,
    log: bool = False,
) -> "Axes":
    """Draw values over the epochs: for each model the mean of its runs, in a band from the lowest to the highest.

    Args:
        curves: for each model its runs, each with one value per epoch. Epochs that not every run has reached are left
            out; values that are not finite, of a training that diverged, leave a gap.
        ax: where to draw. None: on a new figure.
        ylabel: what the values are, with the unit.
        percent: whether the values are fractions 0-1, to be labelled in per cent.
        log: whether the value axis is logarithmic, for values above 0.
    """
    ax = style.new_axes() if ax is None else ax
    lines = {}
    for index, (label, runs) in enumerate(curves.items()):
        by_epoch = [
            values if all(map(math.isfinite, values)) else (math.nan,) * len(runs)
            for values in zip(*runs, strict=False)
        ]
        drawn = [epoch for epoch, values in enumerate(by_epoch, start=1) if not math.isnan(values[0])]
        if not drawn:
            continue
        look = style.series(index)
        epochs = range(1, len(by_epoch) + 1)
        means = [statistics.fmean(values) for values in by_epoch]
        if len(runs) > 1:
            low, high = [min(values) for values in by_epoch], [max(values) for values in by_epoch]
            ax.fill_between(epochs, low, high, color=look.colour, alpha=0.16, linewidth=0)
        (lines[label],) = ax.plot(epochs, means, **look.line)
        end = means[drawn[-1] - 1]
        ax.plot(drawn[-1], end, color=look.colour, marker=look.marker, markersize=4, clip_on=False)
    style.tidy(ax, xlabel="Epoch", ylabel=ylabel)
    ax.locator_params(axis="x", nbins=6, integer=True)
    if percent:
        ax.yaxis.set_major_formatter(style.percent)
    if log:
        ticker = require("matplotlib.ticker", extra="analysis")
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_locator(ticker.NullLocator())
        ax.yaxis.set_major_formatter("{x:g}")
    ax.margins(x=0.01)
    label_ends(ax, lines)
    return ax


def plot_tradeoff(
    accuracies: Mapping[str, tuple[float, Sequence[float]]],
    ax: "Axes | None" = None,
    *,
    xlabel: str = "",
    ylabel: str = "",
) -> "Axes":
    """Draw accuracy against cost: the mean of each model's runs, with bars of one standard deviation.

    Args:
        accuracies: for each model its cost (parameters or MACs, above 0; the axis is logarithmic) and its runs'
            accuracies, fractions 0-1. A single run has no bar.
        ax, xlabel, ylabel: as in :func:`plot_curves`.
    """
    ax = style.new_axes() if ax is None else ax
    marks = []
    for index, (label, (cost, values)) in enumerate(accuracies.items()):
        if not values:
            continue
        look = style.series(index)
        mean = statistics.fmean(values)
        sd = statistics.stdev(values) if len(values) > 1 else 0.0
        mark: dict[str, Any] = {"color": look.colour, "marker": look.marker, "linestyle": "none", "markersize": 6}
        marks.append((ax.errorbar(cost, mean, yerr=sd or None, elinewidth=1.2, **mark), style.short(label)))
    style.tidy(ax, xlabel=xlabel, ylabel=ylabel, grid="both")
    ax.locator_params(axis="y", nbins=5, steps=[1, 2, 5, 10])
    ax.yaxis.set_major_formatter(style.percent)
    _log_costs(ax, [cost for cost, values in accuracies.values() if values])
    ax.margins(y=0.25)
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, -0.02), min(high, 1.005))  # no room for accuracies that do not exist
    if marks:
        legend(ax, marks, columns=2)
    return ax


def plot_confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str] = (), ax: "Axes | None" = None) -> "Axes":
    """Draw a confusion matrix: correct answers in blue, mistakes in orange, as shares of the true class.

    The depth of colour is the square root of the share, so that rare mistakes are visible. Up to 20 classes have names,
    and counts in their cells. Above 100, neighbouring classes share a cell, which shows the highest share in it.

    Args:
        matrix: ``matrix[i][j]`` is the number of images of class ``i`` that were classified as class ``j``.
        classes: names of the classes. None given: their indices.
        ax: as in :func:`plot_curves`.
    """
    import numpy as np

    ax = style.new_axes(3.6, 3.6) if ax is None else ax
    counts = np.asarray(matrix, dtype=float).reshape(len(matrix), -1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    right, wrong = np.diag(np.diag(shares)), shares - np.diag(np.diag(shares))
    pool = -(-len(counts) // 100)
    if pool > 1:
        starts = np.arange(0, len(counts), pool)
        right, wrong = (np.maximum.reduceat(np.maximum.reduceat(m, starts), starts, axis=1) for m in (right, wrong))
    to_rgba = require("matplotlib.colors", extra="analysis").to_rgba
    cells = np.where((right >= wrong)[..., None], to_rgba(style.series(0).colour), to_rgba(style.series(1).colour))
    share = np.maximum(right, wrong)
    cells[..., 3] = np.where(share > 0, 0.1 + 0.9 * np.sqrt(share), 0)
    extent = (-0.5, len(counts) - 0.5, len(counts) - 0.5, -0.5)
    ax.imshow(cells, interpolation="none", extent=extent)
    style.tidy(ax, xlabel="Predicted class", grid=None)
    ax.set_ylabel("True class", fontsize=8, color=style.MUTED)
    if len(counts) <= 20:
        _name_cells(ax, matrix, [style.short(str(name), 12) for name in classes or range(len(counts))])
    return ax


def plot_similarity(histograms: Mapping[str, Histogram | None], ax: "Axes | None" = None) -> "Axes":
    """Draw how similar the filters of one layer are: for each model the share of filter pairs in each bin.

    Args:
        histograms: for each model its histogram; None, or one without pairs, is not drawn.
        ax: as in :func:`plot_curves`.
    """
    ax = style.new_axes() if ax is None else ax
    marks = []
    for index, (label, histogram) in enumerate(histograms.items()):
        if histogram is None or not sum(histogram.counts):
            continue
        look = style.series(index)
        total = sum(histogram.counts)
        shares = [count / total for count in histogram.counts]
        if len(histograms) < 4:
            ax.stairs(shares, histogram.edges, fill=True, color=look.colour, alpha=0.12, linewidth=0)
        outline = ax.stairs(shares, histogram.edges, **look.line)
        marks.append((outline, f"{style.short(label)}, mean {histogram.mean:.2f}"))
        ax.plot(histogram.mean, 0, color=look.colour, marker=look.marker, markersize=5, clip_on=False, zorder=4)
    style.tidy(ax, xlabel="Cosine similarity of two filters", ylabel="Share of filter pairs")
    ax.locator_params(axis="y", nbins=4, steps=[1, 2, 5, 10])
    ax.yaxis.set_major_formatter(style.percent)
    ax.set_xlim(-1, 1)
    ax.set_xticks([-1, -0.5, 0, 0.5, 1], ["-1", "-0.5", "0", "0.5", "1"])
    ax.set_ylim(bottom=0)
    if marks:
        legend(ax, marks)
    return ax


def _log_costs(ax: "Axes", costs: Sequence[float]) -> None:
    """Make the x axis logarithmic, with round ticks even when all costs lie within one decade."""
    ax.set_xscale("log")
    ticker = require("matplotlib.ticker", extra="analysis")
    if costs:
        pad = max((max(costs) / min(costs)) ** 0.35, 1.25)
        ax.set_xlim(min(costs) / pad, max(costs) * pad)
        wide = max(costs) / min(costs) > 20
        ax.xaxis.set_major_locator(
            ticker.LogLocator(subs=(1, 2, 5)) if wide else ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
        )
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    ax.xaxis.set_major_formatter(style.si)


def _name_cells(ax: "Axes", matrix: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    turn = 90 if max(map(len, names), default=0) > 2 else 0
    ax.set_xticks(range(len(names)), names, rotation=turn)
    ax.set_yticks(range(len(names)), names)
    size = 7 if len(names) <= 12 else 5.5
    for i, row in enumerate(matrix):
        for j, count in enumerate(row):
            if count:
                deep = i == j and count > 0.6 * sum(row)  # where white on blue becomes easier to read than ink
                ax.text(j, i, f"{count}", ha="center", va="center", fontsize=size, color="white" if deep else style.INK)
