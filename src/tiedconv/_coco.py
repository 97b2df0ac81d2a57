"""COCO's format, which data, metrics and results share: reading, checking, masks."""

import json
import reprlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
        if not all(np.abs(np.asarray(polygon, float)).max() <= _FAR for polygon in polygons):
            raise ValueError(f"a polygon has a point that is further away than {_FAR} pixels, or is no number")
        rle = library.merge(library.frPyObjects(polygons, *size))
    mask: Array = library.decode(rle)
    return mask


def _library() -> Any:
    return require("faster_coco_eval.core.mask", extra="detection")


def read_json(who: str, path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: if it is none, with the place of the mistake.
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{who}: this is not JSON: {error}. Give a file in COCO's format.") from None


def check_ground_truth(who: str, content: Any, masks: str | None) -> None:
    """Check what metrics need of a data set in COCO's format, with masks under the key ``masks`` if that is given.

    Raises:
        ValueError: with the entry and what it lacks.
    """
    _check_parts(who, content)
    rules = {
        **_ids(content),
        "bbox": _BOX,
        "area": _NUMBER,
        "iscrowd": _FLAG_OR_NONE,
        **({masks: _POLYGONS_OR_RLE} if masks else {}),
    }
    _check_entries(who, "annotations", content["annotations"], rules)
    if masks:
        _check_sizes(who, "annotations", content["annotations"], masks, content)


def check_data_set(who: str, content: Any) -> None:
    """Check what training needs of a data set in COCO's format, but for the masks.

    Raises:
        ValueError: with the entry and what it lacks.
    """
    _check_parts(who, content)
    _check_entries(who, "images", content["images"], {"file_name": _TEXT, "height": _PIXELS, "width": _PIXELS})
    _check_entries(who, "categories", content["categories"], {"name": _TEXT})
    rules = {"id": _INTEGER, **_ids(content), "bbox": _BOX, "area": _NUMBER_OR_NONE, "iscrowd": _FLAG_OR_NONE}
    _check_entries(who, "annotations", content["annotations"], rules)


def _check_parts(who: str, content: Any) -> None:
    parts = ("images", "annotations", "categories")
    if not isinstance(content, Mapping) or not all(isinstance(content.get(part), list) for part in parts):
        raise ValueError(
            f"{who}: the ground truth must be a dictionary with the lists images, annotations and categories. "
            "Give a data set in COCO's format."
        )
    for part in ("images", "categories"):
        _check_entries(who, part, content[part], {"id": _INTEGER})
        count = Counter(entry["id"] for entry in content[part])
        if len(count) < len(content[part]):
            raise ValueError(f"{who}: id {count.most_common(1)[0][0]} comes twice in {part}. Give each its own.")


def check_results(who: str, content: Any, ground_truth: Mapping[str, Any], *, masks: bool) -> None:
    """Check detections in COCO's format, with masks if they are needed, against the data set that they are of.

    Raises:
        ValueError: with the entry and what it lacks.
    """
    if not _is_list(content):
        raise ValueError(f"{who}: results must be a list of detections, got a {type(content).__name__}.")
    region = {"segmentation": _COMPRESSED_RLE} if masks else {"bbox": _BOX}
    _check_entries(who, "results", content, {**_ids(ground_truth), "score": _NUMBER, **region})
    if masks:
        _check_sizes(who, "results", content, "segmentation", ground_truth)


class _Rule(NamedTuple):
    """What the value of a key must be: a test, and the same in words."""

    holds: Callable[[Any], bool]
    words: str


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_number(value: Any) -> bool:
    # Not math.isfinite, which fails for a whole number that no float can hold.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_place(value: Any) -> bool:
    return _is_number(value) and abs(value) <= _FAR


def _is_compressed_rle(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("counts"), str | bytes)


_FAR = 1_000_000  # pixels; the library walks along outlines step by step, and would take hours for a mistyped number
_INTEGER = _Rule(lambda value: isinstance(value, int) and abs(value) < 2**63, "a whole number of 64 bits")
_PIXELS = _Rule(lambda value: isinstance(value, int) and 0 < value <= _FAR, "a number of pixels")
_TEXT = _Rule(lambda value: isinstance(value, str) and value != "", "a text")
_NUMBER = _Rule(_is_number, "a finite number")
_NUMBER_OR_NONE = _Rule(lambda value: value is None or _is_number(value), "a finite number, or none")
_FLAG_OR_NONE = _Rule(lambda value: value is None or (isinstance(value, int) and value in (0, 1)), "0, 1 or none")
_BOX = _Rule(
    lambda value: _is_list(value) and len(value) == 4 and all(map(_is_number, value)) and min(value[2:]) >= 0,
    "four finite numbers x, y, width, height, the last two not negative",
)
_COMPRESSED_RLE = _Rule(_is_compressed_rle, "a compressed RLE: size, and counts as text")
_POLYGONS_OR_RLE = _Rule(
    lambda value: (
        isinstance(value, Mapping)
        or (
            _is_list(value)
            and all(_is_list(polygon) and all(map(_is_place, polygon)) for polygon in value)
            and any(len(polygon) >= 6 for polygon in value)
        )
    ),
    "an RLE or a list of polygons of three points and more, within a million pixels",
)


def _ids(ground_truth: Mapping[str, Any]) -> dict[str, _Rule]:
    images = {entry["id"] for entry in ground_truth["images"]}
    categories = {entry["id"] for entry in ground_truth["categories"]}

    def among(ids: set[int]) -> Callable[[Any], bool]:
        return lambda value: isinstance(value, int | float) and value in ids  # a list is in no set, and has no hash

    return {
        "image_id": _Rule(among(images), f"one of the {len(images)} images of the ground truth"),
        "category_id": _Rule(among(categories), f"one of the {len(categories)} categories of the ground truth"),
    }


def _check_entries(who: str, part: str, entries: Sequence[Any], rules: Mapping[str, _Rule]) -> None:
    for index, entry in enumerate(entries):
        for key, (holds, words) in rules.items():
            value = entry.get(key) if isinstance(entry, Mapping) else None
            if not holds(value):
                got = f"it is {reprlib.repr(value)}" if isinstance(entry, Mapping) and key in entry else "there is none"
                raise ValueError(f"{who}: {_name(part, index, entry)} must have as its {key} {words}; {got}. {_ADVICE}")


_ADVICE = "Correct the entry or leave it out, and check that all files belong to the same data set."


def _check_sizes(
    who: str, part: str, entries: Sequence[Mapping[str, Any]], key: str, ground_truth: Mapping[str, Any]
) -> None:
    """Check that a mask has the size of its image, without which it would silently match nothing."""
    _check_entries(who, "images", ground_truth["images"], {"height": _PIXELS, "width": _PIXELS})
    sizes = {image["id"]: [image["height"], image["width"]] for image in ground_truth["images"]}
    for index, entry in enumerate(entries):
        mask, expected = entry[key], sizes[entry["image_id"]]
        size: Any = mask.get("size") if isinstance(mask, Mapping) else expected
        if not _is_list(size) or list(size) != expected:
            raise ValueError(
                f"{who}: {_name(part, index, entry)} has a mask of size {size}, but its image has height "
                f"and width {expected}. Encode masks at the size of the image."
            )
        if isinstance(mask, Mapping) and not _fills(mask.get("counts"), expected[0] * expected[1]):
            raise ValueError(
                f"{who}: {_name(part, index, entry)} has an RLE whose counts are no run lengths of the {expected[0]} x "
                f"{expected[1]} pixels of its image. Encode the mask again."
            )


def _fills(counts: Any, pixels: int) -> bool:
    """Whether run lengths, compressed or not, fill a mask. The library loops without end over some that do not."""
    if not isinstance(counts, str | bytes):
        return _is_list(counts) and all(type(n) is int and n >= 0 for n in counts) and sum(counts) == pixels
    text = counts.encode("ascii", "replace") if isinstance(counts, str) else counts  # "?" is no digit
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48  # of 5 bits; a sixth says that more follow
    if not digits.size or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        return False
    ends = np.flatnonzero(digits < 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(digits.size) - np.repeat(starts, ends - starts + 1)
    if place.max() > 6:
        return False  # more than 32 bits
    runs = np.add.reduceat((digits & 31) << 5 * place, starts)
    runs -= (digits[ends] & 16) // 16 << 5 * (place[ends] + 1)  # the two's complement
    # From the fourth on, a number is the difference to the run before the last.
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    return bool(runs.min() >= 0 and runs.sum() == pixels)


_SINGULAR = {"images": "image", "annotations": "annotation", "categories": "category"}


def _name(part: str, index: int, entry: Any) -> str:
    """Name an entry by its id, and one that has none by its place."""
    if part in _SINGULAR and isinstance(entry, Mapping) and "id" in entry:
        return f"{_SINGULAR[part]} {entry['id']}"
    return f"{part}[{index}]"
