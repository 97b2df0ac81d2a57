"""Where multiply-adds are counted: one way for whole models and for their layers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker


class _NoHooks(ModuleTracker):
    """Takes the place of the counter's hooks on all modules, with which a model cannot call autograd.grad."""

    def __enter__(self) -> "_NoHooks":
        return self

    def __exit__(self, *args: object) -> None:
        pass


@contextmanager
def counted_macs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, int]]:
    """Count the multiply-adds of every call of ``modules`` inside the context.

    They are those of convolutions and matrix products, two FLOPs each in torch's counter. Norms, activations, pooling
    and additions are not counted, as usual. On meta tensors it counts without computing.

    Args:
        modules: by any names. Other modules may contain them or be contained in them.

    Yields:
        The sum over all calls of each module; modules that were not called are missing.

    Example:
        >>> import torch
        >>> conv = nn.Conv2d(3, 8, 3, padding=1)  # 216 multiply-adds for each of 16 positions
        >>> with counted_macs({"conv": conv}) as macs:
        ...     _ = conv(torch.zeros(1, 3, 4, 4))
        >>> macs
        {'conv': 3456}
    """
    macs: dict[str, int] = {}
    handles = []
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoHooks()

    # Differences of the total, as the counter's own names of modules differ from those of ``named_modules`` for a
    # module that stands in several places.
    def watch(name: str, module: nn.Module) -> None:
        begun: list[int] = []  # a stack, for modules that call themselves

        def begin(module: nn.Module, args: Any) -> None:
            begun.append(counter.get_total_flops())

        def end(module: nn.Module, args: Any, output: Any) -> None:
            macs[name] = macs.get(name, 0) + (counter.get_total_flops() - begun.pop()) // 2

        handles.extend([module.register_forward_pre_hook(begin), module.register_forward_hook(end)])

    try:
        for name, module in modules.items():
            watch(name, module)
        with counter:
            yield macs
    finally:
        for handle in handles:
            handle.remove()
