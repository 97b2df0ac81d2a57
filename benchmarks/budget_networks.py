"""The networks that budget.py compares: each arm's description, its network, and what it may cost."""

import copy
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tiedconv.export import deploy
from tiedconv.metrics import count
from tiedconv.nn import TiedConv2d

PIXELS = 32
"""Side of the images by which budgets are counted."""

CLASSES = 10

PARAMS = 57_400
"""What every arm may have, but for the ceiling, which may have twice as many."""

TOLERANCE = {"params": 0.01, "macs": 0.08}
"""By how much an arm may miss its budget, as a fraction."""

SPREAD = 0.3
"""Scales that differ from the start are drawn evenly from 1 - SPREAD to 1 + SPREAD."""


@dataclass(frozen=True)
class Arm:
    """One kind of network.

    Attributes:
        name: in files and tables.
        widths: channels inside the bottlenecks of each stage; a bottleneck's output has twice as many.
        blocks, groups: of every convolution in the bottlenecks.
        shuffle: whether channels of different blocks or groups are interleaved behind each of these convolutions.
        scatter: whether the scales of the norms behind them are scattered at the start.
        scale: whether each of their input channels has a learned scale, scattered at the start.
        private: whether each block adds a matrix of rank 1 of its own to the shared filters.
        enlarged: by how much its images are enlarged.
        times_params, times_macs: budget, in those of the untied network.
    """

    name: str
    widths: tuple[int, int, int]
    blocks: int = 1
    groups: int = 1
    shuffle: bool = False
    scatter: bool = False
    scale: bool = False
    private: bool = False
    enlarged: float = 1.0
    times_params: int = 1
    times_macs: int = 1

    def side(self, pixels: int) -> int:
        """Return the side of its input for images of ``pixels``."""
        return round(self.enlarged * pixels)

    @property
    def is_tied(self) -> bool:
        """Whether its blocks share weights."""
        return self.blocks > 1

    @property
    def is_control(self) -> bool:
        """Whether a tied arm has to beat it."""
        return not self.is_tied and self.times_params == 1


ARMS = {
    arm.name: arm
    for arm in (
        Arm("untied", (10, 20, 41)),
        Arm("tied2", (20, 40, 80), blocks=2, times_macs=2),
        Arm("tied2-scatter", (20, 40, 80), blocks=2, scatter=True, times_macs=2),
        Arm("tied2-shuffle", (20, 40, 80), blocks=2, shuffle=True, times_macs=2),
        Arm("tied2-shuffle-scatter", (20, 40, 80), blocks=2, shuffle=True, scatter=True, times_macs=2),
        Arm("grouped4-shuffle", (20, 40, 80), groups=4, shuffle=True),
        Arm("untied-larger-images", (10, 20, 41), enlarged=1.375, times_macs=2),
        Arm("tied2-shuffle-scale", (20, 38, 80), blocks=2, shuffle=True, scale=True, times_macs=2),
        Arm("untied-scatter", (10, 20, 41), scatter=True),
        Arm("grouped4-shuffle-scatter", (20, 40, 80), groups=4, shuffle=True, scatter=True),
        Arm("tied2-shuffle-private", (20, 40, 76), blocks=2, shuffle=True, private=True, times_macs=2),
        Arm("untied-twice-the-parameters", (14, 28, 59), times_params=2, times_macs=2),
        Arm("tied4-shuffle-scatter", (40, 76, 152), blocks=4, shuffle=True, scatter=True, times_macs=4),
    )
}


class VariedConv2d(nn.Module):
    r"""A tied convolution whose blocks differ: block b has the filters :math:`(W' + u_b v_b)\,\mathrm{diag}(s_b)`.

    Args:
        shared: the tied convolution, without bias.
        scale: whether there is s, one number per input channel.
        private: whether there are u and v, a matrix of rank 1 per block, of filters' rows and columns.
    """

    def __init__(self, shared: TiedConv2d, *, scale: bool, private: bool) -> None:
        super().__init__()
        self.shared = shared
        rows, columns, *kernel = shared.weight.shape
        bound = 1 / math.sqrt(shared.weight[0].numel())  # that of the shared filters
        self.scale = nn.Parameter(scattered(shared.blocks, columns)) if scale else None
        self.u = nn.Parameter(SPREAD * torch.randn(shared.blocks, rows)) if private else None
        self.v = nn.Parameter(torch.empty(shared.blocks, columns, *kernel).uniform_(-bound, bound)) if private else None

    def weight(self) -> Tensor:
        """Return the filters of all blocks, those of a convolution with one group per block."""
        weight = self.shared.weight.expand(self.shared.blocks, -1, -1, -1, -1)
        if self.u is not None and self.v is not None:
            weight = weight + self.u[..., None, None, None] * self.v.unsqueeze(1)
        if self.scale is not None:
            weight = weight * self.scale[:, None, :, None, None]
        return weight.flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight(), None, self.shared.stride, self.shared.padding, groups=self.shared.blocks)

    def deployed(self) -> nn.Conv2d:
        """Return an ordinary convolution that computes the same."""
        conv: Any = self.shared
        ordinary = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            groups=conv.blocks,
            bias=False,
        )
        with torch.no_grad():
            ordinary.weight.copy_(self.weight())
        return ordinary


class Bottleneck(nn.Module):
    """Convolutions of 1x1, 3x3 and 1x1 beside a shortcut that averages pixels and pads channels with zeros."""

    def __init__(self, arm: Arm, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.more_channels = 2 * width - inputs
        self.convs = nn.Sequential(
            *convolution(arm, inputs, width, 1),
            nn.ReLU(inplace=True),
            *convolution(arm, width, width, 3, stride),
            nn.ReLU(inplace=True),
            *convolution(arm, width, 2 * width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.convs(x)
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        if self.more_channels:
            x = F.pad(x, (0, 0, 0, 0, 0, self.more_channels))
        return F.relu(x + y)


def convolution(arm: Arm, inputs: int, outputs: int, kernel: int, stride: int = 1) -> Iterator[nn.Module]:
    shared = TiedConv2d(inputs, outputs, kernel, stride, kernel // 2, groups=arm.groups, bias=False, blocks=arm.blocks)
    varied = arm.scale or arm.private
    yield VariedConv2d(shared, scale=arm.scale, private=arm.private) if varied else shared
    norm = nn.BatchNorm2d(outputs)
    if arm.scatter:
        norm.weight.data = scattered(outputs)
    yield norm
    if arm.shuffle:
        # The next layer's blocks see channels of each of this one's.
        yield nn.ChannelShuffle(arm.blocks * arm.groups)


def scattered(*shape: int) -> Tensor:
    return torch.empty(shape).uniform_(1 - SPREAD, 1 + SPREAD)


def build(arm: Arm) -> nn.Sequential:
    channels = 2 * arm.widths[0]
    layers: list[nn.Module] = [
        nn.Conv2d(3, channels, 3, 2, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    ]
    for stage, width in enumerate(arm.widths):
        layers.append(Bottleneck(arm, channels, width, stride=2 if stage else 1))
        channels = 2 * width
        layers.append(Bottleneck(arm, channels, width, stride=1))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


@cache
def costs(arm: Arm, pixels: int = PIXELS) -> dict[str, int]:
    """Return an arm's parameters and multiply-adds per image of that side."""
    return asdict(count(build(arm), (3, arm.side(pixels), arm.side(pixels))))


def check_budgets() -> None:
    """Check that every arm keeps to its budget, before anything is trained."""
    budget = {"params": PARAMS, "macs": costs(ARMS["untied"])["macs"]}
    for arm in ARMS.values():
        times = {"params": arm.times_params, "macs": arm.times_macs}
        for what, value in costs(arm).items():
            error = value / (times[what] * budget[what]) - 1
            assert abs(error) <= TOLERANCE[what], f"{arm.name}: {value} {what} are {error:+.1%} beside the budget"


def deployed(model: nn.Module) -> nn.Module:
    """Return a copy made of ordinary layers, in place of :class:`VariedConv2d` too."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, VariedConv2d):
                setattr(parent, name, child.deployed())
    return deploy(model)
