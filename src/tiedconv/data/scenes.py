"""Generated scenes of real images that cover each other, written as a COCO folder: a test bed for occlusion."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from .._coco import encode_mask
from .._files import write_whole
from .classification import ClassificationData
from .coco import Coco
from .embedded import Digits
from .torchvision_sets import FashionMNIST

Source = Literal["digits", "fashion_mnist"]
_SOURCES: dict[Source, type[Digits | FashionMNIST]] = {"digits": Digits, "fashion_mnist": FashionMNIST}
Array = np.ndarray[Any, Any]

_LAYOUTS = 40  # placements tried for a scene; the one nearest to the overlap asked for is taken
_ANNOTATIONS = "annotations/instances_{}.json"
_VISIBLE = 0.1  # share of an object that must remain visible


@dataclass(frozen=True)
class SceneOptions:
    """What generated scenes look like.

    Attributes:
        source: the images that are pasted: scikit-learn's handwritten ``"digits"``, or ``"fashion_mnist"``.
        image_size: side of the scenes in pixels.
        train_images, val_images: scenes in the two splits. They are made of the training and of the validation images
            of the source, so that no object of one is in the other.
        min_objects, max_objects: objects in a scene.
        min_size, max_size: side of a pasted image in pixels.
        max_overlap: scenes are spread evenly over overlaps from 0 to this; overlap is the paper's r (eq. 5) of the
            whole objects, covered parts included.
        seed: decides everything that is drawn.
    """

    source: Source = "digits"
    image_size: int = 128
    train_images: int = 600
    val_images: int = 300
    min_objects: int = 2
    max_objects: int = 5
    min_size: int = 32
    max_size: int = 52
    max_overlap: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise ValueError(f"SceneOptions: source must be one of {', '.join(get_args(Source))}, got {self.source!r}.")
        for name in ("train_images", "val_images", "min_objects"):
            if getattr(self, name) < 1:
                raise ValueError(f"SceneOptions: {name} must be at least 1, got {getattr(self, name)}.")
        if not self.min_objects <= self.max_objects <= 100:
            raise ValueError(
                f"SceneOptions: max_objects must be from min_objects={self.min_objects} to 100, got {self.max_objects}."
            )
        if not 12 <= self.min_size <= self.max_size <= self.image_size:
            raise ValueError(
                f"SceneOptions: expected 12 <= min_size <= max_size <= image_size, got min_size={self.min_size}, "
                f"max_size={self.max_size}, image_size={self.image_size}."
            )
        if not 0 <= self.max_overlap < 1:
            raise ValueError(f"SceneOptions: max_overlap must be in [0, 1), got {self.max_overlap}.")


class OcclusionScenes(Coco):
    """Scenes that are generated into ``root`` if they are not there yet, and then read like any COCO folder.

    Args:
        root: folder of the scenes; it belongs to one set of options.
        scenes: what they look like.
        masks, flip, batch_size, num_workers, predict_path: as in :class:`DetectionData`. Nothing is mirrored by
            default, as digits are not.

    Raises:
        ValueError: in ``prepare_data``, if ``root`` holds scenes of other options, or a data set of another origin.
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
    def classes(self) -> list[str]:  # known before the scenes are there
        return list(_SOURCES[self.scenes.source].classes)

    @property
    def category_ids(self) -> list[int]:
        return list(range(1, len(self.classes) + 1))

    def prepare_data(self) -> None:
        write_scenes(self.root, self.scenes)


def write_scenes(root: Path, options: SceneOptions = SceneOptions()) -> None:
    """Write scenes to ``root`` as a COCO folder, unless they are there already.

    ``train/*.png`` and ``val/*.png`` are the images, ``annotations/instances_{train,val}.json`` the annotations:
    boxes and masks of what is visible of each object, as in COCO, and under ``amodal_segmentation`` the whole object.
    ``scenes.json`` keeps the options and is written last; until then ``scenes.started`` marks a half-written folder,
    which the next call completes. The same options give the same bytes.

    Raises:
        ValueError: if ``root`` holds scenes of other options, a damaged ``scenes.json``, or annotations or images that
            were not written here.
        FileNotFoundError: if the source's images are missing, with the way to get them.
    """
    done, started = root / "scenes.json", root / "scenes.started"
    if done.exists():
        _check_options(done, options)
        return
    theirs = [str(root / name) for name in ("annotations", "train", "val") if (root / name).exists()]
    if theirs and not started.exists():
        raise ValueError(
            f"write_scenes: {', '.join(theirs)} would be overwritten, and {root} holds no scenes.json that says it was "
            "written here. Choose another root or move them away."
        )
    source = _SOURCES[options.source]()
    try:
        source.prepare_data()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"write_scenes: the images of {options.source} are missing. On Debian: apt-get install "
            "dataset-fashion-mnist. Elsewhere tiedconv.data.FashionMNIST(download=True).prepare_data() fetches them "
            "into ./data."
        ) from error
    root.mkdir(parents=True, exist_ok=True)
    started.touch()
    (root / "annotations").mkdir(exist_ok=True)
    for part, count in (("train", options.train_images), ("val", options.val_images)):
        images, labels = _objects(source, train=part == "train")
        rng = np.random.default_rng([options.seed, part == "train"])
        (root / part).mkdir(exist_ok=True)
        annotations: list[dict[str, Any]] = []
        records = []
        for number in range(count):
            overlap = options.max_overlap * (number + 0.5) / count
            scene, objects = _scene(images, labels, overlap, options, rng)
            name = f"{number:06d}.png"
            Image.fromarray(scene).save(root / part / name)
            records.append({"id": number, "file_name": name, "width": options.image_size, "height": options.image_size})
            for one in objects:
                annotations.append({"id": len(annotations) + 1, "image_id": number, "iscrowd": 0, **one})
        categories = [{"id": i, "name": name} for i, name in enumerate(source.classes, start=1)]
        content = {"info": {}, "images": records, "annotations": annotations, "categories": categories}
        (root / _ANNOTATIONS.format(part)).write_text(json.dumps(content))
    write_whole(done, json.dumps(asdict(options), indent=1))
    started.unlink(missing_ok=True)


def _check_options(done: Path, options: SceneOptions) -> None:
    wanted = asdict(options)
    try:
        found = json.loads(done.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.keys() != wanted.keys():
        raise ValueError(
            f"write_scenes: {done} is damaged: expected an object with {', '.join(wanted)}. Remove {done.parent}, and "
            "the scenes are written again, or choose another root."
        )
    differing = [f"{k} = {found[k]} there, {v} now" for k, v in wanted.items() if found[k] != v]
    if differing:
        raise ValueError(
            f"write_scenes: {done.parent} holds other scenes: {'; '.join(differing)}. Choose another root or remove it."
        )


def _objects(source: ClassificationData, *, train: bool) -> tuple[Array, list[int]]:
    """The source's images as they are, before its transforms, and their classes."""
    split: Any = source.split(train)
    if isinstance(source, Digits):
        return split.images, split.labels
    return split.data.numpy(), split.targets.tolist()


@dataclass(frozen=True)
class _CutOut:
    """An image cut out along its outline: colours (s, s, 3) 0-255, mask (s, s) of bools, class."""

    colours: Array
    mask: Array
    label: int


def _cut_out(pixels: Array, label: int, size: int, rng: np.random.Generator) -> _CutOut:
    """Enlarge a grey image, cut it out along its widened outline and colour it: bright where it is bright."""
    image = Image.fromarray(pixels)
    padded = ImageOps.expand(image, max(1, image.width // 14))  # room for the rim where the image reaches its border
    grey = padded.resize((size, size), Image.Resampling.BICUBIC)
    rim = 2 * max(1, size // 20) + 1
    mask = np.asarray(grey.point(lambda value: 255 * (value > 60)).filter(ImageFilter.MaxFilter(rim))) > 0
    ink = np.asarray(grey, dtype=np.float32)[..., None] / 255
    dark, light = rng.uniform(0, 110, 3), rng.uniform(145, 255, 3)
    paper, pen = (dark, light) if rng.random() < 0.5 else (light, dark)
    return _CutOut(paper + (pen - paper) * ink, mask, label)


def _scene(
    images: Array, labels: Sequence[int], overlap: float, options: SceneOptions, rng: np.random.Generator
) -> tuple[Array, list[dict[str, Any]]]:
    """Compose a scene (H, W, 3) of about the given overlap, and the annotations of its objects, lowest first."""
    count = int(rng.integers(options.min_objects, options.max_objects + 1))
    chosen = rng.choice(len(images), count, replace=False)
    sizes = rng.integers(options.min_size, options.max_size + 1, count)
    cut_outs = [_cut_out(images[i], labels[i], int(s), rng) for i, s in zip(chosen, sizes, strict=True)]
    whole = _best_layout([c.mask for c in cut_outs], overlap, options.image_size, rng)
    canvas = _background(options.image_size, rng)
    for cut_out, mask in zip(cut_outs, whole, strict=True):
        canvas[mask] = cut_out.colours[cut_out.mask]
    canvas += rng.normal(0, 6, canvas.shape)
    seen = zip(cut_outs, _visible(whole), whole, strict=True)
    objects = [_annotation(c.label, v, w) for c, v, w in seen if v.any()]  # COCO has no hidden objects
    return canvas.clip(0, 255).round().astype(np.uint8), objects


def _best_layout(masks: list[Array], overlap: float, side: int, rng: np.random.Generator) -> Array:
    """Place the masks, from scattered to huddled, and return the layout (N, H, W) nearest to ``overlap``.

    A layout that hides an object is used only if every other one does too.
    """
    best, best_error = None, math.inf
    for attempt in range(_LAYOUTS):
        spread = 1 - attempt / _LAYOUTS
        centre = rng.uniform(0, 1, 2)
        whole = np.zeros((len(masks), side, side), dtype=bool)
        for layer, mask in zip(whole, masks, strict=True):
            room = side - len(mask)
            y, x = (room * (centre + spread * (rng.uniform(0, 1, 2) - centre))).astype(int)
            layer[y : y + len(mask), x : x + len(mask)] = mask
        times_covered = whole.sum(0)
        error = abs(times_covered[times_covered > 1].sum() / times_covered.sum() - overlap)
        areas = whole.sum((1, 2))
        if (_visible(whole).sum((1, 2)) < _VISIBLE * areas).any():
            error += 1
        if error < best_error:
            best, best_error = whole, error
    assert best is not None
    return best


def _visible(whole: Array) -> Array:
    """Return the part of each layer that no later layer covers."""
    above = np.zeros_like(whole)
    above[:-1] = np.logical_or.accumulate(whole[:0:-1], axis=0)[::-1]
    visible: Array = whole & ~above
    return visible


def _background(side: int, rng: np.random.Generator) -> Array:
    """Texture: noise of several grain sizes between two colours."""
    field = np.zeros((side, side), dtype=np.float32)
    for cells in (2, 5, 11, 23):
        grain = Image.fromarray(rng.normal(0, 1 / math.sqrt(cells), (cells, cells)).astype(np.float32))
        field += np.asarray(grain.resize((side, side), Image.Resampling.BICUBIC))
    share = 1 / (1 + np.exp(-2 * field[..., None]))
    first, second = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    texture: Array = first + (second - first) * share
    return texture


def _annotation(label: int, visible: Array, whole: Array) -> dict[str, Any]:
    (x0, x1), (y0, y1) = (np.flatnonzero(visible.any(axis))[[0, -1]].tolist() for axis in (0, 1))
    return {
        "category_id": label + 1,
        "bbox": [x0, y0, x1 - x0 + 1, y1 - y0 + 1],
        "area": int(visible.sum()),
        "segmentation": encode_mask(visible),
        "amodal_segmentation": encode_mask(whole),
    }
