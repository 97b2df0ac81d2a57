"""``tiedconv analyze gradcam``, ``similarity`` and ``summary``: what is inside of models."""

from collections.abc import Mapping, Sequence
from itertools import islice, zip_longest
from math import ceil
from pathlib import Path

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from .._extras import require
from .._files import check_writable, printable
from ..analysis import GradCam, LayerSimilarity, LayerSummary, evenly_spaced, filter_similarity, grad_cam, summarize
from ..bench.machine import default_device
from ..data.base import ImageFiles
from ..models import build_model
from ..models.inputs import as_seen, eval_transform, input_size, label_names
from ..models.named import is_random
from ..report.gradcam_report import write_gradcam
from ..report.page import Origin
from ..report.similarity_report import write_similarity, write_similarity_numbers
from ..report.style import class_name
from ..report.summary_report import HEAD, NOTE, summary_cells, write_summary
from ._console import Progress, command_line, new_table, table_console

_SUMMARY_BATCH = 8


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
    """Draw where classifiers look, by Grad-CAM, as in the paper's Figs. 8 and A.1.

    For every photo and model: the class with the highest score, the parts of the photo that speak for it, and how large
    they are. Writes report.html, gradcam.png and gradcam.json.

    Args:
        models: timm names, tied or not, torchvision/<name>, saved folders or hf-hub:<repository>, separated by commas.
        images: a photo, or a folder of photos, subfolders included.
        checkpoints: files of weights, one per model, separated by commas; an empty one stands for none.
        pretrained: load the libraries' weights of the models without a checkpoint, from the cache or the network.
        limit: number of photos, the first in the order of their paths.
        target: index of the class to explain. Default: for each photo the class with the highest score.
        layer: module whose output is weighted. Default: the last one that returns a map, before the pooling.
        classes: text file with a class name per line. Default: the names in the checkpoints, if all have the same.
        output: folder to write to.
    """
    names = None if classes is None else classes.read_text(encoding="utf-8").splitlines()
    _check(output, limit, ("gradcam.png", "gradcam.json"))
    networks, weights = _load(models, checkpoints, pretrained)
    if names is None and len(told := {tuple(label_names(network)) for network in networks.values()}) == 1:
        names = list(*told) or None
    photos: list[str] = []
    seen: dict[str, Tensor] = {}
    cams: dict[str, GradCam] = {}
    with Progress() as progress:
        for label, network in progress.each("explaining", networks.items(), len(networks)):
            files = _photos(network, images)
            (batch,) = files.batches(range(len(files))[:limit], limit)
            targets = None if target is None else torch.full((len(batch),), target)
            cams[label] = cam = grad_cam(network, batch, layer=layer, targets=targets)
            seen[label] = as_seen(network, batch)
            photos = [printable(path.name) for path in files.paths[: len(batch)]]
            if classes is not None and names is not None and len(names) != cam.num_classes:
                raise ValueError(
                    f"{classes} has {len(names)} lines, and {label} tells {cam.num_classes} classes apart. Give a file "
                    "with a line per class."
                )
    method = "captum's LayerGradCam, gradients of the scores before the softmax"
    origin = Origin(command_line(), weights, {"images": images, "method": method})
    console = table_console()
    console.print(_gradcam_table(cams, photos, names or [], origin.random_note()))
    write_gradcam(cams, seen, output, origin, photos=photos, classes=names or [])
    console.print(f"Report:  {output / 'report.html'}", markup=False)


def similarity(
    models: list[str],
    images: Path,
    checkpoints: Sequence[Path | None] = (),
    pretrained: bool = False,
    layers: list[str] | None = None,
    limit: int = 1000,
    max_channels: int = 64,
    batch_size: int = 4,
    device: str | None = None,
    output: Path = Path("runs/analyze-similarity"),
) -> None:
    """Compare how alike the filters of models are, by guided backpropagation, as in the paper's Figs. 1 and 9.

    For every layer and model: the cosine similarities between the patterns that two filters respond to, averaged over
    the photos. With 64 channels in five stages ResNet-50 takes tens of seconds per photo on one processor core. Writes
    report.html, similarity.json, similarity.png and a matrices-*.png per model.

    Args:
        models: timm names, tied or not, torchvision/<name>, saved folders or hf-hub:<repository>, separated by commas.
        images: a photo, or a folder of photos, subfolders included.
        checkpoints: files of weights, one per model, separated by commas; an empty one stands for none.
        pretrained: load the libraries' weights of the models without a checkpoint, from the cache or the network.
        layers: modules to compare, separated by commas, the same in every model. Default: the last of every stage,
            which timm's models name; torchvision's do not.
        limit: number of photos, evenly spaced in the order of their paths.
        max_channels: number of filters of a layer to compare, evenly spaced; 0: all.
        batch_size: number of photos that go through a model at once.
        device: where to compute. Default: the first GPU if there is one, else the processor.
        output: folder to write to.
    """
    _check(output, limit, ("similarity.json", "similarity.png"))
    networks, weights = _load(models, checkpoints, pretrained)
    place = default_device() if device is None else torch.device(device)
    for network in networks.values():  # a mistake in the last one must not come to light after hours
        blank = torch.zeros(1, *input_size(network), device=place)
        few = min(1, max_channels) or 1
        filter_similarity(network.to(place), layers, blank, max_channels=few, batch_size=batch_size)
    found: dict[str, list[LayerSimilarity]] = {}
    with Progress() as progress:
        files = _photos(next(iter(networks.values())), images)
        chosen = evenly_spaced(len(files), limit)
        for i in progress.each("reading the photos", chosen, len(chosen)):
            files[i]  # a broken photo comes to light in seconds, not after hours
        settings = {"images": len(chosen), "folder": images, "max_channels": max_channels or None}
        origin = Origin(command_line(), weights, settings)
        count = ceil(len(chosen) / batch_size)
        batches = progress.each(
            f"comparing filters on batches of {batch_size}",
            (batch for network in networks.values() for batch in _photos(network, images).batches(chosen, batch_size)),
            len(networks) * count,
        )
        for label, network in networks.items():
            found[label] = filter_similarity(
                network,
                layers,
                (batch.to(place) for batch in islice(batches, count)),
                max_channels=max_channels or None,
                batch_size=batch_size,
            )
            write_similarity_numbers(found, output, origin)
    console = table_console()
    console.print(_similarity_table(found, len(chosen), origin.random_note()))
    write_similarity(found, output, origin)
    console.print(f"Numbers: {output / 'similarity.json'}\nReport:  {output / 'report.html'}", markup=False)


def summary(
    models: list[str],
    images: Path,
    checkpoints: Sequence[Path | None] = (),
    pretrained: bool = False,
    limit: int = 256,
    output: Path = Path("runs/analyze-summary"),
) -> None:
    """Measure each layer of models: cost, weights, activations, and how many directions its features use.

    The effective rank of a layer says how far its channels are from repeating each other: it is their number if they
    are uncorrelated, and 1 if they all carry the same signal. It grows with the number of images and positions, so
    compare models on the same photos. Writes report.html, summary.png and summary.json.

    Args:
        models: timm names, tied or not, torchvision/<name>, saved folders or hf-hub:<repository>, separated by commas.
        images: a photo, or a folder of photos, subfolders included.
        checkpoints: files of weights, one per model, separated by commas; an empty one stands for none.
        pretrained: load the libraries' weights of the models without a checkpoint, from the cache or the network.
        limit: number of photos, evenly spaced in the order of their paths.
        output: folder to write to.
    """
    _check(output, limit, ("summary.png", "summary.json"))
    networks, weights = _load(models, checkpoints, pretrained)
    found: dict[str, list[LayerSummary]] = {}
    count = 0
    with Progress() as progress:
        for number, (label, network) in enumerate(networks.items(), start=1):
            files = _photos(network, images)
            chosen = evenly_spaced(len(files), limit)
            count = len(chosen)
            batches = files.batches(chosen, _SUMMARY_BATCH)
            what = f"{label}, model {number} of {len(networks)}"
            found[label] = summarize(network, progress.each(what, batches, ceil(count / _SUMMARY_BATCH)))
    origin = Origin(command_line(), weights, {"images": count, "folder": images})
    console = table_console()
    for label, layers in found.items():
        caption = f"{NOTE} The report has more columns."
        table = new_table(HEAD[:2], HEAD[2:], title=escape(f"{label}, {count} photos"), caption=escape(caption))
        for layer in layers:
            table.add_row(*map(escape, summary_cells(layer)))
        console.print(table)
    if origin.random_note():
        console.print(origin.random_note(), markup=False)
    write_summary(found, output, origin)
    console.print(f"Report:  {output / 'report.html'}", markup=False)


def _check(output: Path, limit: int, files: Sequence[str]) -> None:
    """Check what can be checked before models are loaded."""
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got limit={limit}.")
    require("matplotlib", extra="analysis")
    for file in ("report.html", *files):
        check_writable("output", output / file)


def _load(
    names: Sequence[str], checkpoints: Sequence[Path | None], pretrained: bool
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Return models by their labels, and where their weights are from, as in :class:`Origin`.

    All are loaded at once, so that a mistake in the last one comes to light before anything is computed.
    """
    files = checkpoints or [None] * len(names)
    if len(files) != len(names):
        raise ValueError(
            f"got {len(names)} models and {len(files)} checkpoints. Give one per model, separated by "
            "commas; an empty one stands for none."
        )
    torch.manual_seed(0)  # random weights are the same at every call
    networks: dict[str, nn.Module] = {}
    weights = {}
    for name, path in zip(names, files, strict=True):
        label = f"{name}, {path.stem}" if path and names.count(name) > 1 else name
        if label in networks:
            raise ValueError(f"two models would both be called {label!r}. Name each once.")
        library = pretrained and path is None
        networks[label] = build_model(name, checkpoint=path, pretrained=library).eval()
        weights[label] = str(path) if path else "random" if is_random(name, path, library) else "pretrained"
    return networks, weights


def _photos(model: nn.Module, path: Path) -> ImageFiles:
    """Return photos as the model is evaluated on them."""
    return ImageFiles(path, eval_transform(model), channels=input_size(model)[0])


def _gradcam_table(cams: Mapping[str, GradCam], photos: Sequence[str], classes: Sequence[str], note: str) -> Table:
    layers = ", ".join(f"{label} {cam.layer}" for label, cam in cams.items())
    caption = f"Coverage: share of the photo hotter than half of its maximum. Layers: {layers}. {note}"
    words, numbers = ("photo", "model", "class"), ("probability", "coverage")
    table = new_table(words, numbers, title="Grad-CAM", caption=escape(caption))
    coverages = [cam.coverage() for cam in cams.values()]
    for i, name in enumerate(photos):
        table.add_section()
        for place, ((label, cam), coverage) in enumerate(zip(cams.items(), coverages, strict=True)):
            explained = class_name(classes, int(cam.targets[i]))
            cells = [f"{cam.probabilities[i]:.1%}", f"{coverage[i]:.1%}"]
            table.add_row("" if place else escape(name), escape(label), escape(explained), *cells)
    return table


def _similarity_table(found: Mapping[str, Sequence[LayerSimilarity]], images: int, note: str) -> Table:
    caption = f"Mean cosine similarity over the pairs of filters, {images} photos. {note}"
    words, numbers = ("layer", "model"), ("mean", "pairs", "dead")
    table = new_table(words, numbers, title="Filter similarity", caption=escape(caption))
    for layers in zip_longest(*found.values()):
        table.add_section()
        for label, layer in zip(found, layers, strict=True):
            if layer:
                pairs = layer.pairs().numel()
                mean = f"{layer.mean:.3f}" if pairs else "-"
                table.add_row(escape(layer.layer), escape(label), mean, str(pairs), str(layer.dead))
    return table
