"""The report's figures: a comparison's numbers brought into the form that the plots take, and drawn."""

import math
from itertools import zip_longest
from typing import TYPE_CHECKING

from ..analysis import Histogram
from ..report import plots, style
from ..report.page import FigureWriter
from .results import Comparison, ModelResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def learning_curves(comparison: Comparison, writer: FigureWriter) -> list[str]:
    """Draw validation accuracy, validation loss and training loss by epoch."""
    figures = []
    for name, title, ylabel in (
        ("top1", "Validation accuracy", "Top-1"),
        ("val_loss", "Validation loss", "Mean loss per image"),
        ("train_loss", "Training loss", "Mean loss per image"),
    ):
        curves = {
            model.label: [[getattr(epoch, name) for epoch in run.history] for run in model.runs]
            for model in comparison.models
        }
        last = ", ".join(
            f"{label} " + (style.percent(round(mean, 3)) if name == "top1" else f"{mean:.3f}")
            for label, mean in ((label, _mean([r[-1] for r in runs if r])) for label, runs in curves.items())
            if mean is not None
        )
        if not last:
            continue
        losses = [value for runs in curves.values() for run in runs for value in run]
        log = name != "top1" and 0 < 10 * min(losses) < max(losses) < math.inf
        ax = plots.plot_curves(curves, _narrow(), ylabel=ylabel, percent=name == "top1", log=log)
        figures.append(writer.write(ax, title=title, alt=f"{title} by epoch. After the last epoch: {last}."))
    return figures


def tradeoffs(comparison: Comparison, writer: FigureWriter) -> list[str]:
    """Draw accuracy against parameters and against MACs."""
    figures = []
    for field, title, xlabel in (
        ("params", "Accuracy against parameters", "Parameters"),
        ("macs", "Accuracy against computation", "Multiply-adds per image (MACs)"),
    ):
        points = {
            model.label: (getattr(model, field), [run.top1 for run in model.runs])
            for model in comparison.models
            if getattr(model, field) > 0
        }
        ax = plots.plot_tradeoff(points, style.new_axes(3.9, 2.5), xlabel=xlabel, ylabel="Top-1")
        read = "; ".join(f"{m}: {style.si(cost)}, {_mean(v) or 0:.1%}" for m, (cost, v) in points.items() if v)
        figures.append(writer.write(ax, title=title, alt=f"{title}, one point a model. {read}."))
    return figures


def confusions(comparison: Comparison, writer: FigureWriter) -> list[str]:
    """Draw each model's confusion matrix, summed over its runs."""
    figures = []
    for model in comparison.models:
        matrices = [run.confusion for run in model.runs if run.confusion]
        if not matrices:
            continue
        total = [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]
        ax = plots.plot_confusion(total, comparison.classes)
        figures.append(
            writer.write(
                ax,
                title=model.label,
                alt=f"Confusion matrix of {model.label}.",
                caption=_commonest_mistakes(total, comparison.classes),
            )
        )
    return figures


def similarities(comparison: Comparison, writer: FigureWriter) -> list[str]:
    """Draw the filter similarities of each measured layer, first layers first, runs pooled."""
    pooled = {model.label: _pooled(model) for model in comparison.models}
    figures = []
    for place, layers in enumerate(zip_longest(*pooled.values())):
        names = list(dict.fromkeys(layer.layer for layer in layers if layer))
        ax = plots.plot_similarity(dict(zip(pooled, layers, strict=True)), _narrow(0.17 * (len(pooled) - 2)))
        means = ", ".join(f"{m} {s.mean:.2f}" for m, s in zip(pooled, layers, strict=True) if s and sum(s.counts))
        title = " · ".join(names) if len(names) < 3 else f"Measured layer {place + 1}"
        alt = f"Histogram of filter similarities in {', '.join(names)}. Means: {means or 'no pairs of filters'}."
        figures.append(writer.write(ax, title=title, alt=alt))
    return figures


def _pooled(model: ModelResult) -> list[Histogram]:
    """Add up the histograms of a model's runs layer by layer; the mean is weighted by the pairs."""
    layers: dict[str, list[Histogram]] = {}
    for run in model.runs:
        for entry in run.similarity:
            layers.setdefault(entry.layer, []).append(entry)
    return [_sum(name, entries) for name, entries in layers.items()]


def _sum(layer: str, entries: list[Histogram]) -> Histogram:
    alike = [entry for entry in entries if entry.edges == entries[0].edges]
    counts = [sum(bins) for bins in zip(*(entry.counts for entry in alike), strict=True)]
    total = sum(counts)
    mean = sum(entry.mean * sum(entry.counts) for entry in alike) / total if total else 0.0
    return Histogram(layer, entries[0].edges, counts, mean)


def _commonest_mistakes(matrix: list[list[int]], classes: list[str]) -> str:
    mistakes = [(n, i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if i != j and n]
    if not mistakes:
        return "No mistakes."
    top = sorted(mistakes, key=lambda m: (-m[0], m[1], m[2]))[:3]
    listed = ", ".join(f"{class_name(classes, i)} → {class_name(classes, j)} ({n})" for n, i, j in top)
    wrong, images = sum(n for n, _, _ in mistakes), sum(map(sum, matrix))
    return f"{wrong} of {images} wrong. Most often: {listed}."


def class_name(classes: list[str], index: int) -> str:
    """Return the name of a class, or its index if it has none."""
    return classes[index] if 0 <= index < len(classes) else f"class {index}"


def _narrow(extra_height: float = 0) -> "Axes":
    """Return axes for figures that stand three in a row, where letters must stay legible; the height in inches."""
    return style.new_axes(3.5, 2.5 + extra_height)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
