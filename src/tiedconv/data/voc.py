"""Pascal VOC's boxes, from its XML files."""

import re
from collections import Counter
from math import nan
from pathlib import Path
from typing import Any, Literal, get_args
from xml.etree import ElementTree

from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.datasets.voc import DATASET_YEAR_DICT

from .._coco import FAR
from ._annotated import Annotated, on_disk
from .detection import DetectionData

Year = Literal[2007, 2012]
ImageSet = Literal["train", "val", "trainval", "test"]

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
    Objects that VOC calls difficult become crowd regions of COCO's form, so that training leaves them out and metrics
    count neither finding nor missing them.

    The lists of images may come from Windows, name a suffix, or have VOC's flags after the names, which are not used.
    Images may have another suffix than ``.jpg``.

    The metrics are COCO's. Nearest to VOC's own figure is AP50; it is an average over 101 recalls, while the mAP of
    VOC 2007 is one over 11.

    Args:
        root: folder that holds torchvision's ``VOCdevkit/VOC2007`` or ``VOCdevkit/VOC2012``.
        year: 2007 or 2012.
        train_set, val_set: image sets of the two splits: ``"train"``, ``"val"``, ``"trainval"`` (both) or, of 2007
            alone, ``"test"``.
        flip, batch_size, num_workers, predict_path: as in :class:`DetectionData`.

    Raises:
        ValueError: if the year has no such image set; when a split is read, if an XML file is broken, with the file
            and the number of the object, the first being 1.
        FileNotFoundError: when a split is read, if its files are missing, with the way to get them.
    """

    def __init__(
        self,
        root: str = "data",
        year: Year = 2007,
        train_set: ImageSet = "trainval",
        val_set: ImageSet = "test",
        flip: float = 0.5,
        batch_size: int = 2,
        num_workers: int = 4,
        predict_path: str | None = None,
    ) -> None:
        super().__init__(False, flip, batch_size, num_workers, predict_path)
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
        self.root = Path(root)
        self.year = year
        self.image_sets = {True: train_set, False: val_set}

    @property
    def classes(self) -> list[str]:  # known before the files are there
        return list(_CLASSES)

    @property
    def category_ids(self) -> list[int]:
        return list(range(1, len(_CLASSES) + 1))

    def read(self, train: bool) -> Annotated:
        image_set = self.image_sets[train]
        folder = self.root / "VOCdevkit" / f"VOC{self.year}"
        listed = folder / "ImageSets" / "Main" / f"{image_set}.txt"
        if not listed.is_file():
            archive = "2007-test" if image_set == "test" else str(self.year)
            raise FileNotFoundError(
                f"Voc: {listed} does not exist. Expected it beside Annotations/*.xml and JPEGImages/*.jpg of {folder}. "
                f"Set root to the folder that holds VOCdevkit, or unpack {DATASET_YEAR_DICT[archive]['url']} there."
            )
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, name in enumerate(_names(listed), start=1):
            xml = folder / "Annotations" / on_disk(folder / "Annotations", f"{name}.xml")
            root = _parse(xml, listed)
            width, height = _size(root, xml)
            image = _image(folder / "JPEGImages", name)
            images.append({"id": number, "file_name": image, "width": width, "height": height})
            for place, node in enumerate(root.findall("object"), start=1):
                about = {"id": len(annotations) + 1, "image_id": number}
                annotations.append({**about, **_annotation(node, f"object {place} of {xml}")})
        categories = [{"id": i, "name": name} for i, name in enumerate(_CLASSES, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        return Annotated(content, folder / "JPEGImages", listed)


def _names(listed: Path) -> list[str]:
    """Return the names in an image set, each once, without suffixes, flags, blank lines and marks of Windows."""
    try:
        lines = listed.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"Voc: {listed} is not a text in UTF-8: {error}. Save it as such.") from None
    names = [line.strip().replace("\\", "/") for line in lines if line.strip()]
    if all(map(_FLAG.search, names)):  # of some alone, it belongs to a name such as "photo 1"
        names = [_FLAG.sub("", name) for name in names]
    names = [name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in IMG_EXTENSIONS else name for name in names]
    if not names:
        raise ValueError(f"Voc: {listed} names no image. Give an image set with one name per line.")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ValueError(f"Voc: {listed} names {name} {count} times. Keep one of these lines.")
    return names


def _image(folder: Path, name: str) -> str:
    """Return the name of an image in its folder: a JPEG as in VOC, or what else there is of that name."""
    for suffix in IMG_EXTENSIONS:
        found = on_disk(folder, name + suffix)
        if (folder / found).is_file():
            return found
    return f"{name}.jpg"


def _parse(xml: Path, listed: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(xml).getroot()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"Voc: {xml} is missing; {listed} names its image. Unpack the data set again."
        ) from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter two for a strange encoding
        raise ValueError(f"Voc: {xml} is not XML: {error}. Unpack the data set again.") from error


def _size(root: ElementTree.Element, xml: Path) -> tuple[int, int]:
    width, height = (_number(root, path) for path in _SIZE)
    if not all(1 <= pixels <= FAR and pixels.is_integer() for pixels in (width, height)):
        raise ValueError(f"Voc: {xml} has {_given(root, _SIZE)}. Expected whole numbers of pixels.")
    return int(width), int(height)


def _annotation(node: ElementTree.Element, where: str) -> dict[str, Any]:
    name = node.findtext("name", "").strip()
    if name not in _CLASSES:
        raise ValueError(f"Voc: {where} has the name {name!r}, which is not a class of VOC. They are: {_CLASSES}.")
    xmin, ymin, xmax, ymax = (_number(node, path) for path in _CORNERS)
    if not (-FAR < xmin <= xmax < FAR and -FAR < ymin <= ymax < FAR):
        raise ValueError(
            f"Voc: {where} has {_given(node, _CORNERS)}. Expected numbers with xmin <= xmax and ymin <= ymax, within a "
            "million pixels."
        )
    difficult = node.findtext("difficult", "").strip() or "0"
    if difficult not in ("0", "1"):
        raise ValueError(f"Voc: {where} has {difficult!r} as difficult. Expected 0 or 1, or nothing, which means 0.")
    width, height = xmax - xmin + 1, ymax - ymin + 1
    return {
        "category_id": _CLASSES.index(name) + 1,
        "bbox": [xmin - 1, ymin - 1, width, height],
        "area": width * height,
        "iscrowd": int(difficult),
    }


def _number(node: ElementTree.Element, path: str) -> float:
    """Return the number at a path below a node, nan if there is not one."""
    try:
        return float(node.findtext(path, ""))
    except ValueError:
        return nan


def _given(node: ElementTree.Element, paths: tuple[str, ...]) -> str:
    return ", ".join(f"{path.replace('/', '.')} = {node.findtext(path)!r}" for path in paths)
