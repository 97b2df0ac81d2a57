"""Write a comparison of detectors as one HTML page."""

from pathlib import Path

from ..metrics.coco import METRICS, Kind
from ..report import plots, style
from ..report.occlusion_report import occlusion_figures, occlusion_gain, occlusion_note, occlusion_table
from ..report.page import (
    FigureWriter,
    conditions,
    grid,
    name,
    picture,
    quiet_about_glyphs,
    section,
    table,
    thousands,
    write_page,
)
from ..report.style import NARROW
from ._cells import spread
from ._finding import Finding, difference, relative
from .detection_results import DetectionComparison, DetectorResult


def write_detection_report(comparison: DetectionComparison, path: Path) -> None:
    """Write the report of a comparison of detectors to ``path``, an HTML file in a folder that exists.

    Raises:
        ValueError: if there is no model.
        ModuleNotFoundError: if matplotlib is not installed.
    """
    if not comparison.models:
        raise ValueError("write_detection_report: the comparison has no models. Compare at least one.")
    with quiet_about_glyphs():
        sections = _sections(comparison)
    found = detection_finding(comparison)
    write_page(path, comparison.title, found.lead, found.lines, sections)


def detection_finding(comparison: DetectionComparison) -> Finding:
    """Set every model against the first: AP with its interval over seeds, cost, and the gain under most occlusion."""
    base, *others = comparison.models
    lead = f"{base.label} reaches {_score(base, comparison.kind, 'AP')} {comparison.kind} AP."
    return Finding(lead, [(model.label, _line(comparison, model, base)) for model in others])


def _line(comparison: DetectionComparison, model: DetectorResult, base: DetectorResult) -> str:
    kind = comparison.kind
    ours, theirs = model.values(kind, "AP"), base.values(kind, "AP")
    parts = [f"{_score(model, kind, 'AP')} {kind} AP; {difference(ours, theirs, 'it')}."] if ours and theirs else []
    parts.append(
        f"Its backbone has {relative(model.backbone_params, base.backbone_params)} parameters and needs "
        f"{relative(model.backbone_macs, base.backbone_macs)} multiply-adds."
    )
    (occlusion,) = [entry for entry in comparison.occlusion.models if entry.label == model.label]
    if gain := occlusion_gain(comparison.occlusion, occlusion):
        parts.append(gain)
    return " ".join(parts)


def _sections(comparison: DetectionComparison) -> list[str]:
    writer = FigureWriter()
    runs = max(len(model.runs) for model in comparison.models)
    several = "Mean ± standard deviation over the seeds. " if runs > 1 else ""
    return [
        section(
            "Results",
            _results(comparison),
            f"{several}COCO's average precision after the last epoch on the validation images, in %. Multiply-adds are "
            "the backbone's, without pyramid and heads, for one square image of the short side. Speeds are medians "
            "with the quartiles below, measured in turns, eagerly in float32, at the training's batch size.",
        ),
        section(
            "Average precision under occlusion",
            grid(occlusion_figures(comparison.occlusion, writer)) + occlusion_table(comparison.occlusion),
            occlusion_note(comparison.occlusion, "seeds"),
        ),
        section(
            "Accuracy against cost",
            grid(_tradeoffs(comparison, writer)),
            "Bars show one standard deviation over the seeds. The cost axes are logarithmic.",
        ),
        section("Training", grid(_curves(comparison, writer)), "The sum of the detector's losses."),
        section(
            "Sample detections",
            _samples(comparison),
            "Validation images, what is really there, and what the first run of each model finds with a score of at "
            "least 0.5.",
        ),
        section("Every run", _runs(comparison)),
        section("How to repeat it", _conditions(comparison)),
    ]


def _results(comparison: DetectionComparison) -> str:
    kinds = _kinds(comparison)
    metrics = [
        (comparison.kind, m) for m in METRICS if any(model.values(comparison.kind, m) for model in comparison.models)
    ]
    metrics += [(kind, "AP") for kind in kinds if kind != comparison.kind]
    head = [("Model", ""), ("Parameters", "detector"), ("Parameters", "backbone"), ("MACs", "million per image")]
    head += [(metric.replace("_", " "), kind) for kind, metric in metrics]
    head += [("Training", "images/s"), ("Inference", "images/s")]
    rows = [
        [
            name(index, model.label),
            thousands(model.params),
            thousands(model.backbone_params),
            f"{model.backbone_macs / 1e6:,.1f}".replace(",", NARROW),
            *(_score(model, kind, metric, unit="") for kind, metric in metrics),
            spread(model.train_images_per_s),
            spread(model.inference_images_per_s),
        ]
        for index, model in enumerate(comparison.models)
    ]
    return table("Results by model", head, rows)


def _tradeoffs(comparison: DetectionComparison, writer: FigureWriter) -> list[str]:
    kind, ylabel = comparison.kind, f"{comparison.kind.capitalize()} AP"
    figures = []
    for field, title, xlabel in (
        ("backbone_params", "AP against parameters", "Parameters of the backbone"),
        ("backbone_macs", "AP against computation", "Multiply-adds of the backbone per image (MACs)"),
    ):
        points = {m.label: (float(getattr(m, field)), m.values(kind, "AP")) for m in comparison.models}
        ax = plots.plot_tradeoff(points, style.new_axes(3.9, 2.5), xlabel=xlabel, ylabel=ylabel)
        read = "; ".join(
            f"{m.label}: {style.si(points[m.label][0])}, {_score(m, kind, 'AP')}" for m in comparison.models
        )
        figures.append(writer.write(ax, title=title, alt=f"{title}, one point a model. {read}."))
    return figures


def _curves(comparison: DetectionComparison, writer: FigureWriter) -> list[str]:
    curves = {model.label: [run.losses for run in model.runs] for model in comparison.models}
    if not any(losses for runs in curves.values() for losses in runs):
        return []
    ax = plots.plot_curves(curves, style.new_axes(3.9, 2.5), ylabel="Mean loss per image")
    read = ", ".join(f"{label} {runs[0][-1]:.3f}" for label, runs in curves.items() if runs and runs[0])
    return [writer.write(ax, title="Training loss", alt=f"Training loss by epoch. After the last, first run: {read}.")]


def _samples(comparison: DetectionComparison) -> str:
    shown = [(model.label, model.runs[0].pictures) for model in comparison.models if model.runs]
    figures = []
    for number, truth in enumerate(comparison.truths):
        row = [("What is there", truth)]
        row += [(label, pictures[number]) for label, pictures in shown if number < len(pictures)]
        figures += [
            picture(encoded, title=label, alt=f"Sample image {number + 1}: {label}", kind="jpeg")
            for label, encoded in row
        ]
    return grid(figures)


def _runs(comparison: DetectionComparison) -> str:
    kinds = _kinds(comparison)
    head = [("Model", ""), ("Seed", "")]
    head += [(metric, kind) for kind in kinds for metric in METRICS[:3]]
    head += [("Training loss", "last epoch"), ("Training time", "s")]
    rows = [
        [
            name(index, model.label),
            str(run.seed),
            *(_percent(run.metrics[kind][metric]) for kind in kinds for metric in METRICS[:3]),
            f"{run.losses[-1]:.4f}" if run.losses else "–",
            f"{run.seconds:.0f}",
        ]
        for index, model in enumerate(comparison.models)
        for run in model.runs
    ]
    return table("Every run", head, rows) if rows else ""


def _conditions(comparison: DetectionComparison) -> str:
    budget = {**comparison.budget, "seeds": ", ".join(map(str, comparison.seeds))}
    blocks = {"Data": comparison.data, "Detector": comparison.detector, "Budget": budget, "Machine": comparison.machine}
    return conditions(comparison.command, blocks)


def _kinds(comparison: DetectionComparison) -> list[Kind]:
    """What there are metrics of, the main kind first."""
    found = {kind for model in comparison.models for run in model.runs for kind in run.metrics}
    return sorted(found, key=lambda kind: kind != comparison.kind)


def _score(model: DetectorResult, kind: Kind, metric: str, unit: str = f"{NARROW}%") -> str:
    mean, sd = model.mean(kind, metric), model.sd(kind, metric)
    if mean is None:
        return "–"
    return f"{100 * mean:.1f}" + ("" if sd is None else f"{NARROW}±{NARROW}{100 * sd:.1f}") + unit


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
