"""Checkpoints: whole or not there, of finite weights, and refused with a sentence where they do not fit."""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import nn
from torch.distributed.tensor import DTensor

from .._files import part_of, write_whole
from ..models.weights import describe_difference


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints, made safe against kills, full disks and damaged files.

    Lightning writes into the system's temporary folder and moves the file from there. Where that is another disk, as it
    often is, moving means copying over the old checkpoint, and a kill leaves half of the new one.
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
                part.unlink()  # it takes the space that is lacking
            raise OSError(
                f"The checkpoint {path} cannot be written: {error.strerror or error}. Those written before are whole. "
                "Make room or correct the folder, and go on from the last one."
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, location: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        if Path(path).is_dir():
            raise ValueError(f"{path} is a folder, not a checkpoint. Give the last.ckpt or another .ckpt in it.")
        try:
            checkpoint = super().load_checkpoint(path, map_location, weights_only)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path} is no checkpoint, or holds Python objects beside numbers; reading those could run any code, "
                "so it is read with weights_only=True. Give a checkpoint of `tiedconv fit`."
            ) from error
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"There is no checkpoint {path}. Give the path of one, such as "
                "runs/fit/version_0/checkpoints/last.ckpt."
            ) from error
        except (OSError, RuntimeError, EOFError, LookupError, ValueError) as error:  # as the file is damaged
            reason = str(error).partition("\n")[0] or "it is empty"
            raise ValueError(
                f"{path} cannot be read as a checkpoint: {reason}. Is the file whole? Give another one of its folder."
            ) from error
        if not isinstance(checkpoint, Mapping) or "pytorch-lightning_version" not in checkpoint:
            raise ValueError(
                f"{path} is no checkpoint of `tiedconv fit`: it holds weights alone, or something else. Give a "
                "last.ckpt or another .ckpt of a folder named checkpoints."
            )
        return checkpoint


class LastCheckpoint(ModelCheckpoint):
    """``last.ckpt``, written after every epoch, and where ``max_steps`` or ``max_time`` end a training inside one.

    Lightning would write the latter when it has counted the epoch as done, and a resume would leave its rest out.
    """

    def __init__(self, dirpath: str | Path | None) -> None:
        super().__init__(dirpath, "last", save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False)

    def on_train_batch_end(self, trainer: L.Trainer, *given: Any) -> None:
        super().on_train_batch_end(trainer, *given)
        ends = trainer.should_stop or trainer.global_step == trainer.max_steps
        if ends and not trainer.is_last_batch and not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


def keep_checkpoints_whole(trainer: L.Trainer) -> L.Trainer:
    """Make a trainer use :class:`WholeCheckpoints`, unless the user gave it a way of their own."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpoints()
    return trainer


def sum_of_weights(model: nn.Module) -> float:
    """Sum weights and statistics, sharded ones over all devices, so that all learn alike whether one is not finite."""
    total = 0.0
    for weight in [*model.parameters(), *model.buffers()]:
        if weight.is_floating_point():
            part = weight.detach().float().sum()
            total += (part.full_tensor() if isinstance(part, DTensor) else part).item()
    return total


def forget_other_folders(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Take out of the checkpoint at ``path`` the names of files that are not beside it.

    Lightning deletes what a checkpoint says are its older ones, folders too, and somebody else may have written it.
    """
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


def check_finite_weights(checkpoint: Mapping[str, Any]) -> None:
    """Raise ValueError if a checkpoint holds weights that are not finite: of a training that diverged elsewhere."""
    for name, value in (checkpoint.get("state_dict") or {}).items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"The checkpoint holds numbers that are not finite, in {name}. Give another one.")


def check_same_network(task: L.LightningModule, checkpoint: Mapping[str, Any]) -> None:
    """Raise ValueError unless ``checkpoint`` is of the network of ``task``; say in which options the two differ."""
    if "state_dict" not in checkpoint:  # a sharded one, which its strategy has loaded already
        return
    difference = describe_difference(task.state_dict(), checkpoint["state_dict"])
    if not difference:
        return
    there, here = checkpoint.get("hyper_parameters") or {}, dict(task.hparams)
    options = "; ".join(
        f"{name} = {there.get(name)!r} there, {here.get(name)!r} here"
        for name in {**here, **there}
        if there.get(name) != here.get(name)
    )
    raise ValueError(
        f"The checkpoint is of another network: {options or type(task).__name__} ({difference}). Give the options that "
        "it was trained with, or another checkpoint."
    )
