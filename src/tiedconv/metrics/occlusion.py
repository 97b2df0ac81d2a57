"""How much the objects of an image cover each other (paper, eq. 5)."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from .._checks import named
from .._coco import check_ground_truth, check_masks, decode_mask

Regions = Literal["boxes", "masks", "amodal"]
"""What of an object counts as its area: its box, its mask, or its mask with the parts that other objects cover."""

_KEYS: dict[Regions, str | None] = {"boxes": None, "masks": "segmentation", "amodal": "amodal_segmentation"}


def occlusion_ratio(masks_or_boxes: Tensor) -> float:
    r"""Return the fraction of the objects' area in one image that other objects cover too (paper, eq. 5).

    With :math:`c(p)` the number of objects at a place :math:`p`, that is
    :math:`\sum_{p: c(p) \ge 2} c(p) / \sum_p c(p)`: 0 if nothing overlaps, 1 if no object has a place of its own.

    Args:
        masks_or_boxes: boolean masks, or masks of any numeric type with the values 0 and 1; or boxes
            ``[x1, y1, x2, y2]`` in pixels, computed exactly, without a grid.

    Shape:
        - masks_or_boxes: :math:`(N, H, W)` or :math:`(N, 4)`, :math:`N` may be 0.

    Raises:
        ValueError: if a mask holds other values, or a box is not finite or ends before it begins.
        RuntimeError: if the shape is neither of these.

    Example:
        >>> occlusion_ratio(torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10]]))  # half of each
        0.5
    """
    if masks_or_boxes.dim() == 3:
        counts, areas = _count_masks(masks_or_boxes), torch.tensor(1)
    elif masks_or_boxes.dim() == 2 and masks_or_boxes.shape[1] == 4:
        counts, areas = _count_boxes(masks_or_boxes)
    else:
        raise RuntimeError(
            f"occlusion_ratio: expected masks (N, H, W) or boxes (N, 4), got {tuple(masks_or_boxes.shape)}. Pass the "
            "objects of one image."
        )
    covered = counts * areas
    total = covered.sum().item()
    return min(1.0, covered[counts >= 2].sum().item() / total) if total else 0.0


@named("occlusion_ratios")
def occlusion_ratios(ground_truth: Mapping[str, Any], regions: Regions = "boxes") -> dict[int, float]:
    """Return the occlusion ratio of every image of a data set in COCO's format, by image id; crowds are left out.

    Args:
        ground_truth: as in :func:`tiedconv.metrics.coco.coco_metrics`.
        regions: ``"boxes"`` takes bbox. ``"masks"`` takes segmentation (polygons or RLE); COCO's masks are only of what
            is visible and hardly overlap, so boxes say more. ``"amodal"`` takes amodal_segmentation, in the same form:
            the whole object, covered parts included.

    Raises:
        ValueError: if an annotation lacks what is needed, with its id.
    """
    if regions not in _KEYS:
        raise ValueError(f"regions must be one of {', '.join(_KEYS)}, got {regions!r}.")
    key = _KEYS[regions]
    check_ground_truth(ground_truth, masks=None)
    objects = without_crowds(ground_truth)
    if key:
        check_masks(objects, ground_truth, key)
    by_image: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in ground_truth["images"]}
    for entry in objects:
        by_image[entry["image_id"]].append(entry)
    ratios = {}
    for image in ground_truth["images"]:
        entries = by_image[image["id"]]
        if len(entries) < 2:
            ratios[image["id"]] = 0.0
            continue
        if key is None:
            boxes = torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float64)
            objects_of_image = box_convert(boxes, "xywh", "xyxy")
        else:
            masks = [decode_mask(entry[key], (image["height"], image["width"])) for entry in entries]
            objects_of_image = torch.from_numpy(np.stack(masks)).view(torch.bool)
        ratios[image["id"]] = occlusion_ratio(objects_of_image)
    return ratios


def without_crowds(ground_truth: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the annotations that are of single objects."""
    return [entry for entry in ground_truth["annotations"] if not entry.get("iscrowd")]


def _count_masks(masks: Tensor) -> Tensor:
    """Return how many objects there are at each pixel, (H, W)."""
    if masks.dtype != torch.bool and not ((masks == 0) | (masks == 1)).all():
        raise ValueError(
            f"occlusion_ratio: masks must hold 0 and 1, got values from {masks.min().item():g} to "
            f"{masks.max().item():g}. Compare scores with a threshold first."
        )
    counts = masks[:1].sum(dim=0, dtype=torch.int32)
    for mask in masks[1:]:  # several times faster than one sum, which would convert all masks first
        counts += mask.bool()
    return counts


def _count_boxes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many boxes cover each cell of the grid that their sides span, and the areas of the cells."""
    if isinstance(boxes, BoundingBoxes) and boxes.format != BoundingBoxFormat.XYXY:
        raise ValueError(f"occlusion_ratio: boxes must be [x1, y1, x2, y2], got {boxes.format.value}. Convert them.")
    boxes = torch.as_tensor(boxes, dtype=torch.float64, device="cpu").as_subclass(Tensor)
    wrong = ~boxes.isfinite().all(dim=1) | (boxes[:, 2:] < boxes[:, :2]).any(dim=1)
    if wrong.any():
        index = int(wrong.nonzero()[0])
        raise ValueError(
            f"occlusion_ratio: boxes[{index}] = {boxes[index].tolist()} must be finite and have x1 <= x2 and y1 <= y2. "
            "If it is x, y, width, height, convert it."
        )
    x, inside_x = _cells(boxes[:, 0], boxes[:, 2])
    y, inside_y = _cells(boxes[:, 1], boxes[:, 3])
    return inside_y.T @ inside_x, y.outer(x)


def _cells(starts: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lengths of the cells between starts and ends, (M), and which of them each interval covers, (N, M)."""
    edges = torch.cat([starts, ends]).unique()
    inside = (starts[:, None] <= edges[:-1]) & (edges[1:] <= ends[:, None])
    return edges.diff(), inside.double()
