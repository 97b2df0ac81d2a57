"""``tiedconv analyze summary``."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

from rich.markup import escape

from ..analysis import LayerSummary, evenly_spaced, summarize
from ..report.summary_report import HEAD, NOTE, summary_cells, write_summary
from ._console import Progress, new_table, table_console
from ._inputs import check_output, load, origin

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
    found: dict[str, list[LayerSummary]] = {}
    count = 0
    with Progress() as progress:
        for number, entry in enumerate(given, start=1):
            files = entry.photos(images)
            chosen = evenly_spaced(len(files), limit)
            count = len(chosen)
            batches = files.batches(chosen, _BATCH)
            what = f"{entry.label}, model {number} of {len(given)}"
            found[entry.label] = summarize(entry.model, progress.each(what, batches, ceil(count / _BATCH)))
    made = origin(given, images=count, folder=images)
    console = table_console()
    note = f"{NOTE} The report has more columns."
    for label, layers in found.items():
        table = new_table(HEAD[:2], HEAD[2:], title=escape(f"{label}, {count} photos"), caption=escape(note))
        for layer in layers:
            table.add_row(*map(escape, summary_cells(layer)))
        console.print(table)
    if made.random_note():
        console.print(made.random_note(), markup=False)
    write_summary(found, output, made)
    console.print(f"Report:  {output / 'report.html'}", markup=False)
