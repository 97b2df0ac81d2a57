"""Which layers of a model are tied, with how many blocks, and why the others are not."""

import difflib
import re
from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise, takewhile
from math import prod
from typing import Any, Literal, get_args

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from ..nn import TIED_LAYERS, TiedConv1d, TiedConv2d, TiedConv3d, TiedLinear
from .replace import is_listed, widths
from .trial import Trial

Blocks = int | Mapping[str, int] | Callable[[nn.Module, str], int]
FilterFn = Callable[[nn.Module, str], bool]
Preset = Literal["all", "body", "entry", "se"]

TIED = {nn.Conv1d: TiedConv1d, nn.Conv2d: TiedConv2d, nn.Conv3d: TiedConv3d, nn.Linear: TiedLinear}

_SE = re.compile(r"(SE|SqueezeExcit\w*)(Module|Layer|Block)?")  # of timm, torchvision and most others


@dataclass(frozen=True)
class Choice:
    """What is decided about one layer."""

    name: str  # the first if it has several
    layer: Any
    blocks: int  # 0: it is kept
    reason: str  # why it is kept


def choose(
    model: nn.Module, blocks: Blocks, filter_fn: FilterFn | Preset | None, trial: Trial | None = None
) -> list[Choice]:
    """Decide about every convolution and linear layer of a model, by the arguments of :func:`tiedconv.tie_`.

    ``trial`` is a forward pass of the model, or None if it could not be run.
    """
    layers = {name: module for name, module in model.named_modules() if is_listed(module)}
    if filter_fn is not None and (isinstance(blocks, Mapping) or callable(blocks)):
        kind = "dict" if isinstance(blocks, Mapping) else "function"
        raise ValueError(
            f"blocks is a {kind}, which chooses the layers itself, and filter_fn is given too. Nothing was changed. "
            f"Give filter_fn with a number of blocks, or the {kind} alone."
        )
    asked = _asked(blocks, layers)
    by_name = layers.keys() & blocks.keys() if isinstance(blocks, Mapping) else set()
    preset = filter_fn
    if preset is None:
        preset = "all" if callable(blocks) else "body"
    outputs = _output_layers(model, trial)
    left_out = _filter(model, preset, outputs or ())
    owners = parameter_owners(model)
    read = _read_elsewhere(model)
    choices = []
    for name, layer in layers.items():
        reason = "" if name in by_name else left_out(layer, name)
        number = 0 if reason else asked(layer, name)
        if number > 1:
            reason = _obstacle(layer, owners) or read.get(id(layer), "")
            if not reason and trial is not None and name not in trial.macs:
                reason = "not called in a forward pass"  # torchvision's Swin hands its weights to a function
            reason = reason or _indivisible(layer, number)
            if reason and name in by_name:
                raise ValueError(
                    f"{name!r} is named in blocks and cannot be tied: {reason}. Nothing was changed. Leave it "
                    "out, or name it by a pattern, which takes what can be tied."
                )
        elif not reason:
            reason = "blocks is 1" if number else "no pattern in blocks matches"
        choices.append(Choice(name, layer, 0 if reason else number, reason))
    if preset == "body" and outputs is None and any(choice.blocks and choice.name not in by_name for choice in choices):
        why, what = "its code computes without gradients, which would show them", "Say"
        if trial is None:
            why, what = "it does not run on the input assumed", "Give example_inputs, or say"
        raise ValueError(
            f"cannot tell the output layers of {type(model).__name__}, which are kept: {why}. Nothing was "
            f"changed. {what} with filter_fn or names in blocks which layers to tie."
        )
    return choices


def _asked(blocks: Blocks, layers: Mapping[str, nn.Module]) -> Callable[[nn.Module, str], int]:
    """Check the argument ``blocks``, and return the function that says a layer's number; 0 where no pattern matches."""
    if isinstance(blocks, Mapping):
        for pattern, number in blocks.items():
            _check_number(number, f"blocks[{pattern!r}]")
            if pattern not in layers and not any(fnmatchcase(name, pattern) for name in layers):
                nearest = difflib.get_close_matches(pattern, layers, n=3, cutoff=0.0)
                raise ValueError(
                    f"the pattern {pattern!r} in blocks matches none of the {len(layers)} convolution and linear "
                    f"layers. Nearest names: {', '.join(nearest) or 'none'}. Nothing was changed. Correct the pattern "
                    "or remove it."
                )
    elif not callable(blocks):
        _check_number(blocks, "blocks")

    def asked(layer: nn.Module, name: str) -> int:
        if isinstance(blocks, Mapping):
            first = (number for pattern, number in blocks.items() if fnmatchcase(name, pattern))
            return blocks[name] if name in blocks else next(first, 0)
        if not callable(blocks):
            return blocks
        number = blocks(layer, name)
        _check_number(number, f"what blocks returned for {name!r}")
        return number

    return asked


def _check_number(number: object, what: str) -> None:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{what} must be an int, got {number!r} ({type(number).__name__}). Nothing was changed.")
    if number < 1:
        raise ValueError(f"{what} must be at least 1, got {number}. Nothing was changed. 1 keeps a layer as it is.")


def _filter(
    model: nn.Module, filter_fn: FilterFn | Preset, outputs: Collection[nn.Module]
) -> Callable[[nn.Module, str], str]:
    """Return the function that says why the filter leaves a layer out, or ""."""
    if callable(filter_fn):
        return lambda layer, name: "" if filter_fn(layer, name) else "left out by filter_fn"
    if filter_fn == "body":
        return lambda layer, name: "the model's output layer" if layer in outputs else ""
    if filter_fn == "entry":
        entries = _entry_convs(model)
        return lambda layer, name: "" if layer in entries else "not the 1x1 entry of a bottleneck"
    if filter_fn == "se":
        squeezers = _se_layers(model)
        return lambda layer, name: "" if layer in squeezers else "not in a squeeze-and-excitation module"
    if filter_fn == "all":
        return lambda layer, name: ""
    allowed = ", ".join(map(repr, get_args(Preset)))
    raise ValueError(
        f"filter_fn must be a function (module, name) -> bool or one of {allowed}, got {filter_fn!r}. Nothing "
        "was changed."
    )


def _output_layers(model: nn.Module, trial: Trial | None) -> set[nn.Module] | None:
    """Return the layers that give a model's outputs, of which each would see only one block of the features if tied.

    They are what timm's ``get_classifier()`` says, else the layers whose result no other module with weights takes. A
    layer with a norm behind it gives features and is none of them. Returns None if neither is known.
    """
    get_classifier = getattr(model, "get_classifier", None)
    if callable(get_classifier):
        heads = get_classifier()
        heads = heads if isinstance(heads, tuple) else (heads,)
        return {module for head in heads if isinstance(head, nn.Module) for module in head.modules()}
    if trial is None or trial.outputs is None:
        return None
    return {model.get_submodule(name) for name in trial.outputs}


def _entry_convs(model: nn.Module) -> set[nn.Module]:
    """Return the 1x1 convolutions that open a bottleneck, those that the paper ties (section 2).

    That is a 1x1 convolution which is the first of the smallest module that holds it and the convolution after it,
    where that one has a larger kernel: ``conv1`` of a ResNet's bottleneck, the expansion of an inverted residual.
    """
    convs = [(name, m) for name, m in model.named_modules() if isinstance(m, (_ConvNd, *TIED_LAYERS[:3]))]
    entries: set[nn.Module] = set()
    for (name, conv), (next_name, following) in pairwise(convs):
        if prod(conv.kernel_size) == 1 < prod(following.kernel_size):
            parents = zip(name.split(".")[:-1], next_name.split(".")[:-1], strict=False)
            inside = "".join(f"{part}." for part, _ in takewhile(lambda both: both[0] == both[1], parents))
            if name == next(other for other, _ in convs if other.startswith(inside)):
                entries.add(conv)
    return entries


def _se_layers(model: nn.Module) -> set[nn.Module]:
    """Return the layers inside squeeze-and-excitation modules (the paper's TiedSE, Table 3), known by their class."""
    return {layer for m in model.modules() if _SE.fullmatch(type(m).__name__) for layer in m.modules()}


def parameter_owners(model: nn.Module) -> dict[int, list[str]]:
    """Return which modules own each parameter, by the parameter's id."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name or "the model itself")
    return owners


def bound(layer: nn.Module, kinds: Container[type], owners: Mapping[int, list[str]]) -> str:
    """Return why no other layer can take the place of one that should be of these kinds, or ""."""
    if is_parametrized(layer):
        return "parametrized; torch.nn.utils.parametrize.remove_parametrizations makes it an ordinary layer"
    if type(layer) not in kinds:
        return f"a {type(layer).__name__}, which computes in a way of its own"
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    if any(hooks) or "forward" in vars(layer):  # some libraries set a function in the place of the method
        return "it has hooks, which would be lost; remove them first"
    if shared := [owner for p in layer.parameters() for owner in owners[id(p)] if len(owners[id(p)]) > 1]:
        return f"it shares a parameter: {', '.join(dict.fromkeys(shared))}"
    return ""


def _obstacle(layer: nn.Module, owners: Mapping[int, list[str]]) -> str:
    """Return why a layer cannot be tied with any number of blocks, or ""."""
    if isinstance(layer, TIED_LAYERS):
        return "tied already"
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return "a transposed convolution"
    if "quantized" in type(layer).__module__:
        return "quantised"
    if reason := bound(layer, TIED, owners):
        return reason
    if extra := {*layer._parameters, *layer._buffers, *layer._modules} - {"weight", "bias"}:
        return f"it holds more than weight and bias: {', '.join(sorted(extra))}"
    for weight in layer.parameters():
        if type(weight) is not nn.Parameter or not (weight.is_floating_point() or weight.is_complex()):
            return f"its weight is a {type(weight).__name__} of {weight.dtype}"
    if isinstance(layer, _ConvNd) and layer.groups == layer.in_channels > 1:
        return "depthwise: a filter sees one channel"
    return ""


def _read_elsewhere(model: nn.Module) -> dict[int, str]:
    """Return why layers cannot be tied although they are called, by the layer's id."""
    encoders = [module for module in model.modules() if isinstance(module, nn.TransformerEncoderLayer)]
    reason = "nn.TransformerEncoderLayer reads its weight in evaluation mode"
    return {id(layer): reason for encoder in encoders for layer in (encoder.linear1, encoder.linear2)}


def _indivisible(layer: Any, blocks: int) -> str:
    groups = getattr(layer, "groups", 1)
    odd = next((f"{name} {width}" for name, width in widths(layer).items() if width % (blocks * groups)), "")
    product = f"{blocks} blocks" if groups == 1 else f"{blocks} blocks * {groups} groups"
    return f"{odd} is not a multiple of {product}" if odd else ""
