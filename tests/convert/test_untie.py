"""Tied layers made ordinary again: the same outputs, torch's own classes, as many parameters as said."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from tests.convert.cases import Case, Snapshot, cases
from torch import nn
from torch.testing import assert_close

from tiedconv import tie_, untie_
from tiedconv.nn import SplitTiedConv2d, TiedConv2d, TiedLinear

EXACT = {"rtol": 1e-9, "atol": 1e-9}
# torch's own layers say so, and which of them is the first to depends on the order of tests
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
FORMS = pytest.mark.parametrize("form", ["grouped", "dense"])


def tied_model(**arguments: Any) -> nn.Sequential:
    convs = [
        TiedConv2d(4, 8, 3, blocks=2, **arguments),
        nn.ReLU(),
        TiedConv2d(8, 8, 3, groups=2, blocks=2, **arguments),
    ]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), TiedLinear(8, 10, blocks=2, **arguments))


@FORMS
@settings(max_examples=30)
@given(case=cases())
def test_an_untied_layer_computes_the_same(form, case: Case):
    model, x = nn.Sequential(case.layer()), case.input()
    kind = type(model[0])
    tie_(model, case.blocks, "all")
    expected = model(x)
    before = sum(p.numel() for p in model.parameters())
    assert untie_(model, form) == ["0"]
    assert type(model[0]) is kind
    assert_close(model(x), expected, **EXACT)
    weight = model[0].weight.numel()
    bias = 0 if model[0].bias is None else model[0].bias.numel()
    factor = case.blocks if form == "grouped" and case.dims else case.blocks**2
    assert factor * (before - bias // case.blocks) == weight


@FORMS
@pytest.mark.parametrize("blocks", [(1, 4), (2, 2), (1, 2)])
def test_splits_become_one_convolution(form, blocks):
    model = nn.Sequential(SplitTiedConv2d(8, 16, 3, 2, 1, blocks=blocks)).double()
    x = torch.randn(2, 8, 7, 6, dtype=torch.float64)
    expected = model(x)
    untie_(model, form)
    assert type(model[0]) is nn.Conv2d
    assert_close(model(x), expected, **EXACT)


@FORMS
def test_type_mode_format_and_frozen_weights_stay(form):
    model = tied_model(dtype=torch.float64).to(memory_format=torch.channels_last)
    model[0].requires_grad_(False).eval()
    untie_(model, form)
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {"0.weight", "0.bias"}
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert [module.training for module in model] == [False, *[True] * 5]
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64])
def test_other_types_untie(dtype):
    model = nn.Sequential(TiedConv2d(4, 8, 1, blocks=2, dtype=dtype), TiedConv2d(8, 8, 1, blocks=2, dtype=dtype))
    x = torch.randn(2, 4, 3, 3, dtype=dtype)
    expected = model(x)
    untie_(model, "dense")
    assert_close(model(x), expected)


@FORMS
def test_an_untied_model_trains_with_its_ties_cut(form):
    model = tied_model()
    untie_(model, form)
    model(torch.randn(2, 4, 8, 8)).square().sum().backward()
    first, second = model[0].weight.grad.chunk(2)
    assert not torch.equal(first, second)


def test_no_random_number_is_drawn():
    model = tied_model()
    before = torch.get_rng_state()
    untie_(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_layer_that_stands_in_several_places_stays_one():
    layer = TiedConv2d(4, 4, 3, padding=1, blocks=2)
    model = nn.Sequential(layer, nn.Sequential(layer))
    assert untie_(model) == ["0"]
    assert model[0] is model[1][0]
    assert type(model[0]) is nn.Conv2d


def test_a_model_on_the_meta_device_is_untied_there():
    model = tied_model(device="meta")
    untie_(model, "dense")
    assert model[0].weight.is_meta
    assert model[0].weight.shape == (8, 4, 3, 3)


def test_without_tied_layers_nothing_happens():
    model = nn.Sequential(nn.Conv2d(4, 4, 1))
    before = Snapshot(model)
    assert untie_(model) == []
    before.check()


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_hooks_are_an_error_and_nothing_is_changed(kind):
    model = tied_model()
    getattr(model[2], kind)(lambda *args: None)
    before = Snapshot(model)
    with pytest.raises(
        ValueError, match=r"'2' cannot be replaced: it has hooks, which would be lost; .*\. Nothing was changed"
    ):
        untie_(model)
    before.check()


class Own(TiedLinear):
    """A tied layer that may compute in a way of its own."""


LOSING = {
    "parametrized; .*remove_parametrizations": nn.utils.parametrizations.weight_norm(TiedLinear(4, 4, blocks=2)),
    "a Own, which computes in a way of its own": Own(4, 4, blocks=2),
}


@pytest.mark.parametrize("reason", LOSING)
def test_tied_layers_that_would_lose_something_are_an_error_and_nothing_is_changed(reason):
    model = nn.Sequential(TiedLinear(4, 4, blocks=2), LOSING[reason])
    before = Snapshot(model)
    with pytest.raises(ValueError, match=rf"'1' cannot be replaced: {reason}"):
        untie_(model)
    before.check()


def test_a_shared_parameter_is_an_error_and_nothing_is_changed():
    model = nn.Sequential(TiedLinear(4, 4, blocks=2), TiedLinear(4, 4, blocks=2))
    model[1].weight = model[0].weight
    before = Snapshot(model)
    with pytest.raises(ValueError, match=r"'0' cannot be replaced: it shares a parameter: 0, 1\. Nothing was changed"):
        untie_(model)
    before.check()


def test_other_errors():
    with pytest.raises(ValueError, match="form must be one of 'grouped', 'dense', got 'sparse'"):
        untie_(tied_model(), "sparse")
    with pytest.raises(ValueError, match="the model is itself a layer, a TiedLinear"):
        untie_(TiedLinear(4, 4, blocks=2))
    with pytest.raises(TypeError, match="the model is wrapped in DataParallel"):
        untie_(nn.DataParallel(tied_model()))
