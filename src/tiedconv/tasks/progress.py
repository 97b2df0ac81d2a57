"""What a training prints: what a step will need, and plain lines where there is no terminal for a progress bar."""

import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from torch import Tensor, nn

from .._meta import on_meta

_EVERY = 60.0  # seconds from line to line


def progress_bar(**options: Any) -> ProgressBar:
    """Return a bar in a terminal or notebook, where ``options`` are rich's, and elsewhere :class:`PlainProgress`."""
    console = Console()
    return RichProgressBar(**options) if console.is_terminal or console.is_jupyter else PlainProgress()


class PlainProgress(ProgressBar):
    """Print a line per epoch, and one per minute of an epoch or an evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self._began, self._first_epoch = 0.0, 0
        self._last: tuple[float, int] | None = None  # when the last line was, and at which step

    def disable(self) -> None:
        """Do nothing: the first process alone prints anyway."""

    enable = disable

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = time.monotonic()
        self._first_epoch = trainer.current_epoch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._last = None

    on_validation_start = on_test_start = on_predict_start = on_train_epoch_start

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        what = f"epoch {trainer.current_epoch + 1}, step"
        loss = outputs["loss"] * trainer.accumulate_grad_batches  # by which Lightning has divided it
        self._print_step(what, batch_idx, self.total_train_batches, loss)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch, last = trainer.current_epoch + 1, trainer.max_epochs
        left = ""
        if last is not None and last > epoch:
            seconds = (time.monotonic() - self._began) / (epoch - self._first_epoch) * (last - epoch)
            left = f", {_duration(seconds)} left"
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in trainer.progress_bar_metrics.items())
        self._print(f"epoch {epoch}{f' of {last}' if last and last > 0 else ''}: {metrics}{left}")

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *given: Any
    ) -> None:
        others = {"test": trainer.num_test_batches, "predict": trainer.num_predict_batches}
        what = "test" if trainer.testing else "predict" if trainer.predicting else "validate"
        self._print_step(f"{what}, batch", batch_idx, others.get(what, trainer.num_val_batches)[0])

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end  # type: ignore[assignment]  # with less written out

    def _print_step(self, what: str, batch_idx: int, total: float, loss: Tensor | None = None) -> None:
        now = time.monotonic()
        since, before = self._last = self._last or (now, batch_idx)  # from the first on, which waits for workers
        if now - since < _EVERY:
            return
        self._last = now, batch_idx
        seconds = (now - since) / max(1, batch_idx - before)
        left = f", {_duration(seconds * (total - batch_idx - 1))} left" if total < float("inf") else ""
        more = "" if loss is None else f", loss {loss.item():.4g}"
        self._print(f"{what} {batch_idx + 1} of {total}{more}, {seconds:.2g} s per step{left}")

    @rank_zero_only
    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"


class Outlook(L.Callback):
    """Print before the first step how many there are and what memory one needs; warn if the device has less."""

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        batch = trainer.datamodule.batch_size  # type: ignore[attr-defined]
        steps = f"{trainer.num_training_batches} steps per epoch of {batch} images"
        model: Any = pl_module.model
        image, of_what = pl_module.example_input_array, ""
        if not isinstance(image, Tensor):  # those of detectors differ in size: let it be 3 by 4, as of a photograph
            side, longest = max(model.transform.min_size), model.transform.max_size
            image, of_what = torch.empty(1, 3, side, min(longest, side * 4 // 3), device="meta"), " for the backbone"
            model = model.backbone
        try:
            fixed, per_image = step_memory(model, image)
        except Exception as error:  # no reason not to train
            print(f"{steps}; what memory they need is not known: {error}", flush=True)
            return
        need, have = fixed + batch * per_image, _memory(pl_module.device)
        print(f"{steps}, about {need / 1e9:.1f} GB in float32{of_what}", flush=True)
        if trainer.precision == "32-true" and have and need > have:
            fitting = max(1, int(0.8 * (have - fixed) / per_image))
            warnings.warn(
                f"a step of {batch} images needs about {need / 1e9:.1f} GB, and {pl_module.device} has "
                f"{have / 1e9:.1f} GB. Give --data.batch_size {2 ** (fitting.bit_length() - 1)} or less, or smaller "
                "images.",
                stacklevel=2,
            )


def step_memory(model: nn.Module, image: Tensor) -> tuple[int, int]:
    """Return the bytes that a train step in float32 needs: for the model and per image. Nothing is computed.

    The first are weights, gradients and the momentum of SGD, the second what the backward pass keeps of the forward
    pass. Kernels need a little more, about a tenth.

    Args:
        model: any module that takes images.
        image: one image, (1, C, H, W).
    """
    copied = on_meta(model).train()
    weights = [parameter.untyped_storage() for parameter in copied.parameters()]
    kept = {id(storage): storage for storage in weights}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[id(storage)] = storage
        return tensor

    images = 2  # norms refuse to train on a single value per channel
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        copied(torch.empty(images, *image.shape[1:], device="meta"))
    fixed = sum(storage.nbytes() for storage in weights)
    return 3 * fixed, (sum(storage.nbytes() for storage in kept.values()) - fixed) // images


def _memory(device: torch.device, limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Return the bytes of memory that a device has, within the ``limit`` of a container on the CPU; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    if device.type != "cpu" or not hasattr(os, "sysconf"):
        return 0
    built_in = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = limit.read_text().strip() if limit.is_file() else "max"
    return built_in if allowed == "max" else min(built_in, int(allowed))
