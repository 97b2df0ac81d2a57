"""Deployed networks: the same outputs from ordinary layers alone, for every model, layer and setting."""

import copy
import io
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from tests.export.export_cases import every_layer
from tests.models.test_models import ONE_PER_FAMILY
from tests.randomized import randomize_norms
from torch import Tensor, nn
from torch.testing import assert_close

import tiedconv
from tiedconv.export import Branches, deploy
from tiedconv.nn import SplitTiedConv2d, TiedConv1d, TiedConv2d, TiedConv3d, TiedLinear

TIED = (TiedConv1d, TiedConv2d, TiedConv3d, TiedLinear, SplitTiedConv2d)
TIED_CONV = {1: TiedConv1d, 2: TiedConv2d, 3: TiedConv3d}


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def largest_error(model: nn.Module, x: Tensor) -> float:
    """Largest difference that deploying makes, as a part of the largest output."""
    expected = outputs(model.eval(), x)
    return ((outputs(deploy(model), x) - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ONE_PER_FAMILY else pytest.mark.stress)
        for name in tiedconv.list_models()
        if "101" not in name
    ],
)
def test_every_model_computes_the_same_with_ordinary_layers(name):
    model: Any = randomize_norms(tiedconv.create_model(name, num_classes=10))
    x = torch.randn(2, 3, 32, 32)
    assert largest_error(model, x) < 1e-4
    assert largest_error(model.double(), x.double()) < 1e-5
    deployed = deploy(model)
    assert not any(isinstance(module, TIED) for module in deployed.modules())
    assert not any(module.training for module in deployed.modules())


def test_a_network_of_every_layer_and_one_tied_by_hand():
    model, x = every_layer().double(), torch.randn(2, 4, 12, 10, dtype=torch.float64)
    assert largest_error(model, x) < 1e-12
    resnet = randomize_norms(torchvision.models.resnet18(num_classes=10)).double()
    tiedconv.tie_(resnet, blocks=4)
    assert largest_error(resnet, torch.randn(2, 3, 64, 64, dtype=torch.float64)) < 1e-12


@given(
    dims=st.integers(1, 3),
    groups=st.integers(1, 2),
    blocks=st.integers(1, 3),
    bias=st.booleans(),
    padding=st.sampled_from([0, 1, "same", "valid"]),
    padding_mode=st.sampled_from(["zeros", "reflect", "circular"]),
)
def test_every_setting_of_a_convolution_arrives(dims, groups, blocks, bias, padding, padding_mode):
    channels = 2 * groups * blocks
    settings = {"groups": groups, "bias": bias, "padding": padding, "padding_mode": padding_mode, "blocks": blocks}
    conv = TIED_CONV[dims](channels, 2 * channels, 3, **settings, dtype=torch.float64)
    deployed = deploy(conv)
    assert type(deployed) is (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    x = torch.randn(2, channels, *(5,) * dims, dtype=torch.float64)
    assert_close(deployed(x), conv(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (2, 6), (2, 3, 6), (0, 6)])
def test_linear_layers_keep_their_thin_matrix(shape, bias):
    fc = TiedLinear(6, 9, bias=bias, blocks=3, dtype=torch.float64)
    deployed: Any = deploy(fc)
    assert [type(layer) for layer in deployed] == [nn.Unflatten, nn.Linear, nn.Flatten]
    assert sum(p.numel() for p in deployed.parameters()) == sum(p.numel() for p in fc.parameters())
    x = torch.randn(shape, dtype=torch.float64)
    assert_close(deployed(x), fc(x))
    assert deployed.weight.shape == fc.weight.shape
    assert (deployed.bias is None) == (not bias)
    assert type(deploy(TiedLinear(6, 9))) is nn.Linear


@pytest.mark.parametrize(
    ("width", "groups", "blocks", "merged"),
    [
        (64, (1, 1, 1, 1), (1, 1, 2, 2), 4),  # 4/3 of the multiply-adds
        (64, (8, 4, 2, 1), (1, 2, 4, 8), 32),  # equally many groups
        (64, (1, 1, 1, 1), (1, 2, 4, 8), None),  # 2.1 times the multiply-adds
        (40, (1, 1, 1, 1), (1, 2, 4, 8), None),
        (32, (1, 1, 1, 1), (1, 2, 4, 8), 4),  # thin
    ],
)
def test_splits_are_merged_where_that_costs_little_or_they_are_thin(width, groups, blocks, merged):
    channels = width * len(blocks)
    conv = SplitTiedConv2d(channels, channels, 3, 2, 1, 1, groups, blocks=blocks, dtype=torch.float64)
    deployed: Any = deploy(conv)
    if merged:
        assert type(deployed) is nn.Conv2d
        assert deployed.groups == merged
    else:
        assert type(deployed) is Branches
        assert [c.groups for c in deployed.convs] == [g * b for g, b in zip(groups, blocks, strict=True)]
    x = torch.randn(2, channels, 5, 4, dtype=torch.float64)
    assert_close(deployed(x), conv(x))
    assert_close(deployed(x[0]), conv(x[0]))


def test_the_model_stays_as_it_is():
    model = every_layer().train()
    before = copy.deepcopy(model.state_dict())
    deployed = deploy(model)
    assert model.training
    assert isinstance(model.stem, TiedConv2d)
    with torch.no_grad():
        for parameter in deployed.parameters():
            parameter.zero_()
    assert_close(model.state_dict(), before)


def test_weights_keep_dtype_and_memory_format_and_load_without_this_library():
    model = every_layer().to(memory_format=torch.channels_last).bfloat16()
    deployed = deploy(model)
    assert {p.dtype for p in deployed.parameters()} == {torch.bfloat16}
    assert deployed.get_submodule("stem").weight.is_contiguous(memory_format=torch.channels_last)
    file = io.BytesIO()
    torch.save(deployed.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert {type(value) for value in state.values()} == {Tensor}
    assert_close(state, dict(deployed.state_dict()))


@pytest.mark.filterwarnings("ignore:`torch.jit.script.*` is deprecated")
@pytest.mark.parametrize(
    "name", ["tiedresnet_tiny", "tiedresnet50", "tiedsenet50", "tiedresnest50_s", "tiedefficientnet_b0_b4"]
)
def test_it_can_be_scripted(name):
    deployed = deploy(randomize_norms(tiedconv.create_model(name, num_classes=10)))
    x = torch.randn(2, 3, 64, 64)
    assert_close(torch.jit.script(deployed)(x), deployed(x))


def test_what_would_be_lost_is_refused():
    model = nn.Sequential(TiedConv2d(4, 4, 1, blocks=2))
    handle = model[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"^deploy: '0' cannot be replaced: it has hooks, which would be lost;"):
        deploy(model)
    handle.remove()
    nn.utils.parametrizations.weight_norm(model[0])
    with pytest.raises(ValueError, match=r"^deploy: '0' cannot be replaced: parametrized; "):
        deploy(model)
    with pytest.raises(TypeError, match=r"^deploy: expected a torch\.nn\.Module, got str\.$"):
        deploy("tiedresnet50")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:`torch.jit.trace.*` is deprecated")
def test_what_calls_its_layers_otherwise_is_refused():
    model, x = nn.Sequential(TiedConv2d(4, 4, 1, blocks=2)).eval(), torch.zeros(1, 4, 3, 3)
    with pytest.raises(TypeError, match=r"^deploy: Sequential is traced, .* Give the module that it came from, and"):
        deploy(torch.fx.symbolic_trace(model))
    with pytest.raises(TypeError, match=r"^deploy: TopLevelTracedModule is compiled by torch\.jit\."):
        deploy(torch.jit.trace(model, x))
    with pytest.raises(TypeError, match=r"^deploy: the model is wrapped in OptimizedModule\."):
        deploy(torch.compile(model[0]))
    assert isinstance(deploy(torch.fx.symbolic_trace(nn.Sequential(nn.ReLU()))), torch.fx.GraphModule)


@pytest.mark.parametrize("convs", [[TiedConv2d(4, 4, 1, blocks=2)], {"a": [nn.Sequential(TiedConv2d(4, 4, 1))]}])
def test_layers_that_torch_does_not_find_are_refused(convs):
    model = nn.Sequential(nn.ReLU())
    model.convs = convs
    with pytest.raises(TypeError, match=r"^deploy: Sequential\.convs holds tied layers in a (list|dict), .*ModuleList"):
        deploy(model)
    model.convs = [nn.Conv2d(4, 4, 1)]
    deploy(model)


def test_modules_that_are_also_in_a_list_are_no_obstacle():
    model = nn.Sequential(nn.Sequential(TiedConv2d(4, 4, 1, blocks=2)))
    model.stages = [model[0]]
    x = torch.randn(1, 4, 3, 3)
    torch.testing.assert_close(deploy(model).stages[0](x), model(x))
