"""How many blocks each layer gets, for a budget of parameters or multiply-adds, by output sensitivity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import named
from .._meta import copied
from .fit import Images, Progress, as_batches, check_runs, evaluation, fit_outputs
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
        macs: multiply-adds of its convolution and linear layers for one image.
    """

    blocks: dict[str, int]
    sensitivities: dict[str, dict[int, float]]
    params: int
    macs: int


@named("search_blocks")
def search_blocks(
    model: nn.Module,
    images: Images,
    *,
    params: float | None = None,
    macs: float | None = None,
    choices: Sequence[int] = (2, 4, 8),
    filter_fn: FilterFn | Preset | None = None,
    init: Init = "project",
    progress: Progress | None = None,
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
    check_root(model)
    if init not in ("project", "data"):
        raise ValueError(f"init must be 'project' or 'data', got {init!r}.")
    if odd := [c for c in choices if isinstance(c, bool) or not isinstance(c, int) or c < 1]:
        raise ValueError(f"choices must be whole numbers from 1, got {odd[0]!r} among them.")
    batches = as_batches(images)
    check_runs(model, batches)
    trial = try_forward(model, batches[0][:1])
    assert trial is not None  # an input is given
    now = {"params": parameters(model), "macs": sum(count or 0 for count in trial.macs.values())}
    what, budget = _budget(now, params, macs)
    options = _options(model, choices, filter_fn, trial)
    _measure(model, options, batches, init, progress)
    blocks = _cheapest(options, what, now[what] - budget)
    for name, number in blocks.items():
        for kind in now:
            now[kind] -= options[name].savings[kind][number]
    sensitivities = {name: {b: c for b, c in option.changes.items() if b > 1} for name, option in options.items()}
    chosen = {name: number for name, number in blocks.items() if number > 1}
    return BlockSearch(chosen, sensitivities, now["params"], now["macs"])


@dataclass
class _Option:
    """A layer that can be tied: by number of blocks, what it becomes, what that saves and how the output changes."""

    tied: dict[int, nn.Module] = field(default_factory=dict)
    savings: dict[str, dict[int, int]] = field(default_factory=lambda: {"params": {1: 0}, "macs": {1: 0}})
    changes: dict[int, float] = field(default_factory=lambda: {1: 0.0})


def _options(
    model: nn.Module, choices: Sequence[int], filter_fn: FilterFn | Preset | None, trial: Trial
) -> dict[str, _Option]:
    options: dict[str, _Option] = {}
    for number in sorted(set(choices) - {1}):
        layers = {c.name: c.layer for c in choose(model, number, filter_fn, trial) if c.blocks}
        tied = {name: tied_twin(layer, number) for name, layer in layers.items()}
        macs = try_tied(model, tied, trial)
        for name, layer in layers.items():
            option = options.setdefault(name, _Option())
            option.tied[number] = tied[name]
            option.savings["params"][number] = parameters(layer) - parameters(tied[name])
            option.savings["macs"][number] = (trial.macs[name] or 0) - (macs[name] or 0)
    return options


def _budget(now: dict[str, int], params: float | None, macs: float | None) -> tuple[str, float]:
    given = {name: value for name, value in (("params", params), ("macs", macs)) if value is not None}
    if len(given) != 1:
        raise ValueError("give one budget, params or macs.")
    ((what, value),) = given.items()
    budget = value * now[what] if 0 < value < 1 else value
    if not 0 < budget < now[what]:
        raise ValueError(
            f"{what} must be a share above 0 and below 1, or a count below the present {now[what]}, got {value}."
        )
    return what, budget


@torch.no_grad()
def _measure(
    model: nn.Module, options: dict[str, _Option], batches: list[Tensor], init: Init, progress: Progress | None
) -> None:
    """Measure how much the model's output changes with each option."""
    twin = copied(model).eval()
    with evaluation(model):
        before = [_output(model, batch) for batch in batches]
    energy = sum(y.square().sum().item() for y in before)
    passes = [(name, option, number) for name, option in options.items() for number in option.tied]
    for done, (name, option, number) in enumerate(passes, start=1):
        old = twin.get_submodule(name)
        replace(twin, {name: option.tied[number]})
        if init == "data":
            fit_outputs(twin, model, [name], batches)
        pairs = zip(batches, before, strict=True)
        change = sum((_output(twin, batch) - y).square().sum().item() for batch, y in pairs)
        replace(twin, {name: old})
        if not math.isfinite(change):
            raise ValueError(f"with {name!r} tied the model's output is not finite. Are the images?")
        option.changes[number] = change / energy if energy > 0 else change
        if progress is not None:
            progress(done, len(passes))


def _output(model: nn.Module, batch: Tensor) -> Tensor:
    output: Any = model(batch.clone())  # which its code may change
    if not isinstance(output, Tensor):
        raise TypeError(f"the model must return a tensor, got {type(output).__name__}.")
    return output.double()


def _cheapest(options: dict[str, _Option], what: str, needed: float) -> dict[str, int]:
    """Return the blocks that save at least ``needed``, step by step where a step costs least for what it saves."""
    blocks = dict.fromkeys(options, 1)
    saved = 0
    while saved < needed:
        steps = []
        for name, option in options.items():
            change, saving = option.changes[blocks[name]], option.savings[what][blocks[name]]
            for number, more in option.savings[what].items():
                if more > saving:
                    steps.append(((option.changes[number] - change) / (more - saving), more - saving, name, number))
        if not steps:
            raise ValueError(
                f"tying can save {saved} {what} of the {needed:.0f} that the budget asks for. Raise the "
                "budget, give larger choices or let filter_fn take more layers."
            )
        _, saving, name, number = min(steps)
        blocks[name] = number
        saved += saving
    # What was saved beyond that is given back, to the layers with the largest changes first.
    spare = saved - needed
    for name in sorted(options, key=lambda name: -options[name].changes[blocks[name]]):
        changes, savings = options[name].changes, options[name].savings[what]
        affordable = [number for number in savings if savings[blocks[name]] - savings[number] <= spare]
        number = min(affordable, key=lambda number: (changes[number], number))
        spare -= savings[blocks[name]] - savings[number]
        blocks[name] = number
    return blocks
