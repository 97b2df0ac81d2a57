"""What a resume takes from a checkpoint, and what from the options that are given."""

import csv
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.cli.trainings import last

from tiedconv.data import ImageFolder, write_shards
from tiedconv.tasks import ClassificationTask

SIX = {"limit_train_batches": 6}
DIGITS = {"class_path": "Digits", "init_args": {"image_size": 8, "batch_size": 8}}


def changed(**options) -> dict:
    return {**DIGITS, "init_args": {**DIGITS["init_args"], **options}}


def group(content: dict) -> dict:
    return content["optimizer_states"][0]["param_groups"][0]


def images(root: str, *classes: str) -> dict:
    for part in ("train", "val"):
        for name in classes:
            Path(root, part, name).mkdir(parents=True)
            for i in range(4):
                Image.effect_noise((32, 32), 50).convert("RGB").save(Path(root, part, name, f"{i}.png"))
    return {
        "class_path": "ImageFolder",
        "init_args": {"root": root, "image_size": 32, "batch_size": 4, "num_workers": 0},
    }


INSIDE = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")


@INSIDE
@pytest.mark.parametrize("stopped_by", ["max_steps", "a callback"])  # such as the one of max_time
def test_a_training_that_is_stopped_inside_an_epoch_takes_up_its_rest(fit, monkeypatch, stopped_by):
    fit(max_epochs=3, **SIX)
    expected = last(epoch=2)
    shutil.rmtree("kept")
    if stopped_by == "max_steps":
        fit(max_epochs=3, max_steps=9, **SIX)
    else:
        step = ClassificationTask.training_step

        def stopping(task, batch, batch_idx):
            task.trainer.should_stop = task.global_step == 8
            return step(task, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(ClassificationTask, "training_step", stopping)
            fit(max_epochs=3, **SIX)
    assert last(epoch=1)["global_step"] == 9
    fit("--ckpt_path=last", max_epochs=3, **SIX)
    found = last(epoch=2)
    assert found["global_step"] == 18
    torch.testing.assert_close(found["state_dict"], expected["state_dict"], rtol=0, atol=0)


def test_more_epochs_than_before_have_their_own_schedule(fit):
    fit(max_epochs=2)
    assert group(last(epoch=1))["lr"] == 0  # the end of a cosine of two
    fit("--ckpt_path=last", max_epochs=4)
    rows = csv.DictReader(Path("runs/fit/version_1/metrics.csv").read_text().splitlines())
    rates = [float(row["lr"]) for row in rows if row["lr"]]
    assert rates == [pytest.approx(0.01 / 2), pytest.approx(0.01 * (1 - 2**-0.5) / 2)]


@pytest.mark.parametrize(
    ("before", "after"),
    [({"limit_train_batches": 2}, {"limit_train_batches": 8}), ({"limit_train_batches": 8}, {"limit_train_batches": 2}),
     ({"limit_train_batches": 6}, {"limit_train_batches": 6, "accumulate_grad_batches": 4})],
    ids=["more steps", "fewer steps", "accumulation"],
)  # fmt: skip
def test_the_schedule_goes_on_after_the_epochs_done_however_many_steps_they_had(fit, before, after):
    fit(max_epochs=2, **before)
    fit("--ckpt_path=last", max_epochs=4, **after)
    rows = csv.DictReader(Path("runs/fit/version_1/metrics.csv").read_text().splitlines())
    steps = math.ceil(after["limit_train_batches"] / after.get("accumulate_grad_batches", 1))
    rates = [0.01 * (1 + math.cos(math.pi * (0.5 + i / steps / 4))) / 2 for i in range(2 * steps)]
    found = [float(row["lr"]) for row in rows if row["lr"]]
    assert len(found) == 2
    assert min(rates[:steps]) <= found[0] <= max(rates[:steps])
    assert min(rates[steps:]) <= found[1] <= max(rates[steps:])
    assert group(last(epoch=3))["lr"] == pytest.approx(0, abs=1e-9)


def test_a_learning_rate_that_is_given_counts(fit):
    fit(max_epochs=2)
    fit("--ckpt_path=last", "--model.optimization.weight_decay=0.5", max_epochs=3, lr=0.4)
    found = group(last(epoch=2))
    assert found["initial_lr"] == 0.4
    assert found["weight_decay"] == 0.5


def test_max_steps_ends_a_schedule_early_and_does_not_compress_it(fit):
    fit("--model.optimization.schedule=step", "--model.optimization.decay_epochs=2", max_epochs=4, max_steps=6, **SIX)
    assert group(last(epoch=0))["lr"] == 0.01


def test_another_optimizer_is_refused(fit):
    fit()
    with pytest.raises(SystemExit, match=r"state of the optimizer sgd, the training has adamw\. Give the same"):
        fit("--ckpt_path=last", "--model.optimization.optimizer=adamw", max_epochs=2)


@INSIDE
def test_seed_and_batch_size_change_at_the_end_of_an_epoch_alone(fit):
    fit(max_epochs=2, max_steps=9, **SIX)
    shutil.copy("kept/last.ckpt", "inside.ckpt")
    for options, data, message in (
        (["--seed_everything=5"], None, "seed = 0 there, 5 here"),
        ([], changed(batch_size=4), "images a step = 8 there, 4 here"),
    ):
        with pytest.raises(SystemExit, match=rf"from the middle of an epoch, with {message}: images would be left out"):
            fit("--ckpt_path=inside.ckpt", *options, data=data, max_epochs=2, **SIX)
    fit("--ckpt_path=last", max_epochs=2, **SIX)
    fit("--ckpt_path=last", "--seed_everything=5", data=changed(batch_size=4), max_epochs=3, **SIX)
    last(epoch=2)


@INSIDE
def test_images_and_their_window_stay_inside_an_epoch(fit):
    images("pets", "cat", "dog")
    write_shards(ImageFolder("pets", image_size=32), "shards", images_per_shard=2)

    def go_on(window: int | None = None, *options: str, **settings) -> None:
        data = {"root": "shards", "image_size": 32, "batch_size": 4, "num_workers": 0, "window": window}
        data = {"class_path": "StreamedImages", "init_args": data}
        fit(*options, data=data, max_epochs=2, limit_train_batches=2, **settings)

    go_on(max_steps=3)
    with pytest.raises(SystemExit, match=r"with window = None there, 1 here: images would be left out"):
        go_on(1, "--ckpt_path=last")
    shutil.copy("pets/train/cat/0.png", "pets/train/cat/4.png")
    shutil.rmtree("shards")
    write_shards(ImageFolder("pets", image_size=32), "shards", images_per_shard=2)
    with pytest.raises(SystemExit, match=r"with training images = 8 there, 9 here: images would be left out"):
        go_on(None, "--ckpt_path=last")


def test_data_of_other_classes_are_refused(fit):
    fit(data=images("pets", "cat", "dog"))
    fruit = images("fruit", "apple", "pear")
    for command in ("fit", "validate", "predict"):
        with pytest.raises(SystemExit, match=r"its classes are cat, dog, those of the data apple, pear\. Give the d"):
            fit("--ckpt_path=kept/last.ckpt", command=command, data=fruit, max_epochs=2)


def test_a_folder_that_holds_a_training_is_not_written_over(fit):
    fit(max_epochs=2)
    before = {path: path.read_bytes() for path in Path("kept").iterdir()}
    with pytest.raises(SystemExit, match=r"--checkpoint.dirpath kept holds checkpoints .*Add --ckpt_path last to go"):
        fit()
    assert before == {path: path.read_bytes() for path in Path("kept").iterdir()}


def test_a_folder_is_no_checkpoint(fit):
    fit()
    with pytest.raises(SystemExit, match=r"kept is a folder\. Give a file in it, such as .*\.ckpt"):
        fit("--ckpt_path=kept", max_epochs=2)


def test_weights_that_are_not_finite_are_refused(fit):
    fit()
    for name in ("conv1.weight", "bn1.running_var"):
        content = last(epoch=0)
        content["state_dict"][f"model.{name}"].view(-1)[0] = float("nan")
        torch.save(content, "bad.ckpt")
        for command in ("fit", "validate"):
            with pytest.raises(SystemExit, match=rf"not finite, in model.{name}. Give another one"):
                fit("--ckpt_path=bad.ckpt", command=command, max_epochs=2)


def test_statistics_that_are_not_finite_do_not_replace_a_good_checkpoint(fit, monkeypatch):
    fit()
    monkeypatch.setattr(
        ClassificationTask, "on_validation_start", lambda task: task.model.bn1.running_var.fill_(float("nan"))
    )
    with pytest.raises(SystemExit, match=r"diverged in epoch 2: "):
        fit("--ckpt_path=last", max_epochs=2)
    last(epoch=0)


@pytest.mark.parametrize("place", ["kept/../precious", "precious", "kept/precious", "kept/nested/x.ckpt"])
def test_a_checkpoint_of_somebody_deletes_nothing(fit, tmp_path, place):
    fit()
    precious = tmp_path / place
    precious.mkdir(parents=True)
    (precious / "work.txt").write_text("of years")
    content = last(epoch=0)
    for state in content["callbacks"].values():
        state.update(best_model_path=str(precious), kth_best_model_path=str(precious), last_model_path=str(precious))
        state["best_k_models"] = {str(precious): torch.tensor(0.0)}
    torch.save(content, "kept/foreign.ckpt")
    fit("--ckpt_path=kept/foreign.ckpt", max_epochs=3)
    assert (precious / "work.txt").exists()


def test_old_best_checkpoints_are_still_replaced_after_a_resume(fit):
    fit(lr=0.05)
    fit("--ckpt_path=last", max_epochs=4, lr=0.05)
    assert len(list(Path("kept").iterdir())) == 2
