"""Pictures of Grad-CAM heat maps, of one photo and of several models side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from .._extras import require
from ..analysis.gradcam import GradCam
from . import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STRENGTH = 0.75  # of the colours over the photo where the heat is highest
_CELL, _TITLE = 1.9, 0.42  # inches of a picture's side, and of the two lines above it


def overlay(image: Tensor, heat: Tensor) -> Image.Image:
    """Return a photo in grey, as its own colours would look like heat, and the heat in colour, yellow at its maximum.

    Args:
        image: (3, H, W) or (1, H, W) in 0-1.
        heat: (H', W'), not negative; resized to the image by bilinear interpolation. All 0: no colour.
    """
    colormap = require("matplotlib", extra="analysis").colormaps["plasma"]
    grey = np.asarray(photo(image).convert("L"), dtype=np.float32)[..., None] / 255
    size = grey.shape[:2]
    heat = F.interpolate(heat.detach().float().cpu()[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    share = (heat / heat.max().clamp_min(1e-30)).numpy()
    alpha = _STRENGTH * share[..., None]
    return _picture((1 - alpha) * grey + alpha * colormap(share)[..., :3])


def photo(image: Tensor) -> Image.Image:
    """Return an image, (3, H, W) or (1, H, W) in 0-1, as a picture."""
    return _picture(image.detach().float().cpu().clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy())


def _picture(pixels: "np.ndarray") -> Image.Image:
    return Image.fromarray((255 * pixels).round().astype(np.uint8))


def plot_cam(image: Tensor, heat: Tensor | None, ax: "Axes | None" = None, *, title: str = "") -> "Axes":
    """Draw a photo, or the heat on it.

    Args:
        image: as in :func:`overlay`.
        heat: as in :func:`overlay`. None: the photo alone.
        ax: where to draw. None: on a new figure.
        title: one or two lines above the picture.
    """
    ax = style.new_axes(_CELL, _CELL + _TITLE) if ax is None else ax
    # Unscaled: a vector format then holds the photo's own pixels, not those of its size in points.
    ax.imshow(photo(image) if heat is None else overlay(image, heat), interpolation="none")
    ax.set_axis_off()
    ax.set_title(title, fontsize=8, color=style.INK, pad=4)
    return ax


def draw_cams(
    images: Mapping[str, Tensor], cams: Mapping[str, GradCam], *, names: Sequence[str], classes: Sequence[str] = ()
) -> "Figure":
    """Return a new figure with a row per image: the photo, and beside it what each model looked at.

    Above each picture are the model, the class that is explained and its probability.

    Args:
        images: for each model what it was given, (N, 3 or 1, H, W) in 0-1, as a viewer would see it: models crop
            photos differently. The first model's are shown as the photos.
        cams: for each model its heat maps of these images, at least one.
        names: of the images.
        classes: names of the classes. None given: their indices.
    """
    photos = images[next(iter(cams))]
    cell = _CELL * max(1, photos.shape[2] / photos.shape[3]) + _TITLE
    figure = style.new_figure(_CELL * (1 + len(cams)), cell * len(photos))
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.04, h_pad=0.04, hspace=0, wspace=0)
    axes = figure.subplots(len(photos), 1 + len(cams), squeeze=False)
    for i, (name, row) in enumerate(zip(names, axes, strict=True)):
        plot_cam(photos[i], None, row[0], title=style.short(name, 26) + "\n")
        for ax, (label, cam) in zip(row[1:], cams.items(), strict=True):
            title = f"{style.short(label, 26)}\n{style.short(explained(cam, i, classes), 26)}"
            plot_cam(images[label][i], cam.heat[i], ax, title=title)
    return figure


def explained(cam: GradCam, i: int, classes: Sequence[str]) -> str:
    """Return the class that the heat on image ``i`` is for, and its probability."""
    probability = style.percent(round(float(cam.probabilities[i]), 3))
    return f"{style.class_name(classes, int(cam.targets[i]))}, {probability}"
