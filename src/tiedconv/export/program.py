"""Models as programs of ``torch.export``, and what all formats share: trace, write, load again, compare."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from .. import _files
from .._checks import first_line, named
from .._meta import copied

TOLERANCE = 1e-4
"""Largest error of an output, as a part of the model's largest output. Rounding in float32 is a hundredth of that."""


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written, and what the check of it found.

    Attributes:
        path: the file.
        bytes: its size, with that of OpenVINO's weights beside it.
        max_abs_error: largest difference between its outputs and the model's, or for int8 the float32 file's.
        max_rel_error: the same, divided by the largest of the outputs that it is compared with.
        shapes: (N, C, H, W) of the images that both were given.
    """

    path: Path
    bytes: int
    max_abs_error: float
    max_rel_error: float
    shapes: tuple[tuple[int, ...], ...]


class Traced(NamedTuple):
    """A model's program, and images with the model's own outputs to compare with."""

    program: ExportedProgram
    images: list[Tensor]
    outputs: list[Tensor]


@named("to_program")
def to_program(
    model: nn.Module,
    path: str | Path,
    *,
    input_size: Sequence[int],
    dynamic_size: bool = True,
    batch_size: int | None = None,
    tolerance: float = TOLERANCE,
) -> ExportedFile:
    """Save ``model`` as a program of ``torch.export``, which runs without its Python code.

    The program computes what the model does in evaluation mode, on CPUs, for contiguous images. Tied filters are stored
    once. The file is loaded again and given random images in several numbers and sizes; unless its outputs are the
    model's, no file is left.

    Args:
        model: a float32 network from one batch of images (N, C, H, W) to one tensor. It is copied and stays untouched.
        path: ends in ``.pt2``. Load it by ``torch.export.load(path).module()``.
        input_size: (C, H, W) in pixels, the size that the model is for.
        dynamic_size: images may have any height and width. Turn it off for networks that take one size only, such as
            those with learned positions.
        batch_size: the only number of images that the program takes. Default: any.
        tolerance: largest difference between outputs, as a part of the model's largest output.

    Raises:
        TypeError: if the model does not return one tensor, as detectors do not.
        ValueError: if an argument is out of range, the model is not float32 or cannot take images of the given sizes.
        RuntimeError: if the model cannot be traced, or the program's outputs are not the model's.

    Example:
        >>> from tiedconv.nn import TiedConv2d
        >>> with TemporaryDirectory() as folder:
        ...     file = to_program(TiedConv2d(4, 4, 3, blocks=2), f"{folder}/conv.pt2", input_size=(4, 8, 8))
        ...     torch.export.load(file.path).module()(torch.ones(5, 4, 9, 7)).shape
        torch.Size([5, 4, 7, 5])
    """
    path = check_path(path, ".pt2")
    traced = trace(model, input_size, dynamic_size=dynamic_size, batch_size=batch_size)
    return write_checked(path, traced, tolerance, torch.export.save, lambda part: torch.export.load(part).module())


def trace(model: nn.Module, input_size: Sequence[int], *, dynamic_size: bool, batch_size: int | None) -> Traced:
    """Check a model, compute its outputs for several batches and trace it."""
    check_sizes(input_size, batch_size)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ValueError(f"expected a float32 model, got {name} in {parameter.dtype}. Pass model.float().")
    # ONNX knows contiguous tensors only: with channels_last filters every map would be transposed, and back again.
    source = copied(model).eval().cpu().to(memory_format=torch.contiguous_format)
    images = _images(input_size, dynamic_size=dynamic_size, batch_size=batch_size)
    # torch.export takes a size of 1 for a constant: hence two images, and so large that no map shrinks to one pixel.
    (channels, height, width), larger = input_size, 64 if dynamic_size else 0
    with torch.no_grad():
        outputs = [_output(source, x) for x in images]
        example = torch.empty(batch_size or 2, channels, height + larger, width + larger)
        number, size = (Dim.STATIC if fixed else Dim.DYNAMIC for fixed in (batch_size, not dynamic_size))
        axes = {0: number, 1: Dim.STATIC, 2: size, 3: size}
        try:
            program = torch.export.export(source, (example,), dynamic_shapes=(axes,))
        except Exception as error:  # of any kind
            advice = " Pass dynamic_size=False if it has one image size." if dynamic_size else ""
            raise RuntimeError(
                f"torch.export cannot trace this {type(model).__name__}: {first_line(error)}.{advice}"
            ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it has the paths of source files on this machine
    return Traced(program, images, outputs)


def check_sizes(input_size: Sequence[int], batch_size: int | None) -> None:
    """Raise ValueError unless these are (C, H, W) and a number of images."""
    if len(input_size) != 3 or min(input_size) < 1:
        raise ValueError(f"input_size must be channels, height and width, each at least 1, got {input_size}.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}. Leave it out for any number.")


def write_checked(
    path: Path,
    traced: Traced,
    tolerance: float,
    save: Callable[[ExportedProgram, Path], object],
    load: Callable[[Path], Callable[[Tensor], Tensor]],
) -> ExportedFile:
    """Save a program by ``save``, and compare what ``load`` makes of the file with the model before it takes its name.

    Raises:
        RuntimeError: as :func:`compare`; no file is left then.
    """
    with whole(path) as part:
        save(traced.program, part)
        return described(path, part, compare(load(part), traced, tolerance), traced.images)


def compare(run: Callable[[Tensor], Tensor], traced: Traced, tolerance: float) -> tuple[float, float]:
    """Return the largest absolute and relative error of ``run``.

    Raises:
        RuntimeError: if the relative one is above ``tolerance`` or not finite, or ``run`` fails.
    """
    errors = []
    for x, expected in zip(traced.images, traced.outputs, strict=True):
        shape = tuple(x.shape)
        try:
            y = run(x)
        except Exception as error:  # of any runtime
            raise RuntimeError(
                f"what was exported refuses images {shape}: {first_line(error)}. Nothing was written. Pass a "
                "larger input_size, if a map of the network shrinks to one pixel, or dynamic_size=False."
            ) from error
        errors.append(difference(y, expected))
        relative = errors[-1][1]
        if not relative <= tolerance:  # NaN is refused too
            raise RuntimeError(
                f"what was exported returns {tuple(y.shape)} for images {shape}, the model "
                f"{tuple(expected.shape)}, with a difference of {relative:.1e} of the largest output, where "
                f"{tolerance:.1e} is allowed. Nothing was written. Pass dynamic_size=False, or a larger tolerance."
            )
    absolutes, relatives = zip(*errors, strict=True)
    return max(absolutes), max(relatives)


def difference(y: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return the largest difference, and the same divided by the largest expected output; NaN if the shapes differ."""
    absolute = (y - expected).abs().max().item() if y.shape == expected.shape else float("nan")
    return absolute, absolute / max(expected.abs().max().item(), torch.finfo(expected.dtype).tiny)


def check_path(path: str | Path, suffix: str) -> Path:
    """Check that the path has the suffix and can be written, and make its folder."""
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"the file must end in {suffix}, got {path}. Give another name.")
    for file in files_of(path):
        _files.check_writable("output", file)
    return path


def files_of(path: Path) -> list[Path]:
    """Return the files that belong to a path: OpenVINO has the weights beside the graph."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def described(path: Path, part: Path, errors: tuple[float, float], images: Iterable[Tensor]) -> ExportedFile:
    """Report on the files in the folder of ``part``, which will be moved to ``path``."""
    size = sum(file.stat().st_size for file in part.parent.iterdir())
    return ExportedFile(path, size, *errors, tuple(tuple(x.shape) for x in images))


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a path to write to. At the end that file and those beside it move to the folder of ``path``, or none do."""
    # In a folder of its own: some writers read the format off the suffix, or write more files.
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        part = Path(folder) / path.name
        yield part
        if beside := [file for file in Path(folder).iterdir() if file != part]:
            path.unlink(missing_ok=True)  # the old file must not be read with new ones beside it
        for file in (*beside, part):
            file.replace(path.with_name(file.name))


def _images(input_size: Sequence[int], *, dynamic_size: bool, batch_size: int | None) -> list[Tensor]:
    """Return random images of the model's size, and of other numbers and sizes where these may vary."""
    channels, height, width = input_size
    sizes = [(height, width)] * 3
    if dynamic_size:
        sizes[1:] = [(height + 32, width), (height - height // 4, width + 13)]
    numbers = (batch_size,) * 3 if batch_size else (1, 2, 3)
    shapes = dict.fromkeys((n, channels, *size) for n, size in zip(numbers, sizes, strict=True))
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _output(model: nn.Module, x: Tensor) -> Tensor:
    name, shape = type(model).__name__, tuple(x.shape)
    try:
        y = model(x.clone())  # which its code may change
    except Exception as error:  # of any kind
        raise ValueError(
            f"{name} cannot take images {shape}: {first_line(error)}. If it has one image size, pass its "
            "input_size and dynamic_size=False (--dynamic_size false)."
        ) from error
    if not isinstance(y, Tensor):
        raise TypeError(
            f"{name} returns a {type(y).__name__}, and only models that return one tensor are exported. Export "
            "a detector's backbone, or wrap the model in one that returns a tensor."
        )
    return y
