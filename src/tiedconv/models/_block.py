"""The tied bottleneck, which TiedResNet, TiedResNeXt and TiedSENet share."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from timm.layers import create_aa, create_attn
from torch import Tensor, device, dtype, nn

from .._checks import named
from ..convert.tie import tied_twin
from ..nn import SplitTiedConv2d, TiedConv2d

Mixer = Literal["sum", "concatenate"]


class TiedBottleneck(nn.Module):
    r"""Bottleneck whose 3x3 convolution is divided among thin splits, each tied in its own way (paper, section 2).

    A block class for ``timm.models.resnet.ResNet``, whose ``block_args`` pass on what timm's own blocks do not take.
    With :math:`s` splits, :math:`w` = ``base_width * planes / 64`` channels each, and batch norm after every
    convolution:

    1. entry: 1x1, :math:`C_i → sw`, tied by ``shared_blocks``, activation;
    2. split ``i``: 3x3 on channels :math:`[iw, (i+1)w)`, tied by ``blocks[i]``, with the block's stride, activation;
    3. mixer: 3x3, :math:`w → w` on the splits' sum (or :math:`sw → w` on their concatenation), tied by
       ``shared_blocks``, activation: here information crosses the splits;
    4. exit: 1x1, :math:`(s + 1) w → 4` ``planes``, untied, on the splits' and the mixer's outputs; attention;
    5. plus the shortcut, activation. A stage's first shortcut is tied by ``shared_blocks``.

    The paper does not print the block; this structure agrees with its prose and with Table 1's counts.

    Args:
        inplanes: channels of the input, :math:`C_i`.
        planes: a quarter of the output's channels.
        stride: of the splits and of the shortcut.
        downsample: the shortcut that timm builds; its convolution is replaced by a tied one of the same shape.
        cardinality: convolution groups of all splits together (TGC, eq. 4): 1, or a multiple of ``splits``, which share
            them evenly. ``groups`` and ``mixer_groups`` set them separately.
        base_width: width of a split at 64 planes, the ``w`` of the paper's "4s x 32w".
        reduce_first: timm's argument for SENet-154; only 1 is supported.
        dilation, first_dilation: of the mixer and of the splits.
        act_layer, norm_layer, attn_layer, aa_layer, drop_block, drop_path: as in timm's ``Bottleneck``. One norm serves
            all splits, which for a batch norm is the same as one each.
        device, dtype: as in ``torch.nn.Conv2d``.
        splits: how many splits, :math:`s`.
        blocks: blocks of each split's convolution, one number per split.
        mixer: how the splits' outputs are fused, ``"sum"`` or ``"concatenate"`` (Table 6).
        shared_blocks: blocks of the entry, the mixer and the shortcut.
        groups: groups of each split's convolution, one number per split. Default: ``cardinality / splits`` each.
        mixer_groups: groups of the mixer's convolution. Default: ``cardinality / splits``.

    Shape:
        - Input: :math:`(N, C_i, H, W)`.
        - Output: :math:`(N, 4` ``planes`` :math:`, ⌈H / stride⌉, ⌈W / stride⌉)`, in the input's memory format.

    Raises:
        ValueError: at construction, if ``mixer`` is unknown, ``blocks`` or ``groups`` does not have ``splits`` entries,
            or a width is not divisible by its groups and blocks.

    Example:
        >>> block = TiedBottleneck(256, 64, base_width=32)
        >>> block(torch.zeros(2, 256, 56, 56)).shape
        torch.Size([2, 256, 56, 56])
        >>> sum(p.numel() for p in block.parameters())  # timm's Bottleneck(256, 64): 70400
        64784
    """

    expansion = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        cardinality: int = 1,
        base_width: int = 32,
        reduce_first: int = 1,
        dilation: int = 1,
        first_dilation: int | None = None,
        act_layer: type[nn.Module] = nn.ReLU,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
        attn_layer: Any = None,
        aa_layer: Any = None,
        drop_block: Any = None,
        drop_path: nn.Module | None = None,
        device: device | str | int | None = None,
        dtype: dtype | None = None,
        *,
        splits: int = 4,
        blocks: Sequence[int] = (1, 2, 4, 8),
        mixer: Mixer = "sum",
        shared_blocks: int = 2,
        groups: Sequence[int] | None = None,
        mixer_groups: int | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        with named("TiedBottleneck"):
            if reduce_first != 1:
                raise ValueError(f"block_reduce_first must be 1, got {reduce_first}.")
            if mixer not in get_args(Mixer):
                raise ValueError(f"mixer must be one of {', '.join(get_args(Mixer))}, got {mixer!r}.")
            if cardinality > 1 and cardinality % splits:
                raise ValueError(
                    f"cardinality={cardinality} is not divisible by splits={splits}. The splits share the groups "
                    "evenly."
                )
            even_share = 1 if cardinality == 1 else cardinality // splits
            groups = (even_share,) * splits if groups is None else groups
            for name, values in (("blocks", blocks), ("groups", groups)):
                if len(values) != splits:
                    raise ValueError(
                        f"{name}={tuple(values)} has {len(values)} entries for splits={splits}. "
                        f"Give one number of {name} per split."
                    )
            width, rest = divmod(planes * base_width, 64)
            if rest or width < 1:
                raise ValueError(
                    f"a split of base_width={base_width} at planes={planes} has planes * base_width / 64 = "
                    f"{planes * base_width / 64:g} channels. Choose a base_width that gives whole channels in every "
                    "stage."
                )
        outplanes = planes * self.expansion
        first_dilation = first_dilation or dilation
        blurred = aa_layer is not None and (stride == 2 or first_dilation != dilation)

        self.conv1 = TiedConv2d(inplanes, splits * width, 1, bias=False, blocks=shared_blocks, **dd)
        self.bn1 = norm_layer(splits * width, **dd)
        self.act1 = act_layer(inplace=True)
        self.conv2 = SplitTiedConv2d(
            splits * width,
            splits * width,
            3,
            stride=1 if blurred else stride,
            padding=first_dilation,
            dilation=first_dilation,
            groups=groups,
            blocks=blocks,
            **dd,
        )
        self.bn2 = norm_layer(splits * width, **dd)
        self.act2 = act_layer(inplace=True)
        self.aa: Any = create_aa(aa_layer, channels=splits * width, stride=stride, enable=blurred, **dd)

        self.splits = splits
        self.mixer = mixer
        self.mix_conv = TiedConv2d(
            width if mixer == "sum" else splits * width,
            width,
            3,
            padding=dilation,
            dilation=dilation,
            groups=even_share if mixer_groups is None else mixer_groups,
            bias=False,
            blocks=shared_blocks,
            **dd,
        )
        self.mix_bn = norm_layer(width, **dd)
        self.mix_act = act_layer(inplace=True)
        self.drop_block = drop_block() if drop_block is not None else nn.Identity()

        self.conv3 = nn.Conv2d((splits + 1) * width, outplanes, 1, bias=False, **dd)
        self.bn3 = norm_layer(outplanes, **dd)
        self.se = create_attn(attn_layer, outplanes, **dd)
        self.act3 = act_layer(inplace=True)
        self.downsample = None if downsample is None else tie_shortcut(downsample, blocks=shared_blocks)
        self.stride = stride
        self.dilation = dilation
        self.drop_path = drop_path

    def zero_init_last(self) -> None:
        """Set the last norm's scale to zero, so that the block starts as its shortcut (timm's ``zero_init_last``)."""
        scale = getattr(self.bn3, "weight", None)
        if scale is not None:
            nn.init.zeros_(scale)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)

        x = self.act1(self.bn1(self.conv1(x)))
        splits = self.aa(self.act2(self.bn2(self.conv2(x))))
        mixed = self.mix_act(self.mix_bn(self.mix_conv(self._mix(splits))))
        # DropBlock masks and rescales by a positive number, so after a ReLU it does what timm's does before one.
        x = self.drop_block(torch.cat([splits, mixed], dim=1))
        x = self.bn3(self.conv3(x))

        if self.se is not None:
            x = self.se(x)
        if self.drop_path is not None:
            x = self.drop_path(x)
        x += shortcut
        return self.act3(x)

    def _mix(self, splits: Tensor) -> Tensor:
        if self.mixer == "concatenate":
            return splits
        parts = splits.chunk(self.splits, dim=1)
        if self.splits == 1:
            return parts[0]
        total = parts[0] + parts[1]
        for i in range(2, self.splits):
            total += parts[i]  # in place: the sum is a new tensor, and no gradient needs its old value
        return total


def tie_shortcut(downsample: nn.Module, *, blocks: int) -> nn.Sequential:
    """Return the shortcut that timm built (pool?, convolution, norm) with its convolution tied."""
    layers = downsample.children()
    tied = (tied_twin(layer, blocks, "random") if isinstance(layer, nn.Conv2d) else layer for layer in layers)
    return nn.Sequential(*tied)
