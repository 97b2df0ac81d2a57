"""Small data sets in COCO's format, and pycocotools' figures for them as a reference."""

import contextlib
import copy
import io
import random

import numpy as np
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

HEIGHT, WIDTH = 170, 210


def generate(seed, images=12, noise=0.05):
    """Return a ground truth and detections with boxes and masks, ``noise`` far from it.

    There are images without objects and without detections, crowds, several categories, one of them without objects,
    gaps in the ids, and objects of every size.
    """
    rng = random.Random(seed)
    truth = {
        "images": [{"id": 3 * i + 5, "height": HEIGHT, "width": WIDTH} for i in range(images)],
        "annotations": [],
        "categories": [{"id": c, "name": f"c{c}"} for c in (2, 3, 7, 11)],
    }
    results = []
    for image in truth["images"][1:]:
        for _ in range(rng.randint(0, 6)):
            box = [rng.randint(0, WIDTH // 2), rng.randint(0, HEIGHT // 2)]
            box += [rng.randint(4, WIDTH - box[0]), rng.randint(4, HEIGHT - box[1])]
            category, crowd, round_ = rng.choice((2, 3, 7)), rng.random() < 0.1, rng.random() < 0.5
            region = rle(ellipse(box)) if round_ or crowd else [corners(box)]
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]),  # from 0 on, as some tools count
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": box,
                    "area": int(ellipse(box).sum()) if round_ or crowd else box[2] * box[3],
                    "iscrowd": int(crowd),
                    "segmentation": region,
                }
            )
            for _ in range(rng.randint(0, 3)):
                near = [max(1, round(value + rng.gauss(0, noise * max(box[2:])))) for value in box]
                near[0], near[1] = min(near[0], WIDTH - 5), min(near[1], HEIGHT - 5)
                near[2], near[3] = min(near[2], WIDTH - near[0]), min(near[3], HEIGHT - near[1])
                results.append(
                    {
                        "image_id": image["id"],
                        "category_id": category if rng.random() < 0.8 else rng.choice((2, 3, 7, 11)),
                        "bbox": near,
                        "segmentation": rle(ellipse(near) if round_ else rectangle(near)),
                        "score": rng.random(),
                    }
                )
    return truth, results


def rectangle(box):
    x, y, width, height = box
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + height, x : x + width] = 1
    return mask


def ellipse(box):
    x, y, width, height = box
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    inside = ((columns - x) / width - 0.5) ** 2 + ((rows - y) / height - 0.5) ** 2 <= 0.25
    return inside.astype(np.uint8)


def corners(box):
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def rle(mask):
    code = masks.encode(np.asfortranarray(mask))
    return {"size": code["size"], "counts": code["counts"].decode()}


def reference(truth, results, kind):
    """Return the six figures by pycocotools, -1 where there is nothing to find."""
    truth = copy.deepcopy(truth)
    for number, annotation in enumerate(truth["annotations"], start=1):
        annotation["id"] = number  # pycocotools takes the id 0 for unmatched
    key = "bbox" if kind == "box" else "segmentation"
    results = [{name: entry[name] for name in ("image_id", "category_id", "score", key)} for entry in results]
    data = COCO()
    data.dataset = truth
    with contextlib.redirect_stdout(io.StringIO()):
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(results), "bbox" if kind == "box" else "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:6].tolist()


def two_images():
    """Image 1 has two objects of 10 x 10 that share a half, and a crowd over both; image 2 has one object."""
    annotations = [
        {"id": 1, "image_id": 1, "bbox": [0, 0, 10, 10], "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]]},
        {"id": 2, "image_id": 1, "bbox": [5, 0, 10, 10], "segmentation": [[10, 0, 15, 0, 15, 10, 10, 10]]},
        {"id": 3, "image_id": 1, "bbox": [0, 0, 20, 20], "iscrowd": 1},
        {"id": 4, "image_id": 2, "bbox": [0, 0, 10, 10], "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]]},
    ]
    for entry in annotations:
        entry.update(category_id=1, area=entry["bbox"][2] * entry["bbox"][3])
    images = [{"id": i, "height": 20, "width": 20} for i in (2, 1, 3)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1}]}
