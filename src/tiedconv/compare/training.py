"""The training of one run: its budget, its model, and its folder, where an interrupted training goes on."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning as L

from .._files import check_writable, write_whole
from ..data import ImageData
from ..tasks import Optimization, Task, keep_checkpoints_whole, quiet_lightning
from ..tasks.progress import progress_bar
from ..tasks.resume import LastCheckpoint, differing
from .results import read_kept

OF_CLASSIFIERS = {"train_loss": "train/loss", "val_loss": "val/loss", "top1": "val/top1"}
"""What a :class:`History` keeps of each epoch of a classifier."""

_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # others have weights that float32 images do not fit
_IRRELEVANT = ("num_workers", "predict_path")  # options of the data that change no result


@dataclass(frozen=True)
class Budget:
    """What every model of a comparison is given.

    Attributes:
        epochs: passes over the training images.
        optimization: optimiser and schedule, see :class:`tiedconv.tasks.Optimization`.
        label_smoothing: for classifiers: share of the target spread over all classes, 0-1.
        mixup: for classifiers: parameter of timm's mixup; 0 switches it off. It needs an even batch size.
        cutmix: for classifiers: parameter of timm's CutMix; 0 switches it off. It needs an even batch size.
        channels_last: train in channels_last memory format; a detector's backbone.
        compile: for classifiers: compile the model by ``torch.compile``.
        precision: Lightning's name of the arithmetic: ``"32-true"``, ``"bf16-mixed"`` or ``"16-mixed"``.
    """

    epochs: int = 10
    optimization: Optimization = Optimization()  # noqa: RUF009  # frozen
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    channels_last: bool = False
    compile: bool = False
    precision: str = "32-true"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"Budget: epochs must be at least 1, got {self.epochs}.")
        if self.precision not in _PRECISIONS:
            raise ValueError(f"Budget: precision must be one of {', '.join(_PRECISIONS)}, got {self.precision!r}.")

    def task_options(self) -> dict[str, Any]:
        """The part that :class:`tiedconv.tasks.ClassificationTask` takes."""
        names = ("optimization", "label_smoothing", "mixup", "cutmix", "channels_last", "compile")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class ModelSpec:
    """A model of a comparison.

    Attributes:
        name: a timm model, tied or not, or ``"torchvision/"`` and the name of a classifier of torchvision.
        label: what to call it in tables; default: the name and the arguments.
        kwargs: more arguments of the model.
        tied: for a classifier: blocks by which its layers are tied, as in :class:`tiedconv.tasks.ClassificationTask`.
        weights: for the backbone of a detector: a classifier's checkpoint to start from.
    """

    name: str
    label: str = ""
    kwargs: dict[str, Any] = field(default_factory=dict)
    tied: int | dict[str, int] | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        if not self.label:
            arguments = [f"{k}={v}" for k, v in self.kwargs.items()]
            if self.tied is not None:
                arguments.append(f"tied={self.tied}")
            label = f"{self.name}({','.join(arguments)})" if arguments else self.name
            object.__setattr__(self, "label", label.replace("/", " ").replace("\\", " "))
        if any(c in self.label for c in "/\\\0") or self.label in (".", ".."):
            raise ValueError(f"ModelSpec: label={self.label!r} names a folder too and must be one without slashes.")


def train(task: Task, data: ImageData, budget: Budget, folder: Path, history: "History", **options: Any) -> L.Trainer:
    """Train ``task`` in ``folder``, or go on after the last epoch finished there; the task stays on its device.

    Args:
        options: more for Lightning's trainer.
    """
    with quiet_lightning(advice=False):
        trainer = L.Trainer(
            max_epochs=budget.epochs,
            precision=budget.precision,  # type: ignore[arg-type]  # Budget checks the name
            devices=1,
            logger=False,
            callbacks=[history, LastCheckpoint(folder, "checkpoint"), progress_bar(leave=False)],
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **options,
        )
        saved = folder / "checkpoint.ckpt"
        keep_checkpoints_whole(trainer)
        trainer.fit(task, data, ckpt_path=saved if saved.exists() else None, weights_only=True)
        # Lightning leaves the weights on the CPU.
        task.to(trainer.strategy.root_device)
    return trainer


class History(L.Callback):
    """Results per epoch, which travel in the checkpoint: ``metrics`` under our names and those that the task logs."""

    def __init__(self, metrics: Mapping[str, str]) -> None:
        self.metrics = metrics
        self.epochs: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._start = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds += time.perf_counter() - self._start
        found = {name: trainer.callback_metrics[logged].item() for name, logged in self.metrics.items()}
        # In float16 a loss may overflow although the training goes on, and JSON has no number for that.
        kept = {name: value if math.isfinite(value) else None for name, value in found.items()}
        self.epochs.append({"epoch": trainer.current_epoch, **kept})

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = list(state_dict["epochs"])
        self.seconds = state_dict["seconds"]


def describe_run(spec: ModelSpec, data: ImageData, budget: Budget) -> dict[str, Any]:
    """Return what a run's results depend on, apart from the seed."""
    return {
        "model": {k: v for k, v in asdict(spec).items() if k != "label" and v is not None},
        "data": {
            "name": type(data).__name__,
            **{k: v for k, v in data.hparams.items() if k not in _IRRELEVANT},
            **split_sizes(data),  # there may be other images under the same root by now
            "classes": len(data.classes),
        },
        "budget": asdict(budget),
    }


def split_sizes(data: ImageData) -> dict[str, int]:
    """Return the number of images in each split."""
    words = {"training images": True, "validation images": False}
    return {what: len(data.split(train)) for what, train in words.items()}  # type: ignore[arg-type]  # all have one


def check_same_run(folder: Path, description: dict[str, Any]) -> None:
    """Write into ``folder`` what its run is, or raise ValueError if it holds another one, with what differs."""
    file = folder / "run.json"
    description = json.loads(json.dumps(description))
    if not file.exists():
        check_writable("output", file)
        write_whole(file, json.dumps(description, indent=1))
        return
    there = read_kept(file, _settings, f"Remove the folder {folder} to train again")
    if difference := differing(there, _settings(description)):
        raise ValueError(
            f"{folder} holds a run with other settings: {difference}. Choose another output folder, "
            "or remove this one to train again."
        )


def _settings(description: dict[str, Any]) -> dict[str, Any]:
    return {f"{part}.{name}": value for part, options in description.items() for name, value in options.items()}
