"""Networks with tied squeeze-and-excitation: TiedSENet (paper, Table 1) and SE-ResNet-50 with TiedSE (Table 3)."""

from functools import partial
from typing import Any

from timm.models.resnet import Bottleneck, ResNet

from ..nn import TiedSE
from ._block import TiedBottleneck
from ._factory import register
from ._network import build

_SE2 = {"attn_layer": partial(TiedSE, reduction=16, blocks=2)}
_SE50: dict[str, Any] = {"block": TiedBottleneck, "layers": (3, 4, 6, 3), "base_width": 32, "block_args": _SE2}
_SE101: dict[str, Any] = {**_SE50, "layers": (3, 4, 23, 3)}


@register()
def tiedsenet50(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNet-50 with TiedSE, two blocks, at the end of every bottleneck; not in the paper's tables."""
    return build("tiedsenet50", pretrained, kwargs, **_SE50)


@register()
def tiedsenet101(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedSENet-101: TiedResNet-101 with TiedSE, two blocks, at the end of every bottleneck (Table 1)."""
    return build("tiedsenet101", pretrained, kwargs, **_SE101)


@register()
def tiedsenet101_s(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedSENet-101-S: TiedResNet-101-S with TiedSE, two blocks, at the end of every bottleneck (Table 1)."""
    small = {"base_width": 18, "block_args": {**_SE2, "blocks": (1, 1, 2, 2)}}
    return build("tiedsenet101_s", pretrained, kwargs, **{**_SE101, **small})


def _tied_seresnet50(name: str, pretrained: bool, kwargs: dict[str, Any], *, blocks: int) -> ResNet:
    block_args = {"attn_layer": partial(TiedSE, reduction=16, blocks=blocks)}
    return build(name, pretrained, kwargs, block=Bottleneck, layers=(3, 4, 6, 3), block_args=block_args)


@register()
def tiedseresnet50_b2(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """SE-ResNet-50 with two blocks in TiedSE and everything else untied (Table 3)."""
    return _tied_seresnet50("tiedseresnet50_b2", pretrained, kwargs, blocks=2)


@register()
def tiedseresnet50_b4(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """As :func:`tiedseresnet50_b2`, with four blocks."""
    return _tied_seresnet50("tiedseresnet50_b4", pretrained, kwargs, blocks=4)


@register()
def tiedseresnet50_b8(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """As :func:`tiedseresnet50_b2`, with eight blocks."""
    return _tied_seresnet50("tiedseresnet50_b8", pretrained, kwargs, blocks=8)
