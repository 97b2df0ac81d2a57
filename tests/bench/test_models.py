import sys
from functools import partial

import pytest
import timm
import torch
from torch import nn

from tiedconv.bench import describe_machine, throughput, train_step_peak_memory


def classifier(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 4))


@pytest.mark.parametrize("train", [False, True])
def test_throughput_runs_every_model_and_only_training_changes_weights(train):
    models = {"a": classifier(8), "b": classifier(16)}
    before = {name: model[1].weight.clone() for name, model in models.items()}
    rates = throughput(models, torch.randn(5, 1, 8, 8), train=train, rounds=3)
    assert {name: len(values) for name, values in rates.items()} == {"a": 3, "b": 3}
    assert all(rate > 0 for values in rates.values() for rate in values)
    for name, model in models.items():
        assert torch.equal(before[name], model[1].weight) is not train
        assert model.training is train


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from Linux' /proc")
def test_peak_memory_sees_weights_gradients_and_momentum():
    build = partial(timm.create_model, "resnet18")
    weights = (
        sum(p.numel() for p in build().parameters()) * 4 / 2**20
    )  # 45 MiB; activations of two small images are few
    measured = train_step_peak_memory(build, (2, 3, 32, 32))
    assert 3 * weights < measured < 5 * weights


def test_machine_is_described_in_text():
    machine = describe_machine()
    assert machine["torch"] == torch.__version__
    assert machine["threads"] == str(torch.get_num_threads())
    assert all(isinstance(value, str) and value for value in machine.values())
