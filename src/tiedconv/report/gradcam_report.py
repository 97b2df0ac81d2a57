"""Grad-CAM heat maps of several models as numbers in a file, as a picture, and as one HTML page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Any

from torch import Tensor

from .._files import write_whole
from ..analysis.gradcam import GradCam
from . import page, style
from .gradcam_plots import draw_cams, overlay, photo
from .style import class_name

_LARGEST_PNG = 60_000  # pixels of a side; matplotlib refuses 2^16


@dataclass(frozen=True, eq=False)
class ModelCams(page.ReportedModel):
    """What :func:`tiedconv.analysis.grad_cam` found in one model.

    Attributes:
        label, weights, random: as in :class:`~tiedconv.report.page.ReportedModel`.
        images: what it was given, (N, 3 or 1, H, W) in 0-1, as a viewer would see it.
        cam: its heat maps of these images.
    """

    images: Tensor
    cam: GradCam


def write_gradcam(
    models: Sequence[ModelCams],
    folder: Path,
    *,
    photos: Sequence[str],
    classes: Sequence[str] = (),
    settings: Mapping[str, Any],
    command: str,
    blocks: Mapping[str, Mapping[str, str]],
) -> None:
    """Write ``gradcam.json``, ``gradcam.png`` and ``report.html`` into a folder that exists.

    Args:
        models: at least one, with different labels, all with the same photos.
        folder: where to.
        photos: names of the photos.
        classes: names of the classes. None given: their indices.
        settings: more entries of the JSON file.
        command, blocks: as in :func:`~tiedconv.report.page.write_page`.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    write_whole(folder / "gradcam.json", gradcam_json(models, photos, classes, settings) + "\n")
    images, cams = {m.label: m.images for m in models}, {m.label: m.cam for m in models}
    figure = draw_cams(images, cams, names=photos, classes=classes)
    with page.quiet_about_glyphs():
        figure.savefig(folder / "gradcam.png", dpi=min(150, _LARGEST_PNG / max(figure.get_size_inches())))
    lead = (
        "The warmer, the more a place speaks for the class that is named. The heat has the resolution of a late layer, "
        "and no unit: colours compare places of one picture. " + page.random_note(models)
    )
    sections = [
        page.section(name, page.grid(_pictures(models, i, name, classes), column=220)) for i, name in enumerate(photos)
    ]
    lines = list(map(_line, models))
    page.write_page(
        folder / "report.html", "Where the models look", lead, lines, sections, command=command, blocks=blocks
    )


def gradcam_json(
    models: Sequence[ModelCams], photos: Sequence[str], classes: Sequence[str], settings: Mapping[str, Any]
) -> str:
    """Return the numbers as JSON: ``settings``, and for each model and photo class, score, coverage and heat."""
    entries = []
    for model in models:
        cam, coverage = model.cam, model.cam.coverage()
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
        entries.append({"label": model.label, "weights": model.weights, "layer": cam.layer, "results": results})
    return dumps({**settings, "models": entries}, indent=2)


def _line(model: ModelCams) -> tuple[str, str]:
    coverage = style.percent(round(float(model.cam.coverage().mean()), 3))
    what = f"{coverage} of a photo is hotter than half of its maximum (mean over {len(model.cam.heat)})"
    return model.label, f"{what}; the layer is {model.cam.layer}."


def _pictures(models: Sequence[ModelCams], i: int, name: str, classes: Sequence[str]) -> list[str]:
    first = models[0]
    seen = page.encoded(photo(first.images[i]))
    pictures = [page.picture(seen, title="Photo", alt=name, caption=f"As {first.label} sees it")]
    for model in models:
        probability = style.percent(round(float(model.cam.probabilities[i]), 3))
        pictures.append(
            page.picture(
                page.encoded(overlay(model.images[i], model.cam.heat[i])),
                title=model.label,
                alt=f"Heat map of {model.label} on {name}",
                caption=f"{class_name(classes, int(model.cam.targets[i]))}, {probability}",
            )
        )
    return pictures
