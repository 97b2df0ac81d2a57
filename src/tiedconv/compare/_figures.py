"""The report's sections of figures: a comparison's numbers brought into the form that the plots take, and drawn."""

import math
import statistics

import numpy as np

from ..analysis import Histogram
from ..report import plots, style
from ..report.occlusion_report import occlusion_figures, occlusion_note, occlusion_table
from ..report.page import grid, plot, section
from ..report.similarity_report import histogram_figures
from ..report.style import class_name
from ._finding import score
from .results import Comparison, ModelResult, metric_name


def occlusion(comparison: Comparison) -> str:
    """Draw average precision by how much objects cover each other."""
    if comparison.occlusion is None:
        return ""
    content = grid(occlusion_figures(comparison.occlusion)) + occlusion_table(comparison.occlusion)
    return section("Average precision under occlusion", content, occlusion_note(comparison.occlusion, "seeds"))


def tradeoffs(comparison: Comparison) -> str:
    """Draw the metric against parameters and against MACs."""
    models, called = comparison.models, metric_name(comparison.metric)
    of = " of the backbone" if any(model.detector_params for model in models) else ""
    figures = []
    for field, title, xlabel in (
        ("params", "Accuracy against parameters", f"Parameters{of}"),
        ("macs", "Accuracy against computation", f"Multiply-adds{of} per image (MACs)"),
    ):
        points = {m.label: (float(getattr(m, field)), m.values(comparison.metric)) for m in models}
        ax = plots.plot_tradeoff(points, style.new_axes(3.9, 2.8), xlabel=xlabel, ylabel=_capital(called))
        read = "; ".join(f"{m.label}: {style.si(getattr(m, field))}, {score(comparison, m)}" for m in models)
        figures.append(plot(ax, title=title, alt=f"{title}, one point per model. {read}."))
    note = f"{_capital(called)} of the single run."
    if _runs(comparison) > 1:
        note = f"Mean {called} over the runs; bars show one standard deviation."
    return section("Accuracy against cost", grid(figures), f"{note} The cost axes are logarithmic.")


def learning_curves(comparison: Comparison) -> str:
    """Draw what was logged of the epochs: validation accuracy, validation loss and training loss."""
    figures = []
    for name, title, ylabel in (
        ("top1", "Validation accuracy", "Top-1"),
        ("val_loss", "Validation loss", "Mean loss per image"),
        ("train_loss", "Training loss", "Mean loss per image"),
    ):
        curves = {
            model.label: [
                [math.nan if epoch[name] is None else epoch[name] for epoch in run.history if name in epoch]
                for run in model.runs
            ]
            for model in comparison.models
        }
        finite = [value for runs in curves.values() for run in runs for value in run if not math.isnan(value)]
        if not finite:
            continue
        ends = {label: [run[-1] for run in runs if run and not math.isnan(run[-1])] for label, runs in curves.items()}
        means = {label: statistics.fmean(values) for label, values in ends.items() if values}
        is_share = name == "top1"
        log = not is_share and 0 < 10 * min(finite) < max(finite)
        ax = plots.plot_curves(curves, style.new_axes(3.5, 2.5), ylabel=ylabel, percent=is_share, log=log)
        last = ", ".join(f"{m} {style.percent(round(v, 3)) if is_share else f'{v:.3f}'}" for m, v in means.items())
        figures.append(plot(ax, title=title, alt=f"{title} by epoch. After the last epoch: {last}."))
    note = "One run per model."
    if _runs(comparison) > 1:
        note = "Mean over the runs, in a band from the lowest to the highest run."
    if comparison.occlusion:
        note += " The loss is the sum of the detector's losses."
    return section("Learning curves", grid(figures), note)


def confusion(comparison: Comparison) -> str:
    """Draw each classifier's confusion matrix, summed over its runs."""
    figures = []
    for model in comparison.models:
        matrices = [run.details["confusion"] for run in model.runs if run.details.get("confusion")]
        if not matrices:
            continue
        total = np.sum(matrices, axis=0).tolist()
        figures.append(
            plot(
                plots.plot_confusion(total, comparison.classes),
                title=model.label,
                alt=f"Confusion matrix of {model.label}.",
                caption=_commonest_mistakes(total, comparison.classes),
            )
        )
    pooled = f", summed over {_runs(comparison)} runs" if _runs(comparison) > 1 else ""
    note = (
        f"Validation images by true and predicted class{pooled}. Blue: right; orange: wrong. Depth of colour is the "
        "square root of the share of the true class, so that rare mistakes show."
    )
    if len(comparison.classes) > 100:
        note += " Neighbouring classes share a cell, which shows the highest share."
    return section("Confusion", grid(figures), note)


def similarity(comparison: Comparison) -> str:
    """Draw the filter similarities of each measured layer, first layers first, runs pooled."""
    return section(
        "Filter similarity",
        grid(histogram_figures({model.label: _pooled(model) for model in comparison.models})),
        "Cosine similarity between the guided-backpropagation patterns of two filters of a layer, for every pair of "
        "examined filters; nearer to 0 is less redundant. The marks on the axis are the means.",
    )


def _pooled(model: ModelResult) -> list[Histogram]:
    """Add up the histograms of a model's runs layer by layer; the mean is weighted by the pairs."""
    layers: dict[str, list[Histogram]] = {}
    for run in model.runs:
        for entry in run.details.get("similarity", []):
            layers.setdefault(entry["layer"], []).append(Histogram(**entry))
    pooled = []
    for name, entries in layers.items():
        pairs = [sum(entry.counts) for entry in entries]
        mean = float(np.average([entry.mean for entry in entries], weights=pairs)) if any(pairs) else 0.0
        counts = np.sum([entry.counts for entry in entries], axis=0).tolist()
        pooled.append(Histogram(name, entries[0].edges, counts, mean))
    return pooled


def _commonest_mistakes(matrix: list[list[int]], classes: list[str]) -> str:
    mistakes = [(n, i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if i != j and n]
    if not mistakes:
        return "No mistakes."
    top = sorted(mistakes, key=lambda m: (-m[0], m[1], m[2]))[:3]
    listed = ", ".join(f"{class_name(classes, i)} → {class_name(classes, j)} ({n})" for n, i, j in top)
    wrong, images = sum(n for n, _, _ in mistakes), sum(map(sum, matrix))
    return f"{wrong} of {images} wrong. Most often: {listed}."


def _runs(comparison: Comparison) -> int:
    return max(len(model.runs) for model in comparison.models)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
