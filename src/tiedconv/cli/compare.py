"""``tiedconv compare``."""

import sys
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from ..bench import Quartiles
from ..compare import Budget, Detector, ModelSpec, compare_detectors
from ..compare import compare as compare_classifiers
from ..compare.detection_results import DetectionComparison, DetectorResult
from ..compare.results import Comparison, ModelResult
from ..data import ClassificationData, DetectionData
from ..metrics.coco import Kind
from ._console import table_console


def compare(
    models: str | list[str | ModelSpec],
    data: ClassificationData | DetectionData,
    detector: Detector = Detector(),
    budget: Budget = Budget(),
    seeds: int | str | list[int] = "0,1,2",
    output: Path = Path("runs/compare"),
    title: str = "",
) -> None:
    """Train several models on the same data with the same seeds and budget, and write one report.

    Prints a table and writes results.json and report.html into the output folder. Run it again after an interruption,
    or with more seeds or models: what is finished there is kept.

    Args:
        models: names of timm models, tied or not, separated by commas; in a config file a list, whose entries can also
            be {name: ..., label: ..., kwargs: {...}}. The report sets the others against the first.
        data: a data module such as Digits, FashionMNIST, CIFAR10, ImageFolder or ImageNet; or of detection, such as
            OcclusionScenes or Coco.
        detector: with data of detection, what the models are the backbones of.
        budget: epochs, optimiser and schedule, the same for every model.
        seeds: every model is trained once with each; numbers separated by commas, or a list in a config file.
        output: folder of results.json, report.html and the runs.
        title: headline of the report.
    """
    console = table_console()
    given = models.split(",") if isinstance(models, str) else models
    specs = [ModelSpec(model.strip()) if isinstance(model, str) else model for model in given]
    options: dict[str, Any] = {
        "title": title,
        "command": ["tiedconv", *sys.argv[1:]],
        "say": lambda line: console.print(line, highlight=False, markup=False),
    }
    if isinstance(data, DetectionData):
        detectors = compare_detectors(specs, data, detector, budget, _seeds(seeds), output, **options)
        console.print(_detection_table(detectors))
    else:
        if detector != Detector():
            raise ValueError(f"compare: detector is for data of detection, got {type(data).__name__}. Leave it out.")
        console.print(_table(compare_classifiers(specs, data, budget, _seeds(seeds), output, **options)))
    console.print(
        f"Numbers: {output / 'results.json'}\nReport:  {output / 'report.html'}", highlight=False, markup=False
    )


def _seeds(given: int | str | list[int]) -> list[int]:
    if isinstance(given, int):
        return [given]
    try:
        return [int(seed) for seed in (given.split(",") if isinstance(given, str) else given)]
    except ValueError:
        raise ValueError(f"compare: seeds must be whole numbers separated by commas, got {given!r}.") from None


def _table(comparison: Comparison) -> Table:
    table = Table(
        title=comparison.title,
        caption=f"seeds: {', '.join(map(str, comparison.seeds))}; train, infer, deployed (ONNX Runtime): "
        "images/s; step: MiB; file: MB",
        box=SIMPLE,
    )
    table.add_column("model")  # the one that wraps where the terminal is narrow
    for header in ("params", "MACs", "top-1 %", "train", "infer", "step", "deployed", "file"):
        table.add_column(header, justify="right", no_wrap=True)
    for model in comparison.models:
        table.add_row(
            model.label,
            f"{model.params / 1e6:.2f} M",
            f"{model.macs / 1e6:.1f} M",
            _accuracy(model),
            _rate(model.train_images_per_s),
            _rate(model.inference_images_per_s),
            "-" if model.peak_memory_mib is None else f"{model.peak_memory_mib:.0f}",
            _rate(model.deployed_images_per_s),
            "-" if model.deployed_bytes is None else f"{model.deployed_bytes / 1e6:.1f}",
        )
    return table


def _detection_table(comparison: DetectionComparison) -> Table:
    kind = comparison.kind
    table = Table(
        title=comparison.title,
        caption=f"{kind} metrics; by occlusion ratio r below; seeds: {', '.join(map(str, comparison.seeds))}; train, "
        "infer: images/s",
        box=SIMPLE,
    )
    table.add_column("model")
    columns = ["AP", *(f"r {b.low:g}-{b.high:g}" for b in comparison.occlusion.bins if b.images), "train", "infer"]
    for header in ("params", *columns):
        table.add_column(header, justify="right", no_wrap=True)
    for model, occlusion in zip(comparison.models, comparison.occlusion.models, strict=True):
        by_bin = zip(comparison.occlusion.bins, occlusion.scores["AP"], strict=True)
        table.add_row(
            model.label,
            f"{model.params / 1e6:.2f} M",
            _ap(model, kind),
            *("-" if score is None else f"{100 * score.value:.1f}" for bin_, score in by_bin if bin_.images),
            _rate(model.train_images_per_s),
            _rate(model.inference_images_per_s),
        )
    return table


def _ap(model: DetectorResult, kind: Kind) -> str:
    mean, sd = model.mean(kind, "AP"), model.sd(kind, "AP")
    return "-" if mean is None else f"{100 * mean:.1f}" + ("" if sd is None else f" ± {100 * sd:.1f}")


def _accuracy(model: ModelResult) -> str:
    sd = model.sd("top1")
    return f"{100 * model.mean('top1'):.2f}" + ("" if sd is None else f" ± {100 * sd:.2f}")


def _rate(spread: Quartiles | None) -> str:
    return "-" if spread is None else f"{spread.median:.0f}"
