"""Image classification as a Lightning module: any timm model, SGD by the paper's schedule or a modern recipe."""

from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from lightning import Callback
from timm.data import Mixup
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from ..models import build_model, check_model
from ._task import Task
from .optimization import Optimization, as_optimization
from .predictions import ClassWriter


class ClassificationTask(Task):
    """Train and evaluate an image classifier.

    Logs ``train/loss``, ``val/loss``, ``val/top1``, ``val/top5`` (fractions, 0-1) and ``lr``.

    Args:
        model: name of a timm model, tied or not, or ``"torchvision/"`` and the name of a classifier of torchvision.
        num_classes: classes of the data; the command line takes it from there.
        in_chans: channels of the images; the command line takes it from the data.
        model_kwargs: more arguments of the model, such as ``drop_path_rate``.
        tied: blocks by which the model's layers are tied after it is built, as in :func:`tiedconv.tie_`: one number, or
            numbers by patterns of names. Default: the model stays as it is.
        optimization: optimiser and schedule.
        label_smoothing: share of the target spread over all classes, 0-1.
        mixup, cutmix: parameter of timm's mixup and CutMix; 0 switches them off. They need an even batch size.
        channels_last: run in channels_last memory format.
        compile: compile the model by ``torch.compile``.

    Raises:
        ValueError: if the model's name is unknown, an option is out of range or nothing can be tied.
    """

    monitor = "val/top1"

    def __init__(
        self,
        model: str,
        num_classes: int = 1000,
        in_chans: int = 3,
        model_kwargs: dict[str, Any] | None = None,
        tied: int | dict[str, int] | None = None,
        optimization: Optimization = Optimization(),
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        if num_classes < 2:
            raise ValueError(
                f"ClassificationTask: there must be at least 2 classes, got {num_classes}. Give data with more."
            )
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"ClassificationTask: label_smoothing must be in [0, 1), got {label_smoothing}.")
        for name, value in (("mixup", mixup), ("cutmix", cutmix)):
            if value < 0:
                raise ValueError(f"ClassificationTask: {name} must not be negative, got {value}.")
        check_model(model)
        optimization = as_optimization(optimization)
        # Plain values only, so that a checkpoint can be read with weights_only=True.
        self.save_hyperparameters({**arguments, "optimization": asdict(optimization)})
        self.model = build_model(model, num_classes=num_classes, in_chans=in_chans, tied=tied, **(model_kwargs or {}))
        self.optimization = optimization
        self.label_smoothing = label_smoothing
        self.channels_last = channels_last
        self.mix = None
        if mixup > 0 or cutmix > 0:
            self.mix = Mixup(mixup, cutmix, label_smoothing=label_smoothing, num_classes=num_classes)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        if compile:
            self.model.compile()  # in place: names in the state dict stay
        self.metrics = MetricCollection(
            {f"top{k}": MulticlassAccuracy(num_classes, average="micro", top_k=min(k, num_classes)) for k in (1, 5)},
            prefix="val/",
        )

    def configure_callbacks(self) -> list[Callback]:
        """The writer of the table, for ``tiedconv predict``."""
        return [ClassWriter()]

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) normalised images → (N, num_classes) logits."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        outputs = self.model(images)
        # GoogLeNet and Inception v3 of torchvision add auxiliary outputs in training, which have no loss here.
        return outputs if isinstance(outputs, Tensor) else outputs.logits

    def setup(self, stage: str) -> None:
        size = getattr(getattr(self.trainer, "datamodule", None), "input_size", None)  # other data modules have none
        if size is not None:
            self.example_input_array = torch.zeros(1, *size)  # Lightning's summary counts FLOPs with it

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        if self.mix is not None:
            if len(images) % 2:
                raise ValueError(
                    f"ClassificationTask: mixup and cutmix pair the images of a batch, so batch_size={len(images)} "
                    "must be even. Change it, or switch both off."
                )
            images, targets = self.mix(images, labels)
            loss = F.cross_entropy(self(images), targets)  # which are smoothed already
        else:
            loss = F.cross_entropy(self(images), labels, label_smoothing=self.label_smoothing)
        self.log_losses({"loss": loss}, len(images))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self.metrics.update(logits, labels)
        loss = F.cross_entropy(logits, labels)
        self.log("val/loss", loss, on_epoch=True, batch_size=len(images), sync_dist=True)
        self.log_dict(self.metrics, on_step=False, on_epoch=True, prog_bar=True)

    test_step = validation_step

    def predict_step(self, batch: tuple[Tensor, list[str], list[str]], batch_idx: int) -> dict[str, Any]:
        """Class probabilities of a batch: ``{"source": names or paths, "probabilities": (N, num_classes)}``."""
        images, sources, _ = batch
        if not sources:  # none of the batch could be read
            return {"source": [], "probabilities": torch.empty(0, self.hparams["num_classes"])}
        return {"source": list(sources), "probabilities": self(images).float().softmax(-1)}
