import json
from dataclasses import replace

import pytest
import torch

from tiedconv.compare import Budget, tying
from tiedconv.compare.tying import tie_and_finetune
from tiedconv.convert import tie_
from tiedconv.data import Digits
from tiedconv.models import build_model
from tiedconv.tasks import Optimization

KWARGS = {"layers": [1, 1, 1, 1]}
BUDGET = Budget(1, Optimization(lr=0.05, schedule="cosine"))


def data():
    return Digits(image_size=8, batch_size=64)


def network():
    torch.manual_seed(0)
    return build_model("resnet_tiny", num_classes=10, in_chans=1, **KWARGS)


def test_stages_are_those_of_the_same_calls_by_hand(tmp_path):
    model = network()
    report, stages = tie_and_finetune(model, "resnet_tiny", data(), tmp_path, kwargs=KWARGS, samples=100)
    assert [stage.name for stage in stages] == ["before", "tied", "norms re-estimated"]

    by_hand = network().eval()
    images, labels = (torch.cat(parts) for parts in zip(*data().val_dataloader(), strict=True))

    def top1():
        with torch.no_grad():
            return (by_hand(images).argmax(1) == labels).double().mean().item()

    assert stages[0].top1 == pytest.approx(top1())
    tie_(by_hand)
    assert stages[1].top1 == pytest.approx(top1())
    assert stages[1].params == sum(p.numel() for p in by_hand.parameters()) == report.tied_params
    assert not model.training
    written = json.loads((tmp_path / "tying.json").read_text())
    assert [stage["top1"] for stage in written["stages"]] == [stage.top1 for stage in stages]
    assert written["report"]["tied_params"] == report.tied_params


def test_fine_tuning_starts_from_the_tied_weights_and_goes_on_where_it_stopped(tmp_path):
    first, second = (
        tie_and_finetune(
            network(), "resnet_tiny", data(), tmp_path, kwargs=KWARGS, init="data", samples=300, budget=BUDGET
        )
        for _ in range(2)
    )
    report, stages = first
    assert stages[-1].name == "fine-tuned"
    assert stages == second[1]  # it finds the first one's last epoch
    assert stages[-1].loss < stages[-2].loss
    assert report.error_of == "output"
    with pytest.raises(ValueError, match=r"holds a run with other settings: budget.epochs = 1 there, 2 here"):
        tie_and_finetune(
            network(),
            "resnet_tiny",
            data(),
            tmp_path,
            kwargs=KWARGS,
            init="data",
            samples=300,
            budget=Budget(2, BUDGET.optimization),
        )


def test_other_weights_are_told_from_those_of_the_training_and_rounding_is_not(tmp_path, monkeypatch):
    def tie(model):
        return tie_and_finetune(model, "resnet_tiny", data(), tmp_path, kwargs=KWARGS, samples=64, budget=BUDGET)

    tie(network())
    assert len(json.loads((tmp_path / "training" / "run.json").read_text())["start"]["weights"]) == 64
    whole = tying._measure
    # As another processor would compute it.
    monkeypatch.setattr(tying, "_measure", lambda *args: replace(found := whole(*args), loss=found.loss + 1e-7))
    tie(network())
    other = network()
    with torch.no_grad():
        other.conv1.weight[0, 0, 0, 0] += 1e-3
    with pytest.raises(ValueError, match=r"holds a run with other settings: start\.weights = "):
        tie(other)


def test_no_samples_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^samples must be at least 1, got 0"):
        tie_and_finetune(network(), "resnet_tiny", data(), tmp_path, samples=0)
