"""Tied weights fitted to a network's data: each layer's output on sample images, layer after layer."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn import TiedLinear
from .project import OutputFit

Images = Tensor | Iterable[Tensor]


class _Reached(Exception):  # noqa: N818  a signal, not an error
    """Ends a forward pass at the last call of the layer being fitted."""


@torch.no_grad()
def fit_outputs(
    model: nn.Module, dense: nn.Module, names: Iterable[str], images: list[Tensor], advance: Callable[[], None]
) -> dict[str, float]:
    """Fit the weights of tied layers, one after the other, to the outputs of the dense layers.

    Layers are fitted in the order of a forward pass. A layer's input is taken from the tied network, whose earlier
    layers are fitted already, and its target from the dense one, so it also corrects the errors of those before it.

    Args:
        model: the tied network, in evaluation mode.
        dense: its copy from before the tying, in evaluation mode.
        names: the tied layers.
        images: batches, as the model takes them.
        advance: called after every layer.

    Returns:
        The relative error of each layer's output, without the layers that no image reaches.
    """
    errors = {}
    for name, calls in _calls(dense, set(names), images[0]).items():
        tied = model.get_submodule(name)
        errors[name] = _fit_layer(name, tied, (model, tied), (dense, dense.get_submodule(name)), images, calls)
        advance()
    return errors


@torch.no_grad()
def fit_alone(tied: nn.Module, model: nn.Module, name: str, images: list[Tensor]) -> None:
    """Fit the weights of a tied layer to the output of the untied one in its own network.

    Args:
        tied: what would take the layer's place.
        model: the untied network, in evaluation mode.
        name: the layer.
        images: batches, as the model takes them.
    """
    place = (model, model.get_submodule(name))
    for calls in _calls(model, {name}, images[0]).values():
        _fit_layer(name, tied, place, place, images, calls)


def _fit_layer(
    name: str,
    tied: Any,
    inputs: tuple[nn.Module, nn.Module],
    outputs: tuple[nn.Module, nn.Module],
    images: list[Tensor],
    calls: int,
) -> float:
    """Fit a tied layer to the inputs and the outputs of two layers, each given with its model; return the error."""
    fit = _fit_for(tied)
    for batch in images:
        seen = _seen(*inputs, batch, calls, outputs=False)
        wanted = _seen(*outputs, batch, calls, outputs=True)
        if len(seen) != len(wanted):
            raise ValueError(
                f'init="data": {name!r} is called {len(wanted)} times for a batch of images, {len(seen)} times where '
                "the tied layers stand. Nothing was changed. Leave it out, with blocks or filter_fn."
            )
        for x, y in zip(seen, wanted, strict=True):
            fit.add(*_batched(tied, x, y))
    if not fit.finite:
        raise ValueError(
            f'init="data": what {name!r} takes or returns on images is not finite. Nothing was changed. Give images as '
            "the model takes them."
        )
    weight, bias, error = fit.solve()
    tied.weight.copy_(weight)
    if bias is not None:
        tied.bias.copy_(bias)
    return error


def as_batches(images: Images) -> list[Tensor]:
    """Return the batches of ``images``: 32 at a time from a tensor (N, ...), the items of an iterable.

    Raises:
        TypeError: if it is neither, or an item is not a tensor.
        ValueError: if there are no images.
    """
    if isinstance(images, Tensor):
        batches = list(images.split(32)) if images.dim() else []
    elif isinstance(images, Iterable):
        batches = [item[0] if isinstance(item, list | tuple) and item else item for item in images]
    else:
        got = type(images).__name__
        raise TypeError(f"images must be a tensor (N, ...) or an iterable of such batches, got {got}.")
    if odd := next((type(batch).__name__ for batch in batches if not isinstance(batch, Tensor)), None):
        raise TypeError(f"images must hold tensors (N, ...), or pairs that begin with one, got a {odd}.")
    if not any(len(batch) for batch in batches):
        raise ValueError("images holds no image. Give a few hundred of the kind that the model is for.")
    return [batch for batch in batches if len(batch)]


def _fit_for(tied: Any) -> OutputFit:
    return OutputFit(
        tied.weight,
        tied.bias,
        groups=1 if isinstance(tied, TiedLinear) else tied.groups,
        blocks=tied.blocks,
        patches=(lambda x: x) if isinstance(tied, TiedLinear) else (lambda x: _patches(x, tied)),
    )


def _batched(tied: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return input and output as (N, C, *): a linear layer's features, which come last, become channels."""
    if isinstance(tied, TiedLinear):
        return x.reshape(-1, x.shape[-1]).T.unsqueeze(0), y.reshape(-1, y.shape[-1]).T.unsqueeze(0)
    if x.dim() == tied.weight.dim() - 1:
        return x.unsqueeze(0), y.unsqueeze(0)
    return x, y


def _patches(x: Tensor, tied: Any) -> Tensor:
    """(N, C, *space) → (N, C·k, L): what the filters see at each output position, a channel's k numbers side by side.

    Computed by the convolution that has one filter for every number of a patch: one line for all dimensions, strides
    and dilations.
    """
    padding = tied.padding
    if tied.padding_mode != "zeros":
        x, padding = tied.pad_input(x), 0
    kernel, channels = tied.kernel_size, x.shape[1]
    size = tied.weight[0, 0].numel()
    one_hot = torch.eye(size, dtype=x.dtype, device=x.device).view(size, 1, *kernel).repeat(channels, 1, *(1,) * tied.N)
    conv: Any = (F.conv1d, F.conv2d, F.conv3d)[tied.N - 1]
    return conv(x, one_hot, None, tied.stride, padding, tied.dilation, channels).flatten(2)


def _calls(model: nn.Module, names: set[str], batch: Tensor) -> dict[str, int]:
    """Return how often a forward pass calls each layer, in the order of the first calls."""
    calls: dict[str, int] = {}

    def count(name: str, *call: Any) -> None:
        calls[name] = calls.get(name, 0) + 1

    handles = [model.get_submodule(name).register_forward_hook(partial(count, name)) for name in names]
    try:
        model(batch[:1])
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _seen(model: nn.Module, layer: nn.Module, batch: Tensor, calls: int, *, outputs: bool) -> list[Tensor]:
    """Return what ``layer`` takes, or returns, in each of its calls in a forward pass that ends with the last one."""
    seen: list[Tensor] = []

    def note(value: Tensor) -> None:
        seen.append(value)
        if len(seen) == calls:
            raise _Reached

    if outputs:
        handle = layer.register_forward_hook(lambda module, args, output: note(output))
    else:
        handle = layer.register_forward_pre_hook(lambda module, args: note(args[0]))
    try:
        model(batch)
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
