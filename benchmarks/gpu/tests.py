"""The tests of this folder on the device, each recorded as it ends."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from .session import Row, Session, first_line, table

FOLDER = Path(__file__).parent
FILES = ("test_ops.py", "test_modules.py", "test_networks.py")
GROUPS = ("ops", "nn", "models", "convert", "export", "training")


def run(session: Session) -> bool:
    """Run what has not passed yet; return whether all tests were run."""
    os.environ["TIEDCONV_GPU_DEVICE"] = str(session.device)
    os.environ["TIEDCONV_GPU_TINY"] = str(int(session.tiny))
    recorder = Recorder(session)
    # The project's own settings make every warning an error, also those of other versions of torch.
    options = ["-q", "-p", "no:cacheprovider", "--disable-warnings", "--tb=short"]
    options += ["-c", os.devnull, "--rootdir", str(FOLDER)]
    code = pytest.main([*options, *(str(FOLDER / file) for file in FILES)], plugins=[recorder])
    known = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
    if code not in known and not recorder.stopped:
        raise RuntimeError(f"gpu.sh: pytest ended with {code!r}. See above.")
    return not recorder.stopped


class Recorder:
    """A plugin of pytest that leaves out what has passed, stops in time and keeps results."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.stopped = False

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        passed = [item for item in items if self._row(item.nodeid).get("outcome") in ("passed", "skipped")]
        items[:] = [item for item in items if item not in passed]
        config.hook.pytest_deselected(items=passed)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = _name(report.nodeid)
        if report.when != "call" and report.outcome == "passed":
            return
        figures: dict[str, Any] = {}
        for key, value in report.user_properties:
            figures[key] = max(value, figures.get(key, 0.0))  # of several examples the worst
        figures = {key: value if math.isfinite(value) else str(value) for key, value in figures.items()}
        crash = getattr(report.longrepr, "reprcrash", None)
        error = first_line(crash.message) if crash else ""
        row = {"outcome": report.outcome, "seconds": round(report.duration, 2), **figures, "error": error}
        self.session.records.add(name, row)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        if not self.session.allows():
            self.stopped = True

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        torch.manual_seed(0)
        if self.stopped:
            item.session.shouldstop = "no time is left"

    def _row(self, nodeid: str) -> Row:
        return self.session.records.rows.get(_name(nodeid), {})


def report(rows: Mapping[str, Row]) -> str:
    """Return one line per package and precision, and the errors of what failed."""
    lines = []
    for group in GROUPS:
        own = {name: row for name, row in rows.items() if name.startswith(f"test_{group}_")}
        for precision in dict.fromkeys(map(_precision, own)):
            found = [row for name, row in own.items() if _precision(name) == precision]
            outcomes = [row["outcome"] for row in found]
            counts = [outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")]
            worst = max(found, key=_part_of_allowed)
            seconds = sum(row["seconds"] for row in found)
            lines.append([group, precision, *counts, worst.get("error_size"), worst.get("allowed"), seconds])
    parts = [f"{name}: {row['error']}" for name, row in rows.items() if row["outcome"] == "failed"]
    header = ("tests of", "precision", "passed", "failed", "skipped", "worst error", "allowed", "s")
    return "\n".join([*parts, table(header, lines)])


def _part_of_allowed(row: Row) -> float:
    return float(row["error_size"]) / row["allowed"] if "allowed" in row else 0.0


def _name(nodeid: str) -> str:
    return nodeid.rpartition("::")[2] if "[" not in nodeid else nodeid[nodeid.index("::") + 2 :]


def _precision(name: str) -> str:
    known = ("float32", "tf32", "bfloat16")
    return next((word for word in name.rpartition("[")[2].rstrip("]").split("-") if word in known), "other")
