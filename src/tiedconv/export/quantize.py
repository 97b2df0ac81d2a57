"""ONNX files with integers of 8 bits, for CPUs."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from .._extras import require
from .onnx_files import INPUT, open_onnx
from .program import check_path, whole


def quantize_onnx(path: str | Path, calibration_batches: Iterable[Tensor], out: str | Path) -> Path:
    """Write the int8 twin of an ONNX file, by ONNX Runtime's static quantization.

    Weights get 8 bits and a scale for each output channel; activations get 8 bits and the range that they have for the
    calibration images. Tied filters are stored once, in a quarter of the bytes. Norms behind them stay float32.

    Args:
        path: a float32 file of :func:`to_onnx`.
        calibration_batches: images (N, C, H, W), prepared as in training; some hundred are enough.
        out: ends in ``.onnx``.

    Returns:
        ``out``.

    Raises:
        ModuleNotFoundError: if onnx or onnxruntime is not installed.
        ValueError: if there are no images, or ``out`` cannot be written.
    """
    who = "quantize_onnx"
    require("onnx", extra="export")
    tools: Any = require("onnxruntime.quantization", extra="export")
    registry: Any = require("onnxruntime.quantization.registry", extra="export")
    shapes: Any = require("onnxruntime.quantization.shape_inference", extra="export")
    out = check_path(who, out, ".onnx")
    batches = iter(calibration_batches)
    first = next(batches, None)
    if first is None:
        raise ValueError(f"{who}: calibration_batches is empty, and the ranges are read off images. Give some hundred.")
    # Batch norm has no kernel for integers: its weights would be rounded, and nothing computed faster.
    kinds = {*registry.QLinearOpsRegistry, *registry.QDQRegistry} - {"BatchNormalization"}
    with whole(out) as part, TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        shapes.quant_pre_process(Path(path), prepared, skip_symbolic_shape=True)
        tools.quantize_static(
            prepared,
            part,
            _Reader(chain([first], batches)),
            quant_format=tools.QuantFormat.QDQ,
            op_types_to_quantize=sorted(kinds),
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
        )
    return out


def top1(path: str | Path, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the share of images, 0-1, for which the largest output of an ONNX file is that of their class.

    Args:
        path: an ONNX file of a classifier.
        batches: images (N, C, H, W) with their classes (N).
    """
    run = open_onnx(path)
    hits = torch.cat([run(images).argmax(1) == classes for images, classes in batches])
    return hits.float().mean().item()


class _Reader:
    """Batches one after the other, in the form in which ONNX Runtime asks for them."""

    def __init__(self, batches: Iterator[Tensor]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, Any] | None:
        images = next(self.batches, None)
        return None if images is None else {INPUT: images.contiguous().numpy()}
