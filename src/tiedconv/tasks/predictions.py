"""What ``tiedconv predict`` leaves behind: a table of classes, or pictures of detections."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter

from .._files import printable
from ..report.drawing import draw_detections


class PredictionWriter(BasePredictionWriter):
    """Write predictions batch by batch, so that neither an interruption nor a damaged image costs those made before.

    Images that could not be read are listed with the reason in ``predictions-failed.txt``, one per line, and end the
    run with an error once all others are done. With several processes each has files of its own, such as
    ``predictions-rank0.csv``.

    Raises:
        OSError: at the end, if an image could not be read; at once, if the disk is full. What was written before stays
            whole.
    """

    suffix: str
    end = b""  # what closes the file

    def __init__(self) -> None:
        super().__init__("batch")

    def begin(self, classes: Sequence[str]) -> None:
        """Begin the file ``self.path``."""
        raise NotImplementedError

    def write(self, classes: Sequence[str], images: Sequence[Any], prediction: dict[str, Any]) -> None:
        """Write what was found in a batch."""
        raise NotImplementedError

    def append(self, content: bytes) -> None:
        """Write ``content`` before the end of ``self.path``, or leave the file as it was."""
        with self.path.open("r+b", buffering=0) as file:
            end = file.seek(-len(self.end), os.SEEK_END)
            try:
                _write(file, content + self.end)
            except BaseException:  # a full disk, Ctrl-C
                file.seek(end)
                _write(file, self.end)
                file.truncate()
                raise

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        rank = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        # Here, as the folder is broadcast, and devices can have different numbers of batches.
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"predictions{rank}{self.suffix}"
        self.failed_path = folder / f"predictions-failed{rank}.txt"
        self.failed_path.unlink(missing_ok=True)  # of an earlier run with the same folder
        self.done = 0
        self.failed: list[str] = []
        self.begin(trainer.datamodule.classes)  # type: ignore[attr-defined]

    def write_on_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, prediction: Any, indices: Any, batch: Any, *given: Any
    ) -> None:
        images, sources, reasons = batch
        if reasons:
            with self.failed_path.open("a", encoding="utf-8") as file:
                file.writelines(printable(reason).replace("\n", "\\n") + "\n" for reason in reasons)
            self.failed += reasons
        if sources:
            self.write(trainer.datamodule.classes, images, prediction)  # type: ignore[attr-defined]
            self.done += len(sources)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.print_paths()
        trainer.strategy.barrier()  # the error of one process ends the others
        if self.failed:
            raise OSError(
                f"{len(self.failed)} of {self.done + len(self.failed)} images have no prediction, see "
                f"{self.failed_path}. The first: {self.failed[0]}"
            )

    def print_paths(self) -> None:
        """Print where the predictions are."""
        print(f"Predictions: {self.path}")


class ClassWriter(PredictionWriter):
    """Write ``predictions.csv`` into the log folder: image, class, probability, best first, up to five per row."""

    suffix = ".csv"

    def begin(self, classes: Sequence[str]) -> None:
        self.shown = min(5, len(classes))
        heading = [f"{what}{i}" for i in range(1, self.shown + 1) for what in ("class", "probability")]
        self.path.write_bytes(_rows([["image", *heading]]))

    def write(self, classes: Sequence[str], images: Sequence[Any], prediction: dict[str, Any]) -> None:
        rows = []
        best = prediction["probabilities"].topk(self.shown)
        for source, values, indices in zip(prediction["source"], *map(list, best), strict=True):
            pairs = zip(indices.tolist(), values.tolist(), strict=True)
            rows.append([source, *(x for i, p in pairs for x in (classes[i], f"{p:.4f}"))])
        self.append(_rows(rows))


class DetectionWriter(PredictionWriter):
    """Draw detections into the folder ``predictions`` of the log folder, and list them in ``predictions.json``.

    The list has one entry per image: ``image``, its path, ``picture``, from the list's folder on, and ``detections``,
    best first, each with ``class``, ``score`` (0-1) and ``box``, ``[x1, y1, x2, y2]`` in pixels of the image.
    """

    suffix = ".json"
    end = b"\n]"

    @property
    def pictures(self) -> Path:
        """The folder of drawn images."""
        return self.path.with_suffix("")

    def begin(self, classes: Sequence[str]) -> None:
        self.pictures.mkdir(exist_ok=True)
        self.path.write_bytes(b"[" + self.end)

    def print_paths(self) -> None:
        super().print_paths()
        print(f"Pictures:    {self.pictures}")

    def write(self, classes: Sequence[str], images: Sequence[Any], prediction: dict[str, Any]) -> None:
        entries: list[str] = []
        for image, source, found in zip(images, prediction["source"], prediction["detections"], strict=True):
            # Numbered, as images of one name may come from several folders; cut, as a name is at most 255 bytes long.
            name = f"{self.done + len(entries):05d}-{Path(source).stem[:60]}.png"
            picture = self.pictures / name
            draw_detections(image, found, classes, min_score=0).save(picture)
            columns = zip(found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True)
            entry = {
                "image": source,
                "picture": str(picture.relative_to(self.path.parent)),
                "detections": [
                    {"class": classes[label - 1], "score": round(score, 4), "box": [round(v, 2) for v in box]}
                    for label, score, box in columns
                ],
            }
            entries.append(json.dumps(entry))
        self.append((("," if self.done else "") + "\n" + ",\n".join(entries)).encode())


def _rows(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _write(file: io.FileIO, content: bytes) -> None:
    while content:  # a nearly full disk takes a part
        content = content[file.write(content) :]
