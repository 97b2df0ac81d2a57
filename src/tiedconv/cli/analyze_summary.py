"""``tiedconv analyze summary``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape as escape_html
from json import dumps
from pathlib import Path

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from .. import __version__
from .._extras import require
from .._files import write_whole
from ..analysis.similarity import evenly_spaced
from ..analysis.summary import LayerSummary, summarize
from ..data.base import ImageFiles
from ..report import page, style
from ..report.summary_plots import plot_parameters, plot_ranks
from ._console import table_console
from ._given import Given, check_output, command, facts, load, random_note

_BATCH = 8


def summary(
    models: str | list[str],
    images: Path,
    checkpoints: str | list[str] = "",
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
        checkpoints: files of weights, one a model, separated by commas; an empty one stands for none.
        pretrained: load the libraries' weights of the models without a checkpoint, from the cache or the network.
        limit: how many photos, evenly spaced in the order of their paths.
        output: folder to write to.
    """
    check_output(output, limit, ("summary.png", "summary.json"))
    given = load(models, checkpoints, pretrained)
    summaries: dict[str, list[LayerSummary]] = {}
    errors = Console(stderr=True)
    count = 0
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        for entry in given:
            files = entry.photos(images)
            chosen = evenly_spaced(len(files), limit)
            count = len(chosen)
            batches = progress.track(list(_chunks(chosen)), description=escape(entry.label))
            summaries[entry.label] = summarize(entry.model, (_batch(files, indices) for indices in batches))
    console = table_console()
    for entry in given:
        console.print(_table(entry, summaries[entry.label], count))
    content = {
        "tiedconv": __version__,
        "images": count,
        "models": [
            {"label": e.label, "weights": e.weights, "layers": [asdict(layer) for layer in summaries[e.label]]}
            for e in given
        ],
    }
    write_whole(output / "summary.json", dumps(content, indent=2) + "\n")
    _draw(summaries, output / "summary.png")
    call = command(
        "summary",
        models=models,
        images=images,
        checkpoints=checkpoints,
        pretrained=pretrained,
        limit=limit,
        output=output,
    )
    done_with = page.conditions(call, facts(given, Photos=f"{count} of {images}"))
    _write(output / "report.html", given, summaries, done_with)
    console.print(f"Report:  {output / 'report.html'}", markup=False)


def _chunks(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(indices), _BATCH):
        yield indices[start : start + _BATCH]


def _batch(files: ImageFiles, indices: Sequence[int]) -> Tensor:
    return torch.stack([files[i][0] for i in indices])


_LEAD = (
    "The effective rank of a layer says how far its channels are from repeating each other: it is their number if they "
    "are uncorrelated, and 1 if they all say the same."
)
_NOTE = (
    "Rank: effective rank of the channels, the participation ratio of the eigenvalues of their correlation; of C: its "
    "share of the channels. In brackets where there were no more positions than channels, so that the photos bound it."
)
_DEPTH = (
    "A point a layer; the lines go through the medians of every tenth of the depth. Layers with no more positions than "
    "channels are left out of the ranks."
)
_MORE = (
    "Dead: share of the channels that are the same number everywhere. Output: mean, and below the standard deviation, "
    "of what the layer returns, before any norm. Weights: their norm, and below the standard deviation."
)
_HEAD = ("layer", "kind", "blocks", "output", "parameters", "MACs", "dead", "rank", "of C")


def _cells(layer: LayerSummary) -> list[str]:
    """Return what stands in both tables, as plain text, in the order of the headings."""
    rank, share = f"{layer.rank:.1f}", f"{layer.rank_share:.0%}"
    return [
        layer.name,
        layer.kind,
        _listed(layer.blocks),
        "×".join(map(str, layer.shape)),
        style.si(layer.params),
        style.si(layer.macs),
        "–" if not layer.dead else "<1%" if layer.dead < 0.005 else f"{layer.dead:.0%}",
        *((rank, share) if layer.measurable else (f"({rank})", f"({share})")),
    ]


def _html_row(layer: LayerSummary) -> list[str]:
    output = f"{layer.mean:.2g}<small>{layer.std:.2g}</small>"
    weights = f"{layer.weight_norm:.3g}<small>{layer.weight_std:.2g}</small>"
    return [*map(escape_html, _cells(layer)), output, weights, _listed(layer.groups)]


def _listed(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def _table(entry: Given, layers: Sequence[LayerSummary], count: int) -> Table:
    note = f"{_NOTE} The report has more columns. {random_note([entry])}"
    table = Table(title=escape(f"{entry.label}, {count} photos"), caption=escape(note), box=SIMPLE)
    for place, header in enumerate(_HEAD):
        table.add_column(header, justify="left" if place < 2 else "right")
    for layer in layers:
        table.add_row(*map(escape, _cells(layer)))
    return table


def _draw(summaries: Mapping[str, Sequence[LayerSummary]], path: Path) -> None:
    figure = require("matplotlib.figure", extra="analysis").Figure(figsize=(12, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot_ranks(summaries, left)
    plot_parameters(summaries, right)
    with page.quiet_about_glyphs():
        figure.savefig(path, dpi=150)


def _write(path: Path, given: Sequence[Given], summaries: Mapping[str, Sequence[LayerSummary]], done_with: str) -> None:
    writer = page.FigureWriter()
    lines = []
    for label, layers in summaries.items():
        shares = sorted(layer.rank_share for layer in layers if layer.measurable)
        median = (
            f"in the median layer the features use {shares[len(shares) // 2]:.0%} of the channels; " if shares else ""
        )
        params, macs = (sum(getattr(layer, name) for layer in layers) for name in ("params", "macs"))
        cost = f"{style.si(params)} parameters and {style.si(macs)} MACs an image in {len(layers)} layers"
        lines.append((label, f"{median}{cost}."))
    with page.quiet_about_glyphs():
        figures = [
            writer.write(
                plot_ranks(summaries), title="How much of the channels is used", alt="Effective rank by depth."
            ),
            writer.write(plot_parameters(summaries), title="Where the parameters are", alt="Parameters by depth."),
        ]
    head = [(title, "") for title in _HEAD] + [("output", "mean, std"), ("weights", "norm, std"), ("groups", "")]
    sections = [page.section("By depth", page.grid(figures), _DEPTH)]
    for index, (label, layers) in enumerate(summaries.items()):
        content = page.table(label, head, map(_html_row, layers))
        sections.append(page.section(label, content, "" if index else f"{_NOTE} {_MORE}"))
    sections.append(page.section("How to repeat it", done_with))
    page.write_page(path, "What the layers do", f"{_LEAD} {random_note(given)}", lines, sections)
