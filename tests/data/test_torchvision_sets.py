import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch

from tiedconv.data import CIFAR10, CIFAR100, FashionMNIST


def idx_file(array):
    """Bytes of an array of unsigned bytes in the IDX format that the MNIST sets come in."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def fashion_archives(tmp_path):
    """A folder as Debian's package fills it, with 20 and 10 images; returns it with the arrays."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "archives"
    folder.mkdir()
    arrays = {}
    for prefix, n in (("train", 20), ("t10k", 10)):
        arrays[prefix] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), np.arange(n, dtype=np.uint8) % 10
        for kind, array in zip(("images-idx3", "labels-idx1"), arrays[prefix], strict=True):
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx_file(array)))
    return folder, arrays


def test_fashion_mnist_unpacks_the_archives_and_reads_them(tmp_path, fashion_archives):
    folder, arrays = fashion_archives
    data = FashionMNIST(root=str(tmp_path / "data"), source=str(folder), batch_size=10)
    data.prepare_data()
    images, labels = next(iter(data.val_dataloader()))
    pixels, classes = arrays["t10k"]
    expected = (torch.from_numpy(pixels).float() / 255 - 0.2860) / 0.3530
    assert torch.allclose(images[:, 0], expected, atol=1e-6)
    assert labels.tolist() == classes.tolist()
    assert len(data.split(train=True)) == 20
    assert not list((tmp_path / "data").rglob("*.part"))


def test_fashion_mnist_does_not_unpack_twice(tmp_path, fashion_archives):
    folder, _ = fashion_archives
    data = FashionMNIST(root=str(tmp_path / "data"), source=str(folder))
    data.prepare_data()
    for archive in folder.iterdir():
        archive.write_bytes(b"no archive any more")
    data.prepare_data()


def test_fashion_mnist_says_how_to_get_the_files(tmp_path):
    data = FashionMNIST(root=str(tmp_path), source=str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        data.prepare_data()


@pytest.mark.parametrize(
    ("data_class", "folder", "files", "meta", "key"),
    [
        (CIFAR10, "cifar-10-batches-py", ("data_batch_1", "test_batch"), "batches.meta", "labels"),
        (CIFAR100, "cifar-100-python", ("train", "test"), "meta", "fine_labels"),
    ],
)
def test_cifar_reads_the_published_format(tmp_path, monkeypatch, data_class, folder, files, meta, key):
    (tmp_path / folder).mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3 * 32 * 32), dtype=np.uint8)
    names = [f"name {i}" for i in range(100)]
    contents = {name: {"data": pixels, key: [0, 1, 2, 3]} for name in files}
    contents[meta] = {"label_names": names[:10], "fine_label_names": names}
    sums = {}
    for name, content in contents.items():
        raw = pickle.dumps(content)
        (tmp_path / folder / name).write_bytes(raw)
        sums[name] = hashlib.md5(raw).hexdigest()
    # torchvision knows the published files by their checksums; ours have others
    source = data_class.source_class
    monkeypatch.setattr(source, "train_list", [[files[0], sums[files[0]]]])
    monkeypatch.setattr(source, "test_list", [[files[1], sums[files[1]]]])
    monkeypatch.setattr(source, "meta", {**source.meta, "filename": meta, "md5": sums[meta]})

    data = data_class(root=str(tmp_path), batch_size=4)
    data.prepare_data()
    data.setup("fit")
    images, labels = next(iter(data.val_dataloader()))
    unit = torch.from_numpy(pixels).view(4, 3, 32, 32).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    assert torch.allclose(images * std + mean, unit, atol=1e-5)
    assert labels.tolist() == [0, 1, 2, 3]
    assert data.num_classes == (10 if data_class is CIFAR10 else 100)
    if data_class is CIFAR100:
        assert data.classes[7] == "name 7"


def test_a_download_that_fails_is_said(tmp_path, monkeypatch):
    def offline(*args, **options):
        raise RuntimeError("Error downloading x.tar.gz:\n no route to host")

    monkeypatch.setattr(CIFAR10, "source_class", offline)
    with pytest.raises(FileNotFoundError, match=r"The download failed: Error downloading x\.tar\.gz: no route to host"):
        CIFAR10(root=str(tmp_path), download=True).prepare_data()


def test_cifar_says_when_the_files_are_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"CIFAR10: no data in .* download=True"):
        CIFAR10(root=str(tmp_path)).prepare_data()
