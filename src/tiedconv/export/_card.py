"""The model card of a saved model."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from timm.models._hub import generate_readme
from torch import nn

from .._meta import on_meta
from ..convert.replace import TIED_LAYERS
from ..metrics.counts import count
from ..models.inputs import native_input_size
from ..nn import SplitTiedConv2d

_PAPER = "https://arxiv.org/abs/2009.12021"
_CITATION = """\
@inproceedings{wang2021tied,
  title = {Tied Block Convolution: Leaner and Better CNNs with Shared Thinner Filters},
  author = {Wang, Xudong and Yu, Stella X.},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year = {2021}
}"""


def model_card(
    model: nn.Module,
    config: Mapping[str, Any],
    source: str,
    *,
    metrics: Mapping[str, float] | None = None,
    dataset: str | None = None,
    license: str | None = None,
) -> str:
    """Return the text of a model card, as timm's are.

    Args:
        model: what the card is of.
        config: what ``config.json`` says about it.
        source: from where it will be loaded: a folder's name or ``"hf-hub:<repository>"``.
        metrics, dataset, license: as in :func:`tiedconv.export.save_pretrained`.
    """
    library = config.get("tiedconv", {"library": "timm"})["library"]
    plain_timm = "tiedconv" not in config
    layers = list(_tied_layers(model))
    size = native_input_size(model)
    details: dict[str, Any] = {"Model type": _kind(config, library)}
    if dataset is not None:
        on_the_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", dataset)  # timm links what is called Dataset
        details["Dataset" if on_the_hub else "Data"] = dataset
    if metrics:
        details["Metrics"] = {name: f"{value:.4g}" for name, value in metrics.items()}
    if size is not None:
        details["Images"] = " x ".join(map(str, size)) + " (channels, height, width)" + _normalisation(config)
    published = getattr(model, "pretrained_cfg", {}).get("license")
    return generate_readme(
        {
            "tags": ["image-classification", *["timm"] * plain_timm, *["tied-block-convolution"] * bool(layers)],
            "library_name": "timm" if plain_timm else "tiedconv",
            "license": license
            or published
            or {"torchvision": "bsd-3-clause", "timm": "apache-2.0"}.get(library, "mit"),
            "description": _description(config, layers),
            "details": details,
            "usage": _usage(config, source, library),
            "comparison": _comparison(model, size, layers),
            **({"citation": _CITATION} if layers else {}),
        },
        source.rpartition("/")[2],
    )


def _kind(config: Mapping[str, Any], library: str | None) -> str:
    name = config["architecture"]
    return f"`{name}`, a class of its own" if library is None else f"{library} model `{name}`"


def _normalisation(config: Mapping[str, Any]) -> str:
    cfg = config.get("pretrained_cfg", {})
    if "mean" not in cfg or "std" not in cfg:
        return ""
    mean, std = (", ".join(f"{value:g}" for value in cfg[key]) for key in ("mean", "std"))
    return f", normalised by mean {mean} and standard deviation {std}"


def _description(config: Mapping[str, Any], layers: list[tuple[str, Any]]) -> str:
    name = config["architecture"]
    if not layers:
        return f"`{name}`, a network without tied layers, saved by tiedconv."
    return (
        f"`{name}` with {len(layers)} tied layers. A tied layer splits its channels into B equal blocks that share one "
        "thin filter bank, which takes B² times fewer weights and B times fewer multiply-adds: "
        f"[Tied Block Convolution]({_PAPER})."
    )


def _usage(config: Mapping[str, Any], source: str, library: str | None) -> str:
    load = f'model = from_pretrained("{source}")'
    if library is None:
        name = config["architecture"]
        load = f'model = from_pretrained("{source}", model=net)  # net: a {name}, built as the saved one'
    text = f"```python\nfrom tiedconv.export import from_pretrained\n\n{load}\n```"
    if "tiedconv" not in config:
        place = source if source.startswith("hf-hub:") else f"local-dir:{source}"
        text += (
            "\n\nThe same by timm alone, after `import tiedconv` has registered the tied models:\n\n"
            f'```python\nimport timm, tiedconv\n\nmodel = timm.create_model("{place}", pretrained=True).eval()\n```'
        )
    return text


def _comparison(model: nn.Module, size: tuple[int, int, int] | None, layers: list[tuple[str, Any]]) -> str:
    """Return the costs as a table, of the tied model beside the untied one if there is a tied layer."""
    models = {"tied": model, "untied": _untied(model)} if layers else {"this model": model}
    rows = [["", *models], ["parameters", *(f"{_params(m):,}" for m in models.values())]]
    if size is not None:
        macs = [count(m, size).macs for m in models.values()]
        rows.append([f"multiply-adds for one {' x '.join(map(str, size))} image", *(f"{n:,}" for n in macs)])
    text = _table(rows)
    if layers:
        untied = dict(models["untied"].named_modules())
        listed = [
            [f"`{name}`", type(layer).__name__, _blocks(layer), f"{_weights(layer):,}", f"{_weights(untied[name]):,}"]
            for name, layer in layers
        ]
        text = (
            "Untied is the same network with an ordinary layer in the place of each tied one.\n\n"
            f"{text}\n\n### Tied layers\n\n"
            + _table([["layer", "kind", "blocks", "weights", "weights, untied"], *listed])
        )
    return text


def _table(rows: list[list[str]]) -> str:
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def _tied_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, layer in model.named_modules():
        if isinstance(layer, TIED_LAYERS) and max(_numbers(layer)) > 1:
            yield name, layer


def _numbers(layer: Any) -> tuple[int, ...]:
    return layer.blocks if isinstance(layer, SplitTiedConv2d) else (layer.blocks,)


def _blocks(layer: Any) -> str:
    return ", ".join(map(str, _numbers(layer)))


def _all_weights(layer: Any) -> list[torch.Tensor]:
    return list(layer.weights) if isinstance(layer, SplitTiedConv2d) else [layer.weight]


def _weights(layer: Any) -> int:
    return sum(weight.numel() for weight in _all_weights(layer))


def _untied(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` without values whose tied layers have one block."""
    twin = on_meta(model)
    for _, layer in list(_tied_layers(twin)):
        grown = [
            nn.Parameter(w.new_empty(len(w) * b, w.shape[1] * b, *w.shape[2:]))
            for w, b in zip(_all_weights(layer), _numbers(layer), strict=True)
        ]
        if isinstance(layer, SplitTiedConv2d):
            layer.weights, layer.blocks = nn.ParameterList(grown), (1,) * len(grown)
        else:
            if layer.bias is not None:
                layer.bias = nn.Parameter(layer.bias.new_empty(len(layer.bias) * layer.blocks))
            layer.weight, layer.blocks = grown[0], 1
    return twin


def _params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
