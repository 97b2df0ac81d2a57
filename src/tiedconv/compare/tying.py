"""What tying costs a trained classifier, and how much of it a short training brings back."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from .._files import write_whole
from ..convert import TieReport, recalibrate_norms_, tie_
from ..convert.placement import Blocks, Preset
from ..convert.tie import Init
from ..data import ClassificationData
from ..metrics.counts import count
from ..tasks import ClassificationTask, quiet_lightning
from .training import OF_CLASSIFIERS, Budget, History, ModelSpec, check_same_run, describe_run, train


@dataclass(frozen=True)
class Stage:
    """A classifier at one stage of :func:`tie_and_finetune`.

    Attributes:
        name: what was done to it last.
        params, macs: parameters, and multiply-adds for one image.
        top1, top5: fractions of the validation images, 0-1.
        loss: mean cross-entropy on them.
    """

    name: str
    params: int
    macs: int
    top1: float
    top5: float
    loss: float


def tie_and_finetune(
    model: nn.Module,
    name: str,
    data: ClassificationData,
    folder: Path,
    *,
    kwargs: dict[str, Any] | None = None,
    blocks: Blocks = 2,
    filter_fn: Preset | None = None,
    init: Init = "project",
    samples: int = 256,
    budget: Budget | None = None,
    seed: int = 0,
    log: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[TieReport, list[Stage]]:
    """Tie a trained classifier and measure it before, after, and after a short training.

    A training that is stopped goes on from its last epoch when the same call is made again.

    Args:
        model: the trained classifier; it is tied in place, and in evaluation mode at the end.
        name, kwargs: what :class:`tiedconv.tasks.ClassificationTask` builds it from.
        data: what it is for.
        folder: holds the training's checkpoint, and ``tying.json``: the stages and the report.
        blocks, filter_fn, init: as in :func:`tiedconv.tie_`.
        samples: training images, as augmented for training, for ``init="data"`` and for the norms' statistics.
        budget: of the training. Default: none.
        seed: of the training, and of which images the samples are.
        log: is told what is done.
        progress: as in :func:`tiedconv.tie_`.

    Returns:
        The layers that were tied, and the stages: before, tied, norms re-estimated (where there are norms and the
        weights were not fitted to data), fine-tuned (where that was asked for).

    Raises:
        ValueError: as :func:`tiedconv.tie_`; if ``samples`` is below 1; if the folder holds another training.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}.")
    L.seed_everything(seed, verbose=False)
    folder.mkdir(parents=True, exist_ok=True)
    stages: list[Stage] = []

    def measure(stage: str, **options: Any) -> None:
        stages.append(_measure(stage, _task_with(model, name, data, kwargs, **options), data))
        log(f"{stage}: top-1 {100 * stages[-1].top1:.2f} %, {stages[-1].params / 1e6:.2f} M parameters")

    weights = _sha256(model)
    measure("before")
    images = torch.cat(list(data.training_images(samples)))
    # All alike, where the loader's last one may be short: statistics of norms are the mean over the batches.
    batches = images.tensor_split(math.ceil(len(images) / data.batch_size))
    report = tie_(
        model,
        blocks,
        filter_fn,
        init,
        images=batches if init == "data" else None,
        example_inputs=torch.zeros(1, *data.input_size),
        progress=progress,
    )
    measure("tied", tied=report.blocks)
    # Weights fitted to the outputs keep to the statistics that the norms have.
    if init != "data" and recalibrate_norms_(model, batches):
        measure("norms re-estimated", tied=report.blocks)
    if budget is not None:
        task = _task_with(model, name, data, kwargs, tied=report.blocks, **budget.task_options())
        training = folder / "training"
        spec = ModelSpec(name, kwargs=kwargs or {}, tied=report.blocks)
        start = {"init": init, "samples": samples, "seed": seed, "weights": weights}
        check_same_run(training, {**describe_run(spec, data, budget), "start": start})
        history = History(OF_CLASSIFIERS)
        train(task, data, budget, training, history)
        measure("fine-tuned", tied=report.blocks)
    write_whole(
        folder / "tying.json",
        json.dumps({"stages": [asdict(stage) for stage in stages], "report": report.to_dict()}, indent=1),
    )
    model.eval()
    return report, stages


def _task_with(
    model: nn.Module, name: str, data: ClassificationData, kwargs: dict[str, Any] | None, **options: Any
) -> ClassificationTask:
    """Return a task whose network is ``model``, with the arguments that rebuild it from a checkpoint."""
    task = ClassificationTask(name, data.num_classes, data.in_chans, kwargs, **options)
    task.model = model
    return task


def _sha256(model: nn.Module) -> str:
    """Tell one checkpoint from another by the weights, as results computed from them differ between processors."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _measure(stage: str, task: ClassificationTask, data: ClassificationData) -> Stage:
    with quiet_lightning(advice=False):
        trainer = L.Trainer(
            devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False
        )
        (found,) = trainer.validate(task, data, verbose=False)
    counts = count(task.model, data.input_size)
    return Stage(stage, counts.params, counts.macs, found["val/top1"], found["val/top5"], found["val/loss"])
