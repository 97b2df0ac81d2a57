"""Pascal VOC's boxes, from its XML files."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.datasets.voc import DATASET_YEAR_DICT

from .._checks import named
from ._annotated import Annotated, on_disk
from ._images import upright_size
from ._voc_xml import Row, names_in, objects_in, parse_xml, rows_in_coco_form, size_in
from .detection import DetectionData

Year = Literal[2007, 2012]
ImageSet = Literal["train", "val", "trainval", "test"]

_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


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
        options: as in :class:`DetectionData`, without ``masks``.

    Raises:
        ValueError: if the year has no such image set; when a split is read, if an XML file is broken, with the file
            and the number of the object, the first being 1.
        FileNotFoundError: when a split is read, if its files are missing, with the way to get them.
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
        self.root = Path(root)
        self.year = year
        self.image_sets = {True: train_set, False: val_set}

    def read(self, train: bool) -> Annotated:
        image_set = self.image_sets[train]
        folder = self.root / "VOCdevkit" / f"VOC{self.year}"
        images, xmls = folder / "JPEGImages", folder / "Annotations"
        listed = folder / "ImageSets" / "Main" / f"{image_set}.txt"
        if not listed.is_file():
            archive = "2007-test" if image_set == "test" else str(self.year)
            raise FileNotFoundError(
                f"Voc: {listed} does not exist. Expected it beside Annotations/*.xml and JPEGImages/*.jpg of {folder}. "
                f"Set root to the folder that holds VOCdevkit, or unpack {DATASET_YEAR_DICT[archive]['url']} there."
            )

        def annotated() -> Iterator[Row]:
            for name in names_in(listed):
                xml = xmls / on_disk(xmls, f"{name}.xml")
                if not os.path.isfile(xml):
                    raise FileNotFoundError(f"{xml} is missing; {listed} names its image. Unpack the data set again.")
                root, image = parse_xml(xml), _image(images, name)
                size = size_in(root, xml) or upright_size(images / image)
                yield image, size, objects_in(root, xml, _CLASSES, first=1)

        with named("Voc"):
            return Annotated(rows_in_coco_form(annotated(), _CLASSES), images, listed)


def _image(folder: Path, name: str) -> str:
    """Return the name of an image in its folder: a JPEG as in VOC, or what else there is of that name."""
    for suffix in IMG_EXTENSIONS:
        found = on_disk(folder, name + suffix)
        if (folder / found).is_file():
            return found
    return f"{name}.jpg"
