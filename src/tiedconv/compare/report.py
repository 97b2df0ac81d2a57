"""Write a comparison as one HTML page. Each section is a function; one without data returns nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ..bench import Quartiles
from ..report.page import name, quiet_about_glyphs, section, table, thousands, write_page
from ..report.style import NARROW
from . import _figures, _samples
from ._finding import NOTHING, finding, images_error, score
from .results import Comparison, metric_name

Column = tuple[str, str, list[str]]
"""Title, unit, and a cell for each row; title and unit are plain text, cells are HTML."""


def write_report(comparison: Comparison, path: Path) -> None:
    """Write the report of a comparison to ``path``; what has not been measured is left out."""
    with quiet_about_glyphs():
        sections = [write(comparison) for write in _SECTIONS]
    lead, lines = finding(comparison)
    write_page(path, comparison.title, lead, lines, sections, command=comparison.command, blocks=comparison.conditions)


def _results(comparison: Comparison) -> str:
    models = comparison.models
    detectors = any(model.detector_params for model in models)
    columns: list[Column] = [
        ("Parameters", "detector", [_fixed(model.detector_params, 0) for model in models]),
        ("Parameters", "backbone" if detectors else "", [_fixed(model.params, 0) for model in models]),
        ("MACs", "million per image", [_fixed(model.macs / 1e6, 2) for model in models]),
        *((*_heading(m), [score(comparison, model, m, unit="") for model in models]) for m in comparison.metrics),
        ("Training", "images/s", [_spread(model.train_images_per_s) for model in models]),
        ("Inference", "images/s", [_spread(model.inference_images_per_s) for model in models]),
        ("Peak memory", "MiB", [_fixed(model.peak_memory_mib, 0) for model in models]),
        ("Deployed", "images/s", [_spread(model.deployed_images_per_s) for model in models]),
        ("File", "MB", [_fixed(m.deployed_bytes and m.deployed_bytes / 1e6, 1) for m in models]),
    ]
    content = _table("Results by model", [name(i, model.label) for i, model in enumerate(models)], columns)
    return section("Results", content, _results_note(comparison))


def _results_note(comparison: Comparison) -> str:
    models, images = comparison.models, comparison.images
    what = "Accuracies" if images else "COCO's average precisions, in %,"
    parts = [f"{what} are of the last epoch on the validation images, mean ± standard deviation over the seeds."]
    several = sum(len(model.runs) > 1 for model in models) > 1
    if several:
        parts.append(
            f"The 95{NARROW}% intervals of the differences to {models[0].label} are Welch's and cover the seeds only, "
            f"not the choice of the validation images{', each for one difference alone' if len(models) > 2 else ''}."
        )
    if images:
        parts.append(f"One of the {thousands(images)} validation images counts {100 / images:.2g} points.")
        if several and (error := images_error(comparison)):
            parts.append(
                f"Their number alone gives one accuracy a standard error of up to {100 * error:.2g} points (binomial)."
            )
    detectors = any(model.detector_params for model in models)
    if detectors:
        parts.append(
            "Multiply-adds are the backbone's, without pyramid and heads, for one square image of the short side."
        )
    if any(m.train_images_per_s or m.inference_images_per_s or m.peak_memory_mib for m in models):
        what = "They" if detectors else "All but the deployed one, and the memory,"
        parts.append(
            f"Speeds are medians, with the quartiles below. {what} are measured eagerly in float32, at the training's "
            "batch size and memory format, whatever precision or compilation it used."
        )
    if any(m.deployed_images_per_s for m in models):
        parts.append(
            "Deployed is the network of ordinary layers that tiedconv.export.deploy makes, as an ONNX file in ONNX "
            "Runtime on the CPU, at the same batch size."
        )
    return " ".join(parts)


def _runs(comparison: Comparison) -> str:
    rows = [(name(i, model.label), run) for i, model in enumerate(comparison.models) for run in model.runs]
    runs = [run for _, run in rows]
    # Results by the objects' size are in the table of the models.
    metrics = [m for m in dict.fromkeys(m for run in runs for m in run.metrics) if not m.endswith(("_S", "_M", "_L"))]
    last = [run.history[-1] if run.history else {} for run in runs]
    columns: list[Column] = [
        ("Seed", "", [str(run.seed) for run in runs]),
        *((*_heading(m), [_share(run.metrics.get(m)) for run in runs]) for m in metrics),
        ("Training loss", "last epoch", [_fixed(epoch.get("train_loss"), 4) for epoch in last]),
        ("Validation loss", "last epoch", [_fixed(epoch.get("val_loss"), 4) for epoch in last]),
        ("Training time", "s", [_fixed(run.seconds, 1) for run in runs]),
    ]
    return section("Every run", _table("Every run", [label for label, _ in rows], columns))


def _table(label: str, names: Sequence[str], columns: Sequence[Column]) -> str:
    """Return a table without the columns that have nothing to show; names are HTML."""
    shown = [column for column in columns if set(column[2]) != {NOTHING}]
    head = [("Model", ""), *((title, unit) for title, unit, _ in shown)]
    rows = [[first, *(cells[place] for *_, cells in shown)] for place, first in enumerate(names)]
    return table(label, head, rows) if rows else ""


def _heading(metric: str) -> tuple[str, str]:
    kind, _, name = metric.partition("_")
    return (name.replace("_", " "), kind) if name else (metric_name(metric).capitalize(), "%")


def _fixed(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:,.{digits}f}".replace(",", NARROW)


def _share(value: float | None) -> str:
    return _fixed(None if value is None else 100 * value, 2)


def _spread(spread: Quartiles | None) -> str:
    """Return a median with its quartiles below."""
    if spread is None:
        return NOTHING
    median, q1, q3 = (_fixed(value, 0 if value >= 100 else 1) for value in (spread.median, spread.q1, spread.q3))
    return f"{median}<small>{q1}–{q3}</small>"


_SECTIONS: tuple[Callable[[Comparison], str], ...] = (
    _results,
    _figures.occlusion,
    _figures.tradeoffs,
    _figures.learning_curves,
    _figures.confusion,
    _figures.similarity,
    _samples.predictions,
    _samples.detections,
    _runs,
)
