"""The whole comparison: every model with every seed, then timings, ``results.json`` and the report."""

import shlex
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch

from .._extras import require
from .._files import write_whole
from ..analysis import evenly_spaced
from ..bench import describe_machine
from ..data import ImageData
from ..models import check_model
from ..report.occlusion_plots import draw_occlusion
from ..tasks import Task
from ._finding import NOTHING
from .report import write_report
from .results import Comparison, ModelResult, Run, metric_name, read_run, to_json
from .training import Budget, History, ModelSpec, check_same_run, describe_run, split_sizes, train

_RESULT = "result.json"  # in a run's folder

Log = Callable[[str], None]
Folders = Mapping[str, Sequence[Path]]
"""Folders of the runs, by the models' labels, in the order of the seeds."""


@dataclass(frozen=True)
class Adapter(ABC):
    """What differs between a comparison of classifiers and one of detectors.

    Attributes:
        models, data, budget: as in :func:`tiedconv.compare.compare`.
        metrics: what the table of results shows; the models are compared by the first.
        settings: what a run's results depend on besides model, data and budget.
        logged: what is kept of each epoch, as in :class:`History`.
        trainer_options: more for Lightning's trainer.
    """

    models: Sequence[ModelSpec]
    data: Any  # of the subclass's own kind
    budget: Budget
    metrics: list[str]
    settings: dict[str, Any]

    logged: ClassVar[Mapping[str, str]]
    trainer_options: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def describe(self, spec: ModelSpec) -> ModelResult:
        """Build a model and count it. What cannot be built fails here, before any training."""

    @abstractmethod
    def task(self, spec: ModelSpec) -> Task:
        """Build what trains a model."""

    @abstractmethod
    def evaluate(self, task: Any, folder: Path) -> tuple[dict[str, float | None], dict[str, Any]]:
        """Return metrics and details of a trained model, as in :class:`Run`. May write more into the run's folder."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return more fields of :class:`Comparison`: ``samples``, ``conditions`` on data and detector, and others."""

    @abstractmethod
    def complete(self, comparison: Comparison, folders: Folders, log: Log) -> Iterator[Comparison]:
        """Add speed, and what else is measured after the trainings; yield what there is after every part."""

    def examples(self, count: int) -> list[int]:
        """Return the places of ``count`` validation images, evenly spaced."""
        return evenly_spaced(len(self.data.split(train=False)), count)


def run_comparison(
    adapter: Adapter, seeds: Sequence[int], output: Path, *, title: str, command: Sequence[str], log: Log
) -> Comparison:
    """Do what :func:`tiedconv.compare.compare` says, for any kind of models and data."""
    models, data = adapter.models, adapter.data
    _check_specs(models, seeds)
    require("matplotlib", extra="analysis")  # before the training, not after it
    data.prepare_data()
    data.setup("fit")
    results = {spec.label: adapter.describe(spec) for spec in models}
    facts = adapter.facts()
    budget = {**asdict(adapter.budget), "batch_size": data.batch_size, "seeds": ", ".join(map(str, seeds))}
    conditions = {**facts.pop("conditions"), "Budget": as_facts(budget), "Machine": describe_machine(default_device())}
    comparison = Comparison(
        title=title,
        command=shlex.join(command),
        conditions=conditions,
        seeds=list(seeds),
        models=list(results.values()),
        metrics=adapter.metrics,
        classes=list(data.classes),
        **facts,
    )
    folders = {spec.label: [output / "runs" / spec.label / f"seed-{seed}" for seed in seeds] for spec in models}
    steps = [(place, seed, spec) for place, seed in enumerate(seeds) for spec in models]
    unfinished = {folder for places in folders.values() for folder in places if not (folder / _RESULT).exists()}
    for number, (place, seed, spec) in enumerate(steps, start=1):
        log(f"[{number}/{len(steps)}] {spec.label}, seed {seed}")
        folder = folders[spec.label][place]
        run = train_run(adapter, spec, seed, folder)
        results[spec.label].runs.append(run)  # the comparison has the same results
        reached = run.metrics[comparison.metric]
        line = f"{metric_name(comparison.metric)} {NOTHING if reached is None else f'{reached:.2%}'}"
        line += f" after {run.seconds:.0f} s of training"
        if folder in unfinished:
            unfinished.remove(folder)
            _write(comparison, output)  # after every run, so that it can be watched
        if unfinished:
            usual = statistics.fmean(run.seconds for result in results.values() for run in result.runs)
            line += f", about {timedelta(seconds=round(usual * len(unfinished)))} left for {len(unfinished)} more"
        log(f"      {line}")
    for measured in adapter.complete(comparison, folders, log):
        comparison = measured
        _write(comparison, output)
    return comparison


def train_run(adapter: Adapter, spec: ModelSpec, seed: int, folder: Path) -> Run:
    """Train ``spec`` with ``seed`` in ``folder``, go on where that was interrupted, or read the result."""
    check_same_run(folder, {**describe_run(spec, adapter.data, adapter.budget), **adapter.settings})
    result = folder / _RESULT
    if result.exists():
        return read_run(result)
    L.seed_everything(seed, verbose=False)
    task = adapter.task(spec)
    history = History(adapter.logged)
    trainer = train(task, adapter.data, adapter.budget, folder, history, **adapter.trainer_options)
    task.eval()
    with trainer.precision_plugin.forward_context():
        metrics, details = adapter.evaluate(task, folder)
    run = Run(seed, history.seconds, history.epochs, metrics, details)
    write_whole(result, to_json(run))
    return run


def _check_specs(models: Sequence[ModelSpec], seeds: Sequence[int]) -> None:
    for what, values in (("models", [spec.label for spec in models]), ("seeds", [str(seed) for seed in seeds])):
        if not values:
            raise ValueError(f"{what} is empty. Give at least one.")
        twice = sorted({v for v in values if values.count(v) > 1})
        if twice:
            raise ValueError(f"{what} has {', '.join(twice)} twice. Give each once; models may get a label.")
    odd = next((seed for seed in seeds if not 0 <= seed < 2**32), None)
    if odd is not None:
        raise ValueError(f"seeds must be whole numbers from 0 to {2**32 - 1}, got {odd}. Give another one.")
    for spec in models:
        check_model(spec.name)


def data_facts(data: ImageData) -> dict[str, str]:
    """Return the name of the data set and the number of images in each split, as printed."""
    return {"data set": type(data).__name__, **{what: f"{images:,}" for what, images in split_sizes(data).items()}}


def as_facts(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that are set, as text; nested ones are called ``outer: inner``."""
    shown: dict[str, str] = {}
    for option, value in options.items():
        if isinstance(value, Mapping):
            shown |= {f"{option}: {name}": text for name, text in as_facts(value).items()}
        elif value is not None:
            shown[option.replace("_", " ")] = str(value)
    return shown


def default_device() -> torch.device:
    """Return the first GPU if there is one, else the CPU; Lightning trains one model there too."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _write(comparison: Comparison, output: Path) -> None:
    write_whole(output / "results.json", to_json(comparison))
    write_report(comparison, output / "report.html")
    if comparison.occlusion:
        draw_occlusion(comparison.occlusion).savefig(output / "occlusion.png", dpi=150)
