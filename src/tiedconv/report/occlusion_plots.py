"""The plot of an occlusion report."""

import math
from typing import TYPE_CHECKING

from ..analysis.occlusion import METRICS, Metric, OcclusionReport
from . import style
from .labels import label_ends

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_occlusion(report: OcclusionReport, metric: Metric = "AP", ax: "Axes | None" = None) -> "Axes":
    """Draw average precision against occlusion (paper, Fig. 7): a line per model, with bars for the 95 % intervals.

    Bins are equally spaced, whatever their widths, with their limits and numbers of images below. The models of a bin
    are side by side, so that no bar hides another. A bin without objects leaves a gap.

    Args:
        report: from :func:`tiedconv.analysis.occlusion.analyze_occlusion`.
        metric: ``"AP"`` or ``"AP75"``.
        ax: where to draw. None: on a new figure.
    """
    ax = style.new_axes(_width(report), 3) if ax is None else ax
    step = min(0.1, 0.6 / len(report.models))  # from one model to the next, where bins are 1 apart
    lines = {}
    for index, model in enumerate(report.models):
        look = style.series(index)
        places = [i + step * (index - (len(report.models) - 1) / 2) for i in range(len(report.bins))]
        estimates = model.scores[metric]
        values = [math.nan if estimate is None else estimate.value for estimate in estimates]
        for place, estimate in zip(places, estimates, strict=True):
            if estimate and estimate.low is not None and estimate.high is not None:
                ax.vlines(place, estimate.low, estimate.high, color=look.colour, linewidth=1.2, alpha=0.75)
        (lines[model.label],) = ax.plot(places, values, **look.line, marker=look.marker, markersize=4.5)
    intervals = ", with 95\u202f% intervals over images" if report.resamples else ""
    style.tidy(
        ax, xlabel="Occlusion ratio r; number of images", ylabel=f"{report.kind.capitalize()} {metric}{intervals}"
    )
    ax.locator_params(axis="y", nbins=5, steps=[1, 2, 5, 10])
    ax.yaxis.set_major_formatter(style.percent)
    ax.set_xticks(range(len(report.bins)), [f"{b.low:g}\u2013{b.high:g}\n{b.images:,}" for b in report.bins])
    ax.set_xlim(-0.5, len(report.bins) - 0.5)
    ax.margins(y=0.1)
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, -0.02), min(high, 1.02))  # no room for what average precision cannot be
    label_ends(ax, lines)
    return ax


def draw_occlusion(report: OcclusionReport) -> "Figure":
    """Return a new figure with both metrics side by side."""
    figure = style.new_figure(2 * _width(report), 3)
    for metric, ax in zip(METRICS, figure.subplots(1, len(METRICS)), strict=True):
        plot_occlusion(report, metric, ax)
    return figure


def _width(report: OcclusionReport) -> float:
    """Return the inches that the names of bins and models need."""
    return 1.8 + 0.75 * max(4, len(report.bins))
