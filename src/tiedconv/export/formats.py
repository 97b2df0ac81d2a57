"""The formats in which a model is written, and what can be checked before one is loaded."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor, nn

from .._files import check_writable
from .deployment import deploy
from .layouts import Layout
from .onnx_files import check_onnx_installed, open_onnx, to_onnx
from .openvino_files import check_openvino_installed, open_openvino, to_openvino
from .program import ExportedFile, check_sizes, files_of, to_program
from .quantize import quantize_onnx, quantize_openvino

Format = Literal["onnx", "openvino", "torch-export", "safetensors"]


class Engine(NamedTuple):
    """The functions for the files of one format, and their suffix."""

    suffix: str
    check_installed: Callable[[], None]
    write: Callable[..., ExportedFile]
    quantize: Callable[..., ExportedFile]
    open: Callable[[Path], Callable[[Tensor], Tensor]]


ENGINES = {
    "onnx": Engine(".onnx", check_onnx_installed, to_onnx, quantize_onnx, open_onnx),
    "openvino": Engine(".xml", check_openvino_installed, to_openvino, quantize_openvino, open_openvino),
}
_SUFFIXES = {"torch-export": ".pt2"} | {name: engine.suffix for name, engine in ENGINES.items()}


def default_layout(format: Format) -> Layout:
    """Return the layout for a format if none is asked for: fast where an engine runs the file."""
    return "fast" if format in ENGINES else "thin"


def check_export(
    output: Path,
    format: Format,
    layout: Layout,
    *,
    int8: bool = False,
    checkpoint: Path | None = None,
    input_size: Sequence[int] | None = None,
    batch_size: int | None = None,
) -> None:
    """Check the arguments of ``tiedconv export`` before a model is loaded, and make the folder of ``output``.

    Raises:
        ModuleNotFoundError: if a package that the format needs is not installed.
        ValueError: for a wrong suffix, a file that cannot be written or is the checkpoint, or a number out of range.
    """
    if format == "safetensors":
        if layout == "fast":
            raise ValueError(
                "safetensors holds the model that its name builds, in the layout thin. Leave --layout out, or give "
                "--format onnx, openvino or torch-export."
            )
        return
    if output.suffix != _SUFFIXES[format]:
        others = [name for name, suffix in _SUFFIXES.items() if suffix == output.suffix]
        advice = f"Give --format {others[0]}" if others else "Give another --output"
        raise ValueError(f"a file of --format {format} ends in {_SUFFIXES[format]}, got --output {output}. {advice}.")
    if input_size is not None or batch_size is not None:
        check_sizes(input_size or (1, 1, 1), batch_size)
    if format in ENGINES:
        ENGINES[format].check_installed()
    for file in [*files_of(output), *(files_of(int8_path(output)) if int8 else [])]:
        if checkpoint is not None and checkpoint.exists() and file.exists() and file.samefile(checkpoint):
            raise ValueError(f"{file} would be written over --checkpoint {checkpoint}. Give another --output.")
        check_writable("output", file)


def int8_path(output: Path) -> Path:
    """Return the path of a file's int8 twin, such as ``model.int8.onnx``."""
    return output.with_suffix(f".int8{output.suffix}")


def write_format(
    model: nn.Module,
    output: Path,
    format: Literal["onnx", "openvino", "torch-export"],
    layout: Layout,
    *,
    input_size: Sequence[int],
    dynamic_size: bool = True,
    batch_size: int | None = None,
) -> ExportedFile:
    """Write a model in a format and a layout, with arguments as in :func:`tiedconv.export.to_program`."""
    write = ENGINES[format].write if format in ENGINES else to_program
    model = deploy(model) if layout == "fast" else model
    return write(model, output, input_size=input_size, dynamic_size=dynamic_size, batch_size=batch_size)
