"""What a comparison found, as data: the content of ``results.json`` and the only input of the report."""

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..analysis.occlusion import OcclusionReport
from ..bench import Quartiles


@dataclass(frozen=True)
class Run:
    """One model trained with one seed.

    Attributes:
        seed: seed of initialisation, order of the images and augmentation.
        seconds: training time, summed over interrupted parts.
        history: of each epoch its number, the mean losses per image (None: not finite) and, of a classifier, the
            validation accuracy.
        metrics: of the last epoch on the validation images, fractions 0-1: ``top1`` and ``top5``, or COCO's for boxes
            and perhaps masks, such as ``mask_AP``; None where there is nothing to find.
        details: what else the report shows. Of a classifier ``confusion`` (``[i][j]``: images of class ``i`` taken for
            class ``j``), ``predictions`` (class and probability per sample image) and ``similarity`` (a histogram per
            measured layer); of a detector ``pictures`` (each sample image with its detections, a JPEG in base64).
    """

    seed: int
    seconds: float
    history: list[dict[str, Any]]
    metrics: dict[str, float | None]
    details: dict[str, Any]


@dataclass(frozen=True)
class ModelResult:
    """One model of the comparison.

    Attributes:
        label: the name it goes by in tables, unique in a comparison.
        name, kwargs, tied: as in :class:`tiedconv.compare.ModelSpec`.
        params: parameters; of a detector, those of the backbone without the pyramid.
        macs: likewise the multiply-adds for one image; of a detector, for a square one of its ``min_size``.
        detector_params: parameters of the whole detector; None for a classifier.
        runs: one entry per seed.
        train_images_per_s, inference_images_per_s: throughput at the comparison's batch size. This and what follows is
            None where it was not measured.
        peak_memory_mib: memory that one train step adds to the process, in MiB.
        deployed_images_per_s: throughput on the CPU of :func:`tiedconv.export.deploy`'s network in ONNX Runtime.
        deployed_bytes: size of that network's ONNX file.
    """

    label: str
    name: str
    kwargs: dict[str, Any]
    params: int
    macs: int
    tied: int | dict[str, int] | None = None
    detector_params: int | None = None
    runs: list[Run] = field(default_factory=list)
    train_images_per_s: Quartiles | None = None
    inference_images_per_s: Quartiles | None = None
    peak_memory_mib: float | None = None
    deployed_images_per_s: Quartiles | None = None
    deployed_bytes: int | None = None

    def values(self, metric: str) -> list[float]:
        """A metric of every run that has it."""
        return [value for run in self.runs if (value := run.metrics.get(metric)) is not None]

    def mean(self, metric: str) -> float | None:
        """Mean of a metric over the runs; None where no run has it."""
        values = self.values(metric)
        return statistics.fmean(values) if values else None

    def sd(self, metric: str) -> float | None:
        """Sample standard deviation over the runs, or None for a single run."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Sample:
    """A validation image that every model is asked about.

    Attributes:
        picture: in base64, a PNG for a classifier; for a detector a JPEG with what is really there.
        label: index of the class; None for detection.
    """

    picture: str
    label: int | None = None


@dataclass(frozen=True)
class Comparison:
    """Several models trained on the same data with the same seeds and budget.

    Attributes:
        title: headline of the report.
        command: the command that repeats it.
        conditions: facts under headings, as printed: ``"Data"``, ``"Budget"``, ``"Machine"``, perhaps ``"Detector"``.
        seeds: the seeds every model was trained with.
        models: one entry per model, in the order given. The first is the reference that the others are set against.
        metrics: what the table of results shows. The models are compared by the first.
        samples: images whose predictions are shown.
        classes: names of the classes.
        images: validation images that the first metric is a share of; 0 if it is not a share of images.
        occlusion: for detectors: AP by how much objects cover each other.
    """

    title: str
    command: str
    conditions: dict[str, dict[str, str]]
    seeds: list[int]
    models: list[ModelResult]
    metrics: list[str]
    samples: list[Sample]
    classes: list[str]
    images: int = 0
    occlusion: OcclusionReport | None = None

    @property
    def metric(self) -> str:
        """What the models are compared by."""
        return self.metrics[0]

    @property
    def digits(self) -> int:
        """Decimals of a metric in per cent: two where an image counts 0.01 points or less."""
        return 2 if self.images >= 10_000 else 1


def metric_name(metric: str) -> str:
    """Return what the report calls a metric: ``"top-1"`` for ``"top1"``, ``"mask AP_S"`` for ``"mask_AP_S"``."""
    return metric.replace("top", "top-").replace("_", " ", 1)


def to_json(result: Run | Comparison) -> str:
    """Return a result as JSON text."""
    return json.dumps(asdict(result), indent=1, allow_nan=False)


def read_run(path: Path) -> Run:
    """Read what :func:`to_json` wrote for one run."""
    remedy = "Remove it: what was trained is kept in the checkpoint beside it, and is evaluated again"
    return read_kept(path, lambda found: Run(**found), remedy)


def read_kept(path: Path, build: Callable[[Any], Any], remedy: str) -> Any:
    """Return what ``build`` makes of a JSON file; raise ValueError with ``remedy`` if it is damaged."""
    try:
        return build(json.loads(path.read_text(encoding="utf-8")))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is damaged or of another version ({reason}). {remedy}.") from error
