"""Which layers a forward pass calls, what they cost there, and which of them give the model's outputs."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves, tree_map_only

from .._counting import counted_macs
from .._meta import check_copyable, copied, on_meta
from .placement import is_listed
from .replace import replace
from .trial import Trial


def try_forward(model: nn.Module, input_size: Sequence[int] | None, images: Tensor | None = None) -> Trial | None:
    """Run a copy of a model in evaluation mode, without values if its code allows that, and look at its layers.

    Args:
        model: it is neither run nor changed.
        input_size: of one input, such as (3, 224, 224). None: that of ``images``, else timm's ``default_cfg``, else 224
            pixels square with the channels of the first convolution, else the features of the first linear layer.
        images: a batch whose type the input gets. Default: the type of the model's parameters.

    Returns:
        None if no ``input_size`` was given and the model does not run with the one assumed.

    Raises:
        TypeError: if ``input_size`` is not a sequence of integers.
        ValueError: if the model does not run with the ``input_size`` given, or cannot be copied.
    """
    check_copyable(model)
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
        return _trial(on_meta(model), size, dtype)
    except Exception:  # whatever a model's code raises for an input that it is not made for, or without values
        try:
            return _trial(copied(model), size, dtype)
        except Exception as error:
            if input_size is None:
                return None
            raise ValueError(
                f"{type(model).__name__} does not run on an input of input_size={size}: {error}. Nothing was "
                "changed. Give the shape of one input without the batch dimension."
            ) from error


def parameters(module: nn.Module) -> int:
    """Return how many parameters a module has, each shared one once."""
    return sum(parameter.numel() for parameter in module.parameters())


def try_tied(model: nn.Module, tied: Mapping[str, nn.Module], trial: Trial) -> dict[str, int | None]:
    """Repeat a trial with tied layers in the places of their names, in a copy, and return the multiply-adds of layers.

    So it shows where a model gets at its layers by other ways than a call of what stands in that place.

    Raises:
        ValueError: if the pass fails or does not call one of them.
    """
    twin = trial.copy(model)
    replace(twin, {id(twin.get_submodule(name)): trial.copy(layer) for name, layer in tied.items()})
    advice = "Nothing was changed. Leave the layer out, with blocks or filter_fn."
    try:
        with torch.no_grad():
            macs = _run(twin, _listed(twin), trial.input_size, trial.dtype)
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


def _trial(twin: nn.Module, size: tuple[int, ...], dtype: torch.dtype) -> Trial:
    layers = _listed(twin)
    for parameter in (parameter for layer in layers.values() for parameter in layer.parameters()):
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_()
    flow = _Flow(twin, layers)
    # The graph is looked at and never run backward, so that it needs no activations.
    with torch.enable_grad(), saved_tensors_hooks(lambda tensor: None, lambda nothing: nothing):
        macs = _run(twin, layers, size, dtype)
    return Trial(size, dtype, _device(twin), macs, flow.outputs())


def _listed(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if is_listed(module)}


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("meta"))


def _run(
    twin: nn.Module, layers: Mapping[str, nn.Module], size: tuple[int, ...], dtype: torch.dtype
) -> dict[str, int | None]:
    device = _device(twin)
    with counted_macs(layers) as macs:
        twin.eval()(torch.zeros(1, *size, device=device, dtype=dtype))
    return dict(macs) if device.type == "meta" else dict.fromkeys(macs)


class _Flow:
    """Which layers' results other modules with weights take, seen in the graph that autograd builds.

    So it does not need what the model returns: a detector's head counts though its boxes are sorted out afterwards, and
    a region proposal's though its boxes are cut from the graph before they are used.

    Args:
        model: a copy, which keeps the hooks.
        layers: of the model, by name.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
        self._results: dict[str, list[Any]] = {}
        self._taken: list[Any] = []
        for module in model.modules():
            if not isinstance(module, torch.jit.ScriptModule) and module._parameters:
                module.register_forward_pre_hook(self._take, with_kwargs=True)
        for name, layer in layers.items():
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
                edges = node.next_functions[:1] if "_roi_" in node.name() else node.next_functions
                waiting.extend(before for before, _ in edges)
        return frozenset(name for name, nodes in self._results.items() if not seen.issuperset(nodes))


def _nodes(values: Any) -> list[Any]:
    return [value.grad_fn for value in tree_leaves(values) if isinstance(value, Tensor)]


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
