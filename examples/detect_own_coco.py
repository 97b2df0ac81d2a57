"""A detector for images of your own: annotated in COCO's format, as annotation tools export it.

    python examples/detect_own_coco.py    # about a minute on two cores; --quick takes seconds

The folder is written here, of drawn shapes: `train.json` and `val.json` beside the images. With one of yours begin at
`Coco(...)`. The same on the command line:

    tiedconv fit --config configs/coco/own.yaml --data.root my_images
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import lightning as L
import torch
from PIL import Image, ImageDraw

from tiedconv.data import Coco
from tiedconv.detection import Widths
from tiedconv.report.drawing import draw_detections
from tiedconv.tasks import DetectionTask, Optimization, quiet_lightning

SIDES = {"circle": 30, "square": 4, "triangle": 3}


def write_coco(root: Path, split: str, images: int) -> None:
    """Write <split>/*.png and <split>.json: what a data set in COCO's format needs, and no more."""
    (root / split).mkdir(parents=True, exist_ok=True)
    draw = random.Random(split)
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(images):
        image = Image.new("RGB", (96, 96), draw.choice(["navy", "maroon", "black", "darkgreen"]))
        for corner in draw.sample([(0, 0), (48, 0), (0, 48), (48, 48)], draw.randint(1, 3)):
            kind, radius = draw.randrange(len(SIDES)), draw.randint(10, 20)
            x, y = (start + draw.randint(radius, 48 - radius) for start in corner)
            colour = draw.choice(["gold", "white", "orange", "pink"])
            shape = Image.new("L", image.size)
            ImageDraw.Draw(shape).regular_polygon((x, y, radius), list(SIDES.values())[kind], draw.randint(0, 119), 255)
            image.paste(colour, mask=shape)
            left, top, right, bottom = shape.getbbox() or (0, 0, 0, 0)  # never empty here
            box = [left, top, right - left, bottom - top]
            annotations.append({"id": len(annotations), "image_id": number, "category_id": kind, "bbox": box})
        image.save(root / split / f"{number}.png")
        records.append({"id": number, "file_name": f"{split}/{number}.png", "width": 96, "height": 96})
    categories = [{"id": i, "name": name} for i, name in enumerate(SIDES)]
    content = {"images": records, "annotations": annotations, "categories": categories}
    (root / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/examples/detect_own_coco"))
    parser.add_argument("--quick", action="store_true", help="one epoch of few images")
    args = parser.parse_args()

    root = args.output / "images"
    train, val, epochs = (16, 4, 1) if args.quick else (200, 50, 5)
    write_coco(root, "train", train)
    write_coco(root, "val", val)

    L.seed_everything(0, verbose=False)
    # masks=False: these annotations are boxes. With outlines leave it out, and take "mask_rcnn" below.
    data = Coco(str(root), "train.json", val_annotations="val.json", masks=False, batch_size=4, num_workers=0)
    task = DetectionTask(
        "faster_rcnn",
        backbone="tiedresnet_tiny",
        num_classes=data.num_classes,  # the background included
        # Small images and a small training: leave out widths and options for photographs.
        widths=Widths(fpn=64, box=256),
        options={
            "min_size": 96,
            "max_size": 96,
            "rpn_post_nms_top_n_train": 100,
            "rpn_post_nms_top_n_test": 50,
            "box_batch_size_per_image": 64,
        },
        optimization=Optimization(lr=0.02, schedule="cosine", warmup_epochs=0.5),
    )
    print(f"{train} images to train on, {val} to test on; classes: {', '.join(data.classes)}")
    silent: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with quiet_lightning(advice=False):
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            gradient_clip_val=10,
            default_root_dir=args.output,  # for results.json
            num_sanity_val_steps=0,
            enable_model_summary=False,
            **silent,
        )
        trainer.fit(task, datamodule=data)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    print(f"box AP {metrics['val/box_AP']:.3f}, AP50 {metrics['val/box_AP50']:.3f} after {epochs} epochs")

    image, truth = data.with_targets()[0]
    with torch.no_grad():
        (found,) = task.eval()([image])
    best = {name: value[:5] for name, value in found.items()}  # sorted by score
    picture = args.output / "prediction.png"
    draw_detections(image, best, data.classes, min_score=0.5).save(picture)
    print(f"{picture}: {(best['scores'] >= 0.5).sum()} shapes found, {len(truth['boxes'])} are there")


if __name__ == "__main__":
    main()
