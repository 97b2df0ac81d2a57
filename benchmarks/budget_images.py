"""The images of budget.py: folders decoded once, batches of them, normalised and augmented."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from budget_networks import CLASSES
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from tiedconv._files import write_whole

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)  # of the training images, red, green, blue


class Images:
    """Labelled images as bytes (N, height, width, 3), decoded once and kept as a file of numpy's."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels = pixels
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> "Images":
        return Images(self.pixels[index], self.labels[index])

    @classmethod
    def load(cls, folder: Path, cache: Path, side: int) -> "Images":
        """Read a folder of images per class: the middle of each, scaled to ``side`` pixels."""
        source = str(folder.resolve())
        if not cache.exists():
            images = ImageFolder(source, v2.Compose([v2.Resize(side), v2.CenterCrop(side)]))
            file = io.BytesIO()
            pixels = np.stack([np.asarray(image) for image, _ in images])
            np.savez(file, pixels=pixels, labels=np.array(images.targets), source=np.array(source))
            write_whole(cache, file.getvalue())
        with np.load(cache) as arrays:
            if arrays["pixels"].shape[1] != side or arrays["source"].item() != source:
                raise SystemExit(
                    f"{cache} holds images of {arrays['source']} with {arrays['pixels'].shape[1]} pixels. "
                    "Give another --output."
                )
            return cls(torch.from_numpy(arrays["pixels"]), torch.from_numpy(arrays["labels"]))

    def share(self, share: float) -> "Images":
        """Return this share of each class, always the same images."""
        generator = torch.Generator().manual_seed(0)
        chosen = []
        for label in self.labels.unique():
            indices = torch.nonzero(self.labels == label).flatten()
            order = torch.randperm(len(indices), generator=generator)
            chosen.append(indices[order[: max(1, round(share * len(indices)))]])
        return self[torch.cat(chosen).sort().values]

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and labels: in order as they are, or shuffled, cropped and flipped at random."""
        if generator is None:
            yield from (
                (normalised(x), y) for x, y in zip(self.pixels.split(size), self.labels.split(size), strict=True)
            )
            return
        for chosen in torch.randperm(len(self), generator=generator).split(size):
            yield normalised(augmented(self.pixels[chosen], generator)), self.labels[chosen]


def check_images(root: Path) -> None:
    """Exit unless both splits are there with the same ten classes, for which the arms' budgets are set."""
    layout = "--root needs train/<class>/*.jpg and val/<class>/*.jpg"
    classes = {}
    for split in ("train", "val"):
        if not (root / split).is_dir():
            raise SystemExit(f"{root / split} is missing. {layout}.")
        classes[split] = {path.name for path in (root / split).iterdir() if path.is_dir()}
    if len(classes["train"]) != CLASSES or classes["val"] != classes["train"]:
        found = ", ".join(f"{len(names)} in {split}" for split, names in classes.items())
        raise SystemExit(f"{root} has {found}. {layout}, with the same {CLASSES} classes.")


def augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to an eighth of its side over black, and mirror half of them."""
    n, height, width, _ = pixels.shape
    border = height // 8
    down, right = torch.randint(2 * border + 1, (2, n, 1), generator=generator)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    rows = down + torch.arange(height)
    columns = right + torch.where(mirrored, torch.arange(width).flip(0), torch.arange(width))
    padded = F.pad(pixels, (0, 0, border, border, border, border))
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def normalised(pixels: Tensor) -> Tensor:
    """Turn bytes (N, height, width, 3) into floats (N, 3, height, width) in channels_last memory."""
    return ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)
