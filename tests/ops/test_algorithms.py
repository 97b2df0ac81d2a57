"""Every way to compute a tied convolution against the einsum truth: values, gradients and double gradients."""

import inspect
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import references
from tests.ops.strategies import Case, cases
from torch import Tensor
from torch.testing import assert_close

from tiedconv.ops import algorithms
from tiedconv.ops.algorithms import ConvArgs
from tiedconv.ops.dispatch import choose

EXACT = {"rtol": 1e-10, "atol": 1e-10}
any_case = st.integers(1, 3).flatmap(cases)
ALGORITHMS = {
    name: function
    for name, function in inspect.getmembers(algorithms, inspect.isfunction)
    if [*inspect.signature(function).parameters] == ["x", "weight", "bias", "args"]
}


def conv_args(case: Case) -> ConvArgs:
    return ConvArgs(**case.geometry)


def applicable(case: Case) -> dict[str, algorithms.Algorithm]:
    x, weight, _ = case.tensors()
    return algorithms.applicable(x, weight, conv_args(case))


def gradients(y: Tensor, inputs: list[Tensor], cotangents: tuple[Tensor, list[Tensor]]) -> list[Tensor]:
    """First gradients of <y, c>, then the gradients of <those, d> with respect to inputs and c."""
    c, directions = cotangents
    first = torch.autograd.grad(y, inputs, c, create_graph=True)
    return [*first, *torch.autograd.grad(first, [*inputs, c], directions, allow_unused=True, materialize_grads=True)]


@given(any_case)
def test_every_applicable_path_and_its_gradients_agree_with_the_reference(case):
    x, weight, bias = case.tensors()
    inputs = [t for t in (x, weight, bias) if t is not None]
    expected = references.tied_conv(x, weight, bias, **case.geometry)
    cotangents = torch.randn_like(expected).requires_grad_(), [torch.randn_like(t) for t in inputs]
    expected_gradients = gradients(expected, inputs, cotangents)
    for name, path in algorithms.applicable(x, weight, conv_args(case)).items():
        y = path(x, weight, bias, conv_args(case))
        assert_close(y, expected, **EXACT, msg=lambda m, name=name: f"{name}: {m}")
        assert_close(
            gradients(y, inputs, cotangents), expected_gradients, **EXACT, msg=lambda m, name=name: f"{name}: {m}"
        )


@given(any_case)
def test_dispatcher_chooses_an_applicable_path(case):
    x, weight, _ = case.tensors()
    assert choose(x, weight, conv_args(case)) in applicable(case).values()


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [1, 2])
def test_applicable_names_each_path_that_can_compute_the_call(dims, groups, kernel):
    x = torch.zeros(1, 4, *(3,) * dims)
    weight = torch.zeros(2, 4 // (2 * groups), *(kernel,) * dims)
    args = ConvArgs((1,) * dims, (0,) * dims, (1,) * dims, groups, 2)
    expected = {"view", "grouped"}
    if groups == 1 and dims == 2:
        expected.add("depth")
    if groups == 1 and kernel == 1:
        expected.add("matmul")
    applicable = algorithms.applicable(x, weight, args)
    assert set(applicable) == expected
    assert all(ALGORITHMS[name] is path for name, path in applicable.items())


def test_every_path_is_applicable_somewhere():
    x, weight = torch.zeros(1, 4, 3, 3), torch.zeros(2, 2, 1, 1)
    assert algorithms.applicable(x, weight, ConvArgs((1, 1), (0, 0), (1, 1), 1, 2)) == ALGORITHMS


@pytest.mark.parametrize(("stride", "padding"), [((2, 1), (0, 0)), ((1, 1), (0, 1))])
def test_a_strided_or_padded_1x1_is_no_matrix_product(stride, padding):
    args = ConvArgs(stride, padding, (1, 1), 1, 2)
    assert "matmul" not in algorithms.applicable(torch.zeros(1, 4, 3, 3), torch.zeros(2, 2, 1, 1), args)


@pytest.mark.parametrize(
    ("name", "groups", "kernel", "layout"),
    [
        (name, groups, kernel, layout)
        for name, groups, kernel, layout in product(
            ALGORITHMS, [1, 2], [1, 2], [torch.contiguous_format, torch.channels_last]
        )
        if (name in ("view", "grouped") or groups == 1) and (name != "matmul" or kernel == 1)
    ],
)
def test_numerical_gradients(name, groups, kernel, layout):
    x = torch.randn(2, 2 * groups, 2, 3, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    weight = torch.randn(groups, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(groups, dtype=torch.float64, requires_grad=True)
    args = ConvArgs((1, 1), (0, 0), (1, 1), groups, 2)

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ALGORITHMS[name](x, weight, bias, args)

    assert torch.autograd.gradcheck(call, (x, weight, bias))
    assert torch.autograd.gradgradcheck(call, (x, weight, bias))


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_path_computes_in_autocasts_precision(name, layout):
    x = torch.randn(2, 4, 3, 3).to(memory_format=layout)
    weight, bias = torch.randn(2, 2, 1, 1), torch.randn(2)
    with torch.autocast("cpu", torch.bfloat16):
        y = ALGORITHMS[name](x, weight, bias, ConvArgs((1, 1), (0, 0), (1, 1), 1, 2))
    assert y.dtype == torch.bfloat16
    assert_close(y.float(), references.tied_conv(x, weight, bias, blocks=2), rtol=0.05, atol=0.05)
