"""Compare backbones in one detector: every backbone with every seed, then AP by how much objects cover each other."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from PIL import Image
from torch import Tensor, nn

from .._extras import require
from .._files import write_whole
from ..analysis.occlusion import analyze_occlusion
from ..bench.machine import default_device
from ..bench.steps import inference
from ..bench.timer import rates
from ..data import DetectionData
from ..detection import DetectorName, Widths
from ..detection.backbone import Norm
from ..metrics.coco import METRICS, Kind, coco_metrics
from ..metrics.counts import count
from ..report.drawing import draw_detections
from ..report.page import encoded
from ..tasks import DetectionTask
from ..tasks.detection import coco_results
from .adapter import Adapter, Folders, Log, as_facts, data_facts
from .results import Comparison, ModelResult, Sample, read_kept
from .training import Budget, ModelSpec

_SAMPLES = 6
_FOUND = "detections.json"  # in a run's folder, in COCO's format
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


class Detectors(Adapter):
    """Backbones in one detector, and options that are theirs."""

    data: DetectionData
    logged = {"train_loss": "train/loss"}  # noqa: RUF012
    trainer_options = {"limit_val_batches": 0}  # noqa: RUF012  # evaluated once, after the last epoch

    def __init__(self, models: Sequence[ModelSpec], data: DetectionData, budget: Budget, detector: Detector) -> None:
        if odd := next((spec.label for spec in models if spec.tied is not None), None):
            raise ValueError(f"{odd} has tied, which is for classifiers. Give a backbone that is tied by itself.")
        unknown = ("label_smoothing", "mixup", "cutmix", "compile")
        if given := [name for name in unknown if getattr(budget, name) != getattr(Budget(), name)]:
            raise ValueError(f"the budget's {', '.join(given)} are for classifiers. Leave them out for detectors.")
        require("faster_coco_eval", extra="detection")
        self.detector = detector
        self.kinds: list[Kind] = ["mask", "box"] if "mask" in detector.detector else ["box"]  # the main one first
        metrics = [f"{self.kinds[0]}_{metric}" for metric in METRICS] + [f"{kind}_AP" for kind in self.kinds[1:]]
        super().__init__(models, data, budget, metrics, settings={"detector": asdict(detector)})

    def describe(self, spec: ModelSpec) -> ModelResult:
        model: Any = self.task(spec).model
        size = model.transform.min_size[-1]
        body = count(model.backbone.body, (3, size, size))
        params = sum(p.numel() for p in model.parameters())
        return ModelResult(spec.label, spec.name, spec.kwargs, body.params, body.macs, detector_params=params)

    def task(self, spec: ModelSpec) -> DetectionTask:
        return DetectionTask(
            backbone=spec.name,
            num_classes=self.data.num_classes,
            weights=spec.weights,
            backbone_kwargs=spec.kwargs,
            optimization=self.budget.optimization,
            channels_last=self.budget.channels_last,
            **vars(self.detector),
        )

    def evaluate(self, task: DetectionTask, folder: Path) -> tuple[dict[str, float | None], dict[str, Any]]:
        results, pictures = _detect(task, self.data, self.examples(_SAMPLES))
        write_whole(folder / _FOUND, json.dumps(results))
        truth = self.data.ground_truth()
        scores = {f"{k}_{name}": value for k in self.kinds for name, value in coco_metrics(truth, results, k).items()}
        metrics = {name: None if math.isnan(value) else value for name, value in scores.items()}
        return metrics, {"pictures": pictures}

    def facts(self) -> dict[str, Any]:
        real, names = self.data.with_targets(), self.data.classes
        pictures = (_jpeg(draw_detections(*real[index], names)) for index in self.examples(_SAMPLES))
        facts = {**data_facts(self.data), "classes": ", ".join(names) if len(names) <= 20 else str(len(names))}
        return {
            "conditions": {"Data": facts, "Detector": as_facts(asdict(self.detector))},
            "samples": [Sample(picture) for picture in pictures],
        }

    def complete(self, comparison: Comparison, folders: Folders, log: Log) -> Iterator[Comparison]:
        log("sorting the images by how much objects cover each other")
        truth = self.data.ground_truth()
        amodal = all("amodal_segmentation" in annotation for annotation in truth["annotations"])
        found = {label: map(_found, places) for label, places in folders.items()}
        occlusion = analyze_occlusion(truth, found, kind=self.kinds[0], regions="amodal" if amodal else "boxes")
        comparison = replace(comparison, occlusion=occlusion)
        yield comparison
        log("measuring speed")
        yield replace(comparison, models=self._measure(comparison.models, folders))

    def _measure(self, results: list[ModelResult], folders: Folders) -> list[ModelResult]:
        """Add throughput on one batch of training images, in float32, with the weights of the first seed."""
        device = default_device()
        images, targets = move_data_to_device(next(iter(self.data.train_dataloader())), device)
        models = {}
        for spec in self.models:
            task = self.task(spec).to(device)
            saved = torch.load(folders[spec.label][0] / "checkpoint.ckpt", device, weights_only=True)
            task.load_state_dict(saved["state_dict"])
            models[spec.label] = task.model
        steps = {label: _train_step(model.train(), images, targets) for label, model in models.items()}
        trained = rates(steps, len(images), device=device)
        steps = {label: inference(model.eval(), images) for label, model in models.items()}
        detected = rates(steps, len(images), device=device)
        return [
            replace(r, train_images_per_s=trained[r.label], inference_images_per_s=detected[r.label]) for r in results
        ]


def _found(folder: Path) -> list[dict[str, Any]]:
    return read_kept(folder / _FOUND, list, f"Remove {folder / 'result.json'}: the detections are then made again")


@torch.inference_mode()
def _detect(task: DetectionTask, data: DetectionData, samples: Sequence[int]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the detections on all validation images in COCO's format, and those on the samples as pictures."""
    results: list[dict[str, Any]] = []
    pictures = []
    place = 0
    for images, records in data.val_dataloader():
        for image, record, found in zip(images, records, task([i.to(task.device) for i in images]), strict=True):
            results += coco_results(record["image_id"], found, data.category_ids)
            if place in samples:
                pictures.append(_jpeg(draw_detections(image, found, data.classes, min_score=_DRAWN)))
            place += 1
    return results, pictures


def _jpeg(picture: Image.Image) -> str:
    picture.thumbnail((480, 480))
    return encoded(picture, "jpeg")


def _train_step(model: nn.Module, images: list[Tensor], targets: list[dict[str, Any]]) -> Callable[[], object]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        torch.stack(list(model(images, targets).values())).sum().backward()
        optimizer.step()

    return run
