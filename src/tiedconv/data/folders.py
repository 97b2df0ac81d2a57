"""Photographs in folders: any ImageFolder layout, and ImageNet-1k, with timm's transforms."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from torch.utils.data import Dataset
from torchvision import datasets

from .._checks import named
from ._images import Transform, named_image, read_image
from ._listing import class_folders, few, images_by_class
from ._looks import look_at_files
from .classification import ClassificationData


class ImageFolder(ClassificationData):
    """Images sorted into one folder per class: ``root/train/<class>/*`` and ``root/val/<class>/*``.

    Hidden folders, such as ``.ipynb_checkpoints``, are not classes. Warnings count and name the files that are left
    out: hidden ones, those of other suffixes than torchvision reads, and images outside the folders of the classes.

    Training images: random resized crop, flip, and what the options add. Validation images: short side resized to
    ``image_size / crop_pct``, centre crop. All are first turned upright as their camera says (EXIF).

    Args:
        root: folder with ``train`` and ``val``.
        image_size: side of the crops in pixels.
        crop_pct: share of the resized image's side that the validation crop keeps, 0-1.
        scale: smallest and largest share of the image's area that a training crop takes, 0-1; small images need more
            than photographs do.
        color_jitter: strength of brightness, contrast and saturation jitter; 0 switches it off.
        auto_augment: timm's policy string, such as ``"rand-m9-mstd0.5"``; none by default.
        random_erasing: probability of erasing a rectangle, 0-1.
        batch_size, num_workers, predict_path: as in :class:`ClassificationData`.

    Raises:
        FileNotFoundError: if ``root`` lacks one of the two folders; when a split is built, if a class has no image.
        OSError: when a split is built, if a file is not an image, whatever its suffix says.
        ValueError: if the two folders do not hold the same classes, or ``crop_pct`` or ``scale`` is not within 0-1.
    """

    mean = IMAGENET_DEFAULT_MEAN
    std = IMAGENET_DEFAULT_STD

    def __init__(
        self,
        root: str,
        image_size: int = 224,
        crop_pct: float = 0.875,
        color_jitter: float = 0.0,
        auto_augment: str | None = None,
        random_erasing: float = 0.0,
        batch_size: int = 128,
        num_workers: int = 4,
        predict_path: str | None = None,
        scale: tuple[float, float] = (0.08, 1.0),
    ) -> None:
        super().__init__(batch_size, num_workers, predict_path)
        self.save_hyperparameters()
        if not 0 < crop_pct <= 1:
            raise ValueError(f"{type(self).__name__}: crop_pct must be a share, 0 < crop_pct <= 1, got {crop_pct}.")
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(
                f"{type(self).__name__}: scale must be two shares of an area, 0 < least <= greatest <= 1, got {scale}."
            )
        self.root = Path(root)
        self.input_size = (3, image_size, image_size)
        self.crop_pct = crop_pct
        self.augmentation: dict[str, Any] = {
            "color_jitter": color_jitter or None,
            "auto_augment": auto_augment,
            "re_prob": random_erasing,
            "scale": scale,
        }
        self.classes = self.read_classes()

    def read_classes(self) -> tuple[str, ...]:
        """Return the class names, in the order of their indices."""
        names = {}
        for part in ("train", "val"):
            folder = self.root / part
            names[part] = class_folders(folder) if folder.is_dir() else []
            if not names[part]:
                raise FileNotFoundError(
                    f"{type(self).__name__}: {folder} is not a folder of class folders. Expected "
                    f"{self.root}/train/<class>/<image> and {self.root}/val/<class>/<image>."
                )
        differing = sorted(set(names["train"]) ^ set(names["val"]))
        if differing:
            raise ValueError(
                f"{type(self).__name__}: train and val of {self.root} hold different classes; only in one of them: "
                f"{few(differing)}."
            )
        return tuple(names["train"])

    def transform(self, train: bool) -> Transform:
        """Return the transform of timm for training or evaluation."""
        common: dict[str, Any] = {"input_size": self.input_size, "mean": self.mean, "std": self.std}
        if train:
            return create_transform(**common, is_training=True, **self.augmentation)
        return create_transform(**common, crop_pct=self.crop_pct)

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        return {**super().pretrained_cfg, "crop_pct": self.crop_pct, "crop_mode": "center"}

    def eval_transform(self) -> Transform:
        return self.transform(train=False)

    def build(self, train: bool) -> Dataset[Any]:
        folder = self.root / ("train" if train else "val")
        with named(type(self).__name__):
            found = images_by_class(folder, self.classes, type(self).__name__)
        samples = [(str(path), label) for label, paths in enumerate(found.values()) for path in paths]
        files = [path for path, _ in samples]
        look_at_files(Path(), files, partial(_check_file, files))
        return _Photographs(samples, self.transform(train))


class _Photographs(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, samples: list[tuple[str, int]], transform: Transform) -> None:
        self.samples = samples
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.samples[index]
        return read_image(path, path, "RGB", self.transform), label


def _check_file(files: list[str], index: int) -> str:
    with named_image(files[index]):
        Image.open(files[index]).close()
    return ""


class ImageNet(ImageFolder):
    """ImageNet-1k through torchvision's class.

    ``root`` holds the official archives ``ILSVRC2012_devkit_t12.tar.gz``, ``ILSVRC2012_img_train.tar`` and
    ``ILSVRC2012_img_val.tar``, which are unpacked at first use, or what an earlier use unpacked from them. Options are
    those of :class:`ImageFolder`.
    """

    def read_classes(self) -> tuple[str, ...]:
        try:
            names = datasets.ImageNet(str(self.root), split="val").classes
        except RuntimeError as error:
            raise FileNotFoundError(
                f"ImageNet: {self.root} does not hold ImageNet-1k. {error} For images in train/<class> and "
                "val/<class>, use ImageFolder."
            ) from error
        return tuple(", ".join(synonyms) for synonyms in names)  # the first alone is not unique: two cranes

    def build(self, train: bool) -> Dataset[Any]:
        # Without a look at the files: the archives have checksums.
        files = datasets.ImageNet(str(self.root), split="train" if train else "val")
        return _Photographs(files.samples, self.transform(train))
