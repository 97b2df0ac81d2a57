import pytest
import torch

from tiedconv.analysis import LayerSimilarity
from tiedconv.report.similarity_plots import draw_matrices, draw_similarity, plot_matrix, plot_means


def layer(name, value, count=4, dead=0, images=None):
    matrix = torch.full((count, count), value, dtype=torch.float64).fill_diagonal_(1)
    images = torch.full((count, count), 2) if images is None else images
    return LayerSimilarity(name, [3 * i for i in range(count)], matrix, images, dead)


def texts(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


def test_means_are_drawn_over_the_depth_with_gaps():
    models = {"a": [layer("l1", 0.1), layer("l2", 0.4), layer("l3", 0, count=1)], "b": [layer("l1", 0.2)]}
    ax = plot_means(models)
    first, second = ax.lines
    assert list(first.get_ydata()[:2]) == pytest.approx([0.1, 0.4])
    assert str(first.get_ydata()[2]) == "nan"
    assert list(second.get_ydata()) == pytest.approx([0.2])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["l1", "l2", "l3"]
    assert {"a", "b"} <= set(texts(ax.figure))


def test_a_panel_a_layer_with_both_models_names():
    figure = draw_similarity({"a": [layer("l1", 0.1), layer("l2", 0.4)], "b": [layer("stage", 0.2)]})
    assert len(figure.axes) == 2
    shown = texts(figure)
    assert {"l1 · stage", "l2", "a, mean 0.10", "b, mean 0.20", "a, mean 0.40"} <= set(shown)


def test_a_matrix_shows_each_similarity_and_masks_pairs_without_an_image():
    images = torch.full((4, 4), 2)
    images[0, 1] = images[1, 0] = 0
    ax = plot_matrix(layer("l", -0.5, images=images))
    shown = ax.images[0].get_array()
    assert shown.mask.sum() == 2
    assert shown[2, 3] == -0.5
    assert ax.images[0].get_clim() == (-1, 1)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "3", "6", "9"]
    low, middle, high = (ax.images[0].cmap(x)[:3] for x in (0.0, 0.5, 1.0))
    assert low[0] > low[2]  # orange
    assert min(middle) > 0.98
    assert high[2] > high[0]  # blue


def test_a_layer_without_a_living_filter_is_said_to_have_none():
    figure = draw_matrices([layer("l1", 0.3), layer("l2", 0, count=0, dead=4), layer("l3", 0.5), layer("l4", 0.5)])
    shown = texts(figure)
    assert "no living filter" in shown
    assert "l1, mean 0.30" in shown
    assert len([ax for ax in figure.axes if ax.images]) == 3


def test_names_and_ticks_do_not_overlap():
    figure = draw_similarity({f"model_{i}": [layer(f"stages.{n}", 0.1 * i) for n in range(3)] for i in range(3)})
    figure.draw_without_rendering()
    for ax in figure.axes:
        boxes = [text.get_window_extent() for text in (*ax.get_legend().get_texts(), ax._left_title, *ax.texts)]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
