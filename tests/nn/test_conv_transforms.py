"""Tied convolutions under what torch does to modules: dtypes, autocast, meta, torch.func, compile, export."""

import os
import shutil

import pytest
import torch
from tests import references
from tests.ops.strategies import lay_out
from torch import Tensor, nn
from torch.testing import assert_close

from tiedconv import ops
from tiedconv.nn import TiedConv1d, TiedConv2d, TiedConv3d, TiedGlobalContext, TiedLinear, TiedSE

FORMATS = pytest.mark.parametrize("name", ["contiguous", "channels_last"])
CONVS = pytest.mark.parametrize(
    "conv",
    [
        TiedConv2d(8, 8, 3, padding=1, blocks=2),
        TiedConv2d(8, 8, 1, blocks=4),
        TiedConv2d(8, 8, (2, 3), padding="same", groups=2, blocks=2),
        TiedConv2d(8, 8, 3, padding=1, blocks=2, padding_mode="circular"),
    ],
    ids=["3x3", "1x1", "groups same", "circular"],
)


def images(batch: int, height: int, width: int, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return lay_out(torch.randn(batch, 8, height, width, dtype=dtype), name)


@FORMATS
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_dtypes_of_conv2d(dtype, kernel, name):
    conv = TiedConv2d(8, 8, kernel, blocks=2, dtype=dtype)
    x = images(2, 5, 4, name, dtype).requires_grad_()
    y = conv(x)
    y.abs().sum().backward()
    assert y.dtype == conv.weight.dtype == conv.weight.grad.dtype == x.grad.dtype == dtype
    wide = torch.complex128 if dtype.is_complex else torch.float64
    expected = references.tied_conv(x.to(wide), conv.weight.to(wide), conv.bias.to(wide), blocks=2)
    tolerance = 1e-5 if dtype.is_complex else 0.03
    assert_close(y, expected, rtol=tolerance, atol=tolerance, check_dtype=False)


@pytest.mark.parametrize("cls", [TiedConv1d, TiedConv2d, TiedConv3d])
def test_device_and_dtype_reach_every_parameter(cls):
    conv = cls(8, 8, 3, device="meta", dtype=torch.bfloat16, blocks=2)
    assert {(p.device.type, p.dtype) for p in conv.parameters()} == {("meta", torch.bfloat16)}
    y = conv(torch.empty(2, 8, *(5,) * conv.N, device="meta", dtype=torch.bfloat16))
    assert y.device.type == "meta"
    assert y.shape == (2, 8, *(3,) * conv.N)


def test_a_module_made_on_meta_is_filled_later():
    conv = TiedConv2d(8, 8, 3, device="meta", blocks=2).to_empty(device="cpu")
    nn.init.constant_(conv.weight, float("nan"))
    conv.reset_parameters()
    assert conv(torch.ones(1, 8, 3, 3)).isfinite().all()


@FORMATS
@CONVS
def test_autocast(conv, name):
    x = images(2, 5, 4, name).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
        from_half = conv(x.bfloat16())
    assert y.dtype == from_half.dtype == torch.bfloat16
    assert_close(y.float(), conv(x), rtol=0.05, atol=0.05)
    assert_close(from_half, y, rtol=0.05, atol=0.05)
    gradient = torch.autograd.grad(y.float().sum(), conv.weight)[0]
    assert gradient.dtype == torch.float32


@FORMATS
@CONVS
def test_vmap_over_inputs_is_a_loop(conv, name):
    x = torch.stack([images(2, 5, 4, name) for _ in range(3)])
    expected = torch.stack([conv(sample) for sample in x])
    assert_close(torch.vmap(conv)(x), expected)
    assert_close(torch.vmap(conv, in_dims=1)(x.transpose(0, 1)), expected)
    unbatched = torch.vmap(conv)(x[0])  # each call sees (8, H, W)
    assert_close(unbatched, expected[0])


@FORMATS
@CONVS
def test_vmap_over_weights_is_an_ensemble(conv, name):
    x = images(2, 5, 4, name)
    states = {k: torch.randn(3, *v.shape) for k, v in conv.state_dict().items()}

    def call(state: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(conv, state, x)

    expected = torch.stack([call({k: v[i] for k, v in states.items()}) for i in range(3)])
    assert_close(torch.vmap(call)(states), expected)


@FORMATS
@CONVS
def test_gradients_per_sample(conv, name):
    x = images(3, 5, 4, name)

    def loss(state: dict[str, Tensor], sample: Tensor) -> Tensor:
        return torch.func.functional_call(conv, state, sample[None]).square().sum()

    state = {k: v.detach() for k, v in conv.named_parameters()}
    each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(state, x)
    for i in range(3):
        expected = torch.autograd.grad(conv(x[i : i + 1]).square().sum(), list(conv.parameters()))
        assert_close([gradients[i] for gradients in each.values()], list(expected))


@FORMATS
@CONVS
def test_forward_mode_is_linear_in_the_tangent(conv, name):
    x, tangent = images(2, 5, 4, name), images(2, 5, 4, name)
    y, derivative = torch.func.jvp(conv, (x,), (tangent,))
    assert_close(y, conv(x))
    assert_close(derivative, conv(x + tangent) - y, rtol=1e-4, atol=1e-5)


def compiled_agrees(module: nn.Module, inputs: list[Tensor], **options) -> None:
    """Outputs, their memory formats and all gradients of the compiled module are the module's own."""
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, **options)
    for x in inputs:
        x = x.detach().requires_grad_()
        wanted = [x, *module.parameters()]
        y, expected = compiled(x), module(x)
        assert y.stride() == expected.stride()
        assert_close(y, expected)
        gradients, expected_gradients = (torch.autograd.grad(t.square().sum(), wanted) for t in (y, expected))
        assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@FORMATS
@CONVS
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_breaks(conv, name, dynamic):
    compiled_agrees(conv, [images(3, 6, 5, name), images(5, 7, 9, name)], backend="aot_eager", dynamic=dynamic)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "shapes"),
    [
        (TiedConv1d(8, 8, 3, blocks=2), [(2, 8, 6), (3, 8, 7)]),
        (TiedConv3d(8, 8, 2, blocks=2), [(2, 8, 3, 4, 5), (3, 8, 5, 4, 3)]),
        (TiedLinear(8, 4, blocks=2), [(2, 8), (3, 8)]),
        (TiedSE(8, reduction=2, blocks=2), [(2, 8, 4, 5), (3, 8, 5, 4)]),
        (TiedGlobalContext(8, reduction=2, blocks=2), [(2, 8, 4, 5), (3, 8, 5, 4)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_modules_compile_with_dynamic_shapes(module, shapes):
    compiled_agrees(module, [torch.randn(shape) for shape in shapes], backend="aot_eager", dynamic=True)


@pytest.mark.slow
@FORMATS
def test_compiles_under_autocast(name):
    conv = TiedConv2d(8, 8, 1, blocks=2)
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    x = images(2, 5, 4, name)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(compiled(x), conv(x))
        assert_close(compiled(x.bfloat16()), conv(x.bfloat16()))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "c++")), reason="inductor needs a C++ compiler")
def test_compiles_to_native_code():
    block = nn.Sequential(TiedConv2d(8, 8, 3, padding=1, blocks=2), nn.ReLU(), TiedConv2d(8, 8, 1, blocks=2))
    compiled_agrees(block, [images(2, 6, 5, "channels_last")])


@FORMATS
@CONVS
def test_exports_with_any_batch_and_size(conv, name):
    block = nn.Sequential(conv, TiedSE(8, reduction=2, blocks=2)).eval()
    batch, height, width = (torch.export.Dim(axis, min=5, max=64) for axis in ("batch", "height", "width"))
    program = torch.export.export(block, (images(6, 7, 8, name),), dynamic_shapes=({0: batch, 2: height, 3: width},))
    for x in (images(6, 7, 8, name), images(9, 10, 5, name)):
        assert_close(program.module()(x), block(x))


def test_a_parametrized_weight_is_used():
    conv = nn.utils.parametrizations.weight_norm(TiedConv2d(8, 8, 3, blocks=2))
    x = images(1, 3, 3, "contiguous")
    assert_close(conv(x), ops.tied_conv2d(x, conv.weight, conv.bias, blocks=2))
    conv(x).sum().backward()
    assert conv.parametrizations.weight.original0.grad is not None
