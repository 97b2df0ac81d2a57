"""What every detection data set has in common: annotations in COCO's form, and the targets that detectors train on."""

import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.ops import clip_boxes_to_image
from torchvision.transforms import v2

from .._coco import check_data_set, check_ground_truth, decode_mask
from .base import ImageData, ImageFiles, Transform, in_mode

_BOXES_ALONE = "For boxes alone, set masks to false and choose a detector of boxes."

Target = dict[str, Any]
Batch = tuple[list[Tensor], list[Any]]


class Annotated(NamedTuple):
    """One split: annotations in COCO's form, the folder its file names start from, and where they were read."""

    annotations: Mapping[str, Any]
    images: Path
    source: Path


def _side_by_side(items: list[Any]) -> Batch:
    """Return a batch as two lists: images differ in size and targets in length, so nothing is stacked."""
    images, abouts = zip(*items, strict=True)
    return list(images), list(abouts)


class DetectionData(ImageData):
    """Base of the detection data modules: a subclass reads annotations into COCO's form, everything else is here.

    A subclass implements :meth:`read`. Items of the training split are (image, target) as torchvision's detectors take
    them: the image a float tensor (3, H, W) in 0-1, the target a dict of

    - ``boxes``: (N, 4) float32, ``[x1, y1, x2, y2]`` in pixels, inside the image;
    - ``labels``: (N,) int64, 1 to K in the order of the category ids; 0 is background;
    - ``masks``: (N, H, W) uint8, unless ``masks`` is off;
    - ``image_id``: int, ``area``: (N,) float32 in pixels, ``iscrowd``: (N,) int64.

    Training leaves out crowd regions, boxes without area in their image, outlines of fewer than three points, and
    images on which nothing remains, and says in one warning how many. The validation split has every image; its target
    is the ``image_id`` alone, since metrics are computed from :meth:`ground_truth`. Detectors scale and normalise
    images themselves, so the images keep their size here.

    Args:
        masks: read instance masks too. Off for detectors of boxes, and for data without outlines.
        flip: probability of mirroring a training image left to right, 0-1.
        batch_size, num_workers, predict_path: as in :class:`ImageData`.

    Raises:
        ValueError: if ``flip`` is not in 0-1; when a split is read, if an annotation is broken: the message names the
            file and the annotation's id.
        FileNotFoundError: if annotations or an image are missing.
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
        self.masks = masks
        self.flip = flip
        self._val: Annotated | None = None

    def read(self, train: bool) -> Annotated:
        """Return a split's annotations in COCO's form: ``images``, ``annotations`` and ``categories``."""
        raise NotImplementedError

    def annotated(self, train: bool) -> Annotated:
        """Return what :meth:`read` returns, checked. That of the ``val`` split is kept; training needs its own once."""
        if not train and self._val is not None:
            return self._val
        found = self.read(train)
        check_data_set(f"{type(self).__name__}: {found.source}", found.annotations)
        # Some tools write no area, which metrics need.
        sized = [
            a if a.get("area") is not None else {**a, "area": a["bbox"][2] * a["bbox"][3]}
            for a in found.annotations["annotations"]
        ]
        found = found._replace(annotations={**found.annotations, "annotations": sized})
        if not train:
            if self.masks:  # metrics need every mask: now, and not after the first epoch
                self._check_masks(found)
            self._val = found
        return found

    def _check_masks(self, found: Annotated) -> None:
        try:
            check_ground_truth(f"{type(self).__name__}: {found.source}", found.annotations, "segmentation")
        except ValueError as error:
            raise ValueError(f"{error} {_BOXES_ALONE}") from None

    def ground_truth(self) -> Mapping[str, Any]:
        """Return the annotations of the ``val`` split in COCO's form, which metrics are computed from."""
        return self.annotated(train=False).annotations

    @property
    def category_ids(self) -> list[int]:
        """The data set's own id of every class: label ``i + 1`` stands for category ``category_ids[i]``."""
        return sorted(category["id"] for category in self.ground_truth()["categories"])

    @property
    def classes(self) -> list[str]:
        """Names of the classes, without the background."""
        names = {category["id"]: str(category["name"]) for category in self.ground_truth()["categories"]}
        return [names[i] for i in self.category_ids]

    @property
    def num_classes(self) -> int:
        """Number of classes with the background, as torchvision counts them."""
        return len(self.classes) + 1

    def build(self, train: bool) -> Dataset[Any]:
        if not train:
            return _Images(self.annotated(train=False), _to_image)
        ids = self.category_ids
        found = self.annotated(train=True)
        theirs = {category["id"]: str(category["name"]) for category in found.annotations["categories"]}
        ours = dict(zip(ids, self.classes, strict=True))
        if theirs != ours:
            differing = sorted(i for i in {**theirs, **ours} if theirs.get(i) != ours.get(i))
            listed = [f"{i} is {theirs.get(i)!r} in training and {ours.get(i)!r} in validation" for i in differing]
            raise ValueError(
                f"{type(self).__name__}: training and validation must have the same categories, but {_few(listed)}. "
                f"Correct {found.source} or {self.annotated(train=False).source}."
            )
        flip = v2.RandomHorizontalFlip(self.flip)
        return _Targets(type(self).__name__, found, ids, v2.Compose([flip, _to_image]), masks=self.masks)

    def with_targets(self) -> Dataset[tuple[Tensor, Target]]:
        """Return the images of the ``val`` split with the targets that they would have in training, for pictures."""
        who, found = type(self).__name__, self.annotated(train=False)
        return _Targets(who, found, self.category_ids, _to_image, masks=self.masks, every_image=True)

    def named(self) -> Dataset[Any]:
        return _Images(self.annotated(train=False), _to_image, named=True)

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
        image = _open(self.found, record)
        about = str(self.found.images / record["file_name"]) if self.named else {"image_id": record["id"]}
        return self.transform(image), about


class _Targets(Dataset[tuple[Tensor, Target]]):
    """The images of a split with targets to train on: those that have objects, or every image."""

    def __init__(
        self,
        who: str,
        found: Annotated,
        category_ids: Sequence[int],
        transform: Transform,
        *,
        masks: bool,
        every_image: bool = False,
    ) -> None:
        self.found = found._replace(annotations={})  # what is needed of them is packed below
        self.transform = transform
        self.masks = masks
        self.label = {category: label for label, category in enumerate(category_ids, start=1)}
        sizes = {r["id"]: (r["width"], r["height"]) for r in found.annotations["images"]}
        objects: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        left_out: Counter[str] = Counter()
        for annotation in found.annotations["annotations"]:
            reason = self._useless(who, annotation, sizes[annotation["image_id"]])
            if reason:
                left_out[reason] += 1
            else:
                objects[annotation["image_id"]].append(annotation)
        self.records = [r for r in found.annotations["images"] if every_image or r["id"] in objects]
        # One string an image instead of hundreds of small objects: COCO's 860,000 annotations would take gigabytes, and
        # again in each loader process, which copies what it touches.
        self.objects = [json.dumps(objects.get(r["id"], [])) for r in self.records]
        if not self.records:
            raise ValueError(f"{who}: {found.source} has no object to train on. Give other annotations.")
        left_out["images without objects"] = len(found.annotations["images"]) - len(self.records)
        if +left_out and not every_image:
            listed = ", ".join(f"{count} {what}" for what, count in (+left_out).items())
            warnings.warn(f"{who}: training leaves out {listed} of {found.source}.", stacklevel=2)

    def _useless(self, who: str, annotation: Mapping[str, Any], image: tuple[int, int]) -> str:
        """Say why nothing can be learned from a well-formed annotation; empty if something can."""
        if annotation.get("iscrowd"):
            return "crowd regions"
        left, top, width, height = annotation["bbox"]
        if min(left + width, image[0]) <= max(left, 0) or min(top + height, image[1]) <= max(top, 0):
            return "boxes without area in their image"
        if not self.masks:
            return ""
        outline = annotation.get("segmentation")
        if not outline:
            raise ValueError(
                f"{who}: annotation {annotation['id']} of {self.found.source} has no segmentation. {_BOXES_ALONE}"
            )
        if isinstance(outline, list) and all(isinstance(polygon, list) and len(polygon) < 6 for polygon in outline):
            return "outlines of fewer than three points"
        return ""

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        record = self.records[index]
        image = _open(self.found, record)
        objects = json.loads(self.objects[index])
        size = (image.height, image.width)
        boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes = clip_boxes_to_image(boxes, size)
        target: Target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.tensor([self.label[a["category_id"]] for a in objects], dtype=torch.int64),
            "area": torch.tensor([a["area"] for a in objects], dtype=torch.float32),
            "iscrowd": torch.zeros(len(objects), dtype=torch.int64),
        }
        if self.masks:
            masks = [self._mask(annotation, size) for annotation in objects]
            target["masks"] = tv_tensors.Mask(np.array(masks, dtype=np.uint8).reshape(-1, *size))
        image, target = self.transform(image, target)  # type: ignore[call-arg]
        return image, {**target, "image_id": record["id"]}

    def _mask(self, annotation: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
        try:
            return decode_mask(annotation["segmentation"], size)
        except Exception as error:  # whatever the decoder raises, only the annotation's id helps
            raise ValueError(
                f"{self.found.source}: the segmentation of annotation {annotation['id']} cannot be read: {error}. "
                "Expected polygons [[x1, y1, x2, y2, x3, y3, ...], ...] or an RLE with size and counts."
            ) from error


def _open(found: Annotated, record: Mapping[str, Any]) -> Image.Image:
    path = found.images / record["file_name"]
    try:
        with Image.open(path) as file:
            colour = in_mode(file, "RGB")
            expected = (record["width"], record["height"])
            # A photograph that was turned for the annotator, as its camera says to.
            turned = colour if colour.size == expected else ImageOps.exif_transpose(colour)
            image = turned if turned.size == expected else colour
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing; image {record['id']} of {found.source} names it. Check the folder of the images."
        ) from None
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError and more
        raise OSError(f"{path}, image {record['id']} of {found.source}, cannot be read: {error}") from error
    if image.size != expected:
        raise ValueError(
            f"{path} is {image.width} x {image.height} pixels, but {found.source} says {record['width']} x "
            f"{record['height']} for image {record['id']}. The boxes would not fit: correct the file or the image."
        )
    return image


def _few(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values[:5])) + (" ..." if len(values) > 5 else "")
