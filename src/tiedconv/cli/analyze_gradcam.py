"""``tiedconv analyze gradcam``."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

from .. import __version__
from .._files import printable, write_whole
from ..analysis.gradcam import GradCam, grad_cam
from ..models.inputs import eval_transform, input_size
from ..report import page, style
from ..report.gradcam_plots import class_name, draw_cams, overlay, photo
from ._console import table_console
from ._given import Given, check_output, command, facts, load, random_note

_COVERAGE = "The share of the photo hotter than half of its maximum. The smaller, the more the heat is on one place."
_LARGEST_PNG = 60_000  # pixels of a side; matplotlib refuses 2^16


def gradcam(
    models: str | list[str],
    images: Path,
    checkpoints: str | list[str] = "",
    pretrained: bool = False,
    limit: int = 8,
    target: int | None = None,
    layer: str | None = None,
    classes: Path | None = None,
    output: Path = Path("runs/analyze-gradcam"),
) -> None:
    """Draw where classifiers look, by Grad-CAM, as the paper's Figs. 8 and A.1 do.

    For every photo and model: the class of the highest score, the parts of the photo that speak for it, and how large
    they are. Writes report.html, gradcam.png and gradcam.json.

    Args:
        models: timm names, tied or not, torchvision/<name>, saved folders or hf-hub:<repository>, separated by commas.
        images: a photo, or a folder of photos.
        checkpoints: files of weights, one a model, separated by commas; an empty one stands for none.
        pretrained: load the libraries' weights of the models without a checkpoint, from the cache or the network.
        limit: how many photos, the first in the order of their paths.
        target: index of the class to explain. Default: of each photo the class of the highest score.
        layer: module whose output is weighted. Default: the last one that returns a map, before the pooling.
        classes: text file with a class name a line.
        output: folder to write to.
    """
    names = None if classes is None else classes.read_text(encoding="utf-8").splitlines()
    check_output(output, limit, ("gradcam.png", "gradcam.json"))
    given = load(models, checkpoints, pretrained)
    photos, shown, cams = [], {}, {}
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        for entry in progress.track(given, description="explaining"):
            files = entry.photos(images)
            batch = torch.stack([files[i][0] for i in range(min(limit, len(files)))])
            targets = None if target is None else torch.full((len(batch),), target)
            cams[entry.label] = cam = grad_cam(entry.model, batch, layer=layer, targets=targets)
            shown[entry.label] = _as_seen(entry.model, batch)
            photos = files.paths[: len(batch)]
            if names is not None and len(names) != cam.num_classes:
                raise ValueError(
                    f"analyze: {classes} has {len(names)} lines, and {entry.label} tells {cam.num_classes} classes "
                    "apart. Give a file with a line a class."
                )
    call = command(
        "gradcam",
        models=models,
        images=images,
        checkpoints=checkpoints,
        pretrained=pretrained,
        limit=limit,
        target=target,
        layer=layer,
        classes=classes,
        output=output,
    )
    report = _Report(call, given, [printable(path.name) for path in photos], names or [], shown, cams)
    console = table_console()
    console.print(report.table())
    write_whole(output / "gradcam.json", report.to_json(images) + "\n")
    figure = draw_cams(shown, cams, names=report.photos, classes=report.classes)
    with page.quiet_about_glyphs():
        dpi = min(150, _LARGEST_PNG / max(figure.get_size_inches()))
        figure.savefig(output / "gradcam.png", dpi=dpi)
    report.write(output / "report.html")
    console.print(f"Report:  {output / 'report.html'}", markup=False)


def _as_seen(model: nn.Module, batch: Tensor) -> Tensor:
    """Return normalised images in 0-1, in which black and white are what the model's transform makes of them."""
    channels, _, _ = input_size(model)
    transform = eval_transform(model)
    black, white = (
        transform(Image.new("L" if channels == 1 else "RGB", (64, 64), colour)).mean(dim=(1, 2))[:, None, None]
        for colour in ("black", "white")
    )
    return ((batch - black) / (white - black)).clamp(0, 1)


@dataclass(frozen=True)
class _Report:
    call: str
    given: Sequence[Given]
    photos: Sequence[str]
    classes: Sequence[str]
    shown: Mapping[str, Tensor]
    cams: Mapping[str, GradCam]

    def explained(self, label: str, i: int) -> str:
        return class_name(self.classes, int(self.cams[label].targets[i]))

    def table(self) -> Table:
        layers = ", ".join(f"{label} {cam.layer}" for label, cam in self.cams.items())
        caption = f"Coverage: share of the photo hotter than half of its maximum. Layers: {layers}. "
        table = Table(title="Grad-CAM", caption=escape(caption + random_note(self.given)), box=SIMPLE)
        for header, right in (("photo", 0), ("model", 0), ("class", 0), ("probability", 1), ("coverage", 1)):
            table.add_column(header, justify="right" if right else "left")
        coverages = {label: cam.coverage() for label, cam in self.cams.items()}
        for i, name in enumerate(self.photos):
            if i:
                table.add_section()
            for place, (label, cam) in enumerate(self.cams.items()):
                cells = [f"{cam.probabilities[i]:.1%}", f"{coverages[label][i]:.1%}"]
                table.add_row("" if place else escape(name), escape(label), escape(self.explained(label, i)), *cells)
        return table

    def to_json(self, images: Path) -> str:
        models: list[dict[str, Any]] = []
        for entry in self.given:
            cam, coverage = self.cams[entry.label], self.cams[entry.label].coverage()
            results = [
                {
                    "photo": name,
                    "target": int(cam.targets[i]),
                    "class": self.explained(entry.label, i),
                    "score": float(cam.scores[i]),
                    "probability": float(cam.probabilities[i]),
                    "coverage": float(coverage[i]),
                    "heat": cam.heat[i].tolist(),
                }
                for i, name in enumerate(self.photos)
            ]
            models.append({"label": entry.label, "weights": entry.weights, "layer": cam.layer, "results": results})
        return dumps({"tiedconv": __version__, "images": str(images), "models": models}, indent=2)

    def write(self, path: Path) -> None:
        lines = []
        for label, cam in self.cams.items():
            coverage = style.percent(round(float(cam.coverage().mean()), 3))
            what = f"{coverage} of a photo is hotter than half of its maximum (mean over {len(cam.heat)})"
            lines.append((label, f"{what}; the layer is {cam.layer}."))
        lead = (
            "The warmer, the more a place speaks for the class that is named. The heat has the resolution of a late "
            f"layer, and no unit: colours compare places of one picture. {random_note(self.given)}"
        )
        sections = [page.section(name, page.grid(self._pictures(i), column=220)) for i, name in enumerate(self.photos)]
        done_with = facts(
            self.given, **{"Grad-CAM": "captum's LayerGradCam, gradients of the scores before the softmax"}
        )
        sections.append(page.section("How to repeat it", page.conditions(self.call, done_with)))
        page.write_page(path, "Where the models look", lead, lines, sections)

    def _pictures(self, i: int) -> list[str]:
        first = next(iter(self.cams))
        seen = photo(self.shown[first][i])
        pictures = [page.picture(_encoded(seen), title="Photo", alt=self.photos[i], caption=f"As {first} sees it")]
        for label, cam in self.cams.items():
            probability = style.percent(round(float(cam.probabilities[i]), 3))
            pictures.append(
                page.picture(
                    _encoded(overlay(self.shown[label][i], cam.heat[i])),
                    title=label,
                    alt=f"Heat map of {label} on {self.photos[i]}",
                    caption=f"{self.explained(label, i)}, {probability}",
                )
            )
        return pictures


def _encoded(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
