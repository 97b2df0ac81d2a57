"""The splits of a tied bottleneck as one layer."""

import math
from collections.abc import Sequence

import torch.fx
from torch import Tensor, device, dtype, empty, nn

from .. import _checks
from ..ops.algorithms import Size
from ..ops.functional import Padding, check_geometry
from ..ops.split import split_convolve

torch.fx.wrap("split_convolve")  # a trace records the call instead of going through it: it looks at sizes


class SplitTiedConv2d(nn.Module):
    r"""2-D convolution that splits its channels into equal parts, each tied in its own way.

    The 3x3 convolutions of the paper's bottleneck (section 2): :math:`s` = ``len(blocks)`` splits, where split
    :math:`i` is a tied convolution with ``blocks[i]`` blocks in each of ``groups[i]`` groups. Equal to a
    :class:`TiedConv2d` on each chunk of the channels and ``torch.cat`` of their outputs, as one layer that one norm can
    follow. There is no bias.

    Args:
        in_channels: channels of the input, a multiple of :math:`s \cdot` ``blocks[i] * groups[i]`` for every split.
        out_channels: channels of the output, likewise.
        kernel_size, stride, padding, dilation: as in ``torch.nn.Conv2d``, the same for all splits.
        groups: one number of groups per split. Default: 1 each.
        device, dtype: as in ``torch.nn.Conv2d``.
        blocks: one number of blocks per split.

    Shape:
        - Input: :math:`(N, C_i, H, W)` or :math:`(C_i, H, W)`; :math:`N` may be 0.
        - Output: :math:`(N, C_o, H', W')` or :math:`(C_o, H', W')`, in the input's memory format; :math:`H', W'` as in
          :class:`TiedConv2d`.

    Attributes:
        weights: one weight per split, :math:`(C_o / (s B_i),\; C_i / (s B_i G_i),\; k_H, k_W)`, initialised as
            :class:`TiedConv2d` does.

    Computed by :func:`tiedconv.ops.split_tied_conv2d`.

    Raises:
        TypeError: at construction, if ``groups`` or ``blocks`` is not a sequence of ints.
        ValueError: at construction, if ``groups`` and ``blocks`` have different lengths, or if the channels do not
            divide.
        RuntimeError: at the call, if the input is not 3-D or 4-D or has another number of channels.

    Example:
        >>> import torch
        >>> from tiedconv.nn import SplitTiedConv2d
        >>> conv = SplitTiedConv2d(128, 128, 3, padding=1, blocks=(1, 2, 4, 8))
        >>> [tuple(weight.shape) for weight in conv.weights]
        [(32, 32, 3, 3), (16, 16, 3, 3), (8, 8, 3, 3), (4, 4, 3, 3)]
        >>> conv(torch.zeros(2, 128, 7, 7)).shape
        torch.Size([2, 128, 7, 7])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: Sequence[int] | None = None,
        device: device | str | int | None = None,
        dtype: dtype | None = None,
        *,
        blocks: Sequence[int],
    ) -> None:
        super().__init__()
        with _checks.named(type(self).__name__):
            _checks.check_splits({"blocks": blocks, **({} if groups is None else {"groups": groups})})
            splits = len(blocks)
            groups = (1,) * splits if groups is None else groups
            channels = {"in_channels": in_channels, "out_channels": out_channels}
            _checks.check_blocks(channels, groups=1, blocks=1)
            for name, count in channels.items():
                if count % splits:
                    raise ValueError(f"{name}={count} is not divisible by the {splits} splits of {blocks=}.")
            widths = {f"{name}/{splits}": count // splits for name, count in channels.items()}
            for g, b in zip(groups, blocks, strict=True):
                _checks.check_blocks(widths, groups=g, blocks=b)
            self.in_channels = in_channels
            self.out_channels = out_channels
            self.kernel_size = _checks.per_dim("kernel_size", kernel_size, 2, minimum=1, error=ValueError)
            geometry = check_geometry(2, stride, padding, dilation, error=ValueError)
            self.stride, self.padding, self.dilation = geometry
        self.groups = tuple(groups)
        self.blocks = tuple(blocks)
        rows, columns = out_channels // splits, in_channels // splits
        self.weights = nn.ParameterList(
            nn.Parameter(empty(rows // b, columns // (b * g), *self.kernel_size, device=device, dtype=dtype))
            for g, b in zip(groups, blocks, strict=True)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every split's weight as :class:`TiedConv2d` does, for the fan-in of one block."""
        for weight in self.weights:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        weights = list(self.weights)
        with _checks.named(type(self).__name__):
            return split_convolve(
                input, weights, None, self.stride, self.padding, self.dilation, self.groups, self.blocks
            )

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, blocks={self.blocks}"
        )
