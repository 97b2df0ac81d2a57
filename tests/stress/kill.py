"""Kill trainings at random moments, start them again until they end, and compare with a training that nobody killed.

    python tests/stress/kill.py

Trains a classifier by ``tiedconv fit``, two by ``tiedconv compare``, and a detector by ``tiedconv fit``, all tiny and
on data that needs no download. Every other kill -9 waits until a checkpoint is being written; the others come at any
time from the start on. After each one the same command is given again. What is compared must be equal to the last bit:
weights and optimiser state of all checkpoints that are kept, their names, the metrics of the last epoch, and
``results.json`` without its times. Exits with 1 if something is not.

Each start is a fork of this process, which has imported everything already; the measurement of speed and memory at the
end of ``compare`` is left out. Linux and macOS only.
"""

import csv
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.utils.tensorboard
import yaml
from jsonargparse import auto_cli
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch.utils.data import Dataset, Subset

import tiedconv.cli.compare
import tiedconv.cli.training  # noqa: F401  before the forks
from tiedconv.bench import describe_machine
from tiedconv.cli.main import main
from tiedconv.compare import classification
from tiedconv.data import Digits

TINY = {"layers": [1, 1, 1, 1]}
SGD = {"lr": 0.05, "schedule": "cosine"}
QUIET = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "enable_model_summary": False}
REGIONS = {
    "min_size": 64,
    "max_size": 64,
    "rpn_batch_size_per_image": 16,
    "rpn_pre_nms_top_n_train": 50,
    "rpn_post_nms_top_n_train": 20,
    "rpn_pre_nms_top_n_test": 50,
    "rpn_post_nms_top_n_test": 20,
    "box_batch_size_per_image": 16,
    "box_detections_per_img": 10,
}


@dataclass(frozen=True)
class Case:
    """A command: its options and what it leaves for the comparison, by its folder, and where its checkpoints are."""

    command: str
    options: Callable[[Path], dict[str, Any]]
    checkpoints: str
    found: Callable[[Path], dict[str, Any]]


@dataclass
class Tally:
    """What happened to a case."""

    kills: int = 0
    in_writes: int = 0
    before_first: int = 0
    starts: int = 0
    finished: int = 0
    problems: list[str] = field(default_factory=list)


class FewDigits(Digits):
    """The first 256 digits of each split."""

    def build(self, train: bool) -> Dataset[Any]:
        return Subset(super().build(train), range(256))


def _fit(folder: Path, model: str, init: dict[str, Any], data: str, data_init: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": {"class_path": f"tiedconv.tasks.{model}", "init_args": {**init, "optimization": SGD}},
        "data": {"class_path": f"tiedconv.data.{data}", "init_args": data_init},
        "trainer": {**QUIET, "max_epochs": 4, "log_every_n_steps": 1, "default_root_dir": str(folder)},
        "checkpoint": {"dirpath": str(folder / "checkpoints")},
        "ckpt_path": "last",
    }


def _classifier(folder: Path) -> dict[str, Any]:
    init = {"model": "tiedresnet_tiny", "model_kwargs": TINY, "mixup": 0.1}
    return _fit(folder, "ClassificationTask", init, "Digits", {"image_size": 8})


def _detector(folder: Path) -> dict[str, Any]:
    widths = {"fpn": 16, "box": 32, "mask": 16, "mask_convs": 1}
    init = {"detector": "mask_rcnn", "backbone": "resnet_tiny", "backbone_kwargs": TINY, "widths": widths}
    scenes = {"image_size": 64, "train_images": 8, "val_images": 4, "min_size": 16, "max_size": 28, "max_overlap": 0.3}
    data = {"root": str(folder / "scenes"), "scenes": scenes, "batch_size": 2}
    return _fit(folder, "DetectionTask", {**init, "options": REGIONS}, "OcclusionScenes", data)


def _comparison(folder: Path) -> dict[str, Any]:
    return {
        "models": [{"name": name, "kwargs": TINY} for name in ("resnet_tiny", "tiedresnet_tiny")],
        "data": {"class_path": "__main__.FewDigits", "init_args": {"image_size": 8}},
        "budget": {"epochs": 3, "optimization": SGD},
        "seeds": [0],
        "output": str(folder),
    }


def _of_fit(folder: Path) -> dict[str, Any]:
    versions = sorted((folder / "fit").glob("version_*"), key=lambda path: int(path.name.partition("_")[2]))
    rows = [row for v in versions if (v / "metrics.csv").exists() for row in _rows(v / "metrics.csv")]
    measured = [{k: v for k, v in row.items() if k.startswith("val/") and v} for row in rows]
    detections = [(v / "results.json").read_text() for v in versions if (v / "results.json").exists()]
    return {
        **_checkpoints(folder),
        "metrics": [row for row in measured if row][-1],
        "detections": json.loads(detections[-1]) if detections else None,
    }


def _of_compare(folder: Path) -> dict[str, Any]:
    results = json.loads((folder / "results.json").read_text())
    for model in results["models"]:
        for run in model["runs"]:
            run.pop("seconds")
    return {**_checkpoints(folder), "results": results}


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def _checkpoints(folder: Path) -> dict[str, str]:
    """Return a digest of weights and optimiser of every checkpoint below ``folder``, by name."""
    found = {}
    for path in sorted(folder.rglob("*.ckpt")):
        content = torch.load(path, weights_only=True)
        digest = hashlib.sha256()
        _digest(digest, [content["state_dict"], content["optimizer_states"], content["epoch"], content["global_step"]])
        found[str(path.relative_to(folder))] = digest.hexdigest()
    return found


def _digest(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(value.contiguous().numpy().tobytes())
    elif isinstance(value, Mapping):
        _digest(digest, list(value.items()))
    elif isinstance(value, list | tuple):
        for item in value:
            _digest(digest, item)
    else:
        digest.update(repr(value).encode())


CASES = {
    "fit, a classifier": Case("fit", _classifier, "checkpoints/*.ckpt", _of_fit),
    "compare, two classifiers": Case("compare", _comparison, "runs/*/*/*.ckpt", _of_compare),
    "fit, Mask R-CNN": Case("fit", _detector, "checkpoints/*.ckpt", _of_fit),
}


def kill(kills: int = 20, seed: int = 0, cases: Sequence[str] = tuple(CASES)) -> None:
    """Kill each of the commands a number of times and print a table of what came out.

    Args:
        kills: of each command, over as many trainings as that takes.
        seed: of the moments.
        cases: which commands.
    """
    torch.set_num_threads(1)  # no threads before the forks, and the same order of sums in all
    classification.Classifiers.complete = lambda self, comparison, *_: iter([comparison])
    console = Console(highlight=False)
    moments = random.Random(seed)
    table = Table("command", "kills", "in a write", "before one", "starts", "trainings", "equal", box=SIMPLE)
    failed = False
    for name in cases:
        tally = _torture(CASES[name], kills, moments, lambda line: console.print(line, style="dim"))
        failed |= bool(tally.problems)
        counts = (tally.kills, tally.in_writes, tally.before_first, tally.starts, tally.finished)
        table.add_row(name, *map(str, counts), "no" if tally.problems else "yes")
        for problem in tally.problems:
            console.print(f"{name}: {problem}", markup=False)
    console.print(table)
    console.print("in a write: of a checkpoint; before one: kills when no checkpoint was there yet")
    console.print(", ".join(f"{key} {value}" for key, value in describe_machine(torch.device("cpu")).items()))
    sys.exit(int(failed))


def _torture(case: Case, kills: int, moments: random.Random, log: Callable[[str], None]) -> Tally:
    tally = Tally()
    with TemporaryDirectory() as parent:
        folder = Path(parent, "run")  # the same path for all: it is in some of the results
        start = time.perf_counter()
        code = _wait(_start(case, folder))
        seconds = time.perf_counter() - start
        if code:
            tally.problems.append(f"without a kill: exit code {code}. {_log(folder)}")
            return tally
        expected = case.found(folder)
        log(f"{case.command}: {seconds:.1f} s without a kill")
        while tally.kills < kills:
            folder.rename(Path(parent, f"done-{tally.finished}-{tally.starts}"))
            if not _until_it_ends(case, folder, kills, seconds, moments, tally):
                return tally
            tally.finished += 1
            found = case.found(folder)
            differing = [key for key in {**expected, **found} if expected.get(key) != found.get(key)]
            if differing:
                tally.problems.append(f"training {tally.finished} differs in {', '.join(differing)}")
            log(f"training {tally.finished}: {tally.kills} kills so far, {'differs' if differing else 'equal'}")
    return tally


def _until_it_ends(case: Case, folder: Path, kills: int, seconds: float, moments: random.Random, tally: Tally) -> bool:
    """Start, kill and start again until the command ends by itself; return whether it did so with success."""
    while True:
        process = _start(case, folder)
        tally.starts += 1
        left = float("inf") if tally.kills >= kills else moments.uniform(0, seconds)
        in_write = tally.kills < kills and tally.kills % 2 == 1
        writes = moments.randint(1, 3)  # which one, counted from this start
        code = _wait(process, float("inf") if in_write else left, folder, case.checkpoints, writes if in_write else 0)
        if code is not None:
            if code:
                tally.problems.append(f"start {tally.starts}: exit code {code}. {_log(folder)}")
            return code == 0
        tally.kills += 1
        tally.in_writes += any(folder.glob(f"{case.checkpoints}.part"))
        tally.before_first += not any(folder.glob(case.checkpoints))
        try:
            _checkpoints(folder)
        except Exception as error:
            tally.problems.append(f"kill {tally.kills} left a checkpoint that cannot be read: {error}")
            return False


def _start(case: Case, folder: Path) -> int:
    """Fork a process that runs the command, and return its id."""
    folder.mkdir(exist_ok=True)
    config = folder / "command.yaml"
    config.write_text(yaml.safe_dump(case.options(folder)))
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        log = os.open(folder / "log.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        main([case.command, "--config", str(config)])
        code = 0
    except SystemExit as stop:
        print(stop.code, file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # without what this process would do at its end


def _wait(
    process: int, left: float = float("inf"), folder: Path = Path(), checkpoints: str = "", writes: int = 0
) -> int | None:
    """Wait for the end of a process, and return its exit code; or kill it, and return None.

    Args:
        process: its id.
        left: seconds after which it is killed.
        folder, checkpoints: where it writes them.
        writes: kill it in the middle of this checkpoint, counted from now; 0 does not.
    """
    start = time.perf_counter()
    writing = False
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if writes:
            now = any(folder.glob(f"{checkpoints}.part"))
            writes -= now and not writing
            writing = now
            if not writes:
                break
        elif time.perf_counter() - start > left:
            break
        time.sleep(0.0005 if writes else 0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def _log(folder: Path) -> str:
    return (folder / "log.txt").read_text()[-2000:]


if __name__ == "__main__":
    auto_cli(kill)
