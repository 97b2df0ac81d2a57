"""Images with one class each."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

from .._files import printable
from ._images import Transform
from .base import ImageData, ImageFiles


class ClassificationData(ImageData):
    """Base of the classification data modules: a subclass names its classes and builds its two splits.

    A subclass sets ``classes``, ``input_size`` (C, H, W), ``mean`` and ``std`` (one entry per channel) and implements
    ``build(train)``, which returns (image, class index) pairs; the rest is here and in :class:`ImageData`.

    Args:
        batch_size, num_workers, predict_path: as in :class:`ImageData`.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(self, batch_size: int = 128, num_workers: int = 0, predict_path: str | None = None) -> None:
        super().__init__(batch_size, num_workers, predict_path)

    @property
    def in_chans(self) -> int:
        """Channels of an image."""
        return self.input_size[0]

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """How an image is prepared for evaluation, and the names of the classes, in the words of timm's configurations.

        It travels in checkpoints and saved models: change it with :meth:`eval_transform`.
        """
        return {
            "input_size": tuple(self.input_size),
            "mean": tuple(self.mean),
            "std": tuple(self.std),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "num_classes": self.num_classes,
            "label_names": [printable(str(name)) for name in self.classes],
        }

    def eval_transform(self) -> Transform:
        """Transform of an image that is not trained on: resize, to [0, 1], normalise."""
        return v2.Compose([v2.Resize(self.input_size[1:]), *to_normalised(self.mean, self.std)])

    def training_images(self, number: int) -> Iterator[torch.Tensor]:
        """Yield batches of training images as training sees them, ``number`` in all or as many as there are."""
        left = number
        for images, _ in self.train_dataloader():
            yield images[:left]
            left -= len(images)
            if left <= 0:
                return

    def image_files(self, path: Path) -> Dataset[tuple[torch.Tensor, str]]:
        return ImageFiles(path, self.eval_transform(), channels=self.in_chans)

    def named(self) -> Dataset[tuple[torch.Tensor, str]]:
        return _Named(self.split(train=False))


def to_normalised(mean: Sequence[float], std: Sequence[float]) -> list[v2.Transform]:
    """Transforms that end every pipeline: PIL image → float tensor in [0, 1] → normalised."""
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]


class _Named(Dataset[tuple[torch.Tensor, str]]):
    """A split with the image's number in place of its class."""

    def __init__(self, split: Dataset[Any]) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)  # type: ignore[arg-type]  # every split has a length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        return self.split[index][0], str(index)
