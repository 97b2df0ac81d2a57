"""Every detector by name: what torchvision's give and take, its defaults, its sizes."""

import copy
from collections.abc import Mapping
from typing import Any, get_args

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models import detection as theirs
from torchvision.models.detection.anchor_utils import AnchorGenerator

from tiedconv.detection import CascadeRoIHeads, DetectorName, Widths, build_detector

NAMES = get_args(DetectorName)
WITH_MASKS = [name for name in NAMES if "mask" in name]
TINY = Widths(fpn=16, box=32, mask=16, mask_convs=1)
CLASSES = 4
FROM_SCRATCH: dict[str, Any] = {"weights": None, "weights_backbone": None}


def tiny(name: Any, backbone: str = "resnet_tiny", **options: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"min_size": 64, "max_size": 64}
    return build_detector(name, **{"backbone": backbone, "num_classes": CLASSES, "widths": TINY, **sizes, **options})


def batch(objects: tuple[int, ...] = (2, 1)) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images of different sizes with so many objects."""
    sizes, images, targets = ((64, 48), (40, 64), (64, 64)), [], []
    for (height, width), count in zip(sizes, objects, strict=False):
        images.append(torch.rand(3, height, width))
        boxes = torch.tensor([[4.0, 5, 30, 36], [20, 10, 44, 30]])[:count]
        masks = torch.zeros(count, height, width, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        targets.append({"boxes": boxes, "labels": torch.tensor([3, 1])[:count], "masks": masks})
    return images, targets


@pytest.mark.parametrize("backbone", ["resnet_tiny", "tiedresnet_tiny"])
@pytest.mark.parametrize("name", NAMES)
def test_losses_are_finite_and_reach_every_parameter(name: str, backbone: str) -> None:
    model = tiny(name, backbone)
    losses = model(*batch())
    sum(losses.values()).backward()

    rpn, boxes = {"loss_objectness", "loss_rpn_box_reg"}, ["classifier", "box_reg"]
    kinds = [*boxes, "mask"] if name in WITH_MASKS else boxes
    assert (
        set(losses)
        == {
            "retinanet": {"classification", "bbox_regression"},
            "faster_rcnn": rpn | {f"loss_{kind}" for kind in kinds},
            "mask_rcnn": rpn | {f"loss_{kind}" for kind in kinds},
            "cascade_rcnn": rpn | {f"loss_{kind}_{stage}" for kind in kinds for stage in (1, 2, 3)},
            "cascade_mask_rcnn": rpn | {f"loss_{kind}_{stage}" for kind in kinds for stage in (1, 2, 3)},
        }[name]
    )
    assert all(loss.isfinite() and loss.dim() == 0 for loss in losses.values())
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert [n for n, p in model.named_parameters() if not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("backbone", ["resnet_tiny", "tiedresnet_tiny"])
@pytest.mark.parametrize("name", NAMES)
def test_detections_are_torchvisions(name: str, backbone: str) -> None:
    model = tiny(name, backbone, score_thresh=0.0) if name == "retinanet" else tiny(name, backbone, box_score_thresh=0)
    images, _ = batch()
    with torch.no_grad():
        detections = model.eval()(images)

    assert len(detections) == 2
    for image, found in zip(images, detections, strict=True):
        height, width = image.shape[1:]
        count = len(found["boxes"])
        assert 0 < count <= (300 if name == "retinanet" else 100)
        shapes = {key: tuple(value.shape) for key, value in found.items()}
        expected: dict[str, Any] = {"boxes": (count, 4), "labels": (count,), "scores": (count,)}
        assert shapes == (expected | {"masks": (count, 1, height, width)} if name in WITH_MASKS else expected)
        assert found["labels"].dtype == torch.int64
        assert {value.dtype for key, value in found.items() if key != "labels"} == {torch.float32}
        assert 1 <= found["labels"].min() <= found["labels"].max() < CLASSES
        assert (found["boxes"][:, 2:] >= found["boxes"][:, :2]).all()
        assert found["boxes"].min() >= 0
        assert (found["boxes"][:, 2:] <= torch.tensor([width, height])).all()
        assert torch.equal(found["scores"], found["scores"].sort(descending=True).values)
        if name in WITH_MASKS:
            assert 0 <= found["masks"].min() <= found["masks"].max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_images_without_objects_train_too(name: str) -> None:
    for objects in ((0, 2), (0, 0)):
        model = tiny(name, "tiedresnet_tiny")
        losses = model(*batch(objects))
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["retinanet", "cascade_mask_rcnn"])
def test_the_same_weights_detect_the_same(name: str) -> None:
    model = tiny(name, "tiedresnet_tiny").eval()
    fresh = tiny(name, "tiedresnet_tiny").eval()
    nn.init.zeros_(next(iter(fresh.parameters())))
    fresh.load_state_dict(model.state_dict())
    images, _ = batch()
    with torch.no_grad():
        expected = model(images)
        for twin in (fresh, copy.deepcopy(model)):
            assert_close(twin(images), expected, rtol=0, atol=0)


TWINS: Mapping[str, Any] = {
    "faster_rcnn": theirs.fasterrcnn_resnet50_fpn,
    "mask_rcnn": theirs.maskrcnn_resnet50_fpn,
    "retinanet": theirs.retinanet_resnet50_fpn,
}


@pytest.fixture(scope="module", params=TWINS)
def pair(request: pytest.FixtureRequest) -> tuple[str, Any, Any]:
    """A name, our detector on timm's ResNet-50, and torchvision's, without weights."""
    with torch.device("meta"):
        twin = TWINS[request.param](**FROM_SCRATCH)
        return request.param, build_detector(request.param, backbone="resnet50", num_classes=91), twin


def settings(model: Any) -> dict[str, Any]:
    """What all parts above the backbone were made with: their attributes that are plain, and those of their helpers."""
    found = {}
    for name, part in model.named_modules():
        if name.partition(".")[0] == "backbone":
            continue
        for key, value in vars(part).items():
            if key.startswith("_") or key in ("featmap_names", "cell_anchors"):
                continue
            if isinstance(value, (bool, int, float, str, list, tuple)):
                found[f"{name}.{key}"] = value
            elif type(value).__module__ == "torchvision.models.detection._utils":  # matchers, samplers, box coders
                found |= {f"{name}.{key}.{k}": v for k, v in vars(value).items()}
    return found


def test_every_setting_is_torchvisions(pair: tuple[str, Any, Any]) -> None:
    name, ours, twin = pair
    mine = settings(ours)
    assert mine == settings(twin)
    assert mine["transform.min_size"] == (800,)
    assert mine["transform.max_size"] == 1333
    if name == "retinanet":
        assert mine[".proposal_matcher.low_threshold"] == 0.4
    else:
        assert mine["roi_heads.box_coder.weights"] == (10, 10, 5, 5)
        assert mine["roi_heads.fg_bg_sampler.batch_size_per_image"] == 512
        assert mine["rpn.nms_thresh"] == 0.7


def test_anchors_are_torchvisions(pair: tuple[str, Any, Any]) -> None:
    name, ours, twin = pair
    mine, other = (
        next(m for n, m in model.named_modules() if isinstance(m, AnchorGenerator)) for model in (ours, twin)
    )
    assert mine.sizes == other.sizes
    assert mine.aspect_ratios == other.aspect_ratios
    assert mine.sizes[0] == ((32, 40, 50) if name == "retinanet" else (32,))


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_it_is_as_large_as_torchvisions(pair: tuple[str, Any, Any]) -> None:
    name, ours, twin = pair
    expected = parameters(twin)
    if name == "retinanet":  # the paper's first extra level comes from the body's last map, theirs from the pyramid's
        expected += 256 * (2048 - 256) * 3 * 3
    assert parameters(ours) == expected


def test_weights_of_torchvisions_mask_rcnn_give_its_detections() -> None:
    options: dict[str, Any] = {"min_size": 64, "max_size": 96, "box_score_thresh": 0.0, "box_detections_per_img": 5}
    options["rpn_post_nms_top_n_test"] = 50
    twin = theirs.maskrcnn_resnet50_fpn(**FROM_SCRATCH, num_classes=3, **options).eval()
    ours: Any = build_detector("mask_rcnn", backbone="resnet50", num_classes=3, norm="frozen", **options).eval()
    missing, unexpected = ours.load_state_dict(twin.state_dict(), strict=False)
    assert unexpected == []
    assert {name.rpartition(".")[2] for name in missing} <= {"num_batches_tracked"}
    images = [torch.rand(3, 64, 80)]
    with torch.no_grad():
        expected, found = twin(images), ours(images)
    assert len(found[0]["boxes"]) == 5
    assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["cascade_rcnn", "cascade_mask_rcnn"])
def test_a_cascade_has_the_papers_stages_and_the_users_settings(name: str) -> None:
    options = {"box_score_thresh": 0.3, "box_nms_thresh": 0.4, "box_detections_per_img": 7}
    sampling = {"box_batch_size_per_image": 64, "box_positive_fraction": 0.5}
    model = tiny(name, **options, **sampling)
    assert isinstance(model.roi_heads, CascadeRoIHeads)
    stages = list(model.roi_heads.stages)
    assert [stage.proposal_matcher.high_threshold for stage in stages] == [0.5, 0.6, 0.7]
    assert [stage.proposal_matcher.low_threshold for stage in stages] == [0.5, 0.6, 0.7]
    assert [stage.box_coder.weights for stage in stages] == [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)]
    assert model.roi_heads.loss_weights == (1, 0.5, 0.25)
    for stage in stages:
        assert (stage.score_thresh, stage.nms_thresh, stage.detections_per_img) == (0.3, 0.4, 7)
        sampler = stage.fg_bg_sampler
        assert (sampler.batch_size_per_image, sampler.positive_fraction) == (64, 0.5)
        assert stage.has_mask() is (name == "cascade_mask_rcnn")
    heads = [{id(p) for p in stage.parameters()} for stage in stages]
    assert not heads[0] & heads[1] | heads[1] & heads[2]


def test_a_cascade_samples_and_scores_as_torchvision_by_default() -> None:
    stage = tiny("cascade_rcnn").roi_heads.stages[0]
    plain = theirs.fasterrcnn_resnet50_fpn(**FROM_SCRATCH).roi_heads
    for key in ("score_thresh", "nms_thresh", "detections_per_img"):
        assert getattr(stage, key) == getattr(plain, key)
    assert vars(stage.fg_bg_sampler) == vars(plain.fg_bg_sampler)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("retinanet", (16, 32, 64, 128, 256)),  # 4 times reductions 4 to 64
        ("faster_rcnn", (16, 32, 64, 128, 256)),  # 8 times reductions 2 to 32
    ],
)
def test_default_anchors_follow_the_reductions(name: str, sizes: tuple[int, ...]) -> None:
    anchors = next(m for m in tiny(name).modules() if isinstance(m, AnchorGenerator))
    assert tuple(level[0] for level in anchors.sizes) == sizes
    assert {len(level) for level in anchors.sizes} == {3 if name == "retinanet" else 1}
    assert set(anchors.aspect_ratios) == {(0.5, 1.0, 2.0)}


@pytest.mark.parametrize("name", ["retinanet", "faster_rcnn"])
def test_anchors_can_be_chosen(name: str) -> None:
    model = tiny(name, levels=2, anchor_sizes=[10, 20.5, 40] if name == "faster_rcnn" else [10, 20.5, 40, 80])
    anchors = next(m for m in model.modules() if isinstance(m, AnchorGenerator))
    assert [level[0] for level in anchors.sizes][:3] == [10, 20.5, 40]
    assert all(loss.isfinite() for loss in model(*batch()).values())


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_refused_with_those_that_there_are(name: str) -> None:
    there = {"retinanet": "score_thresh, nms_thresh"}.get(name, "rpn_pre_nms_top_n_train, rpn_pre_nms_top_n_test")
    message = rf"build_detector: {name} has no option box_scores\. .* are: min_size, max_size, .*{there}.*\."
    with pytest.raises(TypeError, match=message):
        tiny(name, box_scores=0.1)
    for ours in ("head", "box_head", "anchor_generator", "kwargs"):
        with pytest.raises(TypeError, match=f"{name} has no option {ours}"):
            tiny(name, **{ours: None})


def test_options_of_other_detectors_are_refused() -> None:
    with pytest.raises(TypeError, match=r"retinanet has no option box_nms_thresh, rpn_nms_thresh\."):
        tiny("retinanet", box_nms_thresh=0.5, rpn_nms_thresh=0.5)
    with pytest.raises(TypeError, match=r"faster_rcnn has no option topk_candidates\."):
        tiny("faster_rcnn", topk_candidates=5)


@pytest.mark.parametrize("option", ["box_fg_iou_thresh", "box_bg_iou_thresh", "bbox_reg_weights"])
def test_what_the_cascade_fixes_is_no_option(option: str) -> None:
    for name in ("cascade_rcnn", "cascade_mask_rcnn"):
        with pytest.raises(
            TypeError, match=rf"build_detector: {name} has no option {option}\. Besides build_detector's"
        ):
            tiny(name, **{option: 0.5})


@pytest.mark.parametrize("name", NAMES)
def test_torchvisions_options_arrive_where_they_belong(name: str) -> None:
    options: dict[str, Any] = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5], "min_size": 32}
    if name == "retinanet":
        options |= {"score_thresh": 0.2, "nms_thresh": 0.3, "detections_per_img": 4, "topk_candidates": 9}
        options |= {"fg_iou_thresh": 0.6, "bg_iou_thresh": 0.3}
    else:
        options |= {"rpn_score_thresh": 0.1, "box_score_thresh": 0.2, "box_detections_per_img": 4}
    model = tiny(name, **options)
    assert model.transform.image_mean == [0.1, 0.2, 0.3]
    assert model.transform.min_size == (32,)
    if name == "retinanet":
        assert (model.score_thresh, model.nms_thresh, model.detections_per_img) == (0.2, 0.3, 4)
        assert model.topk_candidates == 9
        assert (model.proposal_matcher.high_threshold, model.proposal_matcher.low_threshold) == (0.6, 0.3)
    else:
        assert model.rpn.score_thresh == 0.1
        last = model.roi_heads.stages[-1] if name.startswith("cascade") else model.roi_heads
        assert (last.score_thresh, last.detections_per_img) == (0.2, 4)


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        (
            "faster_rcnn",
            [8, 16],
            r"anchor_sizes has 2 entries for 5 levels, with reductions 2, 4, 8, 16, 32\. Give one",
        ),
        ("retinanet", [8] * 6, r"anchor_sizes has 6 entries for 5 levels, with reductions 4, 8, 16, 32, 64\. Give one"),
        ("cascade_rcnn", [], r"anchor_sizes has 0 entries for 5 levels, with reductions 2, 4, 8, 16, 32\."),
    ],
)
def test_there_must_be_an_anchor_size_for_every_level(name: str, sizes: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=f"build_detector: {message}"):
        tiny(name, anchor_sizes=sizes)


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_the_background_is_a_class(classes: int) -> None:
    message = rf"build_detector: num_classes counts the background and must be at least 2, got {classes}\."
    with pytest.raises(ValueError, match=message):
        tiny("faster_rcnn", num_classes=classes)


@pytest.mark.parametrize("part", ["fpn", "box", "mask", "mask_convs"])
def test_widths_are_positive(part: str) -> None:
    with pytest.raises(ValueError, match=rf"Widths: {part} must be at least 1, got 0\."):
        Widths(**{part: 0})


def test_widths_are_those_of_the_parts() -> None:
    model = tiny("cascade_mask_rcnn", widths=Widths(fpn=8, box=12, mask=10, mask_convs=2))
    assert model.backbone.out_channels == model.rpn.head.cls_logits.in_channels == 8
    for stage in model.roi_heads.stages:
        assert stage.box_head.fc6.out_features == stage.box_predictor.cls_score.in_features == 12
        convs = [m for m in stage.mask_head.modules() if isinstance(m, nn.Conv2d)]
        assert [(c.in_channels, c.out_channels) for c in convs] == [(8, 10), (10, 10)]
        assert stage.mask_predictor.mask_fcn_logits.out_channels == CLASSES


def test_an_unknown_detector_is_refused_with_those_that_there_are() -> None:
    message = r"name must be one of retinanet, faster_rcnn, mask_rcnn, cascade_rcnn, cascade_mask_rcnn, got 'yolo'\."
    with pytest.raises(ValueError, match=f"build_detector: {message}"):
        tiny("yolo")


def test_options_of_the_backbone_reach_it() -> None:
    options = {"frozen_stages": 2, "norm": "frozen", "context_blocks": 2, "levels": 3}
    backbone = tiny("faster_rcnn", **options, backbone_kwargs={"base_width": 32}).backbone
    assert backbone.levels == 3
    assert not any(p.requires_grad for p in backbone.body.layer1.parameters())
    assert not any(m.training for m in backbone.body.modules() if isinstance(m, nn.BatchNorm2d))
    assert backbone.body.layer4[0].se.fc1.blocks == 2
    assert backbone.body.layer1[0].conv2.out_channels == 8  # half of 16


def test_a_detector_trains_in_half_precision() -> None:
    model = tiny("cascade_mask_rcnn", "tiedresnet_tiny")
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(*batch())
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


def test_images_are_normalised_as_the_backbones_weights_want_it():
    assert timm.create_model("resnetv2_50").pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    model = build_detector("faster_rcnn", backbone="resnetv2_50", num_classes=2)
    assert model.transform.image_mean == [0.5, 0.5, 0.5]
    assert build_detector("retinanet", num_classes=2, image_mean=[0, 0, 0]).transform.image_mean == [0, 0, 0]


def test_widths_of_another_kind_are_refused() -> None:
    with pytest.raises(TypeError, match=r"widths must be a tiedconv\.detection\.Widths, got 8"):
        build_detector("faster_rcnn", backbone="tiedresnet_tiny", num_classes=2, widths=8)  # type: ignore[arg-type]
