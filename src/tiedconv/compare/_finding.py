"""What a comparison says in sentences, computed from its numbers and not firmer than they are."""

import math
from dataclasses import dataclass, field

from .results import Comparison, ModelResult

NARROW = "\u202f"  # a space that does not break, before units and between groups of digits


@dataclass(frozen=True)
class Finding:
    """A sentence or two, and below it one line for each model (its label and the line) if there are more than two."""

    lead: str
    lines: list[tuple[str, str]] = field(default_factory=list)


def finding(comparison: Comparison) -> Finding:
    """Set every model against the reference: accuracy beside its spread over seeds, cost, and speed if measured."""
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
        f"It has {_relative(model.params, base.params)} parameters and needs {_relative(model.macs, base.macs)} "
        "multiply-adds."
    )
    return Finding(
        " ".join(filter(None, [f"{top1}: {_difference(model, base, model.label)}.", cost, _speeds(model, base)]))
    )


def reference(comparison: Comparison) -> ModelResult:
    """Return the model that the others are set against: the first untied one, or the first if all are tied."""
    untied = [model for model in comparison.models if not model.name.startswith("tied")]
    return (untied or comparison.models)[0]


def accuracy(model: ModelResult, metric: str, unit: str = f"{NARROW}%") -> str:
    """Write the mean over the runs, with the standard deviation if there are several: ``97.1 ± 0.4 %``."""
    sd = model.sd(metric)
    spread = "" if sd is None else f"{NARROW}±{NARROW}{100 * sd:.1f}"
    return f"{100 * model.mean(metric):.1f}{spread}{unit}"


def validation_images(comparison: Comparison) -> int:
    """Return how many images the accuracies are over, or 0 if no run has a confusion matrix."""
    return max((_images(model) for model in comparison.models), default=0)


def _line(model: ModelResult, base: ModelResult) -> str:
    if not model.runs:
        return "no finished run."
    cost = f"{_relative(model.params, base.params)} parameters, {_relative(model.macs, base.macs)} multiply-adds"
    return f"{accuracy(model, 'top1')}, {_difference(model, base, 'it')}; {cost}."


def _difference(model: ModelResult, base: ModelResult, subject: str) -> str:
    difference = model.mean("top1") - base.mean("top1")
    points = f"{100 * abs(difference):.1f}"
    what = f"{points} points {'higher' if difference > 0 else 'lower'}" if float(points) else "no difference"
    deviations = [sd for sd in (model.sd("top1"), base.sd("top1")) if sd is not None]
    if len(deviations) < 2:
        return f"{what}. With a single run there is no spread over seeds to set this against, so it decides nothing"
    images = _images(model)
    if images and abs(difference) * images < 1:
        return f"{what}, less than one validation image, so neither is shown to be better"
    # Standard deviation of the difference between one run of each. Twice this is a t value of 3.5 with three seeds and
    # of 2.8 with two.
    spread = math.hypot(*deviations)
    seeds = f"the spread over seeds ({100 * spread:.1f} points)"
    verdict = f"{'for' if difference > 0 else 'against'} {subject}"
    if abs(difference) <= spread:
        return f"{what}, within {seeds}, so neither is shown to be better"
    if abs(difference) <= 2 * spread:
        return f"{what}, somewhat more than {seeds}, a weak sign {verdict}"
    return f"{what}, more than twice {seeds}, which speaks {verdict}"


def _images(model: ModelResult) -> int:
    return max((sum(map(sum, run.confusion)) for run in model.runs), default=0)


def _relative(value: float, base: float) -> str:
    change = 100 * (value / base - 1) if base else 0.0
    if abs(change) < 0.05:
        return "equally many"
    digits = 0 if abs(change) >= 9.95 else 1
    return f"{abs(change):.{digits}f}{NARROW}% {'more' if change > 0 else 'fewer'}"


def _speeds(model: ModelResult, base: ModelResult) -> str:
    ratios = []
    for name, verb in (("train_images_per_s", "trains"), ("inference_images_per_s", "infers")):
        ours, theirs = getattr(model, name), getattr(base, name)
        if ours and theirs and theirs.median:
            ratios.append(f"{verb} at {ours.median / theirs.median:.2f} times")
    return (
        f"Measured on this machine it {' and '.join(ratios)} the images per second of {base.label}." if ratios else ""
    )
