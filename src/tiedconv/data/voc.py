"""Pascal VOC's boxes, and the form of its XML files and lists of names."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import nan
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args
from xml.etree import ElementTree

from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.datasets.voc import DATASET_YEAR_DICT

from .._checks import named
from .._coco import FAR
from ._annotated import Annotated, in_coco_form, lines_of, on_disk
from ._images import Size, upright_size
from .detection import DetectionData

Year = Literal[2007, 2012]
ImageSet = Literal["train", "val", "trainval", "test"]
Row = tuple[str, Size, list[dict[str, Any]]]  # file name of an image, its size, and annotations with names as category

_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_FLAG = re.compile(r"\s+-?[01]$")  # after a name in the lists of one class: whether the image shows that class
_SIZE = ("size/width", "size/height")
_CORNERS = ("bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax")


class Voc(DetectionData):
    """Pascal VOC 2007 or 2012 with its 20 classes: boxes, no masks.

    VOC counts pixels from 1 and a box's last pixel belongs to it: ``xmin=1, xmax=10`` becomes x = 0 and a width of 10.
    Objects that VOC calls difficult become COCO's crowd regions: training leaves them out, and metrics count them
    neither as found nor as missed.

    The lists of images may come from Windows, name a suffix, or have VOC's flags after the names, which are not used.
    Images may have another suffix than ``.jpg``.

    The metrics are COCO's. AP50 is nearest to VOC's own figure, but averages over 101 recalls, where the mAP of VOC
    2007 takes 11.

    Args:
        root: folder that holds torchvision's ``VOCdevkit/VOC2007`` or ``VOCdevkit/VOC2012``.
        year: 2007 or 2012.
        train_set, val_set: image sets of the two splits: ``"train"``, ``"val"``, ``"trainval"`` (both) or, of 2007
            alone, ``"test"``.
        options: as in :class:`DetectionData`, without ``masks``.

    Raises:
        ValueError: if the year has no such image set. Others as :class:`DetectionData`; of a broken XML file, the file
            and the number of the object are named.
    """

    categories: ClassVar = dict(enumerate(_CLASSES, start=1))  # known before the files are there

    def __init__(
        self,
        root: str = "data",
        year: Year = 2007,
        train_set: ImageSet = "trainval",
        val_set: ImageSet = "test",
        **options: Any,
    ) -> None:
        super().__init__(masks=False, **options)
        if year not in get_args(Year):
            raise ValueError(f"Voc: year must be one of {', '.join(map(str, get_args(Year)))}, got {year!r}.")
        known = [name for name in get_args(ImageSet) if year == 2007 or name != "test"]
        for argument, name in (("train_set", train_set), ("val_set", val_set)):
            if name not in known:
                raise ValueError(
                    f"Voc: {argument} must be one of {', '.join(known)} in {year}, got {name!r}. Only 2007 has a test "
                    "set with annotations; in 2012 train on train and validate on val."
                )
        self.save_hyperparameters()
        self.folder = Path(root, "VOCdevkit", f"VOC{year}")
        self.year = year
        self.image_sets = {True: train_set, False: val_set}

    def read(self, train: bool) -> Annotated:
        images, xmls = self.folder / "JPEGImages", self.folder / "Annotations"
        listed = self.folder / "ImageSets" / "Main" / f"{self.image_sets[train]}.txt"
        if not listed.is_file():
            archive = "2007-test" if self.image_sets[train] == "test" else str(self.year)
            raise FileNotFoundError(
                f"Voc: {listed} does not exist. Expected it beside Annotations/*.xml and JPEGImages/*.jpg. Set root to "
                f"the folder that holds VOCdevkit, or unpack {DATASET_YEAR_DICT[archive]['url']} there."
            )

        def rows() -> Iterator[Row]:
            for name in names_in(listed):
                xml = xmls / on_disk(xmls, f"{name}.xml")
                if not os.path.isfile(xml):
                    raise FileNotFoundError(f"{xml} is missing; {listed} names its image. Unpack the data set again.")
                root, image = parse_xml(xml), _image(images, name)
                yield image, size_in(root, xml) or upright_size(images / image), objects_in(root, xml, _CLASSES, 1)

        with named("Voc"):
            return Annotated(rows_in_coco_form(rows(), _CLASSES), images, listed)


def _image(folder: Path, name: str) -> str:
    """Return the name of an image in its folder: a JPEG as in VOC, or what else there is of that name."""
    names = (on_disk(folder, name + suffix) for suffix in IMG_EXTENSIONS)
    return next((found for found in names if (folder / found).is_file()), f"{name}.jpg")


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
    """Return the root of an XML file of VOC's form."""
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


def objects_in(root: ElementTree.Element, xml: Path, names: Sequence[str] | None, first: int) -> list[dict[str, Any]]:
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
