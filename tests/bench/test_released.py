import pytest
import timm
import torch
from torch import nn

from tiedconv.bench.released import has_released_twin, released_tied_conv2d, released_twin
from tiedconv.models import create_model
from tiedconv.nn import SplitTiedConv2d, TiedConv2d
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


@pytest.mark.parametrize("memory_format", FORMATS)
def test_twin_of_a_tied_network_has_its_output_and_none_of_its_layers(memory_format):
    model = create_model("tiedresnet_tiny", layers=[1, 1, 1, 1]).to(memory_format=memory_format).eval()
    twin = released_twin(model)
    x = torch.randn(2, 3, 32, 32).contiguous(memory_format=memory_format)
    torch.testing.assert_close(twin(x), model(x), rtol=1e-4, atol=1e-5)
    assert has_released_twin(model)
    assert not has_released_twin(twin)
    assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in model.parameters())
    assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in model.parameters()}


def test_twin_of_splits():
    conv = SplitTiedConv2d(16, 16, 3, padding=1, stride=2, blocks=(1, 4))
    x = torch.randn(2, 16, 6, 6)
    twin = released_twin(conv)
    assert type(twin) is not SplitTiedConv2d
    torch.testing.assert_close(twin(x), conv(x))


def test_layers_outside_the_formulation_and_the_mode_are_kept():
    layers = [
        TiedConv2d(8, 8, 3, blocks=1),
        TiedConv2d(8, 8, 3, groups=2, blocks=2),
        TiedConv2d(8, 8, 3, padding=1, padding_mode="reflect", blocks=2),
        SplitTiedConv2d(8, 8, 3, groups=(2, 1), blocks=(1, 2)),
        SplitTiedConv2d(8, 8, 3, blocks=(1, 1)),
    ]
    twin = released_twin(nn.Sequential(*layers, TiedConv2d(8, 8, 3, padding="same", blocks=2)).eval())
    assert [type(layer) for layer in twin[:-1]] == [type(layer) for layer in layers]
    assert type(twin[-1]) is not TiedConv2d
    assert not twin[-1].training


def test_a_layer_that_is_used_twice_stays_one_layer():
    conv = TiedConv2d(4, 4, 1, blocks=2)
    twin = released_twin(nn.Sequential(conv, conv))
    assert twin[0] is twin[1]


def test_an_untied_model_has_no_twin():
    assert not has_released_twin(timm.create_model("resnet_tiny", layers=[1, 1, 1, 1]))
    with pytest.raises(ValueError, match="released_twin: Conv2d has no tied 2-D convolution"):
        released_twin(nn.Conv2d(2, 2, 1))
