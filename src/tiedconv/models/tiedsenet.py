"""Networks with tied squeeze-and-excitation: TiedSENet (paper, Table 1) and SE-ResNet-50 with TiedSE (Table 3)."""

from functools import partial
from typing import Any

from timm.models.resnet import Bottleneck

from ..nn import TiedSE
from ._block import TiedBottleneck
from ._network import register_resnet

_resnet = partial(register_resnet, __name__)
_SE2 = {"attn_layer": partial(TiedSE, reduction=16, blocks=2)}
_SE50: dict[str, Any] = {"block": TiedBottleneck, "layers": (3, 4, 6, 3), "base_width": 32, "block_args": _SE2}
_SE101: dict[str, Any] = {**_SE50, "layers": (3, 4, 23, 3)}
_SE101_S: dict[str, Any] = {**_SE101, "base_width": 18, "block_args": {**_SE2, "blocks": (1, 1, 2, 2)}}

_AT_THE_END = "with TiedSE, two blocks, at the end of every bottleneck"
_resnet("tiedsenet50", f"TiedResNet-50 {_AT_THE_END}; not in the paper's tables.", **_SE50)
_resnet("tiedsenet101", f"TiedSENet-101: TiedResNet-101 {_AT_THE_END} (Table 1).", **_SE101)
_resnet("tiedsenet101_s", f"TiedSENet-101-S: TiedResNet-101-S {_AT_THE_END} (Table 1).", **_SE101_S)

for _blocks, _many in ((2, "two"), (4, "four"), (8, "eight")):
    _resnet(
        f"tiedseresnet50_b{_blocks}",
        f"SE-ResNet-50 with {_many} blocks in TiedSE and everything else untied (Table 3).",
        block=Bottleneck,
        layers=(3, 4, 6, 3),
        block_args={"attn_layer": partial(TiedSE, reduction=16, blocks=_blocks)},
    )
