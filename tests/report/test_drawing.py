import numpy as np
import pytest
import torch
from PIL import ImageColor

from tiedconv.report.drawing import draw_detections
from tiedconv.report.style import COLOURS

CLASSES = ["cat", "dog", "bird"]
BLUE, ORANGE = (ImageColor.getrgb(colour) for colour in COLOURS[:2])
GREY = 0.2
PAPER = (51, 51, 51)  # of the grey image


def grey(height=500, width=600):
    return torch.full((3, height, width), GREY)


def found(*boxes, labels=None, scores=None, **more):
    detections = {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)}
    detections["labels"] = torch.tensor([1] * len(boxes) if labels is None else labels, dtype=torch.int64)
    if scores is not None:
        detections["scores"] = torch.tensor(scores)
    return {**detections, **more}


def pixels(picture):
    return np.asarray(picture)


def where(picture, colour):
    """Rows and columns of the pixels that have a colour, as two ranges (first, last)."""
    rows, columns = np.nonzero((pixels(picture) == colour).all(-1))
    return (rows.min(), rows.max()), (columns.min(), columns.max())


def test_a_box_is_drawn_in_its_classs_colour():
    picture = draw_detections(grey(), found([100, 200, 300, 400]), CLASSES)
    assert picture.size == (600, 500)
    shown = pixels(picture)
    for row, column in ((200, 250), (300, 100), (400, 200), (300, 300)):
        assert tuple(shown[row, column]) == BLUE
    for row, column in ((300, 200), (300, 90), (420, 200), (300, 310)):  # neither within nor around it
        assert tuple(shown[row, column]) == PAPER
    (_, bottom), (left, right) = where(picture, BLUE)
    assert (bottom, left, right) == (400, 100, 300)


def test_every_class_has_its_own_colour_and_they_come_again_after_the_last():
    boxes = [[20 + 70 * i, 200, 70 + 70 * i, 400] for i in range(8)]
    labels = [1, 2, 3, 4, 5, 6, 7, 8]
    shown = pixels(draw_detections(grey(), found(*boxes, labels=labels), [f"c{i}" for i in range(8)]))
    colours = [tuple(shown[300, box[0]]) for box in boxes]
    assert colours[:6] == [ImageColor.getrgb(colour) for colour in COLOURS]
    assert colours[6:] == colours[:2]


def test_a_mask_tints_half_of_the_image_in_it():
    mask = torch.zeros(1, 1, 500, 600)
    mask[0, 0, 250:350, 150:250] = 0.51
    mask[0, 0, 360:380, 150:250] = 0.49
    tint = tuple(round((51 + value) / 2) for value in BLUE)
    for masks in (mask, mask[:, 0], mask.double()):
        shown = pixels(draw_detections(grey(), found([100, 200, 300, 400], masks=masks), CLASSES))
        inside = (shown == tint).all(-1)
        assert inside.sum() == 100 * 100
        assert inside[250:350, 150:250].all()
    plain = pixels(draw_detections(grey(), found([100, 200, 300, 400]), CLASSES))
    assert np.array_equal(shown[~inside], plain[~inside])


def test_the_best_detection_lies_on_top():
    masks = torch.zeros(2, 1, 500, 600)
    masks[:, :, 210:390, 110:290] = 1
    both = found([100, 200, 300, 400], [100, 200, 300, 400], labels=[2, 1], scores=[0.9, 0.6], masks=masks)
    shown = pixels(draw_detections(grey(), both, CLASSES))
    assert tuple(shown[300, 100]) == ORANGE
    once = [(51 + value) / 2 for value in BLUE]
    assert shown[300, 200] == pytest.approx([(a + b) / 2 for a, b in zip(once, ORANGE, strict=True)], abs=1)


@pytest.mark.parametrize(("min_score", "drawn"), [(0.0, 3), (0.5, 2), (0.75, 1), (0.76, 0), (1.0, 0)])
def test_detections_below_the_smallest_score_are_left_out(min_score, drawn):
    boxes = [[20, 100, 120, 200], [220, 100, 320, 200], [420, 100, 520, 200]]
    detections = found(*boxes, scores=[0.75, 0.5, 0.25], masks=torch.ones(3, 1, 500, 600))
    shown = pixels(draw_detections(grey(), detections, CLASSES, min_score=min_score))
    assert [tuple(shown[150, left]) == BLUE for left in (20, 220, 420)] == [i < drawn for i in range(3)]
    assert (tuple(shown[400, 300]) == PAPER) is (drawn == 0)


def test_the_default_leaves_out_what_is_less_than_half_sure():
    detections = found([20, 100, 120, 200], [220, 100, 320, 200], scores=[0.5, 0.49])
    shown = pixels(draw_detections(grey(), detections, CLASSES))
    assert [tuple(shown[150, left]) == BLUE for left in (20, 220)] == [True, False]


def test_detections_without_scores_are_all_drawn():
    shown = pixels(draw_detections(grey(), found([20, 100, 120, 200]), CLASSES, min_score=1.0))
    assert tuple(shown[150, 20]) == BLUE


def test_a_tiny_image_is_enlarged_by_a_whole_factor():
    image = torch.rand(3, 32, 50)
    mask = torch.zeros(1, 32, 50)
    mask[0, 20:24, 30:40] = 1
    detections = found([10, 4, 26, 28], masks=mask)
    picture = draw_detections(image, detections, CLASSES)
    assert picture.size == (50 * 15, 32 * 15)  # 480 / 32
    shown = pixels(picture)
    blocks = shown.reshape(32, 15, 50, 15, 3).swapaxes(1, 2)
    original = (image.permute(1, 2, 0) * 255).round().byte().numpy()
    outside = (slice(None), slice(41, None))
    assert np.array_equal(blocks[outside], np.broadcast_to(original[:, 41:, None, None], blocks[outside].shape))
    for row, column in ((15 * 16, 150), (15 * 16, 390), (420, 15 * 18)):  # of the box's sides, 15 times as far
        assert tuple(shown[row, column]) == BLUE
    tinted = blocks[20:24, 30:40]
    half = (original[20:24, 30:40].astype(float) + BLUE) / 2
    assert np.abs(tinted - half[:, :, None, None]).max() <= 1


def test_a_large_image_keeps_its_size():
    assert draw_detections(grey(480, 481), found(), CLASSES).size == (481, 480)
    assert draw_detections(grey(479, 600), found(), CLASSES).size == (1200, 958)


CORNERS = {
    "top left": [0, 0, 60, 60],
    "top right": [540, 0, 600, 60],
    "bottom left": [0, 440, 60, 500],
    "bottom right": [595, 495, 600, 500],
    "all of it": [0, 0, 600, 500],
    "beyond": [-50, -30, 650, 530],
}


@pytest.mark.parametrize("box", CORNERS.values(), ids=CORNERS)
def test_the_label_stays_inside_the_picture(box):
    """All of it is there: with its text it has as many coloured and white pixels as in the middle."""
    wide = ["a class with a long name"]
    label = []
    for place in ([250, 200, 310, 260], box):
        with_label = pixels(draw_detections(grey(), found(place, scores=[0.87]), wide))
        label.append((with_label == 255).all(-1).sum())
    assert label[0] > 50
    assert label[1] == label[0]


def test_the_label_stands_above_its_box_or_within_it():
    text = {}
    for top in (200, 2):
        picture = draw_detections(grey(), found([100, top, 300, 400], scores=[1.0]), CLASSES)
        text[top] = where(picture, (255, 255, 255))
    assert 180 < text[200][0][0] < text[200][0][1] < 200
    assert 2 <= text[2][0][0] < text[2][0][1] < 25
    assert text[200][1] == text[2][1]
    assert 100 < text[2][1][0] < text[2][1][1] < 200


def letters(label, classes, **scores):
    """The white pixels of a detection's picture."""
    picture = draw_detections(grey(), found([100, 200, 300, 400], labels=[label], **scores), classes)
    return (pixels(picture) == 255).all(-1)


def test_the_label_says_class_and_score():
    same = letters(1, ["cat"], scores=[0.874])
    assert np.array_equal(same, letters(1, ["cat"], scores=[0.866]))  # 0.87 both
    assert np.array_equal(same, letters(1, ["cat 0.87"]))
    assert not np.array_equal(same, letters(1, ["cat"], scores=[0.88]))
    assert not np.array_equal(same, letters(1, ["dog"], scores=[0.87]))


@pytest.mark.parametrize("label", [0, 4, 90])
def test_a_label_without_a_name_is_shown_by_its_number(label):
    assert np.array_equal(letters(label, CLASSES), letters(1, [f"class {label}"]))


@pytest.mark.parametrize("more", [{}, {"masks": torch.zeros(0, 1, 500, 600)}, {"scores": torch.zeros(0)}])
def test_without_detections_the_image_is_shown_as_it_is(more):
    image = torch.rand(3, 500, 600)
    shown = pixels(draw_detections(image, {**found(), **more}, CLASSES))
    assert np.array_equal(shown, (image.permute(1, 2, 0) * 255).round().byte().numpy())


def test_values_beyond_the_range_are_cut_off():
    image = torch.stack([torch.full((500, 600), value) for value in (-1.0, 0.5, 2.0)])
    assert pixels(draw_detections(image, found(), CLASSES))[0, 0].tolist() == [0, 128, 255]


def test_neither_image_nor_detections_are_changed():
    image, detections = grey(), found([100, 200, 300, 400], scores=[0.9], masks=torch.ones(1, 1, 500, 600))
    before = {name: value.clone() for name, value in detections.items()}
    draw_detections(image.requires_grad_(), detections, CLASSES)
    assert torch.equal(image, grey())
    assert all(torch.equal(detections[name], value) for name, value in before.items())
