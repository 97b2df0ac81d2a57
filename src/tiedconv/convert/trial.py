"""What a trial pass shows about a model's layers."""

from dataclasses import dataclass

import torch
from torch import nn

from .._meta import copied, on_meta


@dataclass(frozen=True)
class Trial:
    """A forward pass of a copy of a model in evaluation mode, for one input.

    Attributes:
        input_size: shape of the input without the batch dimension.
        dtype: its type.
        device: meta, or the model's if its code needs values, as that of detectors does.
        macs: layer → multiply-adds of its calls for that input; None where values decide about them. Layers that were
            not called are missing.
        outputs: the layers whose result no other module with weights takes. None: the code computes without gradients,
            by which they are found.
    """

    input_size: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    macs: dict[str, int | None]
    outputs: frozenset[str] | None

    def copy(self, module: nn.Module) -> nn.Module:
        """Return a copy of ``module`` on the trial's device."""
        return on_meta(module) if self.device.type == "meta" else copied(module)

    @property
    def total(self) -> int | None:
        """Multiply-adds of all layers."""
        counts = [count for count in self.macs.values() if count is not None]
        return sum(counts) if len(counts) == len(self.macs) else None
