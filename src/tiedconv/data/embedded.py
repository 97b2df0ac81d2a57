"""Real images that need no download: scikit-learn's handwritten digits."""

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import Dataset
from torchvision.transforms import v2

from ._images import Transform
from .classification import ClassificationData, to_normalised


class Digits(ClassificationData):
    """1,797 handwritten digits of 8x8 pixels, enlarged to ``image_size``.

    The images are the test part of the UCI set "Optical Recognition of Handwritten Digits", which scikit-learn ships.
    1,437 are for training and 360 for validation, a fixed split with equal shares of every class. Training images are
    shifted by up to a tenth and turned by up to 10 degrees.

    Args:
        image_size: side of the images in pixels, at least 8.
        batch_size, num_workers, predict_path: as in :class:`ClassificationData`.

    Example:
        >>> data = Digits(batch_size=32)
        >>> images, labels = next(iter(data.val_dataloader()))
        >>> images.shape, data.num_classes
        (torch.Size([32, 1, 16, 16]), 10)
    """

    classes = tuple("0123456789")
    mean = (0.305,)
    std = (0.376,)

    def __init__(
        self,
        image_size: int = 16,
        batch_size: int = 64,
        num_workers: int = 0,
        predict_path: str | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, predict_path)
        if image_size < 8:
            raise ValueError(f"Digits: image_size must be at least 8, the images' own size, got {image_size}.")
        self.save_hyperparameters()
        self.input_size = (1, image_size, image_size)

    def build(self, train: bool) -> Dataset[tuple[torch.Tensor, int]]:
        resize, augment = v2.Resize(self.input_size[1:]), v2.RandomAffine(degrees=10, translate=(0.1, 0.1))
        augmented = v2.Compose([resize, augment, *to_normalised(self.mean, self.std)])
        return _DigitsSplit(train, augmented if train else self.eval_transform())


class _DigitsSplit(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, train: bool, transform: Transform) -> None:
        digits = load_digits()
        parts = train_test_split(np.arange(len(digits.target)), test_size=360, stratify=digits.target, random_state=0)
        chosen = parts[0 if train else 1]
        self.images = np.round(digits.images[chosen] * (255 / 16)).astype(np.uint8)  # the set counts 0-16
        self.labels = [int(label) for label in digits.target[chosen]]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]
