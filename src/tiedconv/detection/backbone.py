"""Any hierarchical timm model as the backbone of a detector: features of several scales, and an FPN on them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import timm
import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

from .._checks import named
from ..models import check_model_name
from ..models.weights import classifiers, describe_difference, read_weights
from ..nn import TiedGlobalContext

Norm = Literal["batch", "frozen", "sync"]
Top = Literal["pool", "p6p7"]
_BATCH_NORM = nn.modules.batchnorm._BatchNorm


class FPNBackbone(nn.Module):
    """A timm model's last feature maps, brought to one width by a feature pyramid network (Lin et al., 2017).

    It is what torchvision's detectors take as ``backbone``.

    Args:
        name: a timm model, tied or not, whose ``features_only`` form gives maps of growing reduction.
        levels: how many of the last feature maps to use.
        out_channels: width of the pyramid.
        top: what comes above the last map: ``"pool"`` adds one level (R-CNNs), ``"p6p7"`` two (RetinaNet).
        frozen_stages: how many stages are fixed, counted from the input as timm's ``feature_info`` does: of a ResNet 1
            is the stem, 2 the stem and ``layer1``. Fixed batch norms use their running statistics. Default: none.
        norm: ``"batch"`` trains batch norms, ``"frozen"`` fixes all of them, statistics, scale and shift, and
            ``"sync"`` takes statistics over all devices.
        context_blocks: put a global context module with this many blocks (1: GCB, 2 or more: TiedGCB) at the end
            of every bottleneck of stages c3 to c5, as in the paper's Table 4. Default: none.
        weights: file with the weights of a classifier of the same name, as :func:`tiedconv.models.read_weights` reads
            them; its last layer may be of any size.
        model_kwargs: more arguments for ``timm.create_model``; a Swin needs ``{"strict_img_size": False}``.

    Shape:
        - Input: (N, 3, H, W), normalised.
        - Output: dict of (N, ``out_channels``, H / r, W / r), one for each level, ``"0"`` with the smallest reduction r
          first.

    Attributes:
        out_channels: width of every level.
        reductions: reduction of each level, those of ``top`` included.
        mean, std: of the images that timm's weights of this model were trained on.

    Raises:
        ValueError: if the name is unknown, an option is out of range, the model has no such feature maps, or the
            weights are of another network.
        FileNotFoundError: if there is no file of weights.
    """

    def __init__(
        self,
        name: str,
        *,
        levels: int = 4,
        out_channels: int = 256,
        top: Top = "pool",
        frozen_stages: int = 0,
        norm: Norm = "batch",
        context_blocks: int | None = None,
        weights: str | Path | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_model_name(name)
        for argument, value, allowed in (("norm", norm, get_args(Norm)), ("top", top, get_args(Top))):
            if value not in allowed:
                raise ValueError(f"FPNBackbone: {argument} must be one of {', '.join(allowed)}, got {value!r}.")
        kwargs = dict(model_kwargs or {})
        if weights is not None:
            kwargs |= _pretrained(Path(weights), name, kwargs)
        self.body = timm.create_model(name, features_only=True, **kwargs)
        self.channels_last_maps = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        config: Any = self.body.pretrained_cfg
        self.mean, self.std = config["mean"], config["std"]
        if weights is not None:
            config.pop("state_dict")  # a second copy of the weights
        info: Any = self.body.feature_info
        stages = info.get_dicts(keys=["module", "reduction", "num_chs"])
        _check_levels(name, stages, levels)
        used = stages[-levels:]
        self.levels = levels
        self.out_channels = out_channels
        self.reductions = [stage["reduction"] for stage in used]
        channels = [stage["num_chs"] for stage in used]
        extra = LastLevelMaxPool() if top == "pool" else LastLevelP6P7(channels[-1], out_channels)
        self.reductions += [factor * self.reductions[-1] for factor in ((2,) if top == "pool" else (2, 4))]
        self.fpn = FeaturePyramidNetwork(channels, out_channels, extra)

        if context_blocks is not None:
            for stage in _stage_names(self.body, name, stages)[-3:]:
                _add_global_context(self.body.get_submodule(stage), name, context_blocks)
        if norm == "sync":
            self.body = convert_sync_batchnorm(self.body)  # timm's, which keeps the activations of its own norms
        if not 0 <= frozen_stages <= len(stages):
            raise ValueError(f"FPNBackbone: frozen_stages must be in 0-{len(stages)} for {name}, got {frozen_stages}.")
        fixed: dict[str, nn.Module] = {}
        if frozen_stages:
            fixed |= _up_to(self.body, _stage_names(self.body, name, stages)[frozen_stages - 1])
        if norm == "frozen":
            fixed |= {key: module for key, module in self.body.named_modules() if isinstance(module, _BATCH_NORM)}
        for module in fixed.values():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        # By name, as Lightning's sync_batchnorm exchanges the modules.
        self._fixed_norms = [key for key, module in fixed.items() if isinstance(module, _BATCH_NORM)]
        self.train()

    def train(self, mode: bool = True) -> "FPNBackbone":
        """As ``torch.nn.Module.train``; fixed batch norms stay in evaluation mode, where tied layers fold them."""
        super().train(mode)
        for norm in self._fixed_norms:
            self.body.get_submodule(norm).eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x)[-self.levels :]
        if self.channels_last_maps:  # (N, H, W, C), as Swin has them
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        pyramid: dict[str, Tensor] = self.fpn({str(i): feature for i, feature in enumerate(features)})
        return pyramid


def _pretrained(path: Path, name: str, model_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with which ``timm.create_model`` starts from a classifier's weights."""
    with torch.device("meta"):
        classifier = timm.create_model(name, **model_kwargs)
    with named("FPNBackbone"):
        state = read_weights(path, classifier)
    heads = tuple(f"{layer}." for layer in classifiers(classifier))
    state = {key: value for key, value in state.items() if not key.startswith(heads)}
    expected = {key: value for key, value in classifier.state_dict().items() if not key.startswith(heads)}
    difference = describe_difference(expected, state)
    if difference:
        raise ValueError(f"FPNBackbone: {path} does not hold the weights of {name} ({difference}).")
    return {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": state}}


def _check_levels(name: str, stages: list[dict[str, Any]], levels: int) -> None:
    if not 1 <= levels <= len(stages):
        raise ValueError(f"FPNBackbone: levels must be in 1-{len(stages)} for {name}, got {levels}.")
    used = [stage["reduction"] for stage in stages[-levels:]]
    if sorted(set(used)) != used:
        raise ValueError(
            f"FPNBackbone: the last {levels} feature maps of {name} have reductions {used}, which do not grow from map "
            "to map. Choose a backbone with stages, such as a ResNet, EfficientNet, ConvNeXt or Swin."
        )


def _stage_names(body: nn.Module, name: str, stages: list[dict[str, Any]]) -> list[str]:
    """Names of the modules that return the feature maps; timm's ``features_only`` joins nested names by ``_``."""
    modules = dict(body.named_modules())
    names = []
    for stage in stages:
        spellings = (stage["module"], stage["module"].replace(".", "_"), f"model.{stage['module']}")
        found = [spelling for spelling in spellings if spelling in modules]
        if not found:
            raise ValueError(
                f"FPNBackbone: cannot tell which part of {name} is its stage {stage['module']!r}. Use no frozen_stages "
                "and no context_blocks with it."
            )
        names.append(found[0])
    return names


def _up_to(body: nn.Module, stage: str) -> dict[str, nn.Module]:
    """The modules that were defined before a stage, and the stage's own, by name."""
    modules = list(body.named_modules())
    last = max(i for i, (name, _) in enumerate(modules) if name == stage or name.startswith(f"{stage}."))
    return dict(modules[: last + 1])


def _add_global_context(stage: nn.Module, name: str, blocks: int) -> None:
    """Put a block into every bottleneck of a stage, after its last norm and before the shortcut is added."""
    parts = ("conv3", "bn3", "se")
    bottlenecks: list[Any] = [m for m in stage.modules() if all(hasattr(m, part) for part in parts)]
    if not bottlenecks:
        raise ValueError(
            f"FPNBackbone: context_blocks needs the bottlenecks of a ResNet, which {name} does not have. Choose a "
            "ResNet, ResNeXt or tied one, or leave context_blocks out."
        )
    for bottleneck in bottlenecks:
        context = TiedGlobalContext(bottleneck.bn3.num_features, reduction=4, blocks=blocks)
        bottleneck.se = context if bottleneck.se is None else nn.Sequential(bottleneck.se, context)
