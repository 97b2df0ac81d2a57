"""Detections drawn on their image: boxes, masks, class names and scores."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from .style import COLOURS

_SMALLEST_SIDE = 480  # pixels; smaller images are enlarged by a whole factor, so that labels can be read


def draw_detections(
    image: Tensor, detections: Mapping[str, Tensor], classes: Sequence[str], *, min_score: float = 0.5
) -> Image.Image:
    """Return the image with its detections, one colour per class, the best ones on top.

    Args:
        image: (3, H, W) in 0-1.
        detections: ``boxes`` (N, 4) as ``[x1, y1, x2, y2]`` in pixels, ``labels`` (N,) from 1 on, and optionally
            ``scores`` (N,) in 0-1 and ``masks`` (N, 1, H, W) or (N, H, W) in 0-1, thresholded at 0.5.
        classes: ``classes[i]`` is the name of label ``i + 1``.
        min_score: detections below it are left out.
    """
    pixels = (image.detach().cpu().permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
    factor = max(1, -(-_SMALLEST_SIDE // min(pixels.shape[:2])))
    scores = detections["scores"].tolist() if "scores" in detections else None
    order = [i for i in reversed(range(len(detections["labels"]))) if scores is None or scores[i] >= min_score]
    colours = [ImageColor.getrgb(COLOURS[(label - 1) % len(COLOURS)]) for label in detections["labels"].tolist()]
    if "masks" in detections:
        pixels = _tint(pixels, [(detections["masks"][i], colours[i]) for i in order])
    picture = Image.fromarray(pixels)
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    line = max(2, min(picture.size) // 240)
    font = ImageFont.load_default(size=max(13, min(picture.size) // 36))
    boxes = detections["boxes"].tolist()
    for i in order:
        draw.rectangle([factor * v for v in boxes[i]], outline=colours[i], width=line)
    for i in order:  # after all boxes, so that none crosses a label
        label = int(detections["labels"][i])
        name = classes[label - 1] if 1 <= label <= len(classes) else f"class {label}"
        _label(picture, f"{name} {scores[i]:.2f}" if scores else name, boxes[i], factor, font, colours[i])
    return picture


def _tint(pixels: "np.ndarray", masks: Sequence[tuple[Tensor, tuple[int, ...]]]) -> "np.ndarray":
    tinted = pixels.astype(np.float32)
    for mask, colour in masks:
        where = mask.detach().cpu().reshape(pixels.shape[:2]).numpy() > 0.5
        tinted[where] = 0.5 * tinted[where] + 0.5 * np.asarray(colour[:3], dtype=np.float32)
    return tinted.round().astype(np.uint8)


def _label(
    picture: Image.Image,
    text: str,
    box: Sequence[float],
    factor: int,
    font: "ImageFont.FreeTypeFont | ImageFont.ImageFont",
    colour: tuple[int, ...],
) -> None:
    """Write a label above the box, or inside it at the edge of the image."""
    draw = ImageDraw.Draw(picture)
    width, height = draw.textbbox((0, 0), text, font=font)[2:]
    left = max(0, min(factor * box[0], picture.width - width - 6))
    top = factor * box[1] - height - 4
    if top < 0:
        top = max(0, factor * box[1])
    draw.rectangle([left, top, left + width + 6, top + height + 4], fill=colour)
    draw.text((left + 3, top + 1), text, fill="white", font=font)
