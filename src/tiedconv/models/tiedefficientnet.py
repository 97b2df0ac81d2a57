"""EfficientNet-B0 with tied squeeze-and-excitation (paper, Table 3)."""

from functools import partial
from typing import Any

from timm.models import resolve_pretrained_cfg
from timm.models.efficientnet import EfficientNet, efficientnet_b0
from torch import nn

from ..nn import TiedSE
from ._factory import register
from ._network import init_tied

_CFG = {"interpolation": "bicubic", "first_conv": "conv_stem", "classifier": "classifier"}


class TiedSqueezeExcite(TiedSE):
    """:class:`~tiedconv.nn.TiedSE` with the signature and the initialisation that timm's EfficientNet builder expects.

    Args:
        channels: channels of the input.
        rd_ratio: hidden width over ``channels``; the width is rounded to a multiple of ``blocks``.
        act_layer, device, dtype, blocks: as in :class:`~tiedconv.nn.TiedSE`.
    """

    def __init__(
        self,
        channels: int,
        rd_ratio: float = 0.25,
        act_layer: type[nn.Module] = nn.ReLU,
        device: Any = None,
        dtype: Any = None,
        *,
        blocks: int = 2,
    ) -> None:
        super().__init__(channels, 1 / rd_ratio, blocks, act_layer=act_layer, device=device, dtype=dtype)

    def init_weights(self) -> None:
        """Start as timm's untied squeeze-and-excitation: normal by fan-out, zero bias. timm's builder calls it."""
        init_tied(self)
        for layer in (self.fc1, self.fc2):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _tied_efficientnet_b0(name: str, pretrained: bool, kwargs: dict[str, Any], *, blocks: int) -> EfficientNet:
    # timm's own entry point builds the network, and would otherwise take the configuration of efficientnet_b0.
    cfg = resolve_pretrained_cfg(name, kwargs.pop("pretrained_cfg", None), kwargs.pop("pretrained_cfg_overlay", None))
    options = {"se_layer": partial(TiedSqueezeExcite, blocks=blocks), **kwargs}
    return efficientnet_b0(pretrained=pretrained, pretrained_cfg=cfg, **options)


@register(**_CFG)
def tiedefficientnet_b0_b2(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B0 with two blocks in TiedSE (Table 3)."""
    return _tied_efficientnet_b0("tiedefficientnet_b0_b2", pretrained, kwargs, blocks=2)


@register(**_CFG)
def tiedefficientnet_b0_b4(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B0 with four blocks in TiedSE (Table 3)."""
    return _tied_efficientnet_b0("tiedefficientnet_b0_b4", pretrained, kwargs, blocks=4)
