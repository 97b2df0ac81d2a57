"""Two processes on one machine, started as a user would start them."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

CONFIGS = Path(__file__).parents[2] / "configs"
TWO = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=2",
    "--trainer.strategy=ddp",
    "--trainer.enable_progress_bar=false",
]


SCENES = {"image_size": 48, "train_images": 8, "val_images": 5, "min_size": 16, "max_size": 24, "max_objects": 3}


def tiedconv(folder, subcommand, config, *arguments):
    command = [str(Path(sys.executable).with_name("tiedconv")), subcommand]
    command += ["--config", str(CONFIGS / config), *arguments, *TWO]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_train_and_predict_every_image_once(tmp_path):
    tiedconv(tmp_path, "fit", "digits/resnet_tiny.yaml", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2")
    last = tmp_path / "runs" / "fit" / "version_0" / "checkpoints" / "last.ckpt"
    assert last.exists()
    (tmp_path / "mine").mkdir()
    for i in range(3):
        Image.new("L", (8, 8), 80 * i).save(tmp_path / "mine" / f"{i}.png")
    tiedconv(tmp_path, "predict", "digits/resnet_tiny.yaml", "--ckpt_path", str(last), "--data.predict_path=mine")
    rows = [
        row["image"]
        for rank in (0, 1)
        for row in csv.DictReader(
            (tmp_path / "runs" / "predict" / "version_0" / f"predictions-rank{rank}.csv").read_text().splitlines()
        )
    ]
    assert sorted(rows) == ["mine/0.png", "mine/1.png", "mine/2.png"]


@pytest.mark.slow
def test_two_processes_train_a_detector_and_evaluate_every_image_once(tmp_path):
    config = "occlusion/mask_rcnn_tiedresnet_tiny.yaml"
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
