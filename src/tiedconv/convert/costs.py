"""Where a forward pass calls which layer, and what the layers cost there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._counting import counted_macs
from .._meta import on_meta
from .placement import is_listed
from .replace import replace


@dataclass(frozen=True)
class Trial:
    """A forward pass of a model without values, for one input.

    Attributes:
        input_size: shape of the input without the batch dimension.
        dtype: its type.
        macs: layer → multiply-adds of its calls for that input. Layers that were not called are missing.
    """

    input_size: tuple[int, ...]
    dtype: torch.dtype
    macs: dict[str, int]


def try_forward(model: nn.Module, input_size: Sequence[int] | None, images: Tensor | None = None) -> Trial | None:
    """Run a copy of a model on the meta device in evaluation mode, and count what each layer costs.

    Args:
        model: it is neither run nor changed.
        input_size: of one input, such as (3, 224, 224). None: that of ``images``, else timm's ``default_cfg``, else 224
            pixels square with the channels of the first convolution, else the features of the first linear layer.
        images: a batch whose type the input gets. Default: the type of the model's parameters.

    Returns:
        None if no ``input_size`` was given and the model does not run with the one assumed.

    Raises:
        TypeError: if ``input_size`` is not a sequence of integers.
        ValueError: if the model does not run with the ``input_size`` given.
    """
    if input_size is not None:
        if not isinstance(input_size, Sequence) or not all(isinstance(length, int) for length in input_size):
            raise TypeError(
                f"input_size must be the shape of one input, such as (3, 224, 224), got {input_size!r}. Nothing "
                "was changed."
            )
        size: tuple[int, ...] | None = tuple(input_size)
    else:
        size = _assumed(model) if images is None else tuple(images.shape[1:])
    if size is None:
        return None
    dtype = _dtype(model) if images is None else images.dtype
    try:
        return Trial(size, dtype, _run(on_meta(model), size, dtype))
    except Exception as error:  # whatever a model's code raises for an input that it is not made for
        if input_size is None:
            return None
        raise ValueError(
            f"{type(model).__name__} does not run on an input of input_size={size}: {error}. Nothing was "
            "changed. Give the shape of one input without the batch dimension."
        ) from error


def parameters(module: nn.Module) -> int:
    """Return how many parameters a module has, each shared one once."""
    return sum(parameter.numel() for parameter in module.parameters())


def try_tied(model: nn.Module, tied: Mapping[str, nn.Module], trial: Trial) -> dict[str, int]:
    """Repeat a trial with tied layers in the places of their names, in a copy, and return the multiply-adds of layers.

    So it shows where a model gets at its layers by other ways than a call of what stands in that place.

    Raises:
        ValueError: if the pass fails or does not call one of them.
    """
    twin = on_meta(model)
    replace(twin, {id(twin.get_submodule(name)): on_meta(layer) for name, layer in tied.items()})
    advice = "Nothing was changed. Leave the layer out, with blocks or filter_fn."
    try:
        macs = _run(twin, trial.input_size, trial.dtype)
    except Exception as error:  # as in try_forward
        raise ValueError(
            f"tie_: {type(model).__name__} runs on an input of shape {(1, *trial.input_size)}, but not with the layers "
            f"tied: {error}. Its code probably reads the weight of one of them. {advice}"
        ) from error
    if missed := [name for name in tied if name not in macs]:
        raise ValueError(
            f"tie_: {', '.join(map(repr, missed[:5]))} would stand in the model tied, but its code calls the old layer "
            f"by another reference, such as a list of its own or a compiled function. {advice}"
        )
    return macs


def _run(twin: nn.Module, size: tuple[int, ...], dtype: torch.dtype) -> dict[str, int]:
    layers = {name: module for name, module in twin.eval().named_modules() if is_listed(module)}
    with torch.no_grad(), counted_macs(layers) as macs:
        twin(torch.empty(1, *size, device="meta", dtype=dtype))
    return macs


def _dtype(model: nn.Module) -> torch.dtype:
    types = (p.dtype for p in model.parameters() if p.is_floating_point() or p.is_complex())
    return next(types, torch.get_default_dtype())


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
