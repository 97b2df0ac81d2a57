"""Speed and memory of whole models, beside a reference and in turns."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..models.named import build_model, check_model
from .engines import IN_TORCH, Engine, check_engine, compiler, prepare
from .machine import check_device
from .memory import train_step_peak_memory
from .operators import FORMATS, MemoryFormat
from .steps import inference, train_step
from .timer import Progress, Quartiles, Timing, describe_error, rates, try_interleaved

Quantity = Literal["latency", "throughput", "train", "memory"]
Precision = Literal["float32", "bfloat16"]
UNITS: dict[Quantity, str] = {"latency": "ms", "throughput": "images/s", "train": "images/s", "memory": "MiB"}

REST = 0.1
"""Seconds between calls of different engines, whose idle threads keep the cores busy for up to 35 ms."""


def throughput(
    models: Mapping[str, nn.Module], images: Tensor, *, train: bool, rounds: int = 10
) -> dict[str, Quartiles]:
    """Return the images per second of every model on the same batch, measured in turns.

    Args:
        models: by name. They are left in evaluation or training mode, and train steps change their weights.
        images: :math:`(N, C, H, W)` on the models' device, in the memory format to measure.
        train: a whole train step (forward, backward, SGD with momentum) instead of inference.
        rounds: measured calls per model, after two that are not.
    """
    make = train_step if train else inference
    steps = {name: make(model.train(train), images) for name, model in models.items()}
    return rates(steps, len(images), rounds=rounds, device=images.device)


@dataclass(frozen=True)
class ModelOptions:
    """What to measure.

    Attributes:
        models: names as :func:`tiedconv.models.build_model` takes them; the first is the reference.
        engines: ``"eager"`` torch; ``"compiled"`` by ``torch.compile``, which takes about a minute per model, format
            and quantity; ``"onnxruntime"`` and ``"openvino"``, for latency and throughput. All but eager use the
            deployed network (:func:`tiedconv.export.deploy`) for inference.
        memory_formats: of model and images in torch; other engines choose their own.
        dtype: of model and images; ``"float32"`` for engines outside torch.
        quantities: ``"latency"`` of one image in ms; ``"throughput"`` of a batch in images/s; ``"train"``, images/s of
            a step (forward, cross-entropy, backward, SGD with momentum); ``"memory"``, peak MiB of such a step in a
            process of its own.
        batch: images in a batch, except for latency.
        image_size: height and width of the images, pixels.
        rounds: measured calls of every model, after two that are not.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:<number>"``.

    Raises:
        ModuleNotFoundError: if the package of an engine is not installed.
        ValueError: if a name is unknown or given twice, if no engine has any of the quantities or one does not have the
            dtype or device, or if a number is out of range.
    """

    models: Sequence[str]
    engines: Sequence[Engine] = ("eager",)
    memory_formats: Sequence[MemoryFormat] = ("channels_last",)
    dtype: Precision = "float32"
    quantities: Sequence[Quantity] = ("latency", "throughput", "train", "memory")
    batch: int = 8
    image_size: int = 224
    rounds: int = 11
    device: str = "cpu"

    def __post_init__(self) -> None:
        known: dict[str, tuple[str, ...]] = {
            "models": (),
            "engines": get_args(Engine),
            "memory_formats": get_args(MemoryFormat),
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
        device = check_device(self.device)
        for option in ("batch", "image_size", "rounds"):
            if getattr(self, option) < 1:
                raise ValueError(f"bench: {option} must be at least 1, got {option}={getattr(self, option)}.")
        if not self.measurable():
            raise ValueError(
                f"bench: {', '.join(self.quantities)} cannot be measured with engines={', '.join(self.engines)}. "
                "Add eager."
            )
        for engine in self.engines:
            check_engine(engine, dtype=self.dtype, device=device)

    def measurable(self) -> list[Quantity]:
        """Return the quantities that at least one of the engines has."""
        return [quantity for quantity in self.quantities if self.engines_for(quantity)]

    def engines_for(self, quantity: Quantity) -> list[Engine]:
        """Return the engines that have a quantity: only those in torch train."""
        return [engine for engine in self.engines if quantity in ("latency", "throughput") or engine in IN_TORCH]


@dataclass(frozen=True)
class ModelRow:
    """One quantity of one model.

    Attributes:
        quantity, dtype, model, engine: what was measured, as in :class:`ModelOptions`.
        memory_format: of model and images; None for engines that choose their own.
        batch: images per call.
        timing: of the calls; None for memory and after an error.
        mib: peak memory, for that quantity.
        ratio: how many times as fast as the reference in the same engine and format, round by round. For memory, how
            many times its MiB. None where either failed.
        ratio_to_best: the same, relative to the reference in the engine and format where it is best.
        error: why there is no figure, or empty.
    """

    quantity: Quantity
    dtype: Precision
    model: str
    engine: Engine
    memory_format: MemoryFormat | None
    batch: int
    timing: Timing | None = None
    mib: float | None = None
    ratio: Quartiles | None = None
    ratio_to_best: Quartiles | None = None
    error: str = ""

    @property
    def label(self) -> str:
        """What was measured, in one line."""
        return ", ".join(filter(None, (self.model, self.engine, self.memory_format)))

    @property
    def value(self) -> Quartiles | None:
        """The figure in the unit of its quantity (``UNITS``); None after an error."""
        if self.quantity == "memory":
            return None if self.mib is None else Quartiles.of([self.mib])
        if self.timing is None:
            return None
        if self.quantity == "latency":
            return Quartiles.of([1e3 * s for s in self.timing.seconds])
        return self.timing.rate(self.batch)

    def failures(self) -> list[str]:
        """One line if there is no figure: what was to be measured, and the first line of the error."""
        reason = self.error.partition("\n")[0]
        return [f"{self.quantity}, {self.label}: {reason}"] if self.error else []

    def record(self) -> dict[str, Any]:
        """Return the row and its derived figures, as JSON has them."""
        value = self.value
        plain = ("quantity", "dtype", "model", "engine", "memory_format", "batch", "mib", "error")
        return {
            **{name: getattr(self, name) for name in plain},
            "unit": UNITS[self.quantity],
            "median": value and value.median,
            "spread": value and value.spread,
            "ratio": self.ratio and asdict(self.ratio),
            "ratio_to_best": self.ratio_to_best and asdict(self.ratio_to_best),
            "seconds": self.timing and list(self.timing.seconds),
        }


def measure(options: ModelOptions, quantity: Quantity, progress: Progress = lambda *_: None) -> list[ModelRow]:
    """Measure one quantity of all models in all engines and memory formats, in turns.

    A model that fails has a row with the error; the others are still measured.

    Args:
        options: what to measure.
        quantity: one that ``options`` has.
        progress: told what is being done.
    """
    batch = 1 if quantity == "latency" else options.batch
    rows = [
        ModelRow(quantity, options.dtype, model, engine, memory_format, batch)
        for engine in options.engines_for(quantity)
        for memory_format in (options.memory_formats if engine in IN_TORCH else [None])
        for model in options.models
    ]
    rows = (_peaks if quantity == "memory" else _times)(rows, options, progress)
    return _compare(rows, options.models[0])


def _times(rows: list[ModelRow], options: ModelOptions, progress: Progress) -> list[ModelRow]:
    quantity = rows[0].quantity
    steps: dict[str, Callable[[], object]] = {}
    failed: dict[str, str] = {}
    engines = {row.engine for row in rows}
    with compiler() if "compiled" in engines else nullcontext():
        for place, row in enumerate(rows):
            progress(f"{quantity}: preparing", place, len(rows))
            try:
                steps[row.label] = _step(row, options)
            except Exception as error:  # whatever an export or a model raises, the others are still measured
                failed[row.label] = describe_error(error)
        timings, broken = try_interleaved(
            steps,
            rounds=options.rounds,
            device=options.device,
            rest=REST if len(engines) > 1 else 0,
            progress=partial(progress, f"{quantity}: rounds"),
        )
    failed |= broken
    return [replace(row, timing=timings.get(row.label), error=failed.get(row.label, "")) for row in rows]


def _step(row: ModelRow, options: ModelOptions) -> Callable[[], object]:
    """Build the model and what is called to measure it."""
    memory_format, dtype = FORMATS[row.memory_format or "contiguous"], getattr(torch, row.dtype)
    shape = (row.batch, 3, options.image_size, options.image_size)
    images = torch.randn(shape).to(options.device, dtype).contiguous(memory_format=memory_format)
    model = build_model(row.model)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # timm starts residual branches at zero, and a wrong branch would not show
                parameter.normal_(std=0.1)
    model = model.to(options.device, dtype).to(memory_format=memory_format).train(row.quantity == "train")
    if row.quantity == "train":
        return train_step(model, images, compiled=row.engine == "compiled")
    return inference(prepare(row.engine, model, images, memory_format), images)


def _peaks(rows: list[ModelRow], options: ModelOptions, progress: Progress) -> list[ModelRow]:
    measured = []
    for place, row in enumerate(rows):
        progress("memory", place, len(rows))
        mib, error = None, ""
        try:
            mib = train_step_peak_memory(
                partial(build_model, row.model),
                (row.batch, 3, options.image_size, options.image_size),
                channels_last=row.memory_format == "channels_last",
                dtype=getattr(torch, row.dtype),
                device=options.device,
                compiled=row.engine == "compiled",
            )
            error = "" if mib else "this system keeps no record of a process' peak memory"
        except Exception as raised:  # also if the process was killed for its memory
            error = describe_error(raised)
        measured.append(replace(row, mib=mib, error=error))
    progress("memory", len(rows), len(rows))
    return measured


def _compare(rows: list[ModelRow], reference: str) -> list[ModelRow]:
    """Add the ratios to the reference's rows, all of one quantity."""
    references = {(row.engine, row.memory_format): row for row in rows if row.model == reference and row.value}
    best = min(references.values(), key=lambda row: row.timing.median if row.timing else row.mib or 0, default=None)
    return [
        replace(
            row, ratio=_ratio(row, references.get((row.engine, row.memory_format))), ratio_to_best=_ratio(row, best)
        )
        for row in rows
    ]


def _ratio(row: ModelRow, reference: ModelRow | None) -> Quartiles | None:
    if reference is None:
        return None
    if row.mib and reference.mib:
        return Quartiles.of([row.mib / reference.mib])
    return row.timing.speedup_over(reference.timing) if row.timing and reference.timing else None
