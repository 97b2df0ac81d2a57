r"""A data set of your own: one class around any torch Dataset, for Lightning's Trainer and for the command line.

    python examples/own_dataset.py    # about half a minute on two cores; --quick takes seconds

    cd examples                       # the same class by name: Python must find the module
    PYTHONPATH=. tiedconv fit --data own_dataset.ShapesData \
        --model.model tiedresnet_tiny --model.optimization.optimizer adamw \
        --model.optimization.lr 0.003 --trainer.max_epochs 5

Here it is around drawn circles, squares and triangles.
"""

import argparse
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from PIL import Image, ImageDraw
from torch.utils.data import Dataset
from torchvision.transforms import v2

from tiedconv.data import ClassificationData
from tiedconv.tasks import ClassificationTask, Optimization, quiet_lightning


class Shapes(Dataset[tuple[torch.Tensor, int]]):
    """Any Dataset of (transformed image, class index) pairs will do; this one draws its images."""

    def __init__(self, length: int, seed: int, transform: Callable[[Any], torch.Tensor]) -> None:
        self.length, self.seed, self.transform = length, seed, transform

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        draw = random.Random(1_000_000 * self.seed + index)  # an image is the same whenever it is asked for
        image = Image.new("RGB", (48, 48), draw.choice(["navy", "maroon", "black", "darkgreen"]))
        shape = (draw.randint(18, 30), draw.randint(18, 30), draw.randint(12, 18))  # x, y and radius
        sides, colour = draw.choice([30, 4, 3]), draw.choice(["gold", "white", "orange", "pink"])
        ImageDraw.Draw(image).regular_polygon(shape, sides, draw.randint(-10, 10), colour)
        return self.transform(image), {30: 0, 4: 1, 3: 2}[sides]


class ShapesData(ClassificationData):
    """What tiedconv asks for: names, size and normalisation of the images, and the two splits.

    Args:
        length: training images; a quarter as many validate. Every argument is an option of the command line.
        batch_size, num_workers, predict_path: as in ClassificationData.
    """

    classes = ("circle", "square", "triangle")
    input_size = (3, 32, 32)
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def __init__(
        self, length: int = 1000, batch_size: int = 64, num_workers: int = 0, predict_path: str | None = None
    ) -> None:
        super().__init__(batch_size, num_workers, predict_path)
        self.length = length

    def build(self, train: bool) -> Dataset[tuple[torch.Tensor, int]]:
        if train:  # the transforms draw from torch; order and draws follow the seed, also after a resume
            return Shapes(self.length, 0, v2.Compose([v2.RandomHorizontalFlip(), self.eval_transform()]))
        return Shapes(self.length // 4, 1, self.eval_transform())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/examples/own_dataset"))
    parser.add_argument("--quick", action="store_true", help="two epochs of few images")
    args = parser.parse_args()

    L.seed_everything(0, verbose=False)
    data = ShapesData(length=200 if args.quick else 1000)
    task = ClassificationTask(
        "tiedresnet_tiny", num_classes=data.num_classes, optimization=Optimization("adamw", lr=3e-3, schedule="cosine")
    )
    epochs = 2 if args.quick else 6
    checkpoint = args.output / "shapes.ckpt"
    silent: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with quiet_lightning(advice=False):
        trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", enable_model_summary=False, **silent)
        trainer.fit(task, data)
        trainer.save_checkpoint(checkpoint, weights_only=True)
    top1 = trainer.callback_metrics["val/top1"].item()
    print(f"{data.length} drawn shapes, {epochs} epochs: {top1:.1%} of {data.length // 4} new ones right")

    here = Path(__file__).parent
    command = ["tiedconv", "validate", "--data", "own_dataset.ShapesData", f"--data.length={data.length}"]
    command += ["--model", "ClassificationTask", "--model.model", "tiedresnet_tiny", "--ckpt_path", str(checkpoint)]
    command += ["--trainer.default_root_dir", str(args.output), "--trainer.accelerator", "cpu"]
    print(f"\nThe same class on the command line:\nPYTHONPATH={here} {shlex.join(command)}", flush=True)
    installed = Path(sys.executable).with_name("tiedconv")  # beside this Python, on the PATH or not
    subprocess.run([installed, *command[1:]], env={**os.environ, "PYTHONPATH": str(here)}, check=True)


if __name__ == "__main__":
    main()
