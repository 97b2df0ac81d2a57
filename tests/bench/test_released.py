import pytest
import torch

from tiedconv.bench.released import released_tied_conv2d
from tiedconv.ops import tied_conv2d

FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize(("size", "kernel"), [((5, 6), 3), ((5, 6), 1), ((1, 1), 1), ((1, 1), 3)])
def test_same_numbers_as_the_operator(memory_format, blocks, size, kernel):
    x = torch.randn(2, 8, *size).contiguous(memory_format=memory_format).requires_grad_()
    weight = torch.randn(12 // blocks, 8 // blocks, kernel, kernel).contiguous(memory_format=memory_format)
    weight.requires_grad_()
    bias = torch.randn(12 // blocks)
    options = {"stride": 2, "padding": kernel // 2, "blocks": blocks}
    y, expected = released_tied_conv2d(x, weight, bias, **options), tied_conv2d(x, weight, bias, **options)
    torch.testing.assert_close(y, expected)
    gradient = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(y, [x, weight], gradient), torch.autograd.grad(expected, [x, weight], gradient)
    )
