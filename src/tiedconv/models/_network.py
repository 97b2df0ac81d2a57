"""ResNet of timm that also initialises tied convolutions, and its variant for small images."""

import math
from typing import Any

from timm.models import build_model_with_cfg
from timm.models.resnet import ResNet
from torch import Tensor, device, dtype, nn

from ..nn import SplitTiedConv2d, TiedConv2d, TiedGlobalContext, TiedLinear


def init_tied(model: nn.Module) -> None:
    r"""Draw the weights of the tied layers in ``model``, Kaiming normal by the fan-out of one block of one group.

    timm does the same for untied layers. An input channel of a tied convolution reaches the :math:`C_o/(BG)` outputs of
    its own block and group and no others, so :math:`C_o k^2/(BG)` is the fan-out that keeps the gradient's variance,
    which sharing the numbers among B blocks does not change. Fan-in shrinks as fan-out does, so forward signals start
    as strong as untied ones. The last transform of a :class:`TiedGlobalContext` starts at zero.
    """
    for module in model.modules():
        if isinstance(module, TiedConv2d):
            _kaiming_fan_out(module.weight, module.groups)
        elif isinstance(module, SplitTiedConv2d):
            for weight, groups in zip(module.weights, module.groups, strict=True):
                _kaiming_fan_out(weight, groups)
        elif isinstance(module, TiedLinear):
            nn.init.normal_(module.weight, std=math.sqrt(2 / module.weight.shape[0]))
    for module in model.modules():  # after its layers, which the loop above has drawn
        if isinstance(module, TiedGlobalContext):
            module.reset_parameters()


def _kaiming_fan_out(weight: Tensor, groups: int) -> None:
    nn.init.normal_(weight, std=math.sqrt(2 * groups / (weight.shape[0] * math.prod(weight.shape[2:]))))


class TiedResNet(ResNet):
    """timm's ``ResNet`` whose tied layers are initialised too.

    All arguments, methods and module names are timm's, whose ``init_weights`` only knows ``torch.nn.Conv2d``.
    """

    def init_weights(self, zero_init_last: bool = True) -> None:
        """Draw the weights of the tied layers by :func:`init_tied`, and the rest as timm does."""
        init_tied(self)
        super().init_weights(zero_init_last=zero_init_last)


class SmallResNet(TiedResNet):
    """As :class:`TiedResNet`, for images of 8 to 128 pixels: the stem is one 3x3 convolution, all strides are halved.

    The stem has ``2 * stem_width`` channels, the stages strides 2, 4, 8 and 16. ``output_stride`` is counted
    accordingly: 16, 8 or 4.

    Args:
        pool: max pooling after a stem of stride 1. Default: a stem of stride 2 and no pooling.
    """

    def __init__(
        self,
        block: Any,
        layers: tuple[int, ...],
        num_classes: int = 1000,
        in_chans: int = 3,
        output_stride: int = 16,
        *,
        stem_width: int = 16,
        pool: bool = False,
        device: device | str | int | None = None,
        dtype: dtype | None = None,
        **kwargs: Any,
    ) -> None:
        if output_stride not in (4, 8, 16):
            raise ValueError(f"SmallResNet: output_stride must be 4, 8 or 16, got {output_stride}.")
        # timm has no argument for the width of a plain stem: ask for a deep one, and replace it below.
        super().__init__(
            block,
            layers,
            num_classes,
            in_chans,
            2 * output_stride,
            stem_type="deep",
            stem_width=stem_width,
            device=device,
            dtype=dtype,
            **kwargs,
        )
        stride = 1 if pool else 2
        stem: Any = nn.Conv2d(in_chans, 2 * stem_width, 3, stride, padding=1, bias=False, device=device, dtype=dtype)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        self.conv1 = stem
        if not pool:
            no_pool: Any = nn.Identity()
            self.maxpool = no_pool
        features: list[dict[str, Any]] = self.feature_info
        features[0]["reduction"] = stride
        for stage in features[1:]:
            stage["reduction"] //= 2


def build(
    variant: str, pretrained: bool, kwargs: dict[str, Any], *, network: type[ResNet] = TiedResNet, **defaults: Any
) -> ResNet:
    """Build a variant from its ``defaults``, overridden by the caller's ``kwargs``; ``block_args`` entry by entry."""
    block_args = {**defaults.get("block_args", {}), **(kwargs.get("block_args") or {})}
    return build_model_with_cfg(network, variant, pretrained, **{**defaults, **kwargs, "block_args": block_args})
