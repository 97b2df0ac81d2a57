"""Layers of a model replaced in place."""

from collections.abc import Container, Mapping
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin

from ..nn import TIED_LAYERS
from ..ops import layout

_WRAPPERS = ("OptimizedModule", "DistributedDataParallel", "DataParallel", "FullyShardedDataParallel")


def is_listed(module: nn.Module) -> bool:
    """Whether a module is a convolution or a linear layer of any kind, for which a report has a row."""
    quantized = "quantized" in type(module).__module__ and hasattr(module, "weight")
    return isinstance(module, (_ConvNd, nn.Linear, *TIED_LAYERS)) or quantized


def check_root(model: nn.Module) -> None:
    """As :func:`check_open`, and raise ValueError if ``model`` is itself a layer, or holds one of unknown shape."""
    check_open(model)
    if is_listed(model):
        raise ValueError(
            f"the model is itself a layer, a {type(model).__name__}, and cannot be replaced in place. Put it "
            "into a module, such as nn.Sequential(layer), and give that."
        )
    lazy = (name for name, module in model.named_modules() if isinstance(module, LazyModuleMixin))
    if name := next(lazy, None):
        raise ValueError(
            f"the shape of {name!r} is not known before a first forward pass. Nothing was changed. Run the "
            "model on an input first."
        )


def check_open(model: nn.Module) -> None:
    """Raise TypeError if ``model`` is not a module, or calls tied layers where they cannot be replaced."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}.")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"{type(model).__name__} is compiled by torch.jit. Give the module that it came from.")
    found = set(model.modules())
    for module in model.modules():
        kind = type(module).__name__
        if kind in _WRAPPERS and (module is model or _holds_tied(module)):
            raise TypeError(f"the model is wrapped in {kind}. Give the module inside, before it is wrapped.")
        for attribute, value in vars(module).items():
            if attribute != "_modules" and _hides_tied(value, found):
                raise TypeError(
                    f"{kind}.{attribute} holds tied layers in a {type(value).__name__}, where torch does not find them "
                    "and none can be replaced. Use nn.ModuleList or nn.ModuleDict."
                )
        if isinstance(module, torch.fx.GraphModule) and any(_is_ours(node.target) for node in module.graph.nodes):
            raise TypeError(
                f"{kind} is traced, with its tied layers as calls of functions. Give the module that it came "
                "from, and trace what you get."
            )


def _holds_tied(module: nn.Module) -> bool:
    return any(isinstance(inner, TIED_LAYERS) for inner in module.modules())


def _hides_tied(value: object, found: Container[nn.Module]) -> bool:
    """Whether an attribute refers to tied layers that exchanging the children of the modules ``found`` cannot reach."""
    if isinstance(value, nn.Module):
        return isinstance(value, TIED_LAYERS) or (value not in found and _holds_tied(value))
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return any(_hides_tied(item, found) for item in items)


def _is_ours(target: object) -> bool:
    return callable(target) and getattr(target, "__module__", "").startswith("tiedconv.")


def replace(model: nn.Module, new: Mapping[str, nn.Module]) -> None:
    """Put a new layer in the place of each layer named, wherever that one is used."""
    layers = {id(model.get_submodule(name)): layer for name, layer in new.items()}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if id(child) in layers:
                parent._modules[name] = layers[id(child)]


def widths(layer: Any) -> dict[str, int]:
    """Return the arguments that say how wide a layer is."""
    unit = "features" if isinstance(layer, nn.Linear) else "channels"
    return {name: getattr(layer, name) for name in (f"in_{unit}", f"out_{unit}")}


def geometry(conv: Any) -> dict[str, Any]:
    """Return the arguments of a convolution that tying leaves as they are."""
    names = ("kernel_size", "stride", "padding", "dilation")
    return {**{name: getattr(conv, name) for name in names}, "padding_mode": getattr(conv, "padding_mode", "zeros")}


def take_over(layer: nn.Module, old: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    """Give ``layer`` its weights, with the type, memory format and flags of those of ``old``, and its mode."""
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            template: Any = getattr(old, name, None)
            if template is None:  # the splits have several weights
                template = next(old.parameters())
            value = value.detach()
            if value.dim() == template.dim():
                value = layout.match_format(value, like=template)
            setattr(layer, name, nn.Parameter(value.to(template.dtype).clone(), requires_grad=template.requires_grad))
    layer.train(old.training)
