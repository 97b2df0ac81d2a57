"""What a comparison found, as data: the content of ``results.json`` and the only input of the report."""

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from ..analysis import Histogram
from ..bench import Quartiles

Kept = TypeVar("Kept")

EVALUATE_AGAIN = "Remove it: what was trained is kept in the checkpoint beside it, and is evaluated again"


@dataclass(frozen=True)
class Epoch:
    """One epoch of one run. Losses are means over images; ``top1`` is a fraction, 0-1, on the validation images."""

    epoch: int
    train_loss: float
    val_loss: float
    top1: float


@dataclass(frozen=True)
class Run:
    """One model trained with one seed.

    Attributes:
        seed: seed of initialisation, order of the images and augmentation.
        top1, top5: accuracy of the last epoch on the validation images, fractions 0-1.
        seconds: training time, summed over interrupted parts.
        history: one entry an epoch.
        confusion: ``confusion[i][j]`` validation images of class ``i`` taken for class ``j``.
        predictions: for every sample image the predicted class and its probability.
        similarity: one entry a measured layer.
    """

    seed: int
    top1: float
    top5: float
    seconds: float
    history: list[Epoch]
    confusion: list[list[int]]
    predictions: list[tuple[int, float]]
    similarity: list[Histogram]


@dataclass(frozen=True)
class ModelResult:
    """One model of the comparison.

    Attributes:
        label: the name it goes by in tables, unique in a comparison.
        name, kwargs, tied: as in :class:`tiedconv.compare.ModelSpec`.
        params: parameters.
        macs: multiply-adds for one image.
        train_images_per_s, inference_images_per_s: throughput at the comparison's batch size; None until measured.
        peak_memory_mib: memory that one train step adds to the process, in MiB; None where it cannot be read.
        deployed_images_per_s: throughput on the CPU of :func:`tiedconv.export.deploy`'s network in ONNX Runtime; None
            if it was not measured.
        deployed_bytes: size of that network's ONNX file.
        runs: one entry per seed.
    """

    label: str
    name: str
    kwargs: dict[str, Any]
    params: int
    macs: int
    train_images_per_s: Quartiles | None = None
    inference_images_per_s: Quartiles | None = None
    peak_memory_mib: float | None = None
    runs: list[Run] = field(default_factory=list)
    tied: int | dict[str, int] | None = None
    deployed_images_per_s: Quartiles | None = None
    deployed_bytes: int | None = None

    def mean(self, metric: str) -> float:
        """Mean of ``"top1"``, ``"top5"`` or ``"seconds"`` over the runs."""
        return statistics.fmean(getattr(run, metric) for run in self.runs)

    def sd(self, metric: str) -> float | None:
        """Sample standard deviation over the runs, or None for a single run."""
        values = [getattr(run, metric) for run in self.runs]
        return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Sample:
    """A validation image that every model is asked about: a PNG in base64 and the index of its class."""

    png: str
    label: int


@dataclass(frozen=True)
class Comparison:
    """Several models trained on the same data with the same seeds and budget.

    Attributes:
        title: headline of the report.
        command: the command that repeats it.
        machine: processor, threads, device and versions, as printed.
        data: name of the data set, image counts of the two splits, input size.
        budget: epochs, batch size, optimiser settings.
        classes: names of the classes.
        seeds: the seeds every model was trained with.
        samples: the images of the prediction grid.
        models: one entry a model, in the order given. The first is the reference that the others are set against.
    """

    title: str
    command: str
    machine: dict[str, str]
    data: dict[str, str]
    budget: dict[str, str]
    classes: list[str]
    seeds: list[int]
    samples: list[Sample]
    models: list[ModelResult]


def to_json(result: Any) -> str:
    """Return a dataclass of this module as JSON text."""
    return json.dumps(asdict(result), indent=1, allow_nan=False)


def read_comparison(path: Path) -> Comparison:
    """Read what :func:`to_json` wrote for a whole comparison."""
    raw = json.loads(path.read_text())
    return Comparison(
        **{
            **_known(Comparison, raw),
            "samples": [Sample(**s) for s in raw["samples"]],
            "models": [_model(m) for m in raw["models"]],
        }
    )


def read_run(path: Path) -> Run:
    """Read what :func:`to_json` wrote for one run.

    Raises:
        ValueError: if the file is damaged.
    """
    return read_kept(path, _run, EVALUATE_AGAIN)


def read_kept(path: Path, build: Callable[[Any], Kept], remedy: str) -> Kept:
    """Return what ``build`` makes of a JSON file in the folder of a run.

    Raises:
        ValueError: if the file is damaged; the message names it and ends with ``remedy``.
    """
    try:
        return build(json.loads(path.read_text(encoding="utf-8")))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"compare: {path} is damaged ({reason}). {remedy}.") from error


def _model(raw: dict[str, Any]) -> ModelResult:
    speeds = ("train_images_per_s", "inference_images_per_s", "deployed_images_per_s")
    spreads = {k: Quartiles(**raw[k]) if raw[k] else None for k in speeds}
    return ModelResult(**{**_known(ModelResult, raw), **spreads, "runs": [_run(r) for r in raw["runs"]]})


def _run(raw: dict[str, Any]) -> Run:
    return Run(
        **{
            **_known(Run, raw),
            "history": [Epoch(**e) for e in raw["history"]],
            "predictions": [(int(c), float(p)) for c, p in raw["predictions"]],
            "similarity": [Histogram(**s) for s in raw["similarity"]],
        }
    )


def _known(cls: type, raw: dict[str, Any]) -> dict[str, Any]:
    return {f.name: raw[f.name] for f in fields(cls) if f.name in raw}
