"""Image classification as a Lightning module: any timm model, SGD by the paper's schedule or a modern recipe."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import lightning as L
import timm
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from ..data.classification import global_seed, seed_generators


@dataclass(frozen=True)
class Optimization:
    """Optimiser and learning-rate schedule. The defaults are the paper's ImageNet recipe for a batch of 256.

    Attributes:
        optimizer: any of timm's optimiser names, such as ``"sgd"``, ``"adamw"``, ``"lamb"``.
        lr: learning rate after warm-up, for the batch size in use: nothing scales it.
        momentum: momentum of SGD; other optimisers ignore it.
        weight_decay: weight decay.
        decay_norm_and_bias: whether weight decay applies to biases and norm weights too.
        schedule: ``"step"`` (times ``decay_rate`` every ``decay_epochs``) or ``"cosine"`` (to ``min_lr`` at the end).
        decay_epochs, decay_rate: the steps of ``"step"``.
        warmup_epochs: epochs in which the rate grows linearly from a hundredth of ``lr``.
        min_lr: where ``"cosine"`` ends.
    """

    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    schedule: Literal["step", "cosine"] = "step"
    decay_epochs: float = 30
    decay_rate: float = 0.1
    warmup_epochs: int = 0
    min_lr: float = 0.0

    def __post_init__(self) -> None:
        if self.min_lr > self.lr:
            raise ValueError(f"Optimization: min_lr must not exceed lr={self.lr}, got {self.min_lr}.")
        for name in ("lr", "decay_epochs", "decay_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Optimization: {name} must be positive, got {getattr(self, name)}.")
        for name in ("momentum", "weight_decay", "warmup_epochs", "min_lr"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"Optimization: {name} must not be negative, got {getattr(self, name)}.")


def check_model_name(who: str, name: str) -> None:
    """Raise ValueError unless timm knows a model of that name."""
    if not timm.is_model(name):
        raise ValueError(
            f"{who}: no model is called {name!r}. `tiedconv list` prints the tied ones, timm.list_models() all."
        )


class ClassificationTask(L.LightningModule):
    """Train and evaluate an image classifier.

    Logs ``train/loss``, ``val/loss``, ``val/top1``, ``val/top5`` (fractions, 0-1) and ``lr``.

    Args:
        model: name of a timm model, tied or not.
        num_classes: classes of the data; the command line takes it from there.
        in_chans: channels of the images; the command line takes it from the data.
        model_kwargs: more arguments for ``timm.create_model``, such as ``drop_path_rate``.
        optimization: optimiser and schedule.
        label_smoothing: share of the target spread over all classes, 0-1.
        mixup, cutmix: parameter of timm's mixup and CutMix; 0 switches them off. They need an even batch size.
        channels_last: run in channels_last memory format.
        compile: compile the model by ``torch.compile``.

    Raises:
        ValueError: if the model's name is unknown or an option is out of range.
    """

    def __init__(
        self,
        model: str = "tiedresnet50",
        num_classes: int = 1000,
        in_chans: int = 3,
        model_kwargs: dict[str, Any] | None = None,
        optimization: Optimization = Optimization(),
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"ClassificationTask: label_smoothing must be in [0, 1), got {label_smoothing}.")
        for name, value in (("mixup", mixup), ("cutmix", cutmix)):
            if value < 0:
                raise ValueError(f"ClassificationTask: {name} must not be negative, got {value}.")
        check_model_name("ClassificationTask", model)
        if isinstance(optimization, Mapping):  # load_from_checkpoint hands back the plain values saved below
            optimization = Optimization(**optimization)
        # Plain values only, so that a checkpoint can be read with weights_only=True.
        self.save_hyperparameters({**arguments, "optimization": asdict(optimization)})
        self.model = timm.create_model(model, num_classes=num_classes, in_chans=in_chans, **(model_kwargs or {}))
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

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) normalised images → (N, num_classes) logits."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.model(images)

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.example_input_array = torch.zeros(1, *data.input_size)  # Lightning's summary counts FLOPs with it

    def on_train_epoch_start(self) -> None:
        # Dropout, stochastic depth and mixup depend on the epoch's number, not on what was drawn before it: a resumed
        # training draws the same as an uninterrupted one.
        seed_generators(global_seed(), self.current_epoch, self.global_rank, all_devices=True)

    def on_fit_start(self) -> None:
        batch_size = getattr(self.trainer.datamodule, "batch_size", 2)  # type: ignore[attr-defined]
        if self.mix is not None and batch_size % 2:
            raise ValueError(
                f"ClassificationTask: mixup and cutmix pair the images of a batch, so batch_size={batch_size} must be "
                "even. Change it, or switch both off."
            )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        if self.mix is not None:
            images, targets = self.mix(images, labels)
            loss = F.cross_entropy(self(images), targets)  # the mixed targets are smoothed already
        else:
            loss = F.cross_entropy(self(images), labels, label_smoothing=self.label_smoothing)
        self.log(
            "train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(images), sync_dist=True
        )
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"], on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self.metrics.update(logits, labels)
        loss = F.cross_entropy(logits, labels)
        self.log("val/loss", loss, on_epoch=True, batch_size=len(images), sync_dist=True)
        self.log_dict(self.metrics, on_step=False, on_epoch=True, prog_bar=True)

    test_step = validation_step

    def predict_step(self, batch: tuple[Tensor, list[str]], batch_idx: int) -> dict[str, Any]:
        """Class probabilities of a batch: ``{"source": names or paths, "probabilities": (N, num_classes)}``."""
        images, sources = batch
        return {"source": list(sources), "probabilities": self(images).float().softmax(-1)}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        o = self.optimization
        optimizer = create_optimizer_v2(
            self.model,
            opt=o.optimizer,
            lr=o.lr,
            weight_decay=o.weight_decay,
            momentum=o.momentum,
            filter_bias_and_bn=not o.decay_norm_and_bias,
        )
        epochs = self.trainer.max_epochs
        if epochs is None or (epochs <= o.warmup_epochs and not self.trainer.fast_dev_run):  # type: ignore[attr-defined]
            raise ValueError(
                f"ClassificationTask: the schedule needs more epochs than warmup_epochs={o.warmup_epochs}, got "
                f"max_epochs={epochs}. Set the trainer's max_epochs; max_steps and max_time can only end it earlier."
            )
        steps = self.trainer.estimated_stepping_batches
        scheduler, _ = create_scheduler_v2(
            optimizer,
            o.schedule,
            num_epochs=epochs,
            decay_epochs=o.decay_epochs,
            decay_rate=o.decay_rate,
            min_lr=o.min_lr,
            warmup_epochs=o.warmup_epochs,
            warmup_lr=o.lr / 100,
            warmup_prefix=False,
            step_on_epochs=False,
            updates_per_epoch=max(1, int(steps) // epochs),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step_update(self.global_step)
