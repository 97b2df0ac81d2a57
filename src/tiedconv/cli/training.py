"""``tiedconv fit | validate | test | predict``: Lightning's command line on our tasks and data."""

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from ..data import ClassificationData
from ..tasks import ClassificationTask, quiet_lightning

_DIGITS = "--config configs/digits/tiedresnet_tiny.yaml"
_LAST = "--ckpt_path runs/fit/version_0/checkpoints/last.ckpt"
EXAMPLES = {
    "fit": f"example: tiedconv fit {_DIGITS} --trainer.max_epochs 5",
    "validate": f"example: tiedconv validate {_DIGITS} {_LAST}",
    "test": f"example: tiedconv test {_DIGITS} {_LAST}",
    "predict": f"example: tiedconv predict {_DIGITS} {_LAST} --data.predict_path my_images",
}


class PredictionWriter(BasePredictionWriter):
    """Write ``predictions.csv`` into the log folder: image, class, probability, best first, up to five a row."""

    def __init__(self) -> None:
        super().__init__("epoch")

    def write_on_epoch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        classes = trainer.datamodule.classes  # type: ignore[attr-defined]
        rank = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = Path(trainer.log_dir or trainer.default_root_dir, f"predictions{rank}.csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = min(5, len(classes))
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(
                ["image", *(f"{what}{i}" for i in range(1, shown + 1) for what in ("class", "probability"))]
            )
            for batch in predictions:
                best = batch["probabilities"].topk(shown)
                for source, values, indices in zip(batch["source"], *map(list, best), strict=True):
                    pairs = zip(indices.tolist(), values.tolist(), strict=True)
                    writer.writerow([source, *(x for i, p in pairs for x in (classes[i], f"{p:.4f}"))])
        print(f"Predictions: {path}")


class TrainingCLI(LightningCLI):
    """LightningCLI with our defaults: which checkpoints are kept, and what the data tells the model."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/top1",
                "checkpoint.mode": "max",
                "checkpoint.filename": "epoch={epoch}-top1={val/top1:.4f}",
                "checkpoint.auto_insert_metric_name": False,
            }
        )
        for name in ("num_classes", "in_chans"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        # Lightning would let the checkpoint's options win over the given ones without a word. Ours are what the user
        # gave; a checkpoint of another network then fails with the names of the weights that differ.
        return

    def before_instantiate_classes(self) -> None:
        options = self.config[self.subcommand]
        if options.weights_only is None:
            options.weights_only = True  # a checkpoint holds data; Lightning's default would also run code in it
        if self.subcommand != "fit":
            pretrained = (options.model.init_args.model_kwargs or {}).get("pretrained")
            if options.ckpt_path is None and not pretrained:
                raise ValueError(
                    f"{self.subcommand} needs trained weights. Give --ckpt_path, such as "
                    "runs/fit/version_0/checkpoints/last.ckpt."
                )
            # An evaluation keeps no best checkpoint, so it does not matter that it has another log folder.
            warnings.filterwarnings("ignore", message="The dirpath has changed")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        if self._get(self.config_init, "trainer.logger") in (None, True):
            root = self._get(self.config_init, "trainer.default_root_dir")
            tensorboard = TensorBoardLogger(root, name=self.subcommand)
            # One folder for both: left to itself, each logger would take the next free version.
            kwargs["logger"] = [CSVLogger(root, name=self.subcommand, version=tensorboard.version), tensorboard]
        trainer = super().instantiate_trainer(**kwargs)
        best = trainer.checkpoint_callback
        if isinstance(best, ModelCheckpoint):
            # The best one's save_last would only follow it: what a resume needs is the last epoch, best or not.
            trainer.callbacks.append(  # type: ignore[attr-defined]
                ModelCheckpoint(
                    best.dirpath, "last", save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False
                )
            )
        return trainer


def run(arguments: Sequence[str] | None) -> None:
    """Run one of Lightning's subcommands; ``arguments`` starts with its name, None takes the command line's."""
    with quiet_lightning(advice=True):
        TrainingCLI(
            model_class=ClassificationTask,
            datamodule_class=ClassificationData,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs={"prog": "tiedconv", **{name: {"epilog": example} for name, example in EXAMPLES.items()}},
            trainer_defaults={"default_root_dir": "runs", "callbacks": [PredictionWriter()]},
            args=None if arguments is None else list(arguments),
        )
