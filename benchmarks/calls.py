"""The cost of a call: tied layers beside torch's on an input so small that little but the call itself takes time.

    python benchmarks/calls.py

One thread, float32, a map of 16 channels and 4x4 pixels in both memory formats, and 4 vectors of 16 numbers; only the
forward pass, with and without recording it for gradients. All layers take turns in one process; printed are the medians
per call and the ratio to torch's layer, paired by round, with half the interquartile range.
"""

from collections.abc import Callable
from typing import Any

import torch
from jsonargparse import auto_cli
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from tiedconv.bench import Timing, describe_machine
from tiedconv.bench.timer import interleaved
from tiedconv.nn import SplitTiedConv2d, TiedConv2d, TiedLinear

CONV: dict[str, Any] = {"in_channels": 16, "out_channels": 16, "kernel_size": 3, "padding": 1}


def calls(rounds: int = 25, repeat: int = 200) -> None:
    """Time the calls and print them.

    Args:
        rounds: measurements of every layer, after two that are not kept.
        repeat: calls per measurement.
    """
    torch.set_num_threads(1)
    table = Table(box=SIMPLE, caption="µs per call; ratio of the times ± half its interquartile range")
    for header in ("layer", "beside", "format", "gradients"):
        table.add_column(header, no_wrap=True)
    for header in ("µs", "µs beside", "ratio"):
        table.add_column(header, justify="right", no_wrap=True)
    image, vectors = torch.randn(1, 16, 4, 4), torch.randn(4, 16)
    for gradients in (True, False):
        for name, memory_format in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
            x = image.contiguous(memory_format=memory_format)
            layers = {key: layer.to(memory_format=memory_format) for key, layer in convolutions().items()}
            times = measure(layers, x, gradients, rounds, repeat)
            add(table, times, ("tied, 1 block", "dense"), name, gradients, repeat)
            add(table, times, ("tied, 2 blocks", "2 groups"), name, gradients, repeat)
            add(table, times, ("splits, blocks 1, 1, 2, 2", "4 groups"), name, gradients, repeat)
        times = measure(linears(), vectors, gradients, rounds, repeat)
        add(table, times, ("tied linear, 2 blocks", "linear"), "", gradients, repeat)
    console = Console(width=110, highlight=False)
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in describe_machine().items()))


def convolutions() -> dict[str, nn.Module]:
    return {
        "dense": nn.Conv2d(**CONV),
        "tied, 1 block": TiedConv2d(**CONV),
        "2 groups": nn.Conv2d(**CONV, groups=2),
        "tied, 2 blocks": TiedConv2d(**CONV, blocks=2),
        "4 groups": nn.Conv2d(**CONV, groups=4),
        "splits, blocks 1, 1, 2, 2": SplitTiedConv2d(**CONV, blocks=(1, 1, 2, 2)),
    }


def linears() -> dict[str, nn.Module]:
    return {"linear": nn.Linear(16, 16), "tied linear, 2 blocks": TiedLinear(16, 16, blocks=2)}


def measure(layers: dict[str, nn.Module], x: Tensor, gradients: bool, rounds: int, repeat: int) -> dict[str, Timing]:
    """Time ``repeat`` calls of every layer at once, since a clock cannot tell one of them well."""

    def many(layer: nn.Module) -> Callable[[], None]:
        def run() -> None:
            for _ in range(repeat):
                layer(x)

        return run

    with torch.set_grad_enabled(gradients):
        return interleaved({name: many(layer) for name, layer in layers.items()}, rounds=rounds)


def add(
    table: Table, times: dict[str, Timing], pair: tuple[str, str], memory_format: str, gradients: bool, repeat: int
) -> None:
    ours, theirs = (times[name] for name in pair)
    ratio = theirs.speedup_over(ours)  # their speed over ours, so our time over theirs
    medians = (f"{1e6 * timing.median / repeat:.1f}" for timing in (ours, theirs))
    table.add_row(
        *pair, memory_format, "yes" if gradients else "no", *medians, f"{ratio.median:.2f} ±{ratio.spread:.2f}"
    )


if __name__ == "__main__":
    auto_cli(calls)
