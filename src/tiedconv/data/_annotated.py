"""The images that annotations name: found on this disk, checked at once, and read upright in the annotated size."""

import functools
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ._images import SIDEWAYS, Size, in_mode, named_image, orientation_of, upright
from ._listing import counted
from ._looks import look_at_files


class Annotated(NamedTuple):
    """One split: annotations in COCO's form, the folder its file names start from, and where they were read."""

    annotations: Mapping[str, Any]
    images: Path
    source: Path


def in_coco_form(
    images: Iterable[tuple[str, Size, list[dict[str, Any]]]], categories: Mapping[int, str]
) -> dict[str, list[dict[str, Any]]]:
    """Return a data set in COCO's form, images and annotations numbered from 1.

    Args:
        images: file name, size and annotations of each image, the latter without ``id`` and ``image_id``.
        categories: names of the classes by their ids.
    """
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, (width, height), objects) in enumerate(images, start=1):
        records.append({"id": number, "file_name": name, "width": width, "height": height})
        annotations += [{"id": i, "image_id": number, **one} for i, one in enumerate(objects, len(annotations) + 1)]
    named = [{"id": i, "name": name} for i, name in categories.items()]
    return {"images": records, "annotations": annotations, "categories": named}


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text file, without spaces around them and without the marks that Windows writes.

    Raises:
        ValueError: if it is not a text in UTF-8.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8: {error}. Save it as such.") from None


def size_of(record: Mapping[str, Any]) -> Size:
    """Return the width and height that annotations give for an image."""
    return record["width"], record["height"]


def on_disk(folder: Path, name: str) -> str:
    """Return the name that an image has on this disk, if the given one is from Windows.

    That is, with backslashes, or in other upper and lower case. A name without a file is returned unchanged.
    """
    if os.path.exists(folder / name):
        return name
    place = folder
    parts = name.replace("\\", "/").split("/")
    for part in parts:
        if not os.path.exists(place / part) and os.path.isdir(place):
            part = _listed(place, place.stat().st_mtime_ns).get(part.lower(), part)
        place /= part
    return str(place.relative_to(folder)) if os.path.exists(place) and not name.startswith("/") else name


@functools.lru_cache(maxsize=64)
def _listed(folder: Path, changed: int) -> dict[str, str]:
    """Return the names in a folder by their names in lower case, except where several have the same.

    ``changed`` is the time of the folder's last change: a later listing is another one.
    """
    names: dict[str, list[str]] = defaultdict(list)
    for path in folder.iterdir():
        names[path.name.lower()].append(path.name)
    return {lower: found[0] for lower, found in names.items() if len(found) == 1}


def check_images(who: str, found: Annotated) -> None:
    """Read the beginning of every image of a split, and warn of those that may be turned.

    Raises:
        OSError, ValueError: for the first image that is missing, cannot be read or has another size than the
            annotations say, with the number of the others.
    """
    records = found.annotations["images"]
    names, sizes = [r["file_name"] for r in records], [size_of(r) for r in records]
    kinds = look_at_files(found.images, names, lambda i: _look(found, records[i]), sizes)
    if kinds:
        warnings.warn(
            f"{who}: cameras have marked photographs of {found.source} as turned (EXIF), and whether the annotator saw "
            f"them turned is not known: {counted(kinds)}. If the boxes do not fit in some of these pictures, turn the "
            "pixels of the files, so that they need no mark.",
            stacklevel=4,
        )


def _look(found: Annotated, record: Mapping[str, Any]) -> str:
    """Return how an image is read if that is in doubt, and otherwise an empty text."""
    path = found.images / record["file_name"]
    with named_image(_name(found, record)), Image.open(path) as file:
        size, orientation = file.size, orientation_of(file)
    turn = _is_turned(found, record, size, orientation)
    if orientation == 1:
        return ""
    if not turn:
        return "kept as they are stored, since only then they have the annotated size"
    return "" if orientation in SIDEWAYS and size[0] != size[1] else "turned upright, as prediction does"


def open_image(found: Annotated, record: Mapping[str, Any]) -> Image.Image:
    path = found.images / record["file_name"]
    with named_image(_name(found, record)), Image.open(path) as file:
        image, orientation = in_mode(file, "RGB"), orientation_of(file)
    return upright(image) if _is_turned(found, record, image.size, orientation) else image


def _is_turned(found: Annotated, record: Mapping[str, Any], stored: Size, orientation: int) -> bool:
    """Whether an image is turned upright, as in prediction: always, unless only as stored it has the annotated size.

    Raises:
        ValueError: if it has that size in neither way.
    """
    annotated = size_of(record)
    turned = stored[::-1] if orientation in SIDEWAYS else stored
    if annotated not in (stored, turned):
        raise ValueError(
            f"{_name(found, record)} has {stored[0]} x {stored[1]} pixels, not the annotated {annotated[0]} x "
            f"{annotated[1]}. The boxes would not fit: correct the annotations or the image."
        )
    return annotated == turned


def _name(found: Annotated, record: Mapping[str, Any]) -> str:
    return f"{found.images / record['file_name']}, image {record['id']} of {found.source},"
