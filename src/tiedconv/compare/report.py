"""Write a comparison as one HTML file that needs nothing else: no script, no network, no second file."""

import base64
import binascii
from collections.abc import Iterable
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from ..analysis.style import COLOURS
from . import _figures
from ._finding import NARROW, accuracy, finding, images_error, reference, validation_images
from .results import Comparison, ModelResult, Quartiles, Run


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
    template = resources.files("tiedconv.compare").joinpath("report.html.template").read_text(encoding="utf-8")
    with _figures.quiet_about_glyphs():
        sections = _sections(comparison)
    page = Template(template).substitute(
        title=escape(comparison.title), finding=_finding(comparison), sections="\n".join(filter(None, sections))
    )
    path.write_text(page, encoding="utf-8")


def _sections(comparison: Comparison) -> list[str]:
    writer = _figures.FigureWriter()
    runs = max(len(model.runs) for model in comparison.models)
    crowded = len(comparison.classes) > 100
    pooled = f", summed over {runs} runs" if runs > 1 else ""
    return [
        _section("Results", _results(comparison), _results_note(comparison)),
        _section(
            "Accuracy against cost",
            _grid(_figures.tradeoffs(comparison, writer)),
            "Mean top-1 over the runs; bars show one standard deviation. The cost axes are logarithmic."
            if runs > 1
            else "Top-1 of the single run. The cost axes are logarithmic.",
        ),
        _section(
            "Learning curves",
            _grid(_figures.learning_curves(comparison, writer)),
            "Mean over the runs, in a band from the lowest to the highest run." if runs > 1 else "One run a model.",
        ),
        _section(
            "Confusion",
            _grid(_figures.confusions(comparison, writer)),
            f"Validation images by true and predicted class{pooled}. Blue: right; orange: wrong. Depth of colour is "
            "the square root of the share of the true class, so that rare mistakes show."
            + (" Neighbouring classes share a cell, which shows the highest share." if crowded else ""),
        ),
        _section(
            "Filter similarity",
            _grid(_figures.similarities(comparison, writer)),
            "Cosine similarity between the guided-backpropagation patterns of two filters of a layer, for every pair "
            "of examined filters; nearer to 0 is less redundant. The marks on the axis are the means.",
        ),
        _section(
            "Sample predictions",
            _samples(comparison),
            "Validation images and what the first run of each model takes them for, with the probability it gives.",
        ),
        _section("Every run", _runs(comparison)),
        _section("How to repeat it", _conditions(comparison)),
    ]


def _section(title: str, content: str, note: str = "") -> str:
    lead = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section>\n<h2>{title}</h2>\n{lead}\n{content}\n</section>" if content else ""


def _grid(figures: list[str]) -> str:
    return '<div class="grid">\n' + "\n".join(figures) + "\n</div>" if figures else ""


def _finding(comparison: Comparison) -> str:
    found = finding(comparison)
    lines = "".join(f"<li><strong>{escape(label)}</strong>: {escape(line)}</li>" for label, line in found.lines)
    return f'<p class="finding">{escape(found.lead)}</p>' + (f'\n<ul class="finding">{lines}</ul>' if lines else "")


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
        parts.append(f"One of the {_thousands(images)} validation images counts {100 / images:.2g} points.")
        if several and (error := images_error(comparison)):
            parts.append(
                f"Their number alone gives one accuracy a standard error of up to {100 * error:.2g} points (binomial)."
            )
    speeds = [(m.train_images_per_s, m.inference_images_per_s, m.peak_memory_mib) for m in comparison.models]
    if any(any(speed) for speed in speeds):
        parts.append(
            "Speeds are medians, with the quartiles below. They and the memory are measured eagerly in float32, at the "
            "training's batch size and memory format, whatever precision or compilation the training used."
        )
    return " ".join(parts)


def _results(comparison: Comparison) -> str:
    head = (
        ("Model", ""),
        ("Parameters", ""),
        ("MACs", "million per image"),
        ("Seeds", ""),
        ("Top-1", "%"),
        ("Top-5", "%"),
        ("Training", "images/s"),
        ("Inference", "images/s"),
        ("Peak memory", "MiB"),
    )
    rows = [
        [
            _name(index, model),
            _thousands(model.params),
            f"{model.macs / 1e6:,.2f}".replace(",", NARROW),
            str(len(model.runs)),
            _accuracy_cell(model, "top1"),
            _accuracy_cell(model, "top5"),
            _spread(model.train_images_per_s),
            _spread(model.inference_images_per_s),
            "–" if model.peak_memory_mib is None else f"{model.peak_memory_mib:.0f}",
        ]
        for index, model in enumerate(comparison.models)
    ]
    return _table("Results by model", head, rows)


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
            _name(index, model),
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
    return _table("Every run", head, rows) if rows else ""


def _table(label: str, head: Iterable[tuple[str, str]], rows: Iterable[list[str]]) -> str:
    """Return a table from plain headings with their units and cells in HTML; the first cell heads its row."""
    titles = "".join(f'<th scope="col">{name}{f"<span>{unit}</span>" if unit else ""}</th>' for name, unit in head)
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="card scroll" role="region" aria-label="{label}" tabindex="0">\n'
        f"<table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def _name(index: int, model: ModelResult) -> str:
    colour = f"var(--s{index % len(COLOURS)})"
    return f'<span class="name"><i style="background: {colour}"></i><span>{escape(model.label)}</span></span>'


def _accuracy_cell(model: ModelResult, metric: str) -> str:
    return accuracy(model, metric, unit="") if model.runs else "–"


def _spread(spread: Quartiles | None) -> str:
    if spread is None:
        return "–"
    median, q1, q3 = (
        _thousands(value) if value >= 100 else f"{value:.1f}" for value in (spread.median, spread.q1, spread.q3)
    )
    return f"{median}<small>{q1}–{q3}</small>"


def _thousands(value: float) -> str:
    return f"{value:,.0f}".replace(",", NARROW)


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
    blocks = {
        "Data": comparison.data,
        "Budget": {**comparison.budget, "seeds": ", ".join(map(str, comparison.seeds))},
        "Machine": comparison.machine,
    }
    facts = "\n".join(
        f'<section class="card"><h3>{title}</h3><dl>'
        + "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in block.items())
        + "</dl></section>"
        for title, block in blocks.items()
    )
    command = f'<pre class="card" tabindex="0"><code>{escape(comparison.command)}</code></pre>'
    return f'{command}\n<div class="facts">\n{facts}\n</div>'
