"""``tiedconv bench operators`` and ``tiedconv bench models``."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from .._files import check_writable
from ..bench import ModelOptions, ModelRow, OperatorRow, Quartiles, describe_machine, measure, time_case
from ..bench.engines import IN_TORCH, Engine
from ..bench.machine import check_device, keep_freed_memory
from ..bench.models import UNITS, Precision, Quantity
from ..bench.operators import MemoryFormat, cases
from ..bench.results import Results
from ._console import Progress, new_table, table_console


def operators(
    blocks: Sequence[int] = (2, 4, 8),
    batch: int = 8,
    memory_formats: Sequence[MemoryFormat] = ("contiguous", "channels_last"),
    train: bool = False,
    dtype: Precision = "float32",
    device: str = "cpu",
    threads: int | None = None,
    rounds: int = 20,
    json: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Time tied convolutions of ResNet-50's shapes beside the dense one and every other way to compute them.

    All candidates of a row take turns in one process, which keeps the memory it frees. Each cell has the median of the
    calls in ms with half the interquartile range, then how many times as fast as the dense convolution that is (paired
    by round), and the GFLOP/s reached. The last column says which path the dispatcher chooses, and its speed as a part
    of the fastest path's.

    Args:
        blocks: numbers of blocks, separated by commas.
        batch: images in a batch.
        memory_formats: contiguous and channels_last, separated by commas, of input and weights.
        train: time a forward and a backward pass (gradients of input and weight) instead of a forward pass.
        dtype: of input and weights.
        device: cpu, cuda or cuda:<number>.
        threads: threads of torch. Default: torch's own choice.
        rounds: measured calls of every candidate, after two that are not.
        json: file to write every single time to, after each row.
        plot: file to draw the results to; the suffix says the format.
    """
    place = _check(device, threads, rounds, json, plot)
    todo = cases(blocks, batch, memory_formats)
    options = {"batch": batch, "train": train, "dtype": dtype, "rounds": rounds}
    results = Results("operators", describe_machine(place), options, json)
    with Progress() as progress:
        for case in progress.each("timing convolutions", todo, len(todo)):
            results.add([time_case(case, train=train, dtype=getattr(torch, dtype), device=place, rounds=rounds)])
    console = table_console()
    for name in memory_formats:
        rows = [row for row in results.rows if row.case.memory_format == name]
        what = "forward and backward" if train else "forward"
        console.print(_operator_table(rows, f"{name}, {what}, {dtype}, batch {batch}"))
    _finish(console, results, plot)


def models(
    models: Sequence[str] = (
        "resnet50",
        "tiedresnet50_4s16w",
        "tiedresnet50_lite",
        "tiedresnet50_s",
        "tiedresnet50",
    ),
    engines: Sequence[Engine] = ("eager",),
    memory_formats: Sequence[MemoryFormat] = ("channels_last",),
    dtype: Precision = "float32",
    quantities: Sequence[Quantity] = ("latency", "throughput", "train", "memory"),
    batch: int = 8,
    image_size: int = 224,
    device: str = "cpu",
    threads: int | None = None,
    rounds: int = 11,
    json: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Measure speed and memory of whole models beside the first of them.

    All models, engines and formats of a table take turns in one process, on random images and with random weights; the
    process keeps the memory it frees, as with jemalloc, so that no call waits for pages from the system. Each row has
    the median with half the interquartile range, and how many times as fast as the first model that is (for memory: how
    many times its MiB), in the same engine and format and against its best ones; ratios are paired by round. Before an
    engine is timed, its outputs are compared with the eager model's.

    Args:
        models: names of timm models, tied or not, or torchvision/<name>, separated by commas. The first is the
            reference.
        engines: eager, compiled (torch.compile, a minute or more for each model, format and quantity), onnxruntime and
            openvino (files for images of one shape; no training), separated by commas. All but eager infer with the
            network that tiedconv.export.deploy returns.
        memory_formats: contiguous and channels_last, separated by commas, for the engines of torch; others choose.
        dtype: of models and images. Only torch has bfloat16.
        quantities: latency (ms for one image), throughput (images/s of a batch), train (images/s of a step: forward,
            cross-entropy, backward, SGD with momentum) and memory (peak MiB of such a step in a process of its own),
            separated by commas.
        batch: images in a batch, except for latency.
        image_size: height and width of the images.
        device: cpu, cuda or cuda:<number>.
        threads: threads of torch. Default: torch's own choice.
        rounds: measured calls of every model, after two that are not.
        json: file to write every single time to, after each table.
        plot: file to draw the results to; the suffix says the format.
    """
    place = _check(device, threads, rounds, json, plot)
    chosen = ModelOptions(
        models=models,
        engines=engines,
        memory_formats=memory_formats,
        dtype=dtype,
        quantities=quantities,
        batch=batch,
        image_size=image_size,
        rounds=rounds,
        device=device,
    )
    console = table_console()
    packages = [engine for engine in engines if engine not in IN_TORCH]
    results = Results("models", describe_machine(place, packages), asdict(chosen), json)
    with Progress() as progress:
        for quantity in chosen.measurable():
            measured = measure(chosen, quantity, progress)
            results.add(measured)
            console.print(_model_table(measured))
    _finish(console, results, plot)


def _check(device: str, threads: int | None, rounds: int, json: Path | None, plot: Path | None) -> torch.device:
    """Check what both commands share, before anything is measured, and set threads and allocator."""
    if rounds < 2:
        raise ValueError(f"rounds must be at least 2, for a spread, got rounds={rounds}.")
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got threads={threads}.")
        torch.set_num_threads(threads)
    if json:
        check_writable("json", json)
    if plot:
        from ..bench.plots import check_suffix

        check_suffix(plot)
        check_writable("plot", plot)
    keep_freed_memory()
    return check_device(device)


def _finish(console: Console, results: Results, plot: Path | None) -> None:
    """Print where it was measured, draw, and raise if anything failed."""
    console.print(", ".join(f"{key} {value}" for key, value in results.machine.items()), markup=False)
    if results.path:
        console.print(f"Numbers: {results.path}", markup=False)
    if plot:
        from ..bench.plots import draw

        draw(results).savefig(plot, dpi=150)
        console.print(f"Plot:    {plot}", markup=False)
    failures = results.failures()
    if failures:
        raise RuntimeError(f"{len(failures)} not measured:\n" + "\n".join(failures))


def _operator_table(rows: list[OperatorRow], title: str) -> Table:
    caption = "ms per call ± half the interquartile range; how many times as fast as dense; GFLOP/s. Bold: the fastest."
    shares = [row.share_of_best for row in rows if row.share_of_best is not None]
    if shares:
        caption += " Path: the one that the dispatcher chooses, and its speed as a part of the fastest path's, "
        caption += f"here at least {min(shares):.2f}."
    names = list(dict.fromkeys(name for row in rows for name in (*row.timings, *row.failed)))
    table = new_table(["case"], names, title=title, caption=caption, collapse_padding=True)
    table.add_column("path")
    for column in table.columns:
        column.no_wrap = False  # there are too many for a narrow terminal
    for row in rows:
        fastest = min(row.timings, key=lambda name: row.timings[name].median, default="")
        cells = [_operator_cell(row, name) for name in names]
        cells = [f"[bold]{cell}[/bold]" if name == fastest else cell for name, cell in zip(names, cells, strict=True)]
        share = "" if row.share_of_best is None else f"\n{row.share_of_best:.2f}"
        table.add_row(f"{row.case.shape}\nB = {row.case.blocks}", *cells, row.chosen + share)
    return table


def _operator_cell(row: OperatorRow, name: str) -> str:
    if name in row.failed:
        return "[red]failed[/red]"
    if name not in row.timings:
        return "-"
    timing, ratio = row.timings[name], row.speedup(name)
    speedup = "" if ratio is None else f"{ratio.median:.2f}x\n"
    return f"{1e3 * timing.median:.2f} ±{1e3 * timing.spread:.2f}\n{speedup}{row.gflops(name):.0f} G"


def _model_table(rows: list[ModelRow]) -> Table:
    first = rows[0]
    unit = UNITS[first.quantity]
    title = f"{first.quantity}, {unit}, {first.dtype}, batch {first.batch}"
    table = new_table(("model", "engine", "format"), (unit, f"x {first.model}", "x its best"), title=title)
    for row in rows:
        value = row.value
        table.add_row(
            row.model,
            row.engine,
            row.memory_format or "",
            "[red]failed[/red]" if value is None else f"{value.median:.2f} ±{value.spread:.2f}",
            _times(row.ratio),
            _times(row.ratio_to_best),
        )
    return table


def _times(ratio: Quartiles | None) -> str:
    return "-" if ratio is None else f"{ratio.median:.2f} ±{ratio.spread:.2f}"
