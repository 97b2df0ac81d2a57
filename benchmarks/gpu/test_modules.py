"""Modules on the device against their copies in float64 on the CPU."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tiedconv.nn import SplitTiedConv2d, TiedConv1d, TiedConv2d, TiedConv3d, TiedGlobalContext, TiedLinear, TiedSE

from .precision import DEVICE, FORMATS, IN_EACH_PRECISION, check, placed, relative, rounded

MODULES: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda **kw: TiedConv1d(8, 12, 3, padding=1, padding_mode="circular", blocks=2, **kw), (3, 8, 11)),
    "conv2d": (lambda **kw: TiedConv2d(16, 24, 3, padding="same", groups=2, blocks=2, **kw), (3, 16, 9, 8)),
    "strided": (lambda **kw: TiedConv2d(16, 8, 3, 2, 1, padding_mode="reflect", blocks=4, **kw), (3, 16, 9, 8)),
    "conv3d": (lambda **kw: TiedConv3d(8, 8, 3, padding=1, padding_mode="replicate", blocks=4, **kw), (2, 8, 5, 6, 4)),
    "linear": (lambda **kw: TiedLinear(64, 32, blocks=4, **kw), (3, 5, 64)),
    "split": (lambda **kw: SplitTiedConv2d(32, 32, 3, padding=1, blocks=(1, 2, 4, 8), **kw), (3, 32, 9, 8)),
    "se": (lambda **kw: TiedSE(32, reduction=4, blocks=2, **kw), (3, 32, 9, 8)),
    "gcb": (lambda **kw: TiedGlobalContext(32, reduction=4, blocks=2, **kw), (3, 32, 9, 8)),
}


@IN_EACH_PRECISION
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_nn_modules_and_their_gradients(memory_format, name, precision, record_property):
    precision.apply()
    build, shape = MODULES[name]
    module = build(device=DEVICE, dtype=precision.dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) / 4)  # those that begin at zero too
    assert {parameter.device.type for parameter in module.parameters()} == {DEVICE.type}
    twin = copy.deepcopy(module).to("cpu", torch.float64)
    x = rounded(torch.randn(shape, dtype=torch.float64), precision)
    own = placed(x, precision).detach()
    own = own.contiguous(memory_format=FORMATS[memory_format] if x.dim() == 4 else torch.contiguous_format)
    results = []
    for model, given_x in ((module, own.requires_grad_()), (twin, x)):
        y = model(given_x)
        cotangent = torch.linspace(-1, 1, y.numel()).view(y.shape).to(precision.dtype).to(y)
        of_x, *others = torch.autograd.grad(y, [given_x, *model.parameters()], cotangent)
        results.append([y, of_x, torch.cat([gradient.flatten() for gradient in others])])  # one of them may be zero
    check(relative(*results), 5 * precision.tolerance, record_property)
