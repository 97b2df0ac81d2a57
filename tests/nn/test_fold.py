"""A norm folded into the convolution before it: values, gradients, dtypes."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests import references
from tests.ops.strategies import lay_out
from torch import Tensor, nn
from torch.testing import assert_close

from tiedconv.nn import SplitTiedConv2d, TiedConv2d
from tiedconv.nn.fold import conv_norm, folded_filters, untied_filters

EXACT = {"rtol": 1e-10, "atol": 1e-10}
FORMATS = pytest.mark.parametrize("name", ["contiguous", "channels_last"])
CONVS: dict[str, Callable[[], nn.Module]] = {
    "torch": lambda: nn.Conv2d(8, 12, 3, bias=False),
    "torch with bias, groups, stride": lambda: nn.Conv2d(8, 12, 3, 2, 1, groups=4),
    "torch same": lambda: nn.Conv2d(8, 12, 3, padding="same", dilation=2),
    "tied": lambda: TiedConv2d(8, 12, 3, 2, 1, 2, bias=False, blocks=4),
    "tied with bias, groups": lambda: TiedConv2d(8, 12, (1, 2), padding="same", groups=2, blocks=2),
    "tied 1x1": lambda: TiedConv2d(8, 12, 1, blocks=2),
    "splits": lambda: SplitTiedConv2d(8, 16, 3, 2, 1, blocks=(1, 4)),
    "splits with groups": lambda: SplitTiedConv2d(8, 12, 3, padding=1, groups=(2, 1), blocks=(1, 2)),
    "one split": lambda: SplitTiedConv2d(8, 12, 3, groups=(2,), blocks=(2,)),
}
ALL_CONVS = pytest.mark.parametrize("kind", CONVS)

pytestmark = pytest.mark.usefixtures("folding_pays")


def norm_of(channels: int, **arguments: Any) -> nn.BatchNorm2d:
    """A norm in evaluation mode that does something."""
    norm = nn.BatchNorm2d(channels, **arguments)
    norm.running_mean, norm.running_var = torch.randn(channels), torch.rand(channels) + 0.5
    if norm.affine:
        nn.init.uniform_(norm.weight, -1.5, 1.5)
        nn.init.normal_(norm.bias)
    return norm.eval()


def pair(kind: str = "tied", **arguments: Any) -> tuple[nn.Module, nn.BatchNorm2d]:
    conv = CONVS[kind]()
    return conv.double(), norm_of(conv.out_channels, **arguments).double()


def images(name: str = "contiguous", dtype: torch.dtype = torch.float64) -> Tensor:
    return lay_out(torch.randn(2, 8, 7, 6, dtype=dtype), name).requires_grad_()


@FORMATS
@ALL_CONVS
@pytest.mark.parametrize("arguments", [{}, {"affine": False}, {"eps": 0.1, "momentum": None}], ids=str)
def test_folded_is_the_norm_of_the_convolution_with_its_gradients(kind, arguments, name):
    (conv, norm), x = pair(kind, **arguments), images(name)
    inputs = [x, *conv.parameters(), *norm.parameters()]
    y, expected = conv_norm(x, conv, norm), norm(conv(x))
    assert_close(y, expected, **EXACT)
    cotangent = torch.randn_like(expected)
    assert_close(torch.autograd.grad(y, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent), **EXACT)
    assert y.is_contiguous(memory_format=torch.channels_last) == (name == "channels_last")


@ALL_CONVS
@pytest.mark.parametrize("missing", ["weight", "bias"])
def test_a_norm_may_have_a_scale_or_a_shift_alone(missing, kind):
    conv, norm = pair(kind)
    norm.register_parameter(missing, None)
    x = images()
    assert_close(conv_norm(x, conv, norm), norm(conv(x)), **EXACT)


def test_folded_agrees_with_the_formula():
    conv, norm = pair("tied with bias, groups")
    x = images()
    y = references.tied_conv(x, conv.weight, conv.bias, padding="same", groups=2, blocks=2)
    mean, var, weight, bias = (t.view(-1, 1, 1) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    assert_close(conv_norm(x, conv, norm), (y - mean) / (var + norm.eps).sqrt() * weight + bias, **EXACT)


@ALL_CONVS
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
def test_filters_are_those_of_an_untied_convolution(kind):
    conv, norm = pair(kind)
    x = images()
    for filters, expected in ((untied_filters(conv), conv(x)), (folded_filters(conv, norm), norm(conv(x)))):
        chunks = x.chunk(len(filters), 1)
        y = [
            F.conv2d(chunk, f.weight, f.bias, conv.stride, conv.padding, conv.dilation, f.groups)
            for chunk, f in zip(chunks, filters, strict=True)
        ]
        assert_close(torch.cat(y, 1), expected, **EXACT)


@FORMATS
def test_an_empty_batch_stays_empty(name):
    for kind in CONVS:
        conv, norm = pair(kind)
        assert conv_norm(images(name)[:0], conv, norm).shape == norm(conv(images()[:0])).shape


def test_folding_leaves_statistics_and_parameters_as_they_are():
    conv, norm = pair("splits")
    before = copy.deepcopy([conv.state_dict(), norm.state_dict()])
    conv_norm(images(), conv, norm).sum().backward()
    assert_close([conv.state_dict(), norm.state_dict()], before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["torch", "tied", "splits"])
@pytest.mark.parametrize(("conv_dtype", "norm_dtype"), [(torch.bfloat16,) * 2, (torch.bfloat16, torch.float32)])
def test_half_precision_is_within_its_rounding(kind, conv_dtype, norm_dtype):
    """Models of which only the norms stay in float32 are usual."""
    conv, norm = pair(kind)
    conv, norm = conv.to(conv_dtype), norm.to(norm_dtype)
    x = images(dtype=conv_dtype)
    y = conv_norm(x, conv, norm)
    assert y.dtype == norm(conv(x)).dtype == conv_dtype
    assert_close(y.double(), conv_norm(x.double(), conv.double(), norm.double()), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("kind", ["torch", "tied", "splits"])
def test_dead_channels_are_divided_by_an_epsilon_that_half_precision_does_not_know(kind):
    conv, norm = pair(kind, eps=2e-8)
    nn.init.zeros_(norm.running_var)
    conv, norm, x = conv.half(), norm.half(), images(dtype=torch.float16)
    y = conv_norm(x, conv, norm).double()
    expected = norm.double()(conv.double()(x.double()))
    assert_close(y, expected, rtol=0.01, atol=0.01 * expected.abs().max().item())


@pytest.mark.parametrize("kind", ["torch", "tied", "splits"])
def test_autocast_computes_in_half_precision(kind):
    conv, norm = pair(kind)
    conv, norm, x = conv.float(), norm.float(), images(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = conv_norm(x, conv, norm), norm(conv(x))
    assert y.dtype == expected.dtype == torch.bfloat16
    assert_close(y, expected, rtol=0.05, atol=0.05)


def test_errors_about_the_input_name_the_layer():
    for conv in (nn.Conv2d(8, 12, 3), TiedConv2d(8, 12, 3, blocks=2), SplitTiedConv2d(8, 12, 3, blocks=(1, 2))):
        name = type(conv).__name__
        with pytest.raises(RuntimeError, match=rf"^{name}: expected input \(N, 8, H, W\) or .*, got \(2, 7, 6, 6\)\.$"):
            conv_norm(torch.zeros(2, 7, 6, 6), conv, norm_of(12))
    with pytest.raises(ValueError, match="expected 4D input"):  # torch's own
        conv_norm(torch.zeros(8, 6, 6), TiedConv2d(8, 12, 3, blocks=2), norm_of(12))
