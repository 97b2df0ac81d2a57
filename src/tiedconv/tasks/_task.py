"""What every task has in common: one model, its optimisation, and randomness that a resume repeats."""

from typing import Any

import lightning as L
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn

from ..data._base import global_seed, seed_generators
from .optimization import Optimization, configure


class Task(L.LightningModule):
    """Base of the tasks. A subclass sets ``model`` and ``optimization`` and implements the steps.

    Attributes:
        monitor: the logged metric, higher is better, by which the best checkpoint is chosen.
    """

    model: nn.Module
    optimization: Optimization
    monitor: str

    def on_train_epoch_start(self) -> None:
        # Dropout, mixup and the sampling of regions depend on the epoch's number, not on what was drawn before it: a
        # resumed training draws the same as an uninterrupted one.
        seed_generators(global_seed(), self.current_epoch, self.global_rank, all_devices=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return configure(self.model, self.optimization, self.trainer)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step_update(self.global_step)

    def log_lr(self) -> None:
        """Log the learning rate of the step."""
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"], on_step=False, on_epoch=True, batch_size=1)
