"""Does tying pay when parameters are what is scarce? Networks of about 57,000 parameters on CIFAR-10 (JPEG).

    python benchmarks/budget.py --list
    python benchmarks/budget.py --root data/cifar10 --output runs/budget --sweep --train
    python benchmarks/budget.py --output runs/budget --latency --report
    python benchmarks/budget.py --root data/imagenette --pixels 64 --output runs/budget-imagenette --lr 0.2 --train \
        --arms untied --share 0.1 --epochs 200

`--root` holds the folders `train` and `val`, and these one folder of images per class. Each arm is a residual network
of three stages with two bottlenecks each, behind a stem of stride 2, with shortcuts that have no parameters. Arms
differ in how their convolutions share weights, in their widths, and in the size of the images; the script checks first
that all keep to their budget. `--sweep` tries four learning rates for one untied and one tied network, on a tenth of
the training images held out; `--train` then trains each arm with the best one of its kind, seed by seed. "Tying pays"
if a tied arm beats every untied arm of equal parameters, with the 95 % interval of the paired differences over the
seeds above zero. `--share` trains on a part of the images of each class, `--pixels` says to which side they are scaled.
Stop it at any time: the same command goes on after the last whole epoch.
"""

import argparse
import io
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from budget_images import Images, check_images
from budget_networks import ARMS, PIXELS, Arm, build, check_budgets, costs, deployed
from scipy import stats
from torch import Tensor, nn

from tiedconv._files import write_whole
from tiedconv.bench.timer import interleaved
from tiedconv.export import open_onnx, to_onnx
from tiedconv.report import style
from tiedconv.report.plots import plot_tradeoff

LEARNING_RATES = (0.1, 0.2, 0.4, 0.8)
BATCH_SIZE = 128

Accuracies = dict[str, dict[int, float]]
"""Top-1 in per cent by arm and seed."""

Latencies = dict[str, dict[str, float]]
"""Times and sizes of files by arm."""


@dataclass(frozen=True)
class Run:
    """One training: an arm, a seed, and how long and at which peak learning rate."""

    arm: Arm
    seed: int
    lr: float
    epochs: int
    is_sweep: bool = False
    share: float = 1.0

    @property
    def name(self) -> str:
        """Name of its files, without the ending."""
        share = f"-share{self.share:g}" if self.share < 1 else ""
        kind = "sweep-" if self.is_sweep else ""
        return f"{kind}{self.arm.name}-seed{self.seed}-lr{self.lr:g}-epochs{self.epochs}{share}"


def train(run: Run, training: Images, test: Images, output: Path) -> None:
    """Train, test and write a result, unless it is there; go on from the last whole epoch."""
    result, checkpoint = output / f"{run.name}.json", output / f"{run.name}.pt"
    if result.exists():
        return
    torch.manual_seed(run.seed)
    model = build(run.arm)
    optimizer = torch.optim.SGD(model.parameters(), lr=run.lr, momentum=0.9, nesterov=True, weight_decay=1e-4)
    steps = run.epochs * math.ceil(len(training) / BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, run.lr, total_steps=steps, cycle_momentum=False)
    losses: list[float] = []
    seconds = 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        losses, seconds = state["losses"], state["seconds"]
    for epoch in range(len(losses), run.epochs):
        start = time.perf_counter()
        # The same order and crops for every arm, and after an interruption too.
        generator = torch.Generator().manual_seed(1000 * run.seed + epoch)
        losses.append(train_epoch(run.arm, model, optimizer, schedule, training, generator))
        seconds += time.perf_counter() - start
        file = io.BytesIO()
        torch.save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "losses": losses,
                "seconds": seconds,
            },
            file,
        )
        write_whole(checkpoint, file.getvalue())
        print(f"{run.name}: epoch {epoch + 1}, loss {losses[-1]:.4f}, {seconds:.0f} s in all", flush=True)
    top1 = accuracy(run.arm, model, test)
    content = {
        "arm": run.arm.name,
        "seed": run.seed,
        "lr": run.lr,
        "epochs": run.epochs,
        "is_sweep": run.is_sweep,
        "share": run.share,
        **costs(run.arm, training.pixels.shape[1]),
        "top1": top1,
        "losses": losses,
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    write_whole(result, json.dumps(content, indent=1) + "\n")
    checkpoint.unlink()
    print(f"{run.name}: top-1 {top1:.2%}", flush=True)


def train_epoch(
    arm: Arm,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    training: Images,
    generator: torch.Generator,
) -> float:
    """Return the mean loss."""
    model.train()
    total = 0.0
    for images, labels in training.batches(BATCH_SIZE, generator):
        loss = F.cross_entropy(model(enlarged(arm, images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item() * len(labels)
    return total / len(training)


@torch.inference_mode()
def accuracy(arm: Arm, model: nn.Module, test: Images) -> float:
    model.eval()
    right = sum((model(enlarged(arm, x)).argmax(1) == y).sum().item() for x, y in test.batches(500))
    return right / len(test)


def enlarged(arm: Arm, images: Tensor) -> Tensor:
    side = arm.side(images.shape[-1])
    if side == images.shape[-1]:
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)


def sweep(training: Images, epochs: int, output: Path) -> None:
    """Try learning rates on a tenth of the training images that is held out, the same for all."""
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))
    held_out, rest = order.tensor_split([len(order) // 10])
    for lr in LEARNING_RATES:
        for name in ("untied", "tied2-shuffle"):
            train(Run(ARMS[name], 0, lr, epochs, is_sweep=True), training[rest], training[held_out], output)


def best_learning_rates(output: Path, epochs: int) -> dict[bool, float]:
    """Return the best rate of the sweep for untied (False) and tied arms (True)."""
    sweeps = [r for r in read_results(output, is_sweep=True) if r["epochs"] == epochs]
    rates = {}
    for is_tied in (False, True):
        results = [r for r in sweeps if ARMS[r["arm"]].is_tied == is_tied]
        if {result["lr"] for result in results} != set(LEARNING_RATES):
            raise SystemExit(f"{output} holds no whole sweep of {epochs} epochs. Add --sweep, or give --lr.")
        rates[is_tied] = max(results, key=lambda result: result["top1"])["lr"]
    return rates


def read_results(output: Path, *, is_sweep: bool) -> list[dict[str, Any]]:
    results = [json.loads(path.read_text()) for path in sorted(output.glob("*-epochs*.json"))]
    return [result for result in results if result["is_sweep"] == is_sweep]


def measure_latency(arms: Sequence[Arm], output: Path, rounds: int, pixels: int) -> None:
    """Time one image in ONNX Runtime, networks in turn, and write the times and the sizes of the files.

    The exporter computes what does not depend on the image, so that files of arms with `scale` or `private` hold the
    filters of all blocks even if they are not deployed.
    """
    measured: Latencies = {}
    functions = {}
    with TemporaryDirectory() as folder:
        for arm in arms:
            model = with_random_norms(build(arm)).eval()
            image = torch.randn(1, 3, arm.side(pixels), arm.side(pixels))
            shape: dict[str, Any] = {"input_size": image.shape[1:], "dynamic_size": False, "batch_size": 1}
            tied = to_onnx(model, f"{folder}/{arm.name}.onnx", **shape)
            file = to_onnx(deployed(model), f"{folder}/{arm.name}-deployed.onnx", **shape)
            functions[arm.name] = partial(open_onnx(file.path), image)
            measured[arm.name] = {"file_bytes": tied.bytes, "deployed_bytes": file.bytes}
    for name, timing in interleaved(functions, rounds=rounds, warmup=10).items():
        measured[name] |= {"ms": 1e3 * timing.median, "spread_ms": 1e3 * timing.spread}
    write_whole(output / "latency.json", json.dumps(measured, indent=1) + "\n")


def with_random_norms(model: nn.Module) -> nn.Module:
    """Make norms look trained: files store vectors that are all zeros or all ones only once."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                if values is not None:
                    values.detach().uniform_(0.5, 1.5)
    return model


def accuracies(output: Path, epochs: int, share: float, seeds: Sequence[int], pixels: int) -> Accuracies:
    """Read the results of trainings alike."""
    top1: Accuracies = {}
    rates: dict[str, float] = {}
    for result in read_results(output, is_sweep=False):
        if result["epochs"] == epochs and result.get("share", 1.0) == share and result["seed"] in seeds:
            if rates.setdefault(result["arm"], result["lr"]) != result["lr"]:
                raise SystemExit(f"{output} holds {result['arm']} at several learning rates. Move away all but one.")
            if result["macs"] != costs(ARMS[result["arm"]], pixels)["macs"]:
                raise SystemExit(f"{output} holds {result['arm']} of images of another size. Give its --pixels.")
            top1.setdefault(result["arm"], {})[result["seed"]] = 100 * result["top1"]
    return top1


def read_latency(output: Path) -> Latencies:
    """Return what ``--latency`` wrote, by arm."""
    file = output / "latency.json"
    measured: Latencies = json.loads(file.read_text()) if file.exists() else {}
    return measured


def draw(path: Path, arms: Sequence[Arm], top1: Accuracies, latency: Latencies, pixels: int) -> None:
    """Draw accuracy against parameters, multiply-adds and, where measured, the deployed network's time."""
    panels = {
        "parameters": lambda arm: costs(arm, pixels)["params"],
        "multiply-adds per image": lambda arm: costs(arm, pixels)["macs"],
        "ms per image in ONNX Runtime, one thread": lambda arm: latency.get(arm.name, {}).get("ms"),
    }
    figure = style.new_figure(13, 4.4)
    for ax, (xlabel, cost) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        points = {
            arm.name: (x, [value / 100 for value in top1[arm.name].values()])
            for arm in arms
            if arm.name in top1 and (x := cost(arm)) is not None
        }
        plot_tradeoff(points, ax, xlabel=xlabel, ylabel="top-1")
        if ax is not figure.axes[0] and (repeated := ax.get_legend()):
            repeated.remove()
    figure.savefig(path)


def report(arms: Sequence[Arm], top1: Accuracies, latency: Latencies, pixels: int) -> str:
    """Return Markdown: what each arm costs and reaches, and the paired differences of tied to untied arms."""
    lines = [
        "| arm | params | MACs, M | top-1, % | seeds | ONNX Runtime, ms | file, kB | deployed file, kB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for arm in arms:
        values = list(top1.get(arm.name, {}).values())
        cost, measured = costs(arm, pixels), latency.get(arm.name)
        cells = [arm.name, f"{cost['params']:,}", f"{cost['macs'] / 1e6:.2f}"]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        cells += [f"{statistics.fmean(values):.2f}{spread}" if values else "", str(len(values))]
        cells += (
            [
                f"{measured['ms']:.3f} ± {measured['spread_ms']:.3f}",
                f"{measured['file_bytes'] / 1e3:.0f}",
                f"{measured['deployed_bytes'] / 1e3:.0f}",
            ]
            if measured
            else [""] * 3
        )
        lines.append(f"| {' | '.join(cells)} |")
    controls = [arm.name for arm in ARMS.values() if arm.is_control]  # all of them, or there is no verdict
    lines += ["", f"| points above | {' | '.join(controls)} | beats them all |", "|---" * (len(controls) + 2) + "|"]
    for arm in arms:
        if arm.is_tied and arm.name in top1:
            intervals = [paired(top1[arm.name], top1.get(name, {})) for name in controls]
            lines.append(f"| {arm.name} | {' | '.join(map(in_words, intervals))} | {verdict(intervals)} |")
    return "\n".join(lines)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> tuple[float, float, float]:
    """Return the mean difference over common seeds and its 95 % interval, nan where there are too few."""
    differences = [ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()]
    if not differences:
        return math.nan, math.nan, math.nan
    if len(differences) == 1:
        return differences[0], math.nan, math.nan
    low, high = stats.ttest_1samp(differences, 0).confidence_interval()
    return statistics.fmean(differences), low, high


def in_words(interval: tuple[float, float, float]) -> str:
    """Write what :func:`paired` returns, without what is unknown."""
    mean, low, high = interval
    if math.isnan(mean):
        return ""
    return f"{mean:+.2f}" if math.isnan(low) else f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def verdict(intervals: Sequence[tuple[float, float, float]]) -> str:
    """Return whether tying pays: no if an arm is worse than one untied arm for sure, nothing if seeds are missing."""
    if any(math.isnan(low) for _, low, _ in intervals):
        return ""
    if all(low > 0 for _, low, _ in intervals):
        return "yes"
    return "no" if any(high < 0 for _, _, high in intervals) else "not shown"


def table(pixels: int) -> str:
    lines = [f"{'arm':28}{'widths':16}{'pixels':>7}{'params':>10}{'MACs':>12}"]
    for arm in ARMS.values():
        cost = costs(arm, pixels)
        widths = "/".join(map(str, arm.widths))
        lines.append(f"{arm.name:28}{widths:16}{arm.side(pixels):7}{cost['params']:10,}{cost['macs']:12,}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    for step, what in {
        "list": "print the arms",
        "sweep": "try learning rates",
        "train": "train the arms",
        "latency": "time the deployed networks in turns, in place of earlier times",
        "report": "print the results as Markdown, and draw them",
    }.items():
        parser.add_argument(f"--{step}", action="store_true", help=what)
    parser.add_argument("--root", type=Path, help="folder of images, for --sweep and --train")
    parser.add_argument("--output", type=Path, default=Path("runs/budget"), help="folder of results")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help="in this order")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--sweep-epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, help="peak learning rate. Default: the best of the sweep")
    parser.add_argument("--pixels", type=int, default=PIXELS, help="side to which images are scaled")
    parser.add_argument("--share", type=float, default=1.0, help="of the training images, 0-1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=300, help="of --latency")
    given = parser.parse_args(arguments)
    if not (given.list or given.sweep or given.train or given.latency or given.report):
        parser.error("give at least one of --list, --sweep, --train, --latency and --report")
    if not 0 < given.share <= 1:
        parser.error(f"--share must be in (0, 1], got {given.share:g}")
    if (given.sweep or given.train) and not given.root:
        parser.error("--sweep and --train need --root")
    torch.set_num_threads(given.threads)
    check_budgets()
    arms = [ARMS[name] for name in given.arms]
    if given.list:
        print(table(given.pixels))
    if given.sweep or given.train or given.latency:
        given.output.mkdir(parents=True, exist_ok=True)
    if given.sweep or given.train:
        check_images(given.root)
        training, test = (
            Images.load(given.root / split, given.output / f"{split}.npz", given.pixels) for split in ("train", "val")
        )
        if given.sweep:
            sweep(training, given.sweep_epochs, given.output)
        if given.train:
            rates = (
                dict.fromkeys((False, True), given.lr)
                if given.lr
                else best_learning_rates(given.output, given.sweep_epochs)
            )
            chosen = training.share(given.share) if given.share < 1 else training
            for seed in given.seeds:
                for arm in arms:
                    run = Run(arm, seed, rates[arm.is_tied], given.epochs, share=given.share)
                    train(run, chosen, test, given.output)
    if given.latency:
        measure_latency(arms, given.output, given.rounds, given.pixels)
    if given.report:
        top1 = accuracies(given.output, given.epochs, given.share, given.seeds, given.pixels)
        latency = read_latency(given.output)
        arms = [arm for arm in arms if arm.name in top1 or arm.name in latency]
        if not arms:
            parser.error(f"--report: {given.output} holds no results of these arms, seeds, epochs and share.")
        print(report(arms, top1, latency, given.pixels))
        plot = given.output / "budget.svg"
        draw(plot, arms, top1, latency, given.pixels)
        print(f"\nDrawn: {plot}")


if __name__ == "__main__":
    main()
