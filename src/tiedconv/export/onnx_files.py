"""Models as ONNX files, written by torch's exporter and checked in ONNX Runtime."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import named
from .._extras import require
from .program import TOLERANCE, ExportedFile, Traced, check_path, compare, described, trace, whole

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

    ONNX Runtime loads the file and is given random images of several numbers and sizes; unless its outputs are the
    model's in evaluation mode, no file is left. Tied filters are stored once; engines run a network without them
    faster, so pass ``deploy(model)`` where speed counts more than the size of the file.

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
    with whole(path) as part:
        save_onnx(traced, part)
        errors = compare(open_onnx(part), traced, tolerance)
        return described(path, part, errors, traced.images)


def save_onnx(traced: Traced, path: Path) -> None:
    """Write a traced model as an ONNX file, unchecked.

    Raises:
        RuntimeError: if torch's exporter cannot.
    """
    (given,) = [node for node in traced.program.graph.nodes if node.name in traced.program.graph_signature.user_inputs]
    # The program knows which axes are dynamic; this is how they are called.
    names = {0: "batch", 2: "height", 3: "width"}
    axes = {axis: name for axis, name in names.items() if not isinstance(given.meta["val"].shape[axis], int)}
    try:
        exported: Any = torch.onnx.export(
            traced.program,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(axes,) if axes else None,
            dynamo=True,
            verbose=False,
        )
    except Exception as error:  # of whichever of the exporter's passes
        raise RuntimeError(f"torch's exporter cannot write this model as ONNX: {error}") from error
    for node in exported.model.graph.all_nodes():
        node.metadata_props.clear()  # Python's stack for every node, and where the code lies on disk
    exported.save(path, external_data=False)


def open_onnx(path: str | Path) -> Callable[[Tensor], Tensor]:
    """Return a function that runs an ONNX file of one input and one output on the CPU, in as many threads as torch."""
    runtime = require("onnxruntime", extra="export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised, and need not be printed too
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
