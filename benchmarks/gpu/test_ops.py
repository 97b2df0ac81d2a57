"""Operators on the device against the paper's equations in float64 on the CPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tiedconv import ops
from tiedconv.ops import algorithms, layout
from tiedconv.ops.algorithms import ConvArgs

from .precision import (
    DEVICE,
    FORMATS,
    IN_EACH_PRECISION,
    PRECISIONS,
    TINY,
    check,
    from_tests,
    placed,
    relative,
    rounded,
)

references, strategies = from_tests("references.py"), from_tests("ops/strategies.py")
TIED = {1: ops.tied_conv1d, 2: ops.tied_conv2d, 3: ops.tied_conv3d}
SHAPES = [(16, 8, 3), (16, 6, 1)] if TINY else [(64, 56, 3), (256, 14, 3), (512, 7, 3), (256, 28, 1), (2048, 7, 1)]
NEITHER_SHRINK_NOR_REFUSE: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "phases": [Phase.explicit, Phase.generate],
    "suppress_health_check": list(HealthCheck),
}


def derivatives(y: Tensor, inputs: list[Tensor], cotangent: Tensor, directions: list[Tensor]) -> list[Tensor]:
    """Value, first gradients of <y, c>, and the gradients of <those, directions> for inputs and c."""
    cotangent = cotangent.to(y).requires_grad_()
    first = torch.autograd.grad(y, inputs, cotangent, create_graph=True)
    directions = [d.to(y) for d in directions]
    wanted = [*inputs, cotangent]
    second = torch.autograd.grad(first, wanted, directions, allow_unused=True, materialize_grads=True)
    return [y, *first, *second]


def largest_error(got: list[Tensor], expected: list[Tensor], scale: list[Tensor]) -> float:
    """Largest difference over the largest sum of absolute values: results of few terms can be near zero."""
    errors = [
        ((a.detach().cpu().double() - b).abs().max() / s.max().clamp(min=1e-30)).item()
        for a, b, s in zip(got, expected, scale, strict=True)
        if b.numel()
    ]
    return max(errors, key=lambda error: float("inf") if error != error else error, default=0.0)


@IN_EACH_PRECISION
@settings(max_examples=4 if TINY else 40, **NEITHER_SHRINK_NOR_REFUSE)
@given(case=st.integers(1, 3).flatmap(strategies.cases))
def test_ops_paths_and_double_gradients(precision, record_property, case):
    precision.apply()
    inputs = [rounded(t, precision) for t in case.tensors() if t is not None]
    args = ConvArgs(**case.geometry)

    def reference(inputs: list[Tensor], signs: Callable[[Tensor], Tensor]) -> list[Tensor]:
        y = references.tied_conv(*inputs, **case.geometry)
        return derivatives(y, inputs, signs(cotangent(y)), [signs(d) for d in directions])

    def cotangent(y: Tensor) -> Tensor:
        return torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(precision.dtype)

    directions = [torch.randn(t.shape).to(precision.dtype) for t in inputs]
    expected = reference(inputs, lambda t: t)
    scale = reference([t.detach().abs().requires_grad_() for t in inputs], torch.abs)
    calls = {**algorithms.applicable(*inputs[:2], args), "public": None}
    for path in calls.values():
        own = [placed(t, precision) for t in inputs]
        x, weight, bias = (*own, None)[:3]
        y = path(x, weight, bias, args) if path else TIED[x.dim() - 2](x, weight, bias, **case.geometry)
        found = derivatives(y, own, cotangent(y), directions)
        check(largest_error(found, expected, scale), precision.tolerance, record_property)


@IN_EACH_PRECISION
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("blocks", [2] if TINY else [2, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ops_shapes_of_resnets(shape, blocks, memory_format, precision, record_property):
    precision.apply()
    channels, size, kernel = shape
    x = torch.randn(2, channels, size, size, dtype=torch.float64).contiguous(memory_format=FORMATS[memory_format])
    weight = torch.randn(channels // blocks, channels // blocks, kernel, kernel, dtype=torch.float64)
    inputs = [rounded(x, precision), rounded(weight.contiguous(memory_format=FORMATS[memory_format]), precision)]
    y = references.tied_conv(*inputs, padding=kernel // 2, blocks=blocks)
    gradient = torch.randn_like(y).to(precision.dtype)
    expected = [y, *torch.autograd.grad(y, inputs, gradient.double())]
    args = ConvArgs((1, 1), (kernel // 2,) * 2, (1, 1), 1, blocks)
    ways = {
        **algorithms.applicable(*inputs, args),
        "public": lambda x, w, _, a: ops.tied_conv2d(x, w, None, *a[:4], blocks=a[4]),
    }
    for name, path in ways.items():
        own = [placed(t, precision) for t in inputs]
        y = path(*own, None, args)
        check(
            relative([y, *torch.autograd.grad(y, own, gradient.to(y))], expected), precision.tolerance, record_property
        )
        if name == "public":
            assert layout.is_channels_last(y) == (memory_format == "channels_last")


@IN_EACH_PRECISION
@pytest.mark.parametrize("blocks", [1, 4])
def test_ops_linear(blocks, precision, record_property):
    precision.apply()
    shapes = [(3, 5, 64), (48 // blocks, 64 // blocks), (48 // blocks,)]
    inputs = [rounded(torch.randn(shape, dtype=torch.float64), precision) for shape in shapes]
    y = references.tied_linear(*inputs, blocks=blocks)
    expected = [y, *torch.autograd.grad(y.sum(), inputs)]
    own = [placed(t, precision) for t in inputs]
    y = ops.tied_linear(*own, blocks=blocks)
    check(relative([y, *torch.autograd.grad(y.sum(), own)], expected), precision.tolerance, record_property)


@IN_EACH_PRECISION
@pytest.mark.parametrize("memory_format", FORMATS)
def test_ops_splits(memory_format, precision, record_property):
    precision.apply()
    blocks, c = (1, 2, 4, 8), 8 if TINY else 32
    tensors = [torch.randn(2, 4 * c, 9, 9), *(torch.randn(c // b, c // b, 3, 3) for b in blocks)]
    inputs = [rounded(t.double().contiguous(memory_format=FORMATS[memory_format]), precision) for t in tensors]
    parts = zip(inputs[0].chunk(4, 1), inputs[1:], blocks, strict=True)
    y = torch.cat([references.tied_conv(x, w, padding=1, blocks=b) for x, w, b in parts], 1)
    expected = [y, *torch.autograd.grad(y.sum(), inputs)]
    x, *weights = own = [placed(t, precision) for t in inputs]
    y = ops.split_tied_conv2d(x, weights, padding=1, blocks=blocks)
    check(relative([y, *torch.autograd.grad(y.sum(), own)], expected), precision.tolerance, record_property)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("kernel", [1, 3])
def test_ops_autocast_computes_in_bfloat16_and_returns_float32_gradients(kernel, memory_format, record_property):
    x = torch.randn(2, 32, 9, 9).contiguous(memory_format=FORMATS[memory_format])
    weight, bias = torch.randn(16, 16, kernel, kernel), torch.randn(16)
    own = [t.to(DEVICE).requires_grad_() for t in (x, weight, bias)]
    with torch.autocast(DEVICE.type, torch.bfloat16):
        y = ops.tied_conv2d(*own, blocks=2)
    assert y.dtype == torch.bfloat16
    assert [gradient.dtype for gradient in torch.autograd.grad(y.sum(), own)] == [torch.float32] * 3
    expected = references.tied_conv(x.double(), weight.double(), bias.double(), blocks=2)
    check(relative(y, expected), 1e-2, record_property)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_ops_compiled(memory_format, record_property):
    def function(x: Tensor, w: Tensor) -> Tensor:
        return ops.tied_conv2d(x, w, padding=1, blocks=4).relu()

    x = torch.randn(2, 32, 9, 9, device=DEVICE).contiguous(memory_format=FORMATS[memory_format]).requires_grad_()
    weight = torch.randn(8, 8, 3, 3, device=DEVICE, requires_grad=True)
    compiled = torch.compile(function, backend="aot_eager" if TINY else "inductor")
    results = []
    for call in (compiled, function):
        y = call(x, weight)
        results.append([t.detach().cpu().double() for t in (y, *torch.autograd.grad(y.sum(), [x, weight]))])
    check(relative(*results), 2e-3, record_property)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="only CUDA has graphs")
@pytest.mark.parametrize("memory_format", FORMATS)
def test_ops_replayed_from_a_graph(memory_format):
    PRECISIONS[0].apply()
    x = torch.randn(2, 32, 9, 9, device=DEVICE).contiguous(memory_format=FORMATS[memory_format])
    weight = torch.randn(8, 8, 3, 3, device=DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # kernels are chosen before the capture
        ops.tied_conv2d(x, weight, padding=1, blocks=4)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = ops.tied_conv2d(x, weight, padding=1, blocks=4)
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.testing.assert_close(y, ops.tied_conv2d(x, weight, padding=1, blocks=4), rtol=1e-4, atol=1e-4)
