"""The public functions: values, named padding, unbatched input, memory format, and what blocks=1 promises."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tests import references
from tests.ops.strategies import LAYOUTS, cases, lay_out
from torch import Tensor
from torch.testing import assert_close

from tiedconv import ops

EXACT = {"rtol": 1e-10, "atol": 1e-10}
TIED = {1: ops.tied_conv1d, 2: ops.tied_conv2d, 3: ops.tied_conv3d}
TORCH = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
any_case = st.integers(1, 3).flatmap(lambda dims: cases(dims, named_padding=True))


@given(any_case)
def test_tied_conv_agrees_with_the_reference(case):
    x, weight, bias = case.tensors()
    inputs = [t for t in (x, weight, bias) if t is not None]
    y = TIED[len(case.space)](x, weight, bias, **case.geometry)
    expected = references.tied_conv(x, weight, bias, **case.geometry)
    assert_close(y, expected, **EXACT)
    cotangent = torch.randn_like(expected)
    assert_close(torch.autograd.grad(y, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent), **EXACT)


@given(any_case)
def test_unbatched_input_is_a_batch_of_one(case):
    x, weight, bias = case.tensors()
    x = torch.randn_like(x[:1]) if len(x) else torch.randn(1, *x.shape[1:], dtype=x.dtype)
    y = TIED[len(case.space)](x[0], weight, bias, **case.geometry)
    assert_close(y, references.tied_conv(x, weight, bias, **case.geometry)[0], **EXACT)


@given(any_case)
def test_output_is_in_the_inputs_memory_format(case):
    x, weight, bias = case.tensors()
    y = TIED[len(case.space)](x, weight, bias, **case.geometry)
    ambiguous = len(x) == 0 or x.shape[1] == 1 or x[0, 0].numel() == 1  # fits both formats
    if ambiguous or case.layout in ("transposed", "expanded"):
        return
    if "channels_last" in case.layout and y.dim() > 3:
        assert y.is_contiguous(memory_format=CHANNELS_LAST[y.dim()])
    else:
        assert y.is_contiguous()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, "same"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("weight_layout", ["contiguous", "channels_last"])
def test_memory_format_does_not_depend_on_the_weights(dims, groups, kernel, padding, weight_layout):
    weight = lay_out(torch.randn(2 * groups, 3, *(kernel,) * dims), weight_layout)
    x = torch.randn(2, 6 * groups, *(4,) * dims)
    last = x.to(memory_format=CHANNELS_LAST[x.dim()])
    call = {"padding": padding, "groups": groups, "blocks": 2}
    y, y_last = TIED[dims](x, weight, **call), TIED[dims](last, weight, **call)
    assert y.is_contiguous()
    assert not y.is_contiguous(memory_format=CHANNELS_LAST[x.dim()])
    assert y_last.is_contiguous(memory_format=CHANNELS_LAST[x.dim()])
    assert not y_last.is_contiguous()
    assert_close(y, y_last)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_one_block_is_torchs_convolution_bit_for_bit(dims, layout):
    x = lay_out(torch.randn(2, 4, *(5,) * dims), layout)
    weight, bias = torch.randn(6, 2, *(3,) * dims), torch.randn(6)
    geometry = {"stride": 2, "padding": 1, "groups": 2}
    y = TIED[dims](x, weight, bias, **geometry, blocks=1)
    assert torch.equal(y, TORCH[dims](x, weight, bias, **geometry))


@given(st.integers(1, 3).flatmap(cases))
def test_tied_conv_is_a_block_diagonal_dense_convolution(case):
    x, weight, bias = case.tensors()
    dense = references.dense_weight(weight, groups=case.groups, blocks=case.blocks)
    dense_bias = None if bias is None else bias.unflatten(0, (case.groups, 1, -1)).expand(-1, case.blocks, -1).flatten()
    dims = len(case.space)
    expected = TORCH[dims](x, dense, dense_bias, case.stride, case.padding, case.dilation)
    assert_close(TIED[dims](x, weight, bias, **case.geometry), expected, **EXACT)


def test_channels_are_group_major():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1)  # group 0: blocks 1, 2; group 1: blocks 3, 4
    weight = torch.tensor([10.0, 100.0]).view(2, 1, 1)  # one filter a group
    y = ops.tied_conv1d(x, weight, torch.tensor([0.5, 0.25]), groups=2, blocks=2)
    assert y.flatten().tolist() == [10.5, 20.5, 300.25, 400.25]


@pytest.mark.parametrize("function", [ops.tied_conv2d, F.conv2d])
@pytest.mark.parametrize("value", [2, (2,), [2, 2], torch.Size([2, 2])])
def test_geometry_is_given_as_to_torch(function, value):
    x, weight = torch.ones(1, 1, 9, 9), torch.ones(1, 1, 2, 2)
    assert function(x, weight, None, value, value, value).shape == (1, 1, 6, 6)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
def test_a_jit_trace_of_a_call_records_no_check_of_a_size():
    """Warnings are errors here: torch warns of every size whose value a trace would keep."""

    def call(x: Tensor, weight: Tensor, half: Tensor, bias: Tensor, matrix: Tensor) -> Tensor:
        y = ops.tied_conv2d(x, weight, bias, padding="same", groups=2, blocks=2)
        y = ops.split_tied_conv2d(y, [weight, half], groups=(2, 1), blocks=(1, 2))
        return ops.tied_linear(y.mean((-2, -1)), matrix, blocks=4)

    tensors = [torch.randn(shape) for shape in [(4, 2, 3, 3), (2, 2, 3, 3), (4,), (3, 2)]]
    traced = torch.jit.trace(call, (torch.randn(2, 8, 5, 6), *tensors))
    x = torch.randn(3, 8, 7, 5)
    assert_close(traced(x, *tensors), call(x, *tensors))


@given(
    batch=st.lists(st.integers(0, 3), max_size=3),
    blocks=st.integers(1, 4),
    c_in=st.integers(1, 3),
    c_out=st.integers(1, 3),
    with_bias=st.booleans(),
    transposed=st.booleans(),
)
def test_tied_linear_agrees_with_the_reference(batch, blocks, c_in, c_out, with_bias, transposed):
    x = torch.randn(*batch, blocks * c_in, dtype=torch.float64)
    x = (x.movedim(0, -1).contiguous().movedim(-1, 0) if transposed else x).requires_grad_()
    weight = torch.randn(c_out, c_in, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(c_out, dtype=torch.float64, requires_grad=True) if with_bias else None
    inputs = [t for t in (x, weight, bias) if t is not None]
    y = ops.tied_linear(x, weight, bias, blocks=blocks)
    expected = references.tied_linear(x, weight, bias, blocks=blocks)
    assert_close(y, expected, **EXACT)
    cotangent = torch.randn_like(expected)
    first, expected_first = (torch.autograd.grad(t, inputs, cotangent, create_graph=True) for t in (y, expected))
    assert_close(first, expected_first, **EXACT)
    second, expected_second = (
        torch.autograd.grad(sum(g.square().sum() for g in gs), inputs, allow_unused=True, materialize_grads=True)
        for gs in (first, expected_first)
    )
    assert_close(second, expected_second, **EXACT)


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6)])
def test_one_block_is_torchs_linear_bit_for_bit(shape):
    x, weight, bias = torch.randn(shape), torch.randn(4, 6), torch.randn(4)
    assert torch.equal(ops.tied_linear(x, weight, bias), F.linear(x, weight, bias))


def test_tied_linear_is_a_block_diagonal_matrix():
    x, weight = torch.randn(3, 6, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    dense = references.dense_weight(weight, blocks=3)
    assert_close(ops.tied_linear(x, weight, blocks=3), x @ dense.T, **EXACT)
