import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrize

import tiedconv
from tiedconv.nn import SplitTiedConv2d, TiedConv1d, TiedConv2d, TiedLinear
from tiedconv.nn.init import break_symmetry_


def changed(model: nn.Module) -> list[str]:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    number = break_symmetry_(model)
    names = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert len(names) == number
    return names


def test_equal_blocks_give_unequal_features_and_scales_stay_in_their_interval():
    torch.manual_seed(0)
    model = nn.Sequential(TiedConv2d(8, 16, 3, blocks=2), nn.BatchNorm2d(16)).eval()
    images = torch.randn(2, 4, 6, 6).repeat(1, 2, 1, 1)
    first, second = model(images).chunk(2, dim=1)
    assert torch.equal(first, second)
    assert break_symmetry_(model, spread=0.2) == 1
    first, second = model(images).chunk(2, dim=1)
    assert (first - second).abs().max() > 0.01
    assert 0.8 <= model[1].weight.min() < model[1].weight.max() <= 1.2


@pytest.mark.parametrize(
    ("layer", "norm"),
    [
        (TiedConv1d(4, 6, 1, blocks=2), nn.BatchNorm1d(6)),
        (TiedConv2d(4, 6, 1, blocks=2), nn.GroupNorm(2, 6)),
        (TiedLinear(4, 6, blocks=2), nn.LayerNorm(6)),
        (TiedLinear(4, 6, blocks=2), nn.RMSNorm(6)),
        (SplitTiedConv2d(4, 6, 1, blocks=(1, 1)), None),
        (SplitTiedConv2d(8, 8, 1, blocks=(1, 2)), timm.layers.BatchNormAct2d(8)),
    ],
)
def test_norms_behind_layers_of_at_least_two_blocks_are_scattered(layer, norm):
    model = nn.Sequential(nn.BatchNorm2d(4), layer, nn.BatchNorm2d(5), norm or nn.BatchNorm2d(6), nn.BatchNorm2d(6))
    model.extend([TiedConv2d(6, 6, 1, blocks=2), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)])  # behind the untied one
    if norm is None:
        with pytest.raises(ValueError, match=r"no norm .* behind a tied layer of at least 2 blocks"):
            break_symmetry_(model)
    else:
        assert changed(model) == ["3.weight"]


def test_scales_that_start_at_zero_stay_there():
    model = nn.Sequential(TiedConv2d(4, 4, 1, blocks=2), nn.BatchNorm2d(4))
    nn.init.zeros_(model[1].weight)
    with pytest.raises(ValueError, match="no norm with a scale"):
        break_symmetry_(model)
    assert not model[1].weight.any()
    assert changed(nn.Sequential(*model, TiedConv2d(4, 4, 1, blocks=2), nn.BatchNorm2d(4))) == ["3.weight"]
    with pytest.raises(ValueError, match="no norm with a scale"):
        break_symmetry_(nn.Sequential(*model, nn.BatchNorm2d(4)))  # the second norm is behind the first one


def test_scales_that_differ_already_are_refused_and_nothing_is_changed():
    model = nn.Sequential(TiedConv2d(4, 4, 1, blocks=2), nn.BatchNorm2d(4))
    break_symmetry_(model)
    twice = nn.Sequential(TiedConv2d(4, 4, 1, blocks=2), nn.BatchNorm2d(4), *model)
    with pytest.raises(ValueError, match="scales of 3 differ already"):
        break_symmetry_(twice)
    assert twice[1].weight.eq(1).all()


def test_a_norm_of_the_residual_stream_is_not_behind_a_layer_of_a_branch():
    model = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=2)
    tiedconv.tie_(model, blocks=2)
    with pytest.raises(ValueError, match="no norm with a scale"):
        break_symmetry_(model)


def test_scales_that_are_computed_from_others_are_not_counted():
    model = nn.Sequential(TiedConv2d(4, 4, 1, blocks=2), nn.BatchNorm2d(4))
    parametrize.register_parametrization(model[1], "weight", nn.Softplus())
    with pytest.raises(ValueError, match="no norm with a scale"):
        break_symmetry_(model)


def test_a_network_is_scattered_behind_its_tied_layers_alone():
    names = changed(timm.create_model("tiedresnet_tiny", num_classes=2))
    assert names
    assert not any(name.endswith(("bn3.weight", "bias")) or name == "bn1.weight" for name in names)


@pytest.mark.parametrize("spread", [0, -0.1, 1.5])
def test_the_spread_is_checked(spread):
    with pytest.raises(ValueError, match=r"spread must be in \(0, 1\], got"):
        break_symmetry_(nn.Identity(), spread)
