"""TiedResNet (paper, Tables 1, 5 and 6), and pairs of small networks, tied and untied, for small images."""

from functools import partial
from typing import Any

from timm.models.resnet import Bottleneck

from ._block import TiedBottleneck
from ._network import SmallResNet, register_resnet

_R50: dict[str, Any] = {"block": TiedBottleneck, "layers": (3, 4, 6, 3), "base_width": 32}
_R101: dict[str, Any] = {**_R50, "layers": (3, 4, 23, 3)}
# 4 and 8 do not divide splits of 18 channels. Of the blocks that do, these come nearest to the published counts.
_THIN = {"blocks": (1, 1, 2, 2)}
_S: dict[str, Any] = {"base_width": 18, "block_args": _THIN}
# The nearest width that fills vectors of 16 numbers. Engines make more of these networks than of S.
_ALIGNED: dict[str, Any] = {"base_width": 16, "block_args": _THIN}
_LITE: dict[str, Any] = {"base_width": 16, "block_args": {**_THIN, "shared_blocks": 4}}

_resnet = partial(register_resnet, __name__)
_resnet("tiedresnet50", "TiedResNet-50, 4s x 32w with 1, 2, 4 and 8 blocks (Table 1).", **_R50)
_resnet("tiedresnet101", "TiedResNet-101, 4s x 32w with 1, 2, 4 and 8 blocks (Table 1).", **_R101)
_resnet("tiedresnet50_s", "TiedResNet-50-S, 4s x 18w (Table 1).", **{**_R50, **_S})
_resnet("tiedresnet101_s", "TiedResNet-101-S, 4s x 18w (Table 1).", **{**_R101, **_S})
_resnet(
    "tiedresnet50_4s16w",
    "TiedResNet-50, 4s x 16w: as S, but its splits fill vectors; not in the paper's tables.",
    **{**_R50, **_ALIGNED},
)
_resnet("tiedresnet101_4s16w", "TiedResNet-101, 4s x 16w; not in the paper's tables.", **{**_R101, **_ALIGNED})
_resnet(
    "tiedresnet50_lite",
    "TiedResNet-50, 4s x 16w, with four blocks in entry, mixer and shortcut; not in the paper's tables.",
    **{**_R50, **_LITE},
)
_resnet(
    "tiedresnet50_2s48w",
    "TiedResNet-50 with two splits of 48 channels (Table 5).",
    **{**_R50, "base_width": 48, "block_args": {"splits": 2, "blocks": (1, 2)}},
)
_resnet(
    "tiedresnet50_6s24w",
    "TiedResNet-50 with six splits of 24 channels (Table 5).",
    **{**_R50, "base_width": 24, "block_args": {"splits": 6, "blocks": (1, 1, 2, 2, 4, 4)}},
)
_resnet(
    "tiedresnet50_8s18w",
    "TiedResNet-50 with eight splits of 18 channels (Table 5).",
    **{**_R50, "base_width": 18, "block_args": {"splits": 8, "blocks": (1, 1, 1, 1, 2, 2, 2, 2)}},
)
_resnet(
    "tiedresnet50_concat",
    "TiedResNet-50 whose mixer concatenates the splits (Table 6).",
    **_R50,
    block_args={"mixer": "concatenate"},
)

_images = {"input_size": (3, 32, 32), "pool_size": (2, 2), "crop_pct": 1.0}
_little = partial(_resnet, network=SmallResNet, cfg=_images)
_SMALL: dict[str, Any] = {"layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256), "pool": True}
_TINY: dict[str, Any] = {"layers": (2, 2, 2, 2), "channels": (16, 32, 64, 128)}
_TIED: dict[str, Any] = {"block": TiedBottleneck, "base_width": 32, "block_args": _THIN}

_little(
    "resnet_small",
    """Bottleneck ResNet of 14 layers for images of 32 to 128 pixels, the untied twin of ``tiedresnet_small``.

    Its bottlenecks are 64 to 512 channels wide inside and 128 to 1024 outside. With 10 classes: 4.89 M parameters, and
    67.5 M MACs per 32x32 image.
    """,
    block=Bottleneck,
    base_width=128,
    **_SMALL,
)
_little(
    "tiedresnet_small",
    """TiedResNet of the same skeleton as ``resnet_small``, 4s x 32w: splits of 16 to 128 channels, which fill vectors.

    With 10 classes: 1.69 M parameters, and 29.9 M MACs per 32x32 image.
    """,
    **_TIED,
    **_SMALL,
)
_little(
    "resnet_tiny",
    """Bottleneck ResNet of 26 layers for small images (8 to 64 pixels), the untied twin of ``tiedresnet_tiny``.

    With one input channel and 10 classes it has 883 562 parameters, and 10.28 M MACs per 28x28 image. By timm's
    argument, ``base_width=61`` gives it the twin's parameters (832 366), ``base_width=71`` the twin's MACs (11.53 M).
    """,
    block=Bottleneck,
    **_TINY,
)
_little(
    "tiedresnet_tiny",
    """TiedResNet of the same skeleton as ``resnet_tiny``, 4s x 32w, for small images.

    The splits are 8, 16, 32 and 64 channels wide, too thin for 8 blocks (one channel each in the first stage), so the
    splits have 1, 1, 2 and 2. With one input channel and 10 classes: 828 842 parameters, and 11.61 M MACs per 28x28
    image against the twin's 10.28 M; the next width that two blocks divide everywhere, ``base_width=24``, has 8.27 M.
    """,
    **_TIED,
    **_TINY,
)
