"""One image file: read upright, with 8 bits per channel, and named where that fails."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch
from PIL import ExifTags, Image, ImageOps

Transform = Callable[[Any], torch.Tensor]
Size = tuple[int, int]  # width and height in pixels

SIDEWAYS = (5, 6, 7, 8)  # the values of EXIF's orientation that exchange width and height
_THINNEST = 100  # times that one side of an image may be as long as the other


@contextmanager
def named_image(name: str | Path) -> Iterator[None]:
    """Name an image that cannot be read: PIL and transforms do not.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: for whatever else is raised in the ``with`` block.
    """
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{name} is missing. Check the folder of the images.") from None
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError and more
        reason = str(error).rstrip(".") or type(error).__name__  # a MemoryError says nothing
        raise OSError(f"{name} cannot be read as an image: {reason}. Replace the file or take it out.") from error


def read_image(file: str | Path | IO[bytes], name: str, mode: str, transform: Transform) -> torch.Tensor:
    """Return an image, upright and transformed.

    Raises:
        OSError: if it cannot be read or transformed, or is too thin to be cropped to a square.
    """
    with named_image(name), Image.open(file) as image:
        if max(image.size) > _THINNEST * min(image.size):  # with its short side enlarged it would fill the memory
            raise ValueError(f"{image.width} x {image.height} pixels are too thin, {_THINNEST} to 1 is allowed")
        return transform(upright(in_mode(image, mode)))


def upright(image: Image.Image) -> Image.Image:
    """Turn an image upright as its EXIF data say, if these can be read."""
    with suppress(Exception):  # damaged EXIF data is common, and no reason to lose a photograph
        ImageOps.exif_transpose(image, in_place=True)
    return image


def orientation_of(file: Image.Image) -> int:
    """Return EXIF's orientation of an opened image, 1 if it is upright or that cannot be read."""
    orientation = 1
    # PIL turns a TIFF itself. Its own getexif of a PNG would decode the whole image.
    with suppress(Exception):
        if file.format != "TIFF":
            orientation = Image.Image.getexif(file).get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def upright_size(path: Path) -> Size:
    """Return the size of an image that is turned upright, from the beginning of its file.

    Raises:
        OSError: if it cannot be read.
    """
    with named_image(path), Image.open(path) as file:
        return file.size[::-1] if orientation_of(file) in SIDEWAYS else file.size


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return an image with 8 bits per channel, in ``mode`` "RGB" or "L": of 16 bits the upper ones, and no alpha.

    Raises:
        ValueError: if it has 32 bits per pixel, of which no format says what is white, or if all of its values would
            become one.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        full = image.convert("I")  # PIL would cut at 255
        found = full.point(lambda value: value * (1 / 257) + 0.5).convert("L").convert(mode)
    elif image.mode in ("I", "F"):
        raise ValueError(f"it has 32 bits per pixel (mode {image.mode}), and nothing says which value is white")
    else:
        full = _without_alpha(image.convert("RGBA")) if image.has_transparency_data else image.convert("RGB")
        found = full.convert(mode)
    if found.mode != full.mode and _is_constant(found) and not _is_constant(full):
        raise ValueError(
            f"its values lie so near to each other that all become one in 8 bits of mode {mode}: stretch them"
        )
    return found


def _without_alpha(image: Image.Image) -> Image.Image:
    """Put an RGBA image on white, as browsers do, or on black if it is white itself.

    Alpha that is the same everywhere hides nothing and is left out.
    """
    if _is_constant(image.getchannel("A")):
        return image.convert("RGB")
    for colour in ("white", "black"):
        found = Image.alpha_composite(Image.new("RGBA", image.size, colour), image).convert("RGB")
        if not _is_constant(found):
            break
    found.info = image.info  # with the EXIF data: the image may still have to be turned
    return found


def _is_constant(image: Image.Image) -> bool:
    extrema: Any = image.getextrema()
    return all(low == high for low, high in (extrema if len(image.getbands()) > 1 else (extrema,)))
