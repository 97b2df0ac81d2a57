"""Whatever goes wrong in a training: a message that says what to do, and the last good checkpoint stays."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image, UnidentifiedImageError
from tests.cli.trainings import ONE_STEP, TINY, TRAINER, last
from torch.utils.data import DataLoader, Dataset

from tiedconv.cli.main import main
from tiedconv.tasks import ClassificationTask, DetectionTask, quiet_lightning


def images(folder: Path) -> Path:
    for part in ("train", "val"):
        for name in ("a", "b"):
            path = folder / part / name / "photo.png"
            path.parent.mkdir(parents=True)
            Image.effect_noise((40, 40), 50).convert("RGB").save(path)
    return folder


def photos(root: Path, workers: int = 0) -> dict:
    return {
        "class_path": "ImageFolder",
        "init_args": {"root": str(root), "image_size": 32, "batch_size": 2, "num_workers": workers},
    }


class FullDisk:
    """A file on a disk that takes a little of it and then nothing more."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        self.file.write(bytes(content[:1000]))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_keeps_the_checkpoint_of_before(fit, monkeypatch):
    fit()
    before = Path("kept/last.ckpt").read_bytes()
    whole_open = Path.open

    def full(self, mode="r", *args, **kwargs):
        file = whole_open(self, mode, *args, **kwargs)
        return FullDisk(file) if ".ckpt" in self.name and "w" in mode else file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(SystemExit, match=r"cannot be written: No space left on device.*Make room"):
            fit("--ckpt_path=last", max_epochs=2)
    assert Path("kept/last.ckpt").read_bytes() == before
    assert not list(Path("kept").glob("*.part"))
    fit("--ckpt_path=last", max_epochs=2)
    last(epoch=1)


def test_a_full_disk_elsewhere_is_named_too():
    with pytest.raises(OSError, match=r"No space left.*The disk is full. Make room"), quiet_lightning(advice=True):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.csv")


ON_A_SMALL_DISK = """
import os, subprocess
from pathlib import Path
from tiedconv.cli.main import main

def fit(epochs):
    try:
        main(["fit", "--config", "command.yaml", "--ckpt_path", "last", f"--trainer.max_epochs={epochs}"])
    except SystemExit as stop:
        with open("messages", "a") as file:  # what other threads print gets in between elsewhere
            file.write(stop.code)

fit(1)
kept = Path("disk/kept/last.ckpt")
before = kept.read_bytes()
with open("disk/filler", "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
for left in (0, 200_000):  # no room for a log; for a log, but not for a checkpoint
    os.truncate("disk/filler", os.path.getsize("disk/filler") - left)
    fit(2)
    assert kept.read_bytes() == before
os.remove("disk/filler")
fit(2)
assert kept.read_bytes() != before
subprocess.run(["mount", "-o", "remount,ro", "disk"], check=True)
fit(3)
"""
MOUNT = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs -o size=30m tmpfs disk && "$@"', "-"]


@pytest.mark.slow
def test_a_disk_that_is_full_or_read_only(tmp_path):
    (tmp_path / "disk").mkdir()
    if not shutil.which("unshare") or subprocess.run([*MOUNT, "true"], cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("needs a Linux that lets its users mount")
    init = {"model": "resnet_tiny", "model_kwargs": TINY, "optimization": {"schedule": "cosine", "lr": 0.01}}
    config = {
        "model": {"class_path": "ClassificationTask", "init_args": init},
        "data": {"class_path": "Digits", "init_args": {"image_size": 8, "batch_size": 8}},
        "trainer": {**TRAINER, **ONE_STEP, "default_root_dir": "disk"},
        "checkpoint": {"dirpath": "disk/kept"},
    }
    (tmp_path / "command.yaml").write_text(yaml.safe_dump(config))
    command = [*MOUNT, sys.executable, "-c", ON_A_SMALL_DISK]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    full, no_room, read_only = (tmp_path / "messages").read_text().split("tiedconv fit: ")[1:]
    assert full.startswith("[Errno 28] No space left on device. The disk is full. Make room and go on from the last")
    assert re.match(r"The checkpoint \S+ckpt cannot be written: No space left on device. .* Make room", no_room)
    assert re.match(r"cannot write --checkpoint.dirpath \S+ckpt: Read-only file system. Give another", read_only)


@pytest.mark.filterwarnings("ignore:.*there is no last checkpoint available")  # the first start, by the same command
def test_half_a_checkpoint_of_a_killed_training_is_no_obstacle(fit):
    Path("kept").mkdir()
    Path("kept/last.ckpt.part").write_bytes(b"half")
    fit("--ckpt_path=last")
    last(epoch=0)
    assert not list(Path("kept").glob("*.part"))


def test_checkpoint_is_replaced_only_when_it_is_written(fit, monkeypatch):
    """At every moment of a write there is a whole checkpoint: nothing but a rename touches it."""
    fit()
    seen = []
    whole_replace = Path.replace

    def replace(self, target):
        seen.append(
            (Path(target).name, torch.load(target, weights_only=True)["epoch"] if Path(target).exists() else None)
        )
        assert self.parent == Path(target).parent  # else it may be a copy from another disk
        return whole_replace(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    fit("--ckpt_path=last", max_epochs=2)
    assert ("last.ckpt", 0) in seen
    last(epoch=1)


def test_folder_that_cannot_be_written_is_found_before_the_training(fit, monkeypatch):
    monkeypatch.setattr(ClassificationTask, "training_step", lambda *_: pytest.fail("trained"))
    Path("kept").write_text("a file")
    with pytest.raises(SystemExit, match=r"cannot write --checkpoint.dirpath kept.last.ckpt: .*Give another"):
        fit()


def test_compare_names_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    models = ["--models=resnet_tiny", "--data=Digits", "--data.image_size=8", "--budget.epochs=1"]
    with pytest.raises(SystemExit, match=r"cannot write --output .*run.json: Not a directory"):
        main(["compare", *models, f"--output={tmp_path / 'file' / 'out'}"])


def test_damaged_checkpoint_is_refused(fit):
    fit()
    whole = Path("kept/last.ckpt").read_bytes()
    for size in (0, 10, 5000, -100):  # empty, and nearly whole at the end
        Path("bad.ckpt").write_bytes(whole[:size])
        for command in ("fit", "validate"):
            with pytest.raises(SystemExit, match=r"bad.ckpt (cannot be read|is empty|is not a)"):
                fit("--ckpt_path=bad.ckpt", command=command)
    assert Path("kept/last.ckpt").read_bytes() == whole


def test_missing_checkpoint_is_named(fit):
    with pytest.raises(SystemExit, match=r"gone.ckpt does not exist. Give a checkpoint of"):
        fit("--ckpt_path=gone.ckpt")


def test_weights_alone_are_no_checkpoint(fit):
    torch.save({"fc.weight": torch.zeros(2)}, "weights.ckpt")
    with pytest.raises(SystemExit, match=r"weights.ckpt is not a checkpoint of `tiedconv fit`.*such as runs/fit"):
        fit("--ckpt_path=weights.ckpt")


def test_checkpoint_of_another_network_names_the_option(fit):
    fit()
    with pytest.raises(
        SystemExit, match=r"another network: model = 'resnet_tiny' there, 'tiedresnet_tiny' here \(missi"
    ):
        fit("--ckpt_path=last", model="tiedresnet_tiny", max_epochs=2)
    last(epoch=0)


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_truncated_image_is_named(fit, tmp_path, command):
    root = images(tmp_path / "photos")
    fit(data=photos(root))
    broken = next(root.rglob("train/b/*.png"))
    broken.write_bytes(broken.read_bytes()[:-500])
    extra = [] if command == "fit" else [f"--data.predict_path={root}"]
    with pytest.raises(SystemExit, match=r"train/b/photo.png cannot be read as an image: .*Replace the file"):
        fit("--ckpt_path=kept/last.ckpt", *extra, command=command, data=photos(root), max_epochs=2)
    last(epoch=0)


def test_worker_process_names_the_image(fit, tmp_path):
    root = images(tmp_path / "photos")
    broken = next(root.rglob("train/a/*.png"))
    broken.write_bytes(b"no image")
    with pytest.raises(SystemExit, match=r"^tiedconv fit: \S*train/a/photo.png cannot be read as an image"):
        fit(data=photos(root, workers=1))


class _Raising(Dataset):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise self.error from OSError("ValueError: the cause")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a.json:\nValueError: box 7\nCorrect it."), r"^a\.json:\nValueError: box 7\nCorrect it\.$"),
        (UnidentifiedImageError("cannot identify a.png"), r"^cannot identify a\.png$"),
        (KeyError("label"), r"^A process that loads images raised KeyError: 'label'\. Set data\.num_workers to 0"),
        (AssertionError("No."), r"^A process that loads images raised AssertionError: No\. Set data\.num_workers"),
        (ValueError(), r"^A process that loads images raised ValueError\. Set data\.num_workers"),
    ],
)
def test_what_a_worker_process_raised_is_told_whole(error, said):
    with pytest.raises(RuntimeError, match=said), quiet_lightning(advice=True):
        next(iter(DataLoader(_Raising(error), num_workers=1)))


def die(self, index):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow  # torch looks every five seconds
def test_killed_worker_process_is_explained(fit, monkeypatch):
    monkeypatch.setattr("tiedconv.data.base._SeededImages.__getitem__", die)
    data = {"class_path": "Digits", "init_args": {"image_size": 8, "batch_size": 8, "num_workers": 1}}
    with pytest.raises(SystemExit, match=r"DataLoader worker .*It loaded images.*Lower data.num_workers"):
        fit(data=data)


def test_lack_of_memory_is_explained():
    with pytest.raises(RuntimeError, match=r"out of memory.*Make the batches smaller"), quiet_lightning(advice=True):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    huge = 2**46
    with pytest.raises(RuntimeError, match="Make the batches smaller"), quiet_lightning(advice=True):
        torch.empty(huge)


def test_other_errors_pass_unchanged():
    with pytest.raises(SystemExit) as stop, quiet_lightning(advice=True):
        sys.exit(2)
    assert stop.value.code == 2
    with pytest.raises(ZeroDivisionError, match="division by zero"), quiet_lightning(advice=True):
        1 / 0  # noqa: B018


@pytest.mark.parametrize("batch", [0, 1], ids=["the first step", "the last step"])
def test_nan_loss_stops_the_training_and_keeps_the_checkpoint(fit, monkeypatch, batch):
    fit(limit_train_batches=2)
    step = ClassificationTask.training_step

    def bad(self, given, batch_idx):
        return step(self, given, batch_idx) * (float("nan") if batch_idx == batch else 1)

    monkeypatch.setattr(ClassificationTask, "training_step", bad)
    with pytest.raises(SystemExit, match=r"diverged in epoch 2: .*nan.*Lower the learning rate"):
        fit("--ckpt_path=last", max_epochs=2, limit_train_batches=2)
    last(epoch=0)
    assert len(list(Path("kept").iterdir())) == 2


def test_weights_that_the_last_step_ruins_are_not_kept(fit, monkeypatch):
    fit()

    def ruin(self):
        torch.nn.init.constant_(next(self.parameters()), float("nan"))

    monkeypatch.setattr(ClassificationTask, "on_validation_start", ruin)
    with pytest.raises(SystemExit, match=r"diverged in epoch 2: "):
        fit("--ckpt_path=last", max_epochs=2)
    last(epoch=0)


def test_long_epochs_of_nan_are_not_waited_for(fit, monkeypatch):
    steps = []
    step = ClassificationTask.training_step

    def bad(self, given, batch_idx):
        steps.append(batch_idx)
        return step(self, given, batch_idx) * float("inf")

    monkeypatch.setattr(ClassificationTask, "training_step", bad)
    with pytest.raises(SystemExit, match=r"diverged in epoch 1: train/loss"):
        fit(limit_train_batches=20, log_every_n_steps=5)
    assert steps == [0, 1, 2, 3, 4]
    assert not list(Path("kept").iterdir())


def test_compare_stops_at_nan_too(tmp_path, monkeypatch):
    monkeypatch.setattr(
        ClassificationTask, "on_before_zero_grad", lambda self, _: self.model.fc.bias.data.fill_(torch.nan)
    )
    with pytest.raises(SystemExit, match=r"tiedconv compare: The training diverged in epoch 1"):
        main(["compare", "--models=resnet_tiny", "--data=Digits", "--data.image_size=8", f"--output={tmp_path}"])
    assert not list(tmp_path.rglob("*.ckpt"))


def test_nan_of_a_detector_stops_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scenes = {"image_size": 64, "train_images": 4, "val_images": 2, "min_size": 16, "max_size": 28}
    init = {
        "detector": "retinanet",
        "backbone": "resnet_tiny",
        "backbone_kwargs": TINY,
        "widths": {"fpn": 8},
        "options": {"min_size": 64, "max_size": 64},
        "optimization": {"lr": 1e20, "schedule": "cosine"},
    }
    config = {
        "model": {"class_path": "DetectionTask", "init_args": init},
        "data": {"class_path": "OcclusionScenes", "init_args": {"root": "scenes", "scenes": scenes, "batch_size": 2}},
        "trainer": {**TRAINER, "max_epochs": 1, "log_every_n_steps": 1},
        "checkpoint": {"dirpath": "kept"},
    }
    Path("command.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(DetectionTask, "validation_step", lambda *_: None)
    with pytest.raises(SystemExit, match=r"diverged in epoch 1: train/loss"):
        main(["fit", "--config", "command.yaml"])
    assert not list(Path("kept").iterdir())


STOPPED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
from tiedconv.cli.main import main
from tiedconv.tasks import ClassificationTask
step = ClassificationTask.training_step
def stopping(self, batch, batch_idx):
    if self.current_epoch == 1:
        os.kill(os.getpid(), signal.{signal})
    return step(self, batch, batch_idx)
ClassificationTask.training_step = stopping
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("command", "name"), [("fit", "SIGTERM"), ("compare", "SIGINT")])
def test_signals_end_with_how_to_go_on_and_a_whole_checkpoint(tmp_path, command, name):
    data = ["--data=Digits", "--data.image_size=8"]
    options = {
        "fit": [
            "--model=ClassificationTask",
            "--model.model=resnet_tiny",
            "--trainer.max_epochs=3",
            "--trainer.limit_train_batches=1",
            "--checkpoint.dirpath=kept",
        ],
        "compare": ["--models=resnet_tiny", "--budget.epochs=3", "--output=kept"],
    }
    run = subprocess.run(
        [sys.executable, "-c", STOPPED.format(signal=name), command, *data, *options[command]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 130, run.stderr
    assert f"tiedconv {command}: interrupted. " in run.stderr
    assert ("go on with --ckpt_path" if command == "fit" else "the same command goes on") in run.stderr
    assert "Traceback" not in run.stderr
    (path,) = tmp_path.glob("kept/**/*t.ckpt") if command == "fit" else tmp_path.rglob("*.ckpt")
    assert torch.load(path, weights_only=True)["epoch"] == 0
