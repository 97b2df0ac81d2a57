"""TiedResNeSt: split attention over a tied convolution (paper, section 2 and Table 1)."""

from typing import Any

from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import ResNet

from ..convert.replace import geometry
from ..convert.tie import tied_twin
from ..nn import TiedConv2d
from ._block import tie_shortcut
from ._factory import register
from ._network import build


class TiedResNestBottleneck(ResNestBottleneck):
    """timm's ``ResNestBottleneck`` with a tied entry 1x1, 3x3 and shortcut; the split attention stays as it is.

    timm's 3x3 has one group for every path of the split attention. Here the paths are the blocks of one tied
    convolution: each sees its own channels and all use the same filters, which saves weights and no MACs. The paper
    names the 3x3 and the entry; its 16.5 M parameters need this reading of the 3x3, and the shortcut tied as well.

    Args:
        args, kwargs: as in ``ResNestBottleneck``.
        blocks: blocks of the entry and of the shortcut.

    Raises:
        ValueError: at construction, if ``blocks`` does not divide a width or ``radix`` is below 1.

    Example:
        >>> block = TiedResNestBottleneck(256, 64, radix=2)
        >>> block.conv1.weight.shape, block.conv2.conv.weight.shape  # ResNestBottleneck: 256 and 32 inputs, 128 rows
        (torch.Size([32, 128, 1, 1]), torch.Size([64, 32, 3, 3]))
    """

    def __init__(self, *args: Any, blocks: int = 2, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.radix < 1:
            raise ValueError(f"TiedResNestBottleneck: radix must be at least 1, got radix={self.radix}.")
        entry: Any = tied_twin(self.conv1, blocks, "random")
        self.conv1 = entry
        attention: Any = self.conv2
        paths = attention.conv
        attention.conv = TiedConv2d(
            paths.in_channels,
            paths.out_channels,
            **geometry(paths),
            bias=paths.bias is not None,
            device=paths.weight.device,
            dtype=paths.weight.dtype,
            blocks=paths.groups,
        )
        if self.downsample is not None:
            self.downsample = tie_shortcut(self.downsample, blocks=blocks)


@register(first_conv="conv1.0")
def tiedresnest50_s(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNeSt-50-S: ResNeSt-50-fast 2s1x64d with two blocks in every entry 1x1, 3x3 and shortcut (Table 1)."""
    return build(
        "tiedresnest50_s",
        pretrained,
        kwargs,
        block=TiedResNestBottleneck,
        layers=(3, 4, 6, 3),
        stem_type="deep",
        stem_width=32,
        avg_down=True,
        block_args={"radix": 2, "avd": True, "avd_first": True},
    )
