"""Photographs in shards, read from a disk or from a URL, in any order.

No library keeps what a resume promises here: the state of torchdata's StatefulDataLoader (0.11) and the order of images
in litdata (0.2) depend on the number of workers. litdata and MosaicML streaming (0.13) need formats of their own.
"""

import hashlib
import io
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
from filelock import FileLock
from torch.utils.data import Dataset

from .._files import part_of
from ._images import Transform, read_image
from .folders import ImageFolder
from .shards import PLACES, read_index


class StreamedImages(ImageFolder):
    """Images in shards that :func:`write_shards` wrote or :func:`index_shards` listed, in a folder or at a URL.

    A shard at a URL is copied whole into ``cache`` when its first image is needed, once for all processes of a machine.
    The shards of each URL are kept apart and never fetched again: changed shards need a new URL.

    Args:
        root: folder or URL of the index; any URL that fsspec reads, such as ``https://`` or, with the package s3fs,
            ``s3://``.
        cache: folder on a local disk with room for all shards of a URL.
        window: shards among which images are mixed, after the shards' own order is drawn; default: all. With a number
            such as 32, an epoch begins when that many shards are there.
        options: as in :class:`ImageFolder`.

    Raises:
        FileNotFoundError: if ``root`` holds no index.
        ValueError: if a URL comes without ``cache``, a folder with one, ``window`` is out of range, or the index is
            invalid.
    """

    def __init__(self, root: str, cache: str | None = None, window: int | None = None, **options: Any) -> None:
        if ("://" in root) != (cache is not None):
            raise ValueError(
                f"StreamedImages: a URL needs a cache, a folder with room for all shards, and a folder needs none; got "
                f"root={root} and cache={cache}."
            )
        if window is not None and window < 1:
            raise ValueError(f"StreamedImages: window must be at least 1, got {window}.")
        self.address = root.rstrip("/")
        self.cache = cache
        self.window = window
        super().__init__(root, **options)

    def read_classes(self) -> tuple[str, ...]:
        self.index = read_index(self.address)
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
        self.offsets, self.sizes, self.labels = (np.concatenate([shard[key] for shard in shards]) for key in PLACES)
        self.address = address
        # Shards of two URLs often have the same names, and the same sizes too: tar files are padded.
        self.cache = None if cache is None else Path(cache, hashlib.sha256(address.encode()).hexdigest()[:16])
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
        name = f"{name}, bytes from {self.offsets[index]},"
        return read_image(io.BytesIO(content), name, "RGB", self.transform), int(self.labels[index])

    def local(self, name: str, size: int) -> Path:
        """Return the file of a shard, copied from the URL where it is missing or not as the index says.

        Raises:
            OSError: if the file has another size than the index says.
        """
        if self.cache is None:
            return _of_size(Path(self.address, name), size, f"{self.address}/{name}")
        path = self.cache / name
        if _has_size(path, size):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not _has_size(path, size):
                part = part_of(path)
                files, remote = fsspec.core.url_to_fs(f"{self.address}/{name}")
                files.get_file(remote, str(part))
                _of_size(part, size, f"{self.address}/{name}").replace(path)
        return path


def _has_size(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def _of_size(path: Path, size: int, shard: str) -> Path:
    found = path.stat().st_size
    if found != size:
        raise OSError(
            f"StreamedImages: {shard} has {found} bytes, the index says {size}. Rewrite the index with index_shards."
        )
    return path
