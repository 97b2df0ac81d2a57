"""Cascade heads: boxes, scores and losses computed by hand, and torchvision's RoIHeads as the cascade of one stage."""

from math import log

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import MultiScaleRoIAlign

from tiedconv.detection.cascade import CascadeRoIHeads, ClassAgnosticPredictor

CODER_WEIGHTS = [(10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)]
NO_BOXES = torch.zeros(0, 4)
NO_OBJECT = {"boxes": NO_BOXES, "labels": torch.zeros(0, dtype=torch.int64)}


class BoxesAsFeatures(nn.Module):
    """Pools nothing: a box's features are its four coordinates. Notes the boxes of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def forward(self, features, boxes, image_shapes):
        self.seen.append(boxes)
        return torch.cat(boxes)


class CopyAsMaskFeatures(BoxesAsFeatures):
    def forward(self, features, boxes, image_shapes):
        return super().forward(features, boxes, image_shapes)[:, :1, None, None].expand(-1, -1, 2, 2)


def set_linear(layer: nn.Module, bias: list[float]) -> None:
    nn.init.zeros_(layer.weight)
    layer.bias.data = torch.tensor(bias)


def known_stage(number, deltas=(0.0, 0.0, 0.0, 0.0), logits=(0.0, 0.0), mask_logits=None, score_thresh=0.0):
    """Stage ``number`` of the paper, which predicts the same deltas and logits for every box, and samples all boxes."""
    iou = (0.5, 0.6, 0.7)[number - 1]
    predictor = ClassAgnosticPredictor(4, num_classes=len(logits))
    set_linear(predictor.cls_score, logits)
    set_linear(predictor.bbox_pred, deltas)
    stage = RoIHeads(
        BoxesAsFeatures(), nn.Identity(), predictor, iou, iou, 512, 0.5, CODER_WEIGHTS[number - 1], score_thresh, 0.5, 9
    )
    if mask_logits is not None:
        stage.mask_roi_pool, stage.mask_head = CopyAsMaskFeatures(), nn.Identity()
        stage.mask_predictor = nn.Conv2d(1, len(mask_logits), 1)
        set_linear(stage.mask_predictor, mask_logits)
    return stage


def small_stage(iou=0.5, coder_weights=CODER_WEIGHTS[0], *, masks=False, predictor=ClassAgnosticPredictor):
    """A stage with all its real parts, 3 classes and random weights."""
    pool = MultiScaleRoIAlign(["0"], output_size=2, sampling_ratio=1)
    stage = RoIHeads(pool, TwoMLPHead(16, 16), predictor(16, 3), iou, iou, 8, 0.5, coder_weights, 0.05, 0.5, 100)
    if masks:
        stage.mask_roi_pool = MultiScaleRoIAlign(["0"], output_size=4, sampling_ratio=1)
        stage.mask_head, stage.mask_predictor = MaskRCNNHeads(4, (6,), 1), MaskRCNNPredictor(6, 6, 3)
    return stage


def small_cascade(masks=False):
    ious = (0.5, 0.6, 0.7)
    return CascadeRoIHeads([small_stage(*settings, masks=masks) for settings in zip(ious, CODER_WEIGHTS, strict=True)])


def random_boxes(count: int) -> Tensor:
    corners = torch.rand(count, 2) * 40
    return torch.cat([corners, corners + 8 + torch.rand(count, 2) * 16], 1)


def random_batch():
    """Two images of 64 x 64: features, proposals near the objects and elsewhere, sizes and targets."""
    targets, proposals = [], []
    for objects in (3, 1):
        boxes = random_boxes(objects)
        near = (boxes.repeat(4, 1) + torch.randn(4 * objects, 4)).clamp(0, 64)
        proposals.append(torch.cat([near, random_boxes(10)]))
        masks = (torch.rand(objects, 64, 64) > 0.5).to(torch.uint8)
        targets.append({"boxes": boxes, "labels": torch.randint(1, 3, (objects,)), "masks": masks})
    return {"0": torch.randn(2, 4, 16, 16)}, proposals, [(64, 64), (64, 64)], targets


def test_predictor_repeats_its_deltas_for_every_class():
    predictor = ClassAgnosticPredictor(6, num_classes=3)
    x = torch.randn(5, 6)
    logits, deltas = predictor(x)
    assert_close(logits, x @ predictor.cls_score.weight.T + predictor.cls_score.bias)
    assert deltas.shape == (5, 12)
    for columns in deltas.split(4, dim=1):
        assert_close(columns, x @ predictor.bbox_pred.weight.T + predictor.bbox_pred.bias)
    assert torch.equal(predictor(x[:, :, None, None])[1], deltas)
    assert [y.shape for y in predictor(x[:0])] == [(0, 3), (0, 12)]


def test_torchvisions_loss_with_repeated_deltas_is_class_agnostic():
    predictor = ClassAgnosticPredictor(6, num_classes=3).double()
    x, wanted = torch.randn(7, 6, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 0, 2, 1, 1])
    _, loss = fastrcnn_loss(*predictor(x), [labels[:3], labels[3:]], [wanted[:3], wanted[3:]])

    error = (predictor.bbox_pred(x) - wanted)[labels > 0].abs()
    smooth = torch.where(error < 1 / 9, 4.5 * error**2, error - 1 / 18)  # smooth L1 with beta = 1/9
    by_hand = smooth.sum() / len(labels)

    assert_close(loss, by_hand)
    parameters = list(predictor.bbox_pred.parameters())
    for gradient, expected in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(by_hand, parameters), strict=True
    ):
        assert_close(gradient, expected)


def test_boxes_are_refined_stage_by_stage():
    stages = [
        known_stage(1, (1.0, -1.0, 5 * log(2), 0.0)),  # a tenth of the width right, of the height up, twice as wide
        known_stage(2, (4.0, 2.0, -10 * log(2), 0.0)),  # a fifth right, a tenth down, half as wide
        known_stage(3, (-3.0, 3.0, 0.0, 15 * log(2))),  # a tenth left, a tenth down, twice as high
    ]
    heads = CascadeRoIHeads(stages).eval()
    proposals = [torch.tensor([[10.0, 20, 30, 60]]), torch.tensor([[110.0, 20, 130, 60], [5.0, 20, 25, 60]])]
    detections, losses = heads({}, proposals, [(80, 200), (200, 200)])

    assert losses == {}
    for stage, by_hand in zip(stages, ([10.0, 20, 30, 60], [2.0, 16, 42, 56], [20.0, 20, 40, 60]), strict=True):
        first, second = stage.box_roi_pool.seen[0]
        assert_close(first, torch.tensor([by_hand]))
        assert_close(second[0], torch.tensor(by_hand) + torch.tensor([100.0, 0, 100, 0]))
    assert_close(stages[1].box_roi_pool.seen[0][1][1], torch.tensor([0.0, 16, 37, 56]))  # cut: it began at -3
    assert_close(detections[0]["boxes"], torch.tensor([[18.0, 4, 38, 80]]))  # cut from 84 at the image's end
    assert_close(detections[1]["boxes"][0], torch.tensor([118.0, 4, 138, 84]))


def test_scores_are_the_mean_over_the_stages_of_their_own_boxes_scores():
    stages = [known_stage(1, (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, log(3))), known_stage(2, logits=(0.0, 0.0, log(3)))]
    for stage in stages:
        stage.box_predictor.cls_score.weight.data[1, 0] = log(2)  # class 1 gets 2 to the power of x1
    heads = CascadeRoIHeads(stages, loss_weights=(1, 1)).eval()
    detections, _ = heads({}, [torch.tensor([[1.0, 0, 11, 10]])], [(50, 50)])

    assert_close(detections[0]["boxes"], torch.tensor([[2.0, 0, 12, 10]] * 2))
    # Stage 1 has x1 = 1 and so (1, 2, 3) / 6, stage 2 has x1 = 2 and so (1, 4, 3) / 8.
    assert detections[0]["labels"].tolist() == [2, 1]
    assert_close(detections[0]["scores"], torch.tensor([7 / 16, 5 / 12]))


def test_a_probability_of_zero_stays_zero():
    stages = [known_stage(n, logits=(0.0, -200.0, 0.0), score_thresh=-1.0) for n in (1, 2, 3)]
    detections, _ = CascadeRoIHeads(stages).eval()({}, [torch.tensor([[1.0, 0, 11, 10]])], [(50, 50)])
    assert detections[0]["labels"].tolist() == [2, 1]
    assert detections[0]["scores"].tolist() == [0.5, 0.0]


def test_thresholds_scores_and_overlaps_are_the_last_stages():
    stages = [known_stage(1, score_thresh=0.9), known_stage(2)]
    stages[1].detections_per_img = 2
    boxes = torch.tensor([[0.0, 0, 20, 20], [1.0, 0, 21, 20], [30.0, 0, 50, 20], [60.0, 0, 80, 20]])
    detections, _ = CascadeRoIHeads(stages, (1, 1)).eval()({}, [boxes], [(100, 100)])
    assert detections[0]["scores"].tolist() == [0.5, 0.5]
    assert not torch.equal(detections[0]["boxes"], boxes[:2])  # these overlap by 19/21
    stages[1].score_thresh = 0.6
    assert len(CascadeRoIHeads(stages, (1, 1)).eval()({}, [boxes], [(100, 100)])[0][0]["boxes"]) == 0


def test_a_later_stage_wants_a_higher_overlap():
    """A proposal of IoU 0.55 is an object for the first stage and background for the second."""
    stages = [known_stage(n, logits=(0.0, log(3))) for n in (1, 2)]  # probability 3/4 of class 1
    heads = CascadeRoIHeads(stages, loss_weights=(2.0, 0.5))
    target = {"boxes": torch.tensor([[0.0, 0, 100, 100]]), "labels": torch.tensor([1])}
    detections, losses = heads({}, [torch.tensor([[0.0, 0, 55, 100]])], [(100, 100)], [target])

    assert detections == []
    # The ground truth is a sample too, rightly labelled and with nothing to regress.
    dx, dw = 10 * (50 - 27.5) / 55, 5 * log(100 / 55)
    by_hand = {
        "loss_classifier_1": 2 * log(4 / 3),
        "loss_box_reg_1": 2 * (dx + dw - 2 / 18) / 2,
        "loss_classifier_2": 0.5 * (log(4) + log(4 / 3)) / 2,
        "loss_box_reg_2": 0.0,
    }
    assert list(losses) == list(by_hand)
    for name, loss in losses.items():
        assert_close(loss.item(), by_hand[name], rtol=1e-5, atol=1e-6, msg=name)


def test_in_training_samples_are_refined_but_for_the_ground_truth():
    stages = [known_stage(1, (1.0, 0.0, 0.0, 0.0)), known_stage(2)]
    heads = CascadeRoIHeads(stages, (1, 1))
    exact = torch.tensor([[0.1, 0, 40.1, 40], [50.0, 50, 90, 90]], dtype=torch.float64)
    target = {"boxes": exact, "labels": torch.tensor([1, 1])}
    truth = exact.float()  # the proposals' precision, in which it becomes a sample
    proposals = [torch.tensor([[2.0, 0, 42, 40]]), torch.tensor([[10.0, 10, 20, 20]])]
    heads({}, proposals, [(100, 100), (100, 100)], [target, NO_OBJECT])

    (first,), (second,) = (stage.box_roi_pool.seen for stage in stages)
    assert_close(first[0], torch.cat([proposals[0], truth]))
    assert_close(second[0], torch.cat([torch.tensor([[6.0, 0, 46, 40]]), truth]))
    assert_close(second[1], torch.tensor([[11.0, 10, 21, 20]]))
    assert_close(proposals[0], torch.tensor([[2.0, 0, 42, 40]]))  # the caller's list is as before


def test_boxes_refined_out_of_the_image_are_no_samples_and_no_detections():
    stages = [known_stage(1, (100.0, 0.0, 0.0, 0.0)), known_stage(2)]
    heads = CascadeRoIHeads(stages, (1, 1))
    target = {"boxes": torch.tensor([[0.0, 0, 40, 40]]), "labels": torch.tensor([1])}
    losses = heads({}, [torch.tensor([[50.0, 50, 60, 60]])], [(100, 100)], [target])[1]
    assert torch.equal(stages[1].box_roi_pool.seen[0][0], target["boxes"])
    assert all(loss.isfinite() for loss in losses.values())

    # At evaluation they pass all stages, so that each box has a score from each stage, and are dropped at the end.
    detections, _ = heads.eval()({}, [torch.tensor([[5.0, 50, 15, 60], [50.0, 50, 51, 60]])], [(100, 100)])
    assert torch.equal(stages[1].box_roi_pool.seen[1][0], torch.tensor([[100.0, 50, 100, 60], [60.0, 50, 61, 60]]))
    assert_close(detections[0]["boxes"], torch.tensor([[60.0, 50, 61, 60]]))


def test_autocast_does_not_round_boxes():
    stages = [known_stage(1), known_stage(2)]
    box = torch.tensor([[1001.3, 1003.7, 1101.3, 1203.7]])
    with torch.autocast("cpu", torch.bfloat16):
        detections, _ = CascadeRoIHeads(stages, (1, 1)).eval()({}, [box], [(2000, 2000)])
    assert_close(stages[1].box_roi_pool.seen[0][0], box)
    assert_close(detections[0]["boxes"], box)


def test_masks_are_the_mean_over_the_stages_in_the_final_boxes():
    mask_logits = [(0.0, 0.0, -log(3)), (0.0, log(3), -log(4))]
    stages = [known_stage(n, (1.0, 0, 0, 0), (0.0, log(2), 0.0), mask_logits[n - 1]) for n in (1, 2)]
    heads = CascadeRoIHeads(stages, (1, 1)).eval()
    assert heads.has_mask()
    detections, _ = heads({}, [torch.tensor([[0.0, 0, 20, 20]]), NO_BOXES], [(50, 50)] * 2)

    assert detections[0]["labels"].tolist() == [1, 2]
    by_hand = torch.tensor([(1 / 2 + 3 / 4) / 2, (1 / 4 + 1 / 5) / 2])
    assert_close(detections[0]["masks"], by_hand[:, None, None, None].expand(2, 1, 2, 2))
    assert detections[1]["masks"].shape == (0, 1, 2, 2)
    for stage in stages:
        assert torch.equal(stage.mask_roi_pool.seen[0][0], detections[0]["boxes"])


def test_mask_losses_are_of_each_stages_positive_samples():
    stages = [known_stage(n, mask_logits=(0.0, log(3))) for n in (1, 2)]
    heads = CascadeRoIHeads(stages, loss_weights=(2.0, 0.5))
    target = {
        "boxes": torch.tensor([[0.0, 0, 100, 100], [100.0, 100, 200, 200]]),
        "labels": torch.tensor([1, 1]),
        "masks": torch.stack([torch.ones(200, 200), torch.zeros(200, 200)]).to(torch.uint8),
    }
    _, losses = heads({}, [torch.tensor([[0.0, 0, 55, 100], [0.0, 150, 20, 170]])], [(200, 200)], [target])

    full, empty = log(4 / 3), log(4)  # cross-entropy of probability 3/4 with a mask of ones, of zeros
    assert_close(losses["loss_mask_1"].item(), 2 * (2 * full + empty) / 3, rtol=1e-5, atol=0)
    assert_close(losses["loss_mask_2"].item(), 0.5 * (full + empty) / 2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("predictor", [ClassAgnosticPredictor, FastRCNNPredictor])
def test_one_stage_is_torchvisions_roi_heads(predictor, masks):
    roi_heads = small_stage(masks=masks, predictor=predictor)
    heads = CascadeRoIHeads([roi_heads], loss_weights=[1.0])
    features, proposals, sizes, targets = random_batch()

    results = []
    for module in (roi_heads, heads):
        torch.manual_seed(1)  # of the samples
        results.append(module(features, proposals, sizes, targets))
    (_, expected), (detections, losses) = results
    assert detections == []
    assert_close(losses, {f"{name}_1": loss for name, loss in expected.items()})

    expected, _ = roi_heads.eval()(features, proposals, sizes)
    detections, losses = heads.eval()(features, proposals, sizes)
    assert losses == {}
    assert all(len(d["boxes"]) > 0 for d in expected)
    assert_close(detections, expected)


@pytest.mark.parametrize("masks", [False, True])
def test_gradients_reach_every_parameter_but_do_not_cross_stages(masks):
    heads = small_cascade(masks)
    _, losses = heads(*random_batch())
    kinds = ["classifier", "box_reg", "mask"][: 2 + masks]
    assert list(losses) == [f"loss_{kind}_{number}" for number in (1, 2, 3) for kind in kinds]

    first = list(heads.stages[0].parameters())
    later = sum(loss for name, loss in losses.items() if not name.endswith("_1"))
    assert torch.autograd.grad(later, first, retain_graph=True, allow_unused=True) == (None,) * len(first)
    sum(losses.values()).backward()
    for name, parameter in heads.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_images_without_objects_or_proposals_train():
    heads = small_cascade(masks=True)
    features, proposals, sizes, targets = random_batch()
    no_object = NO_OBJECT | {"masks": torch.zeros(0, 64, 64, dtype=torch.uint8)}
    for case, some_proposals, some_targets, zero in [
        ("an image without objects", proposals, [targets[0], no_object], []),
        ("an image without proposals", [NO_BOXES, proposals[1]], targets, []),
        ("an image with neither", [NO_BOXES, proposals[1]], [no_object, targets[1]], []),
        ("no objects", proposals, [no_object] * 2, ["box_reg", "mask"]),
        ("nothing at all", [NO_BOXES] * 2, [no_object] * 2, ["classifier", "box_reg", "mask"]),
    ]:
        heads.zero_grad()
        _, losses = heads(features, some_proposals, sizes, some_targets)
        assert len(losses) == 9, case
        for name, loss in losses.items():
            assert loss.isfinite(), (case, name)
            assert loss == 0 or not any(kind in name for kind in zero), (case, name)
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in heads.parameters()), case


@pytest.mark.parametrize("masks", [False, True])
def test_images_without_proposals_or_detections_are_evaluated(masks):
    heads = small_cascade(masks).eval()
    features, proposals, sizes, _ = random_batch()
    both, _ = heads(features, proposals, sizes)
    second_only, _ = heads(features, [NO_BOXES, proposals[1]], sizes)
    assert_close(second_only[1], both[1])
    neither, _ = heads(features, [NO_BOXES] * 2, sizes)
    heads.stages[-1].score_thresh = 1.0
    unsure, _ = heads(features, proposals, sizes)
    shapes = {"boxes": (0, 4), "labels": (0,), "scores": (0,)} | ({"masks": (0, 1, 8, 8)} if masks else {})
    for detection in [second_only[0], *neither, *unsure]:
        assert {name: tuple(value.shape) for name, value in detection.items()} == shapes


def test_state_dict_carries_everything():
    heads, twin = small_cascade(masks=True).eval(), small_cascade(masks=True).eval()
    features, proposals, sizes, _ = random_batch()
    twin.load_state_dict(heads.state_dict())
    assert_close(twin(features, proposals, sizes), heads(features, proposals, sizes))
    assert "stages.2.box_predictor.bbox_pred.weight" in heads.state_dict()


def test_torchvisions_detector_holds_it():
    backbone = nn.Conv2d(3, 4, 4, stride=4)
    backbone.out_channels = 4
    replaced = small_stage(predictor=FastRCNNPredictor)
    model = FasterRCNN(
        backbone,
        min_size=64,
        max_size=64,
        rpn_anchor_generator=AnchorGenerator(((16,),), ((1.0,),)),
        box_roi_pool=replaced.box_roi_pool,
        box_head=replaced.box_head,
        box_predictor=replaced.box_predictor,
    )
    model.roi_heads = small_cascade(masks=True)
    *_, targets = random_batch()
    images = list(torch.rand(2, 3, 64, 64))
    losses = model(images, targets)
    assert {"loss_objectness", "loss_classifier_1", "loss_mask_3"} < losses.keys()
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    with torch.no_grad():
        for detection in model.eval()(images):
            assert len(detection["boxes"]) > 0
            assert detection["masks"].shape == (len(detection["boxes"]), 1, 64, 64)


def with_keypoints():
    stage = small_stage()
    stage.keypoint_roi_pool = stage.keypoint_head = stage.keypoint_predictor = nn.Identity()
    return stage


@pytest.mark.parametrize(
    ("make_stages", "weights", "error", "message"),
    [
        (list, (), ValueError, r"stages is empty\. Pass one RoIHeads per stage\.$"),
        (lambda: [small_stage()], (1, 0.5), ValueError, r"1 stages need 1 loss_weights, got \(1, 0\.5\)\.$"),
        (
            lambda: [small_stage(masks=masks) for masks in (True, False, True)],
            (1, 0.5, 0.25),
            ValueError,
            r"only some stages predict masks\. Give each a mask_roi_pool, mask_head and mask_predictor, or none\.$",
        ),
        (lambda: [with_keypoints()], (1,), ValueError, r"stage 1 has a keypoint head\. Build it for boxes and masks"),
        (
            lambda: [small_stage(predictor=FastRCNNPredictor), small_stage()],
            (1, 1),
            TypeError,
            r"stage 1 of 2 has a FastRCNNPredictor, .* needs one box\. Use ClassAgnosticPredictor\.$",
        ),
    ],
)
def test_stages_that_make_no_cascade_are_refused(make_stages, weights, error, message):
    with pytest.raises(error, match=f"^CascadeRoIHeads: {message}"):
        CascadeRoIHeads(make_stages(), weights)


def test_incomplete_targets_are_refused_in_training():
    features, proposals, sizes, targets = random_batch()
    with pytest.raises(ValueError, match="targets should not be None"):
        small_cascade()(features, proposals, sizes)
    del targets[1]["masks"]
    with pytest.raises(ValueError, match="should have a masks key"):
        small_cascade(masks=True)(features, proposals, sizes, targets)
