import json
import os
from types import SimpleNamespace

import pytest
import torch

from tiedconv.tasks.predictions import ClassWriter, DetectionWriter

LATIN = os.fsdecode(b"caf\xe9.png")


def trainer(folder, classes):
    return SimpleNamespace(
        datamodule=SimpleNamespace(classes=classes), world_size=1, log_dir=None, default_root_dir=str(folder)
    )


def write_classes(folder, sources, classes=("cat", "dog")):
    batch = {"source": sources, "probabilities": torch.tensor([[0.25, 0.75]] * len(sources))}
    ClassWriter().write_on_epoch_end(trainer(folder, classes), None, [batch], [])
    return (folder / "predictions.csv").read_text(encoding="utf-8").splitlines()


def test_names_that_are_no_utf8_are_written_out(tmp_path):
    assert write_classes(tmp_path, ["a.png", LATIN], ["cat", LATIN])[1:] == [
        r"a.png,caf\udce9.png,0.7500,cat,0.2500",
        r"caf\udce9.png,caf\udce9.png,0.7500,cat,0.2500",
    ]


def test_half_a_table_is_no_file(tmp_path):
    batch = {"source": ["a.png", "b.png"], "probabilities": torch.tensor([[0.25, 0.75]])}
    with pytest.raises(ValueError, match="zip"):
        ClassWriter().write_on_epoch_end(trainer(tmp_path, ["cat", "dog"]), None, [batch], [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["n" * 251, "日" * 80, os.fsdecode(b"\xe9" * 251)])
def test_pictures_of_the_longest_names_are_drawn(tmp_path, name):
    writer, made = DetectionWriter(), trainer(tmp_path, [LATIN])
    found = {"labels": torch.tensor([1]), "scores": torch.tensor([0.5]), "boxes": torch.tensor([[1.0, 1, 9, 9]])}
    writer.on_predict_start(made, None)
    prediction = {"source": [f"mine/{name}.png"] * 2, "detections": [found] * 2}
    writer.write_on_batch_end(made, None, prediction, None, [torch.zeros(2, 3, 16, 16)], 0, 0)
    writer.on_predict_end(made, None)
    listed = json.loads((tmp_path / "predictions.json").read_text())
    assert [one["image"] for one in listed] == [f"mine/{name}.png"] * 2
    assert {tmp_path / one["picture"] for one in listed} == set((tmp_path / "predictions").iterdir())
    assert len(list((tmp_path / "predictions").iterdir())) == 2
