"""How well models find objects that cover each other (paper, Fig. 7)."""

import json
import math
import statistics
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from ..metrics.coco import CocoMatches, Kind
from ..metrics.occlusion import Regions, occlusion_ratios, without_crowds

Metric = Literal["AP", "AP75"]
"""Average precision over the IoU thresholds 0.5 to 0.95, or at 0.75."""

METRICS: tuple[Metric, ...] = ("AP", "AP75")

EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Where the bins of the paper's Fig. 7 begin and end."""

_INTERVAL = (2.5, 97.5)  # percentiles

Runs = Sequence[Mapping[str, Any]] | Iterable[Sequence[Mapping[str, Any]]]
"""The detections of one run, or those of several."""


@dataclass(frozen=True)
class OcclusionBin:
    """Images with similar occlusion: ``low <= r < high``, in the last bin ``low <= r <= high``.

    Attributes:
        low, high: limits of the occlusion ratio.
        images: how many images there are.
        instances: how many objects they show, crowds left out.
    """

    low: float
    high: float
    images: int
    instances: int


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval by the bootstrap over images.

    The interval is that of the draws' deviations from their mean, laid about the value. The draws themselves would not
    do: they have fewer different images, which makes average precision higher.

    Attributes:
        value: what was measured, a fraction.
        low, high: the interval; None with fewer than two images or without resamples.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ModelOcclusion:
    """How well one model finds objects under occlusion. Each list has an entry per bin; None for bins without objects.

    Attributes:
        label: name of the model.
        runs: how many runs the values are means over.
        scores: for ``"AP"`` and ``"AP75"`` the average precision, fractions 0-1.
        differences: the same minus that of the first model on the same images; for the first model itself, empty.
    """

    label: str
    runs: int
    scores: dict[Metric, list[Estimate | None]]
    differences: dict[Metric, list[Estimate | None]]


@dataclass(frozen=True)
class OcclusionReport:
    """Average precision by occlusion, for several models.

    Attributes:
        kind, regions, resamples, seed: as given to :func:`analyze_occlusion`.
        bins: by growing occlusion.
        models: in the order given. The first is the one that the others are set against.
    """

    kind: Kind
    regions: Regions
    resamples: int
    seed: int
    bins: list[OcclusionBin]
    models: list[ModelOcclusion]

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return json.dumps(asdict(self), indent=1, allow_nan=False)


def analyze_occlusion(
    ground_truth: Mapping[str, Any],
    results: Mapping[str, Runs],
    *,
    kind: Kind = "mask",
    regions: Regions = "boxes",
    edges: Sequence[float] = EDGES,
    resamples: int = 200,
    seed: int = 0,
) -> OcclusionReport:
    """Take the average precision of models over images of growing occlusion (paper, Fig. 7).

    AP and AP75 of a bin are means over the categories that its images show, and higher for fewer images; so compare
    models within a bin, not bins with each other. The intervals come from images drawn anew within each bin, the same
    for all models and runs: they cover the choice of the images, not the seed of a training. Those of differences are
    paired.

    Args:
        ground_truth: as in :func:`tiedconv.metrics.coco.coco_metrics`.
        results: for each model its detections, in COCO's format, or those of several runs, whose mean counts. Runs of
            an iterator are taken one at a time.
        kind: compare detections with the ground truth by boxes or by masks.
        regions: as in :func:`tiedconv.metrics.occlusion_ratios`.
        edges: where the bins begin and end, ascending from 0 to 1.
        resamples: how often images are drawn anew. 0: no intervals.
        seed: of the drawing.

    Raises:
        ValueError: if an argument or an entry of the data is not as described.
    """
    _check_arguments(results, edges, resamples)
    images: list[list[int]] = [[] for _ in edges[1:]]
    for image, ratio in occlusion_ratios(ground_truth, regions).items():
        images[min(bisect_right(edges, ratio) - 1, len(images) - 1)].append(image)
    draw = np.random.default_rng(seed)
    chosen = [[members, *_redraw(members, resamples, draw)] for members in images]
    scores: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for label, given in results.items():
        runs = [_score(CocoMatches(ground_truth, run, kind), chosen, resamples) for run in _runs(given)]
        if not runs:
            raise ValueError(f"analyze_occlusion: {label!r} has no runs. Give it at least one, or leave it out.")
        scores[label], counts[label] = np.mean(runs, axis=0), len(runs)
    first = next(iter(scores))
    models = [
        ModelOcclusion(
            label, counts[label], _estimates(values), {} if label == first else _estimates(values - scores[first])
        )
        for label, values in scores.items()
    ]
    shown = Counter(entry["image_id"] for entry in without_crowds(ground_truth))
    bins = [
        OcclusionBin(low, high, len(members), sum(shown[image] for image in members))
        for (low, high), members in zip(pairwise(map(float, edges)), images, strict=True)
    ]
    return OcclusionReport(kind, regions, resamples, seed, bins, models)


def _check_arguments(results: Mapping[str, Runs], edges: Sequence[float], resamples: int) -> None:
    if not results:
        raise ValueError("analyze_occlusion: results must name at least one model, got none.")
    if len(edges) < 2 or edges[0] != 0 or edges[-1] != 1 or not all(low < high for low, high in pairwise(edges)):
        raise ValueError(f"analyze_occlusion: edges must ascend from 0 to 1, got {list(edges)}.")
    if resamples < 0:
        raise ValueError(f"analyze_occlusion: resamples must be at least 0, got resamples={resamples}.")


def _redraw(images: Sequence[int], resamples: int, draw: np.random.Generator) -> Iterator[list[int]]:
    """Draw as many images as there are, with repetition; fewer than two leave nothing to draw."""
    for _ in range(resamples if len(images) > 1 else 0):
        yield [images[place] for place in draw.integers(len(images), size=len(images))]


def _runs(given: Runs) -> Iterable[Sequence[Mapping[str, Any]]]:
    """Return the runs, if ``given`` is one run that alone."""
    one = isinstance(given, Sequence) and (not given or isinstance(given[0], Mapping))
    return [given] if one else given  # type: ignore[list-item,return-value]  # what mypy cannot tell apart


def _score(matches: CocoMatches, chosen: Sequence[Sequence[Sequence[int]]], resamples: int) -> np.ndarray:
    """Return the metrics of each bin's images and of those drawn from it, (bins, 1 + resamples, metrics)."""
    scores = np.full((len(chosen), 1 + resamples, len(METRICS)), math.nan)
    for place, samples in enumerate(chosen):
        for number, images in enumerate(samples):
            by_iou = matches.ap_by_iou(images)
            scores[place, number] = statistics.fmean(by_iou.values()), by_iou[0.75]
    return scores


def _estimates(scores: np.ndarray) -> dict[Metric, list[Estimate | None]]:
    return {metric: [_estimate(column[:, i]) for column in scores] for i, metric in enumerate(METRICS)}


def _estimate(scores: np.ndarray) -> Estimate | None:
    """Return the first score, with an interval from the others; a draw without objects has no score."""
    value, drawn = float(scores[0]), scores[1:][~np.isnan(scores[1:])]
    if math.isnan(value):
        return None
    if not len(drawn):
        return Estimate(value, None, None)
    low, high = value + np.percentile(drawn, _INTERVAL) - drawn.mean()
    return Estimate(value, float(low), float(high))
