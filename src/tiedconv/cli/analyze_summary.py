"""``tiedconv analyze summary``."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from .. import __version__
from ..analysis import evenly_spaced
from ..analysis.summary import summarize
from ..report.page import random_note
from ..report.summary_report import HEAD, NOTE, ModelSummary, summary_cells, write_summary
from ._console import Progress, table_console
from ._inputs import check_output, command, facts, load

_BATCH = 8


def summary(
    models: list[str],
    images: Path,
    checkpoints: Sequence[Path | None] = (),
    pretrained: bool = False,
    limit: int = 256,
    output: Path = Path("runs/analyze-summary"),
) -> None:
    """Measure each layer of models: cost, weights, activations, and how many directions its features use.

    The effective rank of a layer says how far its channels are from repeating each other: with uncorrelated channels it
    is their number, with channels that all say the same it is 1. It grows with the number of images and positions, so
    compare models on the same photos. Writes report.html, summary.png and summary.json.

    Args:
        models: timm names, tied or not, torchvision/<name>, saved folders or hf-hub:<repository>, separated by commas.
        images: a photo, or a folder of photos.
        checkpoints: files of weights, one per model, separated by commas; an empty one stands for none.
        pretrained: load the libraries' weights of the models without a checkpoint, from the cache or the network.
        limit: how many photos, evenly spaced in the order of their paths.
        output: folder to write to.
    """
    check_output(output, limit, ("summary.png", "summary.json"))
    given = load(models, checkpoints, pretrained)
    found: list[ModelSummary] = []
    count = 0
    with Progress() as progress:
        for number, entry in enumerate(given, start=1):
            files = entry.photos(images)
            chosen = evenly_spaced(len(files), limit)
            count = len(chosen)
            batches = files.batches(chosen, _BATCH)
            what = f"{entry.label}, model {number} of {len(given)}"
            layers = summarize(entry.model, progress.each(what, batches, ceil(count / _BATCH)))
            found.append(ModelSummary(entry.label, entry.weights, entry.random, layers))
    console = table_console()
    for model in found:
        console.print(_table(model, count))
    call = command(
        "summary",
        models=models,
        images=images,
        checkpoints=checkpoints,
        pretrained=pretrained,
        limit=limit,
        output=output,
    )
    settings = {"tiedconv": __version__, "images": count}
    blocks = facts(given, Photos=f"{count} of {images}")
    write_summary(found, output, settings=settings, command=call, blocks=blocks)
    console.print(f"Report:  {output / 'report.html'}", markup=False)


def _table(model: ModelSummary, count: int) -> Table:
    note = f"{NOTE} The report has more columns. {random_note([model])}"
    table = Table(title=escape(f"{model.label}, {count} photos"), caption=escape(note), box=SIMPLE)
    for place, header in enumerate(HEAD):
        table.add_column(header, justify="left" if place < 2 else "right")
    for layer in model.layers:
        table.add_row(*map(escape, summary_cells(layer)))
    return table
