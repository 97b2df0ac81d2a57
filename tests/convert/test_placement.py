"""Which layers get how many blocks: numbers, patterns, functions, and the presets on networks that people know."""

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from tiedconv import tie_
from tiedconv.convert.placement import choose
from tiedconv.convert.trial import try_forward
from tiedconv.detection import build_detector
from tiedconv.detection.build import Widths


def build(name: str, **arguments: Any) -> nn.Module:
    library, _, model = name.partition("/")
    with torch.device("meta"):
        return (
            timm.create_model(model, **arguments)
            if library == "timm"
            else torchvision.models.get_model(model, **arguments)
        )


def chosen(model: nn.Module, blocks: Any = 2, filter_fn: Any = None) -> dict[str, int]:
    trial = try_forward(model) if filter_fn in (None, "body") else None
    return {choice.name: choice.blocks for choice in choose(model, blocks, filter_fn, trial) if choice.blocks}


def names(model: nn.Module, pattern: str) -> set[str]:
    """The layers whose names match a regular expression as a whole."""
    layers = (name for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
    return {name for name in layers if re.fullmatch(pattern, name)}


def chain() -> nn.Sequential:
    return nn.Sequential(*(nn.Conv2d(8, 8, 1) for _ in range(4)))


# --- blocks


def test_a_number_counts_for_every_layer():
    assert chosen(chain(), 4, "all") == {"0": 4, "1": 4, "2": 4, "3": 4}


def test_the_first_pattern_that_matches_counts():
    assert chosen(chain(), {"[01]": 2, "?": 4}) == {"0": 2, "1": 2, "2": 4}
    assert chosen(chain(), {"?": 4, "[01]": 2}) == {"0": 4, "1": 4, "2": 4}


def test_an_exact_name_counts_before_patterns_and_takes_the_output_layer_too():
    assert chosen(chain(), {"*": 2, "1": 8}) == {"0": 2, "1": 8, "2": 2}
    assert chosen(chain(), {"3": 2}) == {"3": 2}


def test_one_block_keeps_a_layer_and_ends_the_search_for_a_pattern():
    choices = choose(chain(), {"1": 1, "*": 2}, None, try_forward(chain()))
    assert [choice.blocks for choice in choices] == [2, 0, 2, 0]
    assert choices[1].reason == "blocks is 1"


def test_layers_without_a_pattern_are_kept():
    assert [c.reason for c in choose(chain()[:2], {"0": 2}, None)] == ["", "no pattern in blocks matches"]


def test_a_name_with_glob_characters_is_a_name():
    model = nn.Sequential(nn.ModuleDict({"a[0]": nn.Linear(4, 4), "a0": nn.Linear(4, 4)}))
    trial = replace(try_forward(nn.Sequential(nn.Linear(4, 4))), macs=dict.fromkeys(("0.a[0]", "0.a0")), outputs=())
    for blocks, expected in (({"0.a[0]": 2}, [2, 2]), ({"0.a[[]0]": 2}, [2, 0])):  # the first matches both
        assert [choice.blocks for choice in choose(model, blocks, None, trial)] == expected


def test_patterns_distinguish_upper_from_lower_case():
    model = nn.ModuleDict({"Fc": nn.Linear(4, 4), "fc": nn.Linear(4, 4)})
    assert [choice.reason for choice in choose(model, {"Fc": 2}, None)] == ["", "no pattern in blocks matches"]


def test_a_pattern_takes_what_can_be_tied_and_a_name_must_be():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    assert chosen(model, {"*": 2}) == {"1": 2}
    with pytest.raises(ValueError, match=r"'0' is named in blocks and cannot be tied: in_channels 3 .*by a"):
        chosen(model, {"0": 2, "*": 2})


def test_a_function_is_asked_about_every_layer():
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sequential(nn.Linear(8, 8)))
    seen: list[tuple[nn.Module, str]] = []

    def blocks(layer: nn.Module, name: str) -> int:
        seen.append((layer, name))
        return 4 if isinstance(layer, nn.Linear) else 1

    assert chosen(model, blocks) == {"1.0": 4}
    assert seen == [(model[0], "0"), (model[1][0], "1.0")]


def test_a_filter_function_chooses_the_layers():
    model = chain()
    assert chosen(model, 2, lambda layer, name: name in "13") == {"1": 2, "3": 2}
    assert choose(model, 2, lambda layer, name: layer is model[3])[0].reason == "left out by filter_fn"


def test_of_a_layer_that_was_not_called_the_report_says_so():
    model = chain()
    trial = replace(try_forward(model), macs={"0": 0, "2": 0})
    choices = choose(model, 2, "all", trial)
    assert [choice.reason for choice in choices] == ["", "not called in a forward pass"] * 2


# --- Presets

OUTPUTS = {
    "torchvision/resnet50": {"fc"},
    "torchvision/mobilenet_v2": {"classifier.1"},
    "torchvision/vgg11": {"classifier.6"},
    "torchvision/squeezenet1_1": {"classifier.1"},
    "torchvision/vit_b_16": {"heads.head"},
    "torchvision/googlenet": {"fc"},  # its auxiliary heads are not called
    "torchvision/deeplabv3_mobilenet_v3_large": {"classifier.4", "aux_classifier.4"},
    "torchvision/lraspp_mobilenet_v3_large": {"classifier.low_classifier", "classifier.high_classifier"},
    "timm/resnet50": {"fc"},
    "timm/seresnet50": {"fc"},
    "timm/efficientnet_b0": {"classifier"},
    "timm/densenet121": {"classifier"},
    "timm/regnety_004": {"head.fc"},
    "timm/convnext_atto": {"head.fc"},
    "timm/vit_tiny_patch16_224": {"head"},
    "timm/deit_tiny_distilled_patch16_224": {"head", "head_dist"},
}


ARGUMENTS: dict[str, dict[str, Any]] = {
    "torchvision/googlenet": {"init_weights": False},
    "torchvision/deeplabv3_mobilenet_v3_large": {"aux_loss": True, "weights_backbone": None},
    "torchvision/lraspp_mobilenet_v3_large": {"weights_backbone": None},
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_body_leaves_out_the_output_layers_alone(name):
    model = build(name, **ARGUMENTS.get(name, {}))
    trial = try_forward(model)
    reasons = {c.name: c.reason for c in choose(model, 2, "body", trial)}
    assert {layer for layer, reason in reasons.items() if reason == "the model's output layer"} == OUTPUTS[name]
    others = {c.name: c.reason for c in choose(model, 2, "all", trial) if c.name not in OUTPUTS[name]}
    assert {layer: reason for layer, reason in reasons.items() if layer not in OUTPUTS[name]} == others


@pytest.mark.parametrize("name", ["timm/resnet50", "timm/deit_tiny_distilled_patch16_224", "timm/vgg11"])
def test_a_timm_network_without_classes_has_no_output_layer(name):
    choices = choose(build(name, num_classes=0), 2, "body")
    assert "the model's output layer" not in {choice.reason for choice in choices}


DETECTORS = {  # heads, by the last part of their names
    "retinanet": {"cls_logits": 1, "bbox_reg": 1},
    "mask_rcnn": {"cls_logits": 1, "bbox_pred": 2, "cls_score": 1, "mask_fcn_logits": 1},
    "cascade_mask_rcnn": {"cls_logits": 1, "bbox_pred": 4, "cls_score": 3, "mask_fcn_logits": 3},
}


@pytest.mark.parametrize("name", DETECTORS)
def test_body_leaves_out_every_head_of_a_detector(name):
    sizes = {"min_size": 64, "max_size": 64, "widths": Widths(fpn=8, box=8, mask=8, mask_convs=1)}
    model = build_detector(name, backbone="resnet_tiny", num_classes=3, **sizes)
    report = tie_(model, 2)
    kept = Counter(row.name.rsplit(".")[-1] for row in report.kept if row.reason == "the model's output layer")
    assert kept == DETECTORS[name]
    assert report.macs is None
    assert "MACs unknown: they depend on the values of the input" in str(report)


class Heads(nn.Module):
    """Defines its heads first, returns them in a dict, and changes what the body gives in place."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes, self.classes = nn.Conv2d(8, 4, 3), nn.Conv2d(8, 8, 1)
        self.body, self.wide = nn.Conv2d(4, 8, 3), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = self.wide(self.body(x).relu_().movedim(1, -1)).relu_().movedim(-1, 1)
        return {"boxes": [self.boxes(x).relu_()], "classes": self.classes(x).mean((2, 3)).softmax(1)}


def test_output_layers_are_those_whose_result_no_layer_takes():
    assert tie_(Heads(), 2, example_inputs=torch.zeros(1, 4, 8, 8)).blocks == {"body": 2, "wide": 2}
    layer = nn.Conv2d(4, 4, 1)
    assert chosen(nn.Sequential(nn.Conv2d(4, 4, 3), layer, nn.ReLU(), layer)) == {"0": 2}


def test_a_last_layer_with_a_norm_behind_it_is_no_output_layer():
    assert "layer4.2.conv3" in chosen(build("timm/resnet50", features_only=True))
    for norm in (nn.BatchNorm1d(4), nn.LayerNorm(4)):
        assert chosen(nn.Sequential(nn.Linear(4, 4), norm)) == {"0": 2}
    assert chosen(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))) == {"0": 2}


ENTRIES = {
    "torchvision/resnet50": (r"layer\d\.\d\.conv1", 16),
    "torchvision/resnext50_32x4d": (r"layer\d\.\d\.conv1", 16),
    "torchvision/mobilenet_v2": (r"features\.\d+\.conv\.0\.0", 16),  # features.1 does not expand
    "torchvision/densenet121": (r"features\.denseblock\d\.denselayer\d+\.conv1", 58),
    "timm/resnet50": (r"layer\d\.\d\.conv1", 16),
    "timm/seresnet50": (r"layer\d\.\d\.conv1", 16),
    "timm/efficientnet_b0": (r"blocks\.\d\.\d\.conv_pw", None),
    "timm/densenet121": (r"features\.denseblock\d\.denselayer\d+\.conv1", 58),
    "timm/regnetx_002": (r"s\d\.b\d+\.conv1\.conv", 13),
    "timm/regnety_004": (r"s\d\.b\d+\.conv1\.conv", 16),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_takes_the_convolutions_that_open_a_bottleneck(name):
    model = build(name)
    pattern, count = ENTRIES[name]
    expected = names(model, pattern)
    if name == "timm/efficientnet_b0":
        expected -= {"blocks.0.0.conv_pw"}  # of a separable convolution, after the depthwise one
        count = 15
    if name == "torchvision/mobilenet_v2":
        expected -= {"features.1.conv.0.0"}  # depthwise
    assert len(expected) == count
    assert {c.name for c in choose(model, 2, "entry") if c.reason != "not the 1x1 entry of a bottleneck"} == expected


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18", "torchvision/vgg11", "timm/convnext_atto"])
def test_entry_takes_nothing_of_networks_without_bottlenecks(name):
    assert chosen(build(name), 2, "entry") == {}


SQUEEZERS = {
    "timm/seresnet50": (r"layer\d\.\d\.se\.fc[12]", 32),
    "timm/efficientnet_b0": (r"blocks\.\d\.\d\.se\.conv_(reduce|expand)", 32),
    "timm/regnety_004": (r"s\d\.b\d+\.se\.fc[12]", 32),
    "torchvision/efficientnet_b0": (r"features\.\d\.\d\.block\.\d\.fc[12]", 32),
    "torchvision/mobilenet_v3_small": (r"features\.\d+\.block\.\d\.fc[12]", 18),
    "timm/resnet50": ("", 0),
    "timm/resnet18": ("", 0),
    "timm/densenet121": ("", 0),
    "timm/regnetx_002": ("", 0),
    "torchvision/mobilenet_v2": ("", 0),
}


@pytest.mark.parametrize("name", SQUEEZERS)
def test_se_takes_squeeze_and_excitation_modules_alone(name):
    model = build(name)
    pattern, count = SQUEEZERS[name]
    expected = names(model, pattern)
    assert len(expected) == count
    kept = "not in a squeeze-and-excitation module"
    assert {c.name for c in choose(model, 2, "se") if c.reason != kept} == expected


@pytest.mark.parametrize("preset", ["entry", "se"])
def test_a_preset_that_takes_nothing_is_an_error(preset):
    with pytest.raises(ValueError, match=r"none of the 21 .* can be tied \(not .*or another filter_fn"):
        tie_(build("torchvision/resnet18"), 2, preset)


def test_se_modules_of_other_people_are_known_by_their_names():
    def squeeze(name: str) -> nn.Module:
        module: nn.Module = type(name, (nn.Sequential,), {})(nn.Linear(8, 4), nn.Linear(4, 8))
        return module

    for name in ("SE", "SEModule", "SELayer", "SEBlock", "SqueezeExcite", "SqueezeExcitation", "SqueezeExciteLayer"):
        assert chosen(nn.Sequential(squeeze(name)), 2, "se") == {"0.0": 2, "0.1": 2}, name
    for name in ("SEResNet", "Sequence", "SqueezeNet", "Segment"):
        assert chosen(nn.Sequential(squeeze(name)), 2, "se") == {}, name
