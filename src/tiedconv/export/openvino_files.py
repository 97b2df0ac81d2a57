"""Models as files for OpenVINO, an .xml with its weights in a .bin beside it."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from .._checks import named
from .._extras import require
from .onnx_files import save_onnx
from .program import TOLERANCE, ExportedFile, check_path, trace, write_checked


@named("to_openvino")
def to_openvino(
    model: nn.Module,
    path: str | Path,
    *,
    input_size: Sequence[int],
    dynamic_size: bool = True,
    batch_size: int | None = None,
    tolerance: float = TOLERANCE,
) -> ExportedFile:
    """Save ``model`` for OpenVINO, from ``images`` (N, C, H, W) to ``output``, with float32 weights.

    As :func:`to_onnx`, checked in OpenVINO.

    Args:
        model, input_size, dynamic_size, batch_size, tolerance: as in :func:`tiedconv.export.to_program`.
        path: ends in ``.xml``. The weights are written beside it, to the same name with ``.bin``; the two belong
            together.

    Raises:
        ModuleNotFoundError: if openvino, onnx or onnxscript is not installed.
        TypeError, ValueError, RuntimeError: as :func:`tiedconv.export.to_program`.
    """
    check_openvino_installed()
    path = check_path(path, ".xml")
    traced = trace(model, input_size, dynamic_size=dynamic_size, batch_size=batch_size)
    return write_checked(path, traced, tolerance, _save_openvino, open_openvino)


def _save_openvino(program: ExportedProgram, path: Path) -> None:
    openvino = load_openvino()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        save_onnx(program, file)  # openvino reads torch's programs too, in twice the time
        # convert_model also simplifies the graph, as quantization needs it; Core().read_model would not.
        openvino.save_model(openvino.convert_model(file), path, compress_to_fp16=False)


def open_openvino(path: str | Path) -> Callable[[Tensor], Tensor]:
    """Return a function that runs an OpenVINO file with one input and one output on the CPU.

    It computes in float32, with torch's threads, one call at a time. For a server, or for OpenVINO's own choices such
    as bfloat16, load the file by ``openvino.Core().compile_model(path)``.
    """
    openvino = load_openvino()
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(Path(path), "CPU", settings)

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(compiled(images.contiguous().numpy())[0])

    return run


def check_openvino_installed() -> None:
    """Raise ModuleNotFoundError unless all that :func:`to_openvino` needs is installed."""
    for module in ("onnx", "onnxscript"):
        require(module, extra="openvino")
    load_openvino()


def load_openvino() -> Any:
    """Import openvino without the package that reports its use to its maker."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: cannot be imported
    return require("openvino", extra="openvino")
