"""TiedLinear beside torch.nn.Linear."""

import copy
import math
import pickle

import pytest
import torch
from tests import references
from torch import nn
from torch.testing import assert_close

from tiedconv.nn import TiedLinear


@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8), (0, 8)])
def test_agrees_with_the_reference(blocks, bias, shape):
    fc = TiedLinear(8, 12, bias, dtype=torch.float64, blocks=blocks)
    x = torch.randn(shape, dtype=torch.float64)
    assert fc.weight.shape == (12 // blocks, 8 // blocks)
    assert_close(fc(x), references.tied_linear(x, fc.weight, fc.bias, blocks=blocks), rtol=1e-10, atol=1e-10)


def test_one_block_exchanges_states_with_torch_and_computes_the_same_bits():
    tied, torchs = TiedLinear(8, 4), nn.Linear(8, 4)
    torchs.load_state_dict(tied.state_dict())
    x = torch.randn(5, 8)
    assert torch.equal(tied(x), torchs(x))


def test_starts_in_the_range_of_one_blocks_fan_in():
    fc = TiedLinear(512, 2048, blocks=4)
    bound = 1 / math.sqrt(512 / 4)
    for parameter in (fc.weight, fc.bias):
        assert 0.95 * bound < parameter.abs().max() <= bound
    assert fc.weight.var().item() == pytest.approx(bound**2 / 3, rel=0.03)
    with torch.no_grad():
        assert fc(torch.randn(256, 512)).var().item() == pytest.approx(1 / 3 + bound**2 / 3, rel=0.05)


def test_device_dtype_copies_and_repr():
    meta = TiedLinear(8, 4, device="meta", dtype=torch.bfloat16, blocks=2)
    assert {(p.device.type, p.dtype) for p in meta.parameters()} == {("meta", torch.bfloat16)}
    fc = TiedLinear(8, 4, bias=False, blocks=2)
    x = torch.randn(3, 8)
    assert torch.equal(copy.deepcopy(fc)(x), fc(x))
    assert torch.equal(pickle.loads(pickle.dumps(fc))(x), fc(x))
    assert repr(fc) == "TiedLinear(in_features=8, out_features=4, bias=False, blocks=2)"
    with torch.autocast("cpu", torch.bfloat16):
        assert fc(x).dtype == torch.bfloat16


@pytest.mark.parametrize("blocks", [1, 2])
def test_torch_func(blocks):
    fc = TiedLinear(8, 4, blocks=blocks)
    x = torch.randn(3, 8)
    weights = torch.randn(5, *fc.weight.shape)

    def call(weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(fc, {"weight": weight}, x)

    assert_close(torch.vmap(fc)(x), fc(x))
    assert_close(torch.vmap(call)(weights), torch.stack([call(w) for w in weights]))
    tangent = torch.randn(3, 8)
    assert_close(torch.func.jvp(fc, (x,), (tangent,))[1], fc(x + tangent) - fc(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (10, 8, {"blocks": 4}),
            ValueError,
            r"^TiedLinear: in_features=10 is not divisible by blocks \* groups = 4 \* 1 = 4\. Blocks that fit "
            r"in_features=10 and out_features=8 at groups=1: 1, 2\.$",
        ),
        ((8, 10, {"blocks": 4}), ValueError, r"^TiedLinear: out_features=10 is not divisible by blocks"),
        ((8, 8, {"blocks": 0}), ValueError, r"^TiedLinear: blocks must be at least 1, got blocks=0\.$"),
        ((8, 8, {"blocks": False}), TypeError, r"^TiedLinear: blocks must be an int, got False \(bool\)\.$"),
    ],
)
def test_bad_arguments_are_refused_at_construction(arguments, error, message):
    *positional, keywords = arguments
    with pytest.raises(error, match=message):
        TiedLinear(*positional, **keywords)


def test_inputs_that_do_not_fit_are_refused_at_the_call():
    with pytest.raises(RuntimeError, match=r"expected input \(\.\.\., 8\), .*blocks=2, got \(3, 6\)\."):
        TiedLinear(8, 4, blocks=2)(torch.zeros(3, 6))
