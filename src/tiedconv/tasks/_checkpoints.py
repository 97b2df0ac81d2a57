"""Checkpoints: whole or not there, of finite weights, and refused with a sentence where they do not fit."""

import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import nn
from torch.distributed.tensor import DTensor

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
        part = whole.with_name(f"{whole.name}.part")
        buffer = io.BytesIO()  # torch.save into a file would report a full disk as a damaged archive
        torch.save(checkpoint, buffer)
        try:
            whole.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())  # or a power cut could leave the name without the content
            part.replace(whole)
        except OSError as error:
            if part.is_file():
                part.unlink()  # it takes the space that is lacking
            raise OSError(
                f"The checkpoint {path} cannot be written: {error.strerror or error}. Those written before are whole. "
                "Make room or correct the folder, and go on from the last one."
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, location: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
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
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{path} cannot be read as a checkpoint: {reason}. Is the file whole? Give another one of its folder."
            ) from error
        if not isinstance(checkpoint, Mapping) or "pytorch-lightning_version" not in checkpoint:
            raise ValueError(
                f"{path} is no checkpoint of `tiedconv fit`: it holds weights alone, or something else. Give a "
                "last.ckpt or another .ckpt of a folder named checkpoints."
            )
        return checkpoint


def keep_checkpoints_whole(trainer: L.Trainer) -> L.Trainer:
    """Make a trainer use :class:`WholeCheckpoints`, unless the user gave it a way of their own."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpoints()
    return trainer


def sum_of_weights(model: nn.Module) -> float:
    """Sum all weights, sharded ones over all devices, so that all learn alike whether one is not finite."""
    total = 0.0
    for weight in model.parameters():
        part = weight.detach().float().sum()
        total += (part.full_tensor() if isinstance(part, DTensor) else part).item()
    return total


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
