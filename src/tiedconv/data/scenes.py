"""Generated scenes of objects that cover each other, written as a COCO folder: data by copy and paste."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from PIL import Image

from .._checks import named
from .._coco import encode_mask
from .._files import write_whole
from ._compose import compose, draw_objects, outlines
from ._cut_outs import BUILT_IN, Background, Objects, class_names, read_backgrounds, read_objects
from ._listing import is_hidden
from .coco import Coco

T = TypeVar("T")
FileType = Literal["png", "jpg"]
MaskFormat = Literal["rle", "polygons"]

_ANNOTATIONS = "annotations/instances_{}.json"
_DONE, _STARTED = "scenes.json", "scenes.started"  # the options, under the second name until all is written


@dataclass(frozen=True)
class SceneOptions:
    """What generated scenes look like.

    Attributes:
        objects: what is pasted: scikit-learn's handwritten ``"digits"``, ``"fashion_mnist"``, or a folder with a folder
            of cut-outs for each class, pictures with a transparent background (PNG, WebP). The names of the folders
            are those of the classes; folders in them belong to the same class. Links to the same file count once.
        backgrounds: folder of photographs, of which random pieces are the backgrounds. Default: a texture.
        image_size: side of the scenes in pixels.
        train_images, val_images: scenes in the two splits. They are made of the training and of the validation images
            of ``objects``, so that no object of one is in the other.
        val_share: share of the cut-outs of each class, and of the backgrounds, that the validation scenes are made of;
            chosen by the names of the files, whatever the seed. What has only one file is in both splits; with 0,
            everything is. The built-in objects have splits of their own.
        min_objects, max_objects: objects in a scene.
        min_size, max_size: longer side of a pasted object in pixels.
        rotation: degrees by which an object is turned at most, either way.
        flip: probability with which an object is mirrored.
        max_overlap: scenes are spread evenly over overlaps from 0 to this, as far as ``min_visible`` permits; overlap
            is the paper's r (eq. 5) of the whole objects, covered parts included.
        min_visible: share of an object that others leave visible. Where no place is found for that, a scene has fewer
            objects.
        noise: standard deviation of the noise that is added to the pixels, which go from 0 to 255.
        file_type: of the images: ``"png"``, or the smaller ``"jpg"``.
        mask_format: ``"rle"``, or ``"polygons"`` for tools that read nothing else; these fill holes.
        seed: decides everything that is drawn.

    Raises:
        TypeError: if a number is not of its type.
        ValueError: if one is out of its range, or a folder has no name.
    """

    objects: str = "digits"
    backgrounds: str | None = None
    image_size: int = 128
    train_images: int = 600
    val_images: int = 300
    val_share: float = 0.2
    min_objects: int = 2
    max_objects: int = 5
    min_size: int = 32
    max_size: int = 52
    rotation: float = 0.0
    flip: float = 0.0
    max_overlap: float = 0.8
    min_visible: float = 0.1
    noise: float = 6.0
    file_type: FileType = "png"
    mask_format: MaskFormat = "rle"
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in (int, float) and (isinstance(value, bool) or not isinstance(value, (int, field.type))):
                number = "an int" if field.type is int else "a number"
                raise TypeError(f"SceneOptions: {field.name} must be {number}, got {value!r}.")
        for name, folder in (("objects", self.objects), ("backgrounds", self.backgrounds)):
            if folder is None and name == "backgrounds":
                continue
            if folder == "" or not isinstance(folder, (str, Path)):
                raise ValueError(
                    f"SceneOptions: {name} must be a folder, got {folder!r}. Name one, or leave {name} out."
                )
            object.__setattr__(self, name, str(Path(folder)))  # one spelling, and JSON has no paths
        for name, low in {"train_images": 1, "val_images": 1, "min_objects": 1, "min_size": 12, "seed": 0}.items():
            if getattr(self, name) < low:
                raise ValueError(f"SceneOptions: {name} must be at least {low}, got {getattr(self, name)}.")
        for less, more in (("min_objects", "max_objects"), ("min_size", "max_size"), ("max_size", "image_size")):
            least, most = getattr(self, less), getattr(self, more)
            if least > most:
                raise ValueError(
                    f"SceneOptions: {less} = {least} is more than {more} = {most}. Set {less} to at most {most}, or "
                    f"{more} to at least {least}."
                )
        for name, holds, allowed in (
            ("max_objects", self.max_objects <= 100, "at most 100"),
            ("val_share", 0 <= self.val_share < 1, "in [0, 1)"),
            ("rotation", 0 <= self.rotation <= 180, "from 0 to 180 degrees"),
            ("flip", 0 <= self.flip <= 1, "from 0 to 1"),
            ("max_overlap", 0 <= self.max_overlap < 1, "in [0, 1)"),
            ("min_visible", 0 < self.min_visible <= 1, "in (0, 1]"),
            ("noise", 0 <= self.noise <= 100, "from 0 to 100"),
        ):
            if not holds:
                raise ValueError(f"SceneOptions: {name} must be {allowed}, got {getattr(self, name)}.")
        for name, kind in (("file_type", FileType), ("mask_format", MaskFormat)):
            if getattr(self, name) not in get_args(kind):
                allowed = " or ".join(get_args(kind))
                raise ValueError(f"SceneOptions: {name} must be {allowed}, got {getattr(self, name)!r}.")


class OcclusionScenes(Coco):
    """Scenes that are generated into ``root`` if they are not there yet, and then read like any COCO folder.

    Args:
        root: folder of the scenes; it belongs to one set of options.
        scenes: what they look like.
        masks, flip, batch_size, num_workers, predict_path: as in :class:`DetectionData`. Nothing is mirrored by
            default, as digits are not.

    Raises:
        ValueError: in ``prepare_data``, if ``root`` holds scenes of other options, or anything else, or what
            :func:`write_scenes` is to use is not as it should be.
    """

    def __init__(
        self,
        root: str = "data/occlusion",
        scenes: SceneOptions = SceneOptions(),
        masks: bool = True,
        flip: float = 0.0,
        batch_size: int = 4,
        num_workers: int = 0,
        predict_path: str | None = None,
    ) -> None:
        super().__init__(
            root,
            _ANNOTATIONS.format("train"),
            "train",
            _ANNOTATIONS.format("val"),
            "val",
            masks=masks,
            flip=flip,
            batch_size=batch_size,
            num_workers=num_workers,
            predict_path=predict_path,
        )
        self.scenes = scenes
        self.save_hyperparameters({"root": root, "scenes": asdict(scenes), "masks": masks, "flip": flip})

    @property
    def categories(self) -> dict[int, str]:
        if (self.root / _DONE).exists():  # then the objects may be gone
            return super().categories
        with named("OcclusionScenes"):
            return dict(enumerate(class_names(self.scenes.objects), start=1))

    def prepare_data(self) -> None:
        if (self.root / _DONE).exists():
            _check_options(self.root / _DONE, self.scenes)
        else:
            write_scenes(self.root, self.scenes)


def write_scenes(
    root: str | Path,
    options: SceneOptions = SceneOptions(),
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write scenes to an empty or new folder, as a data set in COCO's format.

    The images are in ``train/`` and ``val/``, the annotations in ``annotations/instances_{train,val}.json``: boxes and
    masks of what is visible of each object, as in COCO; the whole object as its ``amodal_segmentation``, the share of
    it that is visible, 0-1, as ``visible_fraction``, and the paper's r (eq. 5) as ``occlusion_ratio`` of each image.

    ``scenes.json`` keeps the options and is written last; until then ``scenes.started`` marks a half-written folder,
    which a call with the same options completes. The same options and files give the same bytes, however many workers
    there are.

    Args:
        root: the folder.
        options: what the scenes look like.
        workers: threads that draw. Default: one per CPU core.
        progress: is called with the number of scenes that are finished, from 0 on, and of all.

    Raises:
        ValueError: if ``root`` is not empty, cannot be written to or lies in one of the folders that are read; if an
            object is opaque or barely visible, or a photograph too small, with the file.
        OSError: if a picture is damaged, with the file.
        FileNotFoundError: if objects or backgrounds are missing, with the way to get them.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"write_scenes: workers must be at least 1, got {workers}.")
    if root == "":
        raise ValueError("write_scenes: the name of the folder for the scenes is empty. Choose one.")
    root = Path(root)
    started = root / _STARTED
    with _writing_to(root):
        if started.exists():
            _check_options(started, options)
        else:
            _check_place(root, options)
    total, done = options.train_images + options.val_images, 0
    progress(done, total)  # before a look at many files
    with named("write_scenes"):
        names = class_names(options.objects)
        objects = read_objects(options.objects, names, options.val_share, options.min_size, options.max_size)
        backgrounds = read_backgrounds(options.backgrounds, options.image_size, options.val_share)
    with _writing_to(root):
        root.mkdir(parents=True, exist_ok=True)
        write_whole(started, json.dumps(asdict(options), indent=1))
        (root / "annotations").mkdir(exist_ok=True)
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    for part, count in (("train", options.train_images), ("val", options.val_images)):
        (root / part).mkdir(exist_ok=True)
        train = part == "train"
        write = partial(_write_scene, root / part, train, objects[train], backgrounds[train], options)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image, found in _in_threads(write, count, workers):
            images.append(image)
            for one in found:
                annotations.append({"id": len(annotations) + 1, "image_id": image["id"], "iscrowd": 0, **one})
            done += 1
            progress(done, total)
        content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        (root / _ANNOTATIONS.format(part)).write_text(json.dumps(content))
    started.replace(root / _DONE)


def _write_scene(
    folder: Path,
    train: bool,
    objects: Objects,
    background: Background,
    options: SceneOptions,
    number: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write a scene, and return the image's entry and its annotations. Other scenes do not matter for it."""
    side = options.image_size
    overlap = options.max_overlap * (number + 0.5) / (options.train_images if train else options.val_images)
    rng = np.random.default_rng([options.seed, train, number])
    count = int(rng.integers(options.min_objects, options.max_objects + 1))
    chosen = draw_objects(objects, count, (options.min_size, options.max_size), options.rotation, options.flip, rng)
    canvas = background(rng)
    encode = outlines if options.mask_format == "polygons" else encode_mask
    annotations, ratio = compose(canvas, chosen, overlap, options.min_visible, encode, rng)
    if options.noise:
        canvas += rng.normal(0, options.noise, canvas.shape)
    name = f"{number:06d}.{options.file_type}"
    Image.fromarray(canvas.clip(0, 255).round().astype(np.uint8)).save(folder / name, quality=95)
    image = {"id": number, "file_name": name, "width": side, "height": side, "occlusion_ratio": round(ratio, 4)}
    return image, annotations


def _in_threads(function: Callable[[int], T], count: int, workers: int | None) -> Iterator[T]:
    """Yield ``function(0)``, ``function(1)``, ... in this order; at an error no other is begun."""
    pool = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        yield from pool.map(function, range(count))
    finally:
        pool.shutdown(cancel_futures=True)


def _check_place(root: Path, options: SceneOptions) -> None:
    for source in (options.objects, options.backgrounds):
        if source and source not in BUILT_IN and root.resolve().is_relative_to(Path(source).resolve()):
            raise ValueError(
                f"write_scenes: {root} lies in {source}, from which pictures are read. Choose a folder outside."
            )
    if root.exists() and (there := sorted(path.name for path in root.iterdir() if not is_hidden(path.name))):
        raise ValueError(
            f"write_scenes: {root} is not empty, it holds {there[0]}. Choose another folder for the scenes, or remove "
            "what is there."
        )


@contextmanager
def _writing_to(root: Path) -> Iterator[None]:
    """Say what to do where a folder cannot be made or read."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"write_scenes: cannot write to {root}: {error.strerror}. Choose another folder for the scenes."
        ) from error


def _check_options(file: Path, options: SceneOptions) -> None:
    wanted = asdict(options)
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.keys() != wanted.keys():
        raise ValueError(
            f"write_scenes: {file} is damaged or of another version: expected an object with {', '.join(wanted)}. "
            f"Remove {file.parent}, and the scenes are written again, or choose another root."
        )
    differing = [f"{k} = {found[k]} there, {v} now" for k, v in wanted.items() if found[k] != v]
    if differing:
        raise ValueError(
            f"write_scenes: {file.parent} holds other scenes: {'; '.join(differing)}. Choose another root or remove it."
        )
