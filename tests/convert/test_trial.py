"""Trial passes: what they count, what they leave alone, and what they find out about a model's code."""

from collections import UserDict
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
import torchvision
from tests.convert.cases import Snapshot
from torch import Tensor, nn

from tiedconv.convert.trial import try_forward, try_tied
from tiedconv.nn import TiedLinear


def test_leading_dimensions_and_repeated_calls_count():
    layer = TiedLinear(8, 8, blocks=2)
    trial = try_forward(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(5, 3, 8))
    assert trial.macs["0"] == 2 * 15 * 32
    assert set(trial.macs) == {"0"}


def test_a_trial_computes_nothing_and_leaves_the_model_alone():
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), nn.Conv2d(8, 8, 3))
    before, state = Snapshot(model), torch.get_rng_state()
    try_forward(model, torch.zeros(1, 4, 8, 8))
    before.check()
    assert torch.equal(torch.get_rng_state(), state)


def assumed(model: nn.Module) -> tuple[int, ...] | None:
    trial = try_forward(model)
    return None if trial is None else trial.input_shapes[0]


def test_the_input_that_is_assumed():
    assert assumed(timm.create_model("test_vit")) == (1, 3, 160, 160)
    assert assumed(timm.create_model("test_resnet", in_chans=5)) == (1, 5, 160, 160)
    assert assumed(nn.Sequential(nn.Conv2d(4, 8, 3))) == (1, 4, 224, 224)
    assert assumed(nn.Sequential(nn.Linear(6, 2))) == (1, 6)
    assert assumed(nn.Sequential(nn.Identity())) is None  # though it takes anything
    assert assumed(nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(10, 2))) is None  # for other images


class Fusion(nn.Module):
    """Takes an image, token numbers and a switch; a later layer takes what both give."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.words = nn.Conv2d(4, 8, 1), nn.Embedding(9, 8)
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, image: Tensor, words: Tensor, *, deep: bool = True) -> Tensor:
        x = self.image(image).mean((2, 3)) + self.words(words).mean(1)
        y: Tensor = self.head(self.mix(x) if deep else x)
        return y


IMAGE, WORDS = torch.zeros(1, 4, 3, 3), torch.zeros(1, 5, dtype=torch.int64)
MACS = {"image": 4 * 8 * 9, "mix": 64, "head": 16}


def test_inputs_are_one_argument_a_tuple_of_them_or_a_dict_by_name():
    model = Fusion()
    assert try_forward(model) is None
    trial = try_forward(model, (IMAGE, WORDS))
    assert (trial.macs, trial.outputs, trial.input_shapes) == (MACS, {"head"}, ((1, 4, 3, 3), (1, 5)))
    for kind in (dict, UserDict):  # as tokenizers of transformers give them
        trial = try_forward(model, kind(image=IMAGE, words=WORDS, deep=False))
        assert trial.macs == {"image": MACS["image"], "head": 16}

    class Listed(Fusion):
        def forward(self, inputs: Any) -> Any:
            return super().forward(*inputs)

    assert try_forward(Listed(), [IMAGE, WORDS]).macs == MACS


@dataclass
class Words:
    """An argument of the user's own kind, which the model's code changes."""

    numbers: Tensor
    calls: int = 0


def test_tensors_inside_other_objects_are_found_and_left_alone():
    class Changing(Fusion):
        def forward(self, batch: UserDict[str, Any]) -> Any:
            words = batch["words"]
            words.calls += 1
            assert words.calls == 1  # whatever the trials before it did
            words.numbers, numbers = words.numbers[:, :1], words.numbers.add_(1)
            return super().forward(batch["image"], numbers)

    model, words = Changing(), Words(WORDS.clone())
    trial = try_forward(model, {"batch": UserDict(image=IMAGE, words=words)})
    assert (trial.macs, trial.input_shapes) == (MACS, ((1, 4, 3, 3), (1, 5)))
    assert try_tied(model, {"mix": TiedLinear(8, 8, blocks=2)}, trial)["mix"] == 32
    assert words.calls == 0
    assert torch.equal(words.numbers, WORDS)


def test_the_inputs_themselves_are_left_alone():
    class Changing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.add_(1 if x.sum().item() < 1 else 2))

    x = torch.zeros(1, 4)
    try_forward(nn.Sequential(Changing(4, 4)), x)
    assert torch.equal(x, torch.zeros(1, 4))


class Force(nn.Module):
    """Returns an energy and its gradient, as models of molecules do."""

    def __init__(self, values: bool) -> None:
        super().__init__()
        self.values, self.layers = values, nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Any:
        x = x.requires_grad_() if not self.values or x.sum().item() == 0 else x
        energy = self.layers(x).sum()
        return energy, torch.autograd.grad(energy, x)[0]


@pytest.mark.parametrize("values", [False, True])
def test_a_model_that_calls_autograd_itself_runs(values):
    model = Force(values)
    trial = try_forward(model)
    assert trial.outputs == {"layers.2"}
    assert trial.macs == ({"layers.0": None, "layers.2": None} if values else {"layers.0": 32, "layers.2": 16})
    assert try_forward(model, torch.zeros(1, 4)).macs == {"layers.0": 32, "layers.2": 16}
    try_tied(model, {"layers.0": TiedLinear(4, 8, blocks=2)}, trial)


def test_inputs_that_are_given_must_fit():
    for wrong in (torch.zeros(1, 3, 8, 8), (torch.zeros(1, 3, 8, 8),), {"input": torch.zeros(1, 3, 8, 8)}):
        with pytest.raises(
            ValueError, match=r"^Sequential does not run on .*\(1, 3, 8, 8\).*Give what its forward takes"
        ):
            try_forward(nn.Sequential(nn.Conv2d(4, 8, 3)), wrong)
    with pytest.raises(ValueError, match=r"does not run on .* of \(\): .* positional arguments"):
        try_forward(nn.Sequential(nn.Conv2d(4, 8, 3)), (4, 8, 8))  # a shape
    with pytest.raises(ValueError, match=r"given, of type list and .*: one argument \(which a list is, too\)"):
        try_forward(Fusion(), [IMAGE, WORDS])
    with pytest.raises(ValueError, match=r"^Sequential does not .*right shapes and data types.*$") as wrong_kind:
        try_forward(nn.Sequential(nn.Conv2d(4, 8, 3)), ((torch.zeros(1, 4, 8, 8),),))
    assert "\n" not in str(wrong_kind.value)  # torch lists all that it would have taken


def test_swins_attention_does_not_call_its_layers():
    with torch.device("meta"):
        model = torchvision.models.swin_t()
    trial = try_forward(model, torch.zeros(1, 3, 64, 64))
    assert not [name for name in trial.macs if name.endswith((".qkv", ".proj"))]
    assert "features.1.0.mlp.0" in trial.macs
