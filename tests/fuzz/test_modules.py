"""Modules, models, detectors and the tying of models, built with arguments that are wrong in every way."""

import math
from typing import Any

import torch
from hypothesis import strategies as st
from tests.fuzz.cases import attempt, fuzz
from torch import nn

import tiedconv
from tiedconv import nn as tied
from tiedconv.convert import search_blocks
from tiedconv.detection import Widths, build_detector

# Nothing that is merely large: it would be built.
WRONG: list[Any] = [
    0, -1, 1, 2, 3, 5, True, False, None, 1.5, 0.0, -0.5, math.nan, math.inf, "", "2", "same", "mean", "x", (), (1,),
    (1, 2), (0, 0), [2, 2], (1, 1, 1), [None], {}, {"a": 1}, {"": 2}, 2**62, 2**63, -(2**70), "\u202eא", b"x", print,
]  # fmt: skip
CONVS = {1: (tied.TiedConv1d, nn.Conv1d), 2: (tied.TiedConv2d, nn.Conv2d), 3: (tied.TiedConv3d, nn.Conv3d)}


@st.composite
def arguments(draw: st.DrawFn, valid: dict[str, Any], *, unknown: bool = True) -> dict[str, Any]:
    """Draw some of the valid arguments, one or two of them replaced by a wrong value."""
    given = {name: value for name, value in valid.items() if draw(st.integers(0, 2))}
    for name in draw(st.lists(st.sampled_from(list(valid)), min_size=1, max_size=2, unique=True)):
        given[name] = draw(st.sampled_from(WRONG))
    if unknown and draw(st.integers(0, 19)) == 0:
        given["blocs"] = 2
    return given


CONV = {
    "in_channels": 8, "out_channels": 12, "kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "groups": 2,
    "bias": False, "padding_mode": "reflect", "device": "cpu", "dtype": torch.float64, "blocks": 2,
}  # fmt: skip


@fuzz(40, dims=st.integers(1, 3), given_=arguments(CONV))
def test_a_convolution_works_or_is_refused(dims, given_):
    ours, twin = CONVS[dims]
    given_ = {"in_channels": 8, "out_channels": 12, "kernel_size": 3, **given_}
    layer, error = attempt(lambda: ours(**given_))
    if error is not None:
        if f"{ours.__name__}: " not in str(error) and "blocs" not in given_:
            theirs = {name: value for name, value in given_.items() if name != "blocks"}
            assert type(attempt(lambda: twin(**theirs))[1]) is type(error), f"torch takes this, we say: {error}"
        return
    # One number in a sequence is one for all dimensions here, and torch's layers take it for the number of dimensions.
    theirs = dict(given_)
    for name in ("kernel_size", "padding"):
        sizes = given_.get(name)
        if isinstance(sizes, tuple | list) and len(sizes) == 1:
            theirs[name] = [*sizes] * dims
    like = twin(**{name: value for name, value in theirs.items() if name != "blocks"})
    x = torch.zeros(2, layer.in_channels, *[9] * dims, dtype=given_.get("dtype"))
    y, error = attempt(lambda: layer(x))
    expected, theirs = attempt(lambda: like(x))
    assert type(error) is type(theirs), f"{error} / {theirs}"
    assert error is not None or y.shape == expected.shape


LAYERS: dict[Any, dict[str, Any]] = {
    tied.TiedLinear: {"in_features": 8, "out_features": 12, "bias": True, "dtype": torch.float64, "blocks": 2},
    tied.TiedSE: {"channels": 16, "reduction": 4, "blocks": 2, "act_layer": nn.SiLU},
    tied.TiedGlobalContext: {"channels": 16, "reduction": 4, "blocks": 2},
    tied.SplitTiedConv2d: {
        "in_channels": 16, "out_channels": 16, "kernel_size": 3, "stride": 1, "padding": 1, "dilation": 1,
        "groups": (1, 2), "blocks": (2, 1),
    },
}  # fmt: skip


@fuzz(40, chosen=st.sampled_from(list(LAYERS)).flatmap(lambda kind: st.tuples(st.just(kind), arguments(LAYERS[kind]))))
def test_a_layer_works_or_is_refused(chosen):
    kind, given_ = chosen
    required = ("in_features", "out_features", "in_channels", "out_channels", "channels", "kernel_size")
    needed = {name: LAYERS[kind][name] for name in required if name in LAYERS[kind]}
    if kind is tied.SplitTiedConv2d:
        needed["blocks"] = (2, 1)
    given_ = {**needed, **given_}
    own = "Tied", "torch", "reduction", "argument", "storage", "empty", "overflow", "dtype", "memory", "callable"
    layer, error = attempt(lambda: kind(**given_), *own)
    if error is None:
        channels = given_.get("channels") or given_.get("in_channels")
        shape = (2, given_["in_features"]) if kind is tied.TiedLinear else (2, channels, 6, 6)
        attempt(lambda: layer(torch.zeros(shape, dtype=given_.get("dtype"))), *own, "Kernel", "kernel", "integers")


MODEL = {
    "num_classes": 7, "in_chans": 1, "drop_path_rate": 0.1, "drop_rate": 0.1, "global_pool": "avg",
    "features_only": True, "out_indices": (1, 2), "output_stride": 16, "base_width": 32, "pretrained": False,
}  # fmt: skip


@fuzz(30, name=st.sampled_from(["tiedresnet_tiny", "resnet_tiny", *WRONG]), given_=arguments(MODEL))
def test_a_model_is_built_or_refused(name, given_):
    model, error = attempt(lambda: tiedconv.create_model(name, **{**given_, "device": "meta"}))
    if error is None and all(p.numel() for p in model.parameters()):  # timm builds networks without channels
        attempt(lambda: model.eval()(torch.zeros(1, given_.get("in_chans", 3), 32, 32, device="meta")))


DETECTOR = {
    "name": "faster_rcnn", "backbone": "tiedresnet_tiny", "num_classes": 4, "frozen_stages": 1, "norm": "frozen",
    "context_blocks": 2, "levels": 2, "widths": Widths(8, 8, 8, 1), "anchor_sizes": (8, 16), "weights": None,
    "backbone_kwargs": {"drop_path_rate": 0.1}, "min_size": 32, "box_detections_per_img": 3,
}  # fmt: skip
NAMES = ["retinanet", "faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn"]


@fuzz(14, name=st.sampled_from(NAMES), given_=arguments(DETECTOR))
def test_a_detector_is_built_or_refused(name, given_):
    small = {"name": name, "backbone": "tiedresnet_tiny", "widths": Widths(8, 8, 8, 1), "min_size": 32}
    model, error = attempt(lambda: build_detector(**{**small, **given_}))
    if error is None and given_.get("min_size", 32) == 32 and given_.get("box_detections_per_img", 3) == 3:
        (found,) = model.eval()([torch.rand(3, 32, 40)])
        assert {"boxes", "labels", "scores"} <= found.keys()


class Lost(nn.Module):
    """A module whose forward pass fails, as a user's may."""

    def forward(self, x):
        raise KeyError(x.shape)


def network() -> nn.Module:
    layers = [nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8 * 16, 4)]
    return nn.Sequential(*layers)


ROOTS = [network, network, network, lambda: nn.Conv2d(4, 4, 1), nn.Identity, Lost, lambda: None, lambda: "model"]
TIE = {
    "blocks": 2, "filter_fn": "all", "init": "random", "images": torch.zeros(2, 4, 6, 6),
    "example_inputs": torch.zeros(2, 4, 6, 6),
}  # fmt: skip


@fuzz(30, root=st.sampled_from(ROOTS), given_=arguments(TIE))
def test_tying_leaves_the_model_as_it_was_or_reports(root, given_):
    torch.manual_seed(0)
    model = root()
    before = {k: v.clone() for k, v in model.state_dict().items()} if isinstance(model, nn.Module) else {}
    report, error = attempt(lambda: tiedconv.tie_(model, **given_))
    if error is not None:
        if isinstance(model, nn.Module):
            after = model.state_dict()
            assert before.keys() == after.keys()
            assert all(torch.equal(before[k], after[k]) for k in before)
        return
    assert report.tied_params < report.params
    tiedconv.untie_(model)
    assert model(torch.zeros(2, 4, 6, 6)).shape == (2, 4)


@fuzz(10, root=st.sampled_from(ROOTS), form=st.sampled_from(["grouped", "dense", *WRONG]))
def test_untying_is_done_or_refused(root, form):
    attempt(lambda: tiedconv.untie_(root(), form), "untie_: ")


SEARCH = {
    "images": torch.ones(2, 4, 6, 6), "params": 0.8, "macs": None, "choices": (2, 4), "filter_fn": "all",
    "init": "data", "progress": None,
}  # fmt: skip


@fuzz(20, root=st.sampled_from(ROOTS), given_=arguments(SEARCH))
def test_a_search_finds_blocks_or_refuses(root, given_):
    torch.manual_seed(0)
    found, error = attempt(lambda: search_blocks(root(), **{"images": SEARCH["images"], "params": 0.8, **given_}))
    if error is None:
        assert found.params <= sum(p.numel() for p in network().parameters())
