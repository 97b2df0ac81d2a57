"""In which precisions the device is tested, and how far off it may be."""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

DEVICE = torch.device(os.environ.get("TIEDCONV_GPU_DEVICE", "cuda" if torch.cuda.is_available() else "cpu"))
TINY = os.environ.get("TIEDCONV_GPU_TINY", "0") == "1"
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

Record = Callable[[str, float], None]


@dataclass(frozen=True)
class Precision:
    """How numbers are kept and multiplied.

    Attributes:
        name: for reports.
        dtype: of the tensors.
        tf32: whether the device may round factors to TF32.
        tolerance: how far off one operator may be: 2-norm of the error over that of the result.
    """

    name: str
    dtype: torch.dtype
    tf32: bool
    tolerance: float

    def __str__(self) -> str:
        return self.name

    def apply(self) -> None:
        """Let the device compute so."""
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.tf32

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which a float32 network computes in this precision."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(DEVICE.type, self.dtype)


PRECISIONS = (
    Precision("float32", torch.float32, False, 5e-5),
    Precision("tf32", torch.float32, True, 5e-3),
    Precision("bfloat16", torch.bfloat16, False, 2e-2),
)
IN_EACH_PRECISION = pytest.mark.parametrize("precision", PRECISIONS, ids=str)


def relative(got: Tensor | Iterable[Tensor], expected: Tensor | Iterable[Tensor]) -> float:
    """2-norm of the difference over that of ``expected``, the largest if there are several; NaN if one is."""
    if isinstance(got, Tensor) and isinstance(expected, Tensor):
        assert got.shape == expected.shape
        return ((got.detach().cpu().double() - expected.detach()).norm() / expected.detach().norm()).item()
    errors = [relative(a, b) for a, b in zip(got, expected, strict=True)]
    return max(errors, key=lambda error: float("inf") if error != error else error)


def check(error: float, allowed: float, record: Record) -> None:
    """Keep an error and fail if it is larger than allowed, or NaN."""
    record("error_size", error)
    record("allowed", allowed)
    assert error <= allowed


def from_tests(path: str) -> ModuleType:
    """Load a module of the project's tests by its path, whatever else is called ``tests`` here."""
    file = Path(__file__).parents[2] / "tests" / path
    spec = importlib.util.spec_from_file_location(f"tiedconv_tests_{file.stem}", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def rounded(tensor: Tensor, precision: Precision) -> Tensor:
    """A float64 tensor of the same strides whose values the precision can hold."""
    whole = tensor.detach().as_strided((tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0)
    kept = whole.to(precision.dtype).double()
    return kept.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).requires_grad_()


def placed(tensor: Tensor, precision: Precision) -> Tensor:
    """The same values and strides on the device."""
    whole = tensor.detach().as_strided((tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0)
    moved = whole.to(DEVICE, precision.dtype)
    return moved.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).requires_grad_()
