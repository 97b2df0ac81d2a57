"""The paper's Fig. 3: the time of a convolution against the number of blocks, where the operations stay equal.

    python benchmarks/fig3.py --train true

The input has 2048 channels of 56x56 pixels. 64 filters are applied to each of B blocks, for 64 B channels in all:
``tied`` by tiedconv, ``released`` in the formulation of the authors' code. Beside them ``grouped``, a convolution in B
groups with filters of their own, and ``standard``, the untied convolution with as many operations, which is the case of
one block. All of them take turns in one process; printed are the medians in ms with half the interquartile range.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tiedconv import ops
from tiedconv.bench import Timing, describe_machine, released_tied_conv2d
from tiedconv.bench.operators import FORMATS, MemoryFormat
from tiedconv.bench.timer import describe_error, try_interleaved
from tiedconv.ops.algorithms import ConvArgs
from tiedconv.ops.dispatch import choose

BLOCKS = (1, 2, 4, 8, 16, 32)
WAYS = ("standard", "grouped", "released", "tied")


@dataclass(frozen=True)
class Case:
    """One number of blocks; ``filters`` is the number of output channels of one block."""

    blocks: int
    batch: int
    memory_format: MemoryFormat
    kernel: int = 3
    channels: int = 2048
    filters: int = 64
    size: int = 56

    @property
    def shape(self) -> str:
        """The call in words, without blocks and batch."""
        channels = f"{self.channels}→{self.filters * self.blocks}"
        return f"{self.kernel}x{self.kernel}, {channels} ch, {self.size}²"


@dataclass(frozen=True)
class Row:
    """Times of one case by the name of the way, the path that the dispatcher chooses, and errors."""

    chosen: str
    timings: dict[str, Timing]
    failed: dict[str, str]


def time_case(case: Case, *, train: bool, dtype: torch.dtype, device: torch.device | str, rounds: int) -> Row:
    """Time all ways to compute a case, in turns, forward alone or with backward."""

    def draw(*shape: int) -> Tensor:
        values = torch.randn(shape, device=device).to(dtype)
        return values.contiguous(memory_format=FORMATS[case.memory_format])

    try:
        x = draw(case.batch, case.channels, case.size, case.size)
        found = ways(case, draw)
        calls = {name: _call(way, x, weight, draw, train) for name, (way, weight) in found.items()}
    except RuntimeError as error:  # no room
        return Row("-", {}, {"tensors": describe_error(error)})
    args = ConvArgs((1, 1), (case.kernel // 2,) * 2, (1, 1), 1, case.blocks)
    with torch.inference_mode(not train):
        timings, failed = try_interleaved(calls, rounds=rounds, device=device)
    return Row(choose(x, found["tied"][1], args).__name__, timings, failed)


def ways(case: Case, draw: Callable[..., Tensor]) -> dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor]]:
    """Return each way's function of input and weight, and its weight, which ``draw`` makes of a shape."""
    blocks, padding, kernel = case.blocks, case.kernel // 2, (case.kernel, case.kernel)
    thin = draw(case.filters, case.channels // blocks, *kernel)
    own = draw(case.filters * blocks, case.channels // blocks, *kernel)
    return {
        "standard": (lambda x, w: F.conv2d(x, w, padding=padding), draw(case.filters, case.channels, *kernel)),
        "grouped": (lambda x, w: F.conv2d(x, w, padding=padding, groups=blocks), own),
        "released": (lambda x, w: released_tied_conv2d(x, w, padding=padding, blocks=blocks), thin),
        "tied": (lambda x, w: ops.tied_conv2d(x, w, padding=padding, blocks=blocks), thin),
    }


def _call(
    way: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, draw: Callable[..., Tensor], train: bool
) -> Callable[[], object]:
    if not train:
        return lambda: way(x, weight)
    with torch.no_grad():
        gradient = draw(*way(x, weight).shape)
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    return lambda: torch.autograd.grad(way(x, weight), leaves, gradient)


def fig3(
    blocks: Sequence[int] = BLOCKS,
    batch: int = 1,
    memory_formats: Sequence[MemoryFormat] = ("contiguous", "channels_last"),
    train: bool = False,
    device: str = "cpu",
    rounds: int = 20,
) -> None:
    """Time the cases in float32 and print them.

    Args:
        blocks: numbers of blocks.
        batch: images in a batch.
        memory_formats: of input and weights.
        train: time a forward and a backward pass instead of a forward pass.
        device: where.
        rounds: measured calls of every way, after two that are not.
    """
    print(", ".join(f"{key} {value}" for key, value in describe_machine(device).items()))
    print(f"{'':<13} {'B':>3}" + "".join(f"{name:>18}" for name in WAYS))
    for memory_format in memory_formats:
        for number in blocks:
            case = Case(number, batch, memory_format)
            row = time_case(case, train=train, dtype=torch.float32, device=device, rounds=rounds)
            cells = [f"{1e3 * t.median:.2f} ±{1e3 * t.spread:.2f}" if (t := row.timings.get(n)) else "-" for n in WAYS]
            print(f"{memory_format:<13} {number:>3}" + "".join(f"{cell:>18}" for cell in cells), flush=True)
            for name, error in row.failed.items():
                print(f"{name} failed: {error}")


if __name__ == "__main__":
    from jsonargparse import auto_cli  # here: the GPU script, which needs the rest, does without it

    auto_cli(fig3)
