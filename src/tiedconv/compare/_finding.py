"""What a comparison says in sentences, computed from its numbers and not firmer than they are."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from .._extras import require
from ..report.style import NARROW
from .results import Comparison, ModelResult


@dataclass(frozen=True)
class Finding:
    """A sentence or two, and below it one line for each model (its label and the line) if there are more than two."""

    lead: str
    lines: list[tuple[str, str]] = field(default_factory=list)


def finding(comparison: Comparison) -> Finding:
    """Set every model against the reference: accuracy with its interval over seeds, cost, and speed if measured."""
    base = reference(comparison)
    others = [model for model in comparison.models if model is not base]
    if not base.runs:
        return Finding(f"{base.label} has no finished run, so there is nothing to compare yet.")
    if not others:
        return Finding(
            f"{base.label} reaches {accuracy(base, 'top1')} top-1. There is no other model to compare it with."
        )
    if len(others) > 1:
        lead = f"Set against {base.label}, which reaches {accuracy(base, 'top1')} top-1:"
        return Finding(lead, [(model.label, _line(model, base)) for model in others])
    [model] = others
    if not model.runs:
        return Finding(f"{model.label} has no finished run, so it cannot be compared with {base.label} yet.")
    top1 = f"{model.label} reaches {accuracy(model, 'top1')} top-1, {base.label} {accuracy(base, 'top1')}"
    cost = (
        f"It has {relative(model.params, base.params)} parameters and needs {relative(model.macs, base.macs)} "
        "multiply-adds."
    )
    return Finding(
        " ".join(
            filter(None, [f"{top1}; that is {_difference(model, base, model.label)}.", cost, _speeds(model, base)])
        )
    )


def reference(comparison: Comparison) -> ModelResult:
    """Return the model that the others are set against: the first of the comparison."""
    return comparison.models[0]


def accuracy(model: ModelResult, metric: str, unit: str = f"{NARROW}%") -> str:
    """Write the mean over the runs, with the standard deviation if there are several: ``97.1 ± 0.4 %``.

    From 10,000 validation images on, where an image counts 0.01 points or less, there are two decimals.
    """
    digits = 2 if _images(model) >= 10_000 else 1
    sd = model.sd(metric)
    spread = "" if sd is None else f"{NARROW}±{NARROW}{100 * sd:.{digits}f}"
    return f"{100 * model.mean(metric):.{digits}f}{spread}{unit}"


def validation_images(comparison: Comparison) -> int:
    """Return how many images the accuracies are over, or 0 if no run has a confusion matrix."""
    return max((_images(model) for model in comparison.models), default=0)


def images_error(comparison: Comparison) -> float:
    r"""Return the largest binomial standard error of one model's accuracy, a fraction: what its images alone give it.

    It is :math:`\sqrt{p (1 - p) / N}` for the mean top-1 :math:`p` on :math:`N` validation images; 0 if none are known.
    """
    measured = [(model.mean("top1"), _images(model)) for model in comparison.models if _images(model)]
    return max((math.sqrt(p * (1 - p) / images) for p, images in measured), default=0.0)


def interval(ours: Sequence[float], theirs: Sequence[float], images: int = 0) -> tuple[float, float] | None:
    """Return Welch's 95 % confidence interval of ``mean(ours) - mean(theirs)``, or None if there is no spread.

    The seeds of two models are taken as independent samples, whose variances may differ. Accuracies come in steps of
    one image, and a few runs can fall on the same step: the standard error is at least half a step, in equal parts
    from the two models.

    Args:
        ours, theirs: accuracies, fractions 0-1, one a seed. Fewer than two have no spread.
        images: how many images the accuracies are over. 0: not known, and no such floor.

    Example:
        >>> low, high = interval([0.97, 0.98, 0.99], [0.95, 0.96, 0.97])
        >>> round(low, 4), round(high, 4)  # 0.02 -+ 2.776 * sqrt(2 * 0.01**2 / 3)
        (-0.0027, 0.0427)
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    stats = require("scipy.stats", extra="analysis")
    floor = (0.5 / images) ** 2 / 2 if images else 0.0
    squares = [max(statistics.variance(values) / len(values), floor) for values in (ours, theirs)]
    if not sum(squares):
        return None
    freedom = sum(squares) ** 2 / sum(s**2 / (len(v) - 1) for s, v in zip(squares, (ours, theirs), strict=True))
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(sum(squares))
    difference = statistics.fmean(ours) - statistics.fmean(theirs)
    return difference - half, difference + half


def _line(model: ModelResult, base: ModelResult) -> str:
    if not model.runs:
        return "no finished run."
    cost = f"{relative(model.params, base.params)} parameters, {relative(model.macs, base.macs)} multiply-adds"
    return f"{accuracy(model, 'top1')}; {_difference(model, base, 'it')}. It has {cost}."


def _difference(model: ModelResult, base: ModelResult, subject: str) -> str:
    return difference([run.top1 for run in model.runs], [run.top1 for run in base.runs], subject, _images(model))


def difference(ours: Sequence[float], theirs: Sequence[float], subject: str, images: int = 0) -> str:
    """Say how far the mean of ``ours`` is from that of ``theirs``, and what the seeds allow to conclude from it.

    Args:
        ours, theirs: fractions 0-1, one a seed.
        subject: what ``ours`` belong to, as the sentence is to call it.
        images: as in :func:`interval`.
    """
    difference = statistics.fmean(ours) - statistics.fmean(theirs)
    sign, direction, opposite = (1, "higher", "lower") if difference > 0 else (-1, "lower", "higher")
    points = _points(abs(difference))
    what = f"{points} points {direction}" if float(points) else "no difference"
    if images and abs(difference) * images < 1:
        return f"{what}, less than one validation image: neither is shown to be better"
    if min(len(ours), len(theirs)) < 2:
        return f"{what}. A single run has no spread over seeds to set this against, so it decides nothing"
    bounds = interval(ours, theirs, images)
    if bounds is None:
        return f"{what}. No run differs from another of its model, and the images are not known, so it decides nothing"
    near, far = sorted(sign * bound for bound in bounds)
    over = f"95{NARROW}% interval over seeds"
    if float(_points(near)) > 0:  # as printed
        verdict = f"{'for' if difference > 0 else 'against'} {subject}"
        return f"{what} ({over} {_points(near)} to {_points(far)}): this speaks {verdict}"
    return (
        f"{what} ({over} from {_points(max(0.0, -near))} {opposite} to {_points(far)} {direction}): the interval "
        "includes no difference, so neither is shown to be better"
    )


def _points(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _images(model: ModelResult) -> int:
    return max((sum(map(sum, run.confusion)) for run in model.runs), default=0)


def relative(value: float, base: float) -> str:
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
        file = f" Its deployed file has {relative(model.deployed_bytes, base.deployed_bytes)} bytes."
    return f"Measured on this machine it {listed} the images per second of {base.label}.{file}"
