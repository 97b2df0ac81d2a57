"""Every way to compute every operator, and where the dispatcher does not choose the fastest."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import fig3
import torch

from tiedconv.bench.operators import FORMATS, Case, cases, time_case

from .other_operators import Other, other_cases, time_other
from .session import Row, Session, first_line, geometric_mean, table

BATCH = 128
FIG3_BATCHES = (1, 32)
ROUNDS = 12
PATHS = ("view", "grouped", "depth", "matmul")
SLOW, LISTED = 1.05, 20
"""Choices that take over SLOW times as long as the best path are counted, and the worst of them listed."""

Dtype = Literal["bfloat16", "float32"]


@dataclass(frozen=True)
class Measurement:
    """One case in one setting."""

    sweep: str
    case: Case | fig3.Case | Other
    dtype: Dtype
    train: bool

    @property
    def name(self) -> str:
        """What the file calls it."""
        c, step = self.case, "train" if self.train else "forward"
        return f"{self.sweep}: {c.shape}, B={c.blocks}, N={c.batch}, {c.memory_format}, {self.dtype}, {step}"

    def measure(self, device: torch.device, rounds: int) -> Row:
        """Time all ways to compute the case, in turns."""
        timers: dict[str, Callable[..., Any]] = {"resnet": time_case, "fig3": fig3.time_case}
        timer = timers.get(self.sweep, time_other)
        dtype = getattr(torch, self.dtype)
        row = timer(self.case, train=self.train, dtype=dtype, device=device, rounds=rounds)
        return {
            "sweep": self.sweep,
            "shape": self.case.shape,
            "blocks": self.case.blocks,
            "batch": self.case.batch,
            "memory_format": self.case.memory_format,
            "dtype": self.dtype,
            "step": "train" if self.train else "forward",
            "chosen": row.chosen,
            "ms": {name: _rounded(1e3 * timing.median) for name, timing in row.timings.items()},
            "spread_ms": {name: _rounded(1e3 * timing.spread) for name, timing in row.timings.items()},
            "errors": {name: first_line(error) for name, error in row.failed.items()},
        }


def plan(tiny: bool) -> Iterator[Measurement]:
    """Return everything to measure, what matters most for training first."""
    resnet, other = [*cases(batch=BATCH), *splits()], other_cases()
    equal = [fig3.Case(*setting) for setting in product(fig3.BLOCKS, FIG3_BATCHES, FORMATS)]
    if tiny:
        pointwise = next(c for c in resnet if c.kernel == 1 and c.memory_format == "channels_last")
        resnet = [replace(c, channels=16, size=4, batch=2) for c in (resnet[0], pointwise)]
        equal = [replace(case, channels=32, filters=1, size=4) for case in (equal[0], equal[-1])]
        other = [case.shrunk() for case in other_cases()[::5]]
    everything: list[tuple[str, Case | fig3.Case | Other]] = [("resnet", case) for case in resnet]
    everything += [("fig3", case) for case in equal] + [(case.sweep, case) for case in other]
    dtypes: tuple[Dtype, ...] = ("bfloat16", "float32")
    for dtype, train, last in product(dtypes, (True, False), (True, False)):
        for sweep, case in everything:
            if (case.memory_format != "contiguous") == last:
                yield Measurement(sweep, case, dtype, train)


def splits() -> list[Case]:
    """Return the 3x3 convolutions of one split of TiedResNet-50."""
    return [
        Case(channels, size, 3, blocks, BATCH, memory_format)
        for channels, size in ((32, 56), (64, 28), (128, 14), (256, 7))
        for blocks in (2, 4, 8)
        for memory_format in FORMATS
    ]


def run(session: Session) -> bool:
    """Measure what is not in the records yet; return whether that was all."""
    left = [m for m in plan(session.tiny) if m.name not in session.records.rows]
    for i, measurement in enumerate(left):
        if not session.allows(5):
            return False
        if i % 20 == 0:
            session.log(f"{len(left) - i} left, next {measurement.name}")
        session.records.add(measurement.name, measurement.measure(session.device, 1 if session.tiny else ROUNDS))
    return True


def report(rows: Mapping[str, Row]) -> str:
    """Return the tables: paths, slow choices, Fig. 3 and the other operators."""
    resnet = [row for row in rows.values() if row["sweep"] == "resnet" and best_path(row)]
    slow = sorted((row for row in resnet if loss(row) > SLOW), key=loss, reverse=True)
    parts = []
    if errors := {name: row["errors"] for name, row in rows.items() if row["errors"]}:
        parts.append(f"Failed in {len(errors)} cases, such as {next(iter(errors.items()))}")
    if other := [row for row in rows.values() if row["sweep"] not in ("resnet", "fig3")]:
        parts += ["Other operators: time over that of the best way, geometric means", _other(other)]
    if equal := [row for row in rows.values() if row["sweep"] == "fig3"]:
        parts += ["Fig. 3: 2048 channels of 56x56, as many operations for each B; ms by number of blocks", _fig3(equal)]
    if resnet:
        parts += ["Time of each path over that of the best one, geometric means over shapes and blocks", _paths(resnet)]
    parts.append(f"The chosen path takes over {SLOW} times as long as the best in {len(slow)} of {len(resnet)} cases")
    return "\n".join([*parts, _slow(slow[:LISTED])] if slow else parts)


def best_path(row: Row) -> str | None:
    """Return the fastest of the ways that the dispatcher could choose; None if its choice has no time."""
    ways = {name: ms for name, ms in row["ms"].items() if name in PATHS or row["sweep"] == "split"}
    return min(ways, key=ways.__getitem__) if row["chosen"] in ways else None


def loss(row: Row) -> float:
    """How many times as long as the best path the chosen one takes."""
    best = best_path(row)
    return row["ms"][row["chosen"]] / row["ms"][best] if best else 1.0


def _paths(rows: list[Row]) -> str:
    lines = []
    for key, group in _grouped(rows, lambda row: (row["dtype"], row["step"], row["memory_format"], row["shape"][:3])):
        best = [row["ms"][best_path(row)] for row in group]
        means = [
            geometric_mean(row["ms"][path] / ms for row, ms in zip(group, best, strict=True) if path in row["ms"])
            for path in PATHS
        ]
        chosen = geometric_mean(map(loss, group))
        lines.append([*key, len(group), *means, chosen, max(map(loss, group)), _speedup(group, "tied")])
    header = ("dtype", "step", "format", "kernel", "cases", *PATHS, "chosen", "worst", "times dense")
    return table(header, lines)


def _slow(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        best = best_path(row) or ""
        what = [row[name] for name in ("dtype", "step", "memory_format", "shape", "blocks")]
        lines.append([*what, row["chosen"], row["ms"][row["chosen"]], best, row["ms"][best], loss(row)])
    return table(("dtype", "step", "format", "shape", "B", "chosen", "ms", "best", "ms", "ratio"), lines)


def _fig3(rows: list[Row]) -> str:
    blocks = sorted({row["blocks"] for row in rows})
    lines = []
    settings = ("dtype", "step", "memory_format", "batch")
    for key, group in _grouped(rows, lambda row: tuple(row[name] for name in settings)):
        found = {row["blocks"]: row["ms"] for row in group}
        lines += [[*key, way, *(found.get(b, {}).get(way) for b in blocks)] for way in ("grouped", "tied")]
    return table(("dtype", "step", "format", "N", "way", *(f"B={b}" for b in blocks)), lines)


def _other(rows: list[Row]) -> str:
    lines = []
    for key, group in _grouped(
        rows,
        lambda row: (row["sweep"], row["shape"].partition(",")[0], row["dtype"], row["step"], row["memory_format"]),
    ):
        ways = list(dict.fromkeys(way for row in group for way in row["ms"] if way != "dense"))
        ways = [way for way in ways if way != "tied" or len(ways) == 1]
        means = {
            way: geometric_mean(row["ms"][way] / min(row["ms"][w] for w in ways if w in row["ms"]) for row in group)
            for way in ways
            if all(way in row["ms"] for row in group)
        }
        text = ", ".join(f"{way} {mean:.2f}" for way, mean in means.items() if mean)
        chosen = "/".join(dict.fromkeys(row["chosen"] for row in group))
        tied = "tied" if "tied" in group[0]["ms"] else "splits"
        lines.append([*key, chosen, text or None, _speedup(group, tied)])
    return table(("operator", "kernel", "dtype", "step", "format", "chosen", "ways", "times dense"), lines)


def _speedup(rows: list[Row], way: str) -> float | None:
    return geometric_mean(ms["dense"] / ms[way] for row in rows if {"dense", way} <= (ms := row["ms"]).keys())


def _grouped(rows: list[Row], key: Callable[[Row], tuple[Any, ...]]) -> list[tuple[tuple[Any, ...], list[Row]]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.items())


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
