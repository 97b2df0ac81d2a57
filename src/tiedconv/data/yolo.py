"""YOLO's text files with a data.yaml: what Ultralytics trains on and Roboflow, CVAT and others export."""

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from reprlib import repr as short
from typing import Any

import yaml
from torchvision.datasets.folder import IMG_EXTENSIONS

from .._checks import named
from ._annotated import Annotated, in_coco_form, lines_of, on_disk
from ._images import Size, upright_size
from ._listing import few, images_below
from ._looks import look_at_files
from .detection import DetectionData

_NO_IMAGES = (".txt", ".cache", ".npy")  # labels beside the images, and what Ultralytics keeps there
_NOT_LABELS = ("classes.txt",)  # names of the classes, which LabelImg writes beside the labels
_SLACK = 0.01  # by how much rounding may put a share of the image outside 0-1


class Yolo(DetectionData):
    """Images with a text file each, in the layout of Ultralytics: ``class x y width height`` per line, or an outline.

    ``data.yaml`` says where the images of each split are (``train``, ``val``, ``test``: a folder, a list of folders, or
    a text file with one path per line) and what the classes are called (``names``). The labels of
    ``images/train/a.jpg`` are in ``labels/train/a.txt``: the last folder ``images`` of the path becomes ``labels``.
    Without such a folder they are beside the images. An image without a label file shows no objects.

    A line of five numbers is a box: the class, from 0 on, then its centre, width and height as shares of the image. One
    of seven or more is the outline of an object: the class, then x and y of each point; the box is the one around it.
    Of poses (``kpt_shape`` in data.yaml) only the box is read.

    Paths may be those of another machine, also of Windows: if one does not exist here, leading folders are left out,
    down to two parts, until the rest exists beside ``data.yaml`` or in its ``path``.

    Args:
        root: folder with ``data.yaml``, or a YAML file of another name.
        train_set, val_set: keys of ``data.yaml`` for the two splits. ``--data.val_set test`` tests on the test images.
        masks: read outlines as masks. Then every object needs one.
        options: as in :class:`DetectionData`.

    Raises:
        FileNotFoundError: if there is no ``data.yaml``; when a split is read, if all of its label files are missing.
        ValueError: if ``data.yaml`` is not as described. Others as :class:`DetectionData`; of a broken line, its file
            and number are named.
    """

    def __init__(
        self, root: str, train_set: str = "train", val_set: str = "val", masks: bool = False, **options: Any
    ) -> None:
        super().__init__(masks, **options)
        self.save_hyperparameters()
        given = Path(root)
        self.file = given / on_disk(given, "data.yaml") if given.is_dir() else given
        self.sets = {True: train_set, False: val_set}
        with named(f"Yolo: {self.file}"):
            self._content = _read_yaml(self.file)
            self._names = _class_names(self._content)

    @property
    def categories(self) -> dict[int, str]:  # known before the images are read
        return self._names

    def read(self, train: bool) -> Annotated:
        with named(f"Yolo: {self.file}"):
            images = self._images(self.sets[train])
        labels = [_label_file(path) for path in images]
        if not any(labels):
            raise FileNotFoundError(
                f"Yolo: none of the {len(images)} images of {self.sets[train]} in {self.file} has a label file. "
                f"Expected {_label_path(images[0])}, or {images[0].stem}.txt beside the image, and so on."
            )
        folder = Path(os.path.commonpath([path.parent for path in images]))
        names = [path.relative_to(folder).as_posix() for path in images]
        # A look remembers what it saw of a large set: here the size of each image.
        seen = look_at_files(folder, names, lambda i: "{} x {}".format(*upright_size(images[i])), ["sizes"])
        sizes = {name: size for size, found in seen.items() for name in found}

        def annotated() -> Iterator[tuple[str, Size, list[dict[str, Any]]]]:
            for name, path in zip(names, labels, strict=True):
                width, height = map(int, sizes[name].split(" x "))
                lines = enumerate(lines_of(path) if path else (), start=1)
                objects = [self._object(line, (width, height), f"line {n} of {path}") for n, line in lines if line]
                yield name, (width, height), objects

        with named("Yolo"):
            return Annotated(in_coco_form(annotated(), self._names), folder, self.file)

    def _object(self, line: str, size: Size, where: str) -> dict[str, Any]:
        """Return the annotation of a line, without its ids."""
        values = line.split()[: 5 if self._content.get("kpt_shape") else None]
        is_outline = len(values) >= 7
        try:
            category, *shares = map(float, values)
        except ValueError:
            category, shares = -1, []
        if len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
            raise ValueError(
                f"{where} is {short(line)}. Expected five numbers, class x y width height, or a class and the x and y "
                "of at least three points."
            )
        if category not in self._names:
            raise ValueError(
                f"{where} has the class {values[0]}. {self.file} names the classes 0 to {len(self._names) - 1}."
            )
        if not all(-_SLACK <= share <= 1 + _SLACK for share in shares) or (not is_outline and min(shares[2:]) < 0):
            raise ValueError(
                f"{where} is {short(line)}. Expected shares of the image's sides, 0-1: divide pixels by its size."
            )
        if not is_outline:
            if self.masks:
                raise ValueError(f"{where} is a box, but masks need outlines. Set masks to false.")
            x, y, width, height = (share * size[i % 2] for i, share in enumerate(shares))
            box = [x - width / 2, y - height / 2, width, height]
            return {"category_id": int(category), "bbox": box, "area": width * height, "iscrowd": 0}
        points = [min(max(share, 0.0), 1.0) * size[i % 2] for i, share in enumerate(shares)]
        xs, ys = points[::2], points[1::2]
        area = abs(sum(x * ys[i - 1] - xs[i - 1] * y for i, (x, y) in enumerate(zip(xs, ys, strict=True)))) / 2
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        return {"category_id": int(category), "bbox": box, "area": area, "iscrowd": 0, "segmentation": [points]}

    def _images(self, key: str) -> list[Path]:
        """Return the image files of a split."""
        value = self._content.get("validation" if key == "val" and "val" not in self._content else key)
        places = value if isinstance(value, list) else [value]
        if not places or not all(isinstance(place, str) and place for place in places):
            raise ValueError(
                f"it has {short(value)} as {key}. Expected a folder, a list of folders or a text file with the images "
                f"of this split. Its keys are {', '.join(map(str, self._content))}: set train_set and val_set to two "
                "of them."
            )
        images: list[Path] = []
        for place in places:
            found = self._find(str(place), f"this file names it as {key}")
            if found.is_dir():
                images += _images_of(found)
            else:
                lines = [(n, line) for n, line in enumerate(lines_of(found), start=1) if line]
                images += [self._find(line, f"line {n} of {found} names it", found.parent) for n, line in lines]
        if not images:
            raise FileNotFoundError(
                f"its {key}, {few(places)}, has no image. Known suffixes: {', '.join(IMG_EXTENSIONS)}."
            )
        return images

    def _find(self, name: str, why: str, *folders: Path) -> Path:
        """Return where a path of data.yaml, or of one of its lists, leads on this machine."""
        beside = self.file.parent
        path = str(self._content.get("path") or ".")
        bases = list(dict.fromkeys([*folders, beside / on_disk(beside, path), beside]))
        parts = [part for part in re.split(r"[\\/]+", name) if part not in ("", ".")]
        while parts and (parts[0] == ".." or parts[0].endswith(":")):
            parts.pop(0)
        shorter = ["/".join(parts[start:]) for start in range(max(1, len(parts) - 1))]
        for rest in (name, *shorter):
            for base in bases:
                if rest and os.path.exists(found := base / on_disk(base, rest)):
                    return Path(os.path.abspath(found))
        raise FileNotFoundError(f"{name} is missing; {why}. Looked in {few(bases)}. Correct the path.")


def _images_of(folder: Path) -> list[Path]:
    """Return the images below a folder; warn of other files and of labels without an image."""
    images = images_below(folder, "Yolo", passed_over=_NO_IMAGES)
    known = {_label_path(path).with_suffix("") for path in images}
    labels = [path for place in {path.parent for path in known} if place.is_dir() for path in place.iterdir()]
    lost = sorted(
        path.name
        for path in labels
        if path.suffix.lower() == ".txt" and path.name not in _NOT_LABELS and path.with_suffix("") not in known
    )
    if lost:
        warnings.warn(
            f"Yolo: {len(lost)} label files have no image in {folder} and are not read ({few(lost)}). Add the images "
            "or delete what is not needed.",
            stacklevel=2,
        )
    return images


def _label_path(image: Path) -> Path:
    """Return where the labels of an image are in the layout of Ultralytics."""
    parts = list(image.with_suffix(".txt").parts)
    for place in reversed(range(len(parts) - 1)):
        if parts[place].lower() == "images":
            parts[place] = "labels"
            break
    return Path(*parts)


def _label_file(image: Path) -> Path | None:
    """Return the label file of an image: in its folder ``labels``, or beside the image."""
    for path in (_label_path(image), image.with_suffix(".txt")):
        found = path.parent / on_disk(path.parent, path.name)
        if found.is_file():
            return found
    return None


def _read_yaml(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        others = sorted(path.name for path in file.parent.glob("*.y*ml"))
        there = f" There is {few(others)}." if others else ""
        raise FileNotFoundError(f"it does not exist.{there} Set root to the folder of data.yaml or to a YAML file.")
    try:
        content = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"it is not YAML: {reason}. Write paths with / or without quotation marks.") from None
    if not isinstance(content, dict):
        raise ValueError(f"it must have keys such as names, train and val, got {short(content)}.")  # noqa: TRY004
    return content


def _class_names(content: Mapping[str, Any]) -> dict[int, str]:
    names = content.get("names")
    listed = dict(enumerate(names)) if isinstance(names, list) else names
    if isinstance(listed, dict):
        listed = {int(key) if str(key).isdecimal() else key: name for key, name in listed.items()}
    if not isinstance(listed, dict) or not listed or set(listed) != set(range(len(listed))):
        raise ValueError(
            f"it has {short(names)} as names. Expected a list of the classes, or their names by the numbers 0, 1, 2 "
            "and so on without gaps."
        )
    for name in listed.values():
        if isinstance(name, bool) or not isinstance(name, str | int | float) or name == "":
            raise ValueError(
                f"it has {short(name)} among its names. Expected texts: put yes, no, on and off into quotes."
            )
    if content.get("nc", len(listed)) != len(listed):
        raise ValueError(f"it has nc: {short(content['nc'])}, but {len(listed)} names. Correct one of them.")
    return {i: str(listed[i]) for i in range(len(listed))}
