"""What goes on with a checkpoint: the same data, in the middle of an epoch the same order, and the given options."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from torch.optim import Optimizer

from .._files import printable
from ..data.base import global_seed

OF_OPTIONS = ("lr", "initial_lr", "weight_decay", "momentum")
"""What an optimiser's groups have of :class:`~tiedconv.tasks.Optimization`, and a checkpoint keeps of its own."""


def describe_data(trainer: L.Trainer) -> dict[str, Any]:
    """Return what a checkpoint says about the data: classes, None if unknown, and what their order depends on."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    classes = getattr(data, "classes", None)
    return {
        "classes": None if classes is None else [printable(str(name)) for name in classes],
        "seed": global_seed(),
        "images a step": getattr(data, "batch_size", 0) * trainer.world_size,
    }


def check_same_data(checkpoint: Mapping[str, Any], trainer: L.Trainer, *, fitting: bool) -> None:
    """Check that the data are those of a checkpoint, as far as it says so.

    Raises:
        ValueError: if their classes are others; or, in the middle of an epoch, seed or images a step, on which it
            depends which images were trained on already.
    """
    there = checkpoint.get("tiedconv")
    if there is None or trainer.datamodule is None:  # type: ignore[attr-defined]
        return
    here = describe_data(trainer)
    if there["classes"] and here["classes"] and there["classes"] != here["classes"]:
        raise ValueError(
            f"The checkpoint is of other data: its classes are {_some(there['classes'])}, those of the data "
            f"{_some(here['classes'])}. Give the data that it was trained on."
        )
    differing = [f"{name} = {there[name]} there, {here[name]} here" for name in there if there[name] != here[name]]
    if fitting and differing and _is_inside_an_epoch(checkpoint):
        raise ValueError(
            f"The checkpoint is from the middle of an epoch, with {'; '.join(differing)}: images would be left out or "
            "come twice. Give the same, or a checkpoint from the end of an epoch."
        )


def check_same_optimizer(checkpoint: Mapping[str, Any], name: str) -> None:
    """Raise ValueError if the state in a checkpoint is that of another optimiser than ``name``."""
    options = (checkpoint.get("hyper_parameters") or {}).get("optimization") or {}
    there = options.get("optimizer", name)
    if there != name:
        raise ValueError(
            f"The checkpoint holds the state of the optimizer {there}, the training has {name}. Give the same, or "
            "start anew from its weights."
        )


def options_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return what the groups of a new optimiser have of the given options."""
    return [{name: group[name] for name in OF_OPTIONS if name in group} for group in optimizer.param_groups]


def _is_inside_an_epoch(checkpoint: Mapping[str, Any]) -> bool:
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    return progress["current"]["ready"] > 0 and not progress["is_last_batch"]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
