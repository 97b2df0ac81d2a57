"""Parameters and multiply-adds of a model, and the paper's counts beside those of the models built here."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import timm
import torch
from timm.layers import SEModule
from timm.models.efficientnet import SqueezeExcite
from torch import nn

from .._counting import counted_macs
from .._meta import on_meta
from ..models.published import PUBLISHED, PublishedCount
from ..nn import TiedGlobalContext, TiedSE

_ATTENTION = (SEModule, SqueezeExcite, TiedSE, TiedGlobalContext)  # of the paper's Tables 3 and 4, untied and tied


@dataclass(frozen=True)
class Counts:
    """What a model costs.

    Attributes:
        params: parameters, each shared one once.
        macs: multiply-adds of convolutions and matrix products for one input.
    """

    params: int
    macs: int


def count(model: nn.Module, input_size: Sequence[int]) -> Counts:
    """Count a model's parameters and its multiply-adds for one input, in evaluation mode.

    A copy of the model runs on the meta device, so that nothing is computed and the model is not touched. Norms,
    activations, pooling and additions are not counted, as usual.

    Args:
        model: any module that takes one tensor.
        input_size: the input's shape without the batch dimension, such as ``(3, 224, 224)``.

    Example:
        >>> conv = nn.Conv2d(3, 8, 3, padding=1)  # 3 * 8 * 3 * 3 + 8 parameters, 216 MACs for each of 16 positions
        >>> count(conv, (3, 4, 4))
        Counts(params=224, macs=3456)
    """
    twin = on_meta(model).eval()
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    with torch.no_grad(), counted_macs({"": twin}) as macs:
        twin(torch.empty(1, *input_size, device="meta", dtype=dtype))
    return Counts(_parameters([model]), macs[""])


def count_attention(model: nn.Module, within: Sequence[str] = ()) -> int:
    """Count the parameters of a model's attention modules, as the paper's Tables 3 and 4 do, each once.

    Args:
        model: any module.
        within: names of the submodules to look into. Default: the whole model.

    Example:
        >>> count_attention(nn.Sequential(nn.Conv2d(3, 64, 1), TiedSE(64, reduction=16, blocks=2)))  # 2*64*4/4 + 2 + 32
        162
    """
    roots = [model.get_submodule(name) for name in within] or [model]
    return _parameters(m for root in roots for m in root.modules() if isinstance(m, _ATTENTION))


@dataclass(frozen=True)
class Comparison:
    """A published count beside the count of the model built here.

    Attributes:
        published: the row of the paper.
        params: parameters of the model built here, in millions; ``None`` if it is not here.
        gmacs: its multiply-adds for one 224x224 image, in 10^9; also ``None`` where only attention is counted.
    """

    published: PublishedCount
    params: float | None
    gmacs: float | None

    @property
    def params_difference(self) -> float | None:
        """Built over published parameters, minus one, in per cent."""
        return _difference(self.params, self.published.params)

    @property
    def gmacs_difference(self) -> float | None:
        """Built over published multiply-adds, minus one, in per cent."""
        return _difference(self.gmacs, self.published.gmacs)


def compare_with_paper(rows: Iterable[PublishedCount] = PUBLISHED) -> Iterator[Comparison]:
    """Build the model of every row on the meta device, and count what the row counts.

    Example:
        >>> [(c.params, c.gmacs) for c in compare_with_paper(PUBLISHED[:1])]  # ResNet50, published 25.6 and 4.2
        [(25.557032, 4.089184256)]
    """
    for row in rows:
        if row.model is None:
            yield Comparison(row, None, None)
            continue
        args = dict(row.args)
        if row.context_blocks is not None:
            args["block_args"] = {"attn_layer": partial(TiedGlobalContext, reduction=4, blocks=row.context_blocks)}
        model = timm.create_model(row.model, device="meta", **args)
        if row.counted == "attention":
            yield Comparison(row, count_attention(model, within=row.within) / 1e6, None)
        else:
            counts = count(model, (3, 224, 224))
            yield Comparison(row, counts.params / 1e6, counts.macs / 1e9)


def _parameters(modules: Iterable[nn.Module]) -> int:
    return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())


def _difference(built: float | None, published: float | None) -> float | None:
    return None if built is None or published is None else 100 * (built / published - 1)
