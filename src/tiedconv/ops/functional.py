"""Tied convolutions and linear maps as functions on tensors, with arguments in the order of ``torch.nn.functional``."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks
from . import layout
from .algorithms import CONV, ConvArgs, Size, view
from .dispatch import choose

Padding = Size | Literal["same", "valid"]


def tied_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    blocks: int = 1,
) -> Tensor:
    r"""Convolve every channel block of a batch of images with the same thin filter bank.

    Paper, eq. 3; with ``groups`` > 1, eq. 4: each group has its own filters, shared by the group's blocks. Written
    :math:`B` = ``blocks`` and :math:`G` = ``groups``, the call costs
    :math:`C_i C_o k_H k_W H' W' / (BG)` multiply-adds per image. With ``blocks=1`` it is ``F.conv2d``.

    Args:
        x: :math:`(N, C_i, H, W)` or :math:`(C_i, H, W)`, in any memory format; :math:`N` may be 0.
        weight: :math:`(C_o / B,\; C_i / (BG),\; k_H, k_W)`, rows ordered by group.
        bias: :math:`(C_o / B)`, shared by the blocks like the weight.
        stride, padding, dilation, groups: as in ``F.conv2d``; ``padding`` may be ``"same"`` or ``"valid"``.
        blocks: how many channel blocks of each group share the filters.

    Returns:
        :math:`(N, C_o, H', W')` or :math:`(C_o, H', W')` in the memory format of ``x``. Channels are group-major: group
        0's blocks, then group 1's.

    Raises:
        TypeError: if an argument is not a tensor, or a number is not an integer.
        ValueError: if ``blocks`` or ``groups`` is below 1, or ``groups`` does not divide the weight's rows.
        RuntimeError: if shapes or dtypes of the tensors do not fit together, or for a stride, padding or dilation that
            ``F.conv2d`` refuses.

    Example:
        >>> import torch
        >>> from tiedconv.ops import tied_conv2d
        >>> x, weight = torch.ones(1, 4, 2, 2), torch.ones(3, 2, 1, 1)
        >>> tied_conv2d(x, weight, blocks=2).shape
        torch.Size([1, 6, 2, 2])
    """
    return _checked_conv(2, x, weight, bias, stride, padding, dilation, groups, blocks)


def tied_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    blocks: int = 1,
) -> Tensor:
    r"""As :func:`tied_conv2d`, for sequences: ``x`` :math:`(N, C_i, L)`, ``weight`` :math:`(C_o/B, C_i/(BG), k)`."""
    return _checked_conv(1, x, weight, bias, stride, padding, dilation, groups, blocks)


def tied_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    blocks: int = 1,
) -> Tensor:
    r"""As :func:`tied_conv2d`, for volumes: ``x`` :math:`(N, C_i, D, H, W)`, in any memory format."""
    return _checked_conv(3, x, weight, bias, stride, padding, dilation, groups, blocks)


def tied_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, blocks: int = 1) -> Tensor:
    r"""Apply one thin linear map to every block of features (TFC of the paper, section 1).

    Args:
        x: :math:`(*, C_i)`, any number of leading dimensions.
        weight: :math:`(C_o / B,\; C_i / B)` with :math:`B` = ``blocks``.
        bias: :math:`(C_o / B)`, shared by the blocks.
        blocks: how many feature blocks share the map.

    Returns:
        :math:`(*, C_o)`.

    Raises:
        TypeError: if an argument is not a tensor, or ``blocks`` is not an integer.
        ValueError: if ``blocks`` is below 1.
        RuntimeError: if shapes or dtypes of the tensors do not fit together.

    Example:
        >>> import torch
        >>> from tiedconv.ops import tied_linear
        >>> tied_linear(torch.ones(8, 6), torch.ones(5, 2), blocks=3).shape
        torch.Size([8, 15])
    """
    with _checks.named("tied_linear"):
        check_tensors(x, weight, bias, 1, blocks, rank=2)
        return linear(x, weight, bias, blocks)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, blocks: int) -> Tensor:
    """Compute a tied linear map; only the input's shape is checked here."""
    shape = x.shape
    rows, columns = weight.shape
    if not torch.jit.is_tracing() and (not shape or shape[-1] != columns * blocks):
        raise RuntimeError(
            f"expected input (..., {columns * blocks}), as the weight is {rows, columns} and blocks={blocks}, "
            f"got {tuple(shape)}."
        )
    if blocks == 1:
        return F.linear(x, weight, bias)
    y = F.linear(x.reshape(-1, columns), weight, bias)  # two dimensions are the fastest
    return y.view(shape[0], rows * blocks) if len(shape) == 2 else y.view(*shape[:-1], rows * blocks)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size | str,
    dilation: Size,
    groups: int,
    blocks: int,
) -> Tensor:
    """Compute a convolution in the memory format of ``x``, whose shape and dtype alone are checked here.

    While ``torch.export`` or ``torch.jit`` record the call, and so in ONNX files, ``view`` computes it: it needs the
    filters once, where exporters would write out the repeated ones of ``grouped``. Sizes are symbols or tensors then,
    and a comparison would be recorded as a constant. Before 2.14 torch reports ``torch.compile`` as an export, too
    (pytorch/pytorch#176347), so ``view`` computes all compiled calls there.
    """
    traced = torch.compiler.is_exporting() or torch.jit.is_tracing()
    fits = traced or (x.shape[1:2] == (weight.shape[1] * groups * blocks,) and x.dtype == weight.dtype)
    if x.dim() != weight.dim() or not fits:
        spatial_dims = weight.dim() - 2
        if not traced:
            _checks.check_conv_input(x, channels=weight.shape[1] * groups * blocks, spatial_dims=spatial_dims)
            check_dtypes(x, weight, bias)
        if x.dim() == spatial_dims + 1:
            y = convolve(x.unsqueeze(0), weight, bias, stride, padding, dilation, groups, blocks)
            return y.squeeze(0)
    if blocks == 1:
        return CONV[weight.dim() - 2](x, weight, bias, stride, padding, dilation, groups)
    args = ConvArgs(stride, padding, dilation, groups, blocks)
    algorithm = view if traced else choose(x, weight, args)
    return layout.match_format(algorithm(x, weight, bias, args), like=x)


def pad(x: Tensor, amounts: list[int], mode: str, channels: int) -> Tensor:
    """Pad as ``F.pad``, but in the memory format of ``x``; torch's circular padding returns a contiguous tensor."""
    if not torch.jit.is_tracing():
        _checks.check_conv_input(x, channels=channels, spatial_dims=len(amounts) // 2)
    return layout.match_format(F.pad(x, amounts, mode=mode), like=x)


def _checked_conv(
    spatial_dims: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Padding,
    dilation: Size,
    groups: int,
    blocks: int,
) -> Tensor:
    """Check all arguments of a call, and compute it."""
    with _checks.named(f"tied_conv{spatial_dims}d"):
        check_tensors(x, weight, bias, groups, blocks, rank=spatial_dims + 2)
        return convolve(x, weight, bias, *check_geometry(spatial_dims, stride, padding, dilation), groups, blocks)


def check_geometry(
    dims: int, stride: Size, padding: Padding, dilation: Size, *, error: type[Exception] = RuntimeError
) -> tuple[Any, Any, Any]:
    """Check stride, padding and dilation, and return one entry of each per dimension, or the padding's name."""
    strides = _checks.per_dim("stride", stride, dims, minimum=1, error=error)
    dilation = _checks.per_dim("dilation", dilation, dims, minimum=1, error=error)
    if not isinstance(padding, str):
        return strides, _checks.per_dim("padding", padding, dims, minimum=0, error=error), dilation
    if padding not in ("same", "valid"):
        raise error(f'padding must be an int, a tuple of ints, "same" or "valid", got {padding!r}.')
    if padding == "same" and any(s != 1 for s in strides):
        raise error(f'padding="same" needs stride 1, got stride={stride}. Give the padding as numbers.')
    return strides, padding, dilation


def check_tensors(
    x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, blocks: int, *, rank: int, name: str = "the weight"
) -> None:
    """Check the tensors of a call, all but the input's shape, and its numbers of groups and blocks.

    ``rank`` is the weight's number of dimensions.
    """
    _checks.check_blocks({}, groups=groups, blocks=blocks)
    _checks.check_kinds({"x": x, "weight": weight, **({} if bias is None else {"bias": bias})})
    shape = tuple(weight.shape)
    if len(shape) != rank:
        expected = "(C_o/B, C_i/B)" if rank == 2 else "(C_o/B, C_i/(B*G), *kernel)"
        raise RuntimeError(f"expected {name} with {rank} dimensions, {expected}, got {shape}.")
    if not torch.jit.is_tracing():  # sizes are tensors then, and a comparison would be recorded as a constant
        if 0 in shape:  # torch's kernels differ in what they return then
            raise RuntimeError(f"{name} {shape} is empty. Every dimension needs at least one entry.")
        if shape[0] % groups:
            raise ValueError(f"the {shape[0]} rows of {name} are not divisible by groups={groups}.")
        if bias is not None and bias.shape != shape[:1]:
            raise RuntimeError(
                f"expected bias ({shape[0]},), one entry per row of {name} and shared by the blocks, "
                f"got {tuple(bias.shape)}."
            )
    check_dtypes(x, weight, bias)


def check_dtypes(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Check that the input is floating point and that the dtypes fit together."""
    _checks.check_floating(x)
    for name, tensor in {"weight": weight, "bias": bias}.items():
        if tensor is not None and tensor.dtype != x.dtype and not _autocasts(x):
            raise RuntimeError(
                f"the input is {x.dtype} and the {name} {tensor.dtype}. Convert one of them, or use torch.autocast."
            )


def _autocasts(x: Tensor) -> bool:
    # torch raises an error for meta, which has no autocast.
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
