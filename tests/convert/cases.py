"""Layers for hypothesis to tie, what a tied layer must compute, and whether a model is as it was."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from tests import references
from torch import Tensor, nn
from torch.testing import assert_close

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@dataclass(frozen=True)
class Case:
    """A convolution (``dims`` of 1 to 3) or a linear layer (0), and an input for it."""

    dims: int
    groups: int
    blocks: int
    c_in: int  # channels of one block of one group
    c_out: int
    arguments: dict[str, Any]
    shape: tuple[int, ...]  # without the channels: batch and space, or leading dimensions

    def layer(self, dtype: torch.dtype = torch.float64) -> Any:
        copies = self.groups * self.blocks
        channels = (copies * self.c_in, copies * self.c_out)
        if self.dims == 0:
            return nn.Linear(*channels, **self.arguments, dtype=dtype)
        return CONVS[self.dims](*channels, groups=self.groups, **self.arguments, dtype=dtype)

    def input(self, dtype: torch.dtype = torch.float64) -> Tensor:
        channels = self.groups * self.blocks * self.c_in
        if self.dims == 0:
            return torch.randn(*self.shape, channels, dtype=dtype)
        return torch.randn(self.shape[0], channels, *self.shape[1:], dtype=dtype)


@st.composite
def cases(draw: st.DrawFn, dims: tuple[int, ...] = (2, 0, 1, 3), modes: bool = True) -> Case:
    """Draw a layer whose weight two or three blocks can share; ``modes`` allows other paddings than zeros."""
    n = draw(st.sampled_from(dims))
    arguments: dict[str, Any] = {"bias": draw(st.booleans())}
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    if n:
        kernel = draw(st.tuples(*[st.integers(1, 3)] * n))
        padding = draw(st.sampled_from([0, 1, 2, "same", "valid"] if modes else [0, 1, 2]))
        dilation = draw(st.integers(1, 2))
        arguments |= {
            "kernel_size": kernel,
            "stride": 1 if padding == "same" else draw(st.integers(1, 2)),
            "padding": padding,
            "dilation": dilation,
            "padding_mode": draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])) if modes else "zeros",
        }
        shape = (draw(st.integers(1, 2)), *(dilation * (k - 1) + draw(st.integers(3, 4)) for k in kernel))
    return Case(
        dims=n,
        groups=draw(st.integers(1, 2)) if n else 1,
        blocks=draw(st.integers(2, 3)),
        c_in=draw(st.integers(1, 2)),
        c_out=draw(st.integers(1, 2)),
        arguments=arguments,
        shape=shape,
    )


def spread(weight: Tensor, *, groups: int = 1, blocks: int) -> Tensor:
    """Tied weight → the weight (C_o, C_i/G, *kernel) of torch's layer that does the same."""
    return torch.cat([references.dense_weight(rows, blocks=blocks) for rows in weight.chunk(groups)])


def repeated(bias: Tensor, *, groups: int = 1, blocks: int) -> Tensor:
    return torch.cat([rows.repeat(blocks) for rows in bias.chunk(groups)])


def expected_output(old: Any, tied: Any, x: Tensor) -> Tensor:
    """What ``tied`` must return: torch's own layer ``old``, with the tied weight written out."""
    twin, share = copy.deepcopy(old), {"groups": getattr(old, "groups", 1), "blocks": tied.blocks}
    twin.weight = nn.Parameter(spread(tied.weight.detach(), **share))
    if old.bias is not None:
        twin.bias = nn.Parameter(repeated(tied.bias.detach(), **share))
    y: Tensor = twin(x)
    return y


class Snapshot:
    """A model at one moment, to compare it with later."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.parameters = dict(model.named_parameters(remove_duplicate=False))
        self.state = {name: value.clone() for name, value in model.state_dict().items()}
        self.training = {name: module.training for name, module in self.modules.items()}
        self.hooks = {name: _hooks(module) for name, module in self.modules.items()}

    def check(self) -> None:
        """Check that the model consists of the same modules, parameters and hooks, with the same values and modes."""
        modules = dict(self.model.named_modules(remove_duplicate=False))
        assert list(modules) == list(self.modules)
        assert all(modules[name] is module for name, module in self.modules.items())
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        assert all(parameters[name] is parameter for name, parameter in self.parameters.items())
        assert_close(self.model.state_dict(), self.state, rtol=0, atol=0, equal_nan=True)
        assert {name: module.training for name, module in modules.items()} == self.training
        assert {name: _hooks(module) for name, module in modules.items()} == self.hooks


def _hooks(module: nn.Module) -> list[int]:
    kinds = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return [len(hooks) for hooks in kinds]
