"""Compare backbones in one detector: every backbone with every seed, then AP by how much objects cover each other."""

import base64
import io
import json
import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from PIL import Image
from torch import Tensor, nn

from .._extras import require
from .._files import write_whole
from ..analysis import evenly_spaced
from ..analysis.occlusion import Regions, analyze_occlusion
from ..bench import Quartiles, describe_machine
from ..bench.steps import inference
from ..bench.timer import interleaved
from ..data import DetectionData
from ..detection import DetectorName, Widths
from ..detection.backbone import Norm
from ..metrics.coco import Kind, coco_metrics
from ..metrics.counts import count
from ..report.drawing import draw_detections
from ..report.occlusion_plots import draw_occlusion
from ..tasks import DetectionTask
from ..tasks.detection import coco_results
from .detection_report import write_detection_report
from .detection_results import DetectionComparison, DetectionRun, DetectorResult
from .results import EVALUATE_AGAIN, read_kept, to_json
from .runner import TIMED_ROUNDS, check_specs, default_device, printable, run_all, run_folder
from .training import Budget, History, ModelSpec, check_same_run, describe_run, split_sizes, train

SAMPLES = 6
_FOUND = "detections.json"  # in a run's folder, in COCO's format
_RESULT = "result.json"  # beside it, and written after it
_DRAWN = 0.5  # score from which on a detection is drawn


@dataclass(frozen=True)
class Detector:
    """What every backbone of a comparison is put into. The fields are :class:`tiedconv.tasks.DetectionTask`'s.

    Attributes:
        detector: ``"retinanet"``, ``"faster_rcnn"``, ``"mask_rcnn"``, ``"cascade_rcnn"`` or ``"cascade_mask_rcnn"``.
        frozen_stages: how many of the backbone's stages are fixed, the stem first.
        norm: the backbone's batch norms: ``"batch"``, ``"frozen"`` or ``"sync"``.
        context_blocks: blocks of the global context modules added to the backbone; 1 for untied ones. Default: none.
        levels: how many of the backbone's last feature maps are used. Default: 4, and 3 for RetinaNet.
        widths: channels above the backbone.
        anchor_sizes: side of the square anchor of each level in pixels.
        options: torchvision's options of the detector, such as ``{"min_size": 640}``.
    """

    detector: DetectorName = "mask_rcnn"
    frozen_stages: int = 0
    norm: Norm = "batch"
    context_blocks: int | None = None
    levels: int | None = None
    widths: Widths = Widths()
    anchor_sizes: list[float] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def task(self, spec: ModelSpec, data: DetectionData, budget: Budget) -> DetectionTask:
        """Build the task that trains one backbone."""
        return DetectionTask(
            backbone=spec.name,
            num_classes=data.num_classes,
            weights=spec.weights,
            backbone_kwargs=spec.kwargs,
            optimization=budget.optimization,
            channels_last=budget.channels_last,
            **{f.name: getattr(self, f.name) for f in fields(self)},
        )


def compare_detectors(
    models: Sequence[ModelSpec],
    data: DetectionData,
    detector: Detector,
    budget: Budget,
    seeds: Sequence[int],
    output: Path,
    *,
    title: str = "",
    command: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> DetectionComparison:
    """Train several backbones alike in one detector; write ``results.json``, ``report.html`` and ``occlusion.png``.

    Each run's folder ``output/runs/<label>/seed-<seed>`` also gets its detections on the validation images,
    ``detections.json`` in COCO's format, which ``tiedconv analyze occlusion`` reads. What is finished is kept and what
    is unfinished goes on, as in :func:`tiedconv.compare.compare`.

    Args:
        models: the backbones; labels must differ. The report sets the others against the first.
        data: training and validation images.
        detector: what the backbones are put into.
        budget: what every run is given; what only classifiers know must be left alone.
        seeds, output, title, command, say: as in :func:`tiedconv.compare.compare`.

    Raises:
        ValueError: if there is no model or seed, one is given twice, the budget has options of classifiers, or
            ``output`` holds runs with other settings.
        ModuleNotFoundError: if the extras ``analysis`` and ``detection`` are not installed.
    """
    check_specs(models, seeds)
    if odd := next((spec.label for spec in models if spec.tied is not None), None):
        raise ValueError(f"compare: {odd} has tied, which is for classifiers. Give a backbone that is tied by itself.")
    _check_budget(budget)
    require("matplotlib", extra="analysis")  # before the training, not after it
    require("faster_coco_eval", extra="detection")
    data.prepare_data()
    data.setup("fit")
    samples = evenly_spaced(len(data.split(train=False)), SAMPLES)  # type: ignore[arg-type]  # every split has a length

    results = [_describe(spec, data, detector, budget) for spec in models]  # what cannot be built fails at once
    runs = run_all(
        models,
        seeds,
        output,
        lambda spec, seed, folder: _train_run(spec, seed, data, detector, budget, folder, samples),
        lambda run: ", ".join(f"{kind} AP {metrics['AP'] or 0:.3f}" for kind, metrics in run.metrics.items()),
        say,
    )
    say("sorting the images by how much objects cover each other")
    truth = data.ground_truth()
    kind: Kind = "mask" if "mask" in detector.detector else "box"
    amodal = all("amodal_segmentation" in annotation for annotation in truth["annotations"])
    regions: Regions = "amodal" if amodal else "boxes"
    occlusion = analyze_occlusion(
        truth,
        {spec.label: _found(output, spec, seeds) for spec in models},
        kind=kind,
        regions=regions,
    )
    real = data.with_targets()
    comparison = DetectionComparison(
        title=title or f"{', '.join(spec.label for spec in models)} in {detector.detector} on {type(data).__name__}",
        command=shlex.join(command),
        machine=describe_machine(default_device()),
        data={
            "data set": type(data).__name__,
            **{what: f"{images:,}" for what, images in split_sizes(data).items()},
            "classes": ", ".join(data.classes) if len(data.classes) <= 20 else str(len(data.classes)),
        },
        detector=_printable(detector),
        budget=printable(budget, data),
        seeds=list(seeds),
        truths=[_jpeg(draw_detections(*real[index], data.classes)) for index in samples],
        occlusion=occlusion,
        models=[replace(result, runs=runs[result.label]) for result in results],
    )
    _write(comparison, output)  # before the timing, which can fail or be stopped
    say("measuring throughput")
    folders = [(spec, run_folder(output, spec, seeds[0])) for spec in models]
    comparison = replace(comparison, models=_measure(comparison.models, folders, data, detector, budget))
    _write(comparison, output)
    return comparison


def _found(output: Path, spec: ModelSpec, seeds: Sequence[int]) -> Iterator[list[dict[str, Any]]]:
    """The detections of each run, read one at a time: on large data they are large."""
    for seed in seeds:
        folder = run_folder(output, spec, seed)
        yield read_kept(folder / _FOUND, list, f"Remove {folder / _RESULT}: the detections are then made again")


def _write(comparison: DetectionComparison, output: Path) -> None:
    write_whole(output / "results.json", to_json(comparison))
    write_detection_report(comparison, output / "report.html")
    draw_occlusion(comparison.occlusion).savefig(output / "occlusion.png", dpi=150)


def _check_budget(budget: Budget) -> None:
    plain = Budget(budget.epochs)
    names = [n for n in ("label_smoothing", "mixup", "cutmix", "compile") if getattr(budget, n) != getattr(plain, n)]
    if names:
        raise ValueError(f"compare: the budget's {', '.join(names)} are for classifiers. Leave them out for detectors.")


def _describe(spec: ModelSpec, data: DetectionData, detector: Detector, budget: Budget) -> DetectorResult:
    model: Any = detector.task(spec, data, budget).model
    size = model.transform.min_size[-1]
    body = count(_FirstMap(model.backbone.body), (3, size, size))
    params = sum(p.numel() for p in model.parameters())
    return DetectorResult(spec.label, spec.name, spec.kwargs, params, body.params, body.macs)


class _FirstMap(nn.Module):
    """A network that returns several maps, made to return one tensor, which counting takes."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.body(x)[0]
        return first


def _train_run(
    spec: ModelSpec,
    seed: int,
    data: DetectionData,
    detector: Detector,
    budget: Budget,
    folder: Path,
    samples: Sequence[int],
) -> DetectionRun:
    check_same_run(folder, {**describe_run(spec, data, budget), "detector": asdict(detector)})
    file = folder / _RESULT
    if file.exists():
        return read_kept(file, lambda found: DetectionRun(**found), EVALUATE_AGAIN)
    L.seed_everything(seed, verbose=False)
    task = detector.task(spec, data, budget)
    history = History({"train_loss": "train/loss"})
    trainer = train(task, data, budget, folder, history, limit_val_batches=0)  # evaluated once, after the last epoch
    with trainer.precision_plugin.forward_context():
        results, pictures = _detect(task, data, samples)
    write_whole(folder / _FOUND, json.dumps(results))
    truth = data.ground_truth()
    metrics = {kind: coco_metrics(truth, results, kind) for kind in task.kinds}
    run = DetectionRun(
        seed,
        history.seconds,
        [epoch["train_loss"] for epoch in history.epochs],
        {kind: {n: None if math.isnan(v) else v for n, v in found.items()} for kind, found in metrics.items()},
        pictures,
    )
    write_whole(file, to_json(run))
    return run


@torch.inference_mode()
def _detect(task: DetectionTask, data: DetectionData, samples: Sequence[int]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the detections on the validation images in COCO's format, and those on the samples as pictures."""
    task.eval()
    results: list[dict[str, Any]] = []
    pictures = []
    categories = data.category_ids
    place = 0
    for images, abouts in data.val_dataloader():
        for image, about, found in zip(images, abouts, task([i.to(task.device) for i in images]), strict=True):
            results += coco_results(about["image_id"], found, categories)
            if place in samples:
                pictures.append(_jpeg(draw_detections(image, found, data.classes, min_score=_DRAWN)))
            place += 1
    return results, pictures


def _jpeg(picture: Image.Image) -> str:
    picture.thumbnail((480, 480))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


def _measure(
    results: list[DetectorResult],
    folders: Sequence[tuple[ModelSpec, Path]],
    data: DetectionData,
    detector: Detector,
    budget: Budget,
) -> list[DetectorResult]:
    """Add throughput on one batch of training images, in float32, with the weights of the first seed."""
    device = default_device()
    images, targets = next(iter(data.train_dataloader()))
    images = [image.to(device) for image in images]
    targets = [{k: v.to(device) if isinstance(v, Tensor) else v for k, v in target.items()} for target in targets]
    tasks = {}
    for spec, folder in folders:
        task = detector.task(spec, data, budget).to(device)
        task.load_state_dict(torch.load(folder / "checkpoint.ckpt", device, weights_only=True)["state_dict"])
        tasks[spec.label] = task
    training = interleaved(
        {label: _train_step(task.model.train(), images, targets) for label, task in tasks.items()},
        rounds=TIMED_ROUNDS,
        device=device,
    )
    detection = interleaved(
        {label: inference(task.model.eval(), images) for label, task in tasks.items()},
        rounds=TIMED_ROUNDS,
        device=device,
    )
    return [
        replace(
            result,
            train_images_per_s=Quartiles.of([len(images) / s for s in training[result.label].seconds]),
            inference_images_per_s=Quartiles.of([len(images) / s for s in detection[result.label].seconds]),
        )
        for result in results
    ]


def _train_step(model: nn.Module, images: list[Tensor], targets: list[dict[str, Any]]) -> Callable[[], object]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        torch.stack(list(model(images, targets).values())).sum().backward()
        optimizer.step()

    return run


def _printable(detector: Detector) -> dict[str, str]:
    shown = {k: v for k, v in asdict(detector).items() if v not in (None, {}, [])}
    for nested in ("widths", "options"):
        shown |= {f"{nested}: {k}": v for k, v in shown.pop(nested, {}).items()}
    return {name.replace("_", " "): str(value) for name, value in shown.items()}
