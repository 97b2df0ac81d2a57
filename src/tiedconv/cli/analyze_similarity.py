"""``tiedconv analyze similarity``."""

from collections.abc import Mapping, Sequence
from itertools import islice, zip_longest
from math import ceil
from pathlib import Path

import torch
from rich.markup import escape
from rich.table import Table

from ..analysis import LayerSimilarity, evenly_spaced, filter_similarity
from ..compare.runner import default_device
from ..models.inputs import input_size
from ..report.similarity_report import write_similarity, write_similarity_numbers
from ._console import Progress, new_table, table_console
from ._inputs import check_output, load, origin


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
    given = load(models, checkpoints, pretrained)
    place = default_device() if device is None else torch.device(device)
    channels = max_channels or None
    for entry in given:  # a mistake in the last one must not come to light after hours
        blank = torch.zeros(1, *input_size(entry.model), device=place)
        few = min(1, max_channels) or 1
        filter_similarity(entry.model.to(place), layers, blank, max_channels=few, batch_size=batch_size)
    found: dict[str, list[LayerSimilarity]] = {}
    with Progress() as progress:
        files = given[0].photos(images)
        chosen = evenly_spaced(len(files), limit)
        for i in progress.each("reading the photos", chosen, len(chosen)):
            files[i]  # a broken photo comes to light in seconds, not after hours
        made = origin(given, images=len(chosen), folder=images, max_channels=channels)
        count = ceil(len(chosen) / batch_size)
        batches = progress.each(
            f"comparing filters on batches of {batch_size}",
            (batch for entry in given for batch in entry.photos(images).batches(chosen, batch_size)),
            len(given) * count,
        )
        for entry in given:
            found[entry.label] = filter_similarity(
                entry.model,
                layers,
                (batch.to(place) for batch in islice(batches, count)),
                max_channels=channels,
                batch_size=batch_size,
            )
            write_similarity_numbers(found, output, made)
    console = table_console()
    console.print(_table(found, len(chosen), made.random_note()))
    write_similarity(found, output, made)
    console.print(f"Numbers: {output / 'similarity.json'}\nReport:  {output / 'report.html'}", markup=False)


def _table(found: Mapping[str, Sequence[LayerSimilarity]], images: int, note: str) -> Table:
    caption = f"Mean cosine similarity over the pairs of filters, {images} photos. {note}"
    table = new_table(("layer", "model"), ("mean", "pairs", "dead"), title="Filter similarity", caption=escape(caption))
    for layers in zip_longest(*found.values()):
        table.add_section()
        for label, layer in zip(found, layers, strict=True):
            if layer:
                pairs = layer.pairs().numel()
                mean = f"{layer.mean:.3f}" if pairs else "-"
                table.add_row(escape(layer.layer), escape(label), mean, str(pairs), str(layer.dead))
    return table
