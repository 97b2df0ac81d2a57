"""An occlusion report: as a page of its own, and as parts of the page about a comparison of detectors."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

from .._files import write_whole
from ..analysis.occlusion import METRICS, Estimate, ModelOcclusion, OcclusionBin, OcclusionReport
from . import style
from .occlusion_plots import draw_occlusion, plot_occlusion
from .page import grid, name, plot, quiet_about_glyphs, section, table, thousands, write_page
from .style import NARROW

_ENOUGH_IMAGES = 10  # a bin with fewer is in the table, not in the finding


def write_occlusion(
    report: OcclusionReport, folder: Path, *, command: str, blocks: Mapping[str, Mapping[str, str]]
) -> None:
    """Write ``occlusion.json``, ``occlusion.png`` and ``report.html``.

    Args:
        report: from :func:`tiedconv.analysis.analyze_occlusion`.
        folder: where to; it exists.
        command, blocks: as in :func:`~tiedconv.report.page.write_page`.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    write_whole(folder / "occlusion.json", report.to_json() + "\n")
    lines = [(model.label, gain) for model in report.models[1:] if (gain := occlusion_gain(report, model))]
    with quiet_about_glyphs():
        draw_occlusion(report).savefig(folder / "occlusion.png", dpi=150)
        content = grid(occlusion_figures(report)) + occlusion_table(report)
    sections = [section("By occlusion ratio", content, occlusion_note(report, "runs"))]
    title = "Average precision under occlusion"
    write_page(folder / "report.html", title, _lead(report), lines, sections, command=command, blocks=blocks)


def occlusion_gain(report: OcclusionReport, model: ModelOcclusion) -> str:
    """Return a sentence on a model's AP relative to the first model's under least and most occlusion, if known."""
    known = _known(report, model.differences["AP"])
    if len(known) < 2:
        return ""
    (low, first), (high, last) = known[0], known[-1]
    return (
        f"Under least occlusion (r {occlusion_range(low)}) it is {_signed(first)} points from "
        f"{report.models[0].label}, under most (r {occlusion_range(high)}) {_signed(last)}."
    )


def occlusion_figures(report: OcclusionReport) -> list[str]:
    """Return a figure for each metric."""
    figures = []
    for metric in METRICS:
        ax = plot_occlusion(report, metric, style.new_axes(5.2, 3.1))
        read = "; ".join(
            f"{model.label}: " + ", ".join(f"{100 * e.value:.1f}" if e else "none" for e in model.scores[metric])
            for model in report.models
        )
        alt = f"{metric} by occlusion ratio, bins {', '.join(map(occlusion_range, report.bins))}. {read}."
        figures.append(plot(ax, title=f"{metric} by occlusion ratio", alt=alt))
    return figures


def occlusion_table(report: OcclusionReport) -> str:
    """Return scores and differences by bin as a table."""
    head = [("Occlusion ratio r", "")]
    head += [(f"r {occlusion_range(bin_)}", f"{thousands(bin_.images)} images") for bin_ in report.bins]
    rows = []
    for index, model in enumerate(report.models):
        for metric in METRICS:
            cells = [_cell(estimate, signed=False) for estimate in model.scores[metric]]
            rows.append([f"{name(index, model.label)} {metric}", *cells])
        for metric, estimates in model.differences.items():
            cells = [_cell(estimate, signed=True) for estimate in estimates]
            rows.append(
                [f"{name(index, model.label)} {metric}, difference to {escape(report.models[0].label)}", *cells]
            )
    return table("Average precision by occlusion", head, rows)


def occlusion_note(report: OcclusionReport, repeated: str) -> str:
    """Return what figures and table show; ``repeated`` names what results are the mean over, such as seeds."""
    of = {
        "boxes": "of the objects' boxes",
        "masks": "of the objects' visible masks",
        "amodal": "of the whole objects, covered parts included",
    }[report.regions]
    note = (
        f"r is the area {of} that is shared with other objects, divided by the area of all objects of the image "
        f"(paper, eq. 5). {report.kind.capitalize()} AP in %, mean over the {repeated}"
    )
    if not report.resamples:
        return f"{note}."
    return (
        f"{note}. Small type and bars: 95{NARROW}% bootstrap intervals over the images of the bin, paired for "
        f"differences. They do not cover the {repeated}."
    )


def occlusion_range(bin_: OcclusionBin) -> str:
    """Return where a bin begins and ends."""
    return f"{bin_.low:g}–{bin_.high:g}"


def _lead(report: OcclusionReport) -> str:
    base = report.models[0]
    known = _known(report, base.scores["AP"])
    if not known:
        return f"No bin has {_ENOUGH_IMAGES} images with objects, which is too few to compare models."
    said = [
        f"{100 * estimate.value:.1f}{NARROW}% {report.kind} AP under {which} occlusion (r {occlusion_range(bin_)})"
        for which, (bin_, estimate) in {"least": known[0], "most": known[-1]}.items()
    ]
    return f"{base.label} reaches {' and '.join(said[: len(known)])}."


def _known(report: OcclusionReport, estimates: list[Estimate | None]) -> list[tuple[OcclusionBin, Estimate]]:
    return [
        (bin_, estimate)
        for bin_, estimate in zip(report.bins, estimates, strict=True)
        if estimate and bin_.images >= _ENOUGH_IMAGES
    ]


def _cell(estimate: Estimate | None, *, signed: bool) -> str:
    if estimate is None:
        return "–"
    form = "{:+.1f}" if signed else "{:.1f}"
    value, *interval = (
        "" if v is None else form.format(100 * v).replace("-", "−")
        for v in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value}<small>{interval[0]} to {interval[1]}</small>" if all(interval) else value


def _signed(estimate: Estimate) -> str:
    text = f"{100 * estimate.value:+.1f}"
    if estimate.low is not None and estimate.high is not None:
        text += f" (95{NARROW}% interval over images {100 * estimate.low:+.1f} to {100 * estimate.high:+.1f})"
    return text.replace("-", "−")
