"""What every detection data set has in common: annotations in COCO's form, and the targets that detectors train on."""

import functools
import json
import os
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from .._coco import Array, check_data_set, check_masks, decode_mask, has_pixels
from ._listing import few
from .base import ImageData, ImageFiles, Transform, in_mode, upright

_BOXES_ALONE = "For boxes alone, set masks to false and choose a detector of boxes."

_CROWD, _EMPTY = "crowd regions", "images without objects"
_USUAL = (_CROWD, _EMPTY)
_SHORTEST = 0.01  # pixels; of a thinner box nothing can be learned, and float32 does not tell its sides apart

_Objects = dict[Any, list[Mapping[str, Any]]]  # annotations by the id of their image
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

    Training leaves out crowd regions, boxes without area in their image (a side below a hundredth of a pixel), outlines
    of fewer than three points, masks without pixels, and images on which nothing remains, and says in one warning how
    many. The validation split has every image; its target is the ``image_id`` alone, since metrics are computed from
    :meth:`ground_truth`. Detectors scale and normalise images themselves, so the images keep their size here.

    Photographs are turned upright as their camera says (EXIF), in training, validation and prediction alike, unless
    only the stored picture has the size that the annotations give. A warning counts those that are kept as stored and
    those of which the size does not tell whether the annotator saw them turned.

    Annotations, masks and the beginnings of all image files of both splits are checked before the first epoch.

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
        check_data_set(f"{type(self).__name__}: {found.source}", found.annotations)
        # Some tools write no area, which metrics need.
        sized = [
            a if a.get("area") is not None else {**a, "area": a["bbox"][2] * a["bbox"][3]}
            for a in found.annotations["annotations"]
        ]
        images = [{**r, "file_name": on_disk(found.images, r["file_name"])} for r in found.annotations["images"]]
        found = found._replace(annotations={**found.annotations, "images": images, "annotations": sized})
        if not train:
            if self.masks:  # metrics need every mask: now, and not after the first epoch
                self._check_masks(found, found.annotations["annotations"])
            self._warn_of_misses(found)
            self._val = found
        return found

    def _check_masks(self, found: Annotated, annotations: Sequence[Mapping[str, Any]]) -> None:
        try:
            check_masks(f"{type(self).__name__}: {found.source}", annotations, found.annotations)
        except ValueError as error:
            raise ValueError(f"{error} {_BOXES_ALONE}") from None

    def _warn_of_misses(self, found: Annotated) -> None:
        """Warn of objects that metrics count as missed whatever is found."""
        records = {r["id"]: r for r in found.annotations["images"]}
        objects = [a for a in found.annotations["annotations"] if not a.get("iscrowd")]
        sides = _sides(_corners(objects, [_size(records[a["image_id"]]) for a in objects]))
        first: dict[Any, Any] = {}
        misses: dict[str, list[str]] = defaultdict(list)
        for annotation, side in zip(objects, sides.tolist(), strict=True):
            key = (annotation["image_id"], annotation["category_id"], *annotation["bbox"])
            outline = annotation.get("segmentation") if self.masks else None
            what = ""
            if side < _SHORTEST:
                what = "boxes without area in their image"
            elif key in first and first[key] == outline:
                what = "objects that come twice"
            if what:
                misses[what].append(records[annotation["image_id"]]["file_name"])
            first.setdefault(key, outline)
        if misses:
            warnings.warn(
                f"{type(self).__name__}: {found.source} has {_counted(misses)}, which metrics count as missed whatever "
                "a detector finds. Correct or remove them.",
                stacklevel=3,
            )

    def _with_images(self, train: bool) -> Annotated:
        """Return :meth:`annotated` after a look at every image of the split: that it is there and fits.

        Only the beginnings of the files are read, 100,000 in some ten seconds.
        """
        found = self.annotated(train)
        if train not in self._looked_at:
            _check_images(type(self).__name__, found)
            self._looked_at.add(train)
        return found

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
            return _Images(self._with_images(train=False), _to_image)
        ids = self.category_ids
        found = self._with_images(train=True)
        theirs = {category["id"]: str(category["name"]) for category in found.annotations["categories"]}
        ours = dict(zip(ids, self.classes, strict=True))
        if theirs != ours:
            differing = sorted(i for i in {**theirs, **ours} if theirs.get(i) != ours.get(i))
            listed = [f"{i} is {theirs.get(i)!r} in training and {ours.get(i)!r} in validation" for i in differing]
            raise ValueError(
                f"{type(self).__name__}: training and validation must have the same categories, but {few(listed)}. "
                f"Correct {found.source} or {self.annotated(train=False).source}."
            )
        objects, left_out = self._objects(found)
        if not objects:
            raise ValueError(
                f"{type(self).__name__}: {found.source} has no object to train on. Give other annotations."
            )
        records = [r for r in found.annotations["images"] if r["id"] in objects]
        empty = [r["file_name"] for r in found.annotations["images"] if r["id"] not in objects]
        if empty:
            left_out[_EMPTY] = empty
        if left_out:
            text = f"{type(self).__name__}: training leaves out {_counted(left_out)} of {found.source}."
            warnings.warn(text, stacklevel=2)
        flip = v2.Compose([v2.RandomHorizontalFlip(self.flip), _to_image])
        return _Targets(found, records, objects, ids, flip, masks=self.masks)

    def with_targets(self) -> Dataset[tuple[Tensor, Target]]:
        """Return the images of the ``val`` split with the targets that they would have in training, for pictures."""
        found = self._with_images(train=False)
        objects, _ = self._objects(found)
        images = found.annotations["images"]
        return _Targets(found, images, objects, self.category_ids, _to_image, masks=self.masks)

    def _objects(self, found: Annotated) -> tuple[_Objects, dict[str, list[str]]]:
        """Return the annotations that something can be learned from by image, and file names of the others by reason.

        Raises:
            ValueError: if one of the former has a broken mask.
        """
        records = {r["id"]: r for r in found.annotations["images"]}
        annotations = found.annotations["annotations"]
        sides = _sides(_corners(annotations, [_size(records[a["image_id"]]) for a in annotations]))
        reasons = [
            _CROWD
            if a.get("iscrowd")
            else "boxes without area in their image"
            if side < _SHORTEST
            else "outlines of fewer than three points"
            if self.masks and _has_only_lines(a.get("segmentation"))
            else ""
            for a, side in zip(annotations, sides.tolist(), strict=True)
        ]
        if self.masks:
            self._check_masks(found, [a for a, reason in zip(annotations, reasons, strict=True) if not reason])
        objects: _Objects = defaultdict(list)
        left_out: dict[str, list[str]] = defaultdict(list)
        for annotation, reason in zip(annotations, reasons, strict=True):
            record = records[annotation["image_id"]]
            if not reason and self.masks and not has_pixels(annotation["segmentation"], _size(record)[::-1]):
                reason = "masks without pixels"
            if reason:
                left_out[reason].append(record["file_name"])
            else:
                objects[record["id"]].append(annotation)
        return objects, left_out

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
        image = _open(self.found, record)
        about = str(self.found.images / record["file_name"]) if self.named else {"image_id": record["id"]}
        return self.transform(image), about


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
        self.objects = [json.dumps(objects.get(r["id"], [])) for r in records]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        record = self.records[index]
        image = _open(self.found, record)
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


def _size(record: Mapping[str, Any]) -> tuple[int, int]:
    return record["width"], record["height"]


def _corners(annotations: Sequence[Mapping[str, Any]], sizes: Sequence[tuple[int, int]]) -> Array:
    """Return boxes as ``[x1, y1, x2, y2]`` inside images of given widths and heights, in the precision of training.

    What is left out and what is trained on both come from here: a box that is wide in float64 may have no width in
    float32, and torchvision ends a training at such a box.
    """
    boxes = np.array([a["bbox"] for a in annotations], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return np.clip(boxes, 0, np.tile(np.array(sizes, np.float32).reshape(-1, 2), 2))


def _sides(corners: Array) -> Array:
    """Return the shorter side of each box in pixels."""
    shorter: Array = (corners[:, 2:] - corners[:, :2]).min(axis=1, initial=np.inf)
    return shorter


def _has_only_lines(segmentation: Any) -> bool:
    """Whether an outline has polygons, each of them of fewer than three points."""
    return (
        isinstance(segmentation, list)
        and segmentation != []
        and all(isinstance(polygon, list) and len(polygon) < 6 for polygon in segmentation)
    )


def _counted(names: Mapping[str, Sequence[str]]) -> str:
    """Return how many there are of each kind and, if that kind is a fault, the names of the first few files."""
    return ", ".join(
        f"{len(files)} {kind}" + ("" if kind in _USUAL else f" (in {few(list(dict.fromkeys(files)))})")
        for kind, files in names.items()
    )


def on_disk(folder: Path, name: str) -> str:
    """Return an image's name as it is on this disk, where the annotations' is one of Windows.

    That is, with backslashes, or in other upper and lower case. A name that leads nowhere is returned as it is.
    """
    if os.path.exists(folder / name):
        return name
    place = folder
    parts = name.replace("\\", "/").split("/")
    for part in parts:
        if not (place / part).exists():
            part = _listed(place).get(part.lower(), part)
        place /= part
    return str(place.relative_to(folder)) if place.exists() and not name.startswith("/") else name


@functools.lru_cache(maxsize=64)
def _listed(folder: Path) -> dict[str, str]:
    """Return the names in a folder by their names in lower case, except where several have the same."""
    names: dict[str, list[str]] = defaultdict(list)
    for path in folder.iterdir() if folder.is_dir() else ():
        names[path.name.lower()].append(path.name)
    return {lower: found[0] for lower, found in names.items() if len(found) == 1}


def _check_images(who: str, found: Annotated) -> None:
    """Read the beginning of every image of a split, and warn of those that may be turned.

    Raises:
        OSError, ValueError: for the first image that is missing, cannot be read or has another size than the
            annotations say, with the number of the others.
    """
    records = found.annotations["images"]
    with ThreadPoolExecutor(16) as pool:  # a network's disk answers late, but many at once
        looks = [
            look
            for part in pool.map(lambda i: [_look(found, r) for r in records[i : i + 256]], range(0, len(records), 256))
            for look in part
        ]
    errors = [look for look in looks if isinstance(look, Exception)]
    if errors:
        more = f" {len(errors) - 1} more of the {len(records)} images cannot be used." if errors[1:] else ""
        raise type(errors[0])(f"{errors[0]}{more}") from errors[0]
    kinds: dict[str, list[str]] = defaultdict(list)
    for record, look in zip(records, looks, strict=True):
        if isinstance(look, str) and look:
            kinds[look].append(record["file_name"])
    if kinds:
        warnings.warn(
            f"{who}: cameras have marked photographs of {found.source} as turned (EXIF), and whether the annotator saw "
            f"them turned is not known: {_counted(kinds)}. Look at the boxes in some of these pictures. If they do not "
            "fit, turn the pixels of the files, so that they need no mark.",
            stacklevel=4,
        )


def _look(found: Annotated, record: Mapping[str, Any]) -> str | Exception:
    """Return what is wrong with an image, how it is read if that is in doubt, or an empty text."""
    try:
        with _named(found, record) as path, Image.open(path) as file:
            size, orientation = file.size, _orientation(file)
        turn = _is_turned(found, record, size, orientation)
    except (OSError, ValueError) as error:
        return error
    if orientation == 1:
        return ""
    if not turn:
        return "kept as they are stored, since only then they have the annotated size"
    return "" if orientation in _SIDEWAYS and size[0] != size[1] else "turned upright, as prediction does"


def _open(found: Annotated, record: Mapping[str, Any]) -> Image.Image:
    with _named(found, record) as path, Image.open(path) as file:
        image, orientation = in_mode(file, "RGB"), _orientation(file)
    return upright(image) if _is_turned(found, record, image.size, orientation) else image


_SIDEWAYS = (5, 6, 7, 8)  # the values of EXIF's orientation that exchange width and height


def _orientation(file: Image.Image) -> int:
    """Return EXIF's orientation of an opened image, 1 if it is upright or that cannot be read."""
    orientation = 1
    # PIL turns a TIFF itself. Its own getexif of a PNG would decode the whole image.
    with suppress(Exception):
        if file.format != "TIFF":
            orientation = Image.Image.getexif(file).get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def _is_turned(found: Annotated, record: Mapping[str, Any], stored: tuple[int, int], orientation: int) -> bool:
    """Whether an image is turned upright, as in prediction: always, unless only as stored it has the annotated size.

    Raises:
        ValueError: if it has that size in neither way.
    """
    annotated = _size(record)
    turned = stored[::-1] if orientation in _SIDEWAYS else stored
    if annotated not in (stored, turned):
        raise ValueError(
            f"{found.images / record['file_name']} is {stored[0]} x {stored[1]} pixels, but {found.source} says "
            f"{annotated[0]} x {annotated[1]} for image {record['id']}. The boxes would not fit: correct the file or "
            "the image."
        )
    return annotated == turned


@contextmanager
def _named(found: Annotated, record: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the path of an image, and name it where it cannot be read."""
    path = found.images / record["file_name"]
    try:
        yield path
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing; image {record['id']} of {found.source} names it. Check the folder of the images."
        ) from None
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError and more
        raise OSError(f"{path}, image {record['id']} of {found.source}, cannot be read: {error}") from error
