"""Whole networks beside ResNet-50: inference and training, eager, compiled and deployed, in bfloat16."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch._dynamo
import torch.nn.functional as F
from torch import Tensor, nn

from tiedconv.bench.timer import Timing, describe_error, try_interleaved
from tiedconv.export import deploy
from tiedconv.models import build_model

from .session import Row, Session, first_line, table

NETWORKS = ("resnet50", "tiedresnet50", "tiedresnet50_s", "tiedresnet50_4s16w", "tiedresnet50_lite")
TINY = ("resnet_tiny", "tiedresnet_tiny")
BATCH, PIXELS, ROUNDS = 128, 224, 20

Step = Literal["train", "inference"]
Mode = Literal["eager", "compiled", "deployed"]


@dataclass(frozen=True)
class Unit:
    """What is timed in turns: all networks in one mode."""

    step: Step
    mode: Mode

    def name(self, network: str) -> str:
        """What the file calls the figures of one network."""
        return f"{self.step}, {self.mode}, {network}"


UNITS = (
    Unit("train", "eager"),
    Unit("inference", "eager"),
    Unit("inference", "deployed"),
    Unit("train", "compiled"),
    Unit("inference", "compiled"),
)


def run(session: Session) -> bool:
    """Measure what is not in the records yet; return whether that was all."""
    networks = TINY if session.tiny else NETWORKS
    for unit in UNITS:
        while left := [n for n in networks if unit.name(n) not in session.records.rows]:
            if not session.allows(100 if unit.mode == "compiled" else 20):
                return False
            # What is measured in a later call has the reference beside it again.
            _measure(session, unit, list(dict.fromkeys([networks[0], *left])))
    return True


def report(rows: Mapping[str, Row]) -> str:
    """Return tables with one line per network: peak MiB, and images/s."""
    networks = list(dict.fromkeys(row["network"] for row in rows.values()))
    names = [f"{unit.step} {unit.mode}" for unit in UNITS]
    speeds, peaks = [], []
    for network in networks:
        cells = [rows.get(unit.name(network), {}) for unit in UNITS]
        parameters = next((cell["parameters"] / 1e6 for cell in cells if cell.get("parameters")), None)
        speeds.append([network, parameters, *map(_speed, cells)])
        peaks.append([network, *(cell.get("peak_mib") for cell in cells)])
    parts = [table(("peak MiB", *names), peaks), "", "images/s, in brackets times the first network's, round by round"]
    parts.append(table(("network", "M parameters", *names), speeds))
    parts += [f"{name}: {row['error']}" for name, row in rows.items() if row["error"]]
    return "\n".join(parts)


def _measure(session: Session, unit: Unit, networks: list[str]) -> None:
    """Time the networks in turns; those for which there is no time are left out."""
    torch.compiler.reset()
    steps: dict[str, Callable[[], object]] = {}
    rows: dict[str, Row] = {}
    longest = 0.0
    with torch._dynamo.config.patch(recompile_limit=256):  # torch would run the ninth compiled network as eager
        for network in networks:
            if steps and not session.allows(2 * longest + 20):
                break
            try:
                rows[network], steps[network] = _prepare(session, unit, network)
            except Exception as error:  # whatever a compiler raises, the others are measured
                rows[network] = {"parameters": 0, "error": first_line(describe_error(error))}
            longest = max(longest, rows[network].get("first_call_s", 0.0))
            session.log(f"{unit.name(network)}: first call {rows[network].get('first_call_s', 0):.1f} s")
        rounds = 2 if session.tiny else ROUNDS
        timings, failed = try_interleaved(steps, rounds=rounds, device=session.device)
    reference = timings.get(networks[0])
    for network, row in rows.items():
        found = {"network": network, **asdict(unit), "error": first_line(failed.get(network, "")), **row}
        found |= _figures(session, timings.get(network), reference)
        session.records.rows.setdefault(unit.name(network), found)
    session.records.write()


def _prepare(session: Session, unit: Unit, network: str) -> tuple[Row, Callable[[], object]]:
    """Build a network, call it twice and return what is known by then, and the call."""
    device, tiny = session.device, session.tiny
    on_cuda = device.type == "cuda"
    batch, pixels = _size(tiny)
    before = torch.cuda.memory_allocated() if on_cuda else 0
    images = torch.randn(batch, 3, pixels, pixels, device=device).contiguous(memory_format=torch.channels_last)
    model: Any = build(network, tiny).train(unit.step == "train")
    parameters = sum(p.numel() for p in model.parameters())
    model = (deploy(model) if unit.mode == "deployed" else model).to(device).to(memory_format=torch.channels_last)
    if unit.mode == "compiled":
        model = compiled(model, tiny)
    call = (train_step if unit.step == "train" else inference)(model, images)
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    call()
    if on_cuda:
        torch.cuda.synchronize()
    first_call = time.perf_counter() - start
    call()  # the optimiser's state exists from the first step on: the peak is in the second
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20 if on_cuda else None
    return {
        "parameters": parameters,
        "batch": batch,
        "pixels": pixels,
        "peak_mib": peak,
        "first_call_s": first_call,
    }, call


def build(network: str, tiny: bool, num_classes: int = 1000) -> nn.Module:
    """Build a network; a tiny one with one block per stage."""
    smaller: dict[str, Any] = {"layers": (1, 1, 1, 1)} if tiny else {}
    return build_model(network, num_classes=num_classes, **smaller)


def compiled(model: nn.Module, tiny: bool) -> Any:
    """Return ``torch.compile``'s callable for inputs of one shape; for a tiny network, without generating code."""
    return torch.compile(model, dynamic=False, backend="eager" if tiny else "inductor")


def train_step(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """Return a step of SGD with momentum whose forward pass is in bfloat16."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)

    def run() -> None:
        optimizer.zero_grad()
        with autocast(images.device):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return run


def inference(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """Return a forward pass in bfloat16 without gradients."""

    def run() -> object:
        with torch.inference_mode(), autocast(images.device):
            return model(images)

    return run


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Compute in bfloat16 what torch's autocast takes for safe."""
    return torch.autocast(device.type, torch.bfloat16)


def _size(tiny: bool) -> tuple[int, int]:
    return (2, 32) if tiny else (BATCH, PIXELS)


def _figures(session: Session, timing: Timing | None, reference: Timing | None) -> Row:
    if timing is None:
        return {}
    ratio = timing.speedup_over(reference) if reference else None
    return {
        "images_per_s": _size(session.tiny)[0] / timing.median,
        "median_ms": 1e3 * timing.median,
        "spread_ms": 1e3 * timing.spread,
        "ratio": ratio and asdict(ratio),
    }


def _speed(row: Row) -> str | None:
    if "images_per_s" not in row:
        return None
    ratio = f" ({row['ratio']['median']:.2f})" if row["ratio"] else ""
    return f"{row['images_per_s']:,.0f}{ratio}"
