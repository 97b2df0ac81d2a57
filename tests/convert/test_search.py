import copy
from itertools import product

import pytest
import torch
from torch import nn

from tiedconv.convert import search_blocks, tie_


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten()
    )


IMAGES = torch.randn(3, 8, 5, 5, generator=torch.Generator().manual_seed(1))


def change(blocks):
    model = network()
    with torch.no_grad():
        before = model(IMAGES)
        tie_(model, blocks)
        return ((model(IMAGES) - before).double().square().sum() / before.double().square().sum()).item()


def test_sensitivities_are_what_tying_one_layer_changes():
    model = network()
    found = search_blocks(model, IMAGES, params=0.5, choices=(2, 4), filter_fn="all")
    assert {name: sorted(by_blocks) for name, by_blocks in found.sensitivities.items()} == {
        name: [2, 4] for name in ("0", "2", "4")
    }
    for name, by_blocks in found.sensitivities.items():
        for blocks, value in by_blocks.items():
            assert value == pytest.approx(change({name: blocks}), rel=1e-4)
    for name, weight in network().state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])


@pytest.mark.parametrize("what", ["params", "macs"])
@pytest.mark.parametrize("share", [0.9, 0.6, 0.4])
def test_no_other_choice_is_cheaper_at_the_cost_that_was_reached(what, share):
    found = search_blocks(network(), IMAGES, **{what: share}, choices=(2, 4), filter_fn="all")

    def total(blocks):
        return sum(found.sensitivities[name][number] for name, number in blocks.items() if number > 1)

    def cost(blocks):
        tied = {name: number for name, number in blocks.items() if number > 1}
        report = tie_(copy.deepcopy(network()), tied, example_inputs=IMAGES[:1])
        return {"params": report.tied_params, "macs": report.tied_macs}

    reached = cost(found.blocks)
    assert reached == {"params": found.params, "macs": found.macs}
    whole = {"params": sum(p.numel() for p in network().parameters()), "macs": 8 * 16 * 9 * 25 + 256 * 25 + 1152 * 9}
    assert reached[what] <= share * whole[what]
    names = ("0", "2", "4")
    for numbers in product((1, 2, 4), repeat=3):
        other = dict(zip(names, numbers, strict=True))
        if max(numbers) > 1 and cost(other)[what] <= reached[what]:
            assert total(other) >= total(found.blocks) - 1e-9


def test_fitted_layers_change_the_output_less():
    projected, fitted = (
        search_blocks(network(), IMAGES, params=0.5, choices=(2,), filter_fn="all", init=init).sensitivities
        for init in ("project", "data")
    )
    assert all(fitted[name][2] < projected[name][2] for name in projected)


def test_progress_counts_every_pass():
    seen = []
    search_blocks(
        network(), IMAGES, params=0.5, choices=(1, 2), filter_fn="all", progress=lambda *counts: seen.append(counts)
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one budget, params or macs"),
        ({"params": 0.5, "macs": 0.5}, "give one budget, params or macs"),
        ({"params": 0}, "params must be a share above 0 and below 1, or a count below the present 2600, got 0"),
        ({"params": 3000}, "or a count below the present 2600, got 3000"),
        ({"params": 0.01, "choices": (2,)}, r"tying can save \d+ params of the 2574 that the budget asks for"),
        ({"params": 0.5, "choices": (2, 0)}, "choices must be whole numbers from 1, got 0 among them"),
        ({"params": 0.5, "init": "random"}, "init must be 'project' or 'data', got 'random'"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=f"search_blocks: .*{message}"):
        search_blocks(network(), IMAGES, filter_fn="all", **options)


def test_images_that_are_not_finite_are_an_error():
    with pytest.raises(ValueError, match=r"with '0' tied the model's output is not finite\. Are the images\?"):
        search_blocks(network(), IMAGES * torch.inf, params=0.5)


def test_a_model_without_a_tensor_as_output_is_refused():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return self.conv(x), x

    with pytest.raises(TypeError, match="the model must return a tensor, got tuple"):
        search_blocks(Pair(), IMAGES, params=0.5, filter_fn="all")


def test_a_model_that_runs_on_values_only_is_counted_on_the_images():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return self.conv(x) if x.sum().item() < 1e9 else x

    found = search_blocks(Branching(), IMAGES, macs=0.5, filter_fn="all")
    assert found.blocks == {"conv": 2}
    assert found.macs == 25 * 64 // 2


def test_an_error_names_the_search_that_was_called():
    with pytest.raises(ValueError, match=r"^search_blocks: filter_fn must be a function .* got 'heads'"):
        search_blocks(network(), IMAGES, params=0.5, filter_fn="heads")
