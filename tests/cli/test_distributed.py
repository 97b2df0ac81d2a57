"""Several processes on one machine, started as a user would start them."""

import csv
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from tiedconv.tasks import ClassificationTask

CONFIGS = Path(__file__).parents[2] / "configs"
DDP = ["--trainer.strategy=ddp"]
FSDP2 = [
    "--trainer.strategy=ModelParallelStrategy",
    "--trainer.strategy.data_parallel_size=2",
    "--trainer.strategy.tensor_parallel_size=1",
    "--trainer.strategy.save_distributed_checkpoint=false",
]
# SyncBatchNorm refuses tensors of a CPU; norms of single images, or of fixed statistics, need no synchronisation.
NORMS = {
    "group": ["--model.model_kwargs={norm_layer: groupnorm1}"],
    "frozen batch": ["--trainer.callbacks+=extra.FrozenBatchNorm"],
}
CALLBACKS = """
import os, signal
import lightning as L
import torch
from torch import nn

class FrozenBatchNorm(L.Callback):
    def setup(self, trainer, task, stage):
        for module in task.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.copy_(torch.linspace(0.5, 2, module.num_features))
                module.eval().requires_grad_(False)

class Kill(L.Callback):
    def on_train_epoch_start(self, trainer, task):
        if trainer.current_epoch == trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
"""
# The rate is low, because a higher one makes differences of rounding grow a thousandfold within these few steps.
TRAINING = [
    "--model.optimization={lr: 0.002, schedule: step}",
    "--trainer.limit_train_batches=4",
    "--trainer.limit_val_batches=2",
    "--trainer.num_sanity_val_steps=0",
    "--checkpoint.dirpath=kept",
]
SCENES = {"image_size": 48, "train_images": 8, "val_images": 5, "min_size": 16, "max_size": 24, "max_objects": 3}


def tiedconv(folder, subcommand, config, *arguments, processes=2, strategy=DDP, fails=False):
    command = [str(Path(sys.executable).with_name("tiedconv")), subcommand]
    command += ["--config", str(CONFIGS / config), *arguments, *strategy, f"--trainer.devices={processes}"]
    command += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert bool(done.returncode) == fails, done.stderr[-3000:]
    return done.stderr


@pytest.mark.slow
def test_two_processes_train_a_detector_and_evaluate_every_image_once(tmp_path):
    config = "occlusion/mask_rcnn.yaml"
    small = [f"--data.scenes.{name}={value}" for name, value in SCENES.items()]
    small += ["--data.batch_size=2", "--model.options={min_size: 48, max_size: 48, box_score_thresh: 0.0}"]
    tiedconv(tmp_path, "fit", config, *small, "--trainer.max_epochs=1")
    folder = tmp_path / "runs" / "fit" / "version_0"
    assert (folder / "checkpoints" / "last.ckpt").exists()
    found = {result["image_id"] for result in json.loads((folder / "results.json").read_text())}
    assert found == {0, 1, 2, 3, 4}
    metrics = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert any(row["val/mask_AP"] for row in metrics)

    last = str(folder / "checkpoints" / "last.ckpt")
    tiedconv(tmp_path, "predict", config, *small, "--ckpt_path", last, "--model.min_score=0")
    lists = [tmp_path / "runs" / "predict" / "version_0" / f"predictions-rank{rank}.json" for rank in (0, 1)]
    listed = [Path(entry["image"]).name for path in lists for entry in json.loads(path.read_text())]
    assert sorted(listed) == [f"{i:06d}.png" for i in range(5)]
    pictures = [path.parent / entry["picture"] for path in lists for entry in json.loads(path.read_text())]
    assert all(picture.exists() for picture in pictures)


def read_csv(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def train(folder, processes, *arguments, norm="group", epochs=2, **options):
    """Train on Digits with 32 images a step on all processes; return the numbers of the run's log and its weights."""
    folder.mkdir(exist_ok=True)
    (folder / "extra.py").write_text(CALLBACKS)
    batch = f"--data.batch_size={32 // processes}"
    config = "digits/train.yaml"
    end = f"--trainer.max_epochs={epochs}"
    given = [*NORMS[norm], *TRAINING, batch, end, *arguments]
    tiedconv(folder, "fit", config, *given, processes=processes, **options)
    log = max((folder / "runs" / "fit").glob("version_*/metrics.csv"))
    numbers = [{k: float(v) for k, v in row.items() if v} for row in read_csv(log)]
    return numbers, torch.load(folder / "kept" / "last.ckpt", weights_only=True)["state_dict"]


def assert_same_training(training, expected):
    numbers, weights = training
    expected_numbers, expected_weights = expected
    assert numbers == [pytest.approx(row, rel=1e-5, abs=1e-5) for row in expected_numbers]
    torch.testing.assert_close(weights, expected_weights, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return a function that trains in one process with a norm, once."""
    return functools.cache(lambda norm: train(tmp_path_factory.mktemp(norm), 1, norm=norm, strategy=[]))


def predict(folder, processes=2, strategy=DDP):
    """Predict three images by the last checkpoint; return the rows of each process."""
    (folder / "mine").mkdir(exist_ok=True)
    for i in range(3):  # of two processes, one has two batches and the other has one
        Image.new("L", (8, 8), 80 * i).save(folder / "mine" / f"{i}.png")
    given = ["--ckpt_path=kept/last.ckpt", "--data.predict_path=mine", "--data.batch_size=1"]
    given += [*NORMS["group"], f"--trainer.default_root_dir={processes}"]
    tiedconv(folder, "predict", "digits/train.yaml", *given, processes=processes, strategy=strategy)
    tables = (folder / str(processes) / "predict" / "version_0").glob("predictions*.csv")
    return [read_csv(table) for table in tables]


def joined(tables):
    return sorted((row for table in tables for row in table), key=lambda row: row["image"])


@pytest.mark.slow
def test_two_processes_train_as_one_and_predict_every_image_once(tmp_path, alone):
    assert_same_training(train(tmp_path, 2), alone("group"))
    tables = predict(tmp_path)
    assert len(tables) == 2
    assert [row["image"] for row in joined(tables)] == ["mine/0.png", "mine/1.png", "mine/2.png"]


@pytest.mark.stress
@pytest.mark.parametrize(("processes", "norm"), [(4, "group"), (2, "frozen batch")])
def test_more_processes_and_another_norm_train_as_one_too(tmp_path, alone, processes, norm):
    assert_same_training(train(tmp_path, processes, norm=norm), alone(norm))


@pytest.mark.stress
def test_a_killed_process_ends_the_training_which_goes_on_from_its_checkpoint(tmp_path, alone):
    given = [*NORMS["group"], *TRAINING, "--data.batch_size=16", "--trainer.max_epochs=2"]
    (tmp_path / "extra.py").write_text(CALLBACKS)
    said = tiedconv(tmp_path, "fit", "digits/train.yaml", *given, "--trainer.callbacks+=extra.Kill", fails=True)
    # Lightning looks every few seconds, and kills all the others where they did not notice before.
    assert "tiedconv fit: Another process of this training ended" in said or "Child process with PID" in said
    assert "Traceback" not in said
    assert torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)["epoch"] == 0
    numbers, weights = train(tmp_path, 2, "--ckpt_path=last")
    expected_numbers, expected_weights = alone("group")
    assert_same_training((numbers, weights), (expected_numbers[-len(numbers) :], expected_weights))


@pytest.mark.stress
def test_sharded_parameters_train_resume_and_predict_as_whole_ones(tmp_path, alone):
    numbers, _ = train(tmp_path, 2, strategy=FSDP2, epochs=1)
    more, weights = train(tmp_path, 2, "--ckpt_path=last", strategy=FSDP2)
    assert_same_training((numbers + more, weights), alone("group"))

    sharded = joined(predict(tmp_path, strategy=FSDP2))
    assert sharded == joined(predict(tmp_path, processes=1, strategy=[]))
    assert [row["image"] for row in sharded] == ["mine/0.png", "mine/1.png", "mine/2.png"]


def test_tensor_parallelism_is_refused():
    task = ClassificationTask("tiedresnet_tiny", 10, 1)
    task._device_mesh = {"tensor_parallel": SimpleNamespace(size=lambda: 2)}  # where Lightning's strategy puts it
    with pytest.raises(ValueError, match=r"ClassificationTask: tensor_parallel_size must be 1, got 2. Give --trainer"):
        task.configure_model()
