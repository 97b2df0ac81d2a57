import math
from typing import Any

import pytest
import torch
from torch import nn

import tiedconv
from tiedconv.models._network import init_tied
from tiedconv.nn import SplitTiedConv2d, TiedConv2d, TiedGlobalContext, TiedLinear


@pytest.mark.parametrize(
    ("layer", "fan_out"),
    [
        (TiedConv2d(256, 256, 3, blocks=2), 128 * 9),
        (TiedConv2d(256, 256, 3, blocks=4, groups=2), 32 * 9),
        (TiedConv2d(256, 512, 1, blocks=1), 512),
        (TiedLinear(512, 256, blocks=2), 128),
    ],
)
def test_weights_are_drawn_by_the_fan_out_of_one_block(layer: Any, fan_out: int) -> None:
    init_tied(nn.Sequential(layer))

    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
    assert abs(layer.weight.mean().item()) < 0.1 * layer.weight.std().item()


def test_signals_start_as_strong_as_without_ties() -> None:
    x = torch.randn(8, 256, 16, 16)
    untied = nn.Conv2d(256, 256, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(untied.weight, mode="fan_out", nonlinearity="relu")
    tied = TiedConv2d(256, 256, 3, padding=1, bias=False, blocks=8)
    init_tied(tied)

    assert tied(x).std().item() == pytest.approx(untied(x).std().item(), rel=0.05)


def test_every_convolution_of_a_model_is_initialised() -> None:
    model = tiedconv.create_model("tiedresnet50_s", num_classes=0)

    splits = 0
    for name, conv in model.named_modules():
        if isinstance(conv, SplitTiedConv2d):
            filters = [*zip(conv.weights, conv.groups, conv.blocks, strict=True)]
            splits += len(filters)
        elif isinstance(conv, TiedConv2d):
            filters = [(conv.weight, conv.groups, conv.blocks)]
        else:
            continue
        for weight, groups, blocks in filters:
            fan_out = conv.out_channels // (len(filters) * blocks * groups) * math.prod(conv.kernel_size)
            tolerance = 5 / math.sqrt(2 * weight.numel())  # five standard errors
            assert weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=tolerance), name
    assert splits == 16 * 4


def test_context_blocks_change_nothing_at_first() -> None:
    model = tiedconv.create_model("tiedresnet_tiny", block_args={"attn_layer": TiedGlobalContext})
    contexts = [m for m in model.modules() if isinstance(m, TiedGlobalContext)]

    assert contexts
    for context in contexts:
        x = torch.randn(2, context.channels, 3, 3)
        assert torch.equal(context(x), x)
        assert context.fc1.weight.std() > 0


@pytest.mark.parametrize("zero", [True, False])
def test_zero_init_last_is_timms_argument(zero: bool) -> None:
    model = tiedconv.create_model("tiedresnet_tiny", zero_init_last=zero)
    block: Any = model.get_submodule("layer2.0")
    assert bool((block.bn3.weight == 0).all()) is zero


@pytest.mark.parametrize("name", ["resnet_tiny", "tiedresnet_tiny"])
@pytest.mark.parametrize(("side", "channels"), [(8, 3), (16, 3), (28, 1), (32, 3)])
def test_tiny_models_take_small_images(name: str, side: int, channels: int) -> None:
    model = tiedconv.create_model(name, in_chans=channels, num_classes=10)
    model(torch.randn(2, channels, side, side)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", ["resnet_tiny", "tiedresnet_tiny"])
@pytest.mark.parametrize("output_stride", [16, 8, 4])
def test_tiny_models_halve_the_reductions(name: str, output_stride: int) -> None:
    model: Any = tiedconv.create_model(name, features_only=True, output_stride=output_stride, device="meta")
    features = model(torch.empty(1, 3, 32, 32, device="meta"))

    assert model.feature_info.channels() == [32, 64, 128, 256, 512] == [f.shape[1] for f in features]
    assert model.feature_info.reduction() == [min(r, output_stride) for r in (2, 2, 4, 8, 16)]
    assert [f.shape[2] for f in features] == [32 // r for r in model.feature_info.reduction()]


def test_tiny_stem_is_one_convolution_with_its_own_weights() -> None:
    model: Any = tiedconv.create_model("resnet_tiny", in_chans=1, dtype=torch.float64)
    assert model.conv1.weight.shape == (32, 1, 3, 3)
    assert model.conv1.weight.dtype == torch.float64
    assert model.conv1.weight.std().item() == pytest.approx(math.sqrt(2 / (32 * 9)), rel=0.2)
    assert isinstance(model.maxpool, nn.Identity)


def test_tiny_output_stride_is_checked() -> None:
    with pytest.raises(ValueError, match="SmallResNet: output_stride must be 4, 8 or 16, got 32"):
        tiedconv.create_model("tiedresnet_tiny", output_stride=32)
