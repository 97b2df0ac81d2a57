"""COCO's format, which data, metrics and results share: reading, checking, masks.

The checks say what is wrong; callers put their own name and the file in front with :class:`~tiedconv._checks.named`.
"""

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

    Example:
        >>> encode_mask(np.array([[0, 1], [0, 1]]))
        {'size': [2, 2], 'counts': '22'}
    """
    rle = _library().encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def decode_mask(segmentation: Any, size: tuple[int, int]) -> Array:
    """Return a segmentation that :func:`check_masks` has accepted as a mask (H, W) of 0 and 1, uint8.

    Args:
        segmentation: polygons ``[[x1, y1, x2, y2, x3, y3, ...], ...]``, of which those of fewer than three points
            are left out, or an RLE with plain or compressed counts.
        size: height and width of the image.

    Example:
        >>> decode_mask([[0, 0, 2, 0, 2, 1, 0, 1]], (2, 3)).tolist()
        [[1, 1, 0], [0, 0, 0]]
    """
    library = _library()
    if isinstance(segmentation, Mapping):
        compressed = isinstance(segmentation["counts"], str | bytes)
        rle = segmentation if compressed else library.frPyObjects(segmentation, *size)
    else:
        rle = library.merge(library.frPyObjects([polygon for polygon in segmentation if len(polygon) >= 6], *size))
    mask: Array = library.decode(rle)
    return mask


def _library() -> Any:
    return require("faster_coco_eval.core.mask", extra="detection")


def read_json(path: Path) -> Any:
    """Read a JSON file, with or without the byte-order mark that programs on Windows write.

    Raises:
        ValueError: if it is not JSON, with the place of the mistake.
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is not JSON: {error}. Give a file in COCO's format.") from None


def coco_json(content: Any) -> str:
    """Return a data set in COCO's format as JSON, also one in memory: with numpy's numbers and pycocotools' bytes."""

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.decode()
        return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)

    return json.dumps(content, default=plain)


def check_ground_truth(content: Any, masks: str | None) -> None:
    """Check what metrics need of a data set in COCO's format.

    Args:
        content: what its JSON file holds.
        masks: key of the annotations' masks. None: none are needed.

    Raises:
        ValueError: with the entry and what is wrong with it.
    """
    _check_parts(content)
    rules = {**_ids(content), "bbox": _BOX, "area": _AREA, "iscrowd": _FLAG_OR_NONE}
    _check_entries("annotations", content["annotations"], rules)
    if masks:
        check_masks(content["annotations"], content, masks)


def check_data_set(content: Any) -> None:
    """Check what training needs of a data set in COCO's format, except for the masks.

    Raises:
        ValueError: with the entry and what is wrong with it.
    """
    _check_parts(content)
    images, annotations = content["images"], content["annotations"]
    _check_entries("images", images, {"file_name": _TEXT, "height": _PIXELS, "width": _PIXELS})
    _check_unique("images", images, "file_name")
    _check_entries("categories", content["categories"], {"name": _TEXT})
    rules = {"id": _INTEGER, **_ids(content), "bbox": _BOX, "area": _AREA_OR_NONE, "iscrowd": _FLAG_OR_NONE}
    _check_entries("annotations", annotations, rules)
    _check_unique("annotations", annotations, "id")
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    for index, entry in enumerate(annotations):
        height, width = sizes[entry["image_id"]]
        # A box may reach beyond its image, and some tools take the area of the whole box.
        if (entry.get("area") or 0) > max(height * width, entry["bbox"][2] * entry["bbox"][3]) * 1.01 + 1:
            raise ValueError(
                f"{_name('annotations', index, entry)} has the area {entry['area']}, but its image has only {height} x "
                f"{width} pixels. Give areas in pixels of the image, or remove them: then those of the boxes are taken."
            )


def check_results(content: Any, ground_truth: Mapping[str, Any], *, masks: bool) -> None:
    """Check detections in COCO's format, with masks if they are needed, against the data set that they belong to.

    Raises:
        ValueError: with the entry and what is wrong with it.
    """
    if not _is_list(content):
        raise ValueError(f"results must be a list of detections, got a {type(content).__name__}.")
    rules = {**_ids(ground_truth), "score": _NUMBER} | ({} if masks else {"bbox": _BOX})
    _check_entries("results", content, rules)
    if masks:
        check_masks(content, ground_truth, of_results=True)


def check_masks(
    entries: Sequence[Mapping[str, Any]],
    content: Mapping[str, Any],
    key: str = "segmentation",
    *,
    of_results: bool = False,
) -> None:
    """Check the masks of annotations, or of results, of a data set whose other entries have been accepted.

    A mask of another size than its image would silently match nothing.

    Raises:
        ValueError: with the entry and what is wrong with its mask.
    """
    part = "results" if of_results else "annotations"
    _check_entries(part, entries, {key: _COMPRESSED_RLE if of_results else _POLYGONS_OR_RLE})
    _check_entries("images", content["images"], {"height": _PIXELS, "width": _PIXELS})
    sizes = {image["id"]: [image["height"], image["width"]] for image in content["images"]}
    for index, entry in enumerate(entries):
        mask: Any = entry[key]
        if not isinstance(mask, Mapping):
            continue
        height, width = expected = sizes[entry["image_id"]]
        size: Any = mask.get("size")
        if not _is_list(size) or list(size) != expected:
            raise ValueError(
                f"{_name(part, index, entry)} has a mask of size {size}, but its image has height and width "
                f"{expected}. Encode masks at the size of the image."
            )
        runs = _run_lengths(mask.get("counts"))
        if runs is None or runs.sum() != height * width:
            raise ValueError(
                f"{_name(part, index, entry)} has an RLE whose counts are not run lengths of the {height} x {width} "
                "pixels of its image. Encode the mask again."
            )


def _check_parts(content: Any) -> None:
    parts = ("images", "annotations", "categories")
    if not isinstance(content, Mapping) or not all(isinstance(content.get(part), list) for part in parts):
        raise ValueError(
            "the ground truth must be a dictionary with the lists images, annotations and categories. "
            "Give a data set in COCO's format."
        )
    for part in ("images", "categories"):
        _check_entries(part, content[part], {"id": _INTEGER})
        _check_unique(part, content[part], "id")


def _check_unique(part: str, entries: Sequence[Mapping[str, Any]], key: str) -> None:
    for value, count in Counter(entry[key] for entry in entries).most_common(1):
        if count > 1:
            times = "twice" if count == 2 else f"{count} times"
            raise ValueError(f"{key} {value} comes {times} in {part}. Give each its own.")


class _Rule(NamedTuple):
    """What the value of a key must be: a test, and the same in words."""

    holds: Callable[[Any], bool]
    words: str


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any, limit: float = sys.float_info.max) -> bool:
    # Not math.isfinite, which fails for a whole number that no float can hold.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= limit


def _is_area(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_box(value: Any) -> bool:
    return _is_list(value) and len(value) == 4 and all(_is_number(v, FAR) for v in value) and min(value[2:]) >= 0


def _is_polygon(value: Any) -> bool:
    """Whether a value is a list of places. COCO has tens of millions of them, too many for a line of Python each."""
    if not _is_list(value) or len(value) % 2 or not set(map(type, value)) <= {int, float, np.float64}:
        return False
    # The sum finds what is not a number, which smallest and largest can pass over.
    return not value or bool(min(value) >= -FAR and max(value) <= FAR and sum(value) == sum(value))


def _is_polygons_or_rle(value: Any) -> bool:
    if isinstance(value, Mapping):
        return True
    return _is_list(value) and all(map(_is_polygon, value)) and any(len(polygon) >= 6 for polygon in value)


FAR = 1_000_000  # pixels; the library walks along outlines step by step, and would take hours for a mistyped number
_INTEGER = _Rule(lambda value: _is_integer(value) and abs(value) < 2**63, "a whole number of 64 bits")
_PIXELS = _Rule(lambda value: _is_integer(value) and 0 < value <= FAR, "a number of pixels")
_TEXT = _Rule(lambda value: isinstance(value, str) and value != "", "a text")
_NUMBER = _Rule(_is_number, "a finite number")
# To COCO's metrics, an object of negative area is of no size: missing it would cost nothing.
_AREA = _Rule(_is_area, "a finite number that is not negative")
_AREA_OR_NONE = _Rule(lambda value: value is None or _is_area(value), "a finite number that is not negative, or none")
_FLAG_OR_NONE = _Rule(lambda value: value is None or (isinstance(value, int) and value in (0, 1)), "0, 1 or none")
_BOX = _Rule(_is_box, "four finite numbers x, y, width, height within a million pixels, the last two not negative")
_COMPRESSED_RLE = _Rule(
    lambda value: isinstance(value, Mapping) and isinstance(value.get("counts"), str | bytes),
    "a compressed RLE: size, and counts as text",
)
_POLYGONS_OR_RLE = _Rule(
    _is_polygons_or_rle,
    "an RLE or a list of polygons of three points and more, [x1, y1, x2, y2, x3, y3, ...], within a million pixels",
)


def _ids(ground_truth: Mapping[str, Any]) -> dict[str, _Rule]:
    images = {entry["id"] for entry in ground_truth["images"]}
    categories = {entry["id"] for entry in ground_truth["categories"]}

    def among(ids: set[int]) -> Callable[[Any], bool]:
        return lambda value: _is_number(value) and value in ids  # a list has no hash, and true is equal to 1

    return {
        "image_id": _Rule(among(images), f"one of the {len(images)} images of the ground truth"),
        "category_id": _Rule(among(categories), f"one of the {len(categories)} categories of the ground truth"),
    }


def _check_entries(part: str, entries: Sequence[Any], rules: Mapping[str, _Rule]) -> None:
    for index, entry in enumerate(entries):
        for key, (holds, words) in rules.items():
            value = entry.get(key) if isinstance(entry, Mapping) else None
            if not holds(value):
                got = f"it is {reprlib.repr(value)}" if isinstance(entry, Mapping) and key in entry else "there is none"
                raise ValueError(
                    f"{_name(part, index, entry)} must have as its {key} {words}; {got}. Correct the entry or leave it "
                    "out, and check that all files belong to the same data set."
                )


def _run_lengths(counts: Any) -> Array | None:
    """Return run lengths, compressed or not, as numbers; None if invalid: the library may loop over those."""
    if not isinstance(counts, str | bytes):
        if not _is_list(counts) or not all(type(n) is int and 0 <= n <= FAR**2 for n in counts):
            return None
        return np.array(counts, np.int64)
    text = counts.encode("ascii", "replace") if isinstance(counts, str) else counts  # "?" is not a digit
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48  # of 5 bits; a sixth says that more follow
    if not digits.size or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        return None
    ends = np.flatnonzero(digits < 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(digits.size) - np.repeat(starts, ends - starts + 1)
    if place.max() > 6:
        return None  # more than 32 bits
    runs = np.add.reduceat((digits & 31) << 5 * place, starts)
    runs -= (digits[ends] & 16) // 16 << 5 * (place[ends] + 1)  # the two's complement
    # From the fourth on, a number is the difference to the run before the last.
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    return runs if runs.min() >= 0 else None


def _name(part: str, index: int, entry: Any) -> str:
    """Return a name for an entry: its id, or its place if it has no id."""
    singular = {"images": "image", "annotations": "annotation", "categories": "category"}
    if part in singular and isinstance(entry, Mapping) and "id" in entry:
        return f"{singular[part]} {entry['id']}"
    return f"{part}[{index}]"
