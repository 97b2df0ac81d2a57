"""Times of single tied convolutions beside the other ways to compute them, and beside a convolution of full width."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks, ops
from ..ops import algorithms, layout
from ..ops.algorithms import ConvArgs
from ..ops.dispatch import choose
from .released import released_tied_conv2d
from .timer import Quartiles, Timing, describe_error, try_interleaved

Sweep = Literal["resnet", "fig3"]
Kernel = Literal[1, 3]
MemoryFormat = Literal["contiguous", "channels_last"]
FORMATS: dict[MemoryFormat, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
BLOCKS: dict[Sweep, tuple[int, ...]] = {"resnet": (2, 4, 8), "fig3": (1, 2, 4, 8, 16, 32)}
BATCH: dict[Sweep, int] = {"resnet": 8, "fig3": 1}
REFERENCE: dict[Sweep, str] = {"resnet": "dense", "fig3": "standard"}

# ResNet-50's own: channels in and out, height and width, kernel.
RESNET_SHAPES = (
    (64, 64, 56, 3),
    (128, 128, 28, 3),
    (256, 256, 14, 3),
    (512, 512, 7, 3),
    (256, 256, 56, 1),
    (512, 512, 28, 1),
    (1024, 1024, 14, 1),
    (2048, 2048, 7, 1),
)
FIG3_SHAPE = (2048, 64, 56)  # channels in, channels out for one block, height and width

Convolve = Callable[[Tensor, Tensor], Tensor]
Draw = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """One tied convolution to time, with stride 1 and the padding that keeps height and width.

    Attributes:
        sweep: what it belongs to, which decides what it is compared with.
        in_channels, out_channels: of the tied convolution, multiples of ``blocks``.
        size: height and width of input and output, pixels.
        kernel: height and width of the kernel, odd.
        blocks: how many channel blocks share the filters.
        batch: images.
        memory_format: of input and weights.
    """

    sweep: Sweep
    in_channels: int
    out_channels: int
    size: int
    kernel: int
    blocks: int
    batch: int
    memory_format: MemoryFormat

    @property
    def shape(self) -> str:
        """The convolution in words, without blocks and batch: ``3x3, 64 ch, 56²``."""
        channels = f"{self.in_channels}"
        if self.out_channels != self.in_channels:
            channels += f"→{self.out_channels}"
        return f"{self.kernel}x{self.kernel}, {channels} ch, {self.size}²"

    @property
    def flops(self) -> int:
        """Operations of the tied forward pass on the whole batch, 2 per multiply-add: B times less than untied."""
        untied = 2 * self.batch * self.in_channels * self.out_channels * self.kernel**2 * self.size**2
        return untied // self.blocks


@dataclass(frozen=True)
class OperatorRow:
    """Times of one case.

    Attributes:
        case: what was computed.
        train: whether a call is forward and backward, or forward only.
        chosen: the path that the dispatcher takes for it.
        timings: by candidate; those that failed are missing.
        failed: error of each candidate that failed.
    """

    case: Case
    train: bool
    chosen: str
    timings: dict[str, Timing]
    failed: dict[str, str] = field(default_factory=dict)

    def gflops(self, candidate: str) -> float:
        """Operations per second, in 10^9, that a candidate reaches at its median time.

        The tied convolution's operations are counted, and for the dense one its own; a backward pass counts twice.
        """
        flops = self.case.flops * (self.case.blocks if candidate == "dense" else 1) * (3 if self.train else 1)
        return flops / self.timings[candidate].median / 1e9

    def speedup(self, candidate: str) -> Quartiles | None:
        """How many times as fast as the sweep's untied convolution, round by round; None if that failed."""
        reference = self.timings.get(REFERENCE[self.case.sweep])
        return None if reference is None else self.timings[candidate].speedup_over(reference)

    @property
    def share_of_best(self) -> float | None:
        """Speed of the chosen algorithm as a part of the fastest one's, at the median times, 0-1.

        None in the sweep fig3, which does not time the algorithms, and where the chosen one failed.
        """
        if self.case.sweep == "fig3" or self.chosen not in self.timings:
            return None
        medians = [timing.median for name, timing in self.timings.items() if name not in ("dense", "released", "tied")]
        return min(medians) / self.timings[self.chosen].median

    def failures(self) -> list[str]:
        """One line for each candidate that failed, with the first line of the error."""
        what = f"{self.case.shape}, B={self.case.blocks}, {self.case.memory_format}"
        return [f"{what}, {name}: {error.splitlines()[0]}" for name, error in self.failed.items()]

    def record(self) -> dict[str, Any]:
        """Return the row and its derived figures, as JSON has them."""
        return {
            "case": asdict(self.case),
            "train": self.train,
            "chosen": self.chosen,
            "share_of_best": self.share_of_best,
            "candidates": {
                name: {
                    "median_ms": 1e3 * timing.median,
                    "spread_ms": 1e3 * timing.spread,
                    "gflops_per_s": self.gflops(name),
                    "speedup": (ratio := self.speedup(name)) and asdict(ratio),
                    "seconds": list(timing.seconds),
                }
                for name, timing in self.timings.items()
            },
            "failed": self.failed,
        }


def cases(
    sweep: Sweep,
    *,
    blocks: Sequence[int] = (),
    batch: int | None = None,
    kernel: Kernel | None = None,
    memory_formats: Sequence[MemoryFormat] = ("contiguous", "channels_last"),
) -> list[Case]:
    """Return the cases of a sweep.

    ``"resnet"`` has the 3x3 and 1x1 convolutions of ResNet-50. ``"fig3"`` is the paper's Fig. 3:
    2048 channels of 56x56 pixels and 64 filters, applied to B blocks for 64·B outputs, which keeps the operations
    equal for every B.

    Args:
        sweep: which one.
        blocks: numbers of blocks. Default: 2, 4, 8, and 1 to 32 for fig3.
        batch: images. Default: 8, and 1 for fig3.
        kernel: height and width of the kernel in fig3. Default: 3. The other sweep has both.
        memory_formats: of input and weights.

    Raises:
        ValueError: if a number of blocks does not divide a case's channels, a number is below 1, or ``kernel`` is given
            for the other sweep.
    """
    if kernel is not None and sweep != "fig3":
        raise ValueError(f"bench: kernel={kernel} is for the sweep fig3; {sweep} has 1x1 and 3x3. Leave kernel out.")
    batch = BATCH[sweep] if batch is None else batch
    if batch < 1:
        raise ValueError(f"bench: batch must be at least 1, got batch={batch}.")
    made = []
    for in_channels, filters, size, k in RESNET_SHAPES if sweep == "resnet" else [(*FIG3_SHAPE, kernel or 3)]:
        for number in blocks or BLOCKS[sweep]:
            out_channels = filters if sweep == "resnet" else filters * number
            channels = {"in_channels": in_channels, "out_channels": out_channels}
            with _checks.named("bench"):
                _checks.check_blocks(channels, groups=1, blocks=number)
            made += [Case(sweep, in_channels, out_channels, size, k, number, batch, f) for f in memory_formats]
    return made


def time_case(
    case: Case,
    *,
    train: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    rounds: int = 20,
) -> OperatorRow:
    """Time every candidate of a case, in turns. One that fails is named in the row, and the others go on.

    Both sweeps have ``released``, the plain formulation (:func:`~tiedconv.bench.released.released_tied_conv2d`), and
    ``tied``, :func:`tiedconv.ops.tied_conv2d`. ``"resnet"`` also has ``dense``, an untied convolution with as many
    channels, and by its name each path that the dispatcher chooses from, with the output put into the input's memory
    format as the dispatcher does. ``"fig3"`` also has ``standard``, the untied convolution with as many operations,
    which is the case of one block, and ``grouped``, a convolution in B groups with filters of their own.

    Args:
        case: what to compute.
        train: forward and backward, with the gradients of input and weight, instead of the forward pass.
        dtype: of all tensors.
        device: where.
        rounds: measured calls per candidate.
    """
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, device=device).to(dtype)
        return values.contiguous(memory_format=FORMATS[case.memory_format])

    try:
        x = draw(case.batch, case.in_channels, case.size, case.size)
        ways = candidates(case, x, draw)
        calls = {
            name: _step(convolve, x, weight, _gradient(name, case, draw)) if train else partial(convolve, x, weight)
            for name, (convolve, weight) in ways.items()
        }
    except RuntimeError as error:  # no room
        return OperatorRow(case, train, "-", {}, {"tensors": describe_error(error)})
    chosen = choose(x, ways["tied"][1], _conv_args(case)).__name__
    with torch.inference_mode(not train):
        timings, failed = try_interleaved(calls, rounds=rounds, device=device)
    return OperatorRow(case, train, chosen, timings, failed)


def candidates(case: Case, x: Tensor, draw: Draw) -> dict[str, tuple[Convolve, Tensor]]:
    """Return the ways to compute a case: by name the function of input and weight, and the weight.

    Args:
        case: what to compute.
        x: :math:`(N, C_i, H, W)`, the input.
        draw: makes a weight of a shape.
    """
    groups, padding = case.blocks, case.kernel // 2
    kernel = (case.kernel, case.kernel)
    thin = draw(case.out_channels // groups, case.in_channels // groups, *kernel)
    tied: dict[str, tuple[Convolve, Tensor]] = {
        "released": (lambda x, w: released_tied_conv2d(x, w, padding=padding, blocks=groups), thin),
        "tied": (lambda x, w: ops.tied_conv2d(x, w, padding=padding, blocks=groups), thin),
    }
    if case.sweep == "fig3":
        standard = draw(case.out_channels // groups, case.in_channels, *kernel)
        own = draw(case.out_channels, case.in_channels // groups, *kernel)
        return {
            "standard": (lambda x, w: F.conv2d(x, w, padding=padding), standard),
            "grouped": (lambda x, w: F.conv2d(x, w, padding=padding, groups=groups), own),
            **tied,
        }
    args = _conv_args(case)
    applicable = algorithms.applicable(x, thin, args)
    dense = draw(case.out_channels, case.in_channels, *kernel)
    return {
        "dense": (lambda x, w: F.conv2d(x, w, padding=padding), dense),
        **{name: (partial(_by_path, path, args), thin) for name, path in applicable.items()},
        **tied,
    }


def _by_path(path: algorithms.Algorithm, args: ConvArgs, x: Tensor, weight: Tensor) -> Tensor:
    return layout.match_format(path(x, weight, None, args), like=x)


def _conv_args(case: Case) -> ConvArgs:
    return ConvArgs((1, 1), (case.kernel // 2,) * 2, (1, 1), 1, case.blocks)


def _gradient(name: str, case: Case, draw: Draw) -> Tensor:
    channels = case.out_channels // case.blocks if name == "standard" else case.out_channels
    return draw(case.batch, channels, case.size, case.size)


def _step(convolve: Convolve, x: Tensor, weight: Tensor, gradient: Tensor) -> Callable[[], object]:
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    return lambda: torch.autograd.grad(convolve(x, weight), leaves, gradient)
