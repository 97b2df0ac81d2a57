"""What a conversion did to each layer, as data and as a table."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class LayerReport:
    """What was done to one layer.

    Attributes:
        name: qualified name.
        kind: class and kernel, such as ``"Conv2d 3x3"``.
        blocks: how many blocks share the weight; 1 if the layer was kept.
        reason: why it was kept; empty if it was tied.
        params, tied_params: parameters before and after.
        macs, tied_macs: multiply-adds before and after; ``None`` if the layer was not called, or it is unknown for the
            input assumed.
        error: relative error, see :attr:`TieReport.error_of`; ``None`` for kept and random layers, and on the meta
            device.
    """

    name: str
    kind: str
    blocks: int
    reason: str
    params: int
    tied_params: int
    macs: int | None
    tied_macs: int | None
    error: float | None = None

    @property
    def is_tied(self) -> bool:
        """Whether the layer was tied."""
        return not self.reason


@dataclass(frozen=True)
class TieReport:
    """What :func:`tiedconv.tie_` did. Prints as a table.

    Attributes:
        layers: one entry for every convolution and linear layer, in the order of ``model.named_modules()``.
        params, tied_params: parameters of the whole model, before and after.
        input_shapes: of the tensors that multiply-adds are for; ``None`` if the model did not run on the input assumed.
        error_of: what ``error`` is of: the ``"weight"`` (norm of the difference between the old weight and the untied
            form of the new one, over the norm of the old) or the layer's ``"output"`` on the images, likewise; ``None``
            for random weights.
    """

    layers: tuple[LayerReport, ...]
    params: int
    tied_params: int
    input_shapes: tuple[tuple[int, ...], ...] | None
    error_of: Literal["weight", "output"] | None

    @property
    def tied(self) -> tuple[LayerReport, ...]:
        """The layers that were tied."""
        return tuple(layer for layer in self.layers if layer.is_tied)

    @property
    def kept(self) -> tuple[LayerReport, ...]:
        """The layers that were kept."""
        return tuple(layer for layer in self.layers if not layer.is_tied)

    @property
    def blocks(self) -> dict[str, int]:
        """The blocks of each layer that was tied: what :func:`tiedconv.tie_` takes to do the same to another model."""
        return {layer.name: layer.blocks for layer in self.tied}

    @property
    def macs(self) -> int | None:
        """Multiply-adds of the layers that were called, before; ``None`` if unknown."""
        return _total(layer.macs for layer in self.layers)

    @property
    def tied_macs(self) -> int | None:
        """Multiply-adds of the layers that were called, after; ``None`` if unknown."""
        return _total(layer.tied_macs for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return {**asdict(self), "macs": self.macs, "tied_macs": self.tied_macs}

    def __str__(self) -> str:
        rows = [_HEADERS, *map(_cells, self.layers)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "   ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, _SIDES, widths, strict=True))
            for row in rows
        ]
        lines.insert(1, "─" * len(lines[0]))
        return "\n".join(line.rstrip() for line in (self._headline(), "", *lines, "", self._caption()))

    def _headline(self) -> str:
        share = f" ({self.tied_params / self.params:.0%})" if self.params else ""
        line = f"{len(self.tied)} of {len(self.layers)} layers tied: "
        line += f"{_si(self.params)} → {_si(self.tied_params)} params{share}"
        if self.macs:
            line += f", {_si(self.macs)} → {_si(self.tied_macs)} MACs ({(self.tied_macs or 0) / self.macs:.0%})"
        return line

    def _caption(self) -> str:
        if self.input_shapes is None:
            counted = "MACs unknown: the model does not run on the input assumed; give example_inputs"
        elif self.macs is None:
            counted = "MACs unknown: they depend on the values of the input; give example_inputs"
        else:
            shapes = " and ".join("x".join(map(str, shape)) for shape in self.input_shapes)
            counted = f"MACs for an input of {shapes}" if shapes else "MACs for example_inputs"
        return counted + (f"; error: relative, of the {self.error_of}" if self.error_of else "")


_HEADERS = ("layer", "kind", "blocks", "params", "", "MACs", "", "error", "kept because")
_SIDES = "<<>>>>>><"


def _cells(layer: LayerReport) -> tuple[str, ...]:
    return (
        layer.name,
        layer.kind,
        f"{layer.blocks}" if layer.is_tied else "",
        _si(layer.params),
        _si(layer.tied_params) if layer.is_tied else "",
        _si(layer.macs),
        _si(layer.tied_macs) if layer.is_tied else "",
        "" if layer.error is None else f"{layer.error:.3f}",
        layer.reason,
    )


def _total(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _si(count: int | None) -> str:
    if count is None:
        return "–"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * factor:
            return f"{count / factor:.2f} {prefix}"
    return f"{count}"
