"""How TiedConv2d starts: torch's rule for the fan-in that an output really sees."""

import math

import pytest
import torch
from torch import nn

from tiedconv.nn import TiedConv1d, TiedConv2d, TiedConv3d


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_weights_and_biases_fill_the_range_of_one_blocks_fan_in(groups, blocks):
    conv = TiedConv2d(256, 512, 3, groups=groups, blocks=blocks)
    bound = 1 / math.sqrt(256 * 9 / (groups * blocks))
    for parameter in (conv.weight, conv.bias):
        assert parameter.abs().max() <= bound
        assert parameter.abs().max() > 0.95 * bound
    assert conv.weight.var().item() == pytest.approx(bound**2 / 3, rel=0.03)  # of a uniform distribution
    assert abs(conv.weight.mean().item()) < 0.02 * bound


@pytest.mark.parametrize(("cls", "kernel"), [(TiedConv1d, (5,)), (TiedConv3d, (1, 3, 2))])
def test_the_kernel_counts_in_every_dimension(cls, kernel):
    conv = cls(64, 256, kernel, blocks=2)
    bound = 1 / math.sqrt(32 * math.prod(kernel))
    assert 0.95 * bound < conv.weight.abs().max() <= bound


@pytest.mark.parametrize("blocks", [2, 4])
def test_outputs_vary_as_much_as_those_of_a_grouped_convolution(blocks):
    x = torch.randn(4, 256, 12, 12)
    tied = TiedConv2d(256, 256, 3, blocks=blocks)
    grouped = nn.Conv2d(256, 256, 3, groups=blocks)
    fan_in = 256 * 9 / blocks
    expected = 1 / 3 + 1 / (3 * fan_in)  # unit inputs, weights and bias uniform within 1/sqrt(fan_in)
    with torch.no_grad():
        assert tied(x).var().item() == pytest.approx(expected, rel=0.05)
        assert tied(x).var().item() == pytest.approx(grouped(x).var().item(), rel=0.05)


def test_one_block_draws_what_torch_draws():
    torch.manual_seed(3)
    torchs = nn.Conv2d(8, 4, 3)
    torch.manual_seed(3)
    tied = TiedConv2d(8, 4, 3)
    assert torch.equal(tied.weight, torchs.weight)
    assert torch.equal(tied.bias, torchs.bias)


def test_reset_parameters_draws_anew_in_place():
    conv = TiedConv2d(8, 4, 3, blocks=2)
    weight, before = conv.weight, conv.weight.detach().clone()
    conv.reset_parameters()
    assert conv.weight is weight
    assert not torch.equal(conv.weight, before)
