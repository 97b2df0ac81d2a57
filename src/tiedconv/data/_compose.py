"""One generated scene: where objects lie, what of them can be seen, and its annotations."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from .._extras import require
from ._cut_outs import Array, Objects, trimmed

_LAYOUTS = 40  # placements tried for a scene; the one nearest to the overlap asked for is taken
_LAYOUT_SIDE = 128  # pixels; placements of larger scenes are tried at a fraction of the size

Corner = tuple[int, int]  # the topmost row and the leftmost column of an object


def draw_objects(
    objects: Objects,
    count: int,
    sizes: tuple[int, int],
    rotation: float,
    flip: float,
    rng: np.random.Generator,
) -> list[tuple[Image.Image, int]]:
    """Return ``count`` cut-outs in RGBA with their labels; every class is equally probable.

    Args:
        objects: what to choose from.
        count: how many.
        sizes: least and greatest length of the longer side in pixels.
        rotation: degrees by which one is turned at most, either way.
        flip: probability with which one is mirrored.
        rng: decides.
    """
    frequency = np.bincount(objects.labels)
    weights = 1 / frequency[objects.labels]
    chosen = rng.choice(len(weights), count, p=weights / weights.sum())
    drawn = []
    for index in chosen:
        size = int(rng.integers(sizes[0], sizes[1] + 1))
        image = objects.cut_out(index, size, rng)
        if rng.random() < flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if rotation:
            image = image.rotate(rng.uniform(-rotation, rotation), Image.Resampling.BICUBIC, expand=True)
            image = trimmed(image)
        if max(image.size) != size:
            scale = size / max(image.size)
            image = image.resize([max(1, round(scale * side)) for side in image.size], Image.Resampling.BICUBIC)
        drawn.append((image, objects.labels[index]))
    return drawn


def compose(
    background: Array,
    objects: Sequence[tuple[Image.Image, int]],
    overlap: float,
    min_visible: float,
    encode: Callable[[Array], Any],
    rng: np.random.Generator,
) -> tuple[list[dict[str, Any]], float]:
    """Paste objects onto a background (H, W, 3), in place, the first lowest.

    Objects of which less than ``min_visible`` can be seen are left out. ``encode`` writes a mask (H, W) for JSON.

    Returns:
        The annotations, lowest object first, and the overlap that was reached: the paper's r (eq. 5) of whole objects.
    """
    layers = [np.asarray(image, dtype=np.float32) for image, _ in objects]
    # Half of what the most solid pixel has: thin and translucent objects have a mask, too.
    masks = [layer[..., 3] >= layer[..., 3].max() / 2 for layer in layers]
    labels = [label for _, label in objects]
    side = len(background)
    corners = _best_layout(masks, overlap, min_visible, side, rng)
    while True:
        whole = _placed(masks, corners, side)
        visible = _visible(whole)
        shares = visible.sum((1, 2)) / whole.sum((1, 2))
        hidden = int(shares.argmin())
        if shares[hidden] >= min_visible:
            break
        for each in (layers, masks, labels, corners):
            del each[hidden]
    for layer, (y, x) in zip(layers, corners, strict=True):
        below = background[y : y + len(layer), x : x + layer.shape[1]]
        below += layer[..., 3:] / 255 * (layer[..., :3] - below)
    annotations = [
        {
            "category_id": label + 1,
            "bbox": _box(seen),
            "area": int(seen.sum()),
            "segmentation": encode(seen),
            "amodal_segmentation": encode(mask),
            "visible_fraction": round(float(share), 4),
        }
        for label, seen, mask, share in zip(labels, visible, whole, shares, strict=True)
    ]
    return annotations, _overlap(whole)


def _best_layout(
    masks: Sequence[Array], overlap: float, min_visible: float, side: int, rng: np.random.Generator
) -> list[Corner]:
    """Place the masks, from scattered to huddled, and return the corners of the layout nearest to ``overlap``.

    A layout that hides an object is used only if every other one does too.
    """
    step = math.ceil(side / _LAYOUT_SIDE)
    small = [mask[::step, ::step] for mask in masks]
    best: list[Corner] = []
    best_error = math.inf
    for attempt in range(_LAYOUTS):
        spread = 1 - attempt / _LAYOUTS
        centre = rng.uniform(0, 1, 2)
        corners = []
        for mask in masks:
            room = side - np.array(mask.shape)
            y, x = (room * (centre + spread * (rng.uniform(0, 1, 2) - centre))).astype(int).tolist()
            corners.append((y, x))
        whole = _placed(small, [(y // step, x // step) for y, x in corners], side // step + 2)
        areas = whole.sum((1, 2))
        error = abs(_overlap(whole) - overlap)
        if (_visible(whole).sum((1, 2)) < min_visible * areas).any():
            error += 1
        if error < best_error:
            best, best_error = corners, error
    return best


def _placed(masks: Sequence[Array], corners: Sequence[Corner], side: int) -> Array:
    """Return every mask in a layer of its own (N, side, side)."""
    whole = np.zeros((len(masks), side, side), dtype=bool)
    for layer, mask, (y, x) in zip(whole, masks, corners, strict=True):
        layer[y : y + len(mask), x : x + mask.shape[1]] = mask
    return whole


def _overlap(whole: Array) -> float:
    """Return the share of the objects' pixels that several objects cover."""
    times_covered = whole.sum(0)
    return float(times_covered[times_covered > 1].sum() / max(1, times_covered.sum()))


def _visible(whole: Array) -> Array:
    """Return the part of each layer that no later layer covers."""
    above = np.zeros_like(whole)
    above[:-1] = np.logical_or.accumulate(whole[:0:-1], axis=0)[::-1]
    visible: Array = whole & ~above
    return visible


def _box(mask: Array) -> list[int]:
    """Return the box around a mask as COCO writes it: x, y, width, height."""
    (x0, x1), (y0, y1) = (np.flatnonzero(mask.any(axis))[[0, -1]].tolist() for axis in (0, 1))
    return [x0, y0, x1 - x0 + 1, y1 - y0 + 1]


def outlines(mask: Array) -> list[list[float]]:
    """Return the parts of a mask (H, W) as COCO's polygons, ``[x1, y1, x2, y2, ...]``; holes are filled."""
    contours = require("contourpy", extra="detection")
    padded = np.pad(mask, 1).astype(float)  # what touches the border ends there
    found = []
    for points, offsets in zip(
        *contours.contour_generator(z=padded, fill_type="OuterOffset").filled(0.5, 2), strict=True
    ):
        ring = points[: offsets[1] - 1]  # the first is the outer one; it ends where it begins
        before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
        corners = ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
        found.append((corners - 0.5).ravel().tolist())  # from centres of pixels, one further because of the padding
    return found
