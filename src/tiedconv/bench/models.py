"""Throughput and memory of whole models, compared in one process."""

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ._timer import interleaved

_STATUS = Path("/proc/self/status")


def throughput(
    models: Mapping[str, nn.Module], images: torch.Tensor, *, train: bool, rounds: int = 10
) -> dict[str, list[float]]:
    """Measure images per second of every model on the same batch, in turns.

    Args:
        models: by the names that the result has too; moved nowhere, and in eval or train mode afterwards. A train step
            changes their weights.
        images: :math:`(N, C, H, W)` on the models' device, in the memory format to measure.
        train: a whole train step (forward, backward, SGD with momentum) instead of inference.
        rounds: measured calls a model, after two that are not.

    Returns:
        Images per second of each measured call.
    """
    make = _train_step if train else _inference
    steps = {name: make(model, images) for name, model in models.items()}
    times = interleaved(steps, rounds=rounds, device=images.device)
    return {name: [len(images) / s for s in timing.seconds] for name, timing in times.items()}


def train_step_peak_memory(
    build: Callable[[], nn.Module], shape: tuple[int, int, int, int], *, channels_last: bool = False
) -> float | None:
    """Memory in MiB that building a model and one train step on ``shape`` images add to a fresh process.

    Measured in a process of its own, as freed memory is not given back. On a GPU it is what torch allocates there.

    Args:
        build: returns the model; it is pickled, so a ``functools.partial`` of an importable function and not a lambda.
        shape: (N, C, H, W) of the images.
        channels_last: memory format of model and images.

    Returns:
        The figure, or None on a system that keeps no record of it (without a GPU, all but Linux).
    """
    if not torch.cuda.is_available() and not _STATUS.exists():
        return None
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(_peak_memory, build, shape, channels_last).result()


def _inference(model: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    def run() -> object:
        model.eval()
        with torch.inference_mode():
            return model(images)

    return run


def _train_step(model: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)

    def run() -> None:
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return run


def _peak_memory(build: Callable[[], nn.Module], shape: tuple[int, int, int, int], channels_last: bool) -> float:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    before = _resident("VmRSS")
    model = build().to(device).to(memory_format=memory_format)
    images = torch.randn(shape, device=device).contiguous(memory_format=memory_format)
    step = _train_step(model, images)
    step()
    step()  # the optimiser's state exists from the first step on, the peak is in the second
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return (_resident("VmHWM") - before) / 1024


def _resident(field: str) -> int:
    """KiB of resident memory now (VmRSS) or at most so far (VmHWM)."""
    if not _STATUS.exists():
        return 0
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])
