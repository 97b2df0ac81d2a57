"""Train and infer for long, and watch the memory and the open files of the process.

    python tests/stress/long.py --minutes 60 --calls 50000

A tied network is trained on scikit-learn's digits, with validation and a checkpoint after every epoch, for so many
minutes; then it answers single images, as it is and deployed, half of the calls each. Memory (resident, MiB) and open
files are read while it runs, Linux only. Printed are the first reading after a tenth of the time, the last and the
largest one, and how far they are apart; the command ends with 1 if the last is more than 2 % above the first, or files
stayed open.
"""

import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from jsonargparse import auto_cli
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from tiedconv.bench import describe_machine
from tiedconv.data import Digits
from tiedconv.export import deploy
from tiedconv.tasks import ClassificationTask, Optimization, quiet_lightning

READINGS = 100
GROWTH = 0.02


class Watch:
    """Readings of this process: resident memory in MiB and open files; one a minute is printed."""

    def __init__(self) -> None:
        self.memory: list[float] = []
        self.files: list[int] = []
        self.started = self.printed = time.perf_counter()

    def read(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        self.files.append(len(os.listdir("/proc/self/fd")))
        if (now := time.perf_counter()) - self.printed >= 60:
            self.printed = now
            print(f"{(now - self.started) / 60:.0f} min: {self.memory[-1]:.0f} MiB, {self.files[-1]} files", flush=True)

    def settled(self) -> tuple[float, float, float, int]:
        """Return the first reading after a tenth, the last, the largest, and how many files stayed open since."""
        start = len(self.memory) // 10
        return (
            self.memory[start],
            self.memory[-1],
            max(self.memory[start:]),
            self.files[-1] - self.files[start],
        )


class Watching(L.Callback):
    """Reads after every epoch."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.watch.read()


def long(
    minutes: float = 60, calls: int = 50_000, model: str = "tiedresnet_tiny", workers: int = 0, threads: int = 1
) -> None:
    """Train for ``minutes``, infer for ``calls``, print what memory and files did.

    Args:
        minutes: of training.
        calls: of inference, one image each.
        model: a timm model.
        workers: processes that load the images.
        threads: of torch.
    """
    torch.set_num_threads(threads)
    L.seed_everything(0, verbose=False)
    data = Digits(num_workers=workers)
    task = ClassificationTask(model, data.num_classes, data.in_chans, optimization=Optimization(lr=0.01))
    training = Watch()
    with TemporaryDirectory() as folder, quiet_lightning(advice=False):
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=1_000_000,
            max_time=timedelta(minutes=minutes),
            callbacks=[Watching(training), ModelCheckpoint(folder, every_n_epochs=1)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(task, data)
    rows = {f"training, {minutes:g} min, {trainer.current_epoch:,} epochs": training}
    image = torch.randn(1, *data.input_size)
    network = task.model.eval()
    for name, call in (("as trained", network), ("deployed", deploy(network))):
        rows[f"{calls // 2:,} calls, {name}"] = _infer(call, image, calls // 2)
    table = Table(box=SIMPLE, caption="resident MiB; files: open at the end beyond those at the start")
    table.add_column("")
    for header in ("after a tenth", "end", "largest", "end to start", "files"):
        table.add_column(header, justify="right", no_wrap=True)
    bad = False
    for name, watch in rows.items():
        start, end, largest, files = watch.settled()
        bad |= end > (1 + GROWTH) * start or files > 0
        table.add_row(name, f"{start:.0f}", f"{end:.0f}", f"{largest:.0f}", f"{end / start - 1:+.1%}", f"{files:+d}")
    console = Console(width=110, highlight=False)
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in describe_machine().items()))
    sys.exit(1 if bad else 0)


@torch.no_grad()
def _infer(call: Any, image: torch.Tensor, calls: int) -> Watch:
    watch, started = Watch(), time.perf_counter()
    for number in range(calls):
        call(image)
        if number % max(1, calls // READINGS) == 0:
            watch.read()
    watch.read()
    print(f"{1000 * (time.perf_counter() - started) / calls:.2f} ms a call", flush=True)
    return watch


if __name__ == "__main__":
    auto_cli(long)
