"""What ``tiedconv predict`` leaves behind: a table of classes, or pictures of detections."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter

from .._files import printable, write_whole
from ..report.drawing import draw_detections


class ClassWriter(BasePredictionWriter):
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
        path = _output(trainer, "predictions", ".csv")
        shown = min(5, len(classes))
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(["image", *(f"{what}{i}" for i in range(1, shown + 1) for what in ("class", "probability"))])
        for batch in predictions:
            best = batch["probabilities"].topk(shown)
            for source, values, indices in zip(batch["source"], *map(list, best), strict=True):
                pairs = zip(indices.tolist(), values.tolist(), strict=True)
                writer.writerow([source, *(x for i, p in pairs for x in (classes[i], f"{p:.4f}"))])
        write_whole(path, printable(table.getvalue()))
        print(f"Predictions: {path}")


class DetectionWriter(BasePredictionWriter):
    """Draw detections into the folder ``predictions`` of the log folder, and list them in ``predictions.json``.

    The list has one entry an image: ``image``, its path, ``picture``, from the list's folder on, and ``detections``,
    best first, each with ``class``, ``score`` (0-1) and ``box``, ``[x1, y1, x2, y2]`` in pixels of the image.
    """

    def __init__(self) -> None:
        super().__init__("batch")
        self._listed: list[dict[str, Any]] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._listed = []
        # Once and here: the folder is broadcast, and devices can have different numbers of batches.
        self._path = _output(trainer, "predictions", ".json")
        self._path.with_suffix("").mkdir(exist_ok=True)

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        classes = trainer.datamodule.classes  # type: ignore[attr-defined]
        for image, source, found in zip(batch[0], prediction["source"], prediction["detections"], strict=True):
            # Numbered, as images of one name may come from several folders; cut, as a name is at most 255 bytes long.
            picture = self._path.with_suffix("") / f"{len(self._listed):05d}-{Path(source).stem[:60]}.png"
            draw_detections(image, found, classes, min_score=0).save(picture)
            columns = zip(found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True)
            self._listed.append(
                {
                    "image": source,
                    "picture": str(picture.relative_to(self._path.parent)),
                    "detections": [
                        {"class": classes[label - 1], "score": round(score, 4), "box": [round(v, 2) for v in box]}
                        for label, score, box in columns
                    ],
                }
            )

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        write_whole(self._path, json.dumps(self._listed, indent=1))
        print(f"Pictures:    {self._path.with_suffix('')}\nPredictions: {self._path}")


def _output(trainer: L.Trainer, stem: str, suffix: str) -> Path:
    """Return a path in the log folder, which is made; each of several processes has its own."""
    rank = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
    folder = Path(trainer.log_dir or trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{stem}{rank}{suffix}"
