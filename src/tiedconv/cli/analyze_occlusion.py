"""``tiedconv analyze occlusion``."""

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from .. import __version__
from .._extras import require
from .._files import check_writable
from ..analysis.occlusion import METRICS, Estimate, OcclusionReport, Regions, analyze_occlusion
from ..metrics.coco import Kind, read_annotations, read_results
from ..report.occlusion_report import write_occlusion
from ._console import Progress, command_line, new_table, table_console


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
    """Compare detectors on images of growing occlusion, as in the paper's Fig. 7.

    The occlusion ratio of an image is the share of its objects' area that is shared with other objects. For every bin
    of the ratio: AP and AP75 with 95% bootstrap intervals over images, and the differences to the first model, with
    paired intervals. With 200 resamples, 5000 images of COCO take about two minutes per file. Writes report.html,
    occlusion.png and occlusion.json.

    Args:
        annotations: ground truth in COCO's format.
        predictions: files with detections in COCO's format, each as label=file, separated by commas. Several files
            with one label are runs of one model, which are averaged; a file without a label takes its folder's name.
            The other labels are compared with the first.
        kind: compare detections by boxes or by masks.
        regions: the area of an object: boxes; masks, in COCO only its visible part; or amodal, its whole mask, from
            amodal_segmentation.
        edges: where the bins of the ratio begin and end, from 0 to 1, separated by commas.
        resamples: number of bootstrap samples per bin. 0: no intervals.
        seed: of the bootstrap.
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
    caption = "AP in %"
    if report.resamples:
        caption += f" and its 95% interval over {report.resamples} draws of the images"
    several = len(report.models) > 1
    if several:
        caption += f"; Δ: minus {escape(report.models[0].label)}, on the same images"
    numbers = [*METRICS, *(f"Δ {metric}" for metric in METRICS if several)]
    title = f"{report.kind} AP by occlusion of {_OF[report.regions]}"
    table = new_table(("r", "images", "objects", "model"), numbers, title=title, caption=caption)
    for place, bin_ in enumerate(report.bins):
        table.add_section()
        head = [f"{bin_.low:g} – {bin_.high:g}", f"{bin_.images}", f"{bin_.instances}"]
        for model in report.models:
            cells = [_cell(model.scores[metric][place], ".1f") for metric in METRICS]
            cells += [_cell(estimates[place], "+.1f") for estimates in model.differences.values()]
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
