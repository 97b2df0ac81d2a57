"""What a comparison says in sentences, computed from its numbers and not firmer than they are."""

import math
import statistics
from collections.abc import Sequence

from .._extras import require
from ..report.occlusion_report import occlusion_gain
from ..report.style import NARROW
from .results import Comparison, ModelResult, metric_name

NOTHING = "–"
"""What is written in place of a missing number."""

Finding = tuple[str, list[tuple[str, str]]]
"""A sentence, and one line for each model but the first: its label and what is said of it."""


def finding(comparison: Comparison) -> Finding:
    """Set every model against the first: metric with its interval over seeds, cost, and speed if measured."""
    base, *others = comparison.models
    if not base.runs:
        return f"{base.label} has no finished run, so there is nothing to compare yet.", []
    lead = f"{base.label} reaches {score(comparison, base)} {metric_name(comparison.metric)}."
    finished, planned = sum(len(m.runs) for m in comparison.models), len(comparison.models) * len(comparison.seeds)
    if finished < planned:
        lead += f" {finished} of {planned} runs are finished."
    if not others:
        return f"{lead} There is no other model to compare it with.", []
    return lead, [(model.label, _line(comparison, model, base)) for model in others]


def score(comparison: Comparison, model: ModelResult, metric: str = "", unit: str = f"{NARROW}%") -> str:
    """Write the mean over the runs, with the standard deviation if there are several: ``97.1 ± 0.4 %``."""
    mean, sd = model.mean(metric or comparison.metric), model.sd(metric or comparison.metric)
    if mean is None:
        return NOTHING
    spread = "" if sd is None else f"{NARROW}±{NARROW}{100 * sd:.{comparison.digits}f}"
    return f"{100 * mean:.{comparison.digits}f}{spread}{unit}"


def images_error(comparison: Comparison) -> float:
    """Return the largest binomial standard error of an accuracy, a fraction, for a metric that is one."""
    means = [mean for model in comparison.models if (mean := model.mean(comparison.metric)) is not None]
    return max((math.sqrt(p * (1 - p) / comparison.images) for p in means), default=0.0)


def interval(ours: Sequence[float], theirs: Sequence[float], images: int = 0) -> tuple[float, float] | None:
    """Return Welch's 95 % confidence interval of ``mean(ours) - mean(theirs)``, or None if there is no spread.

    Accuracies come in steps of one image, and a few runs can fall on the same step: with ``images``, the number of
    validation images, the standard error is at least half a step.
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    stats = require("scipy.stats", extra="analysis")
    floor = (0.5 / images) ** 2 / 2 if images else 0.0
    squares = [max(statistics.variance(values) / len(values), floor) for values in (ours, theirs)]
    if not sum(squares):
        return None
    freedom = sum(squares) ** 2 / sum(s**2 / (len(v) - 1) for s, v in zip(squares, (ours, theirs), strict=True))
    difference = statistics.fmean(ours) - statistics.fmean(theirs)
    low, high = stats.t.interval(0.95, freedom, difference, math.sqrt(sum(squares)))
    return float(low), float(high)


def _line(comparison: Comparison, model: ModelResult, base: ModelResult) -> str:
    if not model.runs:
        return "no finished run."
    ours, theirs = model.values(comparison.metric), base.values(comparison.metric)
    parts = []
    if ours and theirs:
        reached = f"{score(comparison, model)} {metric_name(comparison.metric)}"
        parts.append(f"{reached}; {_difference(ours, theirs, comparison.images)}.")
    parts.append(
        f"{'It' if model.detector_params is None else 'Its backbone'} has {_relative(model.params, base.params)} "
        f"parameters and needs {_relative(model.macs, base.macs)} multiply-adds."
    )
    parts.append(_speeds(model, base))
    if report := comparison.occlusion:
        parts += [occlusion_gain(report, entry) for entry in report.models if entry.label == model.label]
    return " ".join(filter(None, parts))


def _difference(ours: Sequence[float], theirs: Sequence[float], images: int) -> str:
    """Say how far the mean of ``ours`` is from that of ``theirs``, and what the seeds allow to conclude from it."""
    difference = statistics.fmean(ours) - statistics.fmean(theirs)
    sign, direction, opposite = (1, "higher", "lower") if difference > 0 else (-1, "lower", "higher")
    points = _points(abs(difference))
    what = f"{points} points {direction}" if float(points) else "no difference"
    bounds = interval(ours, theirs, images)
    if bounds is None:
        return f"{what}. There is no spread over seeds to set this against, so it decides nothing"
    near, far = sorted(sign * bound for bound in bounds)
    over = f"95{NARROW}% interval over seeds"
    if float(_points(near)) > 0:  # as printed
        verdict = "for" if difference > 0 else "against"
        return f"{what} ({over} {_points(near)} to {_points(far)}): this speaks {verdict} it"
    return (
        f"{what} ({over} from {_points(max(0.0, -near))} {opposite} to {_points(far)} {direction}): the interval "
        "includes no difference, so neither is shown to be better"
    )


def _points(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _relative(value: float, base: float) -> str:
    """Say how many more or fewer there are than ``base``: ``6.2 % fewer``."""
    change = 100 * (value / base - 1) if base else 0.0
    if abs(change) < 0.05:
        return "equally many"
    digits = 0 if abs(change) >= 9.95 else 1
    return f"{abs(change):.{digits}f}{NARROW}% {'more' if change > 0 else 'fewer'}"


def _speeds(model: ModelResult, base: ModelResult) -> str:
    ratios = []
    for name, verb in (
        ("train_images_per_s", "trains"),
        ("inference_images_per_s", "infers"),
        ("deployed_images_per_s", "runs deployed in ONNX Runtime"),
    ):
        ours, theirs = getattr(model, name), getattr(base, name)
        if ours and theirs and theirs.median:
            ratios.append(f"{verb} at {ours.median / theirs.median:.2f} times")
    if not ratios:
        return ""
    *first, last = ratios
    listed = f"{', '.join(first)} and {last}" if first else last
    file = ""
    if model.deployed_bytes and base.deployed_bytes:
        file = f" Its deployed file has {_relative(model.deployed_bytes, base.deployed_bytes)} bytes."
    return f"Measured on this machine it {listed} the images per second of {base.label}.{file}"
