"""Operators on calls that are wrong in every way: the value of a float64 reference, or a refusal."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import assume
from hypothesis import strategies as st
from tests import references
from tests.fuzz.cases import attempt, check_refusal, fuzz
from tests.ops.strategies import LAYOUTS, cases, lay_out
from torch import Tensor

from tiedconv import ops

CONVS = {1: (ops.tied_conv1d, F.conv1d), 2: (ops.tied_conv2d, F.conv2d), 3: (ops.tied_conv3d, F.conv3d)}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.int64, torch.uint8]
DTYPES += [torch.bool]
# No padding between a few pixels and what no memory holds: the case would only be slow.
NUMBERS: list[Any] = [
    0, -1, 1, 2, 3, True, 1.5, math.nan, "2", None, (), (1,), [2], (1, 2), (2, 1, 2), (1, 1, 1, 1), (0, 0), (1, None),
    "same", "valid", "reflect", np.int64(2), np.float32(1), 2**45, 2**62, 2**63, -(2**63), torch.tensor(2),
]  # fmt: skip
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.complex64: 1e-4, torch.float16: 2e-2, torch.bfloat16: 0.1}


@st.composite
def changed(draw: st.DrawFn, tensor: Tensor) -> Any:
    """Draw a tensor made of another one: of another type, shape or place in memory, or none at all."""
    what = draw(st.sampled_from(["dtype", "less", "more", "narrow", "empty", "expand", "transpose", "layout", "other"]))
    dim = draw(st.integers(0, max(0, tensor.dim() - 1)))
    if what == "dtype":
        real = tensor.real if tensor.is_complex() else tensor
        return real.to(draw(st.sampled_from(DTYPES)))
    if what == "more" or not tensor.dim():
        return tensor.unsqueeze(draw(st.integers(0, tensor.dim())))
    if what == "less":
        return tensor.select(dim, 0) if tensor.shape[dim] else tensor.sum(dim)
    if what == "narrow":
        return tensor.narrow(dim, 0, max(0, tensor.shape[dim] - 1))
    if what == "empty":
        return tensor.narrow(dim, 0, 0)
    if what == "expand" and tensor.shape[dim]:
        return tensor.narrow(dim, 0, 1).expand_as(tensor)
    if what == "transpose":
        return tensor.transpose(dim, draw(st.integers(0, tensor.dim() - 1)))
    if what == "layout" and tensor.dim() > 1:
        return lay_out(tensor, draw(st.sampled_from(LAYOUTS)))
    return draw(st.sampled_from([None, 1, "x", [1.0], np.zeros((1, 2, 3, 4)), tensor.to("meta"), tensor.to_sparse()]))


@st.composite
def conv_calls(draw: st.DrawFn) -> tuple[int, dict[str, Any]]:
    """Draw the number of dimensions and the arguments of a call that was valid before up to three changes."""
    dims = draw(st.integers(1, 3))
    case = draw(cases(dims, named_padding=True))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    x, weight, bias = (None if t is None else t.detach() for t in case.tensors(dtype))
    call: dict[str, Any] = {"x": x, "weight": weight, "bias": bias, **case.geometry}
    if draw(st.integers(0, 4)) == 0:
        for name in ("x", "weight", "bias"):  # all of one type, so that more than the check of types is reached
            call[name] = None if call[name] is None else call[name].to(draw(st.shared(st.sampled_from(DTYPES))))
    for name in draw(st.lists(st.sampled_from(list(call)), max_size=3, unique=True)):
        tensor = isinstance(call[name], Tensor)
        call[name] = draw(changed(call[name])) if tensor else draw(st.sampled_from(NUMBERS))
    return dims, call


def torchs_own(twin: Any, call: dict[str, Any]) -> Tensor:
    """What torch computes of the same call, the filters written out for all blocks."""
    groups, blocks = call["groups"], call["blocks"]
    repeated = {
        name: None
        if call[name] is None
        else call[name].unflatten(0, (groups, 1, -1)).repeat(1, blocks, *[1] * call[name].dim()).flatten(0, 2)
        for name in ("weight", "bias")
    }
    options = {name: call[name] for name in ("stride", "padding", "dilation")}
    y: Tensor = twin(call["x"], repeated["weight"], repeated["bias"], **options, groups=groups * blocks)
    return y


def each(value: Any, dims: int) -> Any:
    """A number for each dimension, as a sequence of one stands for all."""
    if isinstance(value, str):
        return value
    values = [int(v) for v in (value if isinstance(value, list | tuple) else [value])]
    return tuple(values * dims if len(values) == 1 else values)


def strange(call: dict[str, Any]) -> bool:
    """Whether a tensor has no values or is sparse: torch says then what it can do, and nothing can be compared."""
    values = [v for value in call.values() for v in (value if isinstance(value, list) else [value])]
    return any(isinstance(v, Tensor) and (v.is_meta or v.is_sparse) for v in values)


def may_crash_torch(x: Any, weight: Any) -> bool:
    """Whether map and kernel are one pixel wide. If padded, oneDNN's grouped kernels end the process for some of them.

    So does ``F.conv2d`` on (2, 2, 3, 1) in channels_last memory: kernel (2, 1), bias, stride 2, padding 1, dilation 2,
    2 groups.
    """
    tensors = all(isinstance(tensor, Tensor) and tensor.dim() for tensor in (x, weight))
    return tensors and x.shape[-1] == weight.shape[-1] == 1


def exact(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def check_equal(y: Tensor, expected: Tensor) -> None:
    assert y.shape == expected.shape
    tolerance = TOLERANCE[y.dtype] * (1 + expected.abs().amax().item() if expected.numel() else 1)
    assert (exact(y) - expected).abs().le(tolerance).all()


@fuzz(80, given_call=conv_calls())
def test_a_convolution_is_right_or_refused(given_call):
    dims, call = given_call
    ours, twin = CONVS[dims]
    assume(not may_crash_torch(call["x"], call["weight"]))
    y, error = attempt(lambda: ours(**call))
    if error is not None:
        explained = str(error).startswith((f"{ours.__name__}: ", "expected input "))
        if not explained and not strange(
            call
        ):  # what only torch's kernels know, such as a kernel wider than the padded input
            _, theirs = attempt(lambda: torchs_own(twin, call))
            assert theirs is not None, f"torch takes this, we say: {error}"
        return
    if strange(call):
        return
    # oneDNN's grouped kernels compute wrong bfloat16 numbers where a stride leaves channels_last maps one pixel wide:
    # F.conv2d of (2, 3, 3, 3) by (6, 1, 2, 3), stride (1, 2), 3 groups.
    assume(y.dtype != torch.bfloat16 or 1 not in y.shape[-dims:])
    geometry = {name: each(call[name], dims) for name in ("stride", "padding", "dilation")}
    x, batched = call["x"], call["x"].dim() == dims + 2
    share = {"groups": int(call["groups"]), "blocks": int(call["blocks"])}
    tensors = [exact(t) for t in (x if batched else x[None], call["weight"], call["bias"])]
    expected = references.tied_conv(*tensors, **geometry, **share)
    check_equal(y, expected if batched else expected[0])


@st.composite
def linear_calls(draw: st.DrawFn) -> dict[str, Any]:
    blocks, c_in, c_out = (draw(st.integers(1, 3)) for _ in range(3))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    dtype = draw(st.sampled_from(DTYPES[:5]))
    leading = draw(st.lists(st.integers(0, 3), max_size=3))
    call: dict[str, Any] = {
        "x": torch.randn(*leading, blocks * c_in, dtype=dtype),
        "weight": torch.randn(c_out, c_in, dtype=dtype),
        "bias": torch.randn(c_out, dtype=dtype) if draw(st.booleans()) else None,
        "blocks": blocks,
    }
    for name in draw(st.lists(st.sampled_from(list(call)), max_size=2, unique=True)):
        tensor = isinstance(call[name], Tensor)
        call[name] = draw(changed(call[name])) if tensor else draw(st.sampled_from(NUMBERS))
    return call


@fuzz(40, call=linear_calls())
def test_a_linear_map_is_right_or_refused(call):
    y, error = attempt(lambda: ops.tied_linear(**call))
    if error is not None:
        if not str(error).startswith(("tied_linear: ", "expected input ")) and not strange(call):
            weight = references.dense_weight(call["weight"], blocks=call["blocks"])
            bias = None if call["bias"] is None else call["bias"].repeat(call["blocks"])
            _, theirs = attempt(lambda: F.linear(call["x"], weight, bias))
            assert theirs is not None, f"torch takes this, we say: {error}"
        return
    if strange(call):
        return
    tensors = [exact(call[name]) for name in ("x", "weight", "bias")]
    check_equal(y, references.tied_linear(*tensors, blocks=int(call["blocks"])))


@st.composite
def split_calls(draw: st.DrawFn) -> dict[str, Any]:
    shares = draw(st.lists(st.sampled_from([(1, 1), (1, 2), (2, 1), (1, 4), (2, 2)]), min_size=1, max_size=3))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (1, 2)]))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    dtype = draw(st.sampled_from(DTYPES[:3]))
    x = torch.randn(draw(st.integers(0, 2)), 4 * len(shares), 4, 5, dtype=dtype)
    call: dict[str, Any] = {
        "x": lay_out(x, draw(st.sampled_from(LAYOUTS))),
        "weights": [torch.randn(4 // b, 4 // (b * g), *kernel, dtype=dtype) for g, b in shares],
        "biases": [torch.randn(4 // b, dtype=dtype) for _, b in shares] if draw(st.booleans()) else None,
        "stride": draw(st.integers(1, 2)),
        "padding": draw(st.integers(0, 1)),
        "dilation": 1,
        "groups": [g for g, _ in shares],
        "blocks": [b for _, b in shares],
    }
    for name in draw(st.lists(st.sampled_from(list(call)), max_size=2, unique=True)):
        value = call[name]
        if isinstance(value, Tensor):
            call[name] = draw(changed(value))
        elif isinstance(value, list) and draw(st.integers(0, 3)):
            place = draw(st.integers(0, len(value) - 1))
            tensor = isinstance(value[place], Tensor)
            value[place] = draw(changed(value[place])) if tensor else draw(st.sampled_from(NUMBERS))
        else:
            call[name] = draw(st.sampled_from(NUMBERS))
    return call


@fuzz(50, call=split_calls())
def test_a_convolution_of_splits_is_right_or_refused(call):
    weights = call["weights"] if isinstance(call["weights"], list) else []
    assume(not any(may_crash_torch(call["x"], weight) for weight in weights))
    y, error = attempt(lambda: ops.split_tied_conv2d(**call))
    if error is not None:
        if not str(error).startswith(("split_tied_conv2d: ", "expected input ")):
            assert isinstance(error, RuntimeError | TypeError | NotImplementedError)
            check_refusal(
                error,
                "kernel",
                "Kernel",
                "size",
                "implemented",
                "dtype",
                "memory",
                "device",
                "integer",
                "verflow",
                "zero",
            )
        return
    if strange(call):
        return
    x, batched = exact(call["x"]), call["x"].dim() == 4
    chunks = (x if batched else x[None]).chunk(len(call["weights"]), dim=1)
    geometry = {name: each(call[name], 2) for name in ("stride", "padding", "dilation")}
    groups, biases = call["groups"] or [1] * len(chunks), call["biases"] or [None] * len(chunks)
    parts = [
        references.tied_conv(chunk, exact(w), exact(b), **geometry, groups=int(g), blocks=int(n))
        for chunk, w, b, g, n in zip(chunks, call["weights"], biases, groups, call["blocks"], strict=True)
    ]
    expected = torch.cat(parts, dim=1)
    check_equal(y, expected if batched else expected[0])
