"""Photographs in shards: tar files in WebDataset's format, read from a disk or from a URL, in any order."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from .._files import write_whole
from ._base import Transform, in_mode, unreadable_named
from .folders import ImageFolder

INDEX = "index.json"


def write_shards(data: ImageFolder, output: str, images_per_shard: int = 1000) -> None:
    """Write both splits of a data module as shards, ``output/train/*.tar`` and ``output/val/*.tar``, and their index.

    Image files are copied as they are. Training images are mixed, so that a shard holds images of all classes;
    validation images keep their order.

    Args:
        data: an :class:`ImageFolder` or :class:`ImageNet`.
        output: a folder that does not exist or is empty.
        images_per_shard: images in a tar file, 1 or more; 1000 photographs are about 100 MB.

    Raises:
        ValueError: if ``output`` holds files or ``images_per_shard`` is out of range.
    """
    folder = Path(output)
    if images_per_shard < 1:
        raise ValueError(f"write_shards: images_per_shard must be at least 1, got {images_per_shard}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"write_shards: {folder} is not empty. Give a new folder.")
    for part in ("train", "val"):
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

    A sample is an image file and a file of the same name with the suffix ``.cls``, its class as a number.

    Args:
        folder: folder with ``train/*.tar`` and ``val/*.tar``.
        classes: names of the classes, in the order of their numbers.

    Raises:
        ValueError: if a part has no shards, or an image has no class or one that is out of range.
    """
    index: dict[str, Any] = {"classes": list(classes)}
    for part in ("train", "val"):
        shards = sorted(Path(folder, part).glob("*.tar"))
        if not shards:
            raise ValueError(f"index_shards: no *.tar in {Path(folder, part)}. Expected train/*.tar and val/*.tar.")
        index[part] = [{"name": f"{part}/{path.name}", **_members(path, len(classes))} for path in shards]
    write_whole(Path(folder, INDEX), json.dumps(index))


def _members(path: Path, classes: int) -> dict[str, Any]:
    """Return where the images of a shard are, and their classes."""
    places: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, suffix = member.name.rpartition(".")[::2]
            if f".{suffix.lower()}" in IMG_EXTENSIONS:
                places[key] = (member.offset_data, member.size)
            elif suffix == "cls":
                content = tar.extractfile(member)
                labels[key] = int(content.read()) if content else -1
    for key in places:
        if not 0 <= labels.get(key, -1) < classes:
            raise ValueError(
                f"index_shards: {path}: the class of {key} must be a number from 0 to {classes - 1} in {key}.cls, got "
                f"{labels.get(key, 'no such file')}."
            )
    return {
        "bytes": path.stat().st_size,
        "offsets": [offset for offset, _ in places.values()],
        "sizes": [size for _, size in places.values()],
        "labels": [labels[key] for key in places],
    }


class StreamedImages(ImageFolder):
    """Images in shards that :func:`write_shards` wrote or :func:`index_shards` listed, in a folder or at a URL.

    As in every data module, order and augmentation depend on seed, epoch and image alone, with any number of processes.
    A shard at a URL is copied whole when its first image is needed, once for all processes of a machine; so ``cache``
    comes to hold all shards.

    Args:
        root: folder or URL of the index; any URL that fsspec reads, such as ``https://`` or, with the package s3fs,
            ``s3://``.
        cache: folder on a local disk for the shards of a URL.
        window: shards among which images are mixed, after the shards' own order is drawn; default: all. A number such
            as 32 lets an epoch begin when that many shards are there.
        options: as in :class:`ImageFolder`.

    Raises:
        FileNotFoundError: if ``root`` holds no index.
        ValueError: if a URL comes without ``cache``, a folder with one, or ``window`` is out of range.
    """

    def __init__(self, root: str, cache: str | None = None, window: int | None = None, **options: Any) -> None:
        if ("://" in root) != (cache is not None):
            raise ValueError(
                f"StreamedImages: a URL needs a cache, a folder has none; got root={root} and cache={cache}."
                + (" Give cache, a folder with room for all shards." if cache is None else "")
            )
        if window is not None and window < 1:
            raise ValueError(f"StreamedImages: window must be at least 1, got {window}.")
        self.address = root.rstrip("/")
        self.cache = cache
        self.window = window
        super().__init__(root, **options)

    def read_classes(self) -> tuple[str, ...]:
        try:
            with fsspec.open(f"{self.address}/{INDEX}") as file:
                self.index = json.load(file)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"StreamedImages: {self.address} holds no {INDEX}. tiedconv.data.write_shards writes shards and index, "
                "index_shards the index of shards that are there."
            ) from error
        return tuple(self.index["classes"])

    def build(self, train: bool) -> Dataset[Any]:
        shards = self.index["train" if train else "val"]
        return _Shards(shards, self.address, self.cache, self.window, self.transform(train))


class _Shards(Dataset[tuple[torch.Tensor, int]]):
    """The images of one split."""

    def __init__(
        self, shards: list[dict[str, Any]], address: str, cache: str | None, window: int | None, transform: Transform
    ) -> None:
        # Arrays, which worker processes share, where lists of numbers would be copied into each of them.
        self.files = [(shard["name"], shard["bytes"]) for shard in shards]
        self.starts = np.cumsum([0, *(len(shard["labels"]) for shard in shards)])
        self.offsets, self.sizes, self.labels = (
            np.concatenate([shard[key] for shard in shards]).astype(np.int64) for key in ("offsets", "sizes", "labels")
        )
        self.address = address
        self.cache = cache
        self.window = window or len(shards)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def order(self, generator: torch.Generator) -> list[int]:
        """Return all indices: shards in random order, and images mixed within every ``window`` of them."""
        shards = torch.randperm(len(self.files), generator=generator).tolist()
        order: list[int] = []
        for first in range(0, len(shards), self.window):
            spans = [np.arange(self.starts[s], self.starts[s + 1]) for s in shards[first : first + self.window]]
            images = np.concatenate(spans)
            order += images[torch.randperm(len(images), generator=generator).numpy()].tolist()
        return order

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        name, size = self.files[int(np.searchsorted(self.starts, index, side="right")) - 1]
        with self.local(name, size).open("rb") as file:
            file.seek(self.offsets[index])
            content = file.read(self.sizes[index])
        with unreadable_named(f"{name}, bytes from {self.offsets[index]},"), Image.open(io.BytesIO(content)) as image:
            whole = in_mode(image, "RGB")
        return self.transform(whole), int(self.labels[index])

    def local(self, name: str, size: int) -> Path:
        """Return the file of a shard, copied from the URL where it is missing or not as the index says.

        Raises:
            OSError: if the URL's file has another size than the index says.
        """
        if self.cache is None:
            return Path(self.address, name)
        path = Path(self.cache, name)
        if _has_size(path, size):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not _has_size(path, size):
                part = path.with_name(f"{path.name}.part")
                files, remote = fsspec.core.url_to_fs(f"{self.address}/{name}")
                files.get_file(remote, str(part))
                if not _has_size(part, size):
                    raise OSError(
                        f"StreamedImages: {self.address}/{name} has {part.stat().st_size} bytes, the index says "
                        f"{size}. Write the index anew with index_shards."
                    )
                part.replace(path)
        return path


def _has_size(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size
