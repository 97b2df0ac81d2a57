"""Detectors by name: torchvision's, and the cascades it lacks, on any timm backbone."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign

from .backbone import FPNBackbone, Norm
from .cascade import CascadeRoIHeads, ClassAgnosticPredictor

DetectorName = Literal["retinanet", "faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn"]

_CASCADE = (  # IoU threshold and box weights of each stage (Cascade R-CNN)
    (0.5, (10.0, 10.0, 5.0, 5.0)),
    (0.6, (20.0, 20.0, 10.0, 10.0)),
    (0.7, (30.0, 30.0, 15.0, 15.0)),
)
_OURS = {"backbone", "num_classes", "anchor_generator", "head", "proposal_matcher", "rpn_anchor_generator", "rpn_head",
         "box_roi_pool", "box_head", "box_predictor", "kwargs"}  # fmt: skip
_FIXED_BY_CASCADE = ("box_fg_iou_thresh", "box_bg_iou_thresh", "bbox_reg_weights")


@dataclass(frozen=True)
class Widths:
    """Channels of the parts above the backbone. The defaults are the papers'.

    Attributes:
        fpn: of the pyramid's maps, and of the convolutions of the RPN and of RetinaNet's heads.
        box: of the two fully connected layers of a box head.
        mask: of the mask head's convolutions.
        mask_convs: how many convolutions the mask head has.
    """

    fpn: int = 256
    box: int = 1024
    mask: int = 256
    mask_convs: int = 4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"Widths: {name} must be at least 1, got {value}.")


def build_detector(
    name: DetectorName,
    *,
    backbone: str = "tiedresnet50",
    num_classes: int = 91,
    weights: str | Path | None = None,
    frozen_stages: int = 0,
    norm: Norm = "batch",
    context_blocks: int | None = None,
    levels: int | None = None,
    widths: Widths = Widths(),  # frozen
    anchor_sizes: Sequence[float] | None = None,
    backbone_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """Build a detector of torchvision's kind: the same inputs, outputs, losses and post-processing.

    In training it takes a list of images (3, H, W) in 0-1 and a list of targets (``boxes`` (N, 4) as
    ``[x1, y1, x2, y2]`` in pixels, ``labels`` (N,) from 1 on, ``masks`` (N, H, W) for the mask detectors) and returns a
    dict of losses. In evaluation it takes images alone and returns for each a dict of ``boxes``, ``labels``, ``scores``
    and perhaps ``masks`` (N, 1, H, W) in 0-1. It scales images to a short side of 800 pixels, a long side of at most
    1333, and normalises them as timm's weights of the backbone need it.

    Args:
        name: ``"retinanet"`` (Lin et al., 2017), ``"faster_rcnn"`` (Ren et al., 2015), ``"mask_rcnn"`` (He et al.,
            2017), ``"cascade_rcnn"`` or ``"cascade_mask_rcnn"`` (Cai and Vasconcelos, 2018 and 2019).
        backbone: a timm model, tied or not.
        num_classes: classes, the background included: 91 counts COCO's ids up to 90.
        weights, frozen_stages, norm, context_blocks: as in :class:`FPNBackbone`. From a classifier's weights one
            usually fixes two stages and all batch norms.
        levels: how many of the backbone's last feature maps to use. Default: 4, and 3 for RetinaNet.
        widths: channels above the backbone.
        anchor_sizes: side of the square anchor of each level in pixels. Default: 8 times the level's reduction, 4 times
            for RetinaNet (which adds two more octave steps); for a ResNet that is 32 to 512.
        backbone_kwargs: more arguments for ``timm.create_model``.
        options: torchvision's own, such as ``min_size``, ``box_detections_per_img`` or ``rpn_post_nms_top_n_train``.

    Raises:
        ValueError: if the name is unknown, or an option is out of range.
        TypeError: if there is no such option, or ``widths`` is of another kind.

    Example:
        >>> import torch
        >>> model = build_detector("faster_rcnn", backbone="tiedresnet_tiny", num_classes=11, min_size=64)
        >>> [sorted(output) for output in model.eval()([torch.zeros(3, 64, 96)])]
        [['boxes', 'labels', 'scores']]
    """
    if name not in get_args(DetectorName):
        raise ValueError(f"build_detector: name must be one of {', '.join(get_args(DetectorName))}, got {name!r}.")
    if num_classes < 2:
        raise ValueError(
            f"build_detector: num_classes counts the background and must be at least 2, got {num_classes}."
        )
    if not isinstance(widths, Widths):
        raise TypeError(f"build_detector: widths must be a tiedconv.detection.Widths, got {widths!r}.")
    _check_options(name, options)
    retina = name == "retinanet"
    body = FPNBackbone(
        backbone,
        levels=levels or (3 if retina else 4),
        out_channels=widths.fpn,
        top="p6p7" if retina else "pool",
        frozen_stages=frozen_stages,
        norm=norm,
        context_blocks=context_blocks,
        weights=weights,
        model_kwargs=backbone_kwargs,
    )
    options = {"image_mean": list(body.mean), "image_std": list(body.std), **options}
    anchors = _anchors(body.reductions, anchor_sizes, retina=retina)
    count = anchors.num_anchors_per_location()[0]
    if retina:
        head = RetinaNetHead(widths.fpn, count, num_classes)
        return _RetinaNet(body, num_classes, anchor_generator=anchors, head=head, **options)

    parts: dict[str, Any] = {"rpn_anchor_generator": anchors, **options}
    parts |= _box_parts(body, widths)
    if name == "mask_rcnn":
        predictor = FastRCNNPredictor(widths.box, num_classes)
        return MaskRCNN(body, **parts, box_predictor=predictor, **_mask_parts(body, widths, num_classes))
    if name == "faster_rcnn":
        return FasterRCNN(body, **parts, box_predictor=FastRCNNPredictor(widths.box, num_classes))
    model = FasterRCNN(body, **parts, box_predictor=ClassAgnosticPredictor(widths.box, num_classes))
    model.roi_heads = _cascade(model.roi_heads, body, widths, num_classes, masks=name == "cascade_mask_rcnn")
    return model


class _RetinaNet(RetinaNet):
    """torchvision's RetinaNet, kept from detecting the background, for which it has a score too."""

    def postprocess_detections(
        self, head_outputs: dict[str, list[Tensor]], anchors: list[list[Tensor]], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        logits = [F.pad(level[..., 1:], (1, 0), value=-math.inf) for level in head_outputs["cls_logits"]]
        outputs = {**head_outputs, "cls_logits": logits}
        return super().postprocess_detections(outputs, anchors, image_shapes)


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    """Check that torchvision takes every option: its constructors swallow those they do not know."""
    detector = RetinaNet if name == "retinanet" else FasterRCNN
    known = [p for p in inspect.signature(detector).parameters if p not in _OURS]
    if name.startswith("cascade"):
        known = [option for option in known if option not in _FIXED_BY_CASCADE]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise TypeError(
            f"build_detector: {name} has no option {', '.join(unknown)}. Besides build_detector's own arguments there "
            f"are: {', '.join(known)}."
        )


def _anchors(reductions: Sequence[int], sizes: Sequence[float] | None, *, retina: bool) -> AnchorGenerator:
    bases = [(4 if retina else 8) * r for r in reductions] if sizes is None else sizes
    if len(bases) != len(reductions):
        raise ValueError(
            f"build_detector: anchor_sizes has {len(bases)} entries for {len(reductions)} levels, with reductions "
            f"{', '.join(map(str, reductions))}. Give one size for each level."
        )
    scales = [2 ** (i / 3) for i in range(3)] if retina else [1]
    # Whole numbers as in torchvision, unless the user gave others.
    rounded = int if sizes is None else float
    of_levels = tuple(tuple(rounded(base * scale) for scale in scales) for base in bases)
    return AnchorGenerator(of_levels, ((0.5, 1.0, 2.0),) * len(bases))


def _roi_pool(body: FPNBackbone, size: int) -> MultiScaleRoIAlign:
    return MultiScaleRoIAlign([str(i) for i in range(body.levels)], output_size=size, sampling_ratio=2)


def _box_parts(body: FPNBackbone, widths: Widths) -> dict[str, nn.Module]:
    return {"box_roi_pool": _roi_pool(body, 7), "box_head": TwoMLPHead(widths.fpn * 7**2, widths.box)}


def _mask_parts(body: FPNBackbone, widths: Widths, num_classes: int) -> dict[str, nn.Module]:
    return {
        "mask_roi_pool": _roi_pool(body, 14),
        "mask_head": MaskRCNNHeads(widths.fpn, (widths.mask,) * widths.mask_convs, 1),
        "mask_predictor": MaskRCNNPredictor(widths.mask, widths.mask, num_classes),
    }


def _cascade(first: RoIHeads, body: FPNBackbone, widths: Widths, num_classes: int, *, masks: bool) -> CascadeRoIHeads:
    """Build the stages, with the user's settings taken from the heads of a plain Faster R-CNN."""
    return CascadeRoIHeads(
        [
            RoIHeads(
                **_box_parts(body, widths),
                box_predictor=ClassAgnosticPredictor(widths.box, num_classes),
                fg_iou_thresh=iou,
                bg_iou_thresh=iou,
                batch_size_per_image=first.fg_bg_sampler.batch_size_per_image,
                positive_fraction=first.fg_bg_sampler.positive_fraction,
                bbox_reg_weights=box_weights,
                score_thresh=first.score_thresh,
                nms_thresh=first.nms_thresh,
                detections_per_img=first.detections_per_img,
                **(_mask_parts(body, widths, num_classes) if masks else {}),
            )
            for iou, box_weights in _CASCADE
        ]
    )
