"""What backward makes again: gradients stay, memory goes."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropBlock2d
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from tiedconv.models import TiedBottleneck
from tiedconv.models._block import remade


def parts_and_weight():
    parts = [torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    return parts, torch.randn(5, 6, 1, 1, dtype=torch.float64, requires_grad=True)


def joined(parts, weight, made):
    def make():
        made.append(True)
        return torch.cat(parts, 1)

    x = torch.cat(parts, 1)
    with remade(x, make):
        y = F.conv2d(x, weight)
    return x, y


def test_the_tensor_is_freed_and_made_again_once():
    parts, weight = parts_and_weight()
    made = []
    x, y = joined(parts, weight, made)
    freed = weakref.ref(x)
    del x
    gc.collect()
    assert freed() is None
    assert not made
    y.sum().backward()
    assert made == [True]


def test_first_and_second_gradients_are_those_of_the_plain_computation():
    parts, weight = parts_and_weight()
    inputs = [*parts, weight]
    results = []
    for y in (joined(parts, weight, [])[1], F.conv2d(torch.cat(parts, 1), weight)):
        first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        results.append([*first, *second])
    assert_close(*results)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("mixer", ["sum", "concatenate"])
def test_a_block_trains_as_without(monkeypatch, memory_format, drop, mixer):
    drop_block = (lambda: DropBlock2d(0.3, 3)) if drop else None
    block = TiedBottleneck(64, 16, drop_block=drop_block, mixer=mixer).double().train()
    x = torch.randn(2, 64, 8, 8, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    gradients = []
    for _ in range(2):
        torch.manual_seed(0)
        gradients.append(torch.autograd.grad(block(x).square().sum(), [x, *block.parameters()]))
        monkeypatch.setattr(torch.autograd.graph, "saved_tensors_hooks", NoHooks)
    assert_close(*gradients)


class NoHooks:
    def __init__(self, *hooks):
        pass

    def __enter__(self):
        pass

    def __exit__(self, *error):
        pass


def test_a_block_keeps_neither_sum_nor_concatenation(monkeypatch):
    block = TiedBottleneck(64, 16).train()
    x = torch.randn(2, 64, 8, 8).to(memory_format=torch.channels_last)
    made = []

    def watch(function):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            if result.shape[-1] == x.shape[-1]:  # a map and not a weight
                made.append(weakref.ref(result))
            return result

        return call

    monkeypatch.setattr(torch, "cat", watch(torch.cat))
    monkeypatch.setattr(block, "_mix", watch(block._mix))
    y = block(x)
    gc.collect()
    assert y.requires_grad
    assert len(made) == 2
    assert not [tensor for tensor in made if tensor() is not None]


def test_gradient_checkpointing_is_left_to_itself(monkeypatch):
    def refuse(*hooks):
        raise AssertionError("saved tensors were exchanged")

    block = TiedBottleneck(64, 16).train()
    x = torch.randn(2, 64, 8, 8, requires_grad=True)
    monkeypatch.setattr(torch.autograd.graph, "saved_tensors_hooks", refuse)
    checkpoint(block, x, use_reentrant=False).sum().backward()
    with pytest.raises(AssertionError, match="were exchanged"):
        block(x)


def test_functional_gradients_and_compilation_work():
    block = TiedBottleneck(64, 16).double().eval()
    x = torch.randn(2, 64, 4, 4, dtype=torch.float64)
    parameters, buffers = dict(block.named_parameters()), dict(block.named_buffers())

    def loss(p):
        return torch.func.functional_call(block, (p, buffers), (x,)).square().sum()

    expected = torch.autograd.grad(block(x).square().sum(), list(parameters.values()))
    assert_close(tuple(torch.func.grad(loss)(parameters).values()), expected)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    assert_close(torch.autograd.grad(compiled(x).square().sum(), list(parameters.values())), expected)
