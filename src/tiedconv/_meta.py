"""Copies of models, with their values and without: for changing what is copied, and for counting without computing."""

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_UNDONE_BY = {
    WeightNorm: "torch.nn.utils.remove_weight_norm",
    SpectralNorm: "torch.nn.utils.remove_spectral_norm",
    BasePruningMethod: "torch.nn.utils.prune.remove",
}


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of ``model``.

    Raises:
        ValueError: as :func:`check_copyable`.
    """
    check_copyable(model)
    return copy.deepcopy(model)


def on_meta(model: nn.Module) -> nn.Module:
    """Copy ``model`` with its parameters and buffers on the meta device; the originals are not copied on the way.

    Raises:
        ValueError: as :func:`check_copyable`.
    """
    check_copyable(model)
    memo: dict[int, Tensor] = {}  # deepcopy takes from here what it would copy
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(model, memo)


def check_copyable(model: nn.Module) -> None:
    """Check that no module of ``model`` holds a tensor that was computed with gradients, which torch does not copy.

    Raises:
        ValueError: if one does. The message says what to call first.
    """
    for name, module in model.named_modules():
        if how := reparametrized(module):
            raise ValueError(f"{name or 'the model'!r} {how}")
        if held := [key for key, value in vars(module).items() if isinstance(value, Tensor) and not value.is_leaf]:
            raise ValueError(
                f"{name or 'the model'!r} holds a tensor that was computed with gradients, {held[0]!r}, and cannot be "
                "copied. Set it to None or to its detach() first."
            )


def reparametrized(module: nn.Module) -> str:
    """Return how hooks of torch's old kind compute a weight of ``module``, and what removes them; "" if none do."""
    for hook in module._forward_pre_hooks.values():
        for kind, function in _UNDONE_BY.items():
            if isinstance(hook, kind):
                given: Any = hook
                tensor = getattr(given, "name", None) or given._tensor_name
                return (
                    f"has a {tensor} that a hook computes ({type(given).__name__}), and cannot be copied or replaced. "
                    f"Call {function}(module, {tensor!r}) first."
                )
    return ""
