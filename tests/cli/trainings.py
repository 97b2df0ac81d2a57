"""Trainings of seconds by ``tiedconv fit`` in the current folder, for the tests."""

from pathlib import Path

import torch
import yaml

from tiedconv.cli.main import main

TINY = {"layers": [1, 1, 1, 1]}
ONE_STEP = {"limit_train_batches": 1, "limit_val_batches": 1}
TRAINER = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "enable_model_summary": False}


def train(
    *options: str,
    command: str = "fit",
    model: str = "resnet_tiny",
    data: dict | None = None,
    lr: float = 0.01,
    **trainer,
) -> None:
    """Run a command of Lightning's; ``fit`` keeps its checkpoints in the folder ``kept``."""
    init = {"model": model, "model_kwargs": TINY, "optimization": {"schedule": "cosine", "lr": lr}}
    config = {
        "model": {"class_path": "ClassificationTask", "init_args": init},
        "data": data or {"class_path": "Digits", "init_args": {"image_size": 8, "batch_size": 8}},
        "trainer": {**TRAINER, **ONE_STEP, "max_epochs": 1, **trainer},
    }
    if command == "fit":
        config["checkpoint"] = {"dirpath": "kept"}
    Path("command.yaml").write_text(yaml.safe_dump(config))
    main([command, "--config", "command.yaml", *options])


def last(epoch: int, folder: str = "kept") -> dict:
    """The last checkpoint, which must be readable and of ``epoch``."""
    content = torch.load(f"{folder}/last.ckpt", weights_only=True)
    assert content["epoch"] == epoch
    assert all(value.isfinite().all() for value in content["state_dict"].values())
    return content
