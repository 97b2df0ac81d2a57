"""How many blocks each layer gets, for a budget of parameters or multiply-adds, by output sensitivity."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import named
from .._meta import copied
from .fit import Images, as_batches, evaluation, fit_outputs
from .placement import FilterFn, Preset, choose
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
        macs: multiply-adds of its convolution and linear layers for one input; ``None`` if the model's code needs
            values.
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
        model: stays as it is. Its output must be a tensor.
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
        if odd := [c for c in choices if isinstance(c, bool) or not isinstance(c, int) or c < 1]:
            raise ValueError(f"choices must be whole numbers from 1, got {odd[0]!r} among them.")
        batches = as_batches(images)
        trial = try_forward(model, batches[0][:1])
    now = {"params": parameters(model)}
    if trial is not None and trial.total is not None:
        now["macs"] = trial.total
    what, budget = _budget(now, params, macs)
    options = _options(model, choices, filter_fn, trial)
    _measure(model, options, batches, init, progress)
    blocks = _cheapest(options, what, now[what] - budget)
    for option in options:
        for kind in now:
            now[kind] -= option.savings[kind][blocks.get(option.name, 1)]
    return BlockSearch(blocks, {option.name: option.changes for option in options}, now["params"], now.get("macs"))


@dataclass
class _Option:
    """A layer that can be tied, by number of blocks: its tied forms, the savings of each kind, the output's changes."""

    name: str
    tied: dict[int, nn.Module] = field(default_factory=dict)
    savings: dict[str, dict[int, int]] = field(default_factory=lambda: {"params": {1: 0}, "macs": {1: 0}})
    changes: dict[int, float] = field(default_factory=dict)


def _options(
    model: nn.Module, choices: Sequence[int], filter_fn: FilterFn | Preset | None, trial: Trial | None
) -> list[_Option]:
    options: dict[str, _Option] = {}
    for number in sorted(set(choices) - {1}):
        tied: dict[str, nn.Module] = {}
        for choice in choose(model, number, filter_fn, trial):
            if choice.blocks:
                tied[choice.name] = tied_twin(choice.layer, number)
                option = options.setdefault(choice.name, _Option(choice.name))
                option.tied[number] = tied[choice.name]
                option.savings["params"][number] = parameters(choice.layer) - parameters(tied[choice.name])
        if trial is not None:
            macs = try_tied(model, tied, trial)
            for name in tied:
                options[name].savings["macs"][number] = (trial.macs[name] or 0) - (macs[name] or 0)
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


@torch.no_grad()
def _measure(
    model: nn.Module,
    options: list[_Option],
    batches: list[Tensor],
    init: Init,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Measure how much the model's output changes with each option."""
    twin = copied(model).eval()
    with evaluation(model):
        before = [_output(model, batch) for batch in batches]
    energy = sum(y.square().sum().item() for y in before)
    passes = [(option, number) for option in options for number in option.tied]
    for done, (option, number) in enumerate(passes, start=1):
        old = twin.get_submodule(option.name)
        replace(twin, {option.name: option.tied[number]})
        if init == "data":
            fit_outputs(twin, model, [option.name], batches)
        pairs = zip(batches, before, strict=True)
        change = sum((_output(twin, batch) - y).square().sum().item() for batch, y in pairs)
        replace(twin, {option.name: old})
        if not math.isfinite(change):
            raise ValueError(
                f"search_blocks: with {option.name!r} tied the model's output is not finite. Are the images?"
            )
        option.changes[number] = change / energy if energy > 0 else change
        if progress is not None:
            progress(done, len(passes))


def _output(model: nn.Module, batch: Tensor) -> Tensor:
    output: Any = model(batch)
    if not isinstance(output, Tensor):
        raise TypeError(f"search_blocks: the model must return a tensor, got {type(output).__name__}.")
    return output.double()


def _cheapest(options: list[_Option], what: str, needed: float) -> dict[str, int]:
    """Return the blocks that save at least ``needed``, step by step where a step costs least for what it saves."""
    steps = sorted(step for option in options for step in _steps(option, what))
    blocks: dict[str, int] = {}
    saved = 0
    for _, name, number, saving in steps:
        if saved >= needed:
            break
        blocks[name] = number
        saved += saving
    if saved < needed:
        raise ValueError(
            f"search_blocks: tying can save {saved} {what} of the {needed:.0f} that the budget asks for. Raise the "
            "budget, give larger choices or let filter_fn take more layers."
        )
    # What was saved beyond that is given back, to the layers with the largest changes first.
    spare = saved - needed
    chosen = [option for option in options if option.name in blocks]
    for option in sorted(chosen, key=lambda option: -option.changes[blocks[option.name]]):
        savings = option.savings[what]
        present = savings[blocks[option.name]]
        changes = {1: 0.0, **option.changes}
        affordable = [number for number in changes if present - savings[number] <= spare]
        blocks[option.name] = min(affordable, key=lambda number: (changes[number], number))
        spare -= present - savings[blocks[option.name]]
    return {name: number for name, number in blocks.items() if number > 1}


def _steps(option: _Option, what: str) -> list[tuple[float, str, int, int]]:
    """Return price, name, blocks and saving of steps to more blocks, each dearer than the one before.

    They lie on the lower hull of change against saving.
    """
    points = sorted((option.savings[what][number], change, number) for number, change in option.changes.items())
    steps = []
    saving, change = 0, 0.0
    while points := [point for point in points if point[0] > saving]:
        price, best = min((max(0.0, c - change) / (s - saving), (s, c, number)) for s, c, number in points)
        steps.append((price, option.name, best[2], best[0] - saving))
        saving, change = best[0], max(best[1], change)
    return steps
