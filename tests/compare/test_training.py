import json
import math
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tiedconv.compare import classification, compare
from tiedconv.compare.results import ModelResult
from tiedconv.compare.runner import train_run
from tiedconv.compare.training import Budget, History, ModelSpec, check_same_run, describe_run
from tiedconv.data import Digits
from tiedconv.tasks import ClassificationTask, Optimization

SPEC = ModelSpec("resnet_tiny", kwargs={"layers": (1, 1, 1, 1)})
BUDGET = Budget(epochs=3, optimization=Optimization(lr=0.05, schedule="cosine"), mixup=0.1)


class KilledError(Exception):
    pass


def train(folder, *, spec=SPEC, seed=0, budget=BUDGET):
    data = Digits(image_size=8, batch_size=128)
    return train_run(classification.Classifiers([spec], data, budget), spec, seed, folder)


@pytest.fixture
def die_in_epoch_2(monkeypatch):
    """Let a training die in the middle of its last epoch until the returned function is called."""
    whole_step = ClassificationTask.training_step

    def dying_step(self, batch, batch_idx):
        if self.current_epoch == 2 and batch_idx == 5:
            raise KilledError
        return whole_step(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", dying_step)
    return lambda: monkeypatch.setattr(ClassificationTask, "training_step", whole_step)


def test_run_learns_and_reports_itself(tmp_path):
    run = train(tmp_path)
    assert [epoch["epoch"] for epoch in run.history] == [0, 1, 2]
    top1, confusion = run.metrics["top1"], run.details["confusion"]
    assert run.history[-1]["top1"] == pytest.approx(top1, abs=1e-6)
    assert run.history[0]["train_loss"] > run.history[-1]["train_loss"]
    assert 0.15 < top1 < run.metrics["top5"] <= 1  # a tenth by chance, with a standard error of 0.016
    assert sum(map(sum, confusion)) == 360
    assert sum(confusion[i][i] for i in range(10)) == pytest.approx(360 * top1)
    assert [sum(row) for row in confusion] == torch.tensor(Digits().split(train=False).labels).bincount().tolist()
    assert len(run.details["predictions"]) == 12
    assert all(1 / 10 <= probability <= 1 for _, probability in run.details["predictions"])
    assert run.details["similarity"]
    assert run.seconds > 0


def test_finished_run_is_read_and_not_trained_again(tmp_path, monkeypatch):
    run = train(tmp_path)
    monkeypatch.setattr(ClassificationTask, "training_step", lambda *_: pytest.fail("trained again"))
    assert train(tmp_path) == run
    with pytest.raises(ValueError, match=r"result\.json is of seed 0\. Rename its folder to seed-0"):
        train(tmp_path, seed=1)


def test_interrupted_run_ends_with_the_numbers_of_an_uninterrupted_one(tmp_path, die_in_epoch_2):
    with pytest.raises(KilledError):
        train(tmp_path / "parts")
    assert not (tmp_path / "parts" / "result.json").exists()
    die_in_epoch_2()
    resumed, whole = train(tmp_path / "parts"), train(tmp_path / "whole")
    assert replace(resumed, seconds=0) == replace(whole, seconds=0)


def test_ctrl_c_reaches_the_caller(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ClassificationTask, "training_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)


def test_seeds_differ(tmp_path):
    budget = replace(BUDGET, epochs=1)
    runs = [train(tmp_path / str(seed), seed=seed, budget=budget) for seed in (0, 1)]
    assert runs[0].history[0]["train_loss"] != runs[1].history[0]["train_loss"]


def test_folder_with_other_settings_is_refused(tmp_path):
    train(tmp_path, budget=replace(BUDGET, epochs=1))
    with pytest.raises(ValueError, match=r"budget.epochs = 1 there, 3 here.*Choose another output folder"):
        train(tmp_path)
    with pytest.raises(ValueError, match=r"model.name = 'resnet_tiny' there, 'tiedresnet_tiny' here"):
        train(tmp_path, spec=ModelSpec("tiedresnet_tiny"), budget=replace(BUDGET, epochs=1))
    assert json.loads((tmp_path / "run.json").read_text())["budget"]["epochs"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["one", "two"]}, "data.classes = 10 there, 2 here"),
        ({"images": 3}, "data.training images = 1437 there, 3 here; data.validation images = 360 there, 3 here"),
    ],
)
def test_result_of_data_that_have_changed_is_refused(tmp_path, monkeypatch, change, message):
    check_same_run(tmp_path, describe_run(SPEC, Digits(image_size=8), BUDGET))
    check_same_run(tmp_path, describe_run(SPEC, Digits(image_size=8), BUDGET))
    data = Digits(image_size=8)
    if "classes" in change:
        monkeypatch.setattr(data, "classes", change["classes"])
    else:
        monkeypatch.setattr(data, "split", lambda train: range(change["images"]))
    with pytest.raises(ValueError, match=message):
        check_same_run(tmp_path, describe_run(SPEC, data, BUDGET))


def test_a_loss_that_overflows_is_kept_as_none():
    history = History({"train_loss": "train/loss", "top1": "val/top1"})
    logged = {"train/loss": torch.tensor(math.inf), "val/top1": torch.tensor(0.5)}
    history.on_train_epoch_end(SimpleNamespace(callback_metrics=logged, current_epoch=3), None)
    assert history.epochs == [{"epoch": 3, "train_loss": None, "top1": 0.5}]


def test_a_default_label_is_the_name_of_a_folder():
    spec = ModelSpec("torchvision/resnet18", kwargs={"checkpoint_path": "a/b.pth"})
    assert spec.label == "torchvision resnet18(checkpoint_path=a b.pth)"


@pytest.mark.parametrize("content", ["", "[]", '{"model": 1}', "null"])
def test_damaged_settings_are_named(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(
        ValueError,
        match=rf"^{tmp_path}/run\.json is damaged or of another version \(.*\. Remove the folder {tmp_path} ",
    ):
        check_same_run(tmp_path, describe_run(SPEC, Digits(image_size=8), BUDGET))


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"seed": 0, "top1": 0.5, "history": []}', "null"])
def test_damaged_result_is_named(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/result\.json is damaged or .* \(.*\. Remove it: "):
        train(tmp_path)


def test_the_report_is_written_after_every_run_and_the_time_left_is_said(tmp_path):
    said = []

    def log(line):
        said.append(line)
        if line.startswith("[2/2]"):
            raise KilledError

    data = Digits(image_size=8, batch_size=128)
    with pytest.raises(KilledError):
        compare([SPEC], data, Budget(epochs=1), [0, 1], tmp_path, log=log)
    assert re.fullmatch(r" +top-1 \d+\.\d\d% after \d+ s of training, about 0:00:\d\d left for 1 more", said[1])
    [model] = json.loads((tmp_path / "results.json").read_text())["models"]
    assert [run["seed"] for run in model["runs"]] == [0]
    assert "1 of 2 runs are finished." in (tmp_path / "report.html").read_text()


def test_labels_name_folders():
    assert ModelSpec("resnet_tiny", kwargs={"base_width": 61}).label == "resnet_tiny(base_width=61)"
    with pytest.raises(ValueError, match=r"label='a/b' .* without slashes"):
        ModelSpec("resnet_tiny", label="a/b")


def test_budget_needs_an_epoch():
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        Budget(epochs=0)
    with pytest.raises(ValueError, match=r"precision must be one of 32-true, bf16-mixed, 16-mixed, got '64-true'"):
        Budget(precision="64-true")


def test_network_without_feature_maps_is_trained_without_the_similarity(tmp_path):
    vit = ModelSpec("vit_tiny_patch16_224", kwargs={"img_size": 8, "patch_size": 4, "depth": 1})
    with pytest.warns(UserWarning, match="no filter similarity for this network"):
        run = train(tmp_path, spec=vit, budget=Budget(epochs=1))
    assert run.details["similarity"] == []
    assert run.metrics["top5"] > 0


def test_what_cannot_be_deployed_is_said_and_the_others_are_measured(monkeypatch):
    said = []
    data = Digits(image_size=8, batch_size=4)
    results = [ModelResult(name, name, {}, 1, 1) for name in ("resnet_tiny", "tiedresnet_tiny")]
    export = classification.to_onnx

    def to_onnx(model, path, **options):
        if path.endswith("0.onnx"):
            raise RuntimeError("no such operator")
        return export(model, path, **options)

    monkeypatch.setattr(classification, "to_onnx", to_onnx)
    untied, tied = classification._measure_deployed(results, data, said.append)
    assert said == ["deployed speed of resnet_tiny is not measured: no such operator"]
    assert untied.deployed_bytes is None
    assert tied.deployed_bytes > 1_000_000
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr(classification, "to_onnx", export)
    assert classification._measure_deployed(results, data, said.append) == results
    assert said[-1].endswith("onnxscript is needed here and not installed. Run: pip install 'tiedconv[export]'")
