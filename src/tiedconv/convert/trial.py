"""Trial passes: which layers a model calls, what they cost there, and which of them give the model's outputs."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves, tree_map_only

from .._checks import first_line
from .._counting import counted_macs
from .._meta import check_copyable, copied, on_meta
from .replace import is_listed, replace


@dataclass(frozen=True)
class Trial:
    """A forward pass of a copy of a model in evaluation mode.

    Attributes:
        inputs: what the model was called with, in the form of ``example_inputs`` of :func:`tiedconv.tie_`.
        assumed: whether nobody gave them.
        input_shapes: of the tensors in ``inputs``.
        macs: layer → multiply-adds of its calls; None where values of an assumed input decide about them. Layers that
            were not called are missing.
        outputs: the layers whose result no other module with weights takes. None: the code computes without gradients,
            by which they are found.
    """

    inputs: Any
    assumed: bool
    input_shapes: tuple[tuple[int, ...], ...]
    macs: dict[str, int | None]
    outputs: frozenset[str] | None


def try_forward(model: nn.Module, example_inputs: Any = None) -> Trial | None:
    """Run a copy of a model on the example inputs of :func:`tiedconv.tie_`, and look at its layers.

    Returns None if no inputs were given and the model does not run on the ones assumed; raises ValueError if it does
    not run on those given, or cannot be copied.
    """
    check_copyable(model)
    assumed = example_inputs is None
    inputs = _assumed(model) if assumed else example_inputs
    if inputs is None:
        return None
    shapes = tuple(tuple(tensor.shape) for tensor in _tensors(inputs, set()))
    try:
        return Trial(inputs, assumed, shapes, *_run(model, inputs, assumed))
    except Exception as error:  # whatever a model's code raises for inputs that it is not made for
        if assumed:
            return None
        raise ValueError(
            f"{type(model).__name__} does not run on the inputs given, of type {type(inputs).__name__} and with "
            f"tensors of {shapes}: {first_line(error)}. Nothing was changed. Give what its forward takes, in the right "
            "shapes and data types: one argument (which a list is, too), a tuple of arguments or a dict of keyword "
            "arguments."
        ) from error


def try_tied(model: nn.Module, tied: Mapping[str, nn.Module], trial: Trial) -> dict[str, int | None]:
    """Repeat a trial with tied layers, and return the multiply-adds of layers.

    Raises ValueError if a tied layer is not called in its place, or other code reads its weight.
    """
    advice = "Nothing was changed. Leave the layer out, with blocks or filter_fn."
    try:
        macs, _ = _run(model, trial.inputs, trial.assumed, tied)
    except Exception as error:  # as in try_forward
        raise ValueError(
            f"{type(model).__name__} runs on tensors of {trial.input_shapes}, but not with the layers tied: "
            f"{first_line(error)}. Its code probably reads the weight of one of them. {advice}"
        ) from error
    if missed := [name for name in tied if name not in macs]:
        raise ValueError(
            f"{', '.join(map(repr, missed[:5]))} can be replaced in the model, but its code calls the old layer by "
            f"another reference, such as a list of its own or a compiled function. {advice}"
        )
    return macs


def parameters(module: nn.Module) -> int:
    """Return how many parameters a module has, each shared one once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _run(
    model: nn.Module, inputs: Any, assumed: bool, tied: Mapping[str, nn.Module] | None = None
) -> tuple[dict[str, int | None], frozenset[str] | None]:
    """Call a copy of a model with tied layers in it; return the multiply-adds of its layers, and the output layers."""
    failures = []
    # Without values if the model's code allows that. With them, the graph is looked at and never run backward, and so
    # needs no activations, unless the code calls autograd.grad.
    for twin_of, keeps_activations in ((on_meta, True), (copied, False), (copied, True)):
        try:
            twin = twin_of(model).eval()
            replace(twin, {name: twin_of(layer) for name, layer in (tied or {}).items()})
            flow = _Flow(twin)
            layers = _listed(twin)
            device = next((p.device for p in twin.parameters()), torch.device("meta"))
            given = _moved(inputs, device)
            positional = given if isinstance(given, tuple) else () if isinstance(given, Mapping) else (given,)
            by_name = given if isinstance(given, Mapping) else {}
            saved = nullcontext() if keeps_activations else saved_tensors_hooks(lambda tensor: None, lambda none: none)
            with torch.enable_grad(), saved, counted_macs(layers) as macs:
                twin(*positional, **by_name)
            known = device.type == "meta" or not assumed
            return dict(macs) if known else dict.fromkeys(macs), flow.outputs()
        except Exception as error:
            failures.append(error)
    raise failures[-1]


def _moved(inputs: Any, device: torch.device) -> Any:
    """Return a copy of inputs, which the model's code may change, with the tensors in it on a device."""
    memo = {  # deepcopy takes from here what it would copy
        id(tensor): tensor.detach().to(device, copy=True).requires_grad_(tensor.requires_grad)
        for tensor in _tensors(inputs, set())
    }
    return copy.deepcopy(inputs, memo)


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Yield every tensor in containers and in attributes of objects, such as dataclasses and caches, once."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item, seen)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _tensors(item, seen)
    elif hasattr(value, "__dict__") and not isinstance(value, type | FunctionType | ModuleType):  # which are not copied
        yield from _tensors(vars(value), seen)


def _listed(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if is_listed(module)}


class _Flow:
    """Which layers' results other modules with weights take, seen in the graph that autograd builds.

    So it does not matter what the model returns: a detector's head is found although its boxes are filtered afterwards,
    and a region proposal's although its boxes are detached before they are used.

    Args:
        model: a copy, which keeps the hooks, and whose parameters require gradients afterwards.
    """

    def __init__(self, model: nn.Module) -> None:
        self._results: dict[str, list[Any]] = {}
        self._taken: list[Any] = []
        for module in model.modules():
            if not isinstance(module, torch.jit.ScriptModule) and list(module.parameters(recurse=False)):
                module.register_forward_pre_hook(self._take, with_kwargs=True)
        for parameter in model.parameters():
            if parameter.is_floating_point() or parameter.is_complex():
                parameter.requires_grad_()
        for name, layer in _listed(model).items():
            if any(parameter.requires_grad for parameter in layer.parameters()):
                layer.register_forward_hook(partial(self._result, name))

    def _take(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._taken.extend(_nodes((args, kwargs)))

    def _result(self, name: str, module: nn.Module, args: Any, output: Any) -> Any:
        # A clone has a node of its own. That of a view is lost when its values are changed in place.
        output = tree_map_only(Tensor, Tensor.clone, output)
        self._results.setdefault(name, []).extend(_nodes(output))
        return output

    def outputs(self) -> frozenset[str] | None:
        """Return the layers with a result that no module takes; None if a layer computed without gradients."""
        if any(node is None for nodes in self._results.values() for node in nodes):
            return None
        seen, waiting = {None}, self._taken
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                # Of a pooling of regions only its maps: in evaluation its boxes still hang on the head that gave them.
                edges = node.next_functions[:1] if "roi" in node.name().lower() else node.next_functions
                waiting.extend(before for before, _ in edges)
        return frozenset(name for name, nodes in self._results.items() if not seen.issuperset(nodes))


def _nodes(values: Any) -> list[Any]:
    return [value.grad_fn for value in tree_leaves(values) if isinstance(value, Tensor)]


def _assumed(model: nn.Module) -> Tensor | None:
    """Return an input of zeros, of the type of the model's parameters; None if nothing says what it could be.

    It is an image of timm's size, or of 224 pixels square for the first convolution, or the first linear layer's input.
    """
    config: Any = getattr(model, "default_cfg", None)
    conv = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    linear = next((m for m in model.modules() if isinstance(m, nn.Linear)), None)
    if isinstance(config, dict) and config.get("input_size"):
        channels = getattr(model, "in_chans", None) or (conv.in_channels if conv else config["input_size"][0])
        size = (channels, *config["input_size"][1:])
    elif conv is not None:
        size = (conv.in_channels, 224, 224)
    elif linear is not None:
        size = (linear.in_features,)
    else:
        return None
    types = (p.dtype for p in model.parameters() if p.is_floating_point() or p.is_complex())
    return torch.zeros(1, *size, dtype=next(types, torch.get_default_dtype()))
