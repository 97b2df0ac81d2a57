import importlib.util
import math
from pathlib import Path

import pytest
import torch
from torch import nn

_FILE = Path(__file__).parents[1] / "benchmarks" / "compressors.py"
_SPEC = importlib.util.spec_from_file_location("compressors", _FILE)
assert _SPEC
assert _SPEC.loader
compressors = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(compressors)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 64), (64, 64), (64, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


@pytest.mark.parametrize("layer", [nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(6, 4, (1, 3), dilation=(1, 2), bias=False)])
def test_two_steps_of_full_rank_compute_what_the_layer_does(layer):
    factors = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)
    x = torch.randn(2, 6, 9, 9)
    torch.testing.assert_close(compressors.two_steps(layer, *factors)(x), layer(x))


def test_two_steps_are_off_by_the_singular_values_that_they_leave_out():
    layer = nn.Conv2d(6, 8, 3)
    left, values, right = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)
    first, second = compressors.two_steps(layer, left[:, :3], values[:3], right[:3])
    made = torch.einsum("or,rikl->oikl", second.weight[..., 0, 0], first.weight)
    assert (made - layer.weight).norm().item() == pytest.approx(values[3:].norm().item(), rel=1e-5)


@pytest.mark.parametrize("method", compressors.METHODS[1:])
def test_every_method_leaves_as_many_parameters(model, method):
    batches = [torch.randn(4, 1, 8, 8) for _ in range(2)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small, _ = compressors.compress(model, method, 2, batches)
    tied = 1 * 32 * 9 + (32 * 64 + 2 * 64 * 64) * 9 // 4 + 32 + 3 * 32 + 2 * (32 + 3 * 64) + 65 * 10
    assert compressors.parameters(small) == pytest.approx(tied, rel=0 if method.startswith("tied") else 0.05)
    assert small(batches[0]).shape == (4, 10)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_bisection_finds_the_nearest():
    found = compressors.bisect(lambda share: nn.Linear(1, max(1, round(100 * share)), bias=False), 42)
    assert math.isclose(compressors.parameters(found), 42)
