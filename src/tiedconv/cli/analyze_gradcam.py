"""``tiedconv analyze gradcam``."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from .. import __version__
from .._files import printable
from ..analysis.gradcam import grad_cam
from ..models.inputs import as_seen, label_names
from ..report.gradcam_report import ModelCams, write_gradcam
from ..report.page import random_note
from ..report.style import class_name
from ._console import Progress, table_console
from ._inputs import check_output, command, facts, load


def gradcam(
    models: list[str],
    images: Path,
    checkpoints: Sequence[Path | None] = (),
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
        checkpoints: files of weights, one per model, separated by commas; an empty one stands for none.
        pretrained: load the libraries' weights of the models without a checkpoint, from the cache or the network.
        limit: how many photos, the first in the order of their paths.
        target: index of the class to explain. Default: of each photo the class of the highest score.
        layer: module whose output is weighted. Default: the last one that returns a map, before the pooling.
        classes: text file with a class name per line. Default: the names in the checkpoints, if all have the same.
        output: folder to write to.
    """
    names = None if classes is None else classes.read_text(encoding="utf-8").splitlines()
    check_output(output, limit, ("gradcam.png", "gradcam.json"))
    given = load(models, checkpoints, pretrained)
    if names is None and len(told := {tuple(label_names(entry.model)) for entry in given}) == 1:
        names = list(*told) or None
    photos: list[Path] = []
    found: list[ModelCams] = []
    with Progress() as progress:
        for entry in progress.each("explaining", given, len(given)):
            files = entry.photos(images)
            (batch,) = files.batches(range(len(files))[:limit], limit)
            targets = None if target is None else torch.full((len(batch),), target)
            cam = grad_cam(entry.model, batch, layer=layer, targets=targets)
            found.append(ModelCams(entry.label, entry.weights, entry.random, as_seen(entry.model, batch), cam))
            photos = files.paths[: len(batch)]
            if classes is not None and names is not None and len(names) != cam.num_classes:
                raise ValueError(
                    f"{classes} has {len(names)} lines, and {entry.label} tells {cam.num_classes} classes "
                    "apart. Give a file with a line per class."
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
    shown = [printable(path.name) for path in photos]
    console = table_console()
    console.print(_table(found, shown, names or []))
    write_gradcam(
        found,
        output,
        photos=shown,
        classes=names or [],
        settings={"tiedconv": __version__, "images": str(images)},
        command=call,
        blocks=facts(given, **{"Grad-CAM": "captum's LayerGradCam, gradients of the scores before the softmax"}),
    )
    console.print(f"Report:  {output / 'report.html'}", markup=False)


def _table(models: Sequence[ModelCams], photos: Sequence[str], classes: Sequence[str]) -> Table:
    layers = ", ".join(f"{model.label} {model.cam.layer}" for model in models)
    caption = f"Coverage: share of the photo hotter than half of its maximum. Layers: {layers}. {random_note(models)}"
    table = Table(title="Grad-CAM", caption=escape(caption), box=SIMPLE)
    for header, right in (("photo", 0), ("model", 0), ("class", 0), ("probability", 1), ("coverage", 1)):
        table.add_column(header, justify="right" if right else "left")
    coverages = [model.cam.coverage() for model in models]
    for i, name in enumerate(photos):
        table.add_section()
        for place, (model, coverage) in enumerate(zip(models, coverages, strict=True)):
            explained = class_name(classes, int(model.cam.targets[i]))
            cells = [f"{model.cam.probabilities[i]:.1%}", f"{coverage[i]:.1%}"]
            table.add_row("" if place else escape(name), escape(model.label), escape(explained), *cells)
    return table
