"""The machine that figures are measured on."""

import ctypes
import os
import platform
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import timm
import torch


def describe_machine(device: torch.device | str = "cpu", packages: Sequence[str] = ()) -> dict[str, str]:
    """Return processor, threads, device and versions, each as text to print beside a figure.

    Args:
        device: what was measured on.
        packages: installed packages whose versions are added, such as ``"onnxruntime"``.
    """
    device = torch.device(device)
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        **{name: import_module(name).__version__ for name in packages},
    }


def default_device() -> torch.device:
    """Return the first GPU if there is one, else the CPU; Lightning trains one model there too."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def keep_freed_memory() -> bool:
    """Make the C library keep the memory that this process frees, and return whether it could be done, as in glibc.

    By default every map of some MiB is given back to the system after use, and the next allocation waits until its
    pages are handed out and cleared. In a virtual machine that can take longer than the convolution, and it varies
    between calls. Allocators such as jemalloc keep memory by themselves.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    trim_threshold, mmap_max = -1, -4  # from malloc.h
    return bool(mallopt(trim_threshold, -1) and mallopt(mmap_max, 0))


def check_device(device: str) -> torch.device:
    """Return the device of that name.

    Raises:
        ValueError: if it is not a CPU or CUDA device, or does not exist.
    """
    try:
        made = torch.device(device)
    except RuntimeError:
        made = None
    if made is None or made.type not in ("cpu", "cuda"):
        raise ValueError(f"bench: device must be cpu, cuda or cuda:<number>, got {device!r}.")
    if made.type == "cuda" and (made.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"bench: device={device}, but torch sees {torch.cuda.device_count()} CUDA devices here. Take --device cpu."
        )
    return made


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
