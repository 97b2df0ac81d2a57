"""Train every detector on eight generated scenes until it knows them: a check that all of it learns.

    python tests/stress/overfit.py

For each detector and backbone it prints the number of steps after which box AP50 (and mask AP50, where there are masks)
on the same eight scenes exceeds 0.9, the two figures, and the time. Exits with 1 if one does not get there.
"""

import sys
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch
from jsonargparse import auto_cli
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import tiedconv  # noqa: F401  registers the models
from tiedconv.bench import describe_machine
from tiedconv.data import Coco, SceneOptions
from tiedconv.data.scenes import write_scenes
from tiedconv.detection import DetectorName, Widths, build_detector
from tiedconv.metrics.coco import coco_metrics
from tiedconv.tasks.detection import coco_results

DETECTORS: list[DetectorName] = list(get_args(DetectorName))
BACKBONES = ["resnet_tiny", "tiedresnet_tiny"]
ENOUGH = 0.9
SMALL: dict[str, Any] = {"min_size": 128, "max_size": 128, "widths": Widths(64, 256, 64, 2)}
REGIONS: dict[str, Any] = {
    "rpn_batch_size_per_image": 64,
    "rpn_pre_nms_top_n_train": 300,
    "rpn_post_nms_top_n_train": 150,
    "rpn_pre_nms_top_n_test": 300,
    "rpn_post_nms_top_n_test": 100,
    "box_batch_size_per_image": 64,
}


def overfit(
    detectors: list[DetectorName] = DETECTORS,
    backbones: list[str] = BACKBONES,
    max_steps: int = 800,
    check_every: int = 50,
    lr: float = 1e-3,
    threads: int = 2,
) -> None:
    """Train each detector with each backbone on eight scenes, four a step, by AdamW and with seed 0.

    Args:
        detectors, backbones: which ones.
        max_steps: where to give up.
        check_every: steps between two evaluations.
        lr: learning rate, after 50 steps of linear warm-up.
        threads: of torch.
    """
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", message=".*(training leaves out|images are in both splits)")
    console = Console(highlight=False)
    table = Table("detector", "backbone", "steps", "box AP50", "mask AP50", "seconds", box=SIMPLE)
    failed = False
    with TemporaryDirectory() as folder:
        write_scenes(Path(folder), SceneOptions(train_images=8, val_images=1, max_overlap=0.5))
        json = "annotations/instances_train.json"
        data = Coco(folder, json, "train", json, "train", flip=0)
        for detector in detectors:
            for backbone in backbones:
                console.print(f"{detector}, {backbone}", style="dim")
                start = time.perf_counter()
                steps, found = _train(detector, backbone, data, max_steps, check_every, lr)
                failed |= min(found.values()) <= ENOUGH
                scores = [f"{found[kind]:.3f}" if kind in found else "-" for kind in ("box", "mask")]
                table.add_row(detector, backbone, str(steps), *scores, f"{time.perf_counter() - start:.0f}")
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in describe_machine(torch.device("cpu")).items()))
    sys.exit(int(failed))


def _train(
    detector: DetectorName, backbone: str, data: Coco, max_steps: int, check_every: int, lr: float
) -> tuple[int, dict[str, float]]:
    """Return after how many steps all AP50 exceed what is enough, or ``max_steps``, and the AP50s."""
    torch.manual_seed(0)
    options = {} if detector == "retinanet" else REGIONS
    model = build_detector(detector, backbone=backbone, num_classes=data.num_classes, **SMALL, **options).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=50)
    items = [data.split(train=True)[i] for i in range(8)]
    found = {"box": 0.0}
    for step in range(1, max_steps + 1):
        chosen = [items[i] for i in torch.randperm(8)[:4]]
        losses = model([image for image, _ in chosen], [target for _, target in chosen])
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        warmup.step()
        if step % check_every == 0:
            found = _ap50(model.eval(), items, data)
            model.train()
            if min(found.values()) > ENOUGH:
                break
    return step, found


@torch.inference_mode()
def _ap50(model: torch.nn.Module, items: list[Any], data: Coco) -> dict[str, float]:
    results = []
    for image, target in items:
        results += coco_results(target["image_id"], model([image])[0], data.category_ids)
    kinds = ("box", "mask") if results and "segmentation" in results[0] else ("box",)
    return {kind: coco_metrics(data.ground_truth(), results, kind)["AP50"] for kind in kinds}


if __name__ == "__main__":
    auto_cli(overfit)
