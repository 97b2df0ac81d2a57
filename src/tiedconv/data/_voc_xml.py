"""Pascal VOC's XML files and lists of names, which VOC itself and data with classes of one's own share."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from math import nan
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from torchvision.datasets.folder import IMG_EXTENSIONS

from .._coco import FAR
from ._annotated import in_coco_form, lines_of
from ._images import Size

Row = tuple[str, Size, list[dict[str, Any]]]  # file name of an image, its size, and annotations with names as category
_FLAG = re.compile(r"\s+-?[01]$")  # after a name in the lists of one class: whether the image shows that class
_SIZE = ("size/width", "size/height")
_CORNERS = ("bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax")


def rows_in_coco_form(rows: Iterable[Row], names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return a data set in COCO's form, with names of classes replaced by ids from 1 on."""
    ids = {name: i for i, name in enumerate(names, start=1)}
    numbered = (
        (image, size, [{**one, "category_id": ids[one["category_id"]]} for one in objects])
        for image, size, objects in rows
    )
    return in_coco_form(numbered, {i: name for name, i in ids.items()})


def names_in(listed: Path) -> list[str]:
    """Return the names in an image set, each once, without suffixes, flags, blank lines and marks of Windows."""
    names = [line.replace("\\", "/") for line in lines_of(listed) if line]
    if all(map(_FLAG.search, names)):  # of some alone, it belongs to a name such as "photo 1"
        names = [_FLAG.sub("", name) for name in names]
    names = [name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in IMG_EXTENSIONS else name for name in names]
    if not names:
        raise ValueError(f"{listed} names no image. Give an image set with one name per line.")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{listed} names {name} {count} times. Keep one of these lines.")
    return names


def parse_xml(xml: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(xml).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter two for a strange encoding
        raise ValueError(f"{xml} is not XML: {error}. Replace the file or take it out.") from error
    if root.tag != "annotation":
        raise ValueError(f"{xml} starts with <{root.tag}>. Expected VOC's <annotation>.")
    return root


def size_in(root: ElementTree.Element, xml: Path) -> Size | None:
    """Return the size that an XML file gives for its image; None if it says 0 or nothing, as LabelImg may."""
    if {(root.findtext(path) or "").strip() or "0" for path in _SIZE} == {"0"}:
        return None
    width, height = (_number(root, path) for path in _SIZE)
    if not all(1 <= pixels <= FAR and pixels.is_integer() for pixels in (width, height)):
        raise ValueError(f"{xml} has {_given(root, _SIZE)}. Expected whole numbers of pixels.")
    return int(width), int(height)


def objects_in(
    root: ElementTree.Element, xml: Path, names: Sequence[str] | None, *, first: int
) -> list[dict[str, Any]]:
    """Return the annotations of an XML file, with the names of their classes as ``category_id``.

    Args:
        root, xml: what the file holds, and its path.
        names: of the classes. None: any.
        first: number of the first pixel of a row or column. From 1 on, a box's last pixel belongs to it, as in VOC.
    """
    found = []
    for place, node in enumerate(root.findall("object"), start=1):
        where = f"object {place} of {xml}"
        name = node.findtext("name", "").strip()
        if not name or (names and name not in names):
            known = f"one of {', '.join(names)}" if names else "the name of a class"
            raise ValueError(f"{where} has the name {name!r}. Expected {known}.")
        xmin, ymin, xmax, ymax = (_number(node, path) for path in _CORNERS)
        if not (-FAR < xmin <= xmax < FAR and -FAR < ymin <= ymax < FAR):
            raise ValueError(
                f"{where} has {_given(node, _CORNERS)}. Expected numbers with xmin <= xmax and ymin <= ymax, within a "
                "million pixels."
            )
        difficult = node.findtext("difficult", "").strip() or "0"
        if difficult not in ("0", "1"):
            raise ValueError(f"{where} has {difficult!r} as difficult. Expected 0 or 1, or nothing, which means 0.")
        box = [xmin - first, ymin - first, xmax - xmin + first, ymax - ymin + first]
        found.append({"category_id": name, "bbox": box, "area": box[2] * box[3], "iscrowd": int(difficult)})
    return found


def _number(node: ElementTree.Element, path: str) -> float:
    """Return the number at a path below a node, nan if there is not one."""
    try:
        return float(node.findtext(path, ""))
    except ValueError:
        return nan


def _given(node: ElementTree.Element, paths: tuple[str, ...]) -> str:
    return ", ".join(f"{path.replace('/', '.')} = {node.findtext(path)!r}" for path in paths)
