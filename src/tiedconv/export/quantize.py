"""int8 files for CPUs, made after training from float32 files by the engines' own tools."""

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
"""Largest error of int8 outputs, as a part of the float32 ones, root mean square. Usual ones are a tenth of that."""


@named("quantize_onnx")
def quantize_onnx(path: str | Path, calibration_batches: Iterable[Tensor], out: str | Path) -> ExportedFile:
    """Write the int8 twin of an ONNX file, by ONNX Runtime's static quantization.

    Weights get 8 bits and a scale per output channel; activations get 8 bits and the range that they have on the
    calibration images. Tied filters are stored once, and norms behind them stay float32.

    Args:
        path: a float32 file of :func:`to_onnx`.
        calibration_batches: images (N, C, H, W), prepared as in training. A few hundred are enough; all are kept in
            memory.
        out: ends in ``.onnx``.

    Returns:
        The new file, compared with the float32 one on the first batch.

    Raises:
        ModuleNotFoundError: if onnx or onnxruntime is not installed.
        ValueError: if there are no images, or ``out`` cannot be written.
        RuntimeError: if the outputs differ from the float32 ones by more than half, root mean square. No file is left
            then.
    """
    require("onnx", extra="export")
    tools: Any = require("onnxruntime.quantization", extra="export")
    registry: Any = require("onnxruntime.quantization.registry", extra="export")
    shapes: Any = require("onnxruntime.quantization.shape_inference", extra="export")
    out = check_path(out, ".onnx")
    batches = _listed(calibration_batches)
    inputs = ({INPUT: images.numpy()} for images in batches)
    # Batch norm has no int8 kernel: rounding its weights would make nothing faster.
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
        return _compared(open_onnx, Path(path), part, out, batches[0])


@named("quantize_openvino")
def quantize_openvino(path: str | Path, calibration_batches: Iterable[Tensor], out: str | Path) -> ExportedFile:
    """Write the int8 twin of an OpenVINO file, by NNCF's quantization after training.

    As :func:`quantize_onnx`, but the range of an activation is the mean of its ranges in the batches, which should have
    a few dozen images each, and biases correct what rounding adds to a channel's mean.

    Args:
        path: a float32 file of :func:`to_openvino`, of a deployed network: OpenVINO 2026.4 computes wrong int8 outputs
            where tied filters are stored once.
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
        return _compared(open_openvino, Path(path), part, out, batches[0])


def _listed(batches: Iterable[Tensor]) -> list[Tensor]:
    found = [batch.contiguous() for batch in batches]
    if not found:
        raise ValueError("calibration_batches is empty. Give a few hundred images, to read the ranges off.")
    return found


def _compared(
    load: Callable[[Path], Callable[[Tensor], Tensor]], path: Path, part: Path, out: Path, images: Tensor
) -> ExportedFile:
    """Compare the int8 file ``part``, which will be ``out``, with the float32 one."""
    y, expected = load(part)(images), load(path)(images)
    error = ((y - expected).norm() / expected.norm()).item()
    if not error <= LARGEST_ERROR:  # NaN is refused too
        raise RuntimeError(
            f"the int8 outputs differ from the float32 ones by {error:.0%}, where {LARGEST_ERROR:.0%} is "
            "allowed. Nothing was written. Give the file of a deployed network (--layout fast), or stay with float32."
        )
    return described(out, part, difference(y, expected), [images])


def load_nncf() -> Any:
    """Import nncf, which takes seconds."""
    load_openvino()  # nncf imports it, and would start what reports its use
    with _silent():
        return require("nncf", extra="openvino")


@contextmanager
def _silent() -> Iterator[None]:
    """Hide progress bars and advice."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(before)
