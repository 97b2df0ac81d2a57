"""Where the time of ResNet-50 and its tied versions goes, by kind of layer, after `optimize_for_inference`.

The networks take turns; each line has the milliseconds of a forward pass of the batch (medians over the rounds) and the
GFLOP/s reached in the convolutions of one kind, multiplications by zero counted.

    python benchmarks/layers.py --threads 2
"""

import argparse
import statistics
import time
from collections import defaultdict

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from tiedconv.bench.machine import describe_machine, keep_freed_memory
from tiedconv.bench.named import build_model
from tiedconv.export import optimize_for_inference
from tiedconv.export._fused import FusedConv2d

MODELS = ("torchvision/resnet50", "tiedresnet50_s", "tiedresnet50")
KINDS = ("stem", "entry 1x1", "3x3", "mixer 3x3", "exit 1x1", "shortcut 1x1")


def kind_of(name: str) -> str:
    """Name of a layer in one of the networks → one of ``KINDS``."""
    if "downsample" in name:
        return "shortcut 1x1"
    last = name.rpartition(".")[2]
    if last == name:
        return "stem"
    return {"conv1": "entry 1x1", "conv2": "3x3", "mix_conv": "mixer 3x3", "conv3": "exit 1x1"}[last]


class LayerClock:
    """Milliseconds and operations of a network's fused layers, by kind, from hooks on them."""

    def __init__(self, network: nn.Module) -> None:
        self.ms: dict[str, float] = defaultdict(float)
        self.operations: dict[str, float] = defaultdict(float)
        for name, layer in network.named_modules():
            if isinstance(layer, FusedConv2d):
                self.watch(layer, kind_of(name))

    def watch(self, layer: FusedConv2d, kind: str) -> None:
        def start(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self.started = time.perf_counter()

        def stop(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
            self.ms[kind] += 1e3 * (time.perf_counter() - self.started)
            filters = sum(part.weight.numel() for part in layer._parts or [])
            self.operations[kind] += 2 * filters * y.numel() / y.shape[1]

        layer.register_forward_pre_hook(start)
        layer.register_forward_hook(stop)

    def read(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return milliseconds and operations since the last reading."""
        result = dict(self.ms), dict(self.operations)
        self.ms.clear()
        self.operations.clear()
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="forward passes of each network (default 15)")
    parser.add_argument("--batch", type=int, default=8, help="images in a batch (default 8)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own choice)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()
    images = torch.randn(args.batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    networks = {name: optimize_for_inference(build_model(name)) for name in MODELS}
    clocks = {name: LayerClock(fast.network) for name, fast in networks.items()}
    rounds: dict[str, list[dict[str, float]]] = defaultdict(list)
    operations: dict[str, dict[str, float]] = {}
    for i in range(args.rounds + 2):
        for name, fast in networks.items():
            start = time.perf_counter()
            fast(images)
            total = 1e3 * (time.perf_counter() - start)
            ms, operations[name] = clocks[name].read()
            if i >= 2:
                rounds[name].append({**ms, "all": total, "convolutions": sum(ms.values())})
    table = Table(caption=", ".join(f"{key} {value}" for key, value in describe_machine().items()))
    table.add_column("layers")
    for name in MODELS:
        table.add_column(name, justify="right")
    for row in (*KINDS, "convolutions", "all"):
        table.add_row(row, *(cell(rounds[name], operations[name], row) for name in MODELS))
    Console(width=110).print(table)


def cell(rounds: list[dict[str, float]], operations: dict[str, float], row: str) -> str:
    if row not in rounds[0]:
        return "-"
    ms = statistics.median(each[row] for each in rounds)
    count = sum(operations.values()) if row == "convolutions" else operations.get(row)
    return f"{ms:.1f} ms" + ("" if count is None else f"  {count / ms / 1e6:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
