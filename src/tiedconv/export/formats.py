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
    """What writes, quantizes and runs the files of a format, and checks that all it needs is installed."""

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
    """Return the layout that suits a format: fast where an engine runs the file."""
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
    """Check what needs no model, before an hour of loading, and make the folder of ``output``.

    Args:
        output: the file, or the folder of safetensors.
        format, layout: what is to be written.
        int8: whether an int8 twin is to be written beside it (:func:`int8_path`).
        checkpoint: the file that the weights are read from. It must not be written over.
        input_size: (C, H, W) in pixels.
        batch_size: as in :func:`tiedconv.export.to_program`.

    Raises:
        ModuleNotFoundError: if a package that the format needs is not installed.
        ValueError: if the file's name is not one of the format or cannot be written, or an argument is out of range.
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
    """Write a model to a file, checked as :func:`tiedconv.export.to_program` does, which has the other arguments."""
    write = ENGINES[format].write if format in ENGINES else to_program
    written = deploy(model) if layout == "fast" else model
    return write(written, output, input_size=input_size, dynamic_size=dynamic_size, batch_size=batch_size)
