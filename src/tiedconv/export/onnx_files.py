"""Models as ONNX files, written by torch's exporter and checked in ONNX Runtime."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from .._checks import named
from .._extras import require
from .program import TOLERANCE, ExportedFile, check_path, trace, write_checked

INPUT, OUTPUT = "images", "output"


@named("to_onnx")
def to_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    input_size: Sequence[int],
    dynamic_size: bool = True,
    batch_size: int | None = None,
    tolerance: float = TOLERANCE,
) -> ExportedFile:
    """Save ``model`` as an ONNX file from ``images`` (N, C, H, W) to ``output``.

    It is checked in ONNX Runtime as :func:`tiedconv.export.to_program` checks a program. Tied filters are stored once;
    engines run a network without them faster, so pass ``deploy(model)`` where speed counts more than the file's size.

    Args:
        model, input_size, dynamic_size, batch_size, tolerance: as in :func:`tiedconv.export.to_program`.
        path: ends in ``.onnx``.

    Raises:
        ModuleNotFoundError: if onnx, onnxscript or onnxruntime is not installed.
        TypeError, ValueError, RuntimeError: as :func:`tiedconv.export.to_program`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from tiedconv.nn import TiedConv2d
        >>> with TemporaryDirectory() as folder:
        ...     file = to_onnx(TiedConv2d(64, 64, 3, blocks=4), f"{folder}/conv.onnx", input_size=(64, 8, 8))
        ...     file.bytes < 2 * 4 * (16 * 16 * 9 + 16)  # a dense convolution's filters alone have 16 times that
        True
    """
    check_onnx_installed()
    path = check_path(path, ".onnx")
    traced = trace(model, input_size, dynamic_size=dynamic_size, batch_size=batch_size)
    return write_checked(path, traced, tolerance, save_onnx, open_onnx)


def save_onnx(program: ExportedProgram, path: Path) -> None:
    """Write a program as an ONNX file, unchecked.

    Raises:
        RuntimeError: if torch's exporter cannot.
    """
    (given,) = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    # The program knows which axes are dynamic, but not what they are called.
    names = {0: "batch", 2: "height", 3: "width"}
    axes = {axis: name for axis, name in names.items() if not isinstance(given.meta["val"].shape[axis], int)}
    try:
        exported: Any = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(axes,) if axes else None,
            dynamo=True,
            verbose=False,
        )
    except Exception as error:  # of any kind
        raise RuntimeError(f"torch's exporter cannot write this model as ONNX: {error}") from error
    for node in exported.model.graph.all_nodes():
        node.metadata_props.clear()  # Python's stack, with the paths of source files on this machine
    exported.save(path, external_data=False)


def open_onnx(path: str | Path) -> Callable[[Tensor], Tensor]:
    """Return a function that runs an ONNX file with one input and one output on the CPU, with torch's threads."""
    runtime = require("onnxruntime", extra="export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised: no need to print them too
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def run(images: Tensor) -> Tensor:
        (output,) = session.run(None, {given.name: images.contiguous().numpy()})
        return torch.from_numpy(output)

    return run


def check_onnx_installed() -> None:
    """Raise ModuleNotFoundError unless all that :func:`to_onnx` needs is installed."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, extra="export")
