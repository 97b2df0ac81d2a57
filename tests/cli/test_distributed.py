"""Two processes on one machine, started as a user would start them."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

CONFIG = Path(__file__).parents[2] / "configs" / "digits" / "resnet_tiny.yaml"
TWO = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=2",
    "--trainer.strategy=ddp",
    "--trainer.enable_progress_bar=false",
]


def tiedconv(folder, *arguments):
    command = [str(Path(sys.executable).with_name("tiedconv")), *arguments, "--config", str(CONFIG), *TWO]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_train_and_predict_every_image_once(tmp_path):
    tiedconv(tmp_path, "fit", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2")
    last = tmp_path / "runs" / "fit" / "version_0" / "checkpoints" / "last.ckpt"
    assert last.exists()
    (tmp_path / "mine").mkdir()
    for i in range(3):
        Image.new("L", (8, 8), 80 * i).save(tmp_path / "mine" / f"{i}.png")
    tiedconv(tmp_path, "predict", "--ckpt_path", str(last), "--data.predict_path=mine")
    rows = [
        row["image"]
        for rank in (0, 1)
        for row in csv.DictReader(
            (tmp_path / "runs" / "predict" / "version_0" / f"predictions-rank{rank}.csv").read_text().splitlines()
        )
    ]
    assert sorted(rows) == ["mine/0.png", "mine/1.png", "mine/2.png"]
