"""Tie the layers of networks of many families of timm and torchvision, and check what comes out.

    python benchmarks/tie_models.py --threads 1 --markdown docs/tied_models.md

Each network has random weights and is tied with `tiedconv.tie_(model, blocks=2)`. Checked are: a forward and backward
pass in training mode (every parameter that had a gradient before has one after), a second network tied by the first
one's report, which takes its weights and gives the same output, and both forms of `tiedconv.untie_`, in float64: the
column "untie error" is the norm of the difference between the tied and the untied network's outputs over that of the
difference between the outputs for two images, the larger of both forms. Exits with 1 if a check fails.
"""

import argparse
import copy
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from tiedconv import tie_, untie_
from tiedconv._files import check_writable, write_whole
from tiedconv.convert import TieReport, recalibrate_norms_

SIZES = {  # pixels; networks that work on less than the 224 they are made for, or on another size alone
    "torchvision/alexnet": 96,
    "torchvision/squeezenet1_1": 64,
    "torchvision/vit_b_16": 224,
    "torchvision/maxvit_t": 224,
    "torchvision/inception_v3": 128,
    "timm/vit_tiny_patch16_224": 224,
    "timm/deit_tiny_distilled_patch16_224": 224,
    "timm/swin_tiny_patch4_window7_224": 224,
    "timm/mixer_s32_224": 224,
    "timm/resmlp_12_224": 224,
    "timm/beit_base_patch16_224": 224,
    "timm/pit_ti_224": 224,
    "timm/coat_lite_tiny": 224,
    "timm/levit_128s": 224,
    "timm/mvitv2_tiny": 224,
    "timm/xcit_nano_12_p16_224": 224,
    "timm/cait_xxs24_224": 224,
    "timm/inception_v4": 96,
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "torchvision/googlenet": {"init_weights": False},
    "torchvision/inception_v3": {"init_weights": False, "aux_logits": False},
}
TORCHVISION = """resnet18 resnet50 resnext50_32x4d wide_resnet50_2 regnet_y_400mf densenet121 vgg11_bn alexnet
    squeezenet1_1 googlenet inception_v3 mobilenet_v2 mobilenet_v3_small mnasnet0_5 shufflenet_v2_x0_5 efficientnet_b0
    convnext_tiny vit_b_16 swin_t maxvit_t"""
TIMM = """resnet26 seresnet50 ecaresnet26t res2net50_26w_4s resnest14d regnetx_002 regnety_004 convnext_atto
    convnextv2_atto efficientnet_b0 tf_efficientnet_b0 efficientnet_lite0 mobilenetv3_small_100 mobilenetv4_conv_small
    ghostnet_100 densenet121 vgg11 dla34 hrnet_w18_small inception_v4 cspresnet50 cspdarknet53 nf_regnet_b0 repvgg_a0
    fastvit_t8 vovnet39a selecsls42b tresnet_m poolformer_s12 mobilevit_xxs edgenext_xx_small vit_tiny_patch16_224
    deit_tiny_distilled_patch16_224 swin_tiny_patch4_window7_224 mixer_s32_224 resmlp_12_224 pit_ti_224 coat_lite_tiny
    levit_128s mvitv2_tiny xcit_nano_12_p16_224"""
MODELS = [f"torchvision/{name}" for name in TORCHVISION.split()] + [f"timm/{name}" for name in TIMM.split()]
KINDS = {  # what is counted as one reason for keeping a layer
    r".* is not a multiple of .*": "channels not a multiple of the blocks",
    r"the model's output layer": "output layer",
    r"depthwise.*": "depthwise",
    r"a (.*), which computes in a way of its own": r"`\1`",
    r"it shares a parameter.*": "shared parameter",
}
FAMILIES = {  # networks that behave alike → their names, and what to do with them
    "Full convolutions: ResNet, RegNet, DenseNet, VGG, Inception, CSPNet, HRNet, ...": (
        """torchvision/resnet18 torchvision/resnet50 torchvision/resnext50_32x4d torchvision/wide_resnet50_2
        torchvision/regnet_y_400mf torchvision/densenet121 torchvision/vgg11_bn torchvision/alexnet
        torchvision/inception_v3 timm/resnet26 timm/seresnet50 timm/ecaresnet26t timm/res2net50_26w_4s timm/resnest14d
        timm/regnetx_002 timm/regnety_004 timm/densenet121 timm/vgg11 timm/dla34 timm/hrnet_w18_small timm/inception_v4
        timm/cspresnet50 timm/cspdarknet53 timm/repvgg_a0 timm/vovnet39a timm/selecsls42b timm/tresnet_m""",
        "`blocks=2`: nearly every layer is tied",
    ),
    "1x1 layers around depthwise ones or pooling: ConvNeXt, MaxViT, MobileViT, PoolFormer, ...": (
        """torchvision/convnext_tiny torchvision/maxvit_t timm/convnext_atto timm/convnextv2_atto timm/poolformer_s12
        timm/mobilevit_xxs timm/edgenext_xx_small timm/fastvit_t8""",
        "`blocks=2`: the depthwise layers that are kept hold few weights",
    ),
    "Transformers and MLPs of timm: ViT, DeiT, Swin, LeViT, XCiT, ResMLP, ...": (
        """timm/vit_tiny_patch16_224 timm/deit_tiny_distilled_patch16_224 timm/swin_tiny_patch4_window7_224
        timm/resmlp_12_224 timm/pit_ti_224 timm/coat_lite_tiny timm/levit_128s timm/mvitv2_tiny
        timm/xcit_nano_12_p16_224""",
        "`blocks=2`: attention is tied too",
    ),
    "MLP-Mixer": ("timm/mixer_s32_224", "`blocks=2`: layers over its 49 tokens are kept, which only 7 and 49 divide"),
    "ViT, Swin and GoogLeNet of torchvision": (
        "torchvision/vit_b_16 torchvision/swin_t torchvision/googlenet",
        "attention and auxiliary heads are kept; take timm's ViT or Swin",
    ),
    "Small networks: EfficientNet, MobileNet, MNASNet, ShuffleNet, GhostNet, SqueezeNet": (
        """torchvision/squeezenet1_1 torchvision/mobilenet_v2 torchvision/mobilenet_v3_small torchvision/mnasnet0_5
        torchvision/shufflenet_v2_x0_5 torchvision/efficientnet_b0 timm/efficientnet_b0 timm/tf_efficientnet_b0
        timm/efficientnet_lite0 timm/mobilenetv3_small_100 timm/mobilenetv4_conv_small timm/ghostnet_100""",
        "`blocks=2` saves less: the classifier is kept, a large part of the smallest",
    ),
    "Convolutions with standardised weights: NF-RegNet": ("timm/nf_regnet_b0", "do not tie: nearly all is kept"),
}
HEADERS = ("model", "tied", "kept", "params", "→", "MACs", "→", "untie error", "also kept")
PAGE = """\
---
hide: [toc]
---

# Networks that `tie_` was tried on

{done} of {all} networks of timm and torchvision, with random weights, tied with `tiedconv.tie_(model, blocks=2)`. This
shows that the code works on them; it says nothing about accuracy, for which see
[Tie any model](guides/tie.md#what-it-keeps-measured). All of these train after it (every parameter that had a gradient
before has one), give their weights to a second network tied by the report's `blocks`, and untie without a change of the
output.

## Which blocks for which network

With two blocks, what is left of a network's parameters and multiply-adds, from the table below:

{families}

## Every network

- The first convolution, whose 3 channels two blocks do not divide, and the output layer are kept in all networks,
  unless the last column says otherwise. It names what is kept beside these, with how many layers.
- "Not called in a forward pass": GoogLeNet's auxiliary heads, which only training uses, and Swin's attention, whose
  weights are used through functions. Such layers are neither tied, nor are their multiply-adds counted.
- Multiply-adds are those of convolution and linear layers for one image of the network's default size.
- The untie error is the difference of the outputs before and after `tiedconv.untie_`, relative to the difference of
  those for two images, in float64, the larger of both forms.

```sh
python benchmarks/tie_models.py --threads 1 --markdown docs/tied_models.md
```

torch {torch}, {others}.

"""


@dataclass(frozen=True)
class Result:
    """What came of one network.

    Attributes:
        name: ``torchvision/`` or ``timm/`` and the name there.
        report: None if ``tie_`` refused.
        error: the larger untie error of both forms.
        failure: what went wrong; empty if all is well.
        refusal: the message with which ``tie_`` refused.
    """

    name: str
    report: TieReport | None = None
    error: float = 0.0
    failure: str = ""
    refusal: str = ""

    def cells(self) -> list[str]:
        """Return the row of the table."""
        if self.report is None:
            return [self.name, *[""] * 7, self.failure or self.refusal]
        r = self.report
        macs = ["–", "–"] if r.macs is None or r.tied_macs is None else [_millions(r.macs), _millions(r.tied_macs)]
        counts = [f"{len(r.tied)}", f"{len(r.kept)}", _millions(r.params), _millions(r.tied_params), *macs]
        return [self.name, *counts, f"{self.error:.0e}" if self.error else "0", self.failure or _reasons(r)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="timm/NAME or torchvision/NAME")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own choice)")
    parser.add_argument("--markdown", type=Path, help="where to write the table as a page of the documentation")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.markdown:
        check_writable("markdown", args.markdown)
    started = time.perf_counter()
    console = Console(width=170, highlight=False)
    results = []
    for name in track(args.models, "tying", console=console, transient=True):
        results.append(run(name))
        if results[-1].failure:
            console.print(f"{name}: {results[-1].failure}", style="red")
    console.print(table(results))
    console.print(f"{len(results)} networks in {time.perf_counter() - started:.0f} s")
    if args.markdown:
        write_whole(args.markdown, markdown(results))
    sys.exit(any(result.failure for result in results))


def run(name: str) -> Result:
    """Build, tie and check one network."""
    torch.manual_seed(0)
    try:
        model = build(name)
        images = torch.randn(2, 3, *[SIZES.get(name, 64)] * 2)
        before = with_gradient(model, images)
        model.zero_grad()
        other = copy.deepcopy(model)
        try:
            report = tie_(model, blocks=2)
        except ValueError as refusal:
            return Result(name, refusal=str(refusal))
        return check(name, model, other, report, images, before)
    except Exception as error:  # the other networks are worth their time all the same
        return Result(name, failure=f"{type(error).__name__}: {error}")


def build(name: str) -> nn.Module:
    """Build a network with random weights of which none leaves a branch without effect."""
    library, _, model_name = name.partition("/")
    make: Callable[..., nn.Module] = timm.create_model if library == "timm" else torchvision.models.get_model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the initialisation of googlenet
        model = make(model_name, **ARGUMENTS.get(name, {}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.min() == parameter.max():  # a gate or scale of zero would hide what stands before it
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def with_gradient(model: nn.Module, images: Tensor) -> set[str]:
    """Return the names of the parameters that a training step gives a gradient."""
    model.train()
    outputs = list(_tensors(model(images)))
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def check(name: str, model: nn.Module, other: nn.Module, report: TieReport, images: Tensor, before: set[str]) -> Result:
    """Check a tied network; ``other`` is what it was before."""
    if without := before - with_gradient(model, images):
        return Result(name, report, failure=f"no gradient after tying: {', '.join(sorted(without)[:3])}")
    model.double().eval()
    other.double().eval()
    images = images.double()
    recalibrate_norms_(model, images)  # else random networks lose what tells two images apart
    dense, tied = output(other, images), output(model, images)
    spread = (tied[0] - tied[1]).norm().item()
    if not 0 < spread < float("inf"):
        return Result(name, report, failure=f"outputs of the tied network for two images differ by {spread}")
    if torch.equal(dense, tied):
        return Result(name, report, failure="the tied network computes what the old one did")
    second = tie_(other, report.blocks, init="random")
    other.load_state_dict(model.state_dict())
    if second.blocks != report.blocks or not torch.equal(output(other, images), tied):
        return Result(name, report, failure="a second network tied by the report gives another output")
    errors = []
    for form, twin in (("grouped", other), ("dense", model)):
        untie_(twin, form)  # type: ignore[arg-type]
        errors.append((output(twin, images) - tied).norm().item() / spread)
    failure = "" if max(errors) < 1e-5 else f"untied networks differ by {max(errors):.0e}"
    return Result(name, report, max(errors), failure)


@torch.no_grad()
def output(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([each.flatten(1) for each in _tensors(model(images))], 1)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def _reasons(report: TieReport) -> str:
    """Return why layers were kept beside the first and one output layer, with how many each, most first."""
    first, counts = report.layers[0], Counter[str]()
    for layer in report.kept:
        if layer is first:
            continue
        kind = next((k for k in KINDS if re.fullmatch(k, layer.reason)), None)
        counts[re.sub(kind, KINDS[kind], layer.reason) if kind else layer.reason] += 1
    counts["output layer"] -= 1
    reasons = [f"{reason} ({count})" for reason, count in counts.most_common() if count]
    return ", ".join([*reasons, *([] if first in report.kept else ["the first layer is tied"])])


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count < 1e9 else f"{count / 1e9:.2f} G"


def table(results: list[Result]) -> Table:
    made = Table(box=SIMPLE, caption=f"torch {torch.__version__}, {_versions()}")
    for i, header in enumerate(HEADERS):
        made.add_column(header, justify="right" if 0 < i < 8 else "left", no_wrap=i < 8)
    for result in results:
        made.add_row(*result.cells(), style="red" if result.failure else "")
    return made


def _versions() -> str:
    return f"torchvision {torchvision.__version__}, timm {timm.__version__}"


def families(shares: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the lines of the table of families, from the shares of parameters and multiply-adds left, by network."""
    lines = ["| networks | params | MACs | what to do |", "|---|--:|--:|---|"]
    for title, (names, advice) in FAMILIES.items():
        found = [shares[name] for name in names.split() if name in shares]
        if found:
            lines.append(
                f"| {title} | {' | '.join(_range(values) for values in zip(*found, strict=True))} | {advice} |"
            )
    return lines


def _range(shares: Sequence[float]) -> str:
    low, high = (f"{100 * share:.0f}" for share in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low}–{high} %"


def _shares(report: TieReport) -> tuple[float, float]:
    return report.tied_params / report.params, (report.tied_macs or 0) / (report.macs or 1)


def markdown(results: list[Result]) -> str:
    done = [result for result in results if result.report is not None and not result.failure]
    shares = {r.name: _shares(r.report) for r in done if r.report is not None}
    head = PAGE.format(
        done=len(done),
        all=len(results),
        families="\n".join(families(shares)),
        torch=torch.__version__,
        others=_versions(),
    )
    lines = [
        f"| {' | '.join(HEADERS)} |",
        f"|{'|'.join('---' if i in (0, 8) else '--:' for i in range(len(HEADERS)))}|",
        *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in result.cells())} |" for result in results),
    ]
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
