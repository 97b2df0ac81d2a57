"""Files with integers of 8 bits, for CPUs: made after training from float32 files, by what their engines offer."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from .._checks import named
from .._extras import require
from .onnx_files import INPUT, open_onnx
from .openvino_files import load_openvino, open_openvino
from .program import ExportedFile, check_path, described, difference, whole

LARGEST_ERROR = 0.5
"""Of int8 outputs, root mean square, as a part of the float32 ones. Rounding to 8 bits errs by a tenth of that."""


@named("quantize_onnx")
def quantize_onnx(path: str | Path, calibration_batches: Iterable[Tensor], out: str | Path) -> ExportedFile:
    """Write the int8 twin of an ONNX file, by ONNX Runtime's static quantization.

    Weights get 8 bits and a scale for each output channel; activations get 8 bits and the range that they have for the
    calibration images. Tied filters are stored once, in a quarter of the bytes. Norms behind them stay float32.

    Args:
        path: a float32 file of :func:`to_onnx`.
        calibration_batches: images (N, C, H, W), prepared as in training; some hundred are enough. All are kept in
            memory.
        out: ends in ``.onnx``.

    Returns:
        The new file, compared with the float32 one on the first batch.

    Raises:
        ModuleNotFoundError: if onnx or onnxruntime is not installed.
        ValueError: if there are no images, or ``out`` cannot be written.
        RuntimeError: if the outputs differ from the float32 ones by more than half, root mean square. There is no file
            then.
    """
    require("onnx", extra="export")
    tools: Any = require("onnxruntime.quantization", extra="export")
    registry: Any = require("onnxruntime.quantization.registry", extra="export")
    shapes: Any = require("onnxruntime.quantization.shape_inference", extra="export")
    out = check_path(out, ".onnx")
    batches = _listed(calibration_batches)
    inputs = ({INPUT: images.numpy()} for images in batches)
    # Batch norm has no kernel for integers: its weights would be rounded, and nothing computed faster.
    kinds = {*registry.QLinearOpsRegistry, *registry.QDQRegistry} - {"BatchNormalization"}
    with whole(out) as part, TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        shapes.quant_pre_process(Path(path), prepared, skip_symbolic_shape=True)
        tools.quantize_static(
            prepared,
            part,
            SimpleNamespace(get_next=lambda: next(inputs, None)),
            quant_format=tools.QuantFormat.QDQ,
            op_types_to_quantize=sorted(kinds),
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
        )
        return _compared(out, part, open_onnx(path), open_onnx(part), batches[0])


@named("quantize_openvino")
def quantize_openvino(path: str | Path, calibration_batches: Iterable[Tensor], out: str | Path) -> ExportedFile:
    """Write the int8 twin of an OpenVINO file, by NNCF's quantization after training.

    As :func:`quantize_onnx`, but the range of an activation is the mean of its ranges in the batches, which ought to
    have some dozen images each, and biases make up for what rounding adds to a channel's mean.

    Args:
        path: a float32 file of :func:`to_openvino`, of a deployed network: with tied filters stored once, OpenVINO
            2026.4 computes other outputs in int8.
        calibration_batches: as in :func:`quantize_onnx`.
        out: ends in ``.xml``.

    Returns:
        The new file, compared with the float32 one on the first batch.

    Raises:
        ModuleNotFoundError: if openvino or nncf is not installed.
        ValueError, RuntimeError: as :func:`quantize_onnx`.
    """
    openvino, nncf = load_openvino(), load_nncf()
    out = check_path(out, ".xml")
    batches = _listed(calibration_batches)
    with whole(out) as part:
        with _silent():
            calibration = nncf.Dataset(batches, Tensor.numpy)
            small = nncf.quantize(openvino.Core().read_model(Path(path)), calibration, subset_size=len(batches))
        openvino.save_model(small, part, compress_to_fp16=False)
        return _compared(out, part, open_openvino(path), open_openvino(part), batches[0])


def _listed(batches: Iterable[Tensor]) -> list[Tensor]:
    found = [batch.contiguous() for batch in batches]
    if not found:
        raise ValueError("calibration_batches is empty, and the ranges are read off images. Give some hundred.")
    return found


def _compared(
    out: Path, part: Path, run: Callable[[Tensor], Tensor], small: Callable[[Tensor], Tensor], images: Tensor
) -> ExportedFile:
    y, expected = small(images), run(images)
    error = ((y - expected).norm() / expected.norm()).item()
    if not error <= LARGEST_ERROR:  # also where it is not a number
        raise RuntimeError(
            f"the int8 outputs differ from the float32 ones by {error:.0%}, where {LARGEST_ERROR:.0%} is "
            "allowed. Nothing was written. Give the file of a deployed network (--layout fast), or stay with float32."
        )
    return described(out, part, difference(y, expected), [images])


def load_nncf() -> Any:
    """Import nncf, which takes seconds."""
    load_openvino()  # before nncf does
    with _silent():
        return require("nncf", extra="openvino")


@contextmanager
def _silent() -> Iterator[None]:
    """Keep standard output and logs free of progress bars and advice."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(before)
