"""Times of single tied convolutions beside the other ways to compute them, and beside a dense convolution."""

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

MemoryFormat = Literal["contiguous", "channels_last"]
FORMATS: dict[MemoryFormat, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}

# ResNet-50's convolutions: channels in and out, height and width, kernel.
SHAPES = (
    (64, 56, 3),
    (128, 28, 3),
    (256, 14, 3),
    (512, 7, 3),
    (256, 56, 1),
    (512, 28, 1),
    (1024, 14, 1),
    (2048, 7, 1),
)

Convolve = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One tied convolution to time, with stride 1 and the padding that keeps height and width.

    Attributes:
        channels: in and out, a multiple of ``blocks``.
        size: height and width of input and output, pixels.
        kernel: height and width of the kernel, odd.
        blocks: how many channel blocks share the filters.
        batch: images.
        memory_format: of input and weights.
    """

    channels: int
    size: int
    kernel: int
    blocks: int
    batch: int
    memory_format: MemoryFormat

    @property
    def shape(self) -> str:
        """The convolution in words, without blocks and batch: ``3x3, 64 ch, 56²``."""
        return f"{self.kernel}x{self.kernel}, {self.channels} ch, {self.size}²"

    @property
    def flops(self) -> int:
        """Operations of the tied forward pass on the whole batch, 2 per multiply-add."""
        return 2 * self.batch * self.channels**2 * self.kernel**2 * self.size**2 // self.blocks


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
        """How many times as fast as the dense convolution, round by round; None if that failed."""
        dense = self.timings.get("dense")
        return None if dense is None else self.timings[candidate].speedup_over(dense)

    @property
    def share_of_best(self) -> float | None:
        """Speed of the chosen path as a part of the fastest path's, at the median times, 0-1; None if it failed."""
        if self.chosen not in self.timings:
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
    blocks: Sequence[int] = (2, 4, 8),
    batch: int = 8,
    memory_formats: Sequence[MemoryFormat] = ("contiguous", "channels_last"),
) -> list[Case]:
    """Return the 3x3 and 1x1 convolutions of ResNet-50, with every number of blocks in every memory format.

    Raises:
        ValueError: if a number of blocks does not divide a case's channels, a number is below 1, or a list is empty.
    """
    if batch < 1:
        raise ValueError(f"bench: batch must be at least 1, got batch={batch}.")
    if not blocks or not memory_formats:
        raise ValueError("bench: blocks and memory_formats must name at least one each. Leave them out for all.")
    made = []
    for memory_format in memory_formats:
        for channels, size, kernel in SHAPES:
            for number in blocks:
                with _checks.named("bench"):
                    _checks.check_blocks({"channels": channels}, groups=1, blocks=number)
                made.append(Case(channels, size, kernel, number, batch, memory_format))
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

    Candidates are ``dense``, an untied convolution with as many channels; each path that the dispatcher chooses from,
    by its name; ``released``, the plain formulation (:func:`~tiedconv.bench.released_tied_conv2d`); and ``tied``,
    :func:`tiedconv.ops.tied_conv2d`. Outputs of paths are put into the input's memory format, as the dispatcher does.

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
        x, gradient = (draw(case.batch, case.channels, case.size, case.size) for _ in range(2))
        ways = candidates(case, x, draw)
        calls = {
            name: _step(convolve, x, weight, gradient) if train else partial(convolve, x, weight)
            for name, (convolve, weight) in ways.items()
        }
    except RuntimeError as error:  # no room
        return OperatorRow(case, train, "-", {}, {"tensors": describe_error(error)})
    chosen = choose(x, ways["tied"][1], _conv_args(case)).__name__
    with torch.inference_mode(not train):
        timings, failed = try_interleaved(calls, rounds=rounds, device=device)
    return OperatorRow(case, train, chosen, timings, failed)


def candidates(case: Case, x: Tensor, draw: Callable[..., Tensor]) -> dict[str, tuple[Convolve, Tensor]]:
    """Return the ways to compute a case: by name the function of input and weight, and the weight.

    Args:
        case: what to compute.
        x: :math:`(N, C, H, W)`, the input.
        draw: makes a weight of a shape.
    """
    blocks, padding = case.blocks, case.kernel // 2
    dense = draw(case.channels, case.channels, case.kernel, case.kernel)
    thin = draw(case.channels // blocks, case.channels // blocks, case.kernel, case.kernel)
    args = _conv_args(case)
    return {
        "dense": (lambda x, w: F.conv2d(x, w, padding=padding), dense),
        **{name: (partial(_by_path, path, args), thin) for name, path in algorithms.applicable(x, thin, args).items()},
        "released": (lambda x, w: released_tied_conv2d(x, w, padding=padding, blocks=blocks), thin),
        "tied": (lambda x, w: ops.tied_conv2d(x, w, padding=padding, blocks=blocks), thin),
    }


def _by_path(path: algorithms.Algorithm, args: ConvArgs, x: Tensor, weight: Tensor) -> Tensor:
    return layout.match_format(path(x, weight, None, args), like=x)


def _conv_args(case: Case) -> ConvArgs:
    return ConvArgs((1, 1), (case.kernel // 2,) * 2, (1, 1), 1, case.blocks)


def _step(convolve: Convolve, x: Tensor, weight: Tensor, gradient: Tensor) -> Callable[[], object]:
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    return lambda: torch.autograd.grad(convolve(x, weight), leaves, gradient)
