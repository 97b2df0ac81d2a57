"""Where a forward pass calls which layer, and what the layers cost there."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from .._meta import on_meta
from ..nn import SplitTiedConv2d
from .placement import is_listed


@dataclass(frozen=True)
class Trial:
    """A forward pass of a model without values, for one input.

    Attributes:
        input_size: shape of the input without the batch dimension.
        outputs: layer → how many numbers its calls returned for that input. Layers that were not called are missing.
    """

    input_size: tuple[int, ...]
    outputs: dict[str, int]

    def macs(self, name: str, layer: nn.Module) -> int | None:
        """Return the multiply-adds of a layer for one input; None if it was not called."""
        outputs = self.outputs.get(name)
        if outputs is None:
            return None
        if isinstance(layer, SplitTiedConv2d):
            return outputs * sum(prod(weight.shape[1:]) for weight in layer.weights) // len(layer.weights)
        weight = getattr(layer, "weight", None)
        return outputs * prod(weight.shape[1:]) if isinstance(weight, Tensor) else 0


def try_forward(who: str, model: nn.Module, input_size: Sequence[int] | None) -> Trial | None:
    """Run a copy of a model on the meta device in evaluation mode, and count what each layer returns.

    Args:
        who: the caller, for messages.
        model: it is neither run nor changed.
        input_size: of one input, such as (3, 224, 224). None: timm's ``default_cfg``, else 224 pixels square with the
            channels of the first convolution, else the features of the first linear layer.

    Returns:
        None if no ``input_size`` was given and the model does not run with the one assumed.

    Raises:
        ValueError: if the model does not run with the ``input_size`` given.
    """
    size = _assumed(model) if input_size is None else tuple(input_size)
    if size is None:
        return None
    try:
        return Trial(size, _run(model, size))
    except Exception as error:  # whatever a model's code raises for an input that it is not made for
        if input_size is None:
            return None
        raise ValueError(
            f"{who}: {type(model).__name__} does not run on an input of input_size={size}: {error}. Nothing was "
            "changed. Give the shape of one input without the batch dimension."
        ) from error


@torch.no_grad()
def _run(model: nn.Module, size: tuple[int, ...]) -> dict[str, int]:
    outputs: dict[str, int] = {}
    twin = on_meta(model).eval()

    def counts(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs[name] = outputs.get(name, 0) + output.numel()

        return hook

    for name, module in twin.named_modules():
        if is_listed(module):
            module.register_forward_hook(counts(name))
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    twin(torch.empty(1, *size, device="meta", dtype=dtype))
    return outputs


def _assumed(model: nn.Module) -> tuple[int, ...] | None:
    config: Any = getattr(model, "default_cfg", None)
    if isinstance(config, dict) and config.get("input_size"):
        channels = getattr(model, "in_chans", None) or _first_channels(model) or config["input_size"][0]
        return (channels, *config["input_size"][1:])
    channels = _first_channels(model)
    if channels is not None:
        return (channels, 224, 224)
    linear = next((m for m in model.modules() if isinstance(m, nn.Linear)), None)
    return None if linear is None else (linear.in_features,)


def _first_channels(model: nn.Module) -> int | None:
    conv = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    return None if conv is None else conv.in_channels
