"""TiedResNet (paper, Tables 1, 5 and 6), and pairs of small networks, tied and untied, for small images."""

from typing import Any

from timm.models.resnet import Bottleneck, ResNet

from ._block import TiedBottleneck
from ._factory import register
from ._network import SmallResNet, build

_SMALL_CFG: dict[str, Any] = {"input_size": (3, 32, 32), "pool_size": (2, 2), "crop_pct": 1.0}
_R50: dict[str, Any] = {"block": TiedBottleneck, "layers": (3, 4, 6, 3), "base_width": 32}
_R101: dict[str, Any] = {**_R50, "layers": (3, 4, 23, 3)}
# 4 and 8 do not divide splits of 18 channels. Of the blocks that do, these come nearest to the published counts.
_S: dict[str, Any] = {"base_width": 18, "block_args": {"blocks": (1, 1, 2, 2)}}
# The nearest width that fills vectors of 16 numbers. Engines make more of these networks than of S.
_ALIGNED: dict[str, Any] = {"base_width": 16, "block_args": {"blocks": (1, 1, 2, 2)}}
_SMALL: dict[str, Any] = {
    "network": SmallResNet,
    "layers": (1, 1, 1, 1),
    "channels": (32, 64, 128, 256),
    "pool": True,
}
_TINY: dict[str, Any] = {"network": SmallResNet, "layers": (2, 2, 2, 2), "channels": (16, 32, 64, 128)}


@register()
def tiedresnet50(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNet-50, 4s x 32w with 1, 2, 4 and 8 blocks (Table 1)."""
    return build("tiedresnet50", pretrained, kwargs, **_R50)


@register()
def tiedresnet101(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNet-101, 4s x 32w with 1, 2, 4 and 8 blocks (Table 1)."""
    return build("tiedresnet101", pretrained, kwargs, **_R101)


@register()
def tiedresnet50_s(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNet-50-S, 4s x 18w (Table 1)."""
    return build("tiedresnet50_s", pretrained, kwargs, **{**_R50, **_S})


@register()
def tiedresnet101_s(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNet-101-S, 4s x 18w (Table 1)."""
    return build("tiedresnet101_s", pretrained, kwargs, **{**_R101, **_S})


@register()
def tiedresnet50_4s16w(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNet-50, 4s x 16w: as S, but its splits fill vectors; not in the paper's tables."""
    return build("tiedresnet50_4s16w", pretrained, kwargs, **{**_R50, **_ALIGNED})


@register()
def tiedresnet101_4s16w(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNet-101, 4s x 16w; not in the paper's tables."""
    return build("tiedresnet101_4s16w", pretrained, kwargs, **{**_R101, **_ALIGNED})


@register()
def tiedresnet50_lite(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNet-50, 4s x 16w, with four blocks in entry, mixer and shortcut; not in the paper's tables."""
    lite = {"block_args": {**_ALIGNED["block_args"], "shared_blocks": 4}}
    return build("tiedresnet50_lite", pretrained, kwargs, **{**_R50, **_ALIGNED, **lite})


@register()
def tiedresnet50_2s48w(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNet-50 with two splits of 48 channels (Table 5)."""
    block_args = {"splits": 2, "blocks": (1, 2)}
    return build("tiedresnet50_2s48w", pretrained, kwargs, **{**_R50, "base_width": 48, "block_args": block_args})


@register()
def tiedresnet50_6s24w(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNet-50 with six splits of 24 channels (Table 5)."""
    block_args = {"splits": 6, "blocks": (1, 1, 2, 2, 4, 4)}
    return build("tiedresnet50_6s24w", pretrained, kwargs, **{**_R50, "base_width": 24, "block_args": block_args})


@register()
def tiedresnet50_8s18w(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNet-50 with eight splits of 18 channels (Table 5)."""
    block_args = {"splits": 8, "blocks": (1, 1, 1, 1, 2, 2, 2, 2)}
    return build("tiedresnet50_8s18w", pretrained, kwargs, **{**_R50, "base_width": 18, "block_args": block_args})


@register()
def tiedresnet50_concat(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNet-50 whose mixer concatenates the splits (Table 6)."""
    return build("tiedresnet50_concat", pretrained, kwargs, **_R50, block_args={"mixer": "concatenate"})


@register(**_SMALL_CFG)
def resnet_small(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """Bottleneck ResNet of 14 layers for images of 32 to 128 pixels, the untied twin of ``tiedresnet_small``.

    Its bottlenecks are 64 to 512 channels wide inside and 128 to 1024 outside. With 10 classes: 4.89 M parameters, and
    67.5 M MACs per 32x32 image.
    """
    return build("resnet_small", pretrained, kwargs, block=Bottleneck, base_width=128, **_SMALL)


@register(**_SMALL_CFG)
def tiedresnet_small(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNet of the same skeleton as ``resnet_small``, 4s x 32w: splits of 16 to 128 channels, which fill vectors.

    With 10 classes: 1.69 M parameters, and 29.9 M MACs per 32x32 image.
    """
    block_args = {"blocks": (1, 1, 2, 2)}
    return build(
        "tiedresnet_small", pretrained, kwargs, block=TiedBottleneck, base_width=32, block_args=block_args, **_SMALL
    )


@register(**_SMALL_CFG)
def resnet_tiny(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """Bottleneck ResNet of 26 layers for small images (8 to 64 pixels), the untied twin of ``tiedresnet_tiny``.

    With one input channel and 10 classes it has 883 562 parameters, and 10.28 M MACs per 28x28 image. By timm's
    argument, ``base_width=61`` gives it the twin's parameters (832 366), ``base_width=71`` the twin's MACs (11.53 M).
    """
    return build("resnet_tiny", pretrained, kwargs, block=Bottleneck, **_TINY)


@register(**_SMALL_CFG)
def tiedresnet_tiny(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNet of the same skeleton as ``resnet_tiny``, 4s x 32w, for small images.

    The splits are 8, 16, 32 and 64 channels wide, too thin for 8 blocks (one channel each in the first stage), so the
    splits have 1, 1, 2 and 2. With one input channel and 10 classes: 828 842 parameters, and 11.61 M MACs per 28x28
    image against the twin's 10.28 M; the next width that two blocks divide everywhere, ``base_width=24``, has 8.27 M.
    """
    block_args = {"blocks": (1, 1, 2, 2)}
    return build(
        "tiedresnet_tiny", pretrained, kwargs, block=TiedBottleneck, base_width=32, block_args=block_args, **_TINY
    )
