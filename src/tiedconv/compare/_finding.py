"""What a comparison says in sentences, computed from its numbers and not firmer than they are."""

import math

from .results import Comparison, ModelResult


def reference(comparison: Comparison) -> ModelResult:
    """Return the model that the others are set against: the first untied one, or the first if all are tied."""
    untied = [model for model in comparison.models if not model.name.startswith("tied")]
    return (untied or comparison.models)[0]


def findings(comparison: Comparison) -> list[str]:
    """Return one finding for every model but the reference, as plain text; for a single model its own figures."""
    base = reference(comparison)
    others = [model for model in comparison.models if model is not base]
    if not others:
        return [f"{base.label} reaches {accuracy(base, 'top1')} top-1. There is no other model to compare it with."]
    return [_finding(model, base) for model in others]


def accuracy(model: ModelResult, metric: str) -> str:
    """Write the mean over the runs, with the standard deviation if there are several: ``97.1 ± 0.4 %``."""
    if not model.runs:
        return "no"
    sd = model.sd(metric)
    spread = "" if sd is None else f" ± {100 * sd:.1f}"
    return f"{100 * model.mean(metric):.1f}{spread} %"


def validation_images(comparison: Comparison) -> int:
    """Return how many images the accuracies are over, or 0 if no run has a confusion matrix."""
    matrices = [run.confusion for model in comparison.models for run in model.runs]
    return max((sum(map(sum, matrix)) for matrix in matrices), default=0)


def _finding(model: ModelResult, base: ModelResult) -> str:
    if not model.runs or not base.runs:
        missing = model if not model.runs else base
        return f"{missing.label} has no finished run, so {model.label} and {base.label} cannot be compared."
    parts = [
        f"{model.label} reaches {accuracy(model, 'top1')} top-1, {base.label} {accuracy(base, 'top1')}: "
        + _difference(model, base),
        f"It has {_relative(model.params, base.params)} parameters"
        f" and needs {_relative(model.macs, base.macs)} multiply-adds.",
    ]
    speeds = _speeds(model, base)
    return " ".join([*parts, speeds] if speeds else parts)


def _difference(model: ModelResult, base: ModelResult) -> str:
    difference = model.mean("top1") - base.mean("top1")
    points = f"{100 * abs(difference):.1f}"
    what = f"{points} points {'higher' if difference > 0 else 'lower'}" if float(points) else "no difference"
    deviations = model.sd("top1"), base.sd("top1")
    if None in deviations:
        return f"{what}. With a single run there is no spread over seeds to set this against, so it decides nothing."
    # Standard deviation of the difference between one run of each.
    spread = math.hypot(*(sd for sd in deviations if sd is not None))
    images = min(sum(map(sum, run.confusion)) for run in (*model.runs, *base.runs))
    if images and abs(difference) * images < 1:
        return f"{what}, less than one validation image, so the two are equally good here."
    if abs(difference) <= spread:
        return f"{what}, within the spread over seeds ({100 * spread:.1f} points), so neither is shown to be better."
    verdict = f"{'for' if difference > 0 else 'against'} {model.label}"
    # Twice the spread is a t value of 3.5 with three seeds, and of 2.8 with two.
    if abs(difference) <= 2 * spread:
        return f"{what}, somewhat more than the spread over seeds ({100 * spread:.1f} points): a weak sign {verdict}."
    return f"{what}, more than twice the spread over seeds ({100 * spread:.1f} points), which speaks {verdict}."


def _relative(value: float, base: float) -> str:
    if not base:
        return "an unknown share of the"
    change = 100 * (value / base - 1)
    if abs(change) < 0.05:
        return "equally many"
    digits = 0 if abs(change) >= 9.95 else 1
    return f"{abs(change):.{digits}f} % {'more' if change > 0 else 'fewer'}"


def _speeds(model: ModelResult, base: ModelResult) -> str:
    ratios = []
    for field, verb in (("train_images_per_s", "trains"), ("inference_images_per_s", "infers")):
        ours, theirs = getattr(model, field), getattr(base, field)
        if ours and theirs and theirs.median:
            ratios.append(f"{verb} at {ours.median / theirs.median:.2f} times")
    return (
        f"Measured on this machine it {' and '.join(ratios)} the images per second of {base.label}." if ratios else ""
    )
