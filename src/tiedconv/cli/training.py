"""``tiedconv fit | validate | test | predict``: Lightning's command line on our tasks and data."""

import pydoc
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from .. import data as tied_data
from .._files import check_writable
from ..data import DetectionData, ImageData
from ..models.weights import read_images
from ..tasks import Task, keep_checkpoints_whole, quiet_lightning
from ..tasks.progress import Outlook, progress_bar
from ..tasks.resume import LastCheckpoint
from ._mistakes import no_class, parameters_of

_DIGITS = "--config configs/digits/train.yaml"
_LAST = "--ckpt_path runs/fit/version_0/checkpoints/last.ckpt"
EXAMPLES = {
    "fit": f"example: tiedconv fit {_DIGITS} --trainer.max_epochs 5; or, for a detector, "
    "tiedconv fit --config configs/coco/own.yaml --data.root my_images",
    "validate": f"example: tiedconv validate {_DIGITS} {_LAST}",
    "test": f"example: tiedconv test {_DIGITS} {_LAST}",
    "predict": f"example: tiedconv predict {_DIGITS} {_LAST} --data.predict_path my_images",
}


class TrainingCLI(LightningCLI):
    """LightningCLI with our defaults: which checkpoints are kept, and what the model takes from the data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.mode": "max",
                "checkpoint.auto_insert_metric_name": False,
                # After a kill, a resume can write the same name again; a numbered second file would stay forever.
                "checkpoint.enable_version_counter": False,
            }
        )
        for name in ("num_classes", "in_chans"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self._given = list(sys.argv[1:] if args is None else args)
        self.config = parser.parse_args(_with_task(self._given))

    def _parse_ckpt_path(self) -> None:
        # Lightning would silently replace the given options by the checkpoint's. Without that, a checkpoint of another
        # network fails with the names of the weights that differ.
        return

    def before_instantiate_classes(self) -> None:
        options = self.config[self.subcommand]
        best = options.checkpoint
        if self.subcommand == "fit" and best.dirpath:
            # Before the first epoch, not after it; in one process, since each would remove the other's probe file.
            rank_zero_only(_check_checkpoints)(Path(best.dirpath), options.ckpt_path)
        if best.monitor is None:
            best.monitor = pydoc.locate(options.model.class_path).monitor  # type: ignore[attr-defined]
        if best.filename is None:
            best.filename = f"epoch={{epoch}}-{best.monitor.rpartition('/')[2]}={{{best.monitor}:.4f}}"
        if options.weights_only is None:
            options.weights_only = True  # a checkpoint holds data; Lightning's default would also run code in it
        if self.subcommand != "fit":
            model = options.model.init_args
            pretrained = (model.get("model_kwargs") or {}).get("pretrained")
            if options.ckpt_path is None and not pretrained:
                raise ValueError(
                    f"{self.subcommand} needs trained weights. Give --ckpt_path, such as "
                    "runs/fit/version_0/checkpoints/last.ckpt."
                )
            if options.ckpt_path is not None and Path(options.ckpt_path).is_file():
                _adopt_images(options.data, Path(options.ckpt_path), self._given)
            if "weights" in model:
                model.weights = None  # a training starts from them; an evaluation needs the checkpoint alone
            if self.subcommand == "predict" and options.return_predictions is None:
                options.return_predictions = False  # they are written; masks of many images would fill the memory
            # An evaluation keeps no best checkpoint, so it does not matter that it has another log folder.
            warnings.filterwarnings("ignore", message="The dirpath has changed")

    def after_fit(self) -> None:
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, LastCheckpoint) and callback.best_model_path and self.trainer.is_global_zero:
                print(f"Checkpoint:  {callback.best_model_path}")

    def after_test(self) -> None:
        if self.trainer.is_global_zero and self.trainer.log_dir:
            print(f"Results:     {self.trainer.log_dir}")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        given = self.config_init[self.subcommand].trainer
        if given.logger in (None, True):
            root = given.default_root_dir
            tensorboard = TensorBoardLogger(root, name=self.subcommand)
            # One folder for both: left to itself, each logger would take the next free version.
            # Every line is written at once, since a resume does not repeat lines that a kill lost.
            table = CSVLogger(root, self.subcommand, tensorboard.version, flush_logs_every_n_steps=1)
            kwargs["logger"] = [table, tensorboard]
        callbacks = given.callbacks or []
        if given.enable_progress_bar is not False and not any(
            isinstance(callback, ProgressBar) for callback in callbacks
        ):
            callbacks = [*callbacks, progress_bar()]
        kwargs["callbacks"] = [*callbacks, Outlook()]
        trainer = keep_checkpoints_whole(super().instantiate_trainer(**kwargs))
        best = trainer.checkpoint_callback
        if isinstance(best, ModelCheckpoint):
            # Its save_last would only follow the best epoch, and a resume needs the last one.
            trainer.callbacks.append(LastCheckpoint(best.dirpath))  # type: ignore[attr-defined]
        return trainer


def _adopt_images(data: Any, checkpoint: Path, arguments: Sequence[str]) -> None:
    """Prepare images as in the training that wrote ``checkpoint``, unless options say otherwise."""
    try:
        trained = read_images(checkpoint)
    except ValueError:
        return  # loading it will say what is wrong
    if trained is None:
        return
    parameters = parameters_of(pydoc.locate(data.class_path))  # type: ignore[arg-type]  # it is a class
    _, height, width = trained["input_size"]
    for name, value in (("image_size", height if height == width else None), ("crop_pct", trained.get("crop_pct"))):
        given = data.init_args.get(name)
        if value is None or given in (None, value):
            continue
        typed = any(argument.partition("=")[0] == f"--data.{name}" for argument in arguments)
        # In a config file, the default cannot be distinguished from what was given.
        if given == parameters[name].default and not typed:
            data.init_args[name] = value
            print(f"--data.{name} is {value}, as in the training.")
        else:
            warnings.warn(f"--data.{name} is {given}; the network was trained with {value}.", stacklevel=2)


def _with_task(arguments: Sequence[str]) -> list[str]:
    """Add the task for the data, unless the arguments name a task or a recipe, which names one."""
    given = dict(option.partition("=")[::2] for option in arguments)
    follows = dict(pairwise(arguments))
    data = pydoc.locate(name) if "." in (name := given.get("--data") or follows.get("--data", "")) else None
    data = data or getattr(tied_data, name, None)
    if name and data is None:
        raise ArgumentError(None, no_class("data", name))
    if {"-c", "--config", "--model"} & given.keys() or not (isinstance(data, type) and issubclass(data, ImageData)):
        return list(arguments)
    task = "DetectionTask" if issubclass(data, DetectionData) else "ClassificationTask"
    return [arguments[0], "--model", task, *arguments[1:]]


def _check_checkpoints(folder: Path, start: str | None) -> None:
    """Check that checkpoints can be written, and do not replace those of another training."""
    check_writable("checkpoint.dirpath", folder / "last.ckpt")
    if start is None and any(folder.glob("*.ckpt")):
        raise ValueError(
            f"--checkpoint.dirpath {folder} holds checkpoints of a training, which this one would replace. Add "
            "--ckpt_path last to go on from them, or give another folder."
        )


def run(arguments: Sequence[str] | None) -> None:
    """Run one of Lightning's subcommands; ``arguments`` starts with its name, None takes the command line's."""
    with quiet_lightning(advice=True):
        TrainingCLI(
            model_class=Task,
            datamodule_class=ImageData,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs={
                "prog": "tiedconv",
                "exit_on_error": False,
                **{name: {"epilog": example, "exit_on_error": False} for name, example in EXAMPLES.items()},
            },
            trainer_defaults={"default_root_dir": "runs"},
            args=None if arguments is None else list(arguments),
        )
