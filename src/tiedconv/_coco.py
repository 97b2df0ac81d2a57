"""COCO's format of masks, which data, metrics and results share."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ._extras import require

Array = np.ndarray[Any, Any]


def encode_mask(mask: Array) -> dict[str, Any]:
    """Return a mask (H, W) of 0 and 1, or of bools, as a compressed RLE that JSON takes.

    Raises:
        ModuleNotFoundError: if the ``detection`` extra is not installed.

    Example:
        >>> encode_mask(np.array([[0, 1], [0, 1]]))
        {'size': [2, 2], 'counts': '22'}
    """
    rle = _library().encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def decode_mask(segmentation: Any, size: tuple[int, int]) -> Array:
    """Return a segmentation as a mask (H, W) of 0 and 1, uint8.

    Args:
        segmentation: polygons ``[[x1, y1, x2, y2, x3, y3, ...], ...]``, of which those of fewer than three points
            are left out, or an RLE with plain or compressed counts.
        size: height and width of the image.

    Raises:
        ValueError: if an RLE is of another size than the image, or there is nothing to decode.
        ModuleNotFoundError: if the ``detection`` extra is not installed.

    Example:
        >>> decode_mask([[0, 0, 2, 0, 2, 1, 0, 1]], (2, 3)).tolist()
        [[1, 1, 0], [0, 0, 0]]
    """
    library = _library()
    if isinstance(segmentation, Mapping):
        if list(segmentation["size"]) != list(size):
            raise ValueError(f"the RLE is of size {list(segmentation['size'])}, the image of {list(size)}")
        compressed = isinstance(segmentation["counts"], str | bytes)
        rle = segmentation if compressed else library.frPyObjects(segmentation, *size)
    else:
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        if not polygons:
            raise ValueError("no polygon has three points")
        rle = library.merge(library.frPyObjects(polygons, *size))
    mask: Array = library.decode(rle)
    return mask


def _library() -> Any:
    return require("faster_coco_eval.core.mask", extra="detection")
