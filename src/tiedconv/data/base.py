"""What every image data set has in common: two splits, loaders, an order of images that a resume repeats."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate
from torchvision.datasets.folder import IMG_EXTENSIONS

from ._images import Transform, read_image
from ._listing import images_below

Collate = Callable[[list[Any]], Any]


def global_seed() -> int:
    """Return the seed that ``lightning.seed_everything`` was last given, 0 before it was called."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def seed_generators(*key: int, all_devices: bool = False) -> None:
    """Set Python's, NumPy's and torch's generators (of the CPU or of ``all_devices``) to a state that ``key`` decides.

    Setting the CPU's alone is cheap enough to be done for every image.
    """
    words = np.random.SeedSequence(key).generate_state(2)
    random.seed(int(words[0]))
    np.random.seed(words[0])
    (torch.manual_seed if all_devices else torch.default_generator.manual_seed)(int(words[1]))


class ImageData(L.LightningDataModule):
    """Base of the data modules of every task: the splits ``train`` and ``val``, and their loaders.

    A subclass sets ``classes`` and implements :meth:`build`, :meth:`image_files` and :meth:`named`.

    Order and augmentation of the training images depend only on the seed of ``lightning.seed_everything``, the epoch
    and the image: a resumed training sees what an uninterrupted one would have seen, also from the middle of an epoch
    and with any ``num_workers``. A step takes the same images with any number of processes, as long as that number
    times ``batch_size`` stays the same.

    Args:
        batch_size: images per step and device, so a step of all devices takes their number times as many.
        num_workers: loader processes; 0 loads in the training process.
        predict_path: an image or a folder of images for ``tiedconv predict``; default: the ``val`` split.
    """

    classes: Any  # names, a sequence of str; a property where files say them
    collate: Collate | None = None  # makes a batch of items; None stacks them, as torch does

    def __init__(self, batch_size: int, num_workers: int, predict_path: str | None) -> None:
        super().__init__()
        for name, value, minimum in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            if value < minimum:
                raise ValueError(f"{type(self).__name__}: {name} must be at least {minimum}, got {value}.")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.predict_path = predict_path
        self._splits: dict[bool, Dataset[Any]] = {}
        self.hparams.update(batch_size=batch_size, num_workers=num_workers, predict_path=predict_path)

    def __str__(self) -> str:
        # Lightning's would build every loader, and so read all data.
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in self.hparams.items())})"

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def build(self, train: bool) -> Dataset[Any]:
        """Return the training or the validation split with its transforms applied."""
        raise NotImplementedError

    def image_files(self, path: Path) -> Dataset[Any]:
        """Return one image file or the files of a folder as (image, path), transformed as the ``val`` split is."""
        raise NotImplementedError

    def named(self) -> Dataset[Any]:
        """Return the ``val`` split as (image, name) pairs."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Build both splits before training, so that an error in either comes before the first epoch."""
        if stage == "fit":
            self.split(train=True)
            self.split(train=False)

    def split(self, train: bool) -> Dataset[Any]:
        """Return a split, built at first use."""
        if train not in self._splits:
            self._splits[train] = self.build(train)
        return self._splits[train]

    def train_dataloader(self) -> DataLoader[Any]:
        loader = self._loader(_SeededImages(self.split(train=True), global_seed()), shuffle=True)
        loader.trainer = self.trainer  # for its start after a resume
        return loader

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.split(train=False), shuffle=False)

    test_dataloader = val_dataloader

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return batches of images, their names or paths, and why others of the batch could not be read."""
        dataset = self.named() if self.predict_path is None else self.image_files(Path(self.predict_path))
        return self._loader(_ReadableImages(dataset), shuffle=False, collate=partial(_readable, self.collate))

    def _loader(self, dataset: Dataset[Any], *, shuffle: bool, collate: Collate | None = None) -> DataLoader[Any]:
        # Our own samplers even for one process: torch's RandomSampler takes its order from the global generator.
        world_size, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        # The same number of steps with any number of processes; a set smaller than a step is one step.
        drop_last = shuffle and len(dataset) >= self.batch_size * world_size  # type: ignore[arg-type]
        sampler: DistributedSampler[Any]
        if shuffle:
            sampler = _EpochSampler(dataset, world_size, rank, seed=global_seed(), drop_last=drop_last)
        else:
            sampler = UnrepeatedDistributedSampler(dataset, world_size, rank, shuffle=False)
        return (_TrainingLoader if shuffle else DataLoader)(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate or self.collate,
            drop_last=drop_last,
            generator=torch.Generator(),  # a loader's start draws a number, which must not come from the global one
        )


class _EpochSampler(DistributedSampler[Any]):
    """Yields (epoch, index); Lightning tells a DistributedSampler the epoch.

    The processes take turns in one order of all images: what they have read together does not depend on their number.
    """

    skip = 0  # images of this process that were trained on before a resume

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = self.dataset.order(torch.Generator().manual_seed(self.seed + self.epoch))  # type: ignore[attr-defined]
        while len(order) < self.total_size:
            order += order[: self.total_size - len(order)]
        mine = order[self.rank : self.total_size : self.num_replicas]
        return iter([(self.epoch, index) for index in mine[self.skip :]])


class _TrainingLoader(DataLoader[Any]):
    """A loader that begins after the batches of the epoch that were trained on before a resume."""

    trainer: L.Trainer | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # Being a generator, this starts with the first batch. Lightning asks for the iterator before it has read the
        # checkpoint and told the sampler the epoch: workers would fetch another epoch's images.
        if isinstance(self.sampler, _EpochSampler):  # overfit_batches has a sampler of Lightning's
            done = 0
            if self.trainer is not None and self.trainer.train_dataloader is self:
                done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
            self.sampler.skip = done * (self.batch_size or 1)
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: Lightning counts the batches, but warns of a loader without this method."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`state_dict`."""


class _SeededImages(Dataset[Any]):
    """A split whose random transforms depend only on seed, epoch and index."""

    def __init__(self, split: Dataset[Any], seed: int) -> None:
        self.split = split
        self.seed = seed

    def __len__(self) -> int:
        return len(self.split)  # type: ignore[arg-type]  # every split has a length

    def order(self, generator: torch.Generator) -> list[int]:
        """Return all indices in a random order: the split's own, if it has one."""
        if hasattr(self.split, "order"):
            return self.split.order(generator)
        return torch.randperm(len(self), generator=generator).tolist()

    def __getitem__(self, key: tuple[int, int] | int) -> Any:
        # A bare index comes from Lightning's own sampler (overfit_batches): the same images in every epoch.
        epoch, index = key if isinstance(key, tuple) else (0, key)
        with isolate_rng(include_cuda=False):  # torchvision draws from torch, timm from Python and NumPy
            seed_generators(self.seed, epoch, index)
            return self.split[index]


class _ReadableImages(Dataset[Any]):
    """Images to predict for; for one that cannot be read, the reason, a str."""

    def __init__(self, images: Dataset[Any]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]  # every split has a length

    def __getitem__(self, index: int) -> Any:
        try:
            return self.images[index]
        except OSError as error:
            return str(error)


def _readable(collate: Collate | None, items: list[Any]) -> tuple[Any, Any, list[str]]:
    """Return the images of a batch, their names, and the reasons in place of the others."""
    read = [item for item in items if not isinstance(item, str)]
    images, names = (collate or default_collate)(read) if read else ([], [])
    return images, names, [item for item in items if isinstance(item, str)]


class ImageFiles(Dataset[tuple[torch.Tensor, str]]):
    """One image file, or all images below a folder, as (image, path) pairs ordered by folder and name.

    A warning counts the files of a folder that are hidden or have other suffixes, which are not read.

    Raises:
        FileNotFoundError: if the path does not exist or holds no image.
    """

    def __init__(self, path: Path, transform: Transform, *, channels: int) -> None:
        if not path.exists():
            raise FileNotFoundError(f"ImageFiles: {path} does not exist. Give an image file or a folder of images.")
        self.paths = [path] if path.is_file() else images_below(path, "ImageFiles")
        if not self.paths:
            raise FileNotFoundError(f"ImageFiles: no image in {path}. Known suffixes: {', '.join(IMG_EXTENSIONS)}.")
        self.transform = transform
        self.mode = "L" if channels == 1 else "RGB"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        path = self.paths[index]
        return read_image(path, str(path), self.mode, self.transform), str(path)

    def batches(self, indices: Sequence[int], size: int) -> Iterator[torch.Tensor]:
        """Yield images in batches of ``size``, each read when it is needed."""
        for start in range(0, len(indices), size):
            yield torch.stack([self[i][0] for i in indices[start : start + size]])
