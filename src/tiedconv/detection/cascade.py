"""The RoI heads of Cascade R-CNN and Cascade Mask R-CNN, a chain of torchvision's ``RoIHeads``."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference, maskrcnn_loss
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

Maps = dict[str, Tensor]
Sizes = list[tuple[int, int]]
Target = dict[str, Tensor]

MIN_BOX_SIZE = 1e-2  # pixels; what is narrower counts as empty, as in RoIHeads.postprocess_detections


class ClassAgnosticPredictor(nn.Module):
    """Class scores and one box regression for all classes, in the layout of torchvision's ``FastRCNNPredictor``.

    The four deltas are repeated for every class, so that whatever class torchvision's loss and postprocessing pick,
    they get the same ones.

    Args:
        in_channels: width of the box head's output.
        num_classes: how many classes are scored, background (class 0) included.

    Shape:
        - Input: (N, C) or (N, C, 1, 1) with C = ``in_channels`` and one row per box; N may be 0.
        - Output: class logits (N, K) and deltas (N, 4K) with K = ``num_classes``.

    Example:
        >>> logits, deltas = ClassAgnosticPredictor(1024, num_classes=3)(torch.zeros(5, 1024))
        >>> logits.shape, deltas.shape
        (torch.Size([5, 3]), torch.Size([5, 12]))
        >>> torch.equal(deltas[:, 4:8], deltas[:, 8:12])
        True
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x).repeat(1, self.cls_score.out_features)


class CascadeRoIHeads(nn.Module):
    """RoI heads in stages, each of which starts from the boxes that the stage before has refined.

    Source: Cai & Vasconcelos, "Cascade R-CNN: High Quality Object Detection and Instance Segmentation" (2019); masks
    as in its variant with a mask head in every stage. It takes the place of ``roi_heads`` in torchvision's
    ``GeneralizedRCNN``.

    In training, a stage samples among its proposals and the ground truth, by its own IoU threshold. The samples, except
    for the ground-truth boxes, are refined into the next stage's proposals, without a gradient. At evaluation, all
    proposals pass all stages. The last stage's boxes get the mean of the class probabilities that each stage gave its
    own boxes, and its ``score_thresh``, ``nms_thresh`` and ``detections_per_img`` choose among them. Every stage then
    predicts masks in the final boxes, and their probabilities are averaged.

    Args:
        stages: the heads of each stage, at least one, with masks in all or in none and without keypoints. The paper has
            three, with IoU thresholds 0.5, 0.6, 0.7 and box coder weights (10, 10, 5, 5), (20, 20, 10, 10),
            (30, 30, 15, 15). All but the last need a class-agnostic predictor, such as :class:`ClassAgnosticPredictor`.
        loss_weights: factor of each stage's losses, one per stage.

    Shape:
        - features: dict of maps (N, C, H, W), for N images; as the stages' poolers want them.
        - proposals: list of N tensors (P, 4), ``[x1, y1, x2, y2]`` in pixels. P may be 0.
        - image_shapes: list of N pairs (height, width) in pixels.
        - targets: list of N dicts; needed in training, ignored at evaluation: ``boxes`` (G, 4), ``labels`` (G), 1 to
          K - 1, and with mask heads ``masks`` (G, height, width). G may be 0.
        - Output: (detections, losses). In training, ``[]`` and the weighted losses ``loss_classifier_1``,
          ``loss_box_reg_1``, with mask heads ``loss_mask_1``, then ``..._2`` for the second stage and so on. At
          evaluation, N dicts and ``{}``: ``boxes`` (D, 4), ``labels`` (D), ``scores`` (D), 0-1, highest first, and with
          mask heads ``masks`` (D, 1, M, M), probabilities within the boxes. D may be 0.

    Raises:
        TypeError: at construction, if a stage before the last has a ``FastRCNNPredictor``.
        ValueError: at construction, if there are no stages, not one loss weight per stage, masks in some stages
            only, or keypoint heads; at the call in training, if targets or one of their keys are missing.

    Example:
        >>> from tiedconv.detection import build_detector
        >>> heads = build_detector("cascade_rcnn", backbone="tiedresnet_tiny", num_classes=3).eval().roi_heads
        >>> maps = {str(i): torch.zeros(1, 256, 16, 16) for i in range(4)}
        >>> detections, losses = heads(maps, [torch.tensor([[8.0, 8, 40, 48]])], [(64, 64)])
        >>> sorted(detections[0]), losses
        (['boxes', 'labels', 'scores'], {})
    """

    def __init__(self, stages: Sequence[RoIHeads], loss_weights: Sequence[float] = (1.0, 0.5, 0.25)) -> None:
        super().__init__()
        _check_stages(stages, loss_weights)
        self.stages: Any = nn.ModuleList(stages)
        self.loss_weights = tuple(loss_weights)

    def has_mask(self) -> bool:
        """Whether masks are predicted too."""
        return self.stages[0].has_mask()

    def forward(
        self, features: Maps, proposals: list[Tensor], image_shapes: Sizes, targets: list[Target] | None = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        if not self.training:
            return self._detect(features, proposals, image_shapes), {}
        self.stages[0].check_targets(targets)
        return [], self._compute_losses(features, proposals, image_shapes, targets)  # type: ignore[arg-type]  # not None

    def _compute_losses(
        self, features: Maps, proposals: list[Tensor], image_shapes: Sizes, targets: list[Target]
    ) -> dict[str, Tensor]:
        losses = {}
        for number, (stage, weight) in enumerate(zip(self.stages, self.loss_weights, strict=True), start=1):
            boxes, matches, labels, regression_targets = stage.select_training_samples(proposals, targets)
            logits, deltas = _predict_boxes(stage, features, boxes, image_shapes)
            if len(logits):
                classifier_loss, box_loss = fastrcnn_loss(logits, deltas, labels, regression_targets)
            else:  # fastrcnn_loss would divide by the number of samples
                classifier_loss, box_loss = logits.sum(), deltas.sum()
            losses[f"loss_classifier_{number}"] = weight * classifier_loss
            losses[f"loss_box_reg_{number}"] = weight * box_loss
            if stage.has_mask():
                positive = [label > 0 for label in labels]
                objects = [b[chosen] for b, chosen in zip(boxes, positive, strict=True)]
                matches = [m[chosen] for m, chosen in zip(matches, positive, strict=True)]
                masks = _predict_masks(stage, features, objects, image_shapes)
                truth = [t["masks"] for t in targets], [t["labels"] for t in targets]
                losses[f"loss_mask_{number}"] = weight * maskrcnn_loss(masks, objects, *truth, matches)
            if number < len(self.stages):
                refined = _refine(stage, deltas, boxes, image_shapes)
                proposals = [_next_proposals(*image) for image in zip(boxes, refined, targets, strict=True)]
        return losses

    def _detect(self, features: Maps, boxes: list[Tensor], image_shapes: Sizes) -> list[dict[str, Tensor]]:
        *earlier, last = self.stages
        probabilities = []
        for stage in earlier:
            logits, deltas = _predict_boxes(stage, features, boxes, image_shapes)
            probabilities.append(logits.softmax(-1))
            boxes = _refine(stage, deltas, boxes, image_shapes)
        logits, deltas = _predict_boxes(last, features, boxes, image_shapes)
        probabilities.append(logits.softmax(-1))

        # postprocess_detections takes the softmax, which turns log(p) into p again, and log(0) = -inf into 0.
        mean_logits = torch.stack(probabilities).mean(0).log()
        boxes, scores, labels = last.postprocess_detections(mean_logits, deltas, boxes, image_shapes)
        keys = ("boxes", "labels", "scores")
        detections = [dict(zip(keys, image, strict=True)) for image in zip(boxes, labels, scores, strict=True)]
        if self.has_mask():
            masks = [maskrcnn_inference(_predict_masks(s, features, boxes, image_shapes), labels) for s in self.stages]
            for detection, stage_masks in zip(detections, zip(*masks, strict=True), strict=True):
                detection["masks"] = torch.stack(stage_masks).mean(0)
        return detections


def _predict_boxes(stage: RoIHeads, features: Maps, boxes: list[Tensor], image_shapes: Sizes) -> tuple[Tensor, Tensor]:
    logits, deltas = stage.box_predictor(stage.box_head(stage.box_roi_pool(features, boxes, image_shapes)))
    # In the boxes' precision: the half precision of autocast would round refined boxes to a pixel and worse.
    return logits.to(boxes[0].dtype), deltas.to(boxes[0].dtype)


def _predict_masks(stage: RoIHeads, features: Maps, boxes: list[Tensor], image_shapes: Sizes) -> Tensor:
    return stage.mask_predictor(stage.mask_head(stage.mask_roi_pool(features, boxes, image_shapes)))


@torch.no_grad()
def _refine(stage: RoIHeads, deltas: Tensor, boxes: list[Tensor], image_shapes: Sizes) -> list[Tensor]:
    """Move each image's boxes by the deltas, of which all classes have the same four, and clip them to the image."""
    moved = stage.box_coder.decode(deltas[:, :4], boxes).reshape(-1, 4).split([len(b) for b in boxes])
    return [clip_boxes_to_image(b, shape) for b, shape in zip(moved, image_shapes, strict=True)]


def _next_proposals(boxes: Tensor, refined: Tensor, target: Target) -> Tensor:
    """Return an image's refined boxes, without empty ones and without those that came from the ground truth.

    The next stage adds the ground truth itself, and a box that is perfect already teaches nothing about refinement.
    """
    ground_truth = target["boxes"].to(boxes)
    is_ground_truth = (boxes[:, None] == ground_truth).all(-1).any(-1)
    refined = refined[~is_ground_truth]
    return refined[remove_small_boxes(refined, MIN_BOX_SIZE)]


def _check_stages(stages: Sequence[RoIHeads], loss_weights: Sequence[float]) -> None:
    if len(stages) == 0:
        raise ValueError("CascadeRoIHeads: stages is empty. Pass one RoIHeads per stage.")
    for number, stage in enumerate(stages, start=1):
        if stage.has_keypoint():
            raise ValueError(f"CascadeRoIHeads: stage {number} has a keypoint head. Build it for boxes and masks only.")
        if number < len(stages) and isinstance(stage.box_predictor, FastRCNNPredictor):
            raise TypeError(
                f"CascadeRoIHeads: stage {number} of {len(stages)} has a FastRCNNPredictor, which moves a box "
                "differently for each class, but the next stage needs one box. Use ClassAgnosticPredictor."
            )
    if len(loss_weights) != len(stages):
        raise ValueError(
            f"CascadeRoIHeads: {len(stages)} stages need {len(stages)} loss_weights, got {tuple(loss_weights)}."
        )
    if len({stage.has_mask() for stage in stages}) > 1:
        raise ValueError(
            "CascadeRoIHeads: only some stages predict masks. Give each a mask_roi_pool, mask_head and mask_predictor, "
            "or none."
        )
