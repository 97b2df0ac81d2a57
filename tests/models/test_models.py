"""What timm expects of a model, for every name of ours."""

import copy
import pickle
import re
from functools import partial
from typing import Any

import pytest
import timm
import torch
from tests.randomized import lively_model, shallow_model
from timm.models import group_parameters
from torch import Tensor

import tiedconv
from tiedconv.models.tiedefficientnet import TiedSqueezeExcite
from tiedconv.nn import TiedSE

ALL = tiedconv.list_models()
# A network of a hundred layers has the layers of its twin of fifty.
DEEP_IN_STRESS = [pytest.param(name, marks=pytest.mark.stress if "101" in name else ()) for name in ALL]
# What the classes compute, which the names only size.
ONE_PER_FAMILY = [
    "resnet_tiny",
    "tiedresnet_tiny",
    "tiedresnet50_s",
    "tiedresnet50_concat",
    "tiedresnext50_32x4d_s",
    "tiedsenet50",
    "tiedseresnet50_b8",
    "tiedresnest50_s",
    "tiedefficientnet_b0_b4",
]


def meta_model(name: str, **kwargs: Any) -> Any:
    return tiedconv.create_model(name, device="meta", **kwargs)


def meta_images(side: int = 64) -> Tensor:
    return torch.empty(2, 3, side, side, device="meta")


@pytest.mark.parametrize("name", DEEP_IN_STRESS)
def test_forward_and_backward_reach_every_parameter(name: str) -> None:
    model = tiedconv.create_model(name, num_classes=10)
    y = model(torch.randn(2, 3, 32, 32))
    y.mean().backward()

    assert y.shape == (2, 10)
    assert torch.isfinite(y).all()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert [n for n, p in model.named_parameters() if not torch.isfinite(p.grad).all()] == []


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_no_gradient_is_zero_where_every_branch_counts(name: str) -> None:
    model = lively_model(name)
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()

    assert [n for n, p in model.named_parameters() if not p.grad.any()] == []


@pytest.mark.parametrize("name", ALL)
def test_features_only(name: str) -> None:
    model = meta_model(name, features_only=True)
    features = model(meta_images())

    assert len(features) == 5
    assert [f.shape[1] for f in features] == model.feature_info.channels()
    assert [64 // f.shape[2] for f in features] == model.feature_info.reduction()


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_features_only_takes_out_indices_and_output_stride(name: str) -> None:
    model = meta_model(name, features_only=True, out_indices=(2, 4), output_stride=8)

    assert [64 // f.shape[2] for f in model(meta_images())] == model.feature_info.reduction()
    assert model.feature_info.reduction()[-1] == 8


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_forward_intermediates(name: str) -> None:
    model = meta_model(name)
    last, intermediates = model.forward_intermediates(meta_images())

    assert [f.shape[1] for f in intermediates] == [f["num_chs"] for f in model.feature_info]
    assert model.forward_head(last, pre_logits=True).shape == (2, model.num_features)
    assert model.forward_head(last).shape == (2, 1000)


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_without_a_classifier(name: str) -> None:
    model = meta_model(name, num_classes=0)
    assert model(meta_images()).shape == (2, model.num_features)

    model.reset_classifier(0, "")
    assert model(meta_images()).shape[:2] == (2, model.num_features)


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_reset_classifier(name: str) -> None:
    model = meta_model(name)
    model.reset_classifier(7)
    assert model(meta_images()).shape == (2, 7)
    assert model.get_classifier().out_features == 7

    model.reset_classifier(0, "max")
    assert model(meta_images()).shape == (2, model.num_features)


@pytest.mark.parametrize("name", ALL)
def test_group_matcher_reaches_every_parameter(name: str) -> None:
    model = meta_model(name)
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse))
        names = [n for members in groups.values() for n in members]
        assert sorted(names) == sorted(n for n, _ in model.named_parameters())


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_in_chans_pool_drop_path_and_dtype(name: str) -> None:
    kwargs = {"in_chans": 1, "global_pool": "avgmax", "drop_path_rate": 0.1, "dtype": torch.bfloat16}
    model = meta_model(name, **kwargs)

    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert any("drop_path" in n and "DropPath" in repr(m) for n, m in model.named_modules())
    assert model(torch.empty(2, 1, 32, 32, device="meta", dtype=torch.bfloat16)).shape == (2, 1000)


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_grad_checkpointing_changes_no_number(name: str) -> None:
    model = lively_model(name)
    x = torch.randn(2, 3, 64, 64)
    results = []
    for enabled in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enabled)
        y = model(x)
        y.sum().backward()
        results.append([y.detach(), *(p.grad.clone() for p in model.parameters())])

    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_state_dict_copy_and_pickle_give_the_same_model(name: str) -> None:
    model = lively_model(name)
    fresh = shallow_model(name)
    fresh.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 64, 64)
    expected = model(x)

    for twin in (fresh, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), expected)


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_channels_last_gives_the_same_numbers(name: str) -> None:
    model = lively_model(name).double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = model(x)
    features = model.to(memory_format=torch.channels_last).forward_features(x.to(memory_format=torch.channels_last))

    assert features.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model.forward_head(features), expected)


def test_compiles_without_a_graph_break() -> None:
    model = lively_model("tiedresnet_tiny").to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last)

    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))


def test_seresnet_with_one_block_is_timms() -> None:
    untied: Any = timm.create_model("seresnet50", num_classes=10).eval()
    ours: Any = tiedconv.create_model(
        "tiedseresnet50_b2", num_classes=10, block_args={"attn_layer": partial(TiedSE, blocks=1)}
    ).eval()
    # timm's two layers are 1x1 convolutions, ours act on vectors.
    weights = {n: w.flatten(1) if re.search(r"\.se\.fc\d\.weight", n) else w for n, w in untied.state_dict().items()}
    ours.load_state_dict(weights)
    x = torch.randn(2, 3, 64, 64)

    torch.testing.assert_close(ours(x), untied(x))


def test_efficientnet_with_one_block_is_timms() -> None:
    untied: Any = timm.create_model("efficientnet_b0", num_classes=10).eval()
    ours: Any = tiedconv.create_model(
        "tiedefficientnet_b0_b2", num_classes=10, se_layer=partial(TiedSqueezeExcite, blocks=1)
    ).eval()
    weights = {}
    for name, w in untied.state_dict().items():
        name = name.replace("se.conv_reduce", "se.fc1").replace("se.conv_expand", "se.fc2")
        weights[name] = w.flatten(1) if re.search(r"\.se\.fc\d\.weight", name) else w
    ours.load_state_dict(weights)
    x = torch.randn(2, 3, 64, 64)

    torch.testing.assert_close(ours(x), untied(x))


def test_efficientnet_attention_starts_as_timms() -> None:
    se: Any = tiedconv.create_model("tiedefficientnet_b0_b2").get_submodule("blocks.6.0.se")

    assert not se.fc1.bias.any()
    assert not se.fc2.bias.any()
    assert se.fc2.weight.std().item() == pytest.approx((2 / se.fc2.weight.shape[0]) ** 0.5, rel=0.05)
