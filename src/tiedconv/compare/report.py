"""Write a comparison of classifiers as one HTML page."""

import base64
import binascii
from html import escape
from pathlib import Path

from ..report.page import (
    FigureWriter,
    conditions,
    grid,
    name,
    quiet_about_glyphs,
    section,
    table,
    thousands,
    write_page,
)
from ..report.style import NARROW
from . import _figures
from ._cells import spread
from ._finding import accuracy, finding, images_error, reference, validation_images
from .results import Comparison, ModelResult, Run


def write_report(comparison: Comparison, path: Path) -> None:
    """Write the report of a comparison to ``path``.

    Args:
        comparison: at least one model. Timings, similarities, samples and histories may be missing: their part of the
            report shows a dash or is left out.
        path: the HTML file; its folder exists.

    Raises:
        ValueError: if there is no model.
        ModuleNotFoundError: if matplotlib is not installed.
    """
    if not comparison.models:
        raise ValueError("write_report: the comparison has no models. Compare at least one.")
    with quiet_about_glyphs():
        sections = _sections(comparison)
    found = finding(comparison)
    write_page(path, comparison.title, found.lead, found.lines, sections)


def _sections(comparison: Comparison) -> list[str]:
    writer = FigureWriter()
    runs = max(len(model.runs) for model in comparison.models)
    crowded = len(comparison.classes) > 100
    pooled = f", summed over {runs} runs" if runs > 1 else ""
    return [
        section("Results", _results(comparison), _results_note(comparison)),
        section(
            "Accuracy against cost",
            grid(_figures.tradeoffs(comparison, writer)),
            "Mean top-1 over the runs; bars show one standard deviation. The cost axes are logarithmic."
            if runs > 1
            else "Top-1 of the single run. The cost axes are logarithmic.",
        ),
        section(
            "Learning curves",
            grid(_figures.learning_curves(comparison, writer)),
            "Mean over the runs, in a band from the lowest to the highest run." if runs > 1 else "One run a model.",
        ),
        section(
            "Confusion",
            grid(_figures.confusions(comparison, writer)),
            f"Validation images by true and predicted class{pooled}. Blue: right; orange: wrong. Depth of colour is "
            "the square root of the share of the true class, so that rare mistakes show."
            + (" Neighbouring classes share a cell, which shows the highest share." if crowded else ""),
        ),
        section(
            "Filter similarity",
            grid(_figures.similarities(comparison, writer)),
            "Cosine similarity between the guided-backpropagation patterns of two filters of a layer, for every pair "
            "of examined filters; nearer to 0 is less redundant. The marks on the axis are the means.",
        ),
        section(
            "Sample predictions",
            _samples(comparison),
            "Validation images and what the first run of each model takes them for, with the probability it gives.",
        ),
        section("Every run", _runs(comparison)),
        section("How to repeat it", _conditions(comparison)),
    ]


def _results_note(comparison: Comparison) -> str:
    parts = ["Accuracies are of the last epoch on the validation images, mean ± standard deviation over the seeds."]
    several = sum(len(model.runs) > 1 for model in comparison.models) > 1
    if several:
        parts.append(
            f"The 95{NARROW}% intervals of the differences to {reference(comparison).label} are Welch's and cover the "
            "seeds only, not the choice of the validation images"
            + (", each for one difference alone." if len(comparison.models) > 2 else ".")
        )
    if images := validation_images(comparison):
        parts.append(f"One of the {thousands(images)} validation images counts {100 / images:.2g} points.")
        if several and (error := images_error(comparison)):
            parts.append(
                f"Their number alone gives one accuracy a standard error of up to {100 * error:.2g} points (binomial)."
            )
    speeds = [(m.train_images_per_s, m.inference_images_per_s, m.peak_memory_mib) for m in comparison.models]
    if any(any(speed) for speed in speeds):
        parts.append(
            "Speeds are medians, with the quartiles below. All but the deployed one, and the memory, are measured "
            "eagerly in float32, at the training's batch size and memory format, whatever precision or compilation it "
            "used."
        )
    if any(m.deployed_images_per_s for m in comparison.models):
        parts.append(
            "Deployed is the network of ordinary layers that tiedconv.export.deploy makes, as an ONNX file in ONNX "
            "Runtime on the CPU, at the same batch size."
        )
    return " ".join(parts)


def _results(comparison: Comparison) -> str:
    head = (
        ("Model", ""),
        ("Parameters", ""),
        ("MACs", "million per image"),
        ("Top-1", "%"),
        ("Training", "images/s"),
        ("Inference", "images/s"),
        ("Peak memory", "MiB"),
        ("Deployed", "images/s"),
        ("File", "MB"),
    )
    rows = [
        [
            name(index, model.label),
            thousands(model.params),
            f"{model.macs / 1e6:,.2f}".replace(",", NARROW),
            _accuracy_cell(model, "top1"),
            spread(model.train_images_per_s),
            spread(model.inference_images_per_s),
            "–" if model.peak_memory_mib is None else f"{model.peak_memory_mib:.0f}",
            spread(model.deployed_images_per_s),
            "–" if model.deployed_bytes is None else f"{model.deployed_bytes / 1e6:.1f}",
        ]
        for index, model in enumerate(comparison.models)
    ]
    return table("Results by model", head, rows)


def _runs(comparison: Comparison) -> str:
    head = (
        ("Model", ""),
        ("Seed", ""),
        ("Top-1", "%"),
        ("Top-5", "%"),
        ("Training loss", "last epoch"),
        ("Validation loss", "last epoch"),
        ("Training time", "s"),
    )
    rows = [
        [
            name(index, model.label),
            str(run.seed),
            f"{100 * run.top1:.2f}",
            f"{100 * run.top5:.2f}",
            f"{run.history[-1].train_loss:.4f}" if run.history else "–",
            f"{run.history[-1].val_loss:.4f}" if run.history else "–",
            f"{run.seconds:.1f}",
        ]
        for index, model in enumerate(comparison.models)
        for run in model.runs
    ]
    return table("Every run", head, rows) if rows else ""


def _accuracy_cell(model: ModelResult, metric: str) -> str:
    return accuracy(model, metric, unit="") if model.runs else "–"


def _samples(comparison: Comparison) -> str:
    first = [(model.label, model.runs[0]) for model in comparison.models if model.runs]
    items = [
        f'<li class="card sample">{_image(sample.png, number)}'
        f"<p>True class <strong>{escape(_figures.class_name(comparison.classes, sample.label))}</strong></p>\n<ul>"
        + "".join(_prediction(label, run, number, sample.label, comparison.classes) for label, run in first)
        + "</ul></li>"
        for number, sample in enumerate(comparison.samples)
    ]
    return '<ul class="samples">\n' + "\n".join(items) + "\n</ul>" if items else ""


def _prediction(label: str, run: Run, number: int, truth: int, classes: list[str]) -> str:
    if number >= len(run.predictions):
        return ""
    predicted, probability = run.predictions[number]
    name = escape(_figures.class_name(classes, predicted))
    kind, verdict = ("right", f"✓ {name}") if predicted == truth else ("wrong", f"✗ {name} (wrong)")
    return (
        f'<li class="{kind}"><span class="model">{escape(label)}</span>'
        f"<b>{verdict}</b> <span>{100 * probability:.0f}{NARROW}%</span></li>"
    )


def _image(png: str, number: int) -> str:
    small = ' class="small"' if _png_width(png) < 96 else ""
    return f'<img{small} src="data:image/png;base64,{escape(png)}" alt="Sample image {number + 1}" loading="lazy">'


def _png_width(png: str) -> int:
    try:
        return int.from_bytes(base64.b64decode(png[:32])[16:20], "big")  # the header's first field
    except (binascii.Error, ValueError):
        return 0


def _conditions(comparison: Comparison) -> str:
    budget = {**comparison.budget, "seeds": ", ".join(map(str, comparison.seeds))}
    return conditions(comparison.command, {"Data": comparison.data, "Budget": budget, "Machine": comparison.machine})
