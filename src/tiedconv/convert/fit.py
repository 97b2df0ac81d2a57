"""Tied weights fitted to a network's data: each layer's output on sample images, layer after layer."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import first_line
from ..nn import TiedLinear
from ..ops.algorithms import CONV
from .project import OutputFit

Images = Tensor | Iterable[Tensor]
Progress = Callable[[int, int], None]


class _Reached(Exception):  # noqa: N818  a signal, not an error
    """Ends a forward pass at the last call of the layer being fitted."""


@torch.no_grad()
def fit_outputs(
    model: nn.Module,
    dense: nn.Module,
    names: Collection[str],
    images: list[Tensor],
    progress: Progress | None = None,
) -> dict[str, float]:
    """Fit the weights of tied layers, one after the other, to the outputs of the dense layers.

    Layers are fitted in the order of a forward pass. A layer's input is taken from the tied network, whose earlier
    layers are fitted already, and its target from the dense one, so it also corrects the errors of those before it.
    Returns the relative error of each layer's output, without the layers that no image reaches.
    """
    errors: dict[str, float] = {}
    with evaluation(model), evaluation(dense):
        for name, calls in _calls(dense, names, images[0]).items():
            errors[name] = _fit_layer(model, dense, name, images, calls)
            if progress is not None:
                progress(len(errors), len(names))
    return errors


def _fit_layer(model: nn.Module, dense: nn.Module, name: str, images: list[Tensor], calls: int) -> float:
    tied: Any = model.get_submodule(name)
    groups = 1 if isinstance(tied, TiedLinear) else tied.groups
    fit = OutputFit(tied.weight, tied.bias, groups=groups, blocks=tied.blocks)
    for batch in images:
        seen = _seen(model, name, batch, calls, outputs=False)
        wanted = _seen(dense, name, batch, calls, outputs=True)
        if len(seen) != len(wanted):
            raise ValueError(
                f'init="data": {name!r} is called {len(wanted)} times for a batch of images, and {len(seen)} times in '
                "the tied network. Nothing was changed. Leave it out, with blocks or filter_fn."
            )
        for x, y in zip(seen, wanted, strict=True):
            fit.add(*_samples(tied, x, y))
    if not fit.finite:
        raise ValueError(
            f'init="data": the inputs or outputs of {name!r} on images are not finite. Nothing was changed. Give '
            "images as the model expects them."
        )
    weight, bias, error = fit.solve()
    tied.weight.copy_(weight)
    if bias is not None:
        tied.bias.copy_(bias)
    return error


def as_batches(images: Images) -> list[Tensor]:
    """Return the batches of ``images``: alike and of at most 32 from a tensor (N, ...), the items of an iterable."""
    batches: list[Any] = []
    if isinstance(images, Tensor):
        if images.dim() and len(images):
            batches = list(images.tensor_split(-(-len(images) // 32)))
    elif isinstance(images, Iterable):
        batches = [item[0] if isinstance(item, list | tuple) and item else item for item in images]
    else:
        got = type(images).__name__
        raise TypeError(f"images must be a tensor (N, ...) or an iterable of such batches, got {got}.")
    if odd := next((type(batch).__name__ for batch in batches if not isinstance(batch, Tensor)), None):
        raise TypeError(f"images must hold tensors (N, ...), or pairs that begin with one, got a {odd}.")
    batches = [batch for batch in batches if len(batch)]
    if not batches:
        raise ValueError("images holds no image. Give a few hundred of the kind that the model is for.")
    return batches


@torch.no_grad()
def check_runs(model: nn.Module, batches: list[Tensor]) -> None:
    """Raise ValueError if a model does not run on the first image."""
    first = batches[0][:1].clone()  # which the model's code may change
    try:
        with evaluation(model):
            model(first)
    except Exception as error:  # whatever a model's code raises for inputs that it is not made for
        raise ValueError(
            f"{type(model).__name__} does not run on images, here of {tuple(first.shape)}, {first.dtype}, on "
            f"{first.device}: {first_line(error)}. Nothing was changed. Give them as the model takes them. Images are "
            'for models that take one tensor; tie_(init="project") needs none.'
        ) from error


def _samples(tied: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the filters see at each position, (N, C_i·k, L), and what they are to answer there, (N, C_o, L)."""
    if isinstance(tied, TiedLinear):  # its features come last
        return x.reshape(-1, x.shape[-1]).T[None], y.reshape(-1, y.shape[-1]).T[None]
    if x.dim() < tied.weight.dim():
        x, y = x[None], y[None]
    padding = tied.padding
    if tied.padding_mode != "zeros":
        x, padding = tied.pad_input(x), 0
    # A convolution with one filter for every number of a patch: one line for all dimensions, strides and dilations.
    size, channels = tied.weight[0, 0].numel(), x.shape[1]
    one_hot = torch.eye(size, dtype=x.dtype, device=x.device).view(size, 1, *tied.kernel_size)
    filters = one_hot.repeat(channels, 1, *(1,) * tied.N)
    return CONV[tied.N](x, filters, None, tied.stride, padding, tied.dilation, channels).flatten(2), y.flatten(2)


def _calls(model: nn.Module, names: Collection[str], batch: Tensor) -> dict[str, int]:
    """Return how often a forward pass calls each layer, in the order of the first calls."""
    calls: dict[str, int] = {}

    def count(name: str, *call: Any) -> None:
        calls[name] = calls.get(name, 0) + 1

    handles = [model.get_submodule(name).register_forward_hook(partial(count, name)) for name in names]
    try:
        model(batch[:1].clone())  # as in check_runs
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _seen(model: nn.Module, name: str, batch: Tensor, calls: int, *, outputs: bool) -> list[Tensor]:
    """Return what a layer takes, or returns, in each of its calls in a forward pass that ends with the last one."""
    seen: list[Tensor] = []

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
        found = output if outputs else args[0] if args else kwargs["input"]
        seen.append(found.clone())  # which an in-place layer behind it may change before the last call
        if len(seen) == calls:
            raise _Reached

    layer = model.get_submodule(name)
    register = layer.register_forward_hook if outputs else layer.register_forward_pre_hook
    handle = register(note, with_kwargs=True)
    try:
        model(batch.clone())
    except _Reached:
        pass
    finally:
        handle.remove()
    return seen


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Keep a model in evaluation mode inside the ``with`` block."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
