"""Resuming from a checkpoint, except for the order of images, which the data repeats (`data.base`).

A checkpoint is written whole or not at all, holds finite weights, and is read only where it fits: the same network and
optimiser, the same data, and in the middle of an epoch the same order of images. The given options count, not its own.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from .._files import part_of, printable, write_whole
from ..data.base import ImageData, global_seed
from ..models.inputs import some
from ..models.weights import describe_difference, explained_damage
from ._faults import check_finite

_GIVE = "Give a checkpoint of `tiedconv fit`, such as runs/fit/version_0/checkpoints/last.ckpt."
_OPTIONS = ("lr", "initial_lr", "weight_decay", "momentum")  # of Optimization, and of an optimiser's parameter groups


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints, made safe against kills, full disks and damaged files.

    Lightning writes into the system's temporary folder. Where that is on another disk, moving the file from there means
    copying it over the old checkpoint, and a kill leaves half of the new one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if "://" in str(path):  # object storage, where only whole files appear
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        whole = Path(path)
        buffer = io.BytesIO()  # torch.save into a file would report a full disk as a damaged archive
        torch.save(checkpoint, buffer)
        try:
            whole.parent.mkdir(parents=True, exist_ok=True)
            write_whole(whole, buffer.getbuffer())
        except OSError as error:
            part = part_of(whole)
            if part.is_file():
                part.unlink()  # it takes space that the next one needs
            raise OSError(
                f"The checkpoint {path} cannot be written: {error.strerror or error}. Those written before are whole. "
                "Make room or correct the folder, and go on from the last one."
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, location: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        on_disk = "://" not in str(path)
        with explained_damage(Path(path), _GIVE) if on_disk else nullcontext():
            checkpoint = super().load_checkpoint(path, map_location, weights_only)
        if not isinstance(checkpoint, Mapping) or "pytorch-lightning_version" not in checkpoint:
            raise ValueError(
                f"{path} is not a checkpoint of `tiedconv fit`: it holds weights alone, or something else. {_GIVE}"
            )
        return checkpoint


class LastCheckpoint(ModelCheckpoint):
    """One checkpoint, written after every epoch, and where ``max_steps`` or ``max_time`` end a training inside one.

    Lightning would write the latter after counting the epoch as done, and a resume would skip the rest of it.
    """

    def __init__(self, dirpath: str | Path | None, name: str = "last") -> None:
        super().__init__(dirpath, name, save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False)

    def on_train_batch_end(self, trainer: L.Trainer, *given: Any) -> None:
        super().on_train_batch_end(trainer, *given)
        ends = trainer.should_stop or trainer.global_step == trainer.max_steps
        if ends and not trainer.is_last_batch and not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


def keep_checkpoints_whole(trainer: L.Trainer) -> L.Trainer:
    """Make a trainer use :class:`AtomicCheckpointIO`, unless the user gave it another one."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    return trainer


def save_state(task: L.LightningModule, checkpoint: dict[str, Any]) -> None:
    """Add to a checkpoint which data it was trained on, and how images are prepared."""
    # The last step can make weights infinite, which must not replace good ones.
    check_finite({"sum of the weights": _sum_of_weights(task)}, task.current_epoch)
    if task._trainer is not None:
        checkpoint["tiedconv"] = _describe_data(task.trainer)
        data = task.trainer.datamodule  # type: ignore[attr-defined]
        checkpoint["pretrained_cfg"] = getattr(data, "pretrained_cfg", None)


def load_state(task: L.LightningModule, checkpoint: dict[str, Any], optimizer: str) -> None:
    """Check that a checkpoint fits, and remove what the given options replace and what names files elsewhere.

    Raises:
        ValueError: if it does not fit the network, the data or the optimiser, or its weights are not finite.
    """
    _check_same_network(task, checkpoint)
    for name, value in (checkpoint.get("state_dict") or {}).items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"The checkpoint holds numbers that are not finite, in {name}. Give another one.")
    if task._trainer is None or task.trainer.ckpt_path is None:  # loaded from Python
        return
    _forget_other_folders(checkpoint, task.trainer.ckpt_path)
    fitting = task.trainer.state.fn == TrainerFn.FITTING
    _check_same_data(checkpoint, task.trainer, fitting=fitting)
    if fitting:
        options = (checkpoint.get("hyper_parameters") or {}).get("optimization") or {}
        there = options.get("optimizer", optimizer)
        if there != optimizer:
            raise ValueError(
                f"The checkpoint holds the state of the optimizer {there}, the training has {optimizer}. Give the "
                "same, or start anew from its weights."
            )
        checkpoint["lr_schedulers"] = []  # the rate follows from the given options and the place in the epoch


def options_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the given options, as the groups of a new optimiser have them."""
    return [{name: group[name] for name in _OPTIONS if name in group} for group in optimizer.param_groups]


def restore_options(optimizer: Optimizer, options: Sequence[Mapping[str, Any]]) -> None:
    """Set what :func:`options_of` returned, after a checkpoint's values have replaced it."""
    for group, given in zip(optimizer.param_groups, options, strict=True):
        group.update(given)


def _sum_of_weights(model: nn.Module) -> float:
    """Sum weights and statistics; sharded ones over all devices, which therefore all see the same."""
    total = 0.0
    for weight in [*model.parameters(), *model.buffers()]:
        if weight.is_floating_point():
            part = weight.detach().float().sum()
            total += (part.full_tensor() if isinstance(part, DTensor) else part).item()
    return total


def _forget_other_folders(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Remove from the checkpoint at ``path`` the names of files that are not beside it: Lightning may delete those."""
    folder = Path(path).resolve().parent

    def beside(name: str) -> bool:
        return name.endswith(".ckpt") and Path(name).resolve().parent == folder

    for state in (checkpoint.get("callbacks") or {}).values():
        if not isinstance(state, dict) or "best_model_path" not in state:
            continue
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            if not beside(str(state.get(key, ""))):
                state[key] = ""
        best = state.get("best_k_models") or {}
        state["best_k_models"] = {name: score for name, score in best.items() if beside(str(name))}


def _check_same_network(task: L.LightningModule, checkpoint: Mapping[str, Any]) -> None:
    if "state_dict" not in checkpoint:  # a sharded one, which its strategy has loaded already
        return
    difference = describe_difference(task.state_dict(), checkpoint["state_dict"])
    if not difference:
        return
    there, here = checkpoint.get("hyper_parameters") or {}, dict(task.hparams)
    if {"model", "backbone"} <= here.keys() ^ there.keys():  # each is an option of one kind of task
        raise ValueError(
            f"The checkpoint is of another network: {_network(there)}, not {_network(here)}. Give one of the same "
            "kind; a detector's backbone starts from a classifier by --model.weights."
        )
    raise ValueError(
        f"The checkpoint is of another network: {differing(there, here) or type(task).__name__} ({difference}). Give "
        "the options that it was trained with, or another checkpoint."
    )


def differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Say which settings of two trainings differ: ``lr = 0.1 there, 0.2 here; momentum = ...``; empty if none do."""
    return "; ".join(
        f"{name} = {there.get(name)!r} there, {here.get(name)!r} here"
        for name in {**here, **there}
        if there.get(name) != here.get(name)
    )


def _network(options: Mapping[str, Any]) -> str:
    if "backbone" in options:
        return f"a detector, {options.get('detector')} on {options['backbone']}"
    return f"a classifier, {options.get('model')}"


def _describe_data(trainer: L.Trainer) -> dict[str, Any]:
    """Return the classes, if known, and, while training, what the order of images depends on."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    classes = getattr(data, "classes", None)
    ours = isinstance(data, ImageData) and trainer.state.fn == TrainerFn.FITTING
    return {
        "classes": None if classes is None else [printable(str(name)) for name in classes],
        "seed": global_seed(),
        "images a step": getattr(data, "batch_size", 0) * trainer.world_size,
        "training images": len(data.split(train=True)) if ours else None,
        "window": getattr(data, "window", None),  # of StreamedImages
    }


def _check_same_data(checkpoint: Mapping[str, Any], trainer: L.Trainer, *, fitting: bool) -> None:
    """Check the classes and, in the middle of an epoch, what decides which images were trained on already."""
    there = checkpoint.get("tiedconv")
    if there is None or trainer.datamodule is None:  # type: ignore[attr-defined]
        return
    here = _describe_data(trainer)
    if there["classes"] and here["classes"] and there["classes"] != here["classes"]:
        raise ValueError(
            f"The checkpoint is of other data: its classes are {some(there['classes'])}, those of the data "
            f"{some(here['classes'])}. Give the data that it was trained on."
        )
    difference = differing(there, here)
    if not fitting or not difference:
        return
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    if progress["current"]["ready"] > 0 and not progress["is_last_batch"]:
        raise ValueError(
            f"The checkpoint is from the middle of an epoch, with {difference}: images would be left out or "
            "come twice. Give the same, or a checkpoint from the end of an epoch."
        )
