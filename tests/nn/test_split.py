"""SplitTiedConv2d beside its function: construction, state, repr, formats, and what torch does to modules."""

import copy
import math
import pickle

import pytest
import torch
from tests.ops.strategies import lay_out
from torch import Tensor, nn
from torch.testing import assert_close

from tiedconv import ops
from tiedconv.nn import SplitTiedConv2d

FORMATS = pytest.mark.parametrize("name", ["contiguous", "channels_last"])


def layer(**arguments) -> SplitTiedConv2d:
    return SplitTiedConv2d(12, 24, 3, padding=1, groups=(2, 1, 1), blocks=(1, 2, 4), **arguments)


def images(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return lay_out(torch.randn(2, 12, 5, 4, dtype=dtype), name)


@FORMATS
@pytest.mark.parametrize("geometry", [(1, "same", 1), (2, (0, 1), 1), ((1, 2), 2, 2)], ids=str)
def test_module_is_the_function_on_its_arguments(geometry, name):
    conv, x = SplitTiedConv2d(12, 24, 3, *geometry, (2, 1, 1), blocks=(1, 2, 4)), images(name)
    expected = ops.split_tied_conv2d(x, list(conv.weights), None, *geometry, (2, 1, 1), blocks=(1, 2, 4))
    assert torch.equal(conv(x), expected)
    assert_close(conv(x[0]), expected[0])
    assert conv(x[:0]).shape == (0, *expected.shape[1:])


def test_state_has_one_weight_a_split():
    shapes = {name: tuple(weight.shape) for name, weight in layer().state_dict().items()}
    assert shapes == {"weights.0": (8, 2, 3, 3), "weights.1": (4, 2, 3, 3), "weights.2": (2, 1, 3, 3)}


def test_repr_names_every_argument():
    conv = SplitTiedConv2d(16, 32, 3, 2, (1, 0), 2, (2, 1), blocks=[1, 4])
    assert conv.extra_repr() == (
        "16, 32, kernel_size=(3, 3), stride=(2, 2), padding=(1, 0), dilation=(2, 2), groups=(2, 1), blocks=(1, 4)"
    )
    assert repr(conv).startswith("SplitTiedConv2d(\n  16, 32, kernel_size=(3, 3)")


def test_weights_of_every_split_fill_the_range_of_one_blocks_fan_in():
    conv = SplitTiedConv2d(512, 512, 3, groups=(1, 1, 2, 1), blocks=(1, 2, 2, 8))
    for weight, copies in zip(conv.weights, (1, 2, 4, 8), strict=True):
        bound = 1 / math.sqrt(128 * 9 / copies)
        assert weight.abs().max() <= bound
        assert weight.abs().max() > 0.95 * bound
        assert weight.var().item() == pytest.approx(bound**2 / 3, rel=5 / math.sqrt(weight.numel()))


def test_a_module_made_on_meta_is_filled_later():
    conv = layer(device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in conv.parameters()} == {("meta", torch.bfloat16)}
    y = conv(torch.empty(2, 12, 5, 4, device="meta", dtype=torch.bfloat16))
    assert (y.device.type, y.shape) == ("meta", (2, 24, 5, 4))
    conv = conv.to_empty(device="cpu")
    for weight in conv.weights:
        nn.init.constant_(weight, float("nan"))
    conv.reset_parameters()
    assert all(weight.isfinite().all() for weight in conv.weights)


def test_copies_and_pickles_compute_the_same_with_weights_of_their_own():
    conv, x = layer(), images("contiguous")
    for twin in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert torch.equal(twin(x), conv(x))
        assert all(a is not b for a, b in zip(twin.weights, conv.weights, strict=True))


@FORMATS
def test_autocast(name):
    conv, x = layer(), images(name)
    with torch.autocast("cpu", torch.bfloat16):
        y, from_half = conv(x), conv(x.bfloat16())
    assert y.dtype == from_half.dtype == torch.bfloat16
    assert_close(y.float(), conv(x), rtol=0.05, atol=0.05)
    assert_close(from_half, y, rtol=0.05, atol=0.05)
    gradients = torch.autograd.grad(y.float().sum(), list(conv.parameters()))
    assert {g.dtype for g in gradients} == {torch.float32}


@FORMATS
def test_vmap_over_weights_is_an_ensemble(name):
    conv, x = layer(), images(name)
    states = {key: torch.randn(3, *value.shape) for key, value in conv.state_dict().items()}

    def call(state: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(conv, state, x)

    expected = torch.stack([call({key: value[i] for key, value in states.items()}) for i in range(3)])
    assert_close(torch.vmap(call)(states), expected)
    assert_close(torch.vmap(conv)(x[:, None]), conv(x)[:, None])
    assert_close(torch.vmap(conv)(x), conv(x))  # each call sees (12, H, W)


@pytest.mark.slow
@FORMATS
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_breaks(dynamic, name):
    conv = layer()
    torch.compiler.reset()
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for x in (images(name), lay_out(torch.randn(3, 12, 7, 6), name)):
        y, expected = compiled(x), conv(x)
        assert y.stride() == expected.stride()
        assert_close(y, expected)
        gradients = (torch.autograd.grad(t.square().sum(), list(conv.parameters())) for t in (y, expected))
        assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"blocks": 2}, TypeError, r"blocks must be a sequence with one entry per split, got 2\.$"),
        ({"groups": 2}, TypeError, r"groups must be a sequence with one entry per split, got 2\.$"),
        ({"blocks": (1, 2.0)}, TypeError, r"blocks must be an int, got 2\.0 \(float\)\.$"),
        ({"in_channels": 16.0}, TypeError, r"in_channels must be an int, got 16\.0 \(float\)\.$"),
        ({"padding": "full"}, ValueError, r'padding must be an int, .*, "same" or "valid", got \'full\'\.$'),
        ({"blocks": ()}, ValueError, r"expected one entry per split .*, got blocks: 0\.$"),
        ({"groups": (1,)}, ValueError, r"expected one entry per split .*, got blocks: 2, groups: 1\.$"),
        ({"in_channels": 15}, ValueError, r"in_channels=15 is not divisible by the 2 splits of blocks=\(1, 2\)\.$"),
        ({"out_channels": 5}, ValueError, r"out_channels=5 is not divisible by the 2 splits of blocks=\(1, 2\)\.$"),
        (
            {"out_channels": 6},
            ValueError,
            r"out_channels/2=3 is not divisible by blocks \* groups = 2 \* 1 = 2\. Blocks that fit in_channels/2=8 and "
            r"out_channels/2=3 at groups=1: 1\.$",
        ),
        ({"groups": (3, 1)}, ValueError, r"in_channels/2=8 is not divisible by blocks \* groups = 1 \* 3 = 3\."),
        ({"kernel_size": 0}, ValueError, r"kernel_size must be at least 1, got 0\.$"),
        ({"dilation": (1, 2, 1)}, ValueError, r"dilation must be one int or 2 of them, got \(1, 2, 1\)\.$"),
    ],
)
def test_bad_arguments_are_refused_at_construction(arguments, error, message):
    arguments = {"in_channels": 16, "out_channels": 16, "kernel_size": 3, "blocks": (1, 2), **arguments}
    with pytest.raises(error, match="^SplitTiedConv2d: " + message):
        SplitTiedConv2d(**arguments)


def test_errors_at_the_call_and_of_a_subclass_begin_with_the_layers_name():
    class MySplits(SplitTiedConv2d):
        pass

    with pytest.raises(RuntimeError, match=r"^MySplits: expected input \(N, 12, H, W\) or \(12, H, W\), got \(2, 10,"):
        MySplits(12, 12, 3, blocks=(1, 2))(torch.zeros(2, 10, 5, 5))
    with pytest.raises(ValueError, match=r"^MySplits: expected one entry per split .*, got blocks: 0\.$"):
        MySplits(12, 12, 3, blocks=())
