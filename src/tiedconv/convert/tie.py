"""``tie_``: layers of a model replaced by tied ones, in place."""

from typing import Any, Literal, get_args

from torch import nn
from torch.nn.modules.conv import _ConvNd

from .._checks import named
from .._meta import copied
from .fit import Images, Progress, as_batches, check_runs, fit_outputs
from .placement import TIED, Blocks, FilterFn, Preset, choose
from .project import project_bias, project_weight, projection_error
from .replace import check_root, geometry, replace, take_over, widths
from .report import LayerReport, TieReport
from .trial import parameters, try_forward, try_tied

Init = Literal["project", "data", "random"]

_ERROR_OF: dict[Init, Literal["weight", "output"] | None] = {"project": "weight", "data": "output", "random": None}


@named("tie_")
def tie_(
    model: nn.Module,
    blocks: Blocks = 2,
    filter_fn: FilterFn | Preset | None = None,
    init: Init = "project",
    *,
    images: Images | None = None,
    example_inputs: Any = None,
    progress: Progress | None = None,
) -> TieReport:
    r"""Replace convolution and linear layers of a model by tied ones, in place.

    Everything is checked before the first layer is replaced: after an error the model is as it was. What cannot be tied
    is kept and listed in the report with the reason: indivisible and depthwise layers, subclasses with their own
    computation, layers with hooks, parametrizations, shared or quantised weights, transposed convolutions, layers that
    are not called because other code reads their weights. A layer that is used in several places stays shared. Data
    type, device, ``requires_grad``, training mode and memory format are kept. The weights are new parameters, so create
    the optimiser afterwards.

    Args:
        model: any module that holds such layers.
        blocks: how many blocks a layer's channels are split into. One number for the layers that ``filter_fn`` takes;
            or a dict from names or shell-style patterns of names to numbers, of which a layer's exact name counts, else
            the first pattern that matches (layers that none matches are kept, and output layers unless they are named);
            or a function ``(module, name) -> int``, asked about every layer. 1 keeps a layer. What cannot be tied is
            kept, except that a layer whose exact name is in the dict is an error.
        filter_fn: which layers a number of blocks is for; not with a dict or a function. A function
            ``(module, name) -> bool``, or ``"body"``, all but the output layers: a classifier, every head of a detector
            or a segmenter; ``"all"``; ``"entry"``, the 1x1 convolutions that open a bottleneck (the paper's choice for
            ResNets); ``"se"``, those in squeeze-and-excitation modules (TiedSE). Default: ``"body"``.
        init: where the tied weights come from. ``"project"``: nearest to the old weights by least squares. ``"data"``:
            nearest to the old layers' outputs on ``images``, by least squares in closed form, layer after layer, each
            on the inputs that the tied layers before it give. ``"random"``: as newly built layers.
        images: for ``"data"``, with models that take one tensor: a tensor :math:`(N, ...)` or batches of it, as the
            model takes them; of pairs, as a data loader gives them, the first is used. All are kept in memory. Give a
            few hundred different ones, as the weights overfit to a few.
        example_inputs: what a copy of the model is called with, in evaluation mode, to find the output layers and those
            that are not called or whose weights other code reads, and to count multiply-adds. A tuple holds the
            positional arguments, a dict the keyword arguments, anything else is the one argument: ``images``,
            ``(images, mask)``, ``{"input_ids": ids}``. Values matter only for models whose code looks at them, such as
            detectors. Default: the first of ``images``, else zeros: an image of the size that timm gives for the model,
            else of 224x224 pixels; with zeros, multiply-adds that depend on values are not counted.
        progress: for ``"data"``: called with the number of layers fitted and their total.

    Returns:
        A report with one row per layer, which prints as a table; its ``blocks`` repeat the tying on another model.

    Raises:
        TypeError: if ``blocks`` or ``images`` is of the wrong kind, or ``model`` wraps the module to be tied.
        ValueError: for an argument out of range, a pattern without a layer, a named layer that cannot be tied, a model
            that is itself a layer, has lazy layers, cannot be copied (``torch.nn.utils.weight_norm``,
            ``spectral_norm``, ``prune``: the message says what to call first), does not call the tied layers in their
            places, does not run on ``example_inputs`` or ``images``, or whose output layers ``"body"`` cannot tell, and
            if no layer is tied.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 10, 1))
        >>> report = tie_(model, blocks=4)
        >>> report.blocks, report.kept[0].reason
        ({'2': 4}, 'in_channels 3 is not a multiple of 4 blocks')
        >>> model[2].weight.shape
        torch.Size([2, 2, 3, 3])
    """
    if init not in get_args(Init):
        raise ValueError(
            f"init must be one of {', '.join(map(repr, get_args(Init)))}, got {init!r}. Nothing was changed."
        )
    if (init == "data") != (images is not None):
        raise ValueError(
            'init="data" needs images, and images are for init="data" alone. Nothing was changed. Give both.'
        )
    check_root(model)
    batches = [] if images is None else as_batches(images)
    if batches:
        check_runs(model, batches)
    first = batches[0][:1] if batches else None
    trial = try_forward(model, first if example_inputs is None else example_inputs)
    choices = choose(model, blocks, filter_fn, trial)
    chosen = {choice.name: choice for choice in choices if choice.blocks}
    if not chosen:
        reasons = dict.fromkeys(choice.reason for choice in choices)
        raise ValueError(
            f"none of the {len(choices)} convolution and linear layers of torch.nn can be tied "
            f"({'; '.join(reasons) or 'there is none'}). Nothing was changed. Choose other blocks or another filter_fn."
        )
    tied: dict[str, Any] = {name: tied_twin(choice.layer, choice.blocks, init) for name, choice in chosen.items()}
    macs = {} if trial is None else trial.macs
    tied_macs = {} if trial is None else try_tied(model, tied, trial)
    errors: dict[str, float | None] = {}
    if init == "project":
        for name, choice in chosen.items():
            errors[name] = projection_error(choice.layer.weight, tied[name].weight, blocks=choice.blocks)
    elif init == "data":
        twin = copied(model)  # an error leaves the model as it is
        replace(twin, tied)
        errors = {**fit_outputs(twin, model, tied, batches, progress)}
    before = parameters(model)
    replace(model, tied)
    rows = (
        LayerReport(
            choice.name,
            _kind(choice.layer),
            choice.blocks or 1,
            choice.reason,
            parameters(choice.layer),
            parameters(tied.get(choice.name, choice.layer)),
            macs.get(choice.name),
            tied_macs.get(choice.name),
            errors.get(choice.name),
        )
        for choice in choices
    )
    shapes = None if trial is None else trial.input_shapes
    return TieReport(tuple(rows), before, parameters(model), shapes, _ERROR_OF[init])


def tied_twin(layer: Any, blocks: int, init: Init = "project") -> nn.Module:
    """Build the tied layer that takes the place of ``layer``."""
    groups = getattr(layer, "groups", 1)
    shape = {**widths(layer), "bias": layer.bias is not None}
    if not isinstance(layer, nn.Linear):
        shape |= {**geometry(layer), "groups": groups}
    device = layer.weight.device if init == "random" else "meta"
    made: Any = TIED[type(layer)](**shape, device=device, dtype=layer.weight.dtype, blocks=blocks)
    weight, bias = made.weight, made.bias
    if init != "random":
        weight = project_weight(layer.weight, groups=groups, blocks=blocks)
        bias = None if layer.bias is None else project_bias(layer.bias, groups=groups, blocks=blocks)
    take_over(made, layer, weight, bias)
    return made


def _kind(layer: Any) -> str:
    kernel = f" {'x'.join(map(str, layer.kernel_size))}" if isinstance(layer, _ConvNd) else ""
    return type(layer).__name__ + kernel
