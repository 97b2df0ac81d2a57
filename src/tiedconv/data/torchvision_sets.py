"""Small-image sets through torchvision's classes: FashionMNIST, CIFAR-10 and CIFAR-100."""

import gzip
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from torchvision import datasets
from torchvision.transforms import v2

from .._files import write_whole
from ._images import Transform
from .classification import ClassificationData, to_normalised

_DEBIAN_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"


class _SmallImages(ClassificationData):
    """Padded random crops and flips for training, the bare image for validation."""

    source_class: Any  # torchvision's
    crop_padding: int
    how_to_get = "Set root to the folder that holds them, or download=True to fetch them."  # if files are missing

    def __init__(self, root: str = "data", download: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.save_hyperparameters()
        self.root = root
        self.download = download

    def prepare_data(self) -> None:
        try:
            self._open(train=True)
        except RuntimeError as error:
            failed = f"The download failed: {' '.join(str(error).split())}"
            advice = failed if self.download else self.how_to_get
            raise FileNotFoundError(f"{type(self).__name__}: no data in {self.root!r}. {advice}") from error

    def build(self, train: bool) -> Dataset[Any]:
        if not train:
            return self._open(train, self.eval_transform())
        crop = v2.RandomCrop(self.input_size[1:], padding=self.crop_padding)
        return self._open(train, v2.Compose([crop, v2.RandomHorizontalFlip(), *to_normalised(self.mean, self.std)]))

    def _open(self, train: bool, transform: Transform | None = None) -> Any:
        return self.source_class(self.root, train, transform, download=self.download)


class FashionMNIST(_SmallImages):
    """60,000 training and 10,000 validation images of clothing, grey, 28x28 pixels, ten classes.

    Training images are padded by 2 pixels, cropped at random and flipped. When ``root`` has no files yet, the four
    archives are unpacked into it from ``source``.

    Args:
        root: folder that holds, or will hold, torchvision's ``FashionMNIST/raw``.
        source: folder with the four ``*-ubyte.gz`` archives; the default is where Debian's package
            ``dataset-fashion-mnist`` puts them.
        download: fetch the archives if they are in neither folder.
        options: as in :class:`ClassificationData`.

    Raises:
        FileNotFoundError: in ``prepare_data``, if the files are missing, with the ways to get them.
    """

    classes = tuple(datasets.FashionMNIST.classes)
    input_size = (1, 28, 28)
    mean = (0.2860,)
    std = (0.3530,)
    source_class = datasets.FashionMNIST
    crop_padding = 2
    how_to_get = (
        "On Debian: apt-get install dataset-fashion-mnist. Elsewhere set source to a folder with the four .gz "
        "archives, or download=True to fetch them."
    )

    def __init__(
        self, root: str = "data", source: str = _DEBIAN_FASHION_MNIST, download: bool = False, **options: Any
    ) -> None:
        super().__init__(root, download, **options)
        self.source = source

    def prepare_data(self) -> None:
        raw = Path(self.root, "FashionMNIST", "raw")
        for archive in sorted(Path(self.source).glob("*-ubyte.gz")):
            unpacked = raw / archive.stem
            if not unpacked.exists():
                raw.mkdir(parents=True, exist_ok=True)
                write_whole(unpacked, gzip.decompress(archive.read_bytes()))
        super().prepare_data()


class CIFAR10(_SmallImages):
    """50,000 training and 10,000 validation images, colour, 32x32 pixels, ten classes.

    Training images are padded by 4 pixels, cropped at random and flipped.

    Args:
        root: folder that holds torchvision's ``cifar-10-batches-py``.
        download: fetch the files when they are missing.
        options: as in :class:`ClassificationData`.

    Raises:
        FileNotFoundError: in ``prepare_data``, if the files are missing.
    """

    classes: tuple[str, ...] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    input_size = (3, 32, 32)
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    source_class = datasets.CIFAR10
    crop_padding = 4


class CIFAR100(CIFAR10):
    """As :class:`CIFAR10`, with 100 classes in torchvision's ``cifar-100-python``."""

    classes = tuple(f"class {index}" for index in range(100))  # the names come with the files, see setup
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
    source_class = datasets.CIFAR100

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.classes = tuple(self.split(train=False).classes)  # type: ignore[attr-defined]
