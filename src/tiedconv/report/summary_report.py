"""Layer summaries of several models as numbers in a file, as a picture, and as one HTML page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from .._files import write_whole
from ..analysis.summary import LayerSummary
from . import page, style
from .summary_plots import plot_parameters, plot_ranks

HEAD = ("layer", "kind", "blocks", "output", "parameters", "MACs", "dead", "rank", "of C")
"""Headings of :func:`summary_cells`."""
NOTE = (
    "Rank: effective rank of the channels, the participation ratio of the eigenvalues of their correlation; of C: its "
    "share of the channels. In brackets where there were no more positions than channels, which limits the rank."
)
"""What the columns mean."""
_LEAD = (
    "The effective rank of a layer says how far its channels are from repeating each other: it is their number if they "
    "are uncorrelated, and 1 if they all carry the same signal."
)
_DEPTH = (
    "One point per layer; the lines go through the medians of every tenth of the depth. Ranks are shown for layers "
    "with more positions than channels."
)
_MORE = (
    "Dead: share of the channels with the same value everywhere. Output: mean of what the layer returns, before any "
    "norm, and below it the standard deviation. Weights: their norm, and below it the standard deviation."
)


def write_summary(summaries: Mapping[str, Sequence[LayerSummary]], folder: Path, origin: page.Origin) -> None:
    """Write ``summary.json``, ``summary.png`` and ``report.html``.

    Args:
        summaries: for each model what :func:`tiedconv.analysis.summarize` returned; at least one.
        folder: where to; it exists.
        origin: where the summaries are from.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    numbers = {label: {"layers": [asdict(layer) for layer in layers]} for label, layers in summaries.items()}
    write_whole(folder / "summary.json", origin.numbers(numbers))
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
    for index, (label, layers) in enumerate(summaries.items()):
        content = page.table(label, head, map(_row, layers))
        sections.append(page.section(label, content, "" if index else f"{NOTE} {_MORE}"))
    lines = [(label, _line(layers)) for label, layers in summaries.items()]
    origin.write_page(folder, "What the layers do", _LEAD, lines, sections)


def summary_cells(layer: LayerSummary) -> list[str]:
    """Return a layer's cells, as plain text, in the order of :data:`HEAD`."""
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


def _line(layers: Sequence[LayerSummary]) -> str:
    shares = sorted(layer.rank_share for layer in layers if layer.measurable)
    median = f"in the median layer the features use {shares[len(shares) // 2]:.0%} of the channels; " if shares else ""
    params, macs = (sum(getattr(layer, name) for layer in layers) for name in ("params", "macs"))
    return f"{median}{style.si(params)} parameters and {style.si(macs)} MACs per image in {len(layers)} layers."
