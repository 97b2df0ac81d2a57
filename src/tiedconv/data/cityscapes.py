"""Cityscapes' instances, from its images of instance numbers."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torchvision import datasets

from .._checks import named
from .._coco import encode_mask, read_json
from .._files import write_whole
from ._annotated import Annotated, in_coco_form
from ._images import Size, named_image
from .detection import DetectionData

Split = Literal["train", "val"]

_CLASSES = {c.id: c.name for c in datasets.Cityscapes.classes if c.has_instances and not c.ignore_in_eval}


class Cityscapes(DetectionData):
    """Cityscapes' fine annotations of the eight classes that have instances: boxes and masks.

    ``prepare_data`` reads the images of instance numbers once, which takes minutes: what is in them is kept in COCO's
    form in ``root/instances_train.json`` and ``root/instances_val.json``. Remove these after a change of the images.
    Groups whose members Cityscapes does not tell apart become crowd regions. The ids of the categories are
    Cityscapes' own, 24 (person) to 33 (bicycle).

    The metrics are COCO's; Cityscapes' own AP weighs objects and groups in another way.

    Args:
        root: folder that holds ``leftImg8bit`` and ``gtFine``, or their two archives, which are then unpacked.
        options: as in :class:`DetectionData`.

    Raises:
        FileNotFoundError: in ``prepare_data``, if files are missing, with the way to get them.
        OSError: in ``prepare_data``, if an image does not hold instance numbers.
    """

    categories = _CLASSES  # known before the files are there

    def __init__(self, root: str = "data/cityscapes", **options: Any) -> None:
        super().__init__(**options)
        self.save_hyperparameters()
        self.root = Path(root)

    def prepare_data(self) -> None:
        # An evaluation should not wait for the training images, nor a prediction for either.
        if self.trainer is None or self.trainer.training:
            write_instances(self.root, "train")
        if self.trainer is None or not self.trainer.predicting or self.predict_path is None:
            write_instances(self.root, "val")

    def read(self, train: bool) -> Annotated:
        split: Split = "train" if train else "val"
        file = self.root / f"instances_{split}.json"
        if not file.exists():
            # Not written here: every process reads, and one of them prepares.
            raise FileNotFoundError(f"Cityscapes: {file} does not exist. prepare_data, which trainers call, writes it.")
        with named(f"Cityscapes: {file}"):
            return Annotated(read_json(file), self.root / "leftImg8bit" / split, file)


def write_instances(root: Path, split: Split) -> None:
    """Write the instances of a split to ``root/instances_{split}.json``, in COCO's form, unless it is there already.

    Raises:
        FileNotFoundError, OSError: as :class:`Cityscapes`.
        ModuleNotFoundError: if the ``detection`` extra is not installed.
    """
    file = root / f"instances_{split}.json"
    if file.exists():
        return
    folder = root / "leftImg8bit" / split
    files = _files(root, split)
    rank_zero_info(f"Cityscapes: writing {file} from {len(files)} images, once. A thousand take some minutes.")

    def read() -> Iterator[tuple[str, Size, list[dict[str, Any]]]]:
        for image, numbered in files:
            ids = _read(numbered)
            yield image.relative_to(folder).as_posix(), (ids.shape[1], ids.shape[0]), list(_instances(ids))

    write_whole(file, json.dumps(in_coco_form(read(), _CLASSES)))


def _files(root: Path, split: Split) -> list[tuple[Path, Path]]:
    """Return the photographs of a split and their images of instance numbers, sorted by name."""
    with suppress(RuntimeError):
        found = datasets.Cityscapes(root, split, target_type="instance")
        if len(found):
            pairs = zip(found.images, found.targets, strict=True)
            return sorted((Path(image), Path(targets[0])) for image, targets in pairs)
    raise FileNotFoundError(
        f"Cityscapes: {root} does not hold the split {split}. Expected leftImg8bit/{split}/<city>/*_leftImg8bit.png "
        f"and gtFine/{split}/<city>/*_gtFine_instanceIds.png there. Set root to their folder, or put "
        "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of https://www.cityscapes-dataset.com into it."
    )


def _read(file: Path) -> np.ndarray[Any, Any]:
    with named_image(file), Image.open(file) as image:
        ids = np.asarray(image)
        if not image.mode.startswith("I"):  # 8 bits cannot hold 24000, and 24 alone would pass for a group of persons
            raise ValueError(f"its mode is {image.mode}. Expected instance numbers in a grey image of 16 bits")
    return ids


def _instances(ids: np.ndarray[Any, Any]) -> Iterator[dict[str, Any]]:
    """Yield what an image of instance numbers shows, in COCO's form, in the order of the numbers.

    A pixel is 1000 times the class plus the number of the instance, or the class alone in a group.
    """
    ids = np.asfortranarray(ids)  # the order in which masks are encoded, to convert it once
    for value in np.unique(ids).tolist():
        group = value < 1000
        category = value if group else value // 1000
        if category in _CLASSES:
            mask = ids == value
            left, top, right, bottom = Image.fromarray(mask).getbbox()  # type: ignore[misc]  # it is not empty
            yield {
                "category_id": category,
                "bbox": [left, top, right - left, bottom - top],
                "area": int(mask.sum()),
                "segmentation": encode_mask(mask),
                "iscrowd": int(group),
            }
