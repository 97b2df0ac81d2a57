"""Run one part: ``benchmarks/gpu.sh PART OUTPUT_FOLDER [--tiny]``."""

import argparse
import os
import sys
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch

from .session import Records, Session, describe

PARTS = ("tests", "operators", "models", "imagenette")
SECONDS, GRACE = 480, 45


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a part and print its table.

    Returns:
        1 if a test failed, else 0, also if time ran out.
    """
    began = time.monotonic()
    parser = argparse.ArgumentParser("gpu.sh", description="Measure tiedconv on a CUDA device.")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("folder", type=Path, help="where gpu-PART.json is written, and read to go on")
    parser.add_argument("--tiny", action="store_true", help="small shapes; on the CPU if there is no CUDA device")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which nothing new is begun (%(default)s)")
    parser.add_argument("--autotune", action="store_true", help="let cuDNN try out its algorithms")
    options = parser.parse_args(arguments)
    if not (torch.cuda.is_available() or options.tiny):
        parser.error("torch sees no CUDA device here. Add --tiny to try the script on the CPU.")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = options.autotune
    allow_tf32()
    options.folder.mkdir(parents=True, exist_ok=True)
    machine = describe(options.part, device, tiny=options.tiny, autotune=options.autotune)
    try:
        records = Records(options.folder / f"gpu-{options.part}.json", machine)
    except ValueError as error:
        parser.error(str(error))
    part = import_module(f".{options.part}", __package__)
    session = Session(options.folder, device, options.tiny, records, options.seconds, began)
    watchdog = threading.Timer(max(0, options.seconds + GRACE), _give_up, [part, session])
    watchdog.daemon = True
    watchdog.start()
    try:
        records.finished = part.run(session)
    finally:
        watchdog.cancel()
    records.write()
    print(summary(part, session))
    return int(any(row.get("outcome") == "failed" for row in records.rows.values()))


def allow_tf32() -> None:
    """Compute float32 in TF32 where the device can, convolutions and matrix products alike."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True


def summary(part: ModuleType, session: Session) -> str:
    """Return the tables of a part, and what they were measured on."""
    machine, rows = session.records.machine, dict(session.records.rows)
    parts = [part.report(rows)] if rows else []
    parts.append(
        f"{machine['part']} on {machine['card']}, torch {machine['torch']}, CUDA {machine['cuda'] or '-'}"
        f"{', cuDNN autotuned' if machine['autotune'] else ''}{', tiny' if machine['tiny'] else ''}: "
        f"{len(rows)} figures in {session.records.path}, {time.monotonic() - session.began:.0f} s"
    )
    if not session.records.finished:
        parts.append("Not finished: the same command goes on from here.")
    return "\n\n".join(["", *parts])


def _give_up(part: ModuleType, session: Session) -> None:
    """End a part that does not end by itself; what it has measured is in its file."""
    print(summary(part, session))
    sys.stdout.flush()
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main())
