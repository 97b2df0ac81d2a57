"""What a comparison of detectors found, as data: its ``results.json`` and the only input of its report."""

import statistics
from dataclasses import dataclass, field
from typing import Any

from ..analysis.occlusion import OcclusionReport
from ..bench import Quartiles
from ..metrics.coco import Kind

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class DetectionRun:
    """One detector trained with one seed.

    Attributes:
        seed: seed of initialisation, sampling and the order of the images.
        seconds: training time, summed over interrupted parts.
        losses: mean training loss of each epoch.
        metrics: for ``"box"`` and perhaps ``"mask"`` COCO's six metrics on the validation images after the last epoch,
            fractions 0-1; None where there is nothing to find.
        pictures: for every sample image its detections drawn on it, a JPEG in base64.
    """

    seed: int
    seconds: float
    losses: list[float]
    metrics: dict[Kind, Metrics]
    pictures: list[str]


@dataclass(frozen=True)
class DetectorResult:
    """One detector of the comparison.

    Attributes:
        label: the name it goes by in tables, unique in a comparison.
        backbone, kwargs: what ``timm.create_model`` was given.
        params: parameters of the whole detector.
        backbone_params: of them, those of the backbone without the pyramid.
        backbone_macs: multiply-adds of the backbone without the pyramid for one square image of the detector's
            ``min_size``.
        train_images_per_s, inference_images_per_s: throughput at the comparison's batch size; None until measured.
        runs: one entry a seed.
    """

    label: str
    backbone: str
    kwargs: dict[str, Any]
    params: int
    backbone_params: int
    backbone_macs: int
    train_images_per_s: Quartiles | None = None
    inference_images_per_s: Quartiles | None = None
    runs: list[DetectionRun] = field(default_factory=list)

    def values(self, kind: Kind, metric: str) -> list[float]:
        """A metric of every run."""
        found = [run.metrics[kind][metric] for run in self.runs]
        return [value for value in found if value is not None]

    def mean(self, kind: Kind, metric: str) -> float | None:
        """Mean of a metric over the runs; None where there is nothing to find."""
        values = self.values(kind, metric)
        return statistics.fmean(values) if values else None

    def sd(self, kind: Kind, metric: str) -> float | None:
        """Sample standard deviation over the runs, or None for a single one."""
        values = self.values(kind, metric)
        return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class DetectionComparison:
    """Several backbones in one detector, trained on the same data with the same seeds and budget.

    Attributes:
        title: headline of the report.
        command: the command that repeats it.
        machine: processor, threads, device and versions, as printed.
        data, detector, budget: what it was done with, as printed.
        seeds: the seeds every model was trained with.
        truths: the sample images with what is really there drawn on them, JPEGs in base64.
        occlusion: AP by how much objects cover each other, from boxes or masks as the detector gives.
        models: one entry a model, in the order given. The first is the reference that the others are set against.
    """

    title: str
    command: str
    machine: dict[str, str]
    data: dict[str, str]
    detector: dict[str, str]
    budget: dict[str, str]
    seeds: list[int]
    truths: list[str]
    occlusion: OcclusionReport
    models: list[DetectorResult]

    @property
    def kind(self) -> Kind:
        """What the main figures are about: masks where the detector has them."""
        return self.occlusion.kind
