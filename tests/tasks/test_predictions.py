import csv
import json
import os
import resource
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from tiedconv.data import Digits
from tiedconv.tasks import ClassificationTask
from tiedconv.tasks.predictions import ClassWriter, DetectionWriter

LATIN = os.fsdecode(b"caf\xe9.png")
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def trainer(folder, classes):
    return SimpleNamespace(
        datamodule=SimpleNamespace(classes=classes),
        world_size=1,
        log_dir=None,
        default_root_dir=str(folder),
        strategy=SimpleNamespace(barrier=lambda: None),
    )


def table(folder):
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def write_classes(folder, *batches, classes=("cat", "dog")):
    writer, made = ClassWriter(), trainer(folder, classes)
    writer.on_predict_start(made, None)
    for sources in batches:
        prediction = {"source": sources, "probabilities": torch.tensor([[0.25, 0.75]] * len(sources))}
        writer.write_on_batch_end(made, None, prediction, None, (None, sources, []), 0, 0)
        yield table(folder)


def test_names_that_are_not_utf8_are_written_out(tmp_path):
    (rows,) = write_classes(tmp_path, ["a.png", LATIN], classes=["cat", LATIN])
    assert rows[1:] == [
        ["a.png", r"caf\udce9.png", "0.7500", "cat", "0.2500"],
        [r"caf\udce9.png", r"caf\udce9.png", "0.7500", "cat", "0.2500"],
    ]


def test_the_table_is_there_after_every_batch_and_begins_anew_with_every_run(tmp_path):
    for _ in range(2):
        lengths = [len(rows) for rows in write_classes(tmp_path, ["a.png", "b, c.png"], ["d\ne.png"])]
        assert lengths == [3, 4]


@pytest.mark.parametrize("name", ["n" * 251, "日" * 80, os.fsdecode(b"\xe9" * 251)])
def test_pictures_of_the_longest_names_are_drawn(tmp_path, name):
    writer, made = DetectionWriter(), trainer(tmp_path, [LATIN])
    found = {"labels": torch.tensor([1]), "scores": torch.tensor([0.5]), "boxes": torch.tensor([[1.0, 1, 9, 9]])}
    writer.on_predict_start(made, None)
    sources = [f"mine/{name}.png"] * 2
    for batch in range(2):
        prediction = {"source": sources, "detections": [found] * 2}
        writer.write_on_batch_end(made, None, prediction, None, (torch.zeros(2, 3, 16, 16), sources, []), 0, 0)
        listed = json.loads((tmp_path / "predictions.json").read_text())  # whole after every batch
        assert [one["image"] for one in listed] == sources * (batch + 1)
    assert {tmp_path / one["picture"] for one in listed} == set((tmp_path / "predictions").iterdir())
    assert len(list((tmp_path / "predictions").iterdir())) == 4


@pytest.mark.parametrize("kind", [ClassWriter, DetectionWriter])
def test_a_batch_that_finds_the_disk_full_leaves_the_file_as_it_was(tmp_path, kind):
    writer, made = kind(), trainer(tmp_path, ["cat", "dog"])
    found = {"labels": torch.tensor([1]), "scores": torch.tensor([0.5]), "boxes": torch.tensor([[1.0, 1, 9, 9]])}

    def write(name):
        prediction = {"source": [name], "probabilities": torch.tensor([[0.25, 0.75]]), "detections": [found]}
        writer.write_on_batch_end(made, None, prediction, None, (torch.zeros(1, 3, 16, 16), [name], []), 0, 0)
        return writer.path.read_bytes()

    writer.on_predict_start(made, None)
    before = write("a.png")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write("b" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert writer.path.read_bytes() == before
    assert write("c.png") != before
    if kind is DetectionWriter:
        assert [one["image"] for one in json.loads(writer.path.read_text())] == ["a.png", "c.png"]
    else:
        assert [row[0] for row in table(tmp_path)[1:]] == ["a.png", "c.png"]


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_images_cost_no_other_predictions(tmp_path, workers):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(6):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (16, 16), np.uint8)).save(photos / f"{i}.png")
    whole = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(whole[: len(whole) // 2])
    for damaged in (2, 3):  # a batch of its own
        (photos / f"{damaged}.png").write_text("no image" * (damaged - 2))
    (photos / "7.png").mkdir()
    (photos / "7.png" / "two\nlines.png").write_text("no image")
    data = Digits(batch_size=2, num_workers=workers, predict_path=str(photos))
    task = ClassificationTask("tiedresnet_tiny", num_classes=10, in_chans=1)
    with pytest.raises(
        OSError, match=r"4 of 7 images have no prediction, see .*failed\.txt\. The first: .*1\.png cannot"
    ):
        L.Trainer(**QUIET, default_root_dir=tmp_path).predict(task, data, return_predictions=False)
    rows = table(tmp_path)
    assert [row[0] for row in rows[1:]] == [str(photos / f"{i}.png") for i in (0, 4, 5)]
    reasons = (tmp_path / "predictions-failed.txt").read_text().splitlines()
    failed = [str(photos / name) for name in ("1.png", "2.png", "3.png", r"7.png/two\nlines.png")]
    assert [reason.partition(" cannot")[0] for reason in reasons] == failed
