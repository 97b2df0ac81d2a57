"""Plots of filter similarities: histograms by layer, and matrices as heat maps."""

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from .._extras import require
from ..analysis.similarity import Histogram, LayerSimilarity
from . import style
from .labels import label_ends
from .plots import plot_similarity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3


def layer_name(layers: Sequence[LayerSimilarity | Histogram | None]) -> str:
    """Return the names of the layers at one depth of several models, each once."""
    return " · ".join(dict.fromkeys(layer.layer for layer in layers if layer))


def plot_means(models: Mapping[str, Sequence[LayerSimilarity]], ax: "Axes | None" = None) -> "Axes":
    """Draw the mean similarity by depth, a line per model; the n-th layers of all models share a place.

    Args:
        models: for each model its layers, first layers first. A layer without pairs leaves a gap.
        ax: where to draw. None: on a new figure.
    """
    places = list(zip_longest(*models.values()))
    ax = style.new_axes(max(5.2, 2 + 0.8 * len(places)), 2.7) if ax is None else ax
    lines = {}
    for index, (label, layers) in enumerate(models.items()):
        look = style.series(index)
        means = [layer.mean if layer.pairs().numel() else math.nan for layer in layers]
        marks: dict[str, Any] = {"marker": look.marker, "markersize": 4.5, "clip_on": False}
        (lines[label],) = ax.plot(range(len(means)), means, **look.line, **marks)
    style.tidy(ax, ylabel="Mean similarity of two filters")
    names = [style.short(layer_name(layers), 14) for layers in places]
    ax.set_xticks(range(len(places)), names, rotation=0 if len(places) < 8 else 90)
    ax.set_xlim(-0.2, len(places) - 0.8)
    label_ends(ax, lines)
    return ax


def draw_similarity(models: Mapping[str, Sequence[LayerSimilarity]]) -> "Figure":
    """Return a new figure with a panel per layer, the histograms of all models (paper, Fig. 9), first layers first."""
    panels = list(zip_longest(*models.values()))
    legend = 0.17 * len(models)  # inches, a line per model
    figure, axes = _panels(len(panels), 3.5, 2.7 + legend)
    for ax, layers in zip(axes, panels, strict=True):
        histograms = {label: layer.histogram() if layer else None for label, layer in zip(models, layers, strict=True)}
        plot_similarity(histograms, ax)
        lines = 1 + sum(layer is not None and layer.pairs().numel() > 0 for layer in layers)
        _head(ax, layer_name(layers), 24 + 12.3 * lines)
    return figure


def plot_matrix(layer: LayerSimilarity, ax: "Axes | None" = None) -> "Axes":
    """Draw the similarity of each filter to each other (paper, Fig. 9): blue alike, orange opposite, white neither.

    Filters are in the order of their channels, without dead ones. Pairs that are active on no common image are grey.

    Args:
        layer: from :func:`tiedconv.analysis.filter_similarity`.
        ax: where to draw. None: on a new figure.
    """
    import numpy as np

    ax = style.new_axes(3.2, 2.9) if ax is None else ax
    colours = (
        require("matplotlib.colors", extra="analysis")
        .LinearSegmentedColormap.from_list("similarity", [style.COLOURS[1], "#ffffff", style.COLOURS[0]])
        .with_extremes(bad=style.RULE)
    )
    cells = np.ma.masked_array(layer.matrix.numpy(), mask=layer.images.numpy() == 0)
    count = len(layer.channels)
    style.tidy(ax, grid=None)
    if not count:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.text(0.5, 0.5, "no living filter", ha="center", va="center", fontsize=8, color=style.MUTED)
        return ax
    image = ax.imshow(cells, cmap=colours, vmin=-1, vmax=1, interpolation="nearest")
    shown = range(0, count, max(1, math.ceil(count / 4)))
    ax.set_xticks(shown, [str(layer.channels[i]) for i in shown])
    ax.set_yticks(shown, [str(layer.channels[i]) for i in shown])
    ax.set_xlabel("Channel", fontsize=8, color=style.MUTED)
    bar = ax.figure.colorbar(image, ax=ax, ticks=[-1, -0.5, 0, 0.5, 1], fraction=0.05, pad=0.03)
    bar.ax.set_yticklabels(["-1", "-0.5", "0", "0.5", "1"])
    bar.ax.tick_params(length=0, pad=3, labelsize=7, labelcolor=style.MUTED)
    bar.outline.set_visible(False)
    return ax


def draw_matrices(layers: Sequence[LayerSimilarity]) -> "Figure":
    """Return a new figure with a model's matrices, one :func:`plot_matrix` per layer."""
    figure, axes = _panels(len(layers), 3.2, 3.1)
    for ax, layer in zip(axes, layers, strict=True):
        plot_matrix(layer, ax)
        _head(ax, f"{layer.layer}, mean {layer.mean:.2f}", 6)
    return figure


def _panels(count: int, width: float, height: float) -> tuple["Figure", "list[Axes]"]:
    columns = min(count, _COLUMNS)
    rows = math.ceil(count / columns)
    figure = style.new_figure(columns * width, rows * height)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def _head(ax: "Axes", text: str, above: float) -> None:
    """Write a panel's name ``above`` points over the axes, clear of label and legend."""
    ax.annotate(
        style.short(text, 44), (0, 1), (-4, above), xycoords="axes fraction", textcoords="offset points",
        fontsize=9.5, fontweight="bold", color=style.INK,
    )  # fmt: skip
