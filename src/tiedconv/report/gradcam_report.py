"""Grad-CAM heat maps of several models as numbers in a file, as a picture, and as one HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .._files import write_whole
from ..analysis.gradcam import GradCam
from . import page, style
from .gradcam_plots import draw_cams, explained, overlay, photo
from .style import class_name

_LARGEST_PNG = 60_000  # pixels of a side; matplotlib refuses 2^16
_LEAD = (
    "The warmer a place, the more it speaks for the class that is named. The heat has the resolution of a late layer "
    "and no unit: colours compare places of one picture."
)


def write_gradcam(
    cams: Mapping[str, GradCam],
    images: Mapping[str, Tensor],
    folder: Path,
    origin: page.Origin,
    *,
    photos: Sequence[str],
    classes: Sequence[str] = (),
) -> None:
    """Write ``gradcam.json``, ``gradcam.png`` and ``report.html``.

    Args:
        cams: at least one model's heat maps, all of the same photos.
        images: as in :func:`~tiedconv.report.gradcam_plots.draw_cams`.
        folder: where to; it exists.
        origin: where the heat maps are from.
        photos: names of the photos.
        classes: names of the classes. None given: their indices.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    numbers = {label: _numbers(cam, photos, classes) for label, cam in cams.items()}
    write_whole(folder / "gradcam.json", origin.numbers(numbers))
    figure = draw_cams(images, cams, names=photos, classes=classes)
    with page.quiet_about_glyphs():
        figure.savefig(folder / "gradcam.png", dpi=min(150, _LARGEST_PNG / max(figure.get_size_inches())))
    sections = [
        page.section(name, page.grid(_pictures(cams, images, i, name, classes), column=220))
        for i, name in enumerate(photos)
    ]
    lines = [(label, _line(cam)) for label, cam in cams.items()]
    origin.write_page(folder, "Where the models look", _LEAD, lines, sections)


def _numbers(cam: GradCam, photos: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    coverage = cam.coverage()
    results = [
        {
            "photo": name,
            "target": int(cam.targets[i]),
            "class": class_name(classes, int(cam.targets[i])),
            "score": float(cam.scores[i]),
            "probability": float(cam.probabilities[i]),
            "coverage": float(coverage[i]),
            "heat": cam.heat[i].tolist(),
        }
        for i, name in enumerate(photos)
    ]
    return {"layer": cam.layer, "results": results}


def _line(cam: GradCam) -> str:
    coverage = style.percent(round(float(cam.coverage().mean()), 3))
    what = f"{coverage} of a photo is hotter than half of its maximum (mean over {len(cam.heat)})"
    return f"{what}; the layer is {cam.layer}."


def _pictures(
    cams: Mapping[str, GradCam], images: Mapping[str, Tensor], i: int, name: str, classes: Sequence[str]
) -> list[str]:
    first = next(iter(cams))
    seen = page.encoded(photo(images[first][i]))
    pictures = [page.picture(seen, title="Photo", alt=name, caption=f"As {first} sees it")]
    for label, cam in cams.items():
        pictures.append(
            page.picture(
                page.encoded(overlay(images[label][i], cam.heat[i])),
                title=label,
                alt=f"Heat map of {label} on {name}",
                caption=explained(cam, i, classes),
            )
        )
    return pictures
