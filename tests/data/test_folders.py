import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch.testing import assert_close
from torchvision.transforms.v2.functional import pil_to_tensor

from tiedconv.data import ImageFolder, ImageNet, StreamedImages, _looks, write_shards
from tiedconv.data._images import in_mode
from tiedconv.data.base import ImageFiles


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


def test_image_folder_trains_on_crops_of_the_chosen_share(tmp_path):
    root = str(fill(tmp_path))
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "train/cat/0.jpg")  # black above, white below
    whole = ImageFolder(root, 24, scale=(1.0, 1.0), num_workers=0).split(train=True)[0][0]
    part = ImageFolder(root, 24, scale=(0.01, 0.01), num_workers=0).split(train=True)[0][0]
    assert whole[0].max() - whole[0].min() > 3  # in standard deviations; black to white is 4.4
    assert part[0].max() - part[0].min() < 1


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.5)])
def test_image_folder_says_which_shares_training_crops_may_take(tmp_path, scale):
    with pytest.raises(ValueError, match=r"ImageFolder: scale must be .* 0 < least <= greatest <= 1"):
        ImageFolder(str(fill(tmp_path)), scale=scale)


@pytest.mark.parametrize("crop_pct", [87.5, 0, -1])
def test_image_folder_says_which_share_validation_crops_may_keep(tmp_path, crop_pct):
    with pytest.raises(ValueError, match=r"ImageFolder: crop_pct must be a share, 0 < crop_pct <= 1, got"):
        ImageFolder(str(fill(tmp_path)), crop_pct=crop_pct)


def test_image_folder_names_the_folder_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"val is not a folder of class folders. .*/train/<class>/<image>"):
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
    with pytest.raises(OSError, match=r"0\.tif cannot be read as an image: it has 32 bits per pixel \(mode F\)"):
        ImageFiles(tmp_path, lambda image: image, channels=3)[0]


def drawing(mode, ink):
    """A left half drawn in an ink, and a right half of the same ink that is transparent."""
    image = Image.new(mode, (32, 32), (*ink, 0))
    image.paste((*ink, 255), (0, 0, 16, 32))
    return image


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("colour", [0, 128, 255])
@pytest.mark.parametrize("kind", ["RGBA", "LA", "PA", "P"])
def test_a_drawing_that_only_alpha_shows_is_seen(tmp_path, mode, colour, kind):
    image = drawing("RGBA", (colour,) * 3)
    if kind == "LA":
        image = drawing("LA", (colour,))
    elif kind == "P":  # two colours of a palette, the one without alpha
        image = Image.new("P", (32, 32), 1)
        image.putpalette([colour] * 6)
        image.paste(0, (0, 0, 16, 32))
        image.info["transparency"] = 1
    elif kind == "PA":
        image = Image.new("PA", (32, 32))
        image.putpalette([colour] * 3)
        image.putalpha(drawing("RGBA", (0, 0, 0)).getchannel("A"))
    found = np.asarray(in_mode(image, mode))
    background = 0 if colour == 255 else 255
    assert (found[:, :16] == colour).all()
    assert (found[:, 16:] == background).all()


def test_alpha_that_hides_nothing_is_left_out():
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for alpha in (0, 100, 255):
        image = Image.fromarray(colours)
        image.putalpha(alpha)
        assert (np.asarray(in_mode(image, "RGB")) == colours).all()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_image_that_would_become_one_grey_is_refused(mode):
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)  # of 65,535
    with pytest.raises(ValueError, match=rf"all become one in 8 bits of mode {mode}: stretch them"):
        in_mode(Image.fromarray(pixels), mode)


def test_colours_of_one_grey_are_refused_where_grey_is_wanted():
    image = Image.new("RGB", (4, 4), (0, 255, 0))
    grey = image.convert("L").getpixel((0, 0))
    image.paste((grey, grey, grey), (0, 0, 2, 4))
    with pytest.raises(ValueError, match="all become one in 8 bits of mode L"):
        in_mode(image, "L")
    assert np.asarray(in_mode(image, "RGB")).std() > 0


@pytest.mark.parametrize("kind", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "HSV"])
def test_an_image_of_one_colour_is_no_fault(kind):
    for mode in ("RGB", "L"):
        assert in_mode(Image.new(kind, (4, 4), 0), mode).mode == mode


def photograph(path, exif):
    """A photograph that is dark on its left and bright on its right."""
    path.parent.mkdir(parents=True)
    pixels = np.full((40, 60, 3), 30, np.uint8)
    pixels[:, 30:] = 220
    Image.fromarray(pixels).save(path, exif=exif)


def test_a_photograph_is_turned_as_its_camera_says_wherever_it_is_read(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # held so that its left side is above
    for part in ("train", "val"):
        photograph(tmp_path / part / "a" / "0.jpg", exif)
    data = ImageFolder(str(tmp_path), image_size=16, num_workers=0)
    write_shards(data, str(tmp_path / "shards"))
    streamed = StreamedImages(str(tmp_path / "shards"), image_size=16, num_workers=0)
    image = data.split(train=False)[0][0]
    assert image[:, :4].mean() < -1 < 1 < image[:, -4:].mean()
    assert torch.equal(streamed.split(train=False)[0][0], image)
    assert torch.equal(data.image_files(tmp_path / "val")[0][0], image)
    random.seed(0)  # a crop that has both halves
    for split in (data.split(train=True), streamed.split(train=True)):
        crop = split[0][0]
        assert crop.std(2).mean() < crop.std(1).mean()  # rows are of one grey, columns are not


@pytest.mark.parametrize("suffix", ["png", "webp"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_picture_with_transparent_parts_is_turned_too(mode, suffix, tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # held so that its left side is above
    pixels = np.full((40, 60, 4), 255, np.uint8)
    pixels[:, :30, :3] = 0
    pixels[:5, :, 3] = 0
    stored = Image.fromarray(pixels)
    # quantize keeps alpha in the palette
    stored = stored.quantize(16, Image.Quantize.FASTOCTREE) if mode == "P" else stored.convert(mode)
    stored.save(tmp_path / f"0.{suffix}", exif=exif, lossless=True)
    image, _ = ImageFiles(tmp_path, pil_to_tensor, channels=3)[0]
    assert image.shape == (3, 60, 40)
    shown = np.full((60, 40), 255)
    shown[:30, :35] = 0
    assert_close(image, torch.from_numpy(shown).byte().expand(3, -1, -1))


def test_a_photograph_with_damaged_exif_data_is_read_as_it_is(tmp_path):
    damaged = PngInfo()
    damaged.add_text("Raw profile type exif", "\nexif\n 2\nnot hexadecimal")
    Image.new("RGB", (60, 40)).save(tmp_path / "0.png", pnginfo=damaged)
    image, _ = ImageFiles(tmp_path, pil_to_tensor, channels=3)[0]
    assert image.shape == (3, 40, 60)


def test_a_thin_image_is_refused_before_it_fills_the_memory(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("RGB", (1, 101)).save(tmp_path / part / "a" / "0.png")
    data = ImageFolder(str(tmp_path), image_size=16, num_workers=0)
    message = r"val/a/0.png cannot be read as an image: 1 x 101 pixels are too thin, 100 to 1 is allowed. Replace"
    with pytest.raises(OSError, match=message):
        data.split(train=False)[0]
    with pytest.raises(OSError, match=message):
        data.image_files(Path(tmp_path, "val"))[0]
    Image.new("RGB", (100, 1)).save(tmp_path / "val" / "a" / "0.png")
    assert data.split(train=False)[0][0].shape == (3, 16, 16)


def test_an_image_that_a_transform_fails_on_is_named(tmp_path):
    def fail(image):
        raise MemoryError

    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    with pytest.raises(OSError, match=r"0\.png cannot be read as an image: MemoryError\. Replace the file"):
        ImageFiles(tmp_path, fail, channels=3)[0]


def picture(path, kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), "red").save(path, kind)


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", "__MACOSX"])
def test_hidden_folders_are_not_classes(tmp_path, hidden):
    picture(fill(tmp_path) / "train" / hidden / "1.png")
    data = ImageFolder(str(tmp_path), image_size=16, num_workers=0)
    assert data.classes == ("cat", "dog")
    with pytest.warns(UserWarning, match=rf"1 hidden images \({hidden}/1\.png\) in .*train are not read"):
        assert [label for _, label in data.split(train=True).samples] == [0, 1]


def test_files_that_are_left_out_are_counted_and_named_in_training_and_prediction(tmp_path):
    fill(tmp_path)
    for part in ("train", "val"):
        picture(tmp_path / part / "cat" / "1.JPEG")
        picture(tmp_path / part / "cat" / "2.gif")
        picture(tmp_path / part / "cat" / "3.jfif", "JPEG")
        picture(tmp_path / part / "dog" / ".ipynb_checkpoints" / "0-checkpoint.jpg")
        (tmp_path / part / "dog" / "._0.jpg").write_bytes(b"macOS")
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
            (tmp_path / part / "dog" / name).write_bytes(b"of the system")
    data = ImageFolder(str(tmp_path), image_size=16, num_workers=0)
    left_out = (
        r"2 files of other suffixes \(1 \.gif, 1 \.jfif: cat/2\.gif, cat/3\.jfif\) and 2 hidden images "
        r"\(dog/(\._0\.jpg, dog/)?\.ipynb_checkpoints/0-checkpoint\.jpg.*\) in .*/{} are not read\. Read are \.jpg, "
    )
    for train, part in ((True, "train"), (False, "val")):
        with pytest.warns(UserWarning, match="ImageFolder: " + left_out.replace("{}", part)):
            assert len(data.split(train)) == 3
    with pytest.warns(UserWarning, match="ImageFiles: " + left_out.replace("{}", "val")):
        assert len(data.image_files(tmp_path / "val")) == 3


def test_files_outside_the_folders_of_the_classes_are_counted(tmp_path):
    picture(fill(tmp_path) / "train" / "lost.png")
    (tmp_path / "train" / ".DS_Store").write_bytes(b"")
    data = ImageFolder(str(tmp_path), image_size=16, num_workers=0)
    with pytest.warns(UserWarning, match=r"1 images outside the folders of the classes \(lost\.png\) in .*train are"):
        assert len(data.split(train=True)) == 2


def test_a_folder_of_a_class_without_an_image_is_named_before_the_first_epoch(tmp_path):
    fill(tmp_path)
    (tmp_path / "val" / "dog" / "0.jpg").rename(tmp_path / "val" / "dog" / "0.heic")
    data = ImageFolder(str(tmp_path), image_size=16, num_workers=0)
    message = r"ImageFolder: class folders of .*val hold no image of their own: dog\. Put images into them or remove"
    with (
        pytest.raises(FileNotFoundError, match=message),
        pytest.warns(UserWarning, match=r"1 files of other suffixes \(1 \.heic: dog/0\.heic\)"),
    ):
        data.setup("fit")


def test_a_split_without_folders_is_named(tmp_path):
    for part in ("train", "val"):
        picture(tmp_path / part / "0.png")
    with pytest.raises(FileNotFoundError, match=r"ImageFolder: .*train is not a folder of class folders\. Expected"):
        ImageFolder(str(tmp_path))


def test_files_that_are_not_images_are_found_before_the_first_epoch(tmp_path):
    fill(tmp_path)
    (tmp_path / "val" / "dog" / "1.jpg").write_text("<html>not found</html>")
    (tmp_path / "val" / "dog" / "2.jpg").write_bytes(b"")
    data = ImageFolder(str(tmp_path), image_size=16, num_workers=0)
    message = r"val/dog/1\.jpg cannot be read as an image: .* out\. 1 more of the 4 images cannot be used"
    with pytest.raises(OSError, match=message):
        data.setup("fit")


def test_a_changed_file_among_many_images_is_looked_at_again(tmp_path, monkeypatch):
    """Also by a path that starts where the command runs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(_looks, "_MANY", 1)
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "cats")
    ImageFolder("cats", image_size=16).split(train=False)
    changed = tmp_path / "cats" / "val" / "dog" / "0.jpg"
    changed.write_bytes(b"")  # in place: the time of the folder stays
    os.utime(changed, ns=(0, 0))  # whatever the clock's steps are
    with pytest.raises(OSError, match=r"^cats/val/dog/0\.jpg cannot be read as an image"):
        ImageFolder("cats", image_size=16).split(train=False)
