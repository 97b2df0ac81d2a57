"""Memory of a train step, measured in a process of its own."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import nn

from .machine import default_device
from .steps import train_step

_STATUS = Path("/proc/self/status")


def train_step_peak_memory(
    build: Callable[[], nn.Module],
    shape: tuple[int, int, int, int],
    *,
    channels_last: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    compiled: bool = False,
) -> float | None:
    """Return the MiB that building a model and training it on ``shape`` images add to a fresh process.

    The process is new, since a process keeps freed memory, and has as many threads as this one. On a GPU it is what
    torch allocates there.

    Args:
        build: returns the model; it is pickled, so a ``functools.partial`` of an importable function and not a lambda.
        shape: (N, C, H, W) of the images.
        channels_last: memory format of model and images.
        dtype: of model and images.
        device: where. None: the GPU if there is one, else the CPU.
        compiled: whether to compile the model by ``torch.compile``. What that keeps of the model counts too, about 100
            MiB; the compiler itself does not.

    Returns:
        None on systems that keep no record of it: without a GPU, all but Linux.
    """
    device = torch.device(device or default_device())
    if device.type == "cpu" and not _STATUS.exists():
        return None
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        arguments = (build, shape, channels_last, dtype, device, compiled, torch.get_num_threads())
        return executor.submit(_peak_memory, *arguments).result()


def _peak_memory(
    build: Callable[[], nn.Module],
    shape: tuple[int, int, int, int],
    channels_last: bool,  # a torch.memory_format cannot be pickled reliably
    dtype: torch.dtype,
    device: torch.device,
    compiled: bool,
    threads: int,
) -> float:
    torch.set_num_threads(threads)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    if compiled:  # loads the compiler
        torch.compile(torch.neg)(torch.ones(1, requires_grad=True)).backward()
    before = _resident("VmRSS")
    model = build().to(device, dtype).to(memory_format=memory_format).train()
    images = torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=memory_format)
    step = train_step(model, images, compiled=compiled)
    step()
    step()  # the optimiser's state exists from the first step on, the peak is in the second
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return (_resident("VmHWM") - before) / 1024


def _resident(field: str) -> int:
    """KiB of resident memory now (VmRSS) or at most so far (VmHWM)."""
    if not _STATUS.exists():
        return 0
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])
