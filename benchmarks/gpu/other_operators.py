"""The operators that ``tiedconv bench operators`` does not time: 1-D, 3-D, linear, and the splits of a bottleneck."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from fig3 import Row
from torch import Tensor

from tiedconv import ops
from tiedconv.bench.timer import try_interleaved
from tiedconv.ops import algorithms, layout
from tiedconv.ops.algorithms import CONV, ConvArgs
from tiedconv.ops.dispatch import choose

Operator = Literal["conv1d", "conv3d", "linear", "split"]
Ways = dict[str, Callable[..., Tensor]]
TIED = {1: ops.tied_conv1d, 3: ops.tied_conv3d}
SPLITS = {"4s x 32w": (1, 2, 4, 8), "4s x 16w": (1, 1, 2, 2)}


@dataclass(frozen=True)
class Other:
    """One call to time.

    Attributes:
        sweep: the operator.
        channels: in and out.
        space: of the input, such as height and width; for a linear layer, the number of tokens per sample.
        kernel: its size along each dimension.
        blocks: how many blocks; for splits, one number for each.
        batch: samples.
        memory_format: ``"contiguous"``, ``"channels_last"`` or ``"channels_last_3d"``.
    """

    sweep: Operator
    channels: int
    space: tuple[int, ...]
    kernel: int
    blocks: int | tuple[int, ...]
    batch: int
    memory_format: str

    @property
    def shape(self) -> str:
        """The call in words, without blocks and batch."""
        dims = {"conv1d": 1, "conv3d": 3, "split": 2, "linear": 1}[self.sweep]
        return f"{'x'.join([str(self.kernel)] * dims)}, {self.channels} ch, {'x'.join(map(str, self.space))}"

    def shrunk(self) -> "Other":
        """Return a case of the same kind that takes no time."""
        channels = 32 if self.sweep == "split" else 16
        return replace(self, channels=channels, space=tuple(4 for _ in self.space), batch=2)


def other_cases() -> list[Other]:
    """Return all of them."""
    made = []
    for blocks in (2, 4, 8):
        for kernel in (1, 3):
            made.append(Other("conv1d", 256, (2048,), kernel, blocks, 32, "contiguous"))
            for memory_format in ("contiguous", "channels_last_3d"):
                made.append(Other("conv3d", 64, (8, 28, 28), kernel, blocks, 16, memory_format))
        made.append(Other("linear", 1024, (196,), 1, blocks, 128, "contiguous"))
    for stage, size in enumerate((56, 28, 14, 7)):
        for width, splits in zip((128, 64), SPLITS.values(), strict=True):
            for memory_format in ("contiguous", "channels_last"):
                made.append(Other("split", width << stage, (size, size), 3, splits, 128, memory_format))
    return made


def time_other(case: Other, *, train: bool, dtype: torch.dtype, device: torch.device, rounds: int) -> Row:
    """Time all ways to compute a case, in turns, forward alone or with backward.

    ``dense`` is the untied layer with as many channels, for splits a convolution with one group for each. A
    convolution has ``tied``, the library's function, and the paths that the dispatcher chooses from; a linear layer has
    ``tied``. Splits have ``splits``, the library's function, which computes one after the other, and ``merged``, one
    grouped convolution whose filters are written out at every call.
    """
    try:
        x, weights, dense, ways, chosen = _ways(case, device, dtype)
        gradient = torch.randn_like(ways[chosen](x, *weights))
    except RuntimeError as error:  # no room
        return Row("-", {}, {"tensors": str(error)})

    def call(way: Callable[..., Tensor], *own: Tensor) -> Callable[[], object]:
        if not train:
            return lambda: way(x, *own)
        leaves = [tensor.requires_grad_() for tensor in (x, *own)]
        return lambda: torch.autograd.grad(way(x, *own), leaves, gradient)

    calls = {name: call(way, *weights) for name, way in ways.items()}
    calls["dense"] = call(dense[0], dense[1])
    with torch.inference_mode(not train):
        timings, failed = try_interleaved(calls, rounds=rounds, device=device)
    return Row(chosen, timings, failed)


def _ways(
    case: Other, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, list[Tensor], tuple[Callable[..., Tensor], Tensor], Ways, str]:
    """Return input, tied weights, dense function and weight, the ways by name, and which the library takes."""
    blocks: Any = case.blocks
    c = case.channels

    def draw(*shape: int) -> Tensor:
        values = torch.randn(shape, device=device).to(dtype)
        fits = values.dim() == {"channels_last": 4, "channels_last_3d": 5}.get(case.memory_format)
        return values.contiguous(memory_format=getattr(torch, case.memory_format)) if fits else values

    if case.sweep == "linear":
        x, weight = draw(case.batch, *case.space, c), draw(c // blocks, c // blocks)
        tied: Ways = {"tied": lambda x, w: ops.tied_linear(x, w, blocks=blocks)}
        return x, [weight], (F.linear, draw(c, c)), tied, "tied"
    dims, padding = len(case.space), case.kernel // 2
    x, kernel = draw(case.batch, c, *case.space), (case.kernel,) * dims
    if case.sweep == "split":
        part = c // len(blocks)
        weights = [draw(part // b, part // b, *kernel) for b in blocks]
        dense = draw(c, part, *kernel)
        splits: Ways = {
            "splits": lambda x, *w: ops.split_tied_conv2d(x, w, padding=padding, blocks=blocks),
            "merged": lambda x, *w: _merged(x, w, blocks, padding),
        }
        return x, weights, (lambda x, w: F.conv2d(x, w, padding=padding, groups=len(blocks)), dense), splits, "splits"
    weight = draw(c // blocks, c // blocks, *kernel)
    args = ConvArgs((1,) * dims, (padding,) * dims, (1,) * dims, 1, blocks)
    ways: Ways = {name: _by_path(path, args) for name, path in algorithms.applicable(x, weight, args).items()}
    ways["tied"] = lambda x, w: TIED[dims](x, w, padding=padding, blocks=blocks)
    dense = draw(c, c, *kernel)
    return x, [weight], (lambda x, w: CONV[dims](x, w, padding=padding), dense), ways, choose(x, weight, args).__name__


def _by_path(path: algorithms.Algorithm, args: ConvArgs) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, w: layout.match_format(path(x, w, None, args), like=x)


def _merged(x: Tensor, weights: tuple[Tensor, ...], blocks: tuple[int, ...], padding: int) -> Tensor:
    written_out = [layout.repeat_for_groups(w, groups=1, blocks=b) for w, b in zip(weights, blocks, strict=True)]
    weight, groups = layout.side_by_side(written_out, blocks)
    return F.conv2d(x, weight, padding=padding, groups=groups)
