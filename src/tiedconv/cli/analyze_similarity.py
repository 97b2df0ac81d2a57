"""``tiedconv analyze similarity``."""

from collections.abc import Sequence
from itertools import islice, zip_longest
from math import ceil
from pathlib import Path

import torch
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from .. import __version__
from .._extras import require
from .._files import write_whole
from ..analysis import evenly_spaced, filter_similarity
from ..compare.runner import default_device
from ..models.inputs import input_size
from ..report.page import random_note
from ..report.similarity_report import ModelSimilarity, similarity_json, write_similarity_plots, write_similarity_report
from ._console import Progress, table_console
from ._inputs import check_output, command, facts, load


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
    """Compare how alike the filters of models are, by guided backpropagation, as the paper's Figs. 1 and 9 do.

    For every layer and model: the cosine similarities between the patterns that two filters respond to, averaged over
    the photos. With 64 channels in five stages ResNet-50 takes tens of seconds a photo on one processor core. Writes
    report.html, similarity.json, similarity.png and a matrices-*.png a model.

    Args:
        models: timm names, tied or not, torchvision/<name>, saved folders or hf-hub:<repository>, separated by commas.
        images: a photo, or a folder of photos, subfolders included.
        checkpoints: files of weights, one per model, separated by commas; an empty one stands for none.
        pretrained: load the libraries' weights of the models without a checkpoint, from the cache or the network.
        layers: modules to compare, separated by commas, the same in every model. Default: the last of every stage,
            which timm's models name; torchvision's do not.
        limit: how many photos, evenly spaced in the order of their paths.
        max_channels: how many filters of a layer to compare, evenly spaced; 0: all.
        batch_size: how many photos go through a model at once.
        device: where to compute. Default: the first GPU if there is one, else the processor.
        output: folder to write to.
    """
    check_output(output, limit, ("similarity.json", "similarity.png"))
    require("matplotlib", extra="analysis")  # not after hours
    given = load(models, checkpoints, pretrained)
    place = default_device() if device is None else torch.device(device)
    channels = max_channels or None
    for entry in given:  # a mistake in the last one must not come to light after hours
        blank = torch.zeros(1, *input_size(entry.model), device=place)
        few = min(1, max_channels) or 1
        filter_similarity(entry.model.to(place), layers, blank, max_channels=few, batch_size=batch_size)
    found: list[ModelSimilarity] = []
    with Progress() as progress:
        files = given[0].photos(images)
        chosen = evenly_spaced(len(files), limit)
        for i in progress.each("reading the photos", chosen, len(chosen)):
            files[i]  # a broken photo comes to light in seconds, not after hours
        count = ceil(len(chosen) / batch_size)
        batches = progress.each(
            f"comparing filters on batches of {batch_size}",
            (batch for entry in given for batch in entry.photos(images).batches(chosen, batch_size)),
            len(given) * count,
        )
        for entry in given:
            measured = filter_similarity(
                entry.model,
                layers,
                (batch.to(place) for batch in islice(batches, count)),
                max_channels=channels,
                batch_size=batch_size,
            )
            found.append(ModelSimilarity(entry.label, entry.weights, entry.random, measured))
            settings = {"tiedconv": __version__, "images": len(chosen), "max_channels": channels}
            write_whole(output / "similarity.json", similarity_json(found, settings) + "\n")
    console = table_console()
    console.print(_table(found, len(chosen)))
    write_similarity_plots(found, output)
    call = command(
        "similarity",
        models=models,
        images=images,
        checkpoints=checkpoints,
        pretrained=pretrained,
        layers=layers,
        limit=limit,
        max_channels=max_channels,
        batch_size=batch_size,
        device=device,
        output=output,
    )
    blocks = facts(given, photos=f"{len(chosen)} of {images}", filters=f"at most {channels or 'all'} a layer")
    write_similarity_report(found, output / "report.html", command=call, blocks=blocks)
    console.print(f"Numbers: {output / 'similarity.json'}\nReport:  {output / 'report.html'}", markup=False)


def _table(found: Sequence[ModelSimilarity], images: int) -> Table:
    caption = f"Mean cosine similarity over the pairs of filters, {images} photos. {random_note(found)}"
    table = Table(title="Filter similarity", caption=escape(caption), box=SIMPLE)
    for header, right in (("layer", 0), ("model", 0), ("mean", 1), ("pairs", 1), ("dead", 1)):
        table.add_column(header, justify="right" if right else "left")
    for layers in zip_longest(*(model.layers for model in found)):
        table.add_section()
        for model, layer in zip(found, layers, strict=True):
            if layer:
                pairs = layer.pairs().numel()
                mean = f"{layer.mean:.3f}" if pairs else "-"
                table.add_row(escape(layer.layer), escape(model.label), mean, str(pairs), str(layer.dead))
    return table
