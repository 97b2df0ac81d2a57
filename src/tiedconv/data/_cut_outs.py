"""What generated scenes are made of: objects that are cut out, and what lies behind them."""

import math
import os
import warnings
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from ._images import in_mode, named_image, upright
from ._listing import class_folders, few, images_below, images_by_class
from ._looks import look_at_files
from .embedded import Digits
from .torchvision_sets import FashionMNIST

Array = np.ndarray[Any, Any]

BUILT_IN: dict[str, type[Digits | FashionMNIST]] = {"digits": Digits, "fashion_mnist": FashionMNIST}

Background = Callable[[np.random.Generator], Array]  # draws one, (side, side, 3), 0-255
Read = Callable[[Path], Image.Image]

_FAINTEST = 26  # of 255, the highest opacity of an object that can just be seen


class Objects(NamedTuple):
    """The objects of one split.

    Attributes:
        labels: the class of each, from 0 on.
        cut_out: returns the object of an index in RGBA; where it is drawn and not read, in ``size`` x ``size`` pixels.
    """

    labels: list[int]
    cut_out: Callable[[int, int, np.random.Generator], Image.Image]


def class_names(objects: str) -> list[str]:
    """Return the classes of a built-in source, or of a folder: its folders, sorted by name.

    Raises:
        FileNotFoundError: if there is no such folder, or it has no folders.
    """
    if objects in BUILT_IN:
        return list(BUILT_IN[objects].classes)
    folder = Path(objects)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"objects must be {', '.join(BUILT_IN)} or a folder with a folder of transparent PNGs for each class; "
            f"{objects!r} is not a folder."
        )
    names = class_folders(folder)
    if not names:
        raise FileNotFoundError(
            f"{folder} holds no folders. Move its pictures to {folder}/<class>, one folder for each class."
        )
    return names


def read_objects(
    objects: str, names: Sequence[str], val_share: float, min_size: int, max_size: int
) -> dict[bool, Objects]:
    """Return the objects to train on (``True``) and those to validate on, after a look at every file.

    ``names`` are the classes; ``min_size`` and ``max_size`` the lengths in pixels of the longer side that will be asked
    for.

    Raises:
        FileNotFoundError: if there are no objects, or a class has none.
        ValueError: if a link puts a picture in two classes.
        OSError, ValueError: for the first file that is damaged, opaque or barely visible.
    """
    if objects in BUILT_IN:
        source = BUILT_IN[objects]()
        try:
            source.prepare_data()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the images of {objects} are missing. On Debian: apt-get install dataset-fashion-mnist. Elsewhere "
                "tiedconv.data.FashionMNIST(download=True).prepare_data() fetches them into ./data."
            ) from error
        return {train: _grey_objects(source.split(train)) for train in (True, False)}
    folder = Path(objects)
    of_class = {name: _distinct(found) for name, found in images_by_class(folder, names, "write_scenes").items()}
    paths = [path for found in of_class.values() for path in found]
    if shared := sorted({*paths} - {*_distinct(paths)}):
        raise ValueError(
            f"pictures that links put in two classes: {few(shared)}, {len(shared)} in all. Remove the links that are "
            "wrong."
        )
    _look_at(paths, partial(_check_cut_out, min_size), ["cut-outs", min_size])
    single = [name for name, found in of_class.items() if len(found) == 1]
    if single and val_share:
        warnings.warn(
            f"write_scenes: classes with a single cut-out have it in both splits: {few(single)}, {len(single)} in all. "
            "Add cut-outs, or validation does not tell whether others of such a class are found.",
            stacklevel=3,
        )
    read = lru_cache(maxsize=128)(partial(_read_cut_out, 2 * max_size))  # turned before it gets its size
    divided = [_divided(folder / name, found, val_share) for name, found in of_class.items()]
    splits = {}
    for train in (True, False):
        labels = [label for label, parts in enumerate(divided) for _ in parts[train]]
        files = [path for parts in divided for path in parts[train]]
        splits[train] = Objects(labels, partial(_cut_out_of_file, read, files))
    return splits


def _distinct(paths: Sequence[Path]) -> list[Path]:
    """Return the first name of each file: others are links to it, which could be in the other split."""
    return sorted({os.path.realpath(path): path for path in reversed(paths)}.values())


def _look_at(paths: Sequence[Path], check: Callable[[Path], None], about: Sequence[Any]) -> None:
    def look(index: int) -> str:
        check(paths[index])
        return ""

    look_at_files(Path(), list(map(str, paths)), look, about)


def _divided(folder: Path, paths: Sequence[Path], val_share: float) -> dict[bool, Sequence[Path]]:
    """Divide files into those to train on and those to validate on, by a hash of their names: always alike.

    A single file, or any with a share of 0, is in both.
    """
    if len(paths) == 1 or not val_share:
        return {True: paths, False: paths}
    order = sorted(paths, key=lambda path: zlib.crc32(os.fsencode(path.relative_to(folder).as_posix())))
    count = min(max(1, round(val_share * len(paths))), len(paths) - 1)
    return {True: sorted(order[count:]), False: sorted(order[:count])}


def _grey_objects(split: Any) -> Objects:
    is_torchvisions = hasattr(split, "targets")
    images: Array = split.data.numpy() if is_torchvisions else split.images  # before any transform
    return Objects(split.targets.tolist() if is_torchvisions else split.labels, partial(_cut_out_of_grey, images))


def _cut_out_of_grey(images: Array, index: int, size: int, rng: np.random.Generator) -> Image.Image:
    """Enlarge a bright drawing on black, cut it out along its widened outline and colour it in two colours."""
    image = Image.fromarray(images[index])
    padded = ImageOps.expand(image, max(1, image.width // 14))  # room for the rim
    grey = padded.resize((size, size), Image.Resampling.BICUBIC)
    rim = 2 * max(1, size // 20) + 1
    mask = grey.point(lambda value: 255 * (value > 60)).filter(ImageFilter.MaxFilter(rim))
    ink = np.asarray(grey, dtype=np.float32)[..., None] / 255
    dark, light = rng.uniform(0, 110, 3), rng.uniform(145, 255, 3)
    paper, pen = (dark, light) if rng.random() < 0.5 else (light, dark)
    coloured = Image.fromarray((paper + (pen - paper) * ink).round().astype(np.uint8))
    coloured.putalpha(mask)
    return coloured


def _cut_out_of_file(read: Read, paths: Sequence[Path], index: int, size: int, rng: np.random.Generator) -> Image.Image:
    return read(paths[index])


def _read_cut_out(longest: int, path: Path) -> Image.Image:
    """Return the part of an image that is not transparent, its longer side at most ``longest`` pixels."""
    with named_image(path), Image.open(path) as file:
        image = upright(file).convert("RGBA")
    image = trimmed(image)
    image.thumbnail((longest, longest))
    return image


def trimmed(image: Image.Image) -> Image.Image:
    """Return an RGBA image without its transparent margins, and without those where programs left specks."""
    alpha = image.getchannel("A")
    faint = np.asarray(alpha).max() / 10
    return image.crop(alpha.point(lambda value: 255 * (value > faint)).getbbox())


def _check_cut_out(min_size: int, path: Path) -> None:
    with named_image(path), Image.open(path) as file:
        image = file.convert("RGBA")
    if image.getchannel("A").getextrema()[0] == 255:
        raise ValueError(
            f"{path} has no transparent pixel: what is around the object would be pasted too. Cut the object out and "
            "save it as PNG, or take the file out."
        )
    image = trimmed(image)
    image.thumbnail((min_size, min_size))
    opacity = int(np.asarray(image.getchannel("A")).max())
    if opacity < _FAINTEST:
        raise ValueError(
            f"{path} is barely visible: at {min_size} pixels its highest opacity is {opacity} of 255, and {_FAINTEST} "
            "is needed. Take the file out, remove stray pixels from it, or set min_size higher."
        )


def read_backgrounds(folder: str | None, side: int, val_share: float) -> dict[bool, Background]:
    """Return what draws backgrounds of ``side`` x ``side`` pixels for training (``True``) and for validation.

    Args:
        folder: photographs, each of which is looked at. None: textures.
        side: in pixels.
        val_share: share of the photographs that is for validation.

    Raises:
        FileNotFoundError: if it is not a folder, or holds no images.
        OSError, ValueError: for the first file that is damaged or smaller than ``side`` x ``side`` pixels.
    """
    if folder is None:
        return dict.fromkeys((True, False), partial(_texture, side))
    paths = _distinct(images_below(Path(folder), "write_scenes")) if Path(folder).is_dir() else []
    if not paths:
        raise FileNotFoundError(f"backgrounds must be a folder of photographs; there are none in {folder}.")
    _look_at(paths, partial(_check_photograph, side), ["backgrounds", side])
    if len(paths) == 1 and val_share:
        warnings.warn(
            f"write_scenes: {folder} has a single photograph, which is in both splits. Add photographs, or validation "
            "does not tell whether objects are found on others.",
            stacklevel=3,
        )
    read = lru_cache(maxsize=64)(partial(_read_photograph, side))  # of some megabytes each
    return {
        train: partial(_piece, read, part, side) for train, part in _divided(Path(folder), paths, val_share).items()
    }


def _check_photograph(side: int, path: Path) -> None:
    with named_image(path), Image.open(path) as file:
        width, height = file.size
        if file.mode[0] in "IF":
            in_mode(file, "RGB")  # refuses some
        elif file.format == "PNG":
            file.verify()  # its sums, which takes no decoding
        else:
            file.draft("RGB", (64, 64))  # a JPEG is decoded quickly, to its end
            file.load()
    if min(width, height) < side:
        raise ValueError(
            f"{path} is {width} x {height} pixels, too small for scenes of {side} x {side}. Take it out, or set "
            f"image_size to at most {min(width, height)}."
        )


def _read_photograph(side: int, path: Path) -> Image.Image:
    """Return a photograph with little more pixels than scenes need."""
    with named_image(path), Image.open(path) as file:
        file.draft("RGB", (2 * side, 2 * side))
        photo = upright(in_mode(file, "RGB"))
    scale = 1.5 * side / min(photo.size)
    if scale < 1:
        photo = photo.resize([max(side, round(scale * length)) for length in photo.size], reducing_gap=3.0)
    return photo


def _piece(read: Read, paths: Sequence[Path], side: int, rng: np.random.Generator) -> Array:
    """Return a square piece of a photograph (side, side, 3), 0-255, at most as sharp as the photograph."""
    photo = read(paths[int(rng.integers(len(paths)))])
    taken = rng.uniform(side, min(photo.size))
    left, top = (rng.uniform(0, length - taken) for length in photo.size)
    piece = photo.resize((side, side), Image.Resampling.BICUBIC, (left, top, left + taken, top + taken))
    return np.array(piece, dtype=np.float32)


def _texture(side: int, rng: np.random.Generator) -> Array:
    """Return noise (side, side, 3) of several grain sizes between two colours, 0-255."""
    field = np.zeros((side, side), dtype=np.float32)
    for cells in (2, 5, 11, 23):
        grain = Image.fromarray(rng.normal(0, 1 / math.sqrt(cells), (cells, cells)).astype(np.float32))
        field += np.asarray(grain.resize((side, side), Image.Resampling.BICUBIC))
    share = 1 / (1 + np.exp(-2 * field[..., None]))
    first, second = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    found: Array = first + (second - first) * share
    return found
