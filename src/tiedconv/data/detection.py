"""What every detection data set has in common: annotations in COCO's form, and the targets that detectors train on."""

import json
import os
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from .._checks import named
from .._coco import Array, check_data_set, check_masks, coco_json, decode_mask
from ._annotated import Annotated, check_images, on_disk, open_image, size_of
from ._images import Transform
from ._listing import counted, few
from .base import ImageData, ImageFiles

_CROWD, _EMPTY, _NO_AREA = "crowd regions", "images without objects", "boxes without area in their image"
_SHORTEST = 0.01  # pixels; a thinner box teaches nothing, and float32 may not tell its sides apart

_Objects = dict[Any, list[Mapping[str, Any]]]  # annotations by the id of their image
Target = dict[str, Any]
Batch = tuple[list[Tensor], list[Any]]


def _side_by_side(items: list[Any]) -> Batch:
    """Return a batch as two lists: images differ in size and targets in length, so nothing is stacked."""
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)


class DetectionData(ImageData):
    """Base of the detection data modules: a subclass reads annotations into COCO's form, everything else is here.

    A subclass implements :meth:`read`. Items of the training split are (image, target) as torchvision's detectors take
    them: the image a float tensor (3, H, W) in 0-1, the target a dict of

    - ``boxes``: (N, 4) float32, ``[x1, y1, x2, y2]`` in pixels, inside the image;
    - ``labels``: (N,) int64, 1 to K in the order of the category ids; 0 is background;
    - ``masks``: (N, H, W) uint8, unless ``masks`` is off;
    - ``image_id``: int, ``area``: (N,) float32 in pixels, ``iscrowd``: (N,) int64.

    Training leaves out crowd regions, boxes without area in their image (a side below a hundredth of a pixel), outlines
    of fewer than three points, and images on which nothing remains; one warning counts them. The validation split has
    every image; its target is the ``image_id`` alone, since metrics are computed from :meth:`ground_truth`. Images keep
    their size: detectors scale and normalise them.

    Photographs are turned upright as their camera says (EXIF), as for prediction, unless only the stored picture has
    the annotated size. A warning counts those that are kept as stored, and those whose size leaves it open.

    Annotations, masks and the beginnings of all image files are checked before the first epoch. For large sets
    ``~/.cache/tiedconv`` remembers that the images were sound, until the annotations or the files of their folders
    change.

    Args:
        masks: read instance masks too. Off for detectors of boxes, and for data without outlines.
        flip: probability of mirroring a training image left to right, 0-1.
        batch_size, num_workers, predict_path: as in :class:`ImageData`.

    Raises:
        ValueError: if ``flip`` is not in 0-1; when a split is read, if an annotation is broken: the message names the
            file and the annotation's id.
        FileNotFoundError: when a split is read, if annotations or an image are missing.
    """

    collate = staticmethod(_side_by_side)

    def __init__(
        self,
        masks: bool = True,
        flip: float = 0.5,
        batch_size: int = 2,
        num_workers: int = 4,
        predict_path: str | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, predict_path)
        if not 0 <= flip <= 1:
            raise ValueError(f"{type(self).__name__}: flip must be in 0-1, got {flip}.")
        self.hparams.update(masks=masks, flip=flip)
        self.masks = masks
        self.flip = flip
        self._val: Annotated | None = None
        self._looked_at: set[bool] = set()  # splits whose images were checked

    def read(self, train: bool) -> Annotated:
        """Return a split's annotations in COCO's form: ``images``, ``annotations`` and ``categories``."""
        raise NotImplementedError

    def annotated(self, train: bool) -> Annotated:
        """Return what :meth:`read` returns, checked. That of the ``val`` split is kept; training needs its own once."""
        if not train and self._val is not None:
            return self._val
        found = self.read(train)
        with named(f"{type(self).__name__}: {found.source}"):
            check_data_set(found.annotations)
        # Some tools write no area, which metrics need.
        sized = [
            a if a.get("area") is not None else {**a, "area": a["bbox"][2] * a["bbox"][3]}
            for a in found.annotations["annotations"]
        ]
        images = [{**r, "file_name": on_disk(found.images, r["file_name"])} for r in found.annotations["images"]]
        found = found._replace(annotations={**found.annotations, "images": images, "annotations": sized})
        self._warn_of_units(found)
        if not train:
            if self.masks:  # metrics need every mask: now, and not after the first epoch
                self._check_masks(found, sized)
            self._warn_of_misses(found)
            self._val = found
        return found

    def _check_masks(self, found: Annotated, annotations: Sequence[Mapping[str, Any]]) -> None:
        try:
            check_masks(annotations, found.annotations)
        except ValueError as error:
            raise ValueError(
                f"{type(self).__name__}: {found.source}: {error} For boxes alone, set masks to false and choose a "
                "detector of boxes."
            ) from None

    def _warn_of_units(self, found: Annotated) -> None:
        """Warn where the boxes as a whole do not look like x, y, width and height in pixels."""
        rows = _rows(found)
        boxes = np.array([annotation["bbox"] for annotation, _, _ in rows], float).reshape(-1, 2, 2)
        sizes = np.array([size_of(record) for _, record, _ in rows]).reshape(-1, 2)
        wrong = (boxes.sum(axis=1) > 1.1 * sizes).any(axis=1)
        if wrong.sum() > max(5, len(boxes) / 4):
            cause = "right and lower sides are given in place of width and height"
        elif len(boxes) > 5 and boxes.max() <= 1 < sizes.min():
            cause = "they are given as shares of the image"
            wrong[:] = True
        else:
            return
        files = [record["file_name"] for (_, record, _), is_wrong in zip(rows, wrong, strict=True) if is_wrong]
        self._warn(
            f"{len(files)} of {len(rows)} boxes of {found.source} do not fit their images (in "
            f"{few(list(dict.fromkeys(files)))}). It seems that {cause}. Boxes must be x, y, width, height in pixels."
        )

    def _warn_of_misses(self, found: Annotated) -> None:
        """Warn of objects that metrics count as missed whatever is found."""
        seen: set[tuple[Any, ...]] = set()
        misses: dict[str, list[str]] = defaultdict(list)
        for annotation, record, side in _rows(found):
            key = (annotation["image_id"], annotation["category_id"], *annotation["bbox"])
            if annotation.get("iscrowd"):
                continue
            if side < _SHORTEST:
                misses[_NO_AREA].append(record["file_name"])
            elif key in seen:
                misses["objects that come twice"].append(record["file_name"])
            seen.add(key)
        if misses:
            self._warn(
                f"{found.source} has {counted(misses)}, which metrics count as missed whatever a detector finds. "
                "Correct or remove them."
            )

    def _warn(self, text: str) -> None:
        warnings.warn(f"{type(self).__name__}: {text}", stacklevel=4)

    def _with_images(self, train: bool) -> Annotated:
        """Return :meth:`annotated` after a look at the beginning of every image file, once per split."""
        found = self.annotated(train)
        if train not in self._looked_at:
            check_images(type(self).__name__, found)
            self._looked_at.add(train)
        return found

    def ground_truth(self) -> Mapping[str, Any]:
        """Return the annotations of the ``val`` split in COCO's form, which metrics are computed from."""
        return self.annotated(train=False).annotations

    @property
    def categories(self) -> dict[int, str]:
        """Names of the classes by the data set's own ids, ascending."""
        return _names_by_id(self.ground_truth())

    @property
    def category_ids(self) -> list[int]:
        """The data set's own id of every class: label ``i + 1`` stands for category ``category_ids[i]``."""
        return list(self.categories)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, without the background."""
        return list(self.categories.values())

    @property
    def num_classes(self) -> int:
        """Number of classes with the background, as torchvision counts them."""
        return len(self.classes) + 1

    def build(self, train: bool) -> Dataset[Any]:
        if not train:
            return _Images(self._with_images(train=False), _to_image)
        val, found = self.annotated(train=False), self._with_images(train=True)
        theirs, ours = _names_by_id(found.annotations), _names_by_id(val.annotations)
        differing = sorted(theirs.items() ^ ours.items())
        if differing:
            raise ValueError(
                f"{type(self).__name__}: both splits must have the same categories, but only one of them has "
                f"{few(differing)}: correct {found.source} or {val.source}."
            )
        both = sorted(_files(found) & _files(val))
        if both:
            self._warn(f"{len(both)} images are in both splits ({few(both)}). Metrics flatter: take them out of one.")
        objects, left_out = self._objects(found)
        if not objects:
            raise ValueError(f"{type(self).__name__}: {found.source} has no object to train on. Annotate some.")
        records = [r for r in found.annotations["images"] if r["id"] in objects]
        empty = [r["file_name"] for r in found.annotations["images"] if r["id"] not in objects]
        if empty:
            left_out[_EMPTY] = empty
        if left_out:
            self._warn(f"training leaves out {counted(left_out, usual=(_CROWD, _EMPTY))} of {found.source}.")
        flip = v2.Compose([v2.RandomHorizontalFlip(self.flip), _to_image])
        return _Targets(found, records, objects, list(ours), flip, masks=self.masks)

    def with_targets(self) -> Dataset[tuple[Tensor, Target]]:
        """Return the images of the ``val`` split with the targets that they would have in training, for pictures."""
        found = self._with_images(train=False)
        objects, _ = self._objects(found)
        images = found.annotations["images"]
        return _Targets(found, images, objects, self.category_ids, _to_image, masks=self.masks)

    def _objects(self, found: Annotated) -> tuple[_Objects, dict[str, list[str]]]:
        """Return the annotations to learn from by image, and the file names of the others by reason.

        Raises:
            ValueError: if one of the former has a broken mask.
        """
        rows = [(a, record, self._skip_reason(a, side)) for a, record, side in _rows(found)]
        if self.masks:
            self._check_masks(found, [annotation for annotation, _, reason in rows if not reason])
        objects: _Objects = defaultdict(list)
        left_out: dict[str, list[str]] = defaultdict(list)
        for annotation, record, reason in rows:
            if reason:
                left_out[reason].append(record["file_name"])
            else:
                objects[record["id"]].append(annotation)
        return objects, left_out

    def _skip_reason(self, annotation: Mapping[str, Any], side: float) -> str:
        """Return why an annotation, whose box has this shorter side, teaches nothing; empty if it does."""
        if annotation.get("iscrowd"):
            return _CROWD
        if side < _SHORTEST:
            return _NO_AREA
        outline = annotation.get("segmentation")
        polygons = outline if self.masks and isinstance(outline, list) else []
        are_lines = polygons and all(isinstance(polygon, list) and len(polygon) < 6 for polygon in polygons)
        return "outlines of fewer than three points" if are_lines else ""

    def named(self) -> Dataset[Any]:
        return _Images(self._with_images(train=False), _to_image, named=True)

    def image_files(self, path: Path) -> Dataset[tuple[Tensor, str]]:
        return ImageFiles(path, _to_image, channels=3)


_to_image = v2.Compose(
    [
        v2.ToImage(),
        v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
        v2.ToPureTensor(),
    ]
)


class _Images(Dataset[tuple[Tensor, Any]]):
    """Every image of a split, with ``{"image_id": ...}`` or, ``named``, with its path."""

    def __init__(self, found: Annotated, transform: Transform, *, named: bool = False) -> None:
        self.found = found
        self.transform = transform
        self.named = named

    def __len__(self) -> int:
        return len(self.found.annotations["images"])

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        record = self.found.annotations["images"][index]
        image = open_image(self.found, record)
        target = str(self.found.images / record["file_name"]) if self.named else {"image_id": record["id"]}
        return self.transform(image), target


class _Targets(Dataset[tuple[Tensor, Target]]):
    """Images of a split with targets to train on."""

    def __init__(
        self,
        found: Annotated,
        records: Sequence[Mapping[str, Any]],
        objects: _Objects,
        category_ids: Sequence[int],
        transform: Transform,
        *,
        masks: bool,
    ) -> None:
        self.found = found._replace(annotations={})  # what is needed of them is packed below
        self.transform = transform
        self.masks = masks
        self.label = {category: label for label, category in enumerate(category_ids, start=1)}
        self.records = records
        # One string per image instead of hundreds of small objects: COCO's 860,000 annotations would take gigabytes,
        # and again in each loader process, which copies what it touches.
        self.objects = [coco_json(objects.get(r["id"], [])) for r in records]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        record = self.records[index]
        image = open_image(self.found, record)
        objects = json.loads(self.objects[index])
        size = (image.height, image.width)
        boxes = torch.from_numpy(_corners(objects, [image.size] * len(objects)))
        target: Target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.tensor([self.label[a["category_id"]] for a in objects], dtype=torch.int64),
            "area": torch.tensor([a["area"] for a in objects], dtype=torch.float32),
            "iscrowd": torch.zeros(len(objects), dtype=torch.int64),
        }
        if self.masks:
            masks = [decode_mask(a["segmentation"], size) for a in objects]
            target["masks"] = tv_tensors.Mask(np.array(masks, dtype=np.uint8).reshape(-1, *size))
        image, target = self.transform(image, target)  # type: ignore[call-arg]
        return image, {**target, "image_id": record["id"]}


def _corners(annotations: Sequence[Mapping[str, Any]], sizes: Sequence[tuple[int, int]]) -> Array:
    """Return boxes as ``[x1, y1, x2, y2]`` inside images of given widths and heights, in the precision of training.

    What is left out and what is trained on both come from here: a box that is wide in float64 may have no width in
    float32, and torchvision ends a training at such a box.
    """
    boxes = np.array([a["bbox"] for a in annotations], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return np.clip(boxes, 0, np.tile(np.array(sizes, np.float32).reshape(-1, 2), 2))


def _names_by_id(annotations: Mapping[str, Any]) -> dict[int, str]:
    return dict(sorted((category["id"], str(category["name"])) for category in annotations["categories"]))


def _files(found: Annotated) -> set[str]:
    return {os.path.abspath(found.images / record["file_name"]) for record in found.annotations["images"]}


def _rows(found: Annotated) -> list[tuple[Mapping[str, Any], Mapping[str, Any], float]]:
    """Return each annotation with its image and with the shorter side of its box in pixels, as far as it is inside."""
    annotations = found.annotations["annotations"]
    by_id = {r["id"]: r for r in found.annotations["images"]}
    records = [by_id[a["image_id"]] for a in annotations]
    corners = _corners(annotations, [size_of(r) for r in records])
    sides = (corners[:, 2:] - corners[:, :2]).min(axis=1, initial=np.inf).tolist()
    return list(zip(annotations, records, sides, strict=True))
