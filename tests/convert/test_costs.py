"""Trial passes: what they count, what they leave alone, and what they find out about a model's code."""

import pytest
import timm
import torch
import torchvision
from tests.convert.cases import Snapshot
from torch import Tensor, nn

from tiedconv.convert.costs import try_forward, try_tied
from tiedconv.metrics.counts import count
from tiedconv.nn import SplitTiedConv2d, TiedConv2d, TiedLinear

LAYERS = [
    nn.Conv2d(8, 12, 3, 2, 1, groups=4),
    nn.ConvTranspose2d(8, 12, 3, 2, 1, groups=4),
    TiedConv2d(8, 12, 3, 2, 1, groups=2, blocks=2),
    SplitTiedConv2d(8, 16, 3, 2, 1, blocks=(1, 4)),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_multiply_adds_are_those_of_torchs_counter(layer):
    trial = try_forward(nn.Sequential(layer), (8, 10, 12))
    assert trial.macs["0"] == count(layer, (8, 10, 12)).macs


def test_leading_dimensions_and_repeated_calls_count():
    layer = TiedLinear(8, 8, blocks=2)
    trial = try_forward(nn.Sequential(layer, nn.ReLU(), layer), (5, 3, 8))
    assert trial.macs["0"] == 2 * 15 * 32
    assert set(trial.macs) == {"0"}


def test_a_trial_computes_nothing_and_leaves_the_model_alone():
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), nn.Conv2d(8, 8, 3))
    before, state = Snapshot(model), torch.get_rng_state()
    try_forward(model, (4, 8, 8))
    before.check()
    assert torch.equal(torch.get_rng_state(), state)


def assumed(model: nn.Module) -> tuple[int, ...] | None:
    trial = try_forward(model, None)
    return None if trial is None else trial.input_size


def test_the_size_that_is_assumed():
    assert assumed(timm.create_model("test_vit")) == (3, 160, 160)
    assert assumed(timm.create_model("test_resnet", in_chans=5)) == (5, 160, 160)
    assert assumed(nn.Sequential(nn.Conv2d(4, 8, 3))) == (4, 224, 224)
    assert assumed(nn.Sequential(nn.Linear(6, 2))) == (6,)
    assert assumed(nn.Sequential(nn.ReLU())) is None
    assert assumed(nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(10, 2))) is None  # for other images


def test_images_say_their_size_and_type():
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8))
    trial = try_forward(model, None, torch.zeros(3, 5, dtype=torch.int64))
    assert (trial.input_size, trial.dtype) == ((5,), torch.int64)
    assert try_forward(nn.Conv2d(4, 8, 3), None, torch.zeros(2, 3, 5, 5)) is None  # of other channels


def test_a_size_that_is_given_must_fit():
    model = nn.Sequential(nn.Conv2d(4, 8, 3))
    with pytest.raises(ValueError, match=r"^Sequential does not run on an input of input_size=\(1, 4, 8, 8\)"):
        try_forward(model, (1, 4, 8, 8))
    for wrong in (8, "8", (4, 8.0, 8)):
        with pytest.raises(TypeError, match=r"input_size must be the shape of one input, such as \(3, 224, 224\)"):
            try_forward(model, wrong)


def test_swins_attention_does_not_call_its_layers():
    with torch.device("meta"):
        model = torchvision.models.swin_t()
    trial = try_forward(model, (3, 64, 64))
    assert not [name for name in trial.macs if name.endswith((".qkv", ".proj"))]
    assert "features.1.0.mlp.0" in trial.macs


class Aliased(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.layers = [self.layer]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.other(self.layers[0](x))
        return y


def test_a_layer_that_is_called_by_another_reference_is_found_out():
    model = Aliased()
    trial = try_forward(model, (4,))
    assert set(trial.macs) == {"layer", "other"}
    assert try_tied(model, {"other": TiedLinear(4, 4, blocks=2)}, trial) == {"layer": 16, "other": 8}
    with pytest.raises(ValueError, match=r"tie_: 'layer' would stand .* calls the old layer by another reference"):
        try_tied(model, {"layer": TiedLinear(4, 4, blocks=2), "other": TiedLinear(4, 4, blocks=2)}, trial)
    assert type(model.layer) is type(model.other) is nn.Linear
