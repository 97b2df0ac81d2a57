"""The report: its table, its values for JSON, and its totals against counts of the whole model."""

import json
import re

import pytest
import timm
import torch
import torchvision
from torch import nn

from tiedconv import tie_
from tiedconv.convert import TieReport
from tiedconv.metrics.counts import count


def named() -> nn.Module:
    layers = {"stem[0]": nn.Conv2d(3, 8, 3), "body": nn.Conv2d(8, 8, 3, bias=False), "head": nn.Conv2d(8, 4, 1)}
    return nn.Sequential(nn.ModuleDict(layers))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1", "resnext50_32x4d", "googlenet"])
def test_totals_are_those_of_the_whole_model(name):
    arguments = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        model = torchvision.models.get_model(name, **arguments)
    before = count(model, (3, 224, 224))
    report = tie_(model, 2, init="random", example_inputs=torch.zeros(1, 3, 224, 224))
    after = count(model, (3, 224, 224))
    assert (report.params, report.macs) == (before.params, before.macs)
    assert (report.tied_params, report.tied_macs) == (after.params, after.macs)


def test_the_size_is_timms_for_its_models():
    model = timm.create_model("test_resnet")
    report = tie_(model, 2, init="random")
    assert report.input_shapes == ((1, 3, 160, 160),)
    assert report.macs == count(timm.create_model("test_resnet"), (3, 160, 160)).macs
    gray = timm.create_model("test_resnet", in_chans=1)
    assert tie_(gray, 2, init="random").input_shapes == ((1, 1, 160, 160),)


def test_the_table_has_a_row_a_layer_with_what_was_done():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, bias=False), nn.Flatten(), nn.Linear(288, 4))
    text = str(tie_(model, 2, example_inputs=torch.zeros(1, 3, 10, 10)))
    lines = text.splitlines()
    assert "1 of 3 layers tied" in lines[0]
    assert re.search(r"\b1 +Conv2d 3x3 +2 +576 +144 +20.74 k +10.37 k +0\.\d{3}$", text, re.MULTILINE)
    assert re.search(r"\b0 +Conv2d 3x3 .* in_channels 3 is not a multiple of 2 blocks$", text, re.MULTILINE)
    assert re.search(r"\b3 +Linear .* the model's output layer$", text, re.MULTILINE)
    assert "MACs for an input of 1x3x10x10; error: relative, of the weight" in lines[-1]


def test_without_a_trial_the_table_says_how_to_get_multiply_adds():
    report = tie_(named(), 2, "all")  # a ModuleDict cannot be called
    assert (report.macs, report.tied_macs, report.input_shapes) == (None, None, None)
    assert "MACs unknown" in str(report)
    assert "give example_inputs" in " ".join(str(report).split())


def test_its_values_are_ready_for_json():
    report = tie_(
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 5, 3)), 2, "all", example_inputs=torch.zeros(1, 4, 8, 8)
    )
    values = json.loads(json.dumps(report.to_dict()))
    assert values["layers"][0]["blocks"] == 2
    assert values["layers"][1]["reason"] == "out_channels 5 is not a multiple of 2 blocks"
    assert (values["macs"], values["tied_macs"]) == (report.macs, report.tied_macs)
    assert (values["params"], values["tied_params"]) == (report.params, report.tied_params)
    assert values["input_shapes"] == [[1, 4, 8, 8]]


def test_rows_divide_into_tied_and_kept():
    report = tie_(named(), lambda layer, name: 1 if name.endswith("head") else 2)
    assert isinstance(report, TieReport)
    assert [layer.name for layer in report.tied] == ["0.body"]
    assert [layer.name for layer in report.kept] == ["0.stem[0]", "0.head"]
    assert report.blocks == {"0.body": 2}
    assert [layer.blocks for layer in report.layers] == [1, 2, 1]


def test_a_shared_parameter_counts_once_in_the_total():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert tie_(model, 2, "all").params == 16 + 4 + 16 + 4
