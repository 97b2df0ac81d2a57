"""``tiedconv analyze occlusion``."""

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from .. import __version__
from .._extras import require
from .._files import check_writable
from ..analysis.occlusion import METRICS, Estimate, OcclusionReport, Regions, analyze_occlusion
from ..metrics.coco import Kind, read_annotations, read_results
from ..report.occlusion_report import write_occlusion
from ._console import Progress, command_line, table_console


def occlusion(
    annotations: Path,
    predictions: list[str],
    kind: Kind = "mask",
    regions: Regions = "boxes",
    edges: Sequence[float] = (0, 0.2, 0.4, 0.6, 0.8, 1),
    resamples: int = 200,
    seed: int = 0,
    output: Path = Path("runs/analyze-occlusion"),
) -> None:
    """Compare detectors on images of growing occlusion, as the paper's Fig. 7 does.

    The occlusion ratio of an image is the share of its objects' area that is shared with other objects. For every bin
    of it: AP and AP75 with 95% intervals by the bootstrap over images, and how far each model is from the first, with
    paired intervals. With 200 resamples, 5000 images of COCO take about two minutes a file. Writes report.html,
    occlusion.png and occlusion.json.

    Args:
        annotations: ground truth in COCO's format.
        predictions: files with detections in COCO's format, each as label=file, separated by commas. Several files of
            one label are runs of one model, whose mean counts; a file without a label takes its folder's name. The
            first label is the one that the others are set against.
        kind: compare detections by boxes or by masks.
        regions: what of an object is its area: its box; its mask, which in COCO is only what is seen of it; or its
            whole mask, from amodal_segmentation.
        edges: where the bins of the ratio begin and end, from 0 to 1, separated by commas.
        resamples: how often the images of a bin are drawn anew. 0: no intervals.
        seed: of the drawing.
        output: folder to write to.
    """
    files = _files(predictions)
    for name in ("report.html", "occlusion.png", "occlusion.json"):
        check_writable("output", output / name)
    require("matplotlib", extra="analysis")  # not after the evaluation
    truth = read_annotations(annotations, kind)
    paths = [file for group in files.values() for file in group]
    for file in paths:
        read_results(file, truth, kind)  # a mistake in the last one must not come to light after an hour
    with Progress() as progress:
        todo = progress.each("evaluating files of detections", paths, len(paths))
        report = analyze_occlusion(
            truth,
            # read one after the other, so that only one is held in memory
            {
                label: (read_results(file, truth, kind) for file in islice(todo, len(group)))
                for label, group in files.items()
            },
            kind=kind,
            regions=regions,
            edges=edges,
            resamples=resamples,
            seed=seed,
        )
    console = table_console()
    console.print(_table(report))
    blocks = {
        "Data": {"annotations": str(annotations), "images": f"{len(truth['images'])}"},
        "Detections": {label: ", ".join(map(str, group)) for label, group in files.items()},
        "Conditions": {"resamples": f"{resamples}", "seed": f"{seed}", "tiedconv": __version__},
    }
    write_occlusion(report, output, command=command_line(), blocks=blocks)
    console.print(f"Numbers: {output / 'occlusion.json'}\nReport:  {output / 'report.html'}", markup=False)


def _files(predictions: Sequence[str]) -> dict[str, list[Path]]:
    """Return the files of each label, in the order given."""
    files: dict[str, list[Path]] = {}
    for given in predictions:
        label, equals, name = given.strip().partition("=")
        if not equals or os.sep in label:  # a folder may be called lr=0.1
            name = given.strip()
            label = Path(name).resolve().parent.name
            if any(file.resolve().parent != Path(name).resolve().parent for file in files.get(label, ())):
                raise ValueError(
                    f"the files of two folders would both be called {label!r}, {files[label][0]} and {name}. "
                    "Give each a label: label=file."
                )
        if not name or not label:
            raise ValueError(f"predictions must be label=file, separated by commas, got {given!r}.")
        files.setdefault(label, []).append(Path(name))
    return files


_OF: dict[Regions, str] = {"boxes": "boxes", "masks": "visible masks", "amodal": "whole objects"}


def _table(report: OcclusionReport) -> Table:
    first = report.models[0].label
    caption = "AP in per cent"
    if report.resamples:
        caption += f" and its 95% interval over {report.resamples} draws of the images"
    table = Table(
        title=f"{report.kind} AP by occlusion of {_OF[report.regions]}",
        caption=caption + (f"; Δ: minus {escape(first)}, on the same images" if len(report.models) > 1 else ""),
        box=SIMPLE,
    )
    for header in ("r", "images", "objects"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("model")
    for metric in METRICS:
        table.add_column(metric, justify="right", no_wrap=True)
        if len(report.models) > 1:
            table.add_column(f"Δ {metric}", justify="right", no_wrap=True)
    for place, bin_ in enumerate(report.bins):
        if place:
            table.add_section()
        head = [f"{bin_.low:g} – {bin_.high:g}", f"{bin_.images}", f"{bin_.instances}"]
        for model in report.models:
            cells = []
            for metric in METRICS:
                cells.append(_cell(model.scores[metric][place], ".1f"))
                if len(report.models) > 1:
                    cells.append(_cell(model.differences[metric][place], "+.1f") if model.differences else "")
            runs = f", {model.runs} runs" if model.runs > 1 else ""
            table.add_row(*head, f"{escape(model.label)}{runs}", *cells)
            head = [""] * 3
    return table


def _cell(estimate: Estimate | None, form: str) -> str:
    if estimate is None:
        return "-"
    text = f"{100 * estimate.value:{form}}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text}\n[dim]{100 * estimate.low:{form}} to {100 * estimate.high:{form}}[/dim]"
