"""Layer summaries of several models as numbers in a file, as a picture, and as one HTML page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from json import dumps
from pathlib import Path
from typing import Any

from .._files import write_whole
from ..analysis.summary import LayerSummary
from . import page, style
from .summary_plots import plot_parameters, plot_ranks

HEAD = ("layer", "kind", "blocks", "output", "parameters", "MACs", "dead", "rank", "of C")
"""Headings of :func:`summary_cells`."""
NOTE = (
    "Rank: effective rank of the channels, the participation ratio of the eigenvalues of their correlation; of C: its "
    "share of the channels. In brackets where there were no more positions than channels, so that the photos bound it."
)
"""What the columns mean."""
_LEAD = (
    "The effective rank of a layer says how far its channels are from repeating each other: it is their number if they "
    "are uncorrelated, and 1 if they all say the same."
)
_DEPTH = (
    "One point per layer; the lines go through the medians of every tenth of the depth. Layers with no more positions "
    "than channels are left out of the ranks."
)
_MORE = (
    "Dead: share of the channels that are the same number everywhere. Output: mean, and below the standard deviation, "
    "of what the layer returns, before any norm. Weights: their norm, and below the standard deviation."
)


@dataclass(frozen=True, eq=False)
class ModelSummary(page.ReportedModel):
    """What :func:`tiedconv.analysis.summarize` found in one model.

    Attributes:
        label, weights, random: as in :class:`~tiedconv.report.page.ReportedModel`.
        layers: its layers, first layers first.
    """

    layers: Sequence[LayerSummary]


def write_summary(
    models: Sequence[ModelSummary],
    folder: Path,
    *,
    settings: Mapping[str, Any],
    command: str,
    blocks: Mapping[str, Mapping[str, str]],
) -> None:
    """Write ``summary.json``, ``summary.png`` and ``report.html`` into a folder that exists.

    Args:
        models: at least one, with different labels.
        folder: where to.
        settings: more entries of the JSON file.
        command, blocks: as in :func:`~tiedconv.report.page.write_page`.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    write_whole(folder / "summary.json", summary_json(models, settings) + "\n")
    summaries = {model.label: model.layers for model in models}
    figure = style.new_figure(12, 3.2)
    left, right = figure.subplots(1, 2)
    plot_ranks(summaries, left)
    plot_parameters(summaries, right)
    with page.quiet_about_glyphs():
        figure.savefig(folder / "summary.png", dpi=150)
        ranks = page.plot(
            plot_ranks(summaries), title="How much of the channels is used", alt="Effective rank by depth."
        )
        parameters = page.plot(plot_parameters(summaries), title="Where the parameters are", alt="Parameters by depth.")
    head = [(title, "") for title in HEAD] + [("output", "mean, std"), ("weights", "norm, std"), ("groups", "")]
    sections = [page.section("By depth", page.grid([ranks, parameters]), _DEPTH)]
    for index, model in enumerate(models):
        content = page.table(model.label, head, map(_row, model.layers))
        sections.append(page.section(model.label, content, "" if index else f"{NOTE} {_MORE}"))
    lead, lines = f"{_LEAD} {page.random_note(models)}", list(map(_line, models))
    page.write_page(folder / "report.html", "What the layers do", lead, lines, sections, command=command, blocks=blocks)


def summary_json(models: Sequence[ModelSummary], settings: Mapping[str, Any]) -> str:
    """Return the numbers as JSON: ``settings``, and for each model all layers."""
    entries = [
        {"label": model.label, "weights": model.weights, "layers": [asdict(layer) for layer in model.layers]}
        for model in models
    ]
    return dumps({**settings, "models": entries}, indent=2)


def summary_cells(layer: LayerSummary) -> list[str]:
    """Return a layer's row of the tables, as plain text, in the order of :data:`HEAD`."""
    rank, share = f"{layer.rank:.1f}", f"{layer.rank_share:.0%}"
    return [
        layer.name,
        layer.kind,
        " ".join(map(str, layer.blocks)),
        "×".join(map(str, layer.shape)),
        style.si(layer.params),
        style.si(layer.macs),
        "–" if not layer.dead else "<1%" if layer.dead < 0.005 else f"{layer.dead:.0%}",
        *((rank, share) if layer.measurable else (f"({rank})", f"({share})")),
    ]


def _row(layer: LayerSummary) -> list[str]:
    output = f"{layer.mean:.2g}<small>{layer.std:.2g}</small>"
    weights = f"{layer.weight_norm:.3g}<small>{layer.weight_std:.2g}</small>"
    return [*map(escape, summary_cells(layer)), output, weights, " ".join(map(str, layer.groups))]


def _line(model: ModelSummary) -> tuple[str, str]:
    shares = sorted(layer.rank_share for layer in model.layers if layer.measurable)
    median = f"in the median layer the features use {shares[len(shares) // 2]:.0%} of the channels; " if shares else ""
    params, macs = (sum(getattr(layer, name) for layer in model.layers) for name in ("params", "macs"))
    cost = f"{style.si(params)} parameters and {style.si(macs)} MACs per image in {len(model.layers)} layers"
    return model.label, f"{median}{cost}."
