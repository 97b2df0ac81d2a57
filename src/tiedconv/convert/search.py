"""How many blocks each layer gets, for a budget of parameters or multiply-adds, by how much the model minds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import placement
from .costs import Trial, try_forward
from .fit import Images, as_batches, evaluation, fit_alone
from .placement import FilterFn, Preset
from .replace import check_root, replace
from .tie import Init, tied_twin


@dataclass(frozen=True)
class BlockSearch:
    """What :func:`search_blocks` found.

    Attributes:
        blocks: of the layers to be tied, for :func:`tiedconv.tie_`.
        sensitivities: for each layer that can be tied and each number of blocks, the relative squared change of the
            model's output when that layer alone is tied.
        params: parameters of the model tied so.
        macs: multiply-adds of its convolution and linear layers for one input.
    """

    blocks: dict[str, int]
    sensitivities: dict[str, dict[int, float]]
    params: int
    macs: int


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
    measured: :math:`\sum \lVert f'(x) - f(x) \rVert^2 / \sum \lVert f(x) \rVert^2`. Taking the changes as adding up,
    the layers are then tied in the order of the change that they cost for what they save, until the budget is met. That
    is the best choice up to the last step, if changes do add up.

    Args:
        model: in the end as it was. Its output must be a tensor.
        images: as in :func:`tiedconv.tie_`. Every layer and number of blocks costs a forward pass over all of them.
        params: budget for the parameters of the whole model: a count, or a share of the present one if below 1.
        macs: the same for the multiply-adds of its convolution and linear layers. Give one of the two.
        choices: numbers of blocks to choose from; 1, as it is, is always one.
        filter_fn: as in :func:`tiedconv.tie_`.
        init: ``"project"`` or ``"data"``, the way in which the layer will be tied.
        progress: called with the number of forward passes done and their total.

    Raises:
        TypeError, ValueError: as :func:`tiedconv.tie_` for the model and the arguments they share; ValueError for a
            budget out of range or out of reach, with what can be reached.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(1))
        >>> found = search_blocks(model, torch.randn(2, 4, 8, 8), params=0.5)
        >>> found.params <= 0.5 * (4 * 8 * 9 + 8 + 8 * 8 * 9 + 8)
        True
    """
    check_root("search_blocks", model)
    if init not in ("project", "data"):
        raise ValueError(f"search_blocks: init must be 'project' or 'data', got {init!r}.")
    batches = as_batches("search_blocks", images)
    trial = try_forward("search_blocks", model, tuple(batches[0].shape[1:]))
    assert trial is not None  # it raises for a size that is given
    now = {"params": sum(p.numel() for p in model.parameters()), "macs": _macs(model, trial)}
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
                option.changes[number] = change / energy if energy > 0 else change
                done += 1
                if progress is not None:
                    progress(done, total)
    blocks = _cheapest(options, what, now[what] - budget, trial)
    saved = {
        kind: sum(o.saving(kind, blocks[o.name], trial) for o in options if o.name in blocks)
        for kind in ("params", "macs")
    }
    return BlockSearch(
        blocks,
        {option.name: option.changes for option in options},
        now["params"] - saved["params"],
        now["macs"] - saved["macs"],
    )


class _Option:
    """A layer that can be tied: its tied forms by number of blocks, and what they change."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        self.name, self.layer = name, layer
        self.tied: dict[int, nn.Module] = {}
        self.changes: dict[int, float] = {}

    def saving(self, what: str, number: int, trial: Trial) -> int:
        tied = self.tied[number]
        if what == "macs":
            return (trial.macs(self.name, self.layer) or 0) - (trial.macs(self.name, tied) or 0)
        return sum(p.numel() for p in self.layer.parameters()) - sum(p.numel() for p in tied.parameters())


def _options(
    model: nn.Module, choices: Sequence[int], filter_fn: FilterFn | Preset | None, trial: Trial
) -> list[_Option]:
    options: dict[str, _Option] = {}
    for number in sorted(set(choices) - {1}):
        for choice in placement.choose(model, number, filter_fn, trial.outputs):
            if choice.blocks:
                option = options.setdefault(choice.name, _Option(choice.name, choice.layer))
                option.tied[number] = tied_twin(choice.layer, number, "project")
    return list(options.values())


def _budget(now: dict[str, int], params: float | None, macs: float | None) -> tuple[str, float]:
    given = {name: value for name, value in (("params", params), ("macs", macs)) if value is not None}
    if len(given) != 1:
        raise ValueError("search_blocks: give one budget, params or macs.")
    ((what, value),) = given.items()
    budget = value * now[what] if 0 < value < 1 else value
    if not 0 < budget < now[what]:
        raise ValueError(
            f"search_blocks: {what} must be a share above 0 and below 1, or a count below the present {now[what]}, got "
            f"{value}."
        )
    return what, budget


def _cheapest(options: list[_Option], what: str, needed: float, trial: Trial) -> dict[str, int]:
    """Return the blocks that save at least ``needed``, step by step where a step costs least for what it saves."""
    steps = sorted((step for option in options for step in _steps(option, what, trial)), key=lambda step: step.price)
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
    return blocks


@dataclass(frozen=True)
class _Step:
    """From one number of blocks of a layer to a larger one."""

    name: str
    blocks: int
    saving: int
    price: float


def _steps(option: _Option, what: str, trial: Trial) -> list[_Step]:
    """Return the steps along the lower hull of change against saving: each is dearer than the one before."""
    points = sorted((option.saving(what, b, trial), change, b) for b, change in option.changes.items())
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


def _macs(model: nn.Module, trial: Trial) -> int:
    layers = ((name, m) for name, m in model.named_modules() if placement.is_listed(m))
    return sum(trial.macs(name, layer) or 0 for name, layer in layers)


def _tensor(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(f"search_blocks: the model must return a tensor, got {type(output).__name__}.")
    return output
