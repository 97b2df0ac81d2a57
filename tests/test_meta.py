"""Copies of models: what cannot be copied is refused by every entry that copies, and the message says what to call."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.testing import assert_close

from tiedconv import tie_, untie_
from tiedconv._meta import copied, on_meta
from tiedconv.analysis import filter_similarity, grad_cam, summarize
from tiedconv.export import deploy, to_program
from tiedconv.metrics.counts import count
from tiedconv.nn import TiedConv2d

IMAGES = torch.randn(2, 4, 8, 8)
OLD = {
    "remove_weight_norm": nn.utils.weight_norm,
    "remove_spectral_norm": nn.utils.spectral_norm,
    "prune.remove": lambda layer: prune.random_unstructured(layer, "weight", 0.5),
}
NEW = [parametrizations.weight_norm, parametrizations.spectral_norm]


def network(reparametrize: Any, layer: type[nn.Module] = nn.Conv2d) -> nn.Sequential:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        first = reparametrize(layer(4, 8, 3))
    return nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def tied(in_channels: int, out_channels: int, kernel_size: int) -> nn.Module:
    return TiedConv2d(in_channels, out_channels, kernel_size, blocks=2)


ENTRIES = {
    "tie_": lambda model: tie_(model),
    "count": lambda model: count(model, (4, 8, 8)),
    "deploy": lambda model: deploy(model),
    "to_program": lambda model: to_program(model, "program.pt2", input_size=(4, 8, 8)),
    "grad_cam": lambda model: grad_cam(model, IMAGES),
    "summarize": lambda model: summarize(model, IMAGES),
    "filter_similarity": lambda model: filter_similarity(model, ["0"], IMAGES),
}
PROGRAM = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_says_what_removes_a_hook_of_the_old_kind(entry):
    with pytest.raises(
        ValueError, match=r"'0' has a weight .*Call torch\.nn\.utils\.remove_weight_norm\(module, 'weight'"
    ):
        ENTRIES[entry](network(OLD["remove_weight_norm"]))


@pytest.mark.parametrize("function", OLD)
def test_every_kind_of_hook_is_known_and_the_advice_helps(function):
    model = network(OLD[function])
    for attempt in (copied, on_meta):
        with pytest.raises(ValueError, match=rf"'0' has a weight .*Call torch\.nn\.utils\.{function}\(module"):
            attempt(model)
    (prune.remove if function == "prune.remove" else getattr(nn.utils, function))(model[0], "weight")
    assert_close(copied(model)(IMAGES), model(IMAGES))
    model = network(OLD[function], tied)
    for attempt in (untie_, deploy):
        with pytest.raises(ValueError, match=rf"'0' has a weight .*Call torch\.nn\.utils\.{function}\(module"):
            attempt(model)


@PROGRAM
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("reparametrize", NEW)
def test_parametrizations_of_the_new_kind_are_copied(entry, reparametrize, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a program is written
    model = network(reparametrize).eval()
    if entry == "tie_":
        model.insert(0, nn.Conv2d(4, 4, 1))  # to be tied: the parametrized one is kept
    expected = copy.deepcopy(model)(IMAGES)
    ENTRIES[entry](model)
    if entry != "tie_":
        assert torch.equal(model(IMAGES), expected)


def test_a_tensor_with_a_history_is_named():
    class Keeper(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.last = super().forward(x)
            return self.last

    model = nn.Sequential(Keeper(4, 4))
    model(torch.randn(2, 4))
    with pytest.raises(ValueError, match=r"'0' holds a tensor that was computed with gradients, 'last'.*its detach"):
        copied(model)
    with torch.no_grad():
        model(torch.randn(2, 4))
    assert_close(copied(model)(torch.ones(4)), model(torch.ones(4)))
