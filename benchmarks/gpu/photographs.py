"""Photographs held on the device as bytes, and augmented there."""

import io
import math
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEAST_AREA, WIDEST = 0.35, 4 / 3
"""A random crop has at least this part of the image, and its sides at most this ratio."""


@dataclass(frozen=True)
class Photographs:
    """Images of one split.

    Attributes:
        images: bytes (N, 3, S, S).
        labels: (N), the classes' numbers.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def read_zip(path: Path, size: int, device: torch.device) -> tuple[Photographs, Photographs, int]:
    """Return the training and the validation images of ``*/{train,val}/<class>/*.jpg``, and how many classes there are.

    The middle square of each image is scaled to ``size`` pixels.

    Raises:
        ValueError: if there are no images of one of the two.
    """
    with zipfile.ZipFile(path) as archive:
        names = [n for n in sorted(archive.namelist()) if PurePosixPath(n).suffix.lower() in (".jpg", ".jpeg")]
        classes = sorted({PurePosixPath(name).parts[-2] for name in names})
        found = []
        for split in ("train", "val"):
            own = [name for name in names if split in PurePosixPath(name).parts[:-2]]
            if not own:
                raise ValueError(f"gpu.sh: {path} has no images {split}/<class>/*.jpg. Set IMAGENETTE_ZIP to another.")
            with ThreadPoolExecutor() as pool:
                images = list(pool.map(lambda file: _decode(file, size), map(archive.read, own)))
            labels = [classes.index(PurePosixPath(name).parts[-2]) for name in own]
            stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
            found.append(Photographs(stacked.to(device), torch.tensor(labels, device=device)))
    return found[0], found[1], len(classes)


def synthetic(
    size: int, device: torch.device, counts: Sequence[int] = (48, 32)
) -> tuple[Photographs, Photographs, int]:
    """Return as :func:`read_zip` noise in two classes: the upper or the lower half is bright."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for count in counts:
        labels = torch.arange(count) % 2
        images = torch.randint(128, (count, 3, size, size), generator=generator, dtype=torch.uint8)
        images[labels == 0, :, : size // 2] += 127
        images[labels == 1, :, size // 2 :] += 127
        found.append(Photographs(images.to(device), labels.to(device)))
    return found[0], found[1], 2


def random_crops(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return a random part of each image, half of them mirrored, scaled to ``size`` and normalised.

    As torchvision's ``RandomResizedCrop`` and ``RandomHorizontalFlip``, but on the device and for all at once. With one
    exception: a crop's side longer than the image is cut to the image's.

    Args:
        images: bytes (N, 3, S, S).
        size: S' of the result (N, 3, S', S'), which is channels_last.
        generator: on the images' device.
    """
    n, device = len(images), images.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator, device=device) * (high - low) + low

    side = uniform(LEAST_AREA, 1).sqrt()
    stretch = (uniform(-0.5, 0.5) * math.log(WIDEST)).exp()
    width, height = (side * stretch).clamp(max=1), (side / stretch).clamp(max=1)
    # In the coordinates of grid_sample, where an image reaches from -1 to 1.
    x, y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    mirrored = torch.where(uniform(0, 1) < 0.5, -width, width)
    zero = torch.zeros_like(x)
    maps = torch.stack([mirrored, zero, x, zero, height, y], 1).view(n, 2, 3)
    grid = F.affine_grid(maps, [n, 3, size, size], align_corners=False)
    return normalised(F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False))


def centre_crops(images: Tensor, size: int) -> Tensor:
    """Return the middle of each image, normalised: bytes (N, 3, S, S) → (N, 3, ``size``, ``size``), channels_last."""
    first = (images.shape[-1] - size) // 2
    return normalised(images[..., first : first + size, first : first + size].float())


def normalised(images: Tensor) -> Tensor:
    """Return images with values from 0 to 255 in ImageNet's statistics, channels_last."""
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) * 255 for values in (MEAN, STD))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def _decode(file: bytes, size: int) -> np.ndarray:
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR))
