"""A model's twin for inference: norms folded, tied filters written out, additions and ReLUs merged in."""

import copy
import inspect
import operator
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..nn import SplitTiedConv2d, TiedConv1d, TiedConv2d, TiedConv3d, TiedLinear
from ..nn.fold import CONVS, folded_filters, is_watched, untied_filters
from ._fused import FusedConv2d

_LEAVES = (TiedConv1d, TiedConv2d, TiedConv3d, TiedLinear, SplitTiedConv2d)
_RELUS = (F.relu, torch.relu, torch.relu_, "relu", "relu_")
_ADDS = (operator.add, torch.add, "add")
_ADDS_IN_PLACE = (operator.iadd, "add_")


def optimize_for_inference(model: nn.Module) -> "OptimizedModel":
    """Return a faster twin of ``model`` that computes the same in evaluation mode.

    - Batch norms with fixed statistics are folded into the convolution before them. As every channel has a scale of its
      own, tied filters are written out for each block; that costs memory, not multiplications.
    - The splits of a bottleneck become one grouped convolution where that is faster.
    - ReLUs and residual additions become part of the convolution before them. On CPUs weights are packed once.

    Everything is computed in channels_last memory. ``model`` can be any module that holds layers of ``tiedconv.nn`` or
    ``torch.nn``. What ``torch.fx`` cannot trace is left as it is, and its submodules are optimized one by one. So are
    modules with hooks, which go on being called, and those with optional inputs, on which their code may depend.

    The twin is made to be used, not stored: its ``state_dict`` is the tied model's, and pickling it stores the tied
    model, which is optimized again when it is loaded.

    Args:
        model: it stays untouched and is copied; train it further and optimize it again.

    Returns:
        A module that takes and returns what ``model`` does, without gradients. Outputs differ by rounding.

    Example:
        >>> from tiedconv.nn import TiedConv2d
        >>> model = nn.Sequential(TiedConv2d(8, 8, 3, padding=1, bias=False, blocks=2), nn.BatchNorm2d(8), nn.ReLU())
        >>> fast = optimize_for_inference(model)
        >>> x = torch.randn(1, 8, 5, 5)
        >>> torch.allclose(fast(x), model.eval()(x), atol=1e-5)
        True
        >>> sum(weight.numel() for name, weight in fast.state_dict().items() if name == "0.weight")
        144
    """
    return OptimizedModel(model)


class OptimizedModel(nn.Module):
    """What :func:`optimize_for_inference` returns.

    Attributes:
        source: the copy of the tied model that it was made from, in evaluation mode.
        network: the optimized network.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        # In a list, so that its parameters and modules do not count twice.
        self._source = [copy.deepcopy(source).eval()]
        with torch.no_grad():
            self.network = _optimize(copy.deepcopy(self.source))
        self.network.requires_grad_(False)
        super().train(False)

    @property
    def source(self) -> nn.Module:
        return self._source[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return self.network(*args, **kwargs)

    def train(self, mode: bool = True) -> "OptimizedModel":
        """Refuse to train: the folded filters are no parameters."""
        if mode:
            raise RuntimeError(
                "OptimizedModel: its norms are folded and it cannot be trained. Train the model it was made from, and "
                "optimize that again."
            )
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the tied model's ``state_dict``."""
        return self.source.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse to load: the weights are folded already."""
        raise RuntimeError(
            "OptimizedModel: its weights are folded already. Load them into the tied model, then optimize that."
        )

    def _apply(self, fn: Any, recurse: bool = True) -> "OptimizedModel":
        self.source._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return OptimizedModel, (self.source,)


class _Proxy(fx.Proxy):
    """Keeps the common in-place operators, which torch's proxy takes for those that write to new memory."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


class _Tracer(fx.Tracer):
    """Traces through modules; one whose Python code refuses becomes a call in the graph, the smallest such module."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LEAVES) or is_watched(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        known, stack = len(self.graph.nodes), self.module_stack.copy()
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # whatever its code raises when it is given proxies
            for node in list(self.graph.nodes)[: known - 1 : -1]:
                self.graph.erase_node(node)
            self.module_stack = stack  # else the module around it is refused too
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def _optimize(module: nn.Module) -> nn.Module:
    """Return the optimized twin of ``module``, which is used up."""
    if type(module) in CONVS and _is_fusible(module):
        return _with_attributes(FusedConv2d(module, untied_filters(module)), module)  # type: ignore[arg-type]
    if _Tracer().is_leaf_module(module, "") or _has_optional_inputs(module):
        return _optimize_children(module)
    try:
        graph = _Tracer().trace(module)
    except Exception:  # as in call_module, but for the outermost
        return _optimize_children(module)
    traced = fx.GraphModule(module, graph, type(module).__name__)
    for name in {str(node.target) for node in graph.nodes if node.op == "call_module"}:
        leaf = traced.get_submodule(name)
        if type(leaf) not in CONVS:
            traced.set_submodule(name, _optimize_children(leaf))
    _fuse(traced)
    return _with_attributes(traced, module)


def _has_optional_inputs(module: nn.Module) -> bool:
    """Whether an input may be left out. A trace would take the side of ``if mask is None`` that it is given."""
    return any(p.default is not p.empty for p in inspect.signature(module.forward).parameters.values())


def _optimize_children(module: nn.Module) -> nn.Module:
    for name, child in list(module.named_children()):
        setattr(module, name, _optimize(child))
    return module


def _with_attributes(twin: nn.Module, module: nn.Module) -> nn.Module:
    """Give ``twin`` the plain attributes of ``module``, such as ``out_channels``, which a parent's code may read."""
    for name, value in vars(module).items():
        if not name.startswith("_") and not hasattr(twin, name):
            setattr(twin, name, value)
    return twin


def _is_fusible(conv: nn.Module) -> bool:
    zeros = getattr(conv, "padding_mode", "zeros") == "zeros"
    return zeros and not isinstance(conv.padding, str) and not is_watched(conv)


def _fuse(traced: fx.GraphModule) -> None:
    """Replace every convolution of the graph, with the norm, addition and ReLU behind it, by a :class:`FusedConv2d`."""
    graph = traced.graph
    for node, module in _calls(traced):
        if type(module) in (nn.Identity, nn.Dropout) and node.args and not is_watched(module):
            _drop(node, node.args[0])
    for node, conv in _calls(traced):
        if type(conv) not in CONVS or not _is_fusible(conv) or not _is_only_use(traced, node):
            continue  # what follows would differ from use to use
        filters = untied_filters(conv)  # type: ignore[arg-type]
        after = _only_user(node)
        norm = _module(traced, after)
        if (
            after is not None
            and type(norm) is nn.BatchNorm2d
            and norm.running_mean is not None
            and not is_watched(norm)
        ):
            filters = folded_filters(conv, norm)  # type: ignore[arg-type]
            _drop(after, node)
        traced.set_submodule(str(node.target), FusedConv2d(conv, filters))  # type: ignore[arg-type]
    for node, fused in _calls(traced):
        if isinstance(fused, FusedConv2d) and _is_only_use(traced, node):
            node = _fuse_addition(traced, node) if len(fused.groups) == 1 else node
            after = _only_user(node)
            if after is not None and _is_relu(traced, after):
                fused.relu = True
                _drop(after, node)
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node, fused in _calls(traced):
        if isinstance(fused, FusedConv2d) and len(node.args) == 2:
            fused.overwrites_residual = _is_used_up(traced, node, node.args[1], order)
    graph.lint()
    traced.recompile()
    traced.delete_all_unused_submodules()


def _is_only_use(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether nothing else in the graph calls the layer of ``node``, reads its weight or holds it inside."""
    name = str(node.target)
    others = [str(n.target) for n in traced.graph.nodes if n.op in ("call_module", "get_attr") and n is not node]
    return not node.kwargs and not any(
        other == name or other.startswith(f"{name}.") or name.startswith(f"{other}.") for other in others
    )


def _fuse_addition(traced: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Give the convolution of ``node`` the other operand of the addition behind it → the node that computes both."""
    addition = _only_user(node)
    if addition is None or not _is_addition(addition, node) or not _can_be_postponed(traced, node, addition):
        return node
    others = [a for a in addition.args if isinstance(a, fx.Node) and a is not node]
    if len(others) != 1:
        return node
    with traced.graph.inserting_before(addition):  # the other operand may come later than the convolution
        both = traced.graph.call_module(str(node.target), (node.args[0], others[0]))
    addition.replace_all_uses_with(both)
    traced.graph.erase_node(addition)
    traced.graph.erase_node(node)
    return both


def _is_addition(node: fx.Node, of: fx.Node) -> bool:
    """Whether ``node`` is a plain sum that writes to no memory but that of its operand ``of``."""
    if node.op == "call_module" or len(node.args) != 2 or node.kwargs:
        return False
    return node.target in _ADDS or (node.target in _ADDS_IN_PLACE and node.args[0] is of)


def _can_be_postponed(traced: fx.GraphModule, node: fx.Node, until: fx.Node) -> bool:
    """Whether what is computed between two nodes is only layers of torch and ours, none of them in place."""
    between = node.next
    while between is not until:
        module = _module(traced, between)
        known = isinstance(module, FusedConv2d) or type(module).__module__.startswith("torch.nn.modules.")
        if between.op != "get_attr" and (not known or getattr(module, "inplace", False)):
            return False
        between = between.next
    return True


def _is_used_up(traced: fx.GraphModule, node: fx.Node, residual: Any, order: dict[fx.Node, int]) -> bool:
    """Whether ``residual`` is memory of its own that nothing but ``node`` reads from then on."""
    made = _module(traced, residual)
    earlier = [user for user in residual.users if user is not node]
    return (
        isinstance(made, FusedConv2d)
        and residual is not node.args[0]  # read all the while
        and all(order[user] < order[node] and isinstance(_module(traced, user), FusedConv2d) for user in earlier)
    )


def _is_relu(traced: fx.GraphModule, node: fx.Node) -> bool:
    module = _module(traced, node)
    if module is not None:
        return type(module) is nn.ReLU and not is_watched(module)
    return node.target in _RELUS


def _calls(traced: fx.GraphModule) -> list[tuple[fx.Node, nn.Module]]:
    nodes = [node for node in traced.graph.nodes if node.op == "call_module"]
    return [(node, traced.get_submodule(str(node.target))) for node in nodes]


def _module(traced: fx.GraphModule, node: fx.Node | None) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if node is not None and node.op == "call_module" else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _drop(node: fx.Node, replacement: Any) -> None:
    node.replace_all_uses_with(replacement)
    node.graph.erase_node(node)
