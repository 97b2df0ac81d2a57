"""Convolution, residual addition and ReLU as one layer with expanded, packed weights."""

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.fold import Conv2d, Filters
from ..ops import layout
from ..ops._dispatch import merges_splits


class FusedConv2d(nn.Module):
    """The untied convolution of given filters, with what follows it: an addition and a ReLU, either or both.

    On CPUs in float32 it is one call of oneDNN, with weights in the order that oneDNN wants for the first input's size;
    inputs of other sizes are computed as well. Elsewhere, in other dtypes and where torch compiles or traces it is the
    same in torch's operators. Inputs are computed in channels_last memory.

    Args:
        conv: gives the geometry; its own weights are not used.
        filters: one entry for a plain convolution, one a split for several side by side, each on its chunk of channels.

    Attributes:
        relu: whether a ReLU follows. Default: no.
        overwrites_residual: whether the output may take the memory of ``residual``. Default: no.

    Shape:
        - x: :math:`(N, C_i, H, W)` or :math:`(C_i, H, W)`.
        - residual: :math:`(N, C_o, H', W')` or a shape that broadcasts to it.
        - Output: :math:`(N, C_o, H', W')` or :math:`(C_o, H', W')`, channels_last.
    """

    def __init__(self, conv: Conv2d, filters: list[Filters]) -> None:
        super().__init__()
        self.geometry: tuple[list[int], list[int], list[int]] = (
            list(conv.stride),
            [int(p) for p in conv.padding],
            list(conv.dilation),
        )
        self.groups = [f.groups for f in filters]
        for i, f in enumerate(filters):
            self.register_buffer(f"weight{i}", f.weight.detach().clone(memory_format=torch.channels_last))
            self.register_buffer(f"bias{i}", None if f.bias is None else f.bias.detach().clone())
        self.relu = False
        self.overwrites_residual = False
        self._parts: list[_Part] | None = None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if x.dim() == 3:
            return self(x.unsqueeze(0), residual).squeeze(0)
        x = x.contiguous(memory_format=torch.channels_last)
        if self._parts is None:
            self._parts = self._prepare(x)
        outputs = [
            part(chunk, self.geometry, residual, self.relu, self.overwrites_residual)
            for part, chunk in zip(self._parts, x.chunk(len(self._parts), 1), strict=True)
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)

    def _prepare(self, x: Tensor) -> "list[_Part]":
        filters = [
            Filters(getattr(self, f"weight{i}"), getattr(self, f"bias{i}"), groups)
            for i, groups in enumerate(self.groups)
        ]
        if len(filters) > 1 and merges_splits(
            x, [f.weight for f in filters], self.groups, [1] * len(filters), packed=True
        ):
            filters = [_side_by_side(filters)]
        return [_Part(f) for f in filters]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._parts = None  # packed for another device or dtype
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        shapes = ", ".join(str(tuple(getattr(self, f"weight{i}").shape)) for i in range(len(self.groups)))
        return f"{shapes}, groups={self.groups}, relu={self.relu}"


class _Part:
    """One convolution of a :class:`FusedConv2d`, packed at its first call."""

    def __init__(self, filters: Filters) -> None:
        self.weight, self.bias, self.groups = filters
        self.packed: Tensor | None = None

    def __call__(
        self,
        x: Tensor,
        geometry: tuple[list[int], list[int], list[int]],
        residual: Tensor | None,
        relu: bool,
        overwrites_residual: bool,
    ) -> Tensor:
        stride, padding, dilation = geometry
        if not _calls_onednn(x):
            y = F.conv2d(x, self.weight, self.bias, stride, padding, dilation, self.groups)
            y = y if residual is None else y + residual
            return F.relu_(y) if relu else y
        if self.packed is None:
            plain = self.weight.to_mkldnn()
            pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            self.packed = pack(plain, padding, stride, dilation, self.groups, list(x.shape))
        call: Any = torch.ops.mkldnn._convolution_pointwise
        options = (self.packed, self.bias, padding, stride, dilation, self.groups)
        if residual is None:
            return call(x, *options, "relu" if relu else "none", [], "")
        if not self._fits(residual, x, geometry):
            y = call(x, *options, "none", [], "") + residual
            return F.relu_(y) if relu else y
        addition: tuple[Any, ...] = ("add", 1.0, "relu" if relu else None, [], "")
        if overwrites_residual and residual.is_contiguous(memory_format=torch.channels_last):
            torch.ops.mkldnn._convolution_pointwise_.binary(residual, x, *options, *addition)
            return residual
        return call.binary(x, residual, *options, *addition)

    def _fits(self, residual: Tensor, x: Tensor, geometry: tuple[list[int], list[int], list[int]]) -> bool:
        """Whether ``residual`` is like the output; a network may add numbers, smaller maps and other dtypes as well."""
        if not isinstance(residual, Tensor) or residual.dtype != x.dtype:
            return False
        if residual.shape[2:].numel() == 1:  # oneDNN, as torch 2.9 calls it, makes no sum of single pixels
            return False
        space = (
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(x.shape[2:], self.weight.shape[2:], *geometry, strict=True)
        )
        return residual.shape == (x.shape[0], self.weight.shape[0], *space)


def _side_by_side(filters: list[Filters]) -> Filters:
    """Filters of one grouped convolution that computes all splits."""
    weight, groups = layout.side_by_side([f.weight for f in filters], [f.groups for f in filters])
    biases = [f.bias for f in filters if f.bias is not None]
    return Filters(weight.contiguous(memory_format=torch.channels_last), torch.cat(biases) if biases else None, groups)


def _calls_onednn(x: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )
