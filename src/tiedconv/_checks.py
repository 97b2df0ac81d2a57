"""Checks shared by the operators and the modules, with messages in the project's form.

A check states what was given and the rule, with numbers, and what to do. The public function or module puts its name in
front with :class:`named`, so that the message reads ``TiedConv2d: what was given and the rule. What to do.``
"""

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ContextDecorator
from math import gcd
from numbers import Integral
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

_LARGEST = 2**31 - 1  # beyond, products of NumPy's integers overflow
_LONGEST = 2**20  # of a stride, a padding, ...: with much larger ones torch's kernels overflow, and may crash


class named(ContextDecorator):  # noqa: N801 - reads as a verb, like contextlib.suppress
    """Put ``name`` in front of what the checks in a ``with`` block or a decorated function raise.

    torch.compile goes through the block.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and kind in (TypeError, ValueError, RuntimeError, FileNotFoundError):
            raise kind(f"{self.name}: {error}") from error.__cause__


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, without its full stop; torch goes on with lists of overloads."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return line.removesuffix(", but expected one of:").removesuffix(".")


def check_blocks(channels: dict[str, int], *, groups: int, blocks: int) -> None:
    """Check that ``blocks * groups`` divides every count in ``channels`` (name → count).

    Raises:
        TypeError: if ``blocks``, ``groups`` or a count is not an integer; ``True`` does not count as one.
        ValueError: if ``blocks``, ``groups`` or a count is below 1, or if one count is not divisible.
    """
    if not channels and type(blocks) is int and type(groups) is int and blocks > 0 and groups > 0:
        return  # the usual call of a function
    for name, value in {"blocks": blocks, "groups": groups, **channels}.items():
        if not _is_int(value):
            raise TypeError(f"{name} must be an int, got {value!r} ({type(value).__name__}).")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {name}={value}.")
        if not isinstance(value, torch.SymInt) and value > _LARGEST:
            raise ValueError(f"{name} must be at most {_LARGEST}, got {name}={value}.")
    divisor = blocks * groups
    for name, value in channels.items():
        if value % divisor:
            given = " and ".join(f"{n}={v}" for n, v in channels.items())
            raise ValueError(
                f"{name}={value} is not divisible by blocks * groups = {blocks} * {groups} = {divisor}. "
                + _fitting_blocks(given, list(channels.values()), groups)
            )


def _fitting_blocks(given: str, counts: list[int], groups: int) -> str:
    common = gcd(*counts)
    if common % groups:
        return f"No number of blocks fits {given} at groups={groups}: groups must divide both."
    fitting = [b for b in range(1, common // groups + 1) if common // groups % b == 0]
    return f"Blocks that fit {given} at groups={groups}: {', '.join(map(str, fitting))}."


def per_dim(
    name: str, value: int | Sequence[int], dims: int, *, minimum: int, error: type[Exception]
) -> tuple[int, ...]:
    """Return ``value`` with one entry per spatial dimension. One int, or a sequence of one, counts for all dimensions.

    Raises:
        TypeError: if an entry is not an integer.
        error: if the number of entries is wrong or one is below ``minimum``. Modules raise ValueError when they are
            built, functions RuntimeError when they are called, as torch's do.
    """
    # The usual cases first: every call of a function comes here.
    if type(value) is int and minimum <= value <= _LONGEST:
        return (value,) * dims
    if (
        type(value) is tuple
        and len(value) == dims
        and set(map(type, value)) == {int}
        and minimum <= min(value)
        and max(value) <= _LONGEST
    ):
        return value
    # Tensors do not hold ints, and bytes are a mistake.
    values: tuple[Any, ...] = (value,)
    if isinstance(value, Iterable) and not isinstance(value, Tensor | bytes):
        values = tuple(value)
    if not all(_is_int(v) for v in values):
        raise TypeError(f"{name} must be one int or {dims} of them, got {value!r}.")
    if len(values) == 1:
        values *= dims
    if len(values) != dims:
        raise error(f"{name} must be one int or {dims} of them, got {value!r}.")
    if any(v < minimum for v in values):
        raise error(f"{name} must be at least {minimum}, got {value!r}.")
    if any(not isinstance(v, torch.SymInt) and v > _LONGEST for v in values):
        raise error(f"{name} must be at most {_LONGEST}, got {value!r}.")
    return values


def _is_int(value: object) -> bool:
    if type(value) is int:
        return True
    # NumPy's integers count, as in torch.nn; SymInt stands for an int while torch traces.
    return isinstance(value, (Integral, torch.SymInt)) and not isinstance(value, bool)


def check_kinds(tensors: Mapping[str, object]) -> None:
    """Raise TypeError unless everything in ``tensors`` (name → value) is a dense tensor."""
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {reprlib.repr(value)} ({type(value).__name__}).")
        if value.layout is not torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got layout={value.layout}. Pass {name}.to_dense().")


def check_splits(arguments: Mapping[str, Any]) -> None:
    """Check that every argument (name → value) is a sequence, or has the length and entries of one, one per split.

    Raises:
        TypeError: if one is not.
        ValueError: if they have different lengths, or are empty.
    """
    for name, value in arguments.items():
        if isinstance(value, Tensor) or not (hasattr(value, "__getitem__") and hasattr(value, "__len__")):
            raise TypeError(f"{name} must be a sequence with one entry per split, got {reprlib.repr(value)}.")
    lengths = {name: len(value) for name, value in arguments.items()}
    if 0 in lengths.values() or len(set(lengths.values())) > 1:
        given = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ValueError(f"expected one entry per split in each argument and at least one split, got {given}.")


def check_floating(x: Tensor) -> None:
    """Raise RuntimeError unless ``x`` has a floating-point or complex dtype, as torch's convolutions do."""
    if not (x.is_floating_point() or x.is_complex()):
        raise RuntimeError(
            f"expected a floating-point input, got dtype={x.dtype}. Convert it, e.g. x.float() / 255 for images."
        )


def check_conv_input(x: Tensor, *, channels: int, spatial_dims: int) -> None:
    """Check the rank and the channel count of a convolution's input.

    Raises:
        RuntimeError: with the shape that was given and the two shapes that are allowed.
    """
    rank_fits = x.dim() in (spatial_dims + 1, spatial_dims + 2)
    if not rank_fits or x.shape[-spatial_dims - 1] != channels:
        axes = ", ".join("DHW"[-spatial_dims:]) if spatial_dims > 1 else "L"
        message = f"expected input (N, {channels}, {axes}) or ({channels}, {axes}), got {tuple(x.shape)}."
        if rank_fits and x.shape[-1] == channels:
            order = [*range(x.dim() - spatial_dims - 1), x.dim() - 1, *range(x.dim() - spatial_dims - 1, x.dim() - 1)]
            message += f" The channels seem to be last: pass x.permute({', '.join(map(str, order))})"
            message += ", which is the channels_last format without a copy." if x.dim() > 3 else "."
        raise RuntimeError(message)
