"""What every task has in common: one model, its optimisation, and randomness that a resume repeats."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from ..data.base import global_seed, seed_generators
from ._faults import check_finite
from .optimization import Optimization, configure, updates_per_epoch
from .resume import load_state, options_of, restore_options, save_state


class Task(L.LightningModule):
    """Base of the tasks. A subclass sets ``model`` and ``optimization`` and implements the steps.

    Attributes:
        monitor: the logged metric, higher is better, by which the best checkpoint is chosen.
    """

    model: nn.Module
    optimization: Optimization
    monitor: str

    def configure_model(self) -> None:
        """Shard the parameters over the devices where the trainer's strategy is ``ModelParallelStrategy`` (FSDP2).

        Raises:
            ValueError: if the strategy asks for tensor parallelism.
        """
        mesh = self.device_mesh  # of that strategy alone
        if mesh is None or isinstance(self.model, FSDPModule):
            return
        if mesh["tensor_parallel"].size() > 1:
            raise ValueError(
                f"{type(self).__name__}: tensor_parallel_size must be 1, got {mesh['tensor_parallel'].size()}. Give "
                "--trainer.strategy.data_parallel_size, the number of all devices, and "
                "--trainer.strategy.tensor_parallel_size=1."
            )
        # fully_shard takes no weights in channels_last; for speed it is the format of the images that counts.
        self.model.to(memory_format=torch.contiguous_format)
        # One all-gather for each child and one for what is left: the parameters of one child at a time are whole.
        for child in [*self.model.children(), self.model]:
            if not isinstance(child, nn.ModuleList | nn.ModuleDict) and next(child.parameters(), None) is not None:
                fully_shard(child, mesh=mesh["data_parallel"])

    def _gather(self, whole: bool) -> None:
        """Gather sharded parameters once for an evaluation: processes can have different numbers of batches."""
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.set_reshard_after_forward(not whole, recurse=False)
                module.unshard() if whole else module.reshard()

    def on_validation_start(self) -> None:
        self._gather(True)

    def on_validation_end(self) -> None:
        self._gather(False)

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout, mixup and the sampling of regions depend on the step's number, not on what was drawn before it: a
        # resumed training draws the same as an uninterrupted one, also from the middle of an epoch.
        seed_generators(global_seed(), self.current_epoch, self.global_rank, batch_idx, all_devices=True)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Not at every step, as reading a loss waits for the GPU.
        due = (batch_idx + 1) % self.trainer.log_every_n_steps == 0 or self.trainer.is_last_batch  # type: ignore[attr-defined]
        if due and not self._skips_steps():
            check_finite({"train/loss": outputs["loss"].item()}, self.current_epoch)

    def on_train_epoch_end(self) -> None:
        if not self._skips_steps():
            logged = self.trainer.callback_metrics.items()
            check_finite({name: value.item() for name, value in logged if name.endswith("/loss")}, self.current_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        save_state(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        load_state(self, checkpoint, self.optimization.optimizer)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        configured: Any = configure(self.model, self.optimization, self.trainer)
        self._options = options_of(configured["optimizer"])
        return configured

    def on_train_start(self) -> None:
        # The options that were given count, not those of the checkpoint.
        restore_options(self.trainer.optimizers[0], self._options)
        fit_loop = self.trainer.fit_loop
        self._follow_schedule(fit_loop.batch_idx + 1 if fit_loop.restarted_mid_epoch else 0)

    def _skips_steps(self) -> bool:
        # In float16 a step that overflows is skipped, and the training goes on.
        return self.trainer.scaler is not None

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if isinstance(scheduler, Scheduler):
            self._follow_schedule(self.trainer.fit_loop.batch_idx + 1)
        else:  # a callback, such as StochasticWeightAveraging, has put its own in the place of ours
            super().lr_scheduler_step(scheduler, metric)

    def _follow_schedule(self, batches: int) -> None:
        """Set the learning rate for the place in the schedule: the epochs done and ``batches`` of the current one.

        The number of steps done so far does not tell: a resumed training may have another number of steps per epoch.
        """
        per_epoch = updates_per_epoch(self.trainer)
        updates = batches // self.trainer.accumulate_grad_batches
        if batches >= self.trainer.num_training_batches:
            updates = per_epoch
        schedule: Any = self.lr_schedulers()
        schedule.step_update(self.current_epoch * per_epoch + updates)

    def log_losses(self, losses: Mapping[str, Tensor], images: int) -> None:
        """Log the losses of a step on ``images`` images, and its learning rate, as means over the epoch."""
        over_epoch: dict[str, Any] = {"on_step": False, "on_epoch": True}
        for name, loss in losses.items():
            bar = name == "loss"
            self.log(f"train/{name}", loss, prog_bar=bar, batch_size=images, sync_dist=True, **over_epoch)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=1, **over_epoch)
