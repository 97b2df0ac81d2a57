"""The whole comparison: every model with every seed, then timings, ``results.json`` and the report."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import lightning as L

from .._coco import coco_json
from .._extras import require
from .._files import write_whole
from ..bench.machine import default_device, describe_machine
from ..data import ClassificationData, DetectionData
from ..models import check_model
from ..report.occlusion_plots import draw_occlusion
from ._finding import NOTHING
from .adapter import Adapter, Log, as_facts
from .classification import Classifiers
from .detection import Detector, Detectors
from .report import write_report
from .results import Comparison, Run, metric_name, read_run, to_json
from .training import Budget, History, ModelSpec, check_same_run, describe_run, train

_RESULT = "result.json"  # in a run's folder


def compare(
    models: Sequence[ModelSpec],
    data: ClassificationData | DetectionData,
    budget: Budget,
    seeds: Sequence[int],
    output: Path,
    *,
    detector: Detector = Detector(),
    title: str = "",
    command: str = "",
    log: Log = print,
) -> Comparison:
    """Train several models alike and write ``results.json`` and ``report.html`` into ``output``, after every run.

    Every run has a folder ``output/runs/<label>/seed-<seed>``. What is finished there is not trained again, what is
    unfinished goes on after its last whole epoch: call again after an interruption, or with more seeds or models.
    Speed and memory are measured at the end of every call.

    Of detectors, ``output`` also gets ``occlusion.png`` and the validation images' ``annotations.json``, and each run's
    folder the detections on them, ``detections.json``. Both are in COCO's format, and ``tiedconv analyze occlusion``
    reads them.

    Args:
        models: what to compare; labels must differ. The report sets the others against the first.
        data: training and validation images.
        budget: what every run is given; for detectors, what only classifiers know must be left alone.
        seeds: every model is trained once with each.
        output: folder of the results.
        detector: with data of detection, what the models are the backbones of.
        title: headline of the report; default: the models' labels and the data set.
        command: the command line that repeats it, printed in the report.
        log: called with lines of progress: what is done, and about how long the other runs take.

    Raises:
        ValueError: if there is no model or seed, one is given twice, an option is not for this kind of data, or
            ``output`` holds runs with other settings.
        ModuleNotFoundError: if the extra ``analysis``, or for detectors ``detection``, is not installed.
    """
    adapter: Adapter
    of_what = ", ".join(spec.label for spec in models)
    if isinstance(data, DetectionData):
        adapter = Detectors(models, data, budget, detector)
        of_what += f" in {detector.detector}"
    elif detector != Detector():
        raise ValueError(f"detector is for data of detection, got {type(data).__name__}. Leave it out.")
    else:
        adapter = Classifiers(models, data, budget)
    _check_specs(models, seeds)
    require("matplotlib", extra="analysis")  # before the training, not after it
    data.prepare_data()
    data.setup("fit")
    results = {spec.label: adapter.describe(spec) for spec in models}
    facts = adapter.facts()
    conditions = facts.pop("conditions")
    given = {**asdict(budget), "batch_size": data.batch_size, "seeds": ", ".join(map(str, seeds))}
    conditions |= {"Budget": as_facts(given), "Machine": describe_machine(default_device())}
    comparison = Comparison(
        title=title or f"{of_what} on {type(data).__name__}",
        command=command,
        conditions=conditions,
        seeds=list(seeds),
        models=list(results.values()),
        metrics=adapter.metrics,
        classes=list(data.classes),
        **facts,
    )
    steps = [(seed, spec, output / "runs" / spec.label / f"seed-{seed}") for seed in seeds for spec in models]
    unfinished = {folder for *_, folder in steps if not (folder / _RESULT).exists()}
    for number, (seed, spec, folder) in enumerate(steps, start=1):
        log(f"[{number}/{len(steps)}] {spec.label}, seed {seed}")
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
    if isinstance(data, DetectionData):
        write_whole(output / "annotations.json", coco_json(data.ground_truth()))
    folders = {spec.label: [folder for _, other, folder in steps if other is spec] for spec in models}
    for measured in adapter.complete(comparison, folders, log):
        comparison = measured
        _write(comparison, output)
    return comparison


def train_run(adapter: Adapter, spec: ModelSpec, seed: int, folder: Path) -> Run:
    """Train ``spec`` with ``seed`` in ``folder``, go on where that was interrupted, or read the result."""
    check_same_run(folder, {**describe_run(spec, adapter.data, adapter.budget), **adapter.settings})
    result = folder / _RESULT
    if result.exists():
        run = read_run(result)
        if run.seed != seed:
            raise ValueError(f"{result} is of seed {run.seed}. Rename its folder to seed-{run.seed}.")
        return run
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


def _write(comparison: Comparison, output: Path) -> None:
    write_whole(output / "results.json", to_json(comparison))
    write_report(comparison, output / "report.html")
    if comparison.occlusion:
        draw_occlusion(comparison.occlusion).savefig(output / "occlusion.png", dpi=150)
