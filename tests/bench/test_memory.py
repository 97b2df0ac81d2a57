import sys
from functools import partial

import pytest
import timm
import torch

from tiedconv.bench import memory
from tiedconv.bench.memory import train_step_peak_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from Linux' /proc")
def test_peak_memory_sees_weights_gradients_and_momentum():
    build = partial(timm.create_model, "resnet18")
    weights = (
        sum(p.numel() for p in build().parameters()) * 4 / 2**20
    )  # 45 MiB; activations of two small images are few
    measured = train_step_peak_memory(build, (2, 3, 32, 32), device="cpu")
    assert 3 * weights < measured < 5 * weights


@pytest.mark.stress  # it starts a compiler
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from Linux' /proc")
def test_peak_memory_of_a_compiled_model_leaves_out_the_compiler():
    build = partial(torch.nn.Sequential, torch.nn.Flatten(), torch.nn.Linear(300, 10_000))
    weights = 301 * 10_000 * 4 / 2**20
    measured = train_step_peak_memory(build, (2, 3, 10, 10), device="cpu", compiled=True)
    assert 3 * weights < measured < 3 * weights + 60


def test_without_a_record_of_the_peak_there_is_no_figure(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    assert train_step_peak_memory(torch.nn.Identity, (1, 3, 8, 8), device="cpu") is None
