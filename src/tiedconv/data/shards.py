"""Tar files of photographs in WebDataset's format: written, listed in an index, and that index checked."""

import io
import json
import re
import reprlib
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from .._checks import named
from .._files import write_whole
from .folders import ImageFolder

INDEX = "index.json"
_PARTS = ("train", "val")
PLACES = ("offsets", "sizes", "labels")  # of a shard in the index, each with one entry per image


def write_shards(data: ImageFolder, output: str, images_per_shard: int = 1000) -> None:
    """Write both splits of a data module as shards, ``output/train/*.tar`` and ``output/val/*.tar``, and their index.

    Image files are copied unchanged. Training images are shuffled, so that a shard holds images of all classes.

    Args:
        data: an :class:`ImageFolder` or :class:`ImageNet`.
        output: a folder that does not exist or is empty.
        images_per_shard: images in a tar file, 1 or more; 1000 photographs are about 100 MB.

    Raises:
        ValueError: if ``output`` holds files, or ``images_per_shard`` is out of range.
    """
    folder = Path(output)
    if images_per_shard < 1:
        raise ValueError(f"write_shards: images_per_shard must be at least 1, got {images_per_shard}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"write_shards: {folder} is not empty. Give a new folder.")
    for part in _PARTS:
        (folder / part).mkdir(parents=True)
        samples: list[tuple[str, int]] = data.split(part == "train").samples  # type: ignore[attr-defined]
        if part == "train":
            mixed = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
            samples = [samples[i] for i in mixed.tolist()]
        for first in range(0, len(samples), images_per_shard):
            with tarfile.open(folder / part / f"{first // images_per_shard:06d}.tar", "w") as tar:
                for number, (path, label) in enumerate(samples[first : first + images_per_shard], first):
                    _add(tar, f"{number:08d}{Path(path).suffix.lower()}", Path(path).read_bytes())
                    _add(tar, f"{number:08d}.cls", str(label).encode())
    index_shards(output, data.classes)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def index_shards(folder: str, classes: Sequence[str]) -> None:
    """Write ``folder/index.json``, by which :class:`StreamedImages` finds the images in shards of any tool.

    A sample is an image file and a file of the same name with the suffix ``.cls``, its class as a number. The tar files
    must not be compressed. Other files in them are passed over, and so are those that macOS adds, ``._*``.

    Args:
        folder: folder with ``train/*.tar`` and ``val/*.tar``.
        classes: names of the classes, in the order of their numbers.

    Raises:
        ValueError: if a split has no shards; if a shard is not a whole tar file, has no images or a name with ``:`` or
            a backslash; if an image is a link or empty, shares its name, or has no class or one that is out of range.
    """
    index: dict[str, Any] = {"classes": list(classes)}
    for part in _PARTS:
        shards = sorted(Path(folder, part).glob("*.tar"))
        if not shards:
            raise ValueError(f"index_shards: no *.tar in {Path(folder, part)}. Expected train/*.tar and val/*.tar.")
        index[part] = []
        for path in shards:
            with named(f"index_shards: {path}"):
                index[part].append({"name": f"{part}/{path.name}", **_images(path, len(classes))})
    with named(f"index_shards: {Path(folder, INDEX)}"):
        _check_index(index)
    write_whole(Path(folder, INDEX), json.dumps(index))


def _images(path: Path, classes: int) -> dict[str, Any]:
    """Return where the images of a shard are, and their classes."""
    places: dict[str, tuple[int, int]] = {}
    labels: dict[str, bytes] = {}
    for member, label in _members(path):
        key = member.name.rpartition(".")[0]
        if not member.isreg() or member.issparse():
            raise ValueError(f"{member.name} is a link or a sparse file. Store the file itself.")
        if key in (places if label is None else labels):
            what = "image" if label is None else "class"
            raise ValueError(f"{member.name} is the second {what} of the name {key}. Give each image its own name.")
        if label is not None:
            labels[key] = label
        elif member.size:
            places[key] = (member.offset_data, member.size)
        else:
            raise ValueError(f"{member.name} is empty. Replace the image or take it out.")
    if not places:
        raise ValueError(f"it holds no image. Known suffixes: {', '.join(IMG_EXTENSIONS)}.")
    return {
        "bytes": path.stat().st_size,
        "offsets": [offset for offset, _ in places.values()],
        "sizes": [size for _, size in places.values()],
        "labels": [_label(key, labels.get(key), classes) for key in places],
    }


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """Yield the entries of a shard that are images, with None, or classes, with what they hold."""
    try:
        with tarfile.open(path, "r:") as tar:  # in a compressed file, offsets are meaningless
            for member in tar:
                suffix = member.name.rpartition(".")[2]
                if member.isdir() or member.name.rpartition("/")[2].startswith("._"):
                    continue
                if f".{suffix.lower()}" in IMG_EXTENSIONS:
                    yield member, None
                elif suffix == "cls":
                    content = tar.extractfile(member) if member.isreg() else None
                    yield member, content.read() if content else b""
            end = tar.offset
        with path.open("rb") as file:
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a damaged entry for the end
                raise tarfile.ReadError(f"it breaks off at byte {end}")
    except (tarfile.TarError, ValueError) as error:  # tarfile raises ValueError for some damaged headers
        raise ValueError(f"it is not a whole, uncompressed tar file: {error}. Copy or write it again.") from error


def _label(key: str, content: bytes | None, classes: int) -> int:
    """Return the class of an image from what its ``.cls`` holds."""
    try:
        label = int(content or b"")
    except ValueError:
        label = -1
    if not 0 <= label < classes:
        got = "no such file" if content is None else reprlib.repr(content)
        raise ValueError(f"the class of {key} must be a number from 0 to {classes - 1} in {key}.cls, got {got}.")
    return label


def read_index(address: str) -> Any:
    """Return the index of the shards in a folder or at a URL: ``classes``, ``train`` and ``val``.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the index is invalid.
    """
    where = f"{address}/{INDEX}"
    try:
        with fsspec.open(where) as file:
            content = file.read()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"StreamedImages: {address} holds no {INDEX}. tiedconv.data.write_shards writes shards and an index, "
            "index_shards an index of existing shards."
        ) from error
    try:
        index = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"StreamedImages: {where} is not JSON: {error}") from None
    with named(f"StreamedImages: {where}"):
        _check_index(index)
    return index


def _check_index(index: Any) -> None:
    """Refuse an index that leads to files other than shards, to bytes outside them or to unknown classes.

    It may come from anyone, and its names become names of files on this machine.
    """
    if not isinstance(index, dict):
        raise _invalid(f"it must be an object with classes, train and val, got {reprlib.repr(index)}")
    classes = index.get("classes")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise _invalid(f"classes must be a list of names, got {reprlib.repr(classes)}")
    for part in _PARTS:
        shards = index.get(part)
        if not isinstance(shards, list) or not shards:
            raise _invalid(f"{part} must be a list of shards, one or more, got {reprlib.repr(shards)}")
        for shard in shards:
            _check_shard(shard, part, len(classes))


def _check_shard(shard: Any, part: str, classes: int) -> None:
    name, size = (shard.get("name"), shard.get("bytes")) if isinstance(shard, dict) else (None, None)
    if not isinstance(name, str) or not re.fullmatch(rf"{part}/[^/\\:\x00-\x1f]+\.tar", name):
        raise _invalid(f"shards must be called {part}/<name>.tar, with no /, \\ or : in <name>, got {name!r}: rename")
    if type(size) is not int or not 0 < size < 2**63:
        raise _invalid(f"bytes of {name} must be a whole number from 1 to 2^63 - 1, got {reprlib.repr(size)}")
    try:
        offsets, sizes, labels = places = np.array([shard.get(key) for key in PLACES])
    except ValueError:  # of different lengths
        places = np.array(None)
    if places.ndim != 2 or places.dtype != np.int64:
        raise _invalid(f"{', '.join(PLACES)} of {name} must be lists of whole numbers, with one entry per image")
    if not 0 <= labels.min() <= labels.max() < classes:
        raise _invalid(f"labels of {name} must be from 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
    if offsets.min() < 0 or sizes.min() < 1 or (offsets > size - sizes).any():
        raise _invalid(f"an image of {name} must lie within its {size} bytes, but an offset or a size leads out")


def _invalid(what: str) -> ValueError:
    return ValueError(f"{what}. Rewrite the index with index_shards.")
