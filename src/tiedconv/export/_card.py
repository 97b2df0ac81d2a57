"""The model card of a saved model."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from timm.models._hub import generate_readme
from torch import Tensor, nn

from .._meta import on_meta
from ..metrics.counts import count
from ..models.inputs import native_input_size
from ..nn import TIED_LAYERS, SplitTiedConv2d

_UNTIED = "`{}`, a network without tied layers, saved by tiedconv."
_TIED = (
    "`{}` with {} tied layers. A tied layer splits its channels into B equal blocks that share one thin filter bank, "
    "which takes B² times fewer weights and B times fewer multiply-adds: "
    "[Tied Block Convolution](https://arxiv.org/abs/2009.12021)."
)
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
    entry, name = config.get("tiedconv"), config["architecture"]  # without an entry timm alone can load it
    library = entry["library"] if entry else "timm"
    found = {key: layer for key, layer in model.named_modules() if isinstance(layer, TIED_LAYERS)}
    layers = {key: layer for key, layer in found.items() if max(b for b, _ in _splits(layer)) > 1}
    size = native_input_size(model)
    kind = f"{library} model `{name}`" if library else f"`{name}`, a class of its own"
    details: dict[str, Any] = {"Model type": kind}
    if dataset is not None:
        on_the_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", dataset)  # timm links what is called Dataset
        details["Dataset" if on_the_hub else "Data"] = dataset
    if metrics:
        details["Metrics"] = {key: f"{value:.4g}" for key, value in metrics.items()}
    if size is not None:
        details["Images"] = f"{' x '.join(map(str, size))} (channels, height, width){_normalisation(config)}"
    published = getattr(model, "pretrained_cfg", {}).get("license")
    usual = {"torchvision": "bsd-3-clause", "timm": "apache-2.0"}.get(library, "mit")
    return generate_readme(
        {
            "tags": ["image-classification", *["tied-block-convolution"] * bool(layers), *["timm"] * (not entry)],
            "library_name": "tiedconv" if entry else "timm",
            "license": license or published or usual,
            "description": _TIED.format(name, len(layers)) if layers else _UNTIED.format(name),
            "details": details,
            "usage": _usage(name, source, library, by_timm=not entry),
            "comparison": _comparison(model, size, layers),
            **({"citation": _CITATION} if layers else {}),
        },
        source.rpartition("/")[2],
    )


def _normalisation(config: Mapping[str, Any]) -> str:
    cfg = config.get("pretrained_cfg", {})
    if "mean" not in cfg or "std" not in cfg:
        return ""
    mean, std = (", ".join(f"{value:g}" for value in cfg[key]) for key in ("mean", "std"))
    return f", normalised by mean {mean} and standard deviation {std}"


def _usage(name: str, source: str, library: str | None, *, by_timm: bool) -> str:
    load = f'model = from_pretrained("{source}")'
    if library is None:
        load = f'model = from_pretrained("{source}", model=net)  # net: a {name}, built as the saved one'
    text = f"```python\nfrom tiedconv.export import from_pretrained\n\n{load}\n```"
    if by_timm:
        place = source if source.startswith("hf-hub:") else f"local-dir:{source}"
        text += (
            "\n\nThe same by timm alone, after `import tiedconv` has registered the tied models:\n\n"
            f'```python\nimport timm, tiedconv\n\nmodel = timm.create_model("{place}", pretrained=True).eval()\n```'
        )
    return text


def _comparison(model: nn.Module, size: tuple[int, int, int] | None, layers: Mapping[str, Any]) -> str:
    """Return the costs as a table, of the tied model beside the untied one if there is a tied layer."""
    models = {"tied": model, "untied": _untied(model, layers)} if layers else {"this model": model}
    rows = [["", *models], ["parameters", *(f"{sum(p.numel() for p in m.parameters()):,}" for m in models.values())]]
    if size is not None:
        macs = [count(m, size).macs for m in models.values()]
        rows.append([f"multiply-adds for one {' x '.join(map(str, size))} image", *(f"{n:,}" for n in macs)])
    if not layers:
        return _table(rows)
    listed = [["layer", "kind", "blocks", "weights", "weights, untied"]]
    for name, layer in layers.items():
        splits = _splits(layer)
        tied, untied = sum(w.numel() for _, w in splits), sum(w.numel() * b * b for b, w in splits)
        blocks = ", ".join(str(b) for b, _ in splits)
        listed.append([f"`{name}`", type(layer).__name__, blocks, f"{tied:,}", f"{untied:,}"])
    return (
        "Untied is the same network with an ordinary layer in the place of each tied one.\n\n"
        f"{_table(rows)}\n\n### Tied layers\n\n{_table(listed)}"
    )


def _table(rows: list[list[str]]) -> str:
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def _splits(layer: Any) -> list[tuple[int, Tensor]]:
    """Return blocks and weight of each split of a tied layer, or of the layer itself."""
    if isinstance(layer, SplitTiedConv2d):
        return list(zip(layer.blocks, layer.weights, strict=True))
    return [(layer.blocks, layer.weight)]


def _untied(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """Return a copy of ``model`` without values, in which these layers have one block."""
    twin = on_meta(model)
    for name in names:
        layer: Any = twin.get_submodule(name)
        grown = [nn.Parameter(w.new_empty(len(w) * b, w.shape[1] * b, *w.shape[2:])) for b, w in _splits(layer)]
        if isinstance(layer, SplitTiedConv2d):
            layer.weights, layer.blocks = nn.ParameterList(grown), (1,) * len(grown)
            continue
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.new_empty(len(layer.bias) * layer.blocks))
        layer.weight, layer.blocks = grown[0], 1
    return twin
