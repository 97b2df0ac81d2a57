"""Compress a trained network by tying, by pruning and by low rank, to the same number of parameters each.

    python benchmarks/compress.py --data Digits --output runs/compress-digits --plot compress.png

For each seed a dense network is trained; copies of it are compressed by each method to what tying with each number of
blocks leaves, and all are fine-tuned alike, the dense one too. The table has the top-1 accuracy on the validation
images right after compression, after the statistics of batch norm were estimated anew on the same training images for
every method, and after fine-tuning. Stop it at any time: the same command goes on.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import torch
from compressors import METHODS, compress
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from tiedconv._files import check_writable, write_whole
from tiedconv.bench import describe_machine
from tiedconv.compare.training import Budget, History, ModelSpec, check_same_run, describe_run, train
from tiedconv.convert import recalibrate_norms_
from tiedconv.data import ClassificationData, Digits, FashionMNIST
from tiedconv.metrics.counts import count
from tiedconv.report import style
from tiedconv.tasks import ClassificationTask, Optimization

RECIPES = {
    "Digits": (Digits, Optimization(lr=0.05, schedule="cosine")),
    "FashionMNIST": (FashionMNIST, Optimization(lr=0.1, schedule="cosine", weight_decay=5e-4)),
}
STAGES = {"compressed": "compressed", "normalised": "batch norm anew", "tuned": "fine-tuned"}


@dataclass(frozen=True)
class Result:
    """One network: how it was made, its size, its top-1 accuracies (fractions, 0-1) after each stage."""

    method: str
    blocks: int
    seed: int
    params: int
    macs: int
    compressed: float
    normalised: float
    tuned: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=RECIPES, default="Digits")
    parser.add_argument("--model", default="resnet_tiny", help="name of a timm model (default resnet_tiny)")
    parser.add_argument("--methods", type=_words, default=METHODS, help="separated by semicolons (default: all)")
    parser.add_argument("--seeds", type=_numbers, default=(0, 1, 2))
    parser.add_argument("--blocks", type=_numbers, default=(2, 4, 8), help="of the tied networks (default 2,4,8)")
    parser.add_argument("--epochs", type=int, default=30, help="of the dense network (default 30)")
    parser.add_argument("--finetune", type=int, default=10, help="epochs (default 10)")
    parser.add_argument("--finetune-lr", type=float, default=0.02, help="falls along a cosine (default 0.02)")
    parser.add_argument("--finetune-images", type=int, help="of an epoch of fine-tuning (default: all)")
    parser.add_argument("--images", type=int, default=1024, help="to estimate statistics on (default 1024)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own choice)")
    parser.add_argument("--output", type=Path, default=Path("runs/compress"))
    parser.add_argument("--plot", type=Path, help="where to draw accuracy against parameters, .png or .svg")
    args = parser.parse_args()
    if unknown := [method for method in args.methods if method not in METHODS]:
        parser.error(f"--methods: {'; '.join(unknown)}: choose from {'; '.join(METHODS)}")
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.plot:
        check_writable("plot", args.plot)
    results = run(args)
    Console(width=120, highlight=False).print(table(results))
    print(", ".join(f"{key} {value}" for key, value in describe_machine().items()))
    if args.plot:
        draw(results, args.plot)


def run(args: argparse.Namespace) -> list[Result]:
    """Return a result for each network, those of earlier calls read from ``results.json``."""
    data_class, optimization = RECIPES[args.data]
    tuning = replace(optimization, lr=args.finetune_lr)
    budget = Budget(args.finetune, tuning)
    fixed = ("data", "model", "epochs", "finetune", "finetune_lr", "finetune_images", "images")
    check_same_run(args.output, {"options": {name: getattr(args, name) for name in fixed}})
    file = args.output / "results.json"
    results = [Result(**result) for result in json.loads(file.read_text())] if file.exists() else []
    for seed in args.seeds:
        L.seed_everything(seed, verbose=False)
        data: ClassificationData = data_class()
        data.prepare_data()
        steps = args.finetune_images and max(1, args.finetune_images // data.batch_size)
        validation = gather(data.val_dataloader())
        batches = [images for images, _ in islice(data.train_dataloader(), args.images // data.batch_size)]
        task = fit(None, args.model, data, Budget(args.epochs, optimization), args.output / f"dense-{seed}")
        dense = task.model.eval()
        for method, blocks in [("dense", 1)] + [(m, b) for b in args.blocks for m in args.methods if m != "dense"]:
            if any((r.method, r.blocks, r.seed) == (method, blocks, seed) for r in results):
                continue
            torch.manual_seed(seed)
            start = time.perf_counter()
            small, _ = compress(dense, method, blocks, batches)
            counts = count(small, data.input_size)
            compressed = top1(small, *validation)
            recalibrate_norms_(small, batches)
            normalised = top1(small, *validation)
            folder = args.output / "-".join([*method.replace(",", "").split(), str(blocks), str(seed)])
            fit(small, args.model, data, budget, folder, limit_train_batches=steps)
            tuned = top1(small, *validation)
            seconds = time.perf_counter() - start
            results.append(
                Result(method, blocks, seed, counts.params, counts.macs, compressed, normalised, tuned, seconds)
            )
            write_whole(file, json.dumps([asdict(result) for result in results], indent=1))
            print(results[-1], flush=True)
    return results


def fit(
    network: nn.Module | None, model: str, data: ClassificationData, budget: Budget, folder: Path, **options: Any
) -> ClassificationTask:
    """Train ``network``, or else a new ``model``, in ``folder``; what is finished there is read."""
    options |= {"limit_val_batches": 0, "accelerator": "cpu"}
    check_same_run(folder, {**describe_run(ModelSpec(model), data, budget), "options": options})
    task = ClassificationTask(model, data.num_classes, data.in_chans, optimization=budget.optimization)
    if network is not None:
        task.model = network
    task.channels_last = True
    task.model.to(memory_format=torch.channels_last).train()  # Lightning leaves the mode as it is
    train(task, data, budget, folder, History({"train_loss": "train/loss"}), **options)
    return task


def gather(batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


@torch.inference_mode()
def top1(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of ``images`` that ``model`` puts in the right class."""
    model.eval()
    batches = zip(images.split(250), labels.split(250), strict=True)
    right = sum(int((model(x.contiguous(memory_format=torch.channels_last)).argmax(1) == y).sum()) for x, y in batches)
    return right / len(labels)


def grouped(results: Iterable[Result]) -> dict[tuple[str, int], list[Result]]:
    """Results of the same method and number of blocks, the seeds together, larger networks first."""
    groups: dict[tuple[str, int], list[Result]] = {}
    for result in sorted(results, key=lambda r: (r.blocks, METHODS.index(r.method), r.seed)):
        groups.setdefault((result.method, result.blocks), []).append(result)
    return groups


def table(results: Sequence[Result]) -> Table:
    table = Table(box=SIMPLE, caption="top-1 accuracies in per cent, mean and standard deviation over the seeds")
    table.add_column("method", no_wrap=True)
    for column in ("blocks", "parameters", "MACs", *STAGES.values(), "seeds"):
        table.add_column(column, justify="right", no_wrap=True)
    before = 0
    for (method, blocks), runs in grouped(results).items():
        if blocks != before:
            table.add_section()
            before = blocks
        accuracies = [spread([100 * getattr(run, stage) for run in runs]) for stage in STAGES]
        params, macs = (statistics.fmean(getattr(run, name) for run in runs) for name in ("params", "macs"))
        table.add_row(
            method, str(blocks) if blocks > 1 else "", f"{params:,.0f}", style.si(macs), *accuracies, str(len(runs))
        )
    return table


def spread(values: Sequence[float]) -> str:
    sd = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{sd}"


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw accuracy against parameters, a panel a stage; a line across is the dense network."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    groups = grouped(results)
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for ax, (stage, title) in zip(figure.subplots(1, len(STAGES)), STAGES.items(), strict=True):
        size = style.si(groups["dense", 1][0].params)
        before = statistics.fmean(getattr(run, stage) for run in groups["dense", 1])
        ax.axhline(before, color=style.MUTED, linewidth=1.2, label=f"dense, {size} parameters")
        for index, method in enumerate(METHODS[1:]):
            levels = [runs for (found, _), runs in groups.items() if found == method]
            look = style.series(index)
            accuracies = [[getattr(run, stage) for run in runs] for runs in levels]
            ax.errorbar(
                [statistics.fmean(run.params for run in runs) for runs in levels],
                [statistics.fmean(values) for values in accuracies],
                yerr=[statistics.stdev(values) if len(values) > 1 else 0 for values in accuracies],
                color=look.colour,
                linestyle=look.dash,
                marker=look.marker,
                markersize=5,
                linewidth=1.4,
                elinewidth=1.2,
                label=method,
            )
        style.tidy(ax, xlabel="Parameters", ylabel=f"Top-1, {title}", grid="both")
        ax.set_xscale("log")
        ax.set_xticks([runs[0].params for (method, _), runs in groups.items() if method == METHODS[1]])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(style.si))
        ax.yaxis.set_major_formatter(FuncFormatter(style.percent))
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8, labelcolor=style.INK)
    figure.savefig(path, dpi=150)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(";"))


if __name__ == "__main__":
    main()
