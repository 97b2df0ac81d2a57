"""COCO's average precision, of boxes or masks, over all images or over any choice of them.

faster-coco-eval computes it. torchmetrics' MeanAveragePrecision, which calls it too, agrees to 1e-7 if it gets areas
and thresholds in float64, but it takes dense masks instead of RLEs: 31 MB for 100 objects in 480 x 640 pixels.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from .._checks import named
from .._coco import check_ground_truth, check_results, read_json
from .._extras import require

METRICS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")
"""AP over the IoU thresholds 0.5 to 0.95, at 0.5, at 0.75, and of small, medium and large objects."""

Kind = Literal["box", "mask"]
"""What a detection is compared by."""

_MASK_KEYS = {"box": None, "mask": "segmentation"}


@named("coco_metrics")
def coco_metrics(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: Kind) -> dict[str, float]:
    """Return COCO's six figures of average precision, fractions 0-1, by the names in :data:`METRICS`.

    Sizes go by ``area`` in the ground truth. A detection that matches no object goes by its own area: that of its mask
    if ``kind`` is ``"mask"``, even where it has a box as well.

    Args:
        ground_truth: a data set in COCO's format: images, annotations and categories.
        results: detections in COCO's format: image_id, category_id, score and bbox (x, y, width, height in pixels) or
            segmentation (a compressed RLE).
        kind: compare boxes or masks.

    Returns:
        A value per metric, nan where there is nothing to find, such as no large object.

    Raises:
        ValueError: if an entry lacks what is needed, or belongs to no image or category of the ground truth.

    Example:
        >>> truth = {
        ...     "images": [{"id": 1}],
        ...     "categories": [{"id": 7}],
        ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 10, 10], "area": 100}],
        ... }
        >>> found = [{"image_id": 1, "category_id": 7, "bbox": [0, 0, 10, 8], "score": 0.9}]  # IoU 0.8
        >>> {name: round(value, 3) for name, value in coco_metrics(truth, found, "box").items()}
        {'AP': 0.7, 'AP50': 1.0, 'AP75': 1.0, 'AP_S': 0.7, 'AP_M': nan, 'AP_L': nan}
    """
    evaluation = _prepare(ground_truth, results, kind)
    evaluation.run()
    found = zip(METRICS, evaluation.stats, strict=False)
    # The library writes -1 where there is nothing to find.
    return {name: float(value) if value >= 0 else math.nan for name, value in found}


class CocoMatches:
    """Detections matched with the ground truth once, to take the average precision over many choices of images.

    Images are matched independently, so that each choice costs only the accumulation. Objects of every area count,
    and the 100 best detections per image and category.

    Args:
        ground_truth, results, kind: as in :func:`coco_metrics`.

    Attributes:
        images: ids of the images of the ground truth, ascending.
    """

    def __init__(self, ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: Kind) -> None:
        with named("CocoMatches"):
            evaluation = _prepare(ground_truth, results, kind, separate_eval=True)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        self._params = evaluation.params
        # One entry per category and image; the library has no public name for it.
        self._matches = evaluation._evalImgs_cpp
        self.images = [int(image) for image in self._params.imgIds]
        self._places = {image: place for place, image in enumerate(self.images)}

    def ap_by_iou(self, images: Sequence[int] | None = None) -> dict[float, float]:
        """Return the average precision over some images, a fraction 0-1, at each of COCO's ten IoU thresholds.

        It is nan if these images show nothing to find. COCO's AP is the mean over the thresholds.

        Args:
            images: ids; one that comes several times counts as several images. None: each image once.

        Raises:
            ValueError: if an image is unknown.
        """
        chosen = self.images if images is None else images
        unknown = next((image for image in chosen if image not in self._places), None)
        if unknown is not None:
            raise ValueError(
                f"CocoMatches: image {unknown!r} is not among the {len(self.images)} of the ground truth. Choose from "
                "the attribute images."
            )
        thresholds = [round(float(iou), 2) for iou in self._params.iouThrs]
        accumulate = require("faster_coco_eval.faster_eval_api_cpp", extra="detection").COCOevalAccumulate
        places = [self._places[image] for image in chosen]
        starts = range(0, len(self._matches), len(self.images) or 1)  # one category after the other
        params = copy.copy(self._params)
        params.imgIds = list(range(len(places)))
        matches = [self._matches[start + place] for start in starts for place in places]
        precision = accumulate(params, matches)["precision"][..., 0, 0]  # (threshold, recall, category)
        present = precision[..., precision[0, 0] >= 0]  # -1 stands for a category without objects
        if not present.size:
            return dict.fromkeys(thresholds, math.nan)
        return dict(zip(thresholds, present.mean(axis=(1, 2)).tolist(), strict=True))


def read_annotations(path: Path, kind: Kind = "box") -> dict[str, Any]:
    """Read a data set in COCO's format.

    Raises:
        ValueError: if the file is not JSON, or an annotation lacks what is needed to compare boxes or masks.
    """
    with named(f"read_annotations: {path}"):
        _check_kind(kind)
        content: dict[str, Any] = read_json(path)
        check_ground_truth(content, _MASK_KEYS[kind])
    return content


def read_results(path: Path, ground_truth: Mapping[str, Any], kind: Kind = "box") -> list[dict[str, Any]]:
    """Read detections in COCO's format, which are to be compared with ``ground_truth``.

    Raises:
        ValueError: if the file is not JSON, or a detection lacks what is needed or belongs to another data set.
    """
    with named(f"read_results: {path}"):
        _check_kind(kind)
        content: list[dict[str, Any]] = read_json(path)
        check_results(content, ground_truth, masks=kind == "mask")
    return content


def _prepare(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: Kind, **options: Any) -> Any:
    """Return the library's evaluation of copies: it writes into what it is given."""
    _check_kind(kind)
    check_ground_truth(ground_truth, _MASK_KEYS[kind])
    check_results(results, ground_truth, masks=kind == "mask")
    library = require("faster_coco_eval", extra="detection")
    truth = library.COCO(
        {
            "images": list(ground_truth["images"]),
            # Ids of our own: to the library, an annotation with id 0 does not exist, and two with one id are one.
            "annotations": [
                {**entry, "id": number, "iscrowd": entry.get("iscrowd") or 0}
                for number, entry in enumerate(ground_truth["annotations"], 1)
            ],
            "categories": list(ground_truth["categories"]),
        }
    )
    # Without the box of a mask: the library would take the area of the box for that of the mask.
    keys = ("image_id", "category_id", "score", _MASK_KEYS[kind] or "bbox")
    found = truth.loadRes([{key: entry[key] for key in keys} for entry in results])
    called = "bbox" if kind == "box" else "segm"
    return library.COCOeval_faster(truth, found, called, print_function=lambda *_: None, **options)


def _check_kind(kind: str) -> None:
    if kind not in _MASK_KEYS:
        raise ValueError(f"kind must be 'box' or 'mask', got {kind!r}.")
