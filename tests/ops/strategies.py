"""Small tied convolutions for hypothesis: geometry, channel sharing, bias and how the input lies in memory."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

LAYOUTS = ("contiguous", "channels_last", "sliced channels_last", "sliced", "transposed", "expanded")


@dataclass(frozen=True)
class Case:
    """One call. ``space`` is large enough for the kernel, whatever the padding."""

    batch: int
    space: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    blocks: int
    c_in: int  # channels of one block of one group
    c_out: int
    bias: bool
    layout: str

    @property
    def geometry(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "blocks": self.blocks,
        }

    def tensors(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input, weight and bias, all of them leaves that want gradients."""
        copies = self.groups * self.blocks
        x = lay_out(torch.randn(self.batch, copies * self.c_in, *self.space, dtype=dtype), self.layout)
        weight = torch.randn(self.groups * self.c_out, self.c_in, *self.kernel, dtype=dtype)
        bias = torch.randn(self.groups * self.c_out, dtype=dtype) if self.bias else None
        return x.requires_grad_(), weight.requires_grad_(), None if bias is None else bias.requires_grad_()


def lay_out(x: Tensor, layout: str) -> Tensor:
    """The values of ``x`` in another memory layout, or (``expanded``) with its first sample repeated."""
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "sliced channels_last":
        wide = torch.cat([x[:, :1], x, x[:, :2]], 1)
        return wide.movedim(1, -1).contiguous().movedim(-1, 1)[:, 1 : 1 + x.shape[1]]
    if layout == "sliced":
        return torch.cat([x[:, :1], x, x], 1)[:, 1 : 1 + x.shape[1]]
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "expanded" and len(x):
        return x[:1].expand_as(x)
    return x


@st.composite
def cases(draw: st.DrawFn, dims: int, *, named_padding: bool = False) -> Case:
    """Draw a case with ``dims`` spatial dimensions; ``named_padding`` allows "same" and "valid" as well."""

    def per_dim(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    pointwise = draw(st.integers(0, 3)) == 0
    kernel = (1,) * dims if pointwise else per_dim(1, 3)
    dilation = per_dim(1, 2)
    stride = per_dim(1, 2) if draw(st.booleans()) else (1,) * dims
    padding: tuple[int, ...] | str = per_dim(0, 2) if draw(st.booleans()) else (0,) * dims
    if named_padding:
        padding = draw(st.sampled_from([padding, "valid", "same"]))
        stride = (1,) * dims if padding == "same" else stride
    space = tuple(d * (k - 1) + draw(st.integers(1, 3)) for k, d in zip(kernel, dilation, strict=True))
    return Case(
        batch=draw(st.sampled_from([2, 1, 3, 0])),
        space=space,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=draw(st.integers(1, 3)),
        blocks=draw(st.integers(1, 3)),
        c_in=draw(st.integers(1, 2)),
        c_out=draw(st.integers(1, 2)),
        bias=draw(st.booleans()),
        layout=draw(st.sampled_from(LAYOUTS)),
    )
