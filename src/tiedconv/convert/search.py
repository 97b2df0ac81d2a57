"""How many blocks each layer gets, for a budget of parameters or multiply-adds, by output sensitivity."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import named
from . import placement
from .fit import Images, as_batches, evaluation, fit_alone
from .placement import FilterFn, Preset
from .replace import check_root, replace
from .tie import Init, tied_twin
from .trial import Trial, parameters, try_forward, try_tied


@dataclass(frozen=True)
class BlockSearch:
    """What :func:`search_blocks` found.

    Attributes:
        blocks: of the layers to be tied, for :func:`tiedconv.tie_`.
        sensitivities: for each layer that can be tied and each number of blocks, the relative squared change of the
            model's output when that layer alone is tied.
        params: parameters of the model tied so.
        macs: multiply-adds of its convolution and linear layers for one input; ``None`` where no trial pass was
            possible.
    """

    blocks: dict[str, int]
    sensitivities: dict[str, dict[int, float]]
    params: int
    macs: int | None


def search_blocks(
    model: nn.Module,
    images: Images,
    *,
    params: float | None = None,
    macs: float | None = None,
    choices: Sequence[int] = (2, 4, 8),
    filter_fn: FilterFn | Preset | None = None,
    init: Init = "project",
    progress: Callable[[int, int], None] | None = None,
) -> BlockSearch:
    r"""Choose the blocks of each layer for a budget, so that the model's output changes little.

    Each layer is tied alone, with each number of blocks, and the change of the model's output on ``images`` is
    measured: :math:`\sum \lVert f'(x) - f(x) \rVert^2 / \sum \lVert f(x) \rVert^2`. The changes are taken to add up.
    Layers are then tied in the order of change per saving until the budget is met. If that saves more than needed,
    layers are untied again where it fits, those with the largest change first.

    Args:
        model: unchanged afterwards. Its output must be a tensor.
        images: as in :func:`tiedconv.tie_`. Every layer and number of blocks costs a forward pass over all of them.
        params: budget for the parameters of the whole model: a count, or a share of the present one if below 1.
        macs: the same for the multiply-adds of its convolution and linear layers. Give one of the two.
        choices: numbers of blocks to choose from, besides 1, which leaves a layer as it is.
        filter_fn: as in :func:`tiedconv.tie_`.
        init: ``"project"`` or ``"data"``, the way in which the layer will be tied.
        progress: called with the number of forward passes done and their total.

    Raises:
        TypeError, ValueError: as :func:`tiedconv.tie_` for the model and the arguments they share; ValueError for a
            budget out of range or out of reach, with what can be reached.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(1), nn.Linear(128, 2))
        >>> found = search_blocks(model, torch.randn(2, 4, 8, 8), params=0.5)
        >>> found.params <= 0.5 * sum(p.numel() for p in model.parameters())
        True
    """
    with named("search_blocks"):
        check_root(model)
        if init not in ("project", "data"):
            raise ValueError(f"init must be 'project' or 'data', got {init!r}.")
        batches = as_batches(images)
        trial = try_forward(model, batches[0][:1])
    now = {"params": parameters(model)}
    if trial is not None and trial.total is not None:
        now["macs"] = trial.total
    what, budget = _budget(now, params, macs)
    options = _options(model, choices, filter_fn, trial)
    with torch.no_grad(), evaluation(model):
        before = [_tensor(model(batch)) for batch in batches]
        energy = sum(y.double().square().sum().item() for y in before)
        total = sum(len(option.tied) for option in options)
        done = 0
        for option in options:
            for number, tied in option.tied.items():
                if init == "data":
                    fit_alone(tied, model, option.name, batches)
                change = _change(model, option.layer, tied, batches, before)
                if not math.isfinite(change):
                    raise ValueError(
                        f"search_blocks: with {option.name!r} tied the model's output is not finite. Are the images?"
                    )
                option.changes[number] = change / energy if energy > 0 else change
                done += 1
                if progress is not None:
                    progress(done, total)
    blocks = _cheapest(options, what, now[what] - budget)
    saved = {kind: sum(o.saving(kind, blocks[o.name]) for o in options if o.name in blocks) for kind in now}
    left = {kind: count - saved[kind] for kind, count in now.items()}
    return BlockSearch(blocks, {option.name: option.changes for option in options}, left["params"], left.get("macs"))


class _Option:
    """A layer that can be tied: its tied forms, what they change and what they cost, by number of blocks."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        self.name, self.layer = name, layer
        self.tied: dict[int, nn.Module] = {}
        self.changes: dict[int, float] = {}
        self.costs: dict[str, dict[int, int]] = {"params": {1: parameters(layer)}, "macs": {}}  # one block: as it is

    def saving(self, what: str, number: int) -> int:
        return self.costs[what][1] - self.costs[what][number]


def _options(
    model: nn.Module, choices: Sequence[int], filter_fn: FilterFn | Preset | None, trial: Trial | None
) -> list[_Option]:
    odd = [c for c in choices if isinstance(c, bool) or not isinstance(c, int) or c < 1]
    if odd:
        raise ValueError(f"search_blocks: choices must be whole numbers from 1, got {odd[0]!r} among them.")
    options: dict[str, _Option] = {}
    for number in sorted(set(choices) - {1}):
        for choice in placement.choose(model, number, filter_fn, trial):
            if choice.blocks:
                option = options.setdefault(choice.name, _Option(choice.name, choice.layer))
                option.tied[number] = tied_twin(choice.layer, number, "project")
                option.costs["params"][number] = parameters(option.tied[number])
        if trial is not None:
            tied = {option.name: option.tied[number] for option in options.values() if number in option.tied}
            macs = try_tied(model, tied, trial)
            for name in tied:
                options[name].costs["macs"].update({1: trial.macs[name] or 0, number: macs[name] or 0})
    return list(options.values())


def _budget(now: dict[str, int], params: float | None, macs: float | None) -> tuple[str, float]:
    given = {name: value for name, value in (("params", params), ("macs", macs)) if value is not None}
    if len(given) != 1:
        raise ValueError("search_blocks: give one budget, params or macs.")
    ((what, value),) = given.items()
    if what not in now:
        raise ValueError("search_blocks: the model's code needs values, so its macs are unknown. Give params instead.")
    budget = value * now[what] if 0 < value < 1 else value
    if not 0 < budget < now[what]:
        raise ValueError(
            f"search_blocks: {what} must be a share above 0 and below 1, or a count below the present {now[what]}, got "
            f"{value}."
        )
    return what, budget


def _cheapest(options: list[_Option], what: str, needed: float) -> dict[str, int]:
    """Return the blocks that save at least ``needed``, step by step where a step costs least for what it saves."""
    steps = sorted((step for option in options for step in _steps(option, what)), key=lambda step: step.price)
    blocks: dict[str, int] = {}
    saved = 0
    for step in steps:
        if saved >= needed:
            break
        blocks[step.name] = step.blocks
        saved += step.saving
    if saved < needed:
        raise ValueError(
            f"search_blocks: tying can save {saved} {what} of the {needed:.0f} that the budget asks for. Raise the "
            "budget, give larger choices or let filter_fn take more layers."
        )
    return _given_back(options, blocks, what, saved - needed)


def _given_back(options: list[_Option], blocks: dict[str, int], what: str, spare: float) -> dict[str, int]:
    """Return fewer blocks where ``spare`` of what was saved allows it, the layers with the largest changes first."""
    chosen = [option for option in options if option.name in blocks]
    kept = {}
    for option in sorted(chosen, key=lambda option: -option.changes[blocks[option.name]]):
        present = option.saving(what, blocks[option.name])
        affordable = {b: c for b, c in {1: 0.0, **option.changes}.items() if present - option.saving(what, b) <= spare}
        number = min(affordable, key=lambda b: (affordable[b], b))
        spare -= present - option.saving(what, number)
        if number > 1:
            kept[option.name] = number
    return {name: kept[name] for name in blocks if name in kept}


@dataclass(frozen=True)
class _Step:
    """From one number of blocks of a layer to a larger one."""

    name: str
    blocks: int
    saving: int
    price: float


def _steps(option: _Option, what: str) -> list[_Step]:
    """Return the steps along the lower hull of change against saving: each is dearer than the one before."""
    points = sorted((option.saving(what, b), change, b) for b, change in option.changes.items())
    steps: list[_Step] = []
    saving, change = 0, 0.0
    while points := [point for point in points if point[0] > saving]:
        price, best = min(((max(0.0, c - change) / (s - saving)), (s, c, b)) for s, c, b in points)
        steps.append(_Step(option.name, best[2], best[0] - saving, price))
        saving, change = best[0], max(best[1], change)
    return steps


def _change(model: nn.Module, layer: nn.Module, tied: nn.Module, batches: list[Tensor], before: list[Tensor]) -> float:
    replace(model, {id(layer): tied})
    try:
        return sum(
            (_tensor(model(batch)).double() - y.double()).square().sum().item()
            for batch, y in zip(batches, before, strict=True)
        )
    finally:
        replace(model, {id(tied): layer})


def _tensor(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(f"search_blocks: the model must return a tensor, got {type(output).__name__}.")
    return output
