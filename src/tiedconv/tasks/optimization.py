"""Optimiser and learning-rate schedule, the same for every task."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn


@dataclass(frozen=True)
class Optimization:
    """Optimiser and learning-rate schedule. The defaults are the paper's ImageNet recipe for a batch of 256.

    Attributes:
        optimizer: any of timm's optimiser names, such as ``"sgd"``, ``"adamw"``, ``"lamb"``.
        lr: learning rate after warm-up, for the batch size in use: nothing scales it.
        momentum: momentum of SGD; other optimisers ignore it.
        weight_decay: weight decay.
        decay_norm_and_bias: whether weight decay applies to biases and norm weights too.
        schedule: ``"step"`` (times ``decay_rate`` every ``decay_epochs``), ``"multistep"`` (times ``decay_rate`` after
            each of the epochs in ``milestones``) or ``"cosine"`` (to ``min_lr`` at the end).
        decay_epochs: epochs between two falls of the rate with ``"step"``; other schedules ignore it.
        milestones: epochs after which the rate falls with ``"multistep"``; other schedules ignore them.
        decay_rate: what the rate is multiplied by at each fall; ``"cosine"`` ignores it.
        warmup_epochs: epochs, or a part of one, in which the rate grows linearly from a hundredth of ``lr``.
        min_lr: where ``"cosine"`` ends.
    """

    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    schedule: Literal["step", "multistep", "cosine"] = "step"
    decay_epochs: float = 30
    milestones: tuple[int, ...] = ()
    decay_rate: float = 0.1
    warmup_epochs: float = 0
    min_lr: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lr", "decay_epochs", "decay_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Optimization: {name} must be positive, got {getattr(self, name)}.")
        for name in ("momentum", "weight_decay", "warmup_epochs", "min_lr"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"Optimization: {name} must not be negative, got {getattr(self, name)}.")
        if self.min_lr > self.lr:
            raise ValueError(f"Optimization: min_lr must not exceed lr={self.lr}, got {self.min_lr}.")
        if self.schedule == "multistep" and not self.milestones:
            raise ValueError("Optimization: the schedule multistep needs milestones, got none. Give the epochs.")


def as_optimization(given: Optimization | Mapping[str, Any]) -> Optimization:
    """Return the options, also from the plain values that a checkpoint keeps of them."""
    return Optimization(**given) if isinstance(given, Mapping) else given


def configure(model: nn.Module, optimization: Optimization, trainer: L.Trainer) -> OptimizerLRScheduler:
    """Return what a task's ``configure_optimizers`` returns; the schedule counts steps.

    Raises:
        ValueError: if the trainer has no number of epochs, or no more than the warm-up takes.
    """
    o = optimization
    optimizer = create_optimizer_v2(
        model,
        opt=o.optimizer,
        lr=o.lr,
        weight_decay=o.weight_decay,
        momentum=o.momentum,
        filter_bias_and_bn=not o.decay_norm_and_bias,
    )
    epochs = trainer.max_epochs or -1  # -1 stands for no limit
    if epochs <= o.warmup_epochs and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise ValueError(
            f"Optimization: the schedule spans all epochs and needs more than warmup_epochs={o.warmup_epochs:g}, got "
            f"max_epochs={trainer.max_epochs}. Set the trainer's max_epochs; max_steps and max_time can only end it "
            "earlier."
        )
    late = [milestone for milestone in o.milestones if milestone >= epochs]
    if o.schedule == "multistep" and late and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        warnings.warn(
            f"Optimization: the training ends after max_epochs={epochs}, before the milestones {late}, so the learning "
            "rate does not fall there.",
            stacklevel=2,
        )
    _ = trainer.estimated_stepping_batches  # it builds the loader; max_steps would cut its own number short
    scheduler, _ = create_scheduler_v2(
        optimizer,
        o.schedule,
        num_epochs=epochs,
        decay_epochs=o.decay_epochs,
        decay_milestones=sorted(o.milestones),
        decay_rate=o.decay_rate,
        min_lr=o.min_lr,
        warmup_epochs=o.warmup_epochs,  # type: ignore[arg-type]  # parts of an epoch become steps
        warmup_lr=o.lr / 100,
        warmup_prefix=False,
        step_on_epochs=False,
        updates_per_epoch=updates_per_epoch(trainer),
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def updates_per_epoch(trainer: L.Trainer) -> int:
    """Return how many optimiser steps an epoch has, with this batch size, number of devices and accumulation.

    The trainer has built its loader.
    """
    return max(1, math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches))
