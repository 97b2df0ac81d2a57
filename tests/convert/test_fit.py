"""The data fit against least squares on patches, written out; order, repeated calls, modes and what it leaves alone."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from tests.convert.cases import Case, Snapshot, cases, expected_output
from torch import Tensor, nn
from torch.testing import assert_close

from tiedconv import tie_
from tiedconv.convert import recalibrate_norms_, search_blocks
from tiedconv.convert.fit import as_batches
from tiedconv.convert.project import project_bias, project_weight

EXACT = {"rtol": 1e-6, "atol": 1e-8}
RIDGE = 1e-3

# torch's own layers say so, and which of them is the first to depends on the order of tests
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")


def fitted(seen: Tensor, wanted: Tensor, start: Tensor) -> Tensor:
    """Least squares ``start`` + what brings rows of ``seen`` nearest to those of ``wanted``, with the ridge as rows."""
    weight = (RIDGE * seen.square().sum(0).mean()).sqrt()
    rows = torch.cat([seen, weight * torch.eye(seen.shape[1], dtype=seen.dtype)])
    return torch.linalg.lstsq(rows, torch.cat([wanted, weight * start.T])).solution.T


def samples(layer: Any, x: Tensor, y: Tensor, group: int, blocks: int) -> tuple[Tensor, Tensor]:
    """What the filters of a group see (S, columns) and should answer (S, rows), over samples, positions and blocks."""
    if isinstance(layer, nn.Linear):
        seen, wanted = x.reshape(-1, x.shape[-1], 1), y.reshape(-1, y.shape[-1], 1)
    else:
        pad = layer.padding if isinstance(layer.padding, tuple) else 0
        channels, rows = layer.in_channels // layer.groups, layer.out_channels // layer.groups
        x, y = x[:, group * channels :][:, :channels], y[:, group * rows :][:, :rows]
        seen = F.unfold(x, layer.kernel_size, layer.dilation, pad, layer.stride)
        wanted = y.flatten(2)
    parts = zip(seen.chunk(blocks, 1), wanted.chunk(blocks, 1), strict=True)
    pairs = [(p.movedim(1, -1).flatten(0, 1), w.movedim(1, -1).flatten(0, 1)) for p, w in parts]
    seen, wanted = torch.cat([p for p, _ in pairs]), torch.cat([w for _, w in pairs])
    if layer.bias is not None:
        seen = torch.cat([seen, seen.new_ones(len(seen), 1)], 1)
    return seen, wanted


def check_fit(old: Any, tied: Any, x: Tensor, y: Tensor) -> None:
    """Check a tied layer against the fit written out, for the input ``x`` and the wanted output ``y``."""
    groups, blocks = getattr(old, "groups", 1), tied.blocks
    start = project_weight(old.weight.detach(), groups=groups, blocks=blocks).flatten(1)
    found = tied.weight.detach().flatten(1)
    if old.bias is not None:
        start = torch.cat([start, project_bias(old.bias.detach(), groups=groups, blocks=blocks)[:, None]], 1)
        found = torch.cat([found, tied.bias.detach()[:, None]], 1)
    for group, (first, rows) in enumerate(zip(start.chunk(groups), found.chunk(groups), strict=True)):
        assert_close(rows, fitted(*samples(old, x, y, group, blocks), first), **EXACT)


@settings(max_examples=40)
@given(case=cases(dims=(2, 0), modes=False))
def test_a_layer_is_fitted_by_least_squares_on_patches(case: Case):
    model, x = nn.Sequential(case.layer()), case.input()
    x = x[None] if x.dim() == 1 else x
    (old,) = model
    y = old(x).detach()
    report = tie_(model, case.blocks, "all", "data", images=x)
    check_fit(old, model[0], x, y)
    error = (model[0](x) - y).norm() / y.norm()
    assert report.tied[0].error == pytest.approx(error.item(), rel=1e-5, abs=1e-6)


@settings(max_examples=30)
@given(case=cases())
def test_the_fitted_output_is_nearer_than_the_projected_one(case: Case):
    model, x = nn.Sequential(case.layer()), case.input()
    x = x[None] if x.dim() == 1 else x
    (old,), projected = model, nn.Sequential(*copy.deepcopy(model))
    y = old(x).detach()
    tie_(projected, case.blocks, "all")
    report = tie_(model, case.blocks, "all", "data", images=x)
    assert_close(model(x), expected_output(old, model[0], x))
    error = (model(x) - y).norm().item()
    assert error <= (projected(x) - y).norm().item() * (1 + 1e-9)
    assert report.tied[0].error == pytest.approx(error / y.norm().item(), rel=1e-5, abs=1e-6)


def pair() -> nn.Sequential:
    layers = [nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=False)]
    return nn.Sequential(*layers).double()


def test_a_layer_is_fitted_on_what_the_tied_layers_before_it_give():
    model, x = pair(), torch.randn(6, 4, 8, 8, dtype=torch.float64)
    old = copy.deepcopy(model).eval()
    tie_(model, 2, "all", "data", images=x)
    model.eval()
    with torch.no_grad():
        check_fit(old[3], model[3], model[:3](x), old(x))


class Twice(nn.Module):
    """Calls one layer twice, the second time by the name of its argument."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(input=self.activation(self.layer(x)))
        return y


@pytest.mark.parametrize("activation", [torch.tanh, torch.tanh_])
def test_a_layer_that_is_called_twice_is_fitted_to_both_calls(activation):
    model, x = Twice(activation).double(), torch.randn(20, 6, dtype=torch.float64)
    old = model.layer
    first = old(x)
    projected = nn.Sequential(copy.deepcopy(old))
    tie_(projected, 3, "all")  # with it in place the tied network's second input arises
    report = tie_(model, 3, "all", "data", images=x)
    inputs = torch.cat([x, torch.tanh(projected(x))]).detach()
    outputs = torch.cat([first, old(torch.tanh(first))]).detach()
    check_fit(old, model.layer, inputs, outputs)
    assert report.tied[0].macs == 2 * 36


class Centred(nn.Module):
    """Changes the images that it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sub_(0.5)


@pytest.mark.parametrize(
    "function",
    [
        lambda model, images: tie_(model, 2, "all", "data", images=images),
        lambda model, images: search_blocks(model, images, params=0.9, filter_fn="all"),
        recalibrate_norms_,
    ],
    ids=["tie_", "search_blocks", "recalibrate_norms_"],
)
def test_images_stay_if_the_model_changes_what_it_is_given(function):
    images = torch.rand(5, 4, 6, 6)
    before = images.clone()
    function(nn.Sequential(Centred(), nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)), images)
    assert torch.equal(images, before)


def test_statistics_and_modes_stay():
    model = pair()
    model[1].eval()
    before = {name: value.clone() for name, value in model[1].state_dict().items()}
    tie_(model, 2, "all", "data", images=torch.randn(4, 4, 8, 8, dtype=torch.float64))
    assert_close(model[1].state_dict(), before, rtol=0, atol=0)
    assert [module.training for module in model] == [True, False, True, True]


@pytest.mark.parametrize("kind", ["batches", "pairs", "generator", "loader"])
def test_images_may_come_in_batches(kind):
    images = torch.randn(8, 4, 6, 6, dtype=torch.float64)
    batches = images.split(4)
    given: Any = {
        "batches": batches,
        "pairs": [(batch, torch.zeros(4)) for batch in batches],
        "generator": iter(batches),
        "loader": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=3),
    }[kind]
    whole, parts = pair(), pair()
    parts.load_state_dict(whole.state_dict())
    tie_(whole, 2, "all", "data", images=images)
    tie_(parts, 2, "all", "data", images=given)
    assert_close(parts.state_dict(), whole.state_dict())


def test_a_large_tensor_is_taken_in_batches():
    sizes = {n: [len(batch) for batch in as_batches(torch.zeros(n, 1))] for n in (1, 32, 33, 70)}
    assert sizes == {1: [1], 32: [32], 33: [17, 16], 70: [24, 23, 23]}  # each counts alike in a norm's statistics


def test_progress_is_told_after_every_layer():
    told: list[tuple[int, int]] = []
    tie_(pair(), 2, "all", "data", images=torch.randn(2, 4, 8, 8).double(), progress=lambda *done: told.append(done))
    assert told == [(1, 2), (2, 2)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64])
def test_other_types_are_fitted(dtype):
    model = nn.Sequential(nn.Conv2d(4, 8, 3, dtype=dtype), nn.Conv2d(8, 8, 1, dtype=dtype))
    report = tie_(model, 2, "all", "data", images=torch.randn(4, 4, 6, 6, dtype=dtype))
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert all(0 < layer.error < 1 for layer in report.tied)


def test_integers_go_in_where_a_model_takes_them():
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8))
    report = tie_(model, 2, "all", "data", images=torch.randint(10, (4, 5)))
    assert report.input_shapes == ((1, 5),)
    assert report.tied[0].macs == 5 * 64


def test_a_model_that_needs_values_is_fitted_and_counted():
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x if x.sum().item() > 0 else -x)
            return y

    model = Branching()
    report = tie_(model, 2, "all", "data", images=torch.randn(8, 4))
    assert report.tied[0].macs == 16
    assert 0 < report.tied[0].error < 1


def test_a_fit_that_fails_halfway_leaves_the_model_as_it_was():
    class Small(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 3:
                raise RuntimeError("three are too many")
            y: Tensor = super().forward(x)
            return y

    model = Small(nn.Linear(4, 4), nn.Linear(4, 4))
    before = Snapshot(model)
    with pytest.raises(RuntimeError, match="three are too many"):
        tie_(model, 2, "all", "data", images=[torch.randn(2, 4), torch.randn(3, 4)])
    before.check()
