"""Ways to make a trained network smaller, to the number of parameters that tying with so many blocks leaves."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tiedconv.convert import tie_

METHODS = (
    "dense",
    "tied, random weights",
    "tied, projected",
    "tied, projected with images",
    "pruned, same share of each layer",
    "pruned, isomorphic",
    "low rank",
)
_INITS: dict[str, Literal["random", "project", "data"]] = {
    "tied, random weights": "random",
    "tied, projected": "project",
    "tied, projected with images": "data",
}


def compress(
    model: nn.Module, method: str, blocks: int, batches: Sequence[Tensor], within: float = 0.05
) -> tuple[nn.Module, Any]:
    """Copy ``model`` and compress the copy by one of ``METHODS``.

    All convolutions may change but the first; the classifier stays. Where the tied networks have few parameters left,
    the others are fitted to as many.

    Args:
        model: trained; evaluated in float32 on the CPU.
        method: one of ``METHODS``; the first copies and changes nothing.
        blocks: of the tied layers, and what sets the number of parameters for every method.
        batches: images, (N, C, H, W) each, for what looks at activations.
        within: how far from that number of parameters a network that is not tied may be, as a fraction.

    Returns:
        The network and, where it was tied, the report of ``tie_``.

    Raises:
        RuntimeError: if pruning or low rank cannot come that close.
    """
    small = copy.deepcopy(model).eval()
    if method == "dense":
        return small, None
    chosen = inner_convolutions(small)
    if method in _INITS:
        init = _INITS[method]
        return small, tie_(small, blocks, chosen, init, images=batches if init == "data" else None)
    wanted = tied_parameters(model, blocks)
    if method == "low rank":
        build = low_rank(model)
    else:
        build = pruned(model, batches[0][:1], isomorphic=method == "pruned, isomorphic")
    found = bisect(build, wanted)
    if abs(parameters(found) / wanted - 1) > within:
        raise RuntimeError(
            f"compress: {method} came no closer to {wanted:,} parameters, those of {blocks} blocks, than "
            f"{parameters(found):,}. Take fewer blocks."
        )
    return found, None


def inner_convolutions(model: nn.Module) -> Callable[[nn.Module, str], bool]:
    """Return a filter that is true for all convolutions of ``model`` but the first."""
    stem = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    return lambda layer, name: isinstance(layer, nn.Conv2d) and layer is not stem


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def tied_parameters(model: nn.Module, blocks: int) -> int:
    """Count the parameters of ``model`` when it is tied."""
    with torch.random.fork_rng(devices=[]):
        small = copy.deepcopy(model)
        tie_(small, blocks=blocks, filter_fn=inner_convolutions(small), init="random")
    return parameters(small)


def bisect(build: Callable[[float], nn.Module], wanted: int, steps: int = 14) -> nn.Module:
    """Return of the networks that ``build`` makes for strengths 0-1, more is larger, the nearest to ``wanted``."""
    low, high = 0.0, 1.0
    found = None
    for _ in range(steps):
        middle = (low + high) / 2
        small = build(middle)
        found = min(found or small, small, key=lambda network: abs(parameters(network) - wanted))
        low, high = (middle, high) if parameters(small) < wanted else (low, middle)
    assert found
    return found


def low_rank(model: nn.Module) -> Callable[[float], nn.Module]:
    """Return a function: share of the squared singular values to keep in every layer → network of two-step layers.

    A k x k convolution of C_i to C_o channels becomes one of C_i to r and a 1x1 of r to C_o, by the singular value
    decomposition of its (C_o, C_i k k) matrix. Layers that this would not make smaller, and grouped ones, stay.
    """
    chosen = inner_convolutions(model)
    factors = {}
    for name, layer in model.named_modules():
        if chosen(layer, name) and layer.groups == 1:
            factors[name] = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)

    def build(share: float) -> nn.Module:
        small = copy.deepcopy(model).eval()
        for name, (left, values, right) in factors.items():
            energy = values.square().cumsum(0)
            rank = min(int((energy < share * energy[-1]).sum()) + 1, len(values))
            layer: Any = small.get_submodule(name)
            if rank * (len(left) + right.shape[1]) < layer.weight.numel():
                small.set_submodule(name, two_steps(layer, left[:, :rank], values[:rank], right[:rank]))
        return small

    return build


def two_steps(layer: Any, left: Tensor, values: Tensor, right: Tensor) -> nn.Sequential:
    """Put a convolution to r channels and a 1x1 in the place of ``layer``: (C_o, r), (r,) and (r, C_i k k) factors."""
    rank = len(values)
    first = nn.Conv2d(
        layer.in_channels,
        rank,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        bias=False,
        padding_mode=layer.padding_mode,
    )
    second = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
    with torch.no_grad():
        first.weight.copy_((values.sqrt()[:, None] * right).view_as(first.weight))
        second.weight.copy_((left * values.sqrt()).view_as(second.weight))
        if layer.bias is not None and second.bias is not None:
            second.bias.copy_(layer.bias)
    return nn.Sequential(first, second)


def pruned(model: nn.Module, example: Tensor, *, isomorphic: bool) -> Callable[[float], nn.Module]:
    """Return a function: share of the channels to keep → network without the others, by torch-pruning.

    Channels that depend on each other go together, those whose weights in all their layers have the smallest L2 norms
    first. They are ranked within each layer, so that every layer keeps the same share, or with ``isomorphic`` among
    all groups of layers of the same structure (Fang et al., 2024), which torch-pruning recommends over a ranking
    of all.
    """
    import torch_pruning

    def build(share: float) -> nn.Module:
        small = copy.deepcopy(model).eval()
        classifier = [layer for layer in small.modules() if isinstance(layer, nn.Linear)]
        torch_pruning.pruner.BasePruner(
            small,
            example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            global_pruning=isomorphic,
            isomorphic=isomorphic,
            pruning_ratio=1 - share,
            ignored_layers=classifier,
        ).step()
        return small

    return build
