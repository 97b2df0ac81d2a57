"""``tiedconv analyze gradcam``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from .._files import printable
from ..analysis.gradcam import GradCam, grad_cam
from ..models.inputs import as_seen, label_names
from ..report.gradcam_report import write_gradcam
from ..report.style import class_name
from ._console import Progress, new_table, table_console
from ._inputs import check_output, load, origin


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
    photos: list[str] = []
    seen: dict[str, Tensor] = {}
    cams: dict[str, GradCam] = {}
    with Progress() as progress:
        for entry in progress.each("explaining", given, len(given)):
            files = entry.photos(images)
            (batch,) = files.batches(range(len(files))[:limit], limit)
            targets = None if target is None else torch.full((len(batch),), target)
            cams[entry.label] = cam = grad_cam(entry.model, batch, layer=layer, targets=targets)
            seen[entry.label] = as_seen(entry.model, batch)
            photos = [printable(path.name) for path in files.paths[: len(batch)]]
            if classes is not None and names is not None and len(names) != cam.num_classes:
                raise ValueError(
                    f"{classes} has {len(names)} lines, and {entry.label} tells {cam.num_classes} classes "
                    "apart. Give a file with a line per class."
                )
    made = origin(given, images=images, method="captum's LayerGradCam, gradients of the scores before the softmax")
    console = table_console()
    console.print(_table(cams, photos, names or [], made.random_note()))
    write_gradcam(cams, seen, output, made, photos=photos, classes=names or [])
    console.print(f"Report:  {output / 'report.html'}", markup=False)


def _table(cams: Mapping[str, GradCam], photos: Sequence[str], classes: Sequence[str], note: str) -> Table:
    layers = ", ".join(f"{label} {cam.layer}" for label, cam in cams.items())
    caption = f"Coverage: share of the photo hotter than half of its maximum. Layers: {layers}. {note}"
    table = new_table(
        ("photo", "model", "class"), ("probability", "coverage"), title="Grad-CAM", caption=escape(caption)
    )
    coverages = [cam.coverage() for cam in cams.values()]
    for i, name in enumerate(photos):
        table.add_section()
        for place, ((label, cam), coverage) in enumerate(zip(cams.items(), coverages, strict=True)):
            explained = class_name(classes, int(cam.targets[i]))
            cells = [f"{cam.probabilities[i]:.1%}", f"{coverage[i]:.1%}"]
            table.add_row("" if place else escape(name), escape(label), escape(explained), *cells)
    return table
