"""``tiedconv compare``."""

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from ..analysis.occlusion import Estimate
from ..bench import Quartiles
from ..compare import Budget, Detector, ModelSpec
from ..compare import compare as train_alike
from ..compare.results import Comparison, ModelResult, metric_name
from ..data import ClassificationData, DetectionData
from ._console import command_line, log, new_table, table_console


def compare(
    models: list[str | ModelSpec],
    data: ClassificationData | DetectionData,
    detector: Detector = Detector(),
    budget: Budget = Budget(),
    seeds: Sequence[int] = (0, 1, 2),
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
        seeds: every model is trained once with each; separated by commas.
        output: folder of results.json, report.html and the runs.
        title: headline of the report.
    """
    console = table_console()
    specs = [ModelSpec(model) if isinstance(model, str) else model for model in models]
    comparison = train_alike(
        specs, data, budget, list(seeds), output, detector=detector, title=title, command=command_line(), log=log
    )
    console.print(_table(comparison))
    console.print(
        f"Numbers: {output / 'results.json'}\nReport:  {output / 'report.html'}", highlight=False, markup=False
    )


def _table(comparison: Comparison) -> Table:
    models, occlusion, metric = comparison.models, comparison.occlusion, comparison.metric
    columns = {
        "params": [f"{(model.detector_params or model.params) / 1e6:.2f} M" for model in models],
        "MACs": [_fixed(None if model.detector_params else model.macs / 1e6, 1, " M") for model in models],
        f"{metric_name(metric)} %": [_score(model, metric, comparison.digits) for model in models],
    }
    for place, b in enumerate(occlusion.bins if occlusion else ()):
        if occlusion and b.images:
            columns[f"r {b.low:g}-{b.high:g}"] = [_percent(model.scores["AP"][place]) for model in occlusion.models]
    columns |= {
        "train\nimages/s": [_rate(model.train_images_per_s) for model in models],
        "infer\nimages/s": [_rate(model.inference_images_per_s) for model in models],
        "step\nMiB": [_fixed(model.peak_memory_mib, 0) for model in models],
        "deployed\nimages/s": [_rate(model.deployed_images_per_s) for model in models],
        "file\nMB": [_fixed(model.deployed_bytes and model.deployed_bytes / 1e6, 1) for model in models],
    }
    shown = {header: cells for header, cells in columns.items() if set(cells) != {"-"}}
    caption = f"seeds: {', '.join(map(str, comparison.seeds))}"
    caption += "; r: AP by occlusion ratio" if occlusion else ""
    caption += "; deployed: in ONNX Runtime" if "deployed\nimages/s" in shown else ""
    table = new_table(["model"], shown, title=escape(comparison.title), caption=caption)
    for model, *cells in zip(models, *shown.values(), strict=True):
        table.add_row(escape(model.label), *cells)
    return table


def _score(model: ModelResult, metric: str, digits: int) -> str:
    mean, sd = model.mean(metric), model.sd(metric)
    return "-" if mean is None else f"{100 * mean:.{digits}f}" + ("" if sd is None else f" ± {100 * sd:.{digits}f}")


def _percent(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{100 * estimate.value:.1f}"


def _fixed(value: float | None, digits: int, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def _rate(spread: Quartiles | None) -> str:
    return "-" if spread is None else f"{spread.median:.0f}"
