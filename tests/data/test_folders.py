import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from tiedconv.data import ImageFolder, ImageNet
from tiedconv.data._base import ImageFiles


def fill(root, classes=("cat", "dog"), parts=("train", "val")):
    """One 40x30 image a class and part; the second class is white, the first black."""
    for part in parts:
        for i, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            Image.new("RGB", (40, 30), (255 * i,) * 3).save(root / part / name / "0.jpg")
    return root


def test_image_folder_reads_classes_and_images(tmp_path):
    data = ImageFolder(str(fill(tmp_path)), image_size=24, batch_size=2, num_workers=0)
    assert data.classes == ("cat", "dog")
    images, labels = next(iter(data.val_dataloader()))
    assert images.shape == (2, 3, 24, 24)
    assert labels.tolist() == [0, 1]
    white = (1 - torch.tensor(data.mean)) / torch.tensor(data.std)
    assert torch.allclose(images[1, :, 12, 12], white, atol=1e-5)


def test_image_folder_augments_training_images_with_every_option(tmp_path):
    data = ImageFolder(
        str(fill(tmp_path)), 24, color_jitter=0.4, auto_augment="rand-m9-mstd0.5", random_erasing=1.0, num_workers=0
    )
    image = data.split(train=True)[0][0]
    assert image.shape == (3, 24, 24)
    assert image.std() > 0.1  # a black image, but with a rectangle of noise


def test_image_folder_names_the_folder_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"val is not a folder. Expected .*/train/<class>/<image>"):
        ImageFolder(str(fill(tmp_path, parts=("train",))))


def test_image_folder_names_the_classes_that_differ(tmp_path):
    fill(tmp_path, parts=("train",))
    fill(tmp_path, classes=("cat", "fish"), parts=("val",))
    with pytest.raises(ValueError, match="different classes; only in one of them: dog, fish"):
        ImageFolder(str(tmp_path))


def test_imagenet_reads_what_torchvision_unpacked(tmp_path):
    fill(tmp_path, classes=("n01440764", "n01443537"))
    names = {"n01440764": ("tench", "Tinca tinca"), "n01443537": ("goldfish",)}
    torch.save((names, ["n01440764"]), tmp_path / "meta.bin")
    data = ImageNet(str(tmp_path), batch_size=2, num_workers=0)
    assert data.classes == ("tench, Tinca tinca", "goldfish")
    assert next(iter(data.train_dataloader()))[0].shape == (2, 3, 224, 224)


def test_imagenet_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ImageNet: .* does not hold ImageNet-1k.*use ImageFolder"):
        ImageNet(str(tmp_path))


def test_grey_of_sixteen_bits_keeps_its_steps(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.fromarray(np.full((32, 32), 32768, np.uint16)).save(tmp_path / part / "a" / "0.png")
    data = ImageFolder(str(tmp_path), image_size=32)
    image, _ = data.split(train=False)[0]
    grey = image * torch.tensor(data.std)[:, None, None] + torch.tensor(data.mean)[:, None, None]
    assert_close(grey, torch.full((3, 32, 32), 0.5), rtol=0, atol=1 / 255)


def test_pixels_of_32_bits_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "0.tif")
    with pytest.raises(OSError, match=r"0\.tif cannot be read as an image: it has 32 bits a pixel \(mode F\)"):
        ImageFiles(tmp_path, lambda image: image, channels=3)[0]
