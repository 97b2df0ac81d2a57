"""Convolutions of splits against the einsum truth of every chunk; memory formats and error messages."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import references
from tests.ops.strategies import LAYOUTS, lay_out
from torch import Tensor
from torch.testing import assert_close

from tiedconv import ops

EXACT = {"rtol": 1e-10, "atol": 1e-10}


@dataclass(frozen=True)
class Case:
    """One call. ``width`` and ``out_width`` are the channels of a split."""

    batch: int
    space: tuple[int, int]
    kernel: tuple[int, int]
    geometry: dict[str, Any]
    groups: tuple[int, ...]
    blocks: tuple[int, ...]
    width: int
    out_width: int
    bias: bool
    layout: str

    def tensors(self) -> tuple[Tensor, list[Tensor], list[Tensor] | None]:
        """Input, weights and biases in float64, all of them leaves that want gradients."""
        shape = (self.batch, self.width * len(self.blocks), *self.space)
        x = lay_out(torch.randn(shape, dtype=torch.float64), self.layout).requires_grad_()
        weights = [
            torch.randn(self.out_width // b, self.width // (b * g), *self.kernel, dtype=torch.float64).requires_grad_()
            for g, b in zip(self.groups, self.blocks, strict=True)
        ]
        biases = [torch.randn(len(w), dtype=torch.float64, requires_grad=True) for w in weights]
        return x, weights, biases if self.bias else None


@st.composite
def cases(draw: st.DrawFn) -> Case:
    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    one = st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 4]))
    splits = draw(st.lists(one, min_size=1, max_size=3))
    counts = math.lcm(*(g * b for g, b in splits))
    kernel, dilation = pair(1, 3), pair(1, 2)
    space = tuple(d * (k - 1) + draw(st.integers(1, 3)) for k, d in zip(kernel, dilation, strict=True))
    padding = draw(st.sampled_from([(0, 0), (1, 2), "same", "valid"]))
    stride = (1, 1) if padding == "same" else pair(1, 2)
    return Case(
        batch=draw(st.sampled_from([2, 1, 0])),
        space=space,
        kernel=kernel,
        geometry={"stride": stride, "padding": padding, "dilation": dilation},
        groups=tuple(g for g, _ in splits),
        blocks=tuple(b for _, b in splits),
        width=counts * draw(st.integers(1, 2)),
        out_width=counts * draw(st.integers(1, 2)),
        bias=draw(st.booleans()),
        layout=draw(st.sampled_from(LAYOUTS)),
    )


def call(case: Case, x: Tensor, weights: list[Tensor], biases: list[Tensor] | None) -> Tensor:
    return ops.split_tied_conv2d(x, weights, biases, **case.geometry, groups=case.groups, blocks=case.blocks)


def by_chunks(case: Case, x: Tensor, weights: list[Tensor], biases: list[Tensor] | None) -> Tensor:
    parts = []
    for i, (w, g, b) in enumerate(zip(weights, case.groups, case.blocks, strict=True)):
        chunk = x[:, i * case.width : (i + 1) * case.width]
        bias = None if biases is None else biases[i]
        parts.append(references.tied_conv(chunk, w, bias, **case.geometry, groups=g, blocks=b))
    return torch.cat(parts, 1)


def gradients(y: Tensor, inputs: list[Tensor], cotangent: Tensor, directions: list[Tensor]) -> list[Tensor]:
    first = torch.autograd.grad(y, inputs, cotangent, create_graph=True)
    wanted = [*inputs, cotangent]
    return [*first, *torch.autograd.grad(first, wanted, directions, allow_unused=True, materialize_grads=True)]


@given(case=cases())
def test_values_and_gradients_are_those_of_the_reference_on_every_chunk(case):
    x, weights, biases = case.tensors()
    inputs = [x, *weights, *(biases or [])]
    y, expected = call(case, x, weights, biases), by_chunks(case, x, weights, biases)
    assert_close(y, expected, **EXACT)
    cotangent = torch.randn_like(expected).requires_grad_()
    directions = [torch.randn_like(t) for t in inputs]
    assert_close(
        gradients(y, inputs, cotangent, directions), gradients(expected, inputs, cotangent, directions), **EXACT
    )


@given(case=cases())
def test_unbatched_input_is_a_batch_of_one(case):
    _, weights, biases = case.tensors()
    x = torch.randn(1, case.width * len(case.blocks), *case.space, dtype=torch.float64)
    assert_close(call(case, x[0], weights, biases), by_chunks(case, x, weights, biases)[0], **EXACT)


@given(case=cases())
def test_output_is_in_the_inputs_memory_format(case):
    x, weights, biases = case.tensors()
    y = call(case, x, weights, biases)
    ambiguous = len(x) == 0 or x.shape[1] == 1 or x[0, 0].numel() == 1  # fits both formats
    if ambiguous or case.layout in ("transposed", "expanded"):
        return
    last = "channels_last" in case.layout
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("weight_layout", ["contiguous", "channels_last", "transposed"])
@pytest.mark.parametrize("width", [1, 6])
def test_memory_format_does_not_depend_on_the_weights(width, weight_layout):
    case = Case(2, (4, 5), (3, 3), {"padding": 1}, (1, 1), (1, width), width, width, False, "contiguous")
    x, weights, _ = case.tensors()
    weights = [lay_out(w.detach(), weight_layout) for w in weights]
    y = call(case, x, weights, None)
    y_last = call(case, x.to(memory_format=torch.channels_last), weights, None)
    assert y.is_contiguous()
    assert y_last.is_contiguous(memory_format=torch.channels_last)
    assert not y_last.is_contiguous()
    assert_close(y, y_last, **EXACT)


def test_a_group_each_is_the_default():
    x, weights = torch.randn(1, 8, 4, 4), [torch.randn(4, 4, 3, 3), torch.randn(2, 2, 3, 3)]
    one = ops.split_tied_conv2d(x, weights, groups=(1, 1), blocks=(1, 2))
    assert torch.equal(ops.split_tied_conv2d(x, weights, blocks=(1, 2)), one)


X, WEIGHTS = torch.zeros(1, 8, 5, 5), [torch.zeros(4, 4, 3, 3), torch.zeros(2, 2, 3, 3)]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"blocks": (1, 2, 4)}, ValueError, r"one entry per split in each argument .*, got weights: 2, blocks: 3\.$"),
        ({"groups": (1,)}, ValueError, r"got weights: 2, blocks: 2, groups: 1\.$"),
        ({"biases": []}, ValueError, r"got weights: 2, blocks: 2, biases: 0\.$"),
        ({"weights": [], "blocks": ()}, ValueError, r"at least one split, got weights: 0, blocks: 0\.$"),
        ({"blocks": (1, 0)}, ValueError, r"blocks must be at least 1, got blocks=0\.$"),
        (
            {"weights": [WEIGHTS[0], torch.zeros(2, 2, 3)]},
            RuntimeError,
            r"expected weights\[1\] with 4 dimensions, \(C_o/B, C_i/\(B\*G\), \*kernel\), got \(2, 2, 3\)\.$",
        ),
        ({"groups": (3, 1)}, ValueError, r"the 4 rows of weights\[0\] are not divisible by groups=3\.$"),
        (
            {"blocks": (1, 1)},
            RuntimeError,
            r"all splits must have the same \(outputs, inputs, kH, kW\), got \(4, 4, 3, 3\), \(2, 2, 3, 3\)\.$",
        ),
        (
            {"weights": [WEIGHTS[0], torch.zeros(2, 2, 3, 1)]},
            RuntimeError,
            r"all splits must have .*, got \(4, 4, 3, 3\), \(4, 4, 3, 1\)\.$",
        ),
        ({"x": X[0, 0]}, RuntimeError, r"\(N, 8, H, W\) or \(8, H, W\), got \(5, 5\)\.$"),
        ({"x": X[:, :6]}, RuntimeError, r"\(N, 8, H, W\) or \(8, H, W\), got \(1, 6, 5, 5\)\.$"),
        ({"x": X.double()}, RuntimeError, r"the input is torch\.float64 and the weight torch\.float32\."),
        (
            {"weights": [WEIGHTS[0], WEIGHTS[1].double()]},
            RuntimeError,
            r"the input is torch\.float32 and the weight torch\.float64\.",
        ),
        ({"biases": [torch.zeros(4), torch.zeros(4)]}, RuntimeError, r"expected bias \(2,\), .* got \(4,\)\.$"),
        ({"stride": 0}, RuntimeError, r"stride must be at least 1, got 0\.$"),
        ({"padding": "same", "stride": 2}, RuntimeError, r'padding="same" needs stride 1, got stride=2\.'),
    ],
)
def test_wrong_calls_are_named(arguments, error, message):
    arguments = {"x": X, "weights": WEIGHTS, "blocks": (1, 2), **arguments}
    with pytest.raises(error, match=r"^split_tied_conv2d: .*" + message):
        ops.split_tied_conv2d(**arguments)
