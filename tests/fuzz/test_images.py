"""Photographs that are none, are damaged, or have colours of every kind."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image
from tests.fuzz.cases import attempt, damaged, fuzz
from torchvision.transforms.v2.functional import pil_to_tensor

from tiedconv.data import Coco, ImageFolder
from tiedconv.data.base import ImageFiles

RAMP = np.arange(12 * 10, dtype=np.uint8).reshape(10, 12)
MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"]
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "BMP": ".bmp", "WEBP": ".webp", "GIF": ".gif", "PPM": ".ppm"}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _files() -> dict[str, tuple[bytes, str]]:
    """Valid pictures of every mode in every format that takes it, some of them with more in the file."""
    grey = Image.fromarray(RAMP)
    found = {}
    for mode in MODES:
        image = Image.fromarray(RAMP.astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
        for kind, suffix in SUFFIXES.items():
            try:
                found[f"{kind} {mode}"] = encoded(image, kind), suffix
            except (OSError, ValueError, KeyError):
                continue  # that format has no such mode
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    frames = [grey.convert("P"), grey.rotate(90).convert("P")]
    found["JPEG turned"] = encoded(grey, "JPEG", exif=exif), ".jpg"
    found["JPEG broken exif"] = encoded(grey, "JPEG", exif=b"Exif\x00\x00nonsense"), ".jpg"
    found["GIF animated"] = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), ".gif"
    found["PNG one pixel"] = encoded(Image.new("RGB", (1, 1)), "PNG"), ".png"
    found["PNG transparent palette"] = encoded(grey.convert("P"), "PNG", transparency=0), ".png"
    found["PNG thin"] = encoded(Image.new("RGB", (1, 3000)), "PNG"), ".png"
    return found


FILES = _files()


@st.composite
def pictures(draw: st.DrawFn) -> tuple[bytes, str]:
    """Draw a file: valid, damaged, or with the suffix of another format."""
    content, suffix = FILES[draw(st.sampled_from(list(FILES)))]
    what = draw(st.sampled_from(["damaged", "damaged", "damaged", "valid", "suffix", "text"]))
    if what == "damaged":
        content = draw(damaged(content))
    elif what == "suffix":
        suffix = draw(st.sampled_from([".png", ".jpeg", ".PNG", ".tiff", ".bmp", ".webp"]))
    elif what == "text":
        content = draw(
            st.sampled_from([b"<svg/>", b"%PDF-1.4", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"BM", b"P6 9999999 9 255 "])
        )
    return content, suffix


def emptied(folder: Path) -> Path:
    for file in folder.glob("*"):
        file.unlink()
    return folder


@fuzz(50, picture=pictures(), channels=st.sampled_from([1, 3]))
def test_a_picture_is_read_or_named(tmp_path, picture, channels):
    content, suffix = picture
    (emptied(tmp_path) / f"photo{suffix}").write_bytes(content)
    for place in (tmp_path, tmp_path / f"photo{suffix}"):
        found, error = attempt(
            lambda place=place: ImageFiles(place, pil_to_tensor, channels=channels)[0], "photo", "image"
        )
        if error is None:
            image, path = found
            assert path.endswith(f"photo{suffix}")
            assert image.shape[0] == channels
            assert image.numel()


@fuzz(24, picture=pictures())
def test_a_class_folder_is_read_or_named(tmp_path, picture):
    content, suffix = picture
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True, exist_ok=True)
        (emptied(tmp_path / part / "a") / f"photo{suffix}").write_bytes(content)
    data, error = attempt(lambda: ImageFolder(str(tmp_path), image_size=16), str(tmp_path))
    if error is None:
        for train in (True, False):
            item, error = attempt(lambda train=train: data.split(train)[0], "photo", "a.")
            assert error is not None or item[0].shape == (3, 16, 16)


@fuzz(24, picture=pictures())
def test_an_annotated_picture_is_read_or_named(tmp_path, picture):
    content, suffix = picture
    (emptied(tmp_path) / f"photo{suffix}").write_bytes(content)
    record = {"id": 1, "file_name": f"photo{suffix}", "width": 12, "height": 10}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25}
    text = str({"images": [record], "annotations": [box], "categories": [{"id": 1, "name": "a"}]}).replace("'", '"')
    (tmp_path / "a.json").write_text(text)
    data = Coco(str(tmp_path), train_annotations="a.json", val_annotations="a.json", masks=False, num_workers=0)
    item, error = attempt(lambda: data.split(False)[0], "photo")
    if error is None:
        assert item[0].shape == (3, 10, 12)
        assert torch.isfinite(item[0]).all()


GREYS = [
    name
    for name in FILES
    if name.split()[0] in ("PNG", "TIFF", "BMP", "PPM") and name.split()[1] in ("L", "LA", "RGB", "RGBA", "I;16", "P")
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", GREYS)
def test_the_greys_are_the_same_in_every_mode(name, channels, tmp_path):
    content, suffix = FILES[name]
    (tmp_path / f"photo{suffix}").write_bytes(content)
    image, _ = ImageFiles(tmp_path, pil_to_tensor, channels=channels)[0]
    assert (image.int() - torch.from_numpy(RAMP).int()).abs().max() <= 1
