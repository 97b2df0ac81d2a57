"""Object detection and instance segmentation as a Lightning module: any of our detectors, COCO's metrics."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from torch import Tensor
from torchvision.ops import box_convert

from .._coco import coco_json, encode_mask
from .._files import write_whole
from ..data import DetectionData
from ..detection import DetectorName, Widths, build_detector
from ..detection.backbone import Norm
from ..metrics.coco import Kind, coco_metrics
from ._task import Task
from .optimization import Optimization, as_optimization
from .predictions import DetectionWriter

Images = list[Tensor]


class DetectionTask(Task):
    """Train and evaluate a detector.

    Logs ``train/loss`` and every loss of the detector under ``train/``, ``lr``, and COCO's metrics on the validation
    images: ``val/box_AP``, ``val/box_AP50``, ``val/box_AP75``, ``val/box_AP_S``, ``_M`` and ``_L`` (fractions, 0-1),
    and the same as ``val/mask_...`` if the detector has masks. Every validation and test writes ``results.json``, the
    detections in COCO's format, and ``annotations.json``, the objects of the same images, into the log folder.

    Args:
        detector: ``"retinanet"``, ``"faster_rcnn"``, ``"mask_rcnn"``, ``"cascade_rcnn"`` or ``"cascade_mask_rcnn"``.
        backbone: name of a timm model, tied or not.
        num_classes: classes of the data, background included; the command line takes it from there.
        weights: a classifier's checkpoint that the backbone starts from.
        frozen_stages, norm, context_blocks, levels, anchor_sizes, backbone_kwargs: as in
            :func:`tiedconv.detection.build_detector`.
        widths: channels above the backbone.
        options: torchvision's options of the detector, such as ``{"min_size": 640}``.
        optimization: optimiser and schedule. The default is for batches of 2 to 4 images.
        channels_last: run the backbone in channels_last memory format.
        min_score: detections below this score, 0-1, are left out by ``tiedconv predict``.

    It trains and evaluates with a :class:`tiedconv.data.DetectionData` as the trainer's ``datamodule``.

    Raises:
        ValueError: if a name is unknown or an option is out of range; in ``setup``, if the data do not fit.
        TypeError: if the detector has no such option.
    """

    monitor = "val/box_AP"

    def __init__(
        self,
        detector: DetectorName = "mask_rcnn",
        backbone: str = "tiedresnet50",
        num_classes: int = 91,
        weights: str | None = None,
        frozen_stages: int = 0,
        norm: Norm = "batch",
        context_blocks: int | None = None,
        levels: int | None = None,
        widths: Widths = Widths(),
        anchor_sizes: list[float] | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        optimization: Optimization = Optimization(lr=0.005, schedule="cosine", warmup_epochs=0.5),
        channels_last: bool = False,
        min_score: float = 0.5,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        if not 0 <= min_score <= 1:
            raise ValueError(f"DetectionTask: min_score must be in 0-1, got {min_score}.")
        optimization = as_optimization(optimization)
        widths = Widths(**widths) if isinstance(widths, Mapping) else widths
        # Plain values, so that a checkpoint can be read with weights_only=True. It has the backbone's weights itself.
        plain = {"optimization": asdict(optimization), "widths": asdict(widths), "weights": None}
        self.save_hyperparameters({**arguments, **plain})
        self.model = build_detector(
            detector,
            backbone=backbone,
            num_classes=num_classes,
            weights=weights,
            frozen_stages=frozen_stages,
            norm=norm,
            context_blocks=context_blocks,
            levels=levels,
            widths=widths,
            anchor_sizes=anchor_sizes,
            backbone_kwargs=backbone_kwargs,
            **(options or {}),
        )
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        pretrained = weights is not None or {"pretrained", "pretrained_cfg_overlay"} & set(backbone_kwargs or {})
        self.fixed_at_random = (frozen_stages > 0 or norm == "frozen") and not pretrained
        self.optimization = optimization
        self.detector = detector
        self.min_score = min_score
        self.kinds: tuple[Kind, ...] = ("box", "mask") if "mask" in detector else ("box",)
        self._results: list[dict[str, Any]] = []
        self._seen: list[int] = []

    def configure_callbacks(self) -> list[Callback]:
        """The writer of pictures, for ``tiedconv predict``."""
        return [DetectionWriter()]

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, DetectionData):
            raise ValueError(  # noqa: TRY004  about the call, not an argument's type
                f"DetectionTask: expected a DetectionData as datamodule, got {type(data).__name__}. Pass one, as in "
                "trainer.fit(task, datamodule=tiedconv.data.Coco(root))."
            )
        if "mask" in self.kinds and not data.masks:
            raise ValueError(
                f"DetectionTask: {self.detector} learns masks, but the data have masks=False. Set data.masks to true "
                "if there are outlines, or choose retinanet, faster_rcnn or cascade_rcnn."
            )

    def on_fit_start(self) -> None:
        if self.fixed_at_random and self.trainer.ckpt_path is None:
            warnings.warn(
                "DetectionTask: stages or norms are fixed, but nothing says what the backbone starts from. If that is "
                "at random, give weights, or set frozen_stages to 0 and norm to batch.",
                stacklevel=2,
            )

    def forward(self, images: Images) -> list[dict[str, Tensor]]:
        """Images (3, H, W) in 0-1 → for each a dict of ``boxes``, ``labels``, ``scores`` and perhaps ``masks``."""
        detections: list[dict[str, Tensor]] = self.model(images)
        return detections

    def training_step(self, batch: tuple[Images, list[dict[str, Any]]], batch_idx: int) -> Tensor:
        images, targets = batch
        losses: dict[str, Tensor] = self.model(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        self.log_losses({"loss": loss, **losses}, len(images))
        return loss

    def on_validation_epoch_start(self) -> None:
        self._results, self._seen = [], []

    def validation_step(self, batch: tuple[Images, list[dict[str, Any]]], batch_idx: int) -> None:
        images, targets = batch
        categories = self.trainer.datamodule.category_ids  # type: ignore[attr-defined]
        for target, detections in zip(targets, self(images), strict=True):
            self._seen.append(target["image_id"])
            self._results += coco_results(target["image_id"], detections, categories)

    def on_validation_epoch_end(self) -> None:
        parts = _on_first_device((self._results, self._seen))
        self._results, self._seen = [], []
        log_dir = self.trainer.log_dir  # asked for on every device, as it is broadcast
        metrics: dict[Kind, dict[str, float]] = {}
        if self.trainer.is_global_zero:
            results = [result for part, _ in parts for result in part]
            seen = {image for _, part in parts for image in part}
            truth = _only(self.trainer.datamodule.ground_truth(), seen)  # type: ignore[attr-defined]
            if log_dir and not self.trainer.sanity_checking:
                Path(log_dir).mkdir(parents=True, exist_ok=True)
                write_whole(Path(log_dir, "results.json"), json.dumps(results))
                write_whole(Path(log_dir, "annotations.json"), coco_json(truth))
            metrics = {kind: coco_metrics(truth, results, kind) for kind in self.kinds}
        metrics = self.trainer.strategy.broadcast(metrics)
        for kind, values in metrics.items():
            # All devices have the same values; the mean of them is what Lightning accepts without a warning.
            self.log_dict({f"val/{kind}_{name}": value for name, value in values.items()}, sync_dist=True)
            self.log("AP" if kind == "box" else "mask AP", values["AP"], prog_bar=True, logger=False, sync_dist=True)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: tuple[Images, list[str], list[str]], batch_idx: int) -> dict[str, Any]:
        """Detections of at least ``min_score``: ``{"source": paths, "detections": one dict per image, on the CPU}``."""
        images, sources, _ = batch
        found = []
        for one in self(images) if sources else []:
            kept = one["scores"] >= self.min_score  # most are not, and masks are as large as the image
            found.append({name: value[kept].cpu() for name, value in one.items()})
        return {"source": sources, "detections": found}


def coco_results(image_id: int, detections: Mapping[str, Tensor], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return the detections of an image in COCO's results format.

    Args:
        image_id: id of the image.
        detections: ``boxes`` (N, 4) as ``[x1, y1, x2, y2]``, ``labels`` (N,), ``scores`` (N,), perhaps ``masks``
            (N, 1, H, W) in 0-1, which are cut at a half.
        category_ids: label ``i`` is of category ``category_ids[i - 1]``.

    Example:
        >>> found = {"boxes": torch.tensor([[2.0, 3.0, 7.0, 9.0]]), "labels": torch.tensor([1])}
        >>> coco_results(5, {**found, "scores": torch.tensor([0.5])}, [18])
        [{'image_id': 5, 'category_id': 18, 'bbox': [2.0, 3.0, 5.0, 6.0], 'score': 0.5}]
    """
    boxes = box_convert(detections["boxes"].float().cpu(), "xyxy", "xywh")
    columns = zip(boxes.tolist(), detections["labels"].tolist(), detections["scores"].tolist(), strict=True)
    results: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": box, "score": score}
        for box, label, score in columns
    ]
    if "masks" in detections:
        masks = (detections["masks"][:, 0] > 0.5).cpu().numpy()
        for result, mask in zip(results, masks, strict=True):
            result["segmentation"] = encode_mask(mask)
    return results


def _on_first_device(value: Any) -> list[Any]:
    """Return the values of all devices on the first one, and nothing on the others."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    first = torch.distributed.get_rank() == 0
    gathered = [None] * torch.distributed.get_world_size() if first else None
    torch.distributed.gather_object(value, gathered)
    return gathered or []


def _only(ground_truth: Mapping[str, Any], images: set[int]) -> dict[str, Any]:
    """Leave out the images that were not evaluated, as with ``limit_val_batches``."""
    return {
        **ground_truth,
        "images": [image for image in ground_truth["images"] if image["id"] in images],
        "annotations": [a for a in ground_truth["annotations"] if a["image_id"] in images],
    }
