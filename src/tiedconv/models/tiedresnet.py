"""TiedResNet (paper, Tables 1, 5 and 6) and a pair of small networks, tied and untied, for small images."""

from typing import Any

from timm.models import generate_default_cfgs
from timm.models.resnet import Bottleneck, ResNet

from ._block import TiedBottleneck
from ._factory import imagenet_cfg, register
from ._network import SmallResNet, build

__all__: list[str] = []  # timm's register_model adds the registered names

_SMALL = imagenet_cfg(input_size=(3, 32, 32), pool_size=(2, 2), crop_pct=1.0)

default_cfgs = generate_default_cfgs(
    {
        "tiedresnet50": imagenet_cfg(),
        "tiedresnet_tiny": _SMALL,
        "resnet_tiny": _SMALL,
    }
)

_DEPTH_50 = (3, 4, 6, 3)
_TINY: dict[str, Any] = {"network": SmallResNet, "layers": (2, 2, 2, 2), "channels": (16, 32, 64, 128)}


@register
def tiedresnet50(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNet-50, 4s x 32w."""
    return build("tiedresnet50", pretrained, kwargs, block=TiedBottleneck, layers=_DEPTH_50, base_width=32)


@register
def resnet_tiny(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """Bottleneck ResNet of 26 layers for small images (8 to 64 pixels), the untied twin of ``tiedresnet_tiny``.

    With one input channel and 10 classes it has 883 562 parameters, and 10.28 M MACs per 28x28 image. By timm's
    argument, ``base_width=61`` gives it the twin's parameters (832 366) and ``base_width=71`` the twin's MACs (11.53 M).
    """
    return build("resnet_tiny", pretrained, kwargs, block=Bottleneck, **_TINY)


@register
def tiedresnet_tiny(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNet of the same skeleton as ``resnet_tiny``, 4s x 32w, for small images.

    The splits are 8, 16, 32 and 64 channels wide, too thin for 8 blocks (one channel each in the first stage), so the
    splits have 1, 1, 2 and 2. With one input channel and 10 classes: 828 842 parameters, and 11.61 M MACs per 28x28
    image against the twin's 10.28 M; the next width that two blocks divide everywhere, ``base_width=24``, has 8.27 M.
    """
    block_args = {"splits": 4, "blocks": (1, 1, 2, 2)}
    return build(
        "tiedresnet_tiny", pretrained, kwargs, block=TiedBottleneck, base_width=32, block_args=block_args, **_TINY
    )
