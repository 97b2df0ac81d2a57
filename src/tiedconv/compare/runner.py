"""The whole comparison: every model with every seed, then counts, timings, table data and report."""

import base64
import io
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
from torchvision.transforms.functional import to_pil_image

from .._extras import require
from .._files import write_whole
from ..analysis import evenly_spaced
from ..bench import describe_machine, throughput, train_step_peak_memory
from ..bench.timer import interleaved
from ..data import ClassificationData, ImageData
from ..export import ExportedFile, deploy, open_onnx, to_onnx
from ..metrics.counts import count
from ..models import check_model
from ..tasks.classification import build_classifier
from .detection_results import DetectionRun
from .report import write_report
from .results import Comparison, ModelResult, Quartiles, Run, Sample, to_json
from .training import Budget, ModelSpec, split_sizes, train_run

AnyRun = TypeVar("AnyRun", Run, DetectionRun)

SAMPLES = 12
TIMED_ROUNDS = 10


def compare(
    models: Sequence[ModelSpec],
    data: ClassificationData,
    budget: Budget,
    seeds: Sequence[int],
    output: Path,
    *,
    title: str = "",
    command: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Comparison:
    """Train several models alike and write ``results.json`` and ``report.html`` into ``output``.

    Every run has a folder ``output/runs/<label>/seed-<seed>``. What is finished there is not trained again, what is
    unfinished goes on after its last whole epoch: call again after an interruption, or with more seeds or models.
    Throughput and memory are measured at the end of every call.

    Args:
        models: what to compare; labels must differ. The report sets the others against the first.
        data: training and validation images.
        budget: what every run is given.
        seeds: every model is trained once with each.
        output: folder of the results.
        title: headline of the report; default: the models' labels and the data set.
        command: the command line that repeats it, printed in the report.
        say: called with a line of progress after each run.

    Raises:
        ValueError: if there is no model or seed, one is given twice, or ``output`` holds runs with other settings.
        ModuleNotFoundError: if the ``analysis`` extra is not installed.
    """
    check_specs(models, seeds)
    started = [spec.label for spec in models if spec.weights]
    if started:
        raise ValueError(f"compare: weights of {', '.join(started)} are for detectors. Classifiers start at random.")
    require("matplotlib", extra="analysis")  # before the training, not after it
    data.prepare_data()
    data.setup("fit")
    validation = data.split(train=False)
    sample_indices = evenly_spaced(len(validation), SAMPLES)  # type: ignore[arg-type]  # every split has a length

    results = [_describe(spec, data) for spec in models]  # a model that cannot be built is named before any training
    runs = run_all(
        models,
        seeds,
        output,
        lambda spec, seed, folder: train_run(spec, seed, data, budget, folder, sample_indices),
        lambda run: f"top-1 {run.top1:.2%}",
        say,
    )
    comparison = Comparison(
        title=title or f"{', '.join(spec.label for spec in models)} on {type(data).__name__}",
        command=shlex.join(command),
        machine=describe_machine(default_device()),
        data={
            "data set": type(data).__name__,
            **{what: f"{images:,}" for what, images in split_sizes(data).items()},
            "input": " x ".join(map(str, data.input_size)),
        },
        budget=printable(budget, data),
        classes=list(data.classes),
        seeds=list(seeds),
        samples=[_sample(data, i) for i in sample_indices],
        models=[replace(result, runs=runs[result.label]) for result in results],
    )
    _write(comparison, output)  # before the timing, which can fail or be stopped
    say("measuring throughput and memory")
    comparison = replace(comparison, models=_measure(comparison.models, data, budget))
    comparison = replace(comparison, models=_measure_deployed(comparison.models, data, say))
    _write(comparison, output)
    return comparison


def run_folder(output: Path, spec: ModelSpec, seed: int) -> Path:
    """Return the folder of one run."""
    return output / "runs" / spec.label / f"seed-{seed}"


def run_all(
    models: Sequence[ModelSpec],
    seeds: Sequence[int],
    output: Path,
    train: Callable[[ModelSpec, int, Path], AnyRun],
    score: Callable[[AnyRun], str],
    say: Callable[[str], None],
) -> dict[str, list[AnyRun]]:
    """Train every model with every seed, seed by seed, each in its folder; return the runs by the models' labels.

    Args:
        models, seeds, output, say: as in :func:`compare`.
        train: called with model, seed and folder.
        score: says in a few words what a run reached.
    """
    runs: dict[str, list[AnyRun]] = {spec.label: [] for spec in models}
    total = len(models) * len(seeds)
    for number, (seed, spec) in enumerate(((s, m) for s in seeds for m in models), start=1):
        say(f"[{number}/{total}] {spec.label}, seed {seed}")
        run = train(spec, seed, run_folder(output, spec, seed))
        say(f"      {score(run)} after {run.seconds:.0f} s of training")
        runs[spec.label].append(run)
    return runs


def _write(comparison: Comparison, output: Path) -> None:
    write_whole(output / "results.json", to_json(comparison))
    write_report(comparison, output / "report.html")


def check_specs(models: Sequence[ModelSpec], seeds: Sequence[int]) -> None:
    """Raise ValueError unless there are models that timm knows, with labels that differ, and seeds in range that do."""
    for what, values in (("models", [spec.label for spec in models]), ("seeds", [str(seed) for seed in seeds])):
        if not values:
            raise ValueError(f"compare: {what} is empty. Give at least one.")
        twice = sorted({v for v in values if values.count(v) > 1})
        if twice:
            raise ValueError(f"compare: {what} has {', '.join(twice)} twice. Give each once; models may get a label.")
    odd = next((seed for seed in seeds if not 0 <= seed < 2**32), None)
    if odd is not None:
        raise ValueError(f"compare: seeds must be whole numbers from 0 to {2**32 - 1}, got {odd}. Give another one.")
    for spec in models:
        check_model("compare", spec.name)


def _builder(model: ModelSpec | ModelResult, data: ClassificationData) -> Callable[[], torch.nn.Module]:
    return partial(build_classifier, model.name, data.num_classes, data.in_chans, model.kwargs, model.tied)


def _describe(spec: ModelSpec, data: ClassificationData) -> ModelResult:
    try:
        model = _builder(spec, data)()
    except TypeError as error:
        raise ValueError(f"compare: {spec.name} does not take kwargs={spec.kwargs}: {error}") from error
    counts = count(model, data.input_size)
    return ModelResult(spec.label, spec.name, spec.kwargs, counts.params, counts.macs, tied=spec.tied)


def _measure(results: list[ModelResult], data: ClassificationData, budget: Budget) -> list[ModelResult]:
    """Add throughput and memory, in float32 and without compilation, at the batch size of the training."""
    memory_format = torch.channels_last if budget.channels_last else torch.contiguous_format
    shape = (data.batch_size, *data.input_size)
    device = default_device()
    images = torch.randn(shape, device=device).contiguous(memory_format=memory_format)
    models = {r.label: _builder(r, data)().to(device).to(memory_format=memory_format) for r in results}
    training = throughput(models, images, train=True, rounds=TIMED_ROUNDS)
    inference = throughput(models, images, train=False, rounds=TIMED_ROUNDS)
    return [
        replace(
            r,
            train_images_per_s=Quartiles.of(training[r.label]),
            inference_images_per_s=Quartiles.of(inference[r.label]),
            peak_memory_mib=train_step_peak_memory(_builder(r, data), shape, channels_last=budget.channels_last),
        )
        for r in results
    ]


def _measure_deployed(
    results: list[ModelResult], data: ClassificationData, say: Callable[[str], None]
) -> list[ModelResult]:
    """Add file size and throughput of the deployed networks in ONNX Runtime, at the batch size of the training."""
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        say(f"deployed speed is not measured without {', '.join(missing)}: pip install 'tiedconv[export]' brings them")
        return results
    files: dict[str, ExportedFile] = {}
    with TemporaryDirectory() as folder:
        for i, result in enumerate(results):
            network = deploy(_builder(result, data)())
            try:
                file = to_onnx(network, f"{folder}/{i}.onnx", input_size=data.input_size, dynamic_size=False)
            except (RuntimeError, TypeError, ValueError) as error:  # the other models are still measured
                say(f"deployed speed of {result.label} is not measured: {error}")
                continue
            files[result.label] = file
        images = torch.randn(data.batch_size, *data.input_size)
        calls = {label: partial(open_onnx(file.path), images) for label, file in files.items()}
        times = interleaved(calls, rounds=TIMED_ROUNDS)
    return [
        replace(
            r,
            deployed_images_per_s=Quartiles.of([len(images) / s for s in times[r.label].seconds]),
            deployed_bytes=files[r.label].bytes,
        )
        if r.label in files
        else r
        for r in results
    ]


def printable(budget: Budget, data: ImageData) -> dict[str, str]:
    """Return every option of the budget as text, with the batch size."""
    options = {**asdict(budget), "batch_size": data.batch_size}
    optimization = options.pop("optimization")
    return {name.replace("_", " "): str(value) for name, value in {**options, **optimization}.items()}


def _sample(data: ClassificationData, index: int) -> Sample:
    image, label = data.split(train=False)[index]
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    picture = to_pil_image((image * std + mean).clamp(0, 1))
    picture.thumbnail((160, 160))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return Sample(base64.b64encode(buffer.getvalue()).decode(), int(label))


def default_device() -> torch.device:
    """Return where Lightning trains one model: the first GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
