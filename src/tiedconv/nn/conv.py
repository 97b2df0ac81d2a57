"""Tied block convolutions as modules with the signatures of ``torch.nn.Conv1d/2d/3d``."""

from typing import ClassVar

import torch.fx
from torch import Tensor, device, dtype, empty, nn

from .. import _checks
from ..ops.algorithms import Size
from ..ops.functional import Padding, check_geometry, convolve, pad

# A trace records calls of these instead of going through them: they look at sizes.
torch.fx.wrap("convolve")
torch.fx.wrap("pad")

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _TiedConvNd(nn.Module):
    """What the three tied convolutions share; ``N`` is their number of spatial dimensions."""

    N: ClassVar[int]
    output_padding: ClassVar[tuple[int, ...]] = ()  # of a transposed convolution, in torch's repr

    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: device | str | int | None = None,
        dtype: dtype | None = None,
        *,
        blocks: int = 1,
    ) -> None:
        super().__init__()
        with _checks.named(type(self).__name__):
            channels = {"in_channels": in_channels, "out_channels": out_channels}
            _checks.check_blocks(channels, groups=groups, blocks=blocks)
            if padding_mode not in _PADDING_MODES:
                raise ValueError(f"padding_mode must be one of {', '.join(_PADDING_MODES)}, got {padding_mode!r}.")
            self.in_channels = in_channels
            self.out_channels = out_channels
            self.kernel_size = _checks.per_dim("kernel_size", kernel_size, self.N, minimum=1, error=ValueError)
            geometry = check_geometry(self.N, stride, padding, dilation, error=ValueError)
            self.stride, self.padding, self.dilation = geometry
        self.groups = groups
        self.blocks = blocks
        self.padding_mode = padding_mode

        rows, columns = out_channels // blocks, in_channels // (blocks * groups)
        self.weight = nn.Parameter(empty(rows, columns, *self.kernel_size, device=device, dtype=dtype))
        self.register_parameter("bias", nn.Parameter(empty(rows, device=device, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias as ``torch.nn.Conv2d`` does, which reads the fan-in of one block off the weight.

        An output channel sees the C_i/(B·G) input channels of its own block and nothing else. They set its variance;
        sharing the numbers among B blocks does not change it.
        """
        nn.Conv2d.reset_parameters(self)  # type: ignore[arg-type]

    def forward(self, input: Tensor) -> Tensor:
        padding: Size | str = self.padding
        with _checks.named(type(self).__name__):
            if self.padding_mode != "zeros":
                input, padding = self.pad_input(input), 0
            return convolve(
                input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups, self.blocks
            )

    def pad_input(self, x: Tensor) -> Tensor:
        """Pad ``x`` in a ``padding_mode`` other than ``"zeros"``, and keep its memory format."""
        before = after = (0,) * self.N if isinstance(self.padding, str) else self.padding
        if self.padding == "same":
            total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            before, after = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        amounts = [side for pair in zip(reversed(before), reversed(after), strict=True) for side in pair]
        return pad(x, amounts, self.padding_mode, self.in_channels)

    def extra_repr(self) -> str:
        return f"{nn.Conv2d.extra_repr(self)}, blocks={self.blocks}"  # type: ignore[arg-type]


class TiedConv2d(_TiedConvNd):
    r"""2-D convolution whose ``blocks`` channel blocks share one thin filter bank.

    Each group's input channels are split into ``blocks`` equal parts, and every part is convolved with that group's
    filters (paper, eq. 3; with ``groups`` > 1, eq. 4). Written :math:`B` = ``blocks`` and :math:`G` = ``groups``, the
    layer has :math:`B^2` times fewer weights and needs :math:`B` times fewer multiply-adds than ``torch.nn.Conv2d``
    with the same ``groups``. With ``blocks=1`` it is that layer, weights included.

    Args:
        in_channels: channels of the input, a multiple of ``blocks * groups``.
        out_channels: channels of the output, a multiple of ``blocks * groups``.
        kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype: as in ``torch.nn.Conv2d``.
        blocks: how many channel blocks share the filters, at least 1. Default 1: nothing is shared.

    Shape:
        - Input: :math:`(N, C_i, H, W)` or :math:`(C_i, H, W)`, contiguous or channels_last; :math:`N` may be 0.
        - Output: :math:`(N, C_o, H', W')` or :math:`(C_o, H', W')`, in the input's memory format, with
          :math:`H' = \lfloor (H + 2p - d(k_H - 1) - 1) / s \rfloor + 1` pixels; :math:`W'` likewise.

    Attributes:
        weight: :math:`(C_o / B,\; C_i / (BG),\; k_H, k_W)`; rows are ordered by group. Initialised as in
            ``torch.nn.Conv2d``, with fan-in :math:`C_i k_H k_W / (BG)`, the number of inputs an output really sees.
        bias: :math:`(C_o / B)`, shared by the blocks like the weight, or ``None``.

    Computed by :func:`tiedconv.ops.tied_conv2d`, which says more on cost and the order of channels.

    Raises:
        ValueError: at construction, if ``blocks * groups`` does not divide both channel counts, or for an argument
            that is out of range.
        RuntimeError: at the call, if the input is not 3-D or 4-D or has another number of channels.

    Example:
        >>> import torch
        >>> from tiedconv.nn import TiedConv2d
        >>> conv = TiedConv2d(64, 128, 3, padding=1, blocks=4)
        >>> conv.weight.shape, conv.bias.shape
        (torch.Size([32, 16, 3, 3]), torch.Size([32]))
        >>> conv(torch.zeros(8, 64, 56, 56)).shape
        torch.Size([8, 128, 56, 56])
        >>> sum(p.numel() for p in conv.parameters())  # torch.nn.Conv2d: 73856
        4640
    """

    N = 2


class TiedConv1d(_TiedConvNd):
    r"""As :class:`TiedConv2d`, for sequences :math:`(N, C_i, L)` or :math:`(C_i, L)`."""

    N = 1


class TiedConv3d(_TiedConvNd):
    r"""As :class:`TiedConv2d`, for volumes :math:`(N, C_i, D, H, W)` or :math:`(C_i, D, H, W)`."""

    N = 3
