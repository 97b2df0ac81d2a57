"""Filter similarities of several models as numbers in a file, and as one HTML page."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..analysis.similarity import Histogram, LayerSimilarity
from . import style
from .page import (
    ReportedModel,
    grid,
    name,
    plot,
    quiet_about_glyphs,
    random_note,
    section,
    table,
    thousands,
    write_page,
)
from .plots import plot_similarity
from .similarity_plots import draw_matrices, draw_similarity, layer_name, plot_matrix, plot_means


@dataclass(frozen=True, eq=False)
class ModelSimilarity(ReportedModel):
    """What :func:`tiedconv.analysis.filter_similarity` found in one model.

    Attributes:
        label, weights, random: as in :class:`~tiedconv.report.page.ReportedModel`.
        layers: its layers, first layers first.
    """

    layers: list[LayerSimilarity]


def similarity_finding(models: Sequence[ModelSimilarity]) -> tuple[str, list[tuple[str, str]]]:
    """Say in a sentence which model's filters are least alike, and below it by how much in each layer.

    The mean of the layers' means ranks the models, over the layers that all of them have pairs in.
    """
    places = [layers for layers in zip_longest(*(model.layers for model in models)) if all(map(_has_pairs, layers))]
    random = random_note(models)
    if not places:
        return f"In no layer have all models two living filters, so there is nothing to compare. {random}".strip(), []
    overall = [sum(layer.mean for layer in own) / len(own) for own in zip(*places, strict=True)]
    order = sorted(range(len(models)), key=lambda index: overall[index])
    first = models[order[0]].label
    count = "1 layer" if len(places) == 1 else f"{len(places)} layers"
    if len(models) == 1:
        by_depth = [(layers[0].layer, f"{layers[0].mean:.3f}") for layers in places]
        lead = f"Two filters of {first} have a mean similarity of {overall[0]:.3f} over {count}. {random}"
        return lead.strip(), by_depth
    rest = ", ".join(f"{models[index].label} {overall[index]:.3f}" for index in order[1:])
    lowest = f"{overall[order[0]]:.3f} over {count}"
    lead = f"The filters of {first} are least alike: mean similarity {lowest}; {rest}. {random}"
    return lead.strip(), [(layer_name(layers), _ranked(models, layers)) for layers in places]


def similarity_json(models: Sequence[ModelSimilarity], settings: Mapping[str, Any]) -> str:
    """Return the numbers as JSON: ``settings``, and for each model and layer histogram and matrix.

    ``matrix`` is rounded to four places; null stands for pairs that live on no common image.
    """
    entries = [
        {
            "model": model.label,
            "weights": model.weights,
            "layers": [
                {
                    "layer": layer.layer,
                    "mean": layer.mean,
                    "pairs": layer.pairs().numel(),
                    "dead": layer.dead,
                    "channels": layer.channels,
                    "histogram": {"edges": layer.histogram().edges, "counts": layer.histogram().counts},
                    "matrix": [
                        [round(value, 4) if images else None for value, images in zip(*rows, strict=True)]
                        for rows in zip(layer.matrix.tolist(), layer.images.tolist(), strict=True)
                    ],
                }
                for layer in model.layers
            ],
        }
        for model in models
    ]
    return json.dumps({**settings, "models": entries}, indent=1)


def write_similarity_report(
    models: Sequence[ModelSimilarity], path: Path, *, command: str, blocks: Mapping[str, Mapping[str, str]]
) -> None:
    """Write the page.

    Args:
        models: at least one, with different labels.
        path: the HTML file; its folder exists.
        command, blocks: as in :func:`~tiedconv.report.page.write_page`.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    lead, lines = similarity_finding(models)
    layers = {model.label: model.layers for model in models}
    histograms = {label: [layer.histogram() for layer in own] for label, own in layers.items()}
    with quiet_about_glyphs():
        means = plot(
            plot_means(layers),
            title="Mean similarity by layer, first layers first",
            alt="Mean similarity by layer, a line per model: the numbers of the table.",
        )
        sections = [
            section(
                "Mean similarity by depth",
                _table(models) + grid([means]),
                "Mean cosine similarity between the guided-backpropagation patterns of two filters of a layer, over "
                "every pair of examined filters; nearer to 0 is less redundant. A dead filter has no pattern on any "
                "image and is in no pair.",
            ),
            section(
                "Distribution",
                grid(histogram_figures(histograms)),
                "Shares of the filter pairs by similarity, first layers first. The marks on the axis are the means.",
            ),
            *(
                section(
                    f"Each filter with each other: {model.label}",
                    grid(_matrices(model)),
                    "Filters in the order of their channels. Blue: alike; white: unlike; orange: opposite."
                    + (" The weights are random." if model.random else ""),
                )
                for model in models
            ),
        ]
    write_page(path, "Filter similarity", lead, lines, sections, command=command, blocks=blocks)


def write_similarity_plots(models: Sequence[ModelSimilarity], folder: Path) -> None:
    """Write ``similarity.png`` and for each model ``matrices-*.png`` into a folder that exists."""
    with quiet_about_glyphs():
        draw_similarity({model.label: model.layers for model in models}).savefig(folder / "similarity.png", dpi=150)
        for number, model in enumerate(models, start=1):
            name = re.sub(r"[^\w.-]+", "-", model.label)[-60:]  # of a folder the end, which says most
            draw_matrices(model.layers).savefig(folder / f"matrices-{number}-{name}.png", dpi=150)


def _table(models: Sequence[ModelSimilarity]) -> str:
    places = list(zip_longest(*(model.layers for model in models)))
    head = [("Model", ""), *((layer_name(layers), "") for layers in places)]
    rows = [
        [
            name(index, model.label + (" (random weights)" if model.random else "")),
            *(_cell(layers[index]) for layers in places),
        ]
        for index, model in enumerate(models)
    ]
    return table("Mean similarity by model and layer", head, rows)


def _cell(layer: LayerSimilarity | None) -> str:
    if layer is None:
        return "–"
    mean = f"{layer.mean:.3f}" if _has_pairs(layer) else "–"
    return f"{mean}<small>{thousands(layer.pairs().numel())} pairs, {layer.dead} dead</small>"


def histogram_figures(models: Mapping[str, Sequence[Histogram]]) -> list[str]:
    """Draw each model's histograms, first layers first; layers of different models share a figure by their place."""
    figures = []
    for layers in zip_longest(*models.values()):
        histograms = dict(zip(models, layers, strict=True))
        ax = plot_similarity(histograms, style.new_axes(3.5, 2.5 + 0.17 * (len(models) - 2)))
        title = layer_name(layers)
        means = ", ".join(f"{m} {h.mean:.2f}" for m, h in histograms.items() if h and sum(h.counts))
        alt = f"Histogram of filter similarities in {title}. Means: {means or 'no pairs of filters'}."
        figures.append(plot(ax, title=title, alt=alt))
    return figures


def _matrices(model: ModelSimilarity) -> list[str]:
    return [
        plot(
            plot_matrix(layer),
            title=layer.layer,
            alt=f"Similarity of {len(layer.channels)} filters of {layer.layer} with each other, mean {layer.mean:.2f}.",
            caption=f"mean {layer.mean:.2f}" if _has_pairs(layer) else "no pairs",
        )
        for layer in model.layers
    ]


def _ranked(models: Sequence[ModelSimilarity], layers: Sequence[LayerSimilarity]) -> str:
    """Say the means of one layer, the lowest first, with the distance to it."""
    pairs = sorted(zip(models, layers, strict=True), key=lambda pair: pair[1].mean)
    (least, lowest), *others = pairs
    rest = (f"{model.label} {layer.mean:.3f} ({layer.mean - lowest.mean:+.3f})" for model, layer in others)
    return f"{least.label} {lowest.mean:.3f}, " + ", ".join(rest)


def _has_pairs(layer: LayerSimilarity | None) -> bool:
    return layer is not None and layer.pairs().numel() > 0
