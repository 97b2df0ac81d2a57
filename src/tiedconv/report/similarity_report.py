"""Filter similarities of several models as numbers in a file, as pictures, and as one HTML page."""

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from .._files import write_whole
from ..analysis.similarity import Histogram, LayerSimilarity
from . import style
from .page import Origin, grid, name, plot, quiet_about_glyphs, section, table, thousands
from .plots import plot_similarity
from .similarity_plots import draw_matrices, draw_similarity, layer_name, plot_matrix, plot_means

Found = Mapping[str, Sequence[LayerSimilarity]]
"""For each model what :func:`tiedconv.analysis.filter_similarity` returned."""


def write_similarity_numbers(models: Found, folder: Path, origin: Origin) -> None:
    """Write ``similarity.json``: for each model and layer histogram and matrix.

    ``matrix`` is rounded to four places; pairs that are active on no common image are null.
    """
    numbers = {label: {"layers": list(map(_numbers, layers))} for label, layers in models.items()}
    write_whole(folder / "similarity.json", origin.numbers(numbers))


def write_similarity(models: Found, folder: Path, origin: Origin) -> None:
    """Write ``similarity.json``, ``similarity.png``, for each model ``matrices-*.png``, and ``report.html``.

    Args:
        models: at least one model and its layers, first layers first.
        folder: where to; it exists.
        origin: where the similarities are from.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    write_similarity_numbers(models, folder, origin)
    with quiet_about_glyphs():
        draw_similarity(models).savefig(folder / "similarity.png", dpi=150)
        for number, (label, layers) in enumerate(models.items(), start=1):
            short = re.sub(r"[^\w.-]+", "-", label)[-60:]  # of a folder the end, which says most
            draw_matrices(layers).savefig(folder / f"matrices-{number}-{short}.png", dpi=150)
        means = plot(
            plot_means(models),
            title="Mean similarity by layer, first layers first",
            alt="Mean similarity by layer, a line per model: the numbers of the table.",
        )
        histograms = {label: [layer.histogram() for layer in layers] for label, layers in models.items()}
        sections = [
            section(
                "Mean similarity by depth",
                _table(models, origin) + grid([means]),
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
                    f"Each filter with each other: {label}",
                    grid(map(_matrix, layers)),
                    "Filters in the order of their channels. Blue: alike; white: unlike; orange: opposite.",
                )
                for label, layers in models.items()
            ),
        ]
    lead, lines = similarity_finding(models)
    origin.write_page(folder, "Filter similarity", lead, lines, sections)


def similarity_finding(models: Found) -> tuple[str, list[tuple[str, str]]]:
    """Return a sentence on which model's filters are least alike, and for each layer by how much.

    Models are ranked by the mean of their layers' means, over the layers in which all of them have pairs.
    """
    places = [layers for layers in zip_longest(*models.values()) if all(map(_has_pairs, layers))]
    if not places:
        return "In no layer have all models two living filters, so there is nothing to compare.", []
    overall = {
        label: sum(layer.mean for layer in own) / len(own)
        for label, own in zip(models, zip(*places, strict=True), strict=True)
    }
    first, *others = sorted(models, key=overall.__getitem__)
    count = "1 layer" if len(places) == 1 else f"{len(places)} layers"
    if not others:
        lead = f"Two filters of {first} have a mean similarity of {overall[first]:.3f} over {count}."
        return lead, [(layer.layer, f"{layer.mean:.3f}") for (layer,) in places]
    rest = ", ".join(f"{label} {overall[label]:.3f}" for label in others)
    lead = f"The filters of {first} are least alike: mean similarity {overall[first]:.3f} over {count}; {rest}."
    return lead, [(layer_name(layers), _ranked(models, layers)) for layers in places]


def histogram_figures(models: Mapping[str, Sequence[Histogram]]) -> list[str]:
    """Return a figure per layer, first layers first; the n-th layers of all models share one."""
    figures = []
    for layers in zip_longest(*models.values()):
        histograms = dict(zip(models, layers, strict=True))
        ax = plot_similarity(histograms, style.new_axes(3.5, 2.5 + 0.17 * (len(models) - 2)))
        title = layer_name(layers)
        means = ", ".join(f"{m} {h.mean:.2f}" for m, h in histograms.items() if h and sum(h.counts))
        alt = f"Histogram of filter similarities in {title}. Means: {means or 'no pairs of filters'}."
        figures.append(plot(ax, title=title, alt=alt))
    return figures


def _numbers(layer: LayerSimilarity) -> dict[str, Any]:
    histogram = layer.histogram()
    return {
        "layer": layer.layer,
        "mean": layer.mean,
        "pairs": layer.pairs().numel(),
        "dead": layer.dead,
        "channels": layer.channels,
        "histogram": {"edges": histogram.edges, "counts": histogram.counts},
        "matrix": [
            [round(value, 4) if images else None for value, images in zip(*rows, strict=True)]
            for rows in zip(layer.matrix.tolist(), layer.images.tolist(), strict=True)
        ],
    }


def _table(models: Found, origin: Origin) -> str:
    places = list(zip_longest(*models.values()))
    head = [("Model", ""), *((layer_name(layers), "") for layers in places)]
    rows = []
    for index, (label, own) in enumerate(zip(models, zip(*places, strict=True), strict=True)):
        random = " (random weights)" if origin.weights[label] == "random" else ""
        rows.append([name(index, label + random), *map(_cell, own)])
    return table("Mean similarity by model and layer", head, rows)


def _cell(layer: LayerSimilarity | None) -> str:
    if layer is None:
        return "–"
    mean = f"{layer.mean:.3f}" if _has_pairs(layer) else "–"
    return f"{mean}<small>{thousands(layer.pairs().numel())} pairs, {layer.dead} dead</small>"


def _matrix(layer: LayerSimilarity) -> str:
    return plot(
        plot_matrix(layer),
        title=layer.layer,
        alt=f"Similarity of {len(layer.channels)} filters of {layer.layer} with each other, mean {layer.mean:.2f}.",
        caption=f"mean {layer.mean:.2f}" if _has_pairs(layer) else "no pairs",
    )


def _ranked(models: Found, layers: Sequence[LayerSimilarity]) -> str:
    """Return the means of one layer, the lowest first, with the differences to it."""
    (least, lowest), *others = sorted(zip(models, layers, strict=True), key=lambda pair: pair[1].mean)
    rest = (f"{label} {layer.mean:.3f} ({layer.mean - lowest.mean:+.3f})" for label, layer in others)
    return f"{least} {lowest.mean:.3f}, " + ", ".join(rest)


def _has_pairs(layer: LayerSimilarity | None) -> bool:
    return layer is not None and layer.pairs().numel() > 0
