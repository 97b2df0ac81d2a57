"""Speed and memory of whole models, beside a reference and in turns."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..export import deploy
from ._steps import inference, train_step
from ._timer import Quartiles, Timing, describe_error, interleaved, try_interleaved
from .machine import check_device
from .memory import train_step_peak_memory
from .named import build_model, check_model
from .operators import FORMATS, MemoryFormat

Quantity = Literal["latency", "throughput", "train", "memory"]
Mode = Literal["eager", "compiled", "optimized"]
Precision = Literal["float32", "bfloat16"]
UNITS: dict[Quantity, str] = {"latency": "ms", "throughput": "images/s", "train": "images/s", "memory": "MiB"}

_MODES: dict[Quantity, tuple[Mode, ...]] = {
    "latency": ("eager", "compiled", "optimized"),
    "throughput": ("eager", "compiled", "optimized"),
    "train": ("eager", "compiled"),
    "memory": ("eager",),
}


def throughput(
    models: Mapping[str, nn.Module], images: Tensor, *, train: bool, rounds: int = 10
) -> dict[str, list[float]]:
    """Measure images per second of every model on the same batch, in turns.

    Args:
        models: by the names that the result has too; moved nowhere, and in eval or train mode afterwards. A train step
            changes their weights.
        images: :math:`(N, C, H, W)` on the models' device, in the memory format to measure.
        train: a whole train step (forward, backward, SGD with momentum) instead of inference.
        rounds: measured calls a model, after two that are not.

    Returns:
        Images per second of each measured call.
    """
    make = train_step if train else inference
    steps = {name: make(model.train(train), images) for name, model in models.items()}
    times = interleaved(steps, rounds=rounds, device=images.device)
    return {name: [len(images) / s for s in timing.seconds] for name, timing in times.items()}


@dataclass(frozen=True)
class ModelOptions:
    """What to measure.

    Attributes:
        models: names as :func:`build_model` takes them; the first is the reference.
        modes: ``"eager"``; ``"compiled"`` by ``torch.compile``, which takes about a minute a model, format and
            quantity; ``"optimized"`` by :func:`tiedconv.export.optimize_for_inference`, for latency and throughput.
        memory_formats: of model and images.
        dtypes: of model and images.
        quantities: ``"latency"`` of one image in ms; ``"throughput"`` of a batch in images/s; ``"train"``, images/s of
            a step (forward, cross-entropy, backward, SGD with momentum); ``"memory"``, peak MiB of such a step in a
            process of its own, eager only.
        batch: images in a batch, but for latency.
        image_size: height and width of the images, pixels.
        rounds: measured calls of every model, after two that are not.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:<number>"``.

    Raises:
        ValueError: if a name is unknown or given twice, nothing is left to measure, or a number is out of range.
    """

    models: Sequence[str]
    modes: Sequence[Mode] = ("eager",)
    memory_formats: Sequence[MemoryFormat] = ("contiguous", "channels_last")
    dtypes: Sequence[Precision] = ("float32",)
    quantities: Sequence[Quantity] = ("latency", "throughput", "train", "memory")
    batch: int = 8
    image_size: int = 224
    rounds: int = 20
    device: str = "cpu"

    def __post_init__(self) -> None:
        known: dict[str, tuple[str, ...]] = {
            "models": (),
            "modes": get_args(Mode),
            "memory_formats": get_args(MemoryFormat),
            "dtypes": get_args(Precision),
            "quantities": get_args(Quantity),
        }
        for option, choices in known.items():
            given = getattr(self, option)
            if not given or len(set(given)) < len(given):
                raise ValueError(
                    f"bench: {option} must name at least one, each once, got {', '.join(given) or 'none'}."
                )
            for name in given if choices else ():
                if name not in choices:
                    raise ValueError(f"bench: {option} must be among {', '.join(choices)}, got {name!r}.")
        for name in self.models:
            check_model(name)
        check_device(self.device)
        for option in ("batch", "image_size", "rounds"):
            if getattr(self, option) < 1:
                raise ValueError(f"bench: {option} must be at least 1, got {option}={getattr(self, option)}.")
        if not self.groups():
            raise ValueError(
                f"bench: {', '.join(self.quantities)} cannot be measured with modes={', '.join(self.modes)}. Add eager."
            )

    def groups(self) -> list[tuple[Quantity, Precision]]:
        """What is measured together, in turns: all models, modes and formats of one quantity and dtype."""
        return [(q, dtype) for dtype in self.dtypes for q in self.quantities if set(self.modes) & set(_MODES[q])]


@dataclass(frozen=True)
class ModelRow:
    """One quantity of one model.

    Attributes:
        quantity, dtype, model, mode, memory_format: what was measured, in the words of :class:`ModelOptions`.
        batch: images a call.
        timing: of the calls; None for memory and after an error.
        mib: peak memory, for that quantity.
        ratio: how many times as fast as the reference in the same mode and format, round by round. For memory, how
            many times its MiB. None where either failed.
        ratio_to_best: the same to the reference in whichever mode and format it is best in.
        error: why there is no figure, or empty.
    """

    quantity: Quantity
    dtype: Precision
    model: str
    mode: Mode
    memory_format: MemoryFormat
    batch: int
    timing: Timing | None = None
    mib: float | None = None
    ratio: Quartiles | None = None
    ratio_to_best: Quartiles | None = None
    error: str = ""

    @property
    def label(self) -> str:
        """What was measured, in one line."""
        return f"{self.model}, {self.mode}, {self.memory_format}"

    @property
    def value(self) -> Quartiles | None:
        """The figure in the unit of its quantity (``UNITS``); None after an error."""
        if self.quantity == "memory":
            return None if self.mib is None else Quartiles.of([self.mib])
        if self.timing is None:
            return None
        if self.quantity == "latency":
            return Quartiles.of([1e3 * s for s in self.timing.seconds])
        return Quartiles.of([self.batch / s for s in self.timing.seconds])

    def failures(self) -> list[str]:
        """One line if there is no figure: what it would have been, and the first line of the error."""
        reason = self.error.partition("\n")[0]
        return [f"{self.quantity}, {self.dtype}, {self.label}: {reason}"] if self.error else []

    def record(self) -> dict[str, Any]:
        """Return what :meth:`from_record` reads, and the derived figures, as JSON has them."""
        value = self.value
        return {
            **{
                f.name: getattr(self, f.name)
                for f in fields(self)
                if f.name not in ("timing", "ratio", "ratio_to_best")
            },
            "unit": UNITS[self.quantity],
            "median": value and value.median,
            "spread": value and value.spread,
            "ratio": self.ratio and asdict(self.ratio),
            "ratio_to_best": self.ratio_to_best and asdict(self.ratio_to_best),
            "seconds": self.timing and list(self.timing.seconds),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "ModelRow":
        """Return the row that :meth:`record` wrote."""
        plain = {f.name: record[f.name] for f in fields(cls) if f.name in record}
        for name in ("ratio", "ratio_to_best"):
            plain[name] = record[name] and Quartiles(**record[name])
        return cls(**plain, timing=record["seconds"] and Timing(tuple(record["seconds"])))


def measure(options: ModelOptions, quantity: Quantity, dtype: Precision) -> list[ModelRow]:
    """Measure one quantity in one dtype for all models, modes and memory formats, in turns.

    What fails has a row with the error; the others are measured nevertheless.
    """
    batch = 1 if quantity == "latency" else options.batch
    rows = [
        ModelRow(quantity, dtype, model, mode, memory_format, batch)
        for mode in options.modes
        if mode in _MODES[quantity]
        for memory_format in options.memory_formats
        for model in options.models
    ]
    rows = [_peak(row, options) for row in rows] if quantity == "memory" else _times(rows, options)
    return _compare(rows, options.models[0])


def _times(rows: list[ModelRow], options: ModelOptions) -> list[ModelRow]:
    steps: dict[str, Callable[[], object]] = {}
    failed: dict[str, str] = {}
    for row in rows:
        try:
            steps[row.label] = _step(row, options)
        except Exception as error:  # whatever an export or a model raises, the others are still measured
            failed[row.label] = describe_error(error)
    with _room_for_compiled() if "compiled" in options.modes else nullcontext():
        timings, broken = try_interleaved(steps, rounds=options.rounds, device=options.device)
    failed |= broken
    return [replace(row, timing=timings.get(row.label), error=failed.get(row.label, "")) for row in rows]


def _step(row: ModelRow, options: ModelOptions) -> Callable[[], object]:
    """Build the model and what is called to measure it."""
    memory_format, dtype = FORMATS[row.memory_format], getattr(torch, row.dtype)
    shape = (row.batch, 3, options.image_size, options.image_size)
    images = torch.randn(shape).to(options.device, dtype).contiguous(memory_format=memory_format)
    model = build_model(row.model).to(options.device, dtype).to(memory_format=memory_format)
    model.train(row.quantity == "train")
    if row.mode == "optimized":
        model = deploy(model)
    if row.mode == "compiled":
        model = torch.compile(model, dynamic=False)  # type: ignore[assignment]  # a callable module
    return (train_step if row.quantity == "train" else inference)(model, images)


def _room_for_compiled() -> AbstractContextManager[Any]:
    """Let all compiled models live at once, where torch would run the ninth as eager without a word.

    What was compiled before is forgotten; torch would look through it at every call.
    """
    import torch._dynamo

    torch._dynamo.reset()
    return torch._dynamo.config.patch(recompile_limit=256)


def _peak(row: ModelRow, options: ModelOptions) -> ModelRow:
    try:
        mib = train_step_peak_memory(
            partial(build_model, row.model),
            (row.batch, 3, options.image_size, options.image_size),
            channels_last=row.memory_format == "channels_last",
            dtype=getattr(torch, row.dtype),
            device=options.device,
        )
    except Exception as error:  # also that of a process that was killed for its memory
        return replace(row, error=describe_error(error))
    return replace(row, mib=mib, error="" if mib else "this system keeps no record of a process' peak memory")


def _compare(rows: list[ModelRow], reference: str) -> list[ModelRow]:
    """Add the ratios to the reference's rows, all of one quantity and dtype."""
    references = {(row.mode, row.memory_format): row for row in rows if row.model == reference and row.value}
    best = min(references.values(), key=lambda row: row.timing.median if row.timing else row.mib or 0, default=None)
    return [
        replace(row, ratio=_ratio(row, references.get((row.mode, row.memory_format))), ratio_to_best=_ratio(row, best))
        for row in rows
    ]


def _ratio(row: ModelRow, reference: ModelRow | None) -> Quartiles | None:
    if reference is None:
        return None
    if row.mib and reference.mib:
        return Quartiles.of([row.mib / reference.mib])
    return row.timing.speedup_over(reference.timing) if row.timing and reference.timing else None
