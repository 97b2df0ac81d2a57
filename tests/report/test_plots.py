"""tiedconv.report.plots: what the axes hold, not how they look."""

import io
import math

import matplotlib
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from tests.figures import written

from tiedconv.analysis import Histogram
from tiedconv.report import plots, style
from tiedconv.report.labels import spread_out


def test_curves_show_the_mean_of_the_runs_and_their_range():
    ax = plots.plot_curves({"a": [[0.1, 0.5], [0.3, 0.9]], "b": [[0.2, 0.4]]}, ylabel="Top-1", percent=True)
    lines = [line for line in ax.lines if len(line.get_xdata()) == 2]
    assert lines[0].get_ydata() == pytest.approx([0.2, 0.7])
    assert lines[1].get_ydata() == pytest.approx([0.2, 0.4])
    [band] = ax.collections  # a single run has none
    box = band.get_paths()[0].get_extents()
    assert (box.y0, box.y1) == pytest.approx((0.1, 0.9))
    assert {"a", "b", "Top-1", "Epoch"} <= set(written(ax))


def test_curves_stop_where_the_shortest_run_does():
    ax = plots.plot_curves({"a": [[1.0, 2.0, 3.0], [3.0, 4.0]]})
    assert list(ax.lines[0].get_ydata()) == [2.0, 3.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_training_that_diverged_is_drawn_as_far_as_it_went(bad):
    ax = plots.plot_curves({"a": [[1.0, 0.5, bad], [3.0, 0.7, 0.9]], "b": [[bad, bad, bad]]})
    assert list(ax.lines[0].get_ydata())[:2] == pytest.approx([2.0, 0.6])
    assert math.isnan(ax.lines[0].get_ydata()[2])
    assert "a" in written(ax)
    assert "b" not in written(ax)


def test_logarithmic_curves():
    ax = plots.plot_curves({"a": [[2.0, 0.2, 0.02]]}, log=True)
    assert ax.get_yscale() == "log"
    assert {"1", "0.1"} <= set(written(ax))


def test_a_model_without_data_keeps_its_place_and_colour():
    colours = {
        to_hex(plots.plot_curves({"none": [], "b": [[0.1, 0.2]]}).lines[0].get_color()),
        to_hex(plots.plot_tradeoff({"none": (1e6, []), "b": (2e6, [0.5])}).lines[0].get_color()),
    }
    assert colours == {style.series(1).colour}


def test_tradeoff_has_bars_of_one_standard_deviation_and_names():
    ax = plots.plot_tradeoff({"a": (883562, [0.97, 0.99]), "b": (2e6, [0.9])}, xlabel="Parameters", ylabel="Top-1")
    assert ax.get_xscale() == "log"
    assert [line.get_xydata()[0] for line in ax.lines[:2]] == [
        pytest.approx((883562, 0.98)),
        pytest.approx((2e6, 0.9)),
    ]
    [bar] = ax.collections[0].get_segments()
    assert bar[:, 1] == pytest.approx([0.98 - 0.01 * 2**0.5, 0.98 + 0.01 * 2**0.5])
    assert {"a", "b", "Parameters", "1\u202fM"} <= set(written(ax))


def test_tradeoff_leaves_no_room_above_hundred_per_cent():
    low, high = plots.plot_tradeoff({"a": (1e6, [1.0, 0.99])}).get_ylim()
    assert low < 0.99 < 1 < high < 1.01


def test_confusion_names_and_counts_few_classes():
    ax = plots.plot_confusion([[9, 1], [0, 10]], ["cat", "dog"])
    assert {"cat", "dog", "9", "1", "10", "True class", "Predicted class"} <= set(written(ax))
    cells = ax.images[0].get_array()
    assert to_hex(cells[0, 0][:3]) == style.series(0).colour
    assert to_hex(cells[0, 1][:3]) == style.series(1).colour
    assert cells[0, 1, 3] == pytest.approx(0.1 + 0.9 * 0.1**0.5)
    assert cells[1, 0, 3] == 0
    assert cells[1, 1, 3] == 1


@pytest.mark.parametrize(("classes", "cells"), [(1, 1), (21, 21), (100, 100), (1000, 100), (101, 51)])
def test_confusion_of_many_classes_is_an_image(classes, cells):
    matrix = [[int(i == j) for j in range(classes)] for i in range(classes)]
    ax = plots.plot_confusion(matrix, [f"class {i}" for i in range(classes)])
    assert ax.images[0].get_array().shape == (cells, cells, 4)
    assert ("class 0" in written(ax)) == (classes <= 20)


def test_confusion_of_a_class_without_images():
    ax = plots.plot_confusion([[0, 0], [0, 3]])
    assert ax.images[0].get_array()[0, :, 3].max() == 0


def test_similarity_shows_shares_and_means():
    histogram = Histogram("layer1", edges=[-1.0, 0.0, 1.0], counts=[1, 3], mean=0.25)
    empty = Histogram("layer1", edges=[-1.0, 0.0, 1.0], counts=[0, 0], mean=0.0)
    ax = plots.plot_similarity({"a": histogram, "_b": histogram, "empty": empty, "none": None})
    outlines = [patch for patch in ax.patches if not patch.get_fill()]
    assert [list(patch.get_data().values) for patch in outlines] == [[0.25, 0.75]] * 2
    assert {"a, mean 0.25", "_b, mean 0.25"} <= set(written(ax))
    assert not any("empty" in text for text in written(ax))


def test_nothing_to_draw_is_still_a_figure():
    for ax in (plots.plot_curves({}), plots.plot_tradeoff({}), plots.plot_similarity({"a": None})):
        assert written(ax)


@pytest.mark.parametrize(
    ("draw", "data"),
    [
        (plots.plot_curves, {"a": [[0.5]]}),
        (plots.plot_tradeoff, {"a": (1e6, [0.5])}),
        (plots.plot_similarity, {}),
    ],
)
def test_the_given_axes_are_drawn_on_and_returned(draw, data):
    ax = Figure().add_subplot()
    assert draw(data, ax) is ax
    assert plots.plot_confusion([[1]], ax=ax) is ax


def test_classes_may_have_names_that_are_no_utf8():
    ax = plots.plot_confusion([[1, 0], [0, 1]], ["caf\udce9", "cat"])
    ax.figure.draw_without_rendering()
    assert [text.get_text() for text in ax.get_xticklabels()] == [r"caf\udce9", "cat"]


def test_labels_are_never_read_as_tex():
    label, buffer = r"$x^2$ $ \frac", io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        plots.plot_curves({label: [[0.5, 0.6]]}).figure.savefig(buffer, format="svg")
    assert f">{label}<" in buffer.getvalue()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (883562, "884\u202fk"),
        (999_960, "1\u202fM"),
        (1.2e7, "12\u202fM"),
        (4.09e9, "4.09\u202fG"),
    ],
)
def test_counts_are_written_with_prefixes(value, text):
    assert style.si(value) == text


def test_long_labels_are_cut_in_the_middle():
    assert style.short("tiedresnet_tiny base_width=24") == "tiedresnet…se_width=24"
    assert style.short("resnet_tiny") == "resnet_tiny"


def test_twelve_models_look_different():
    assert len({(s.colour, str(s.dash), s.marker) for s in map(style.series, range(12))}) == 12


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([], []),
        ([0.0, 1.0], [0.0, 1.0]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.9, 0.1, 0.9, 0.12], [0.85, 0.06, 0.95, 0.16]),
        ([0.0, 0.05, 0.14], [-0.0367, 0.0633, 0.1633]),
    ],
)
def test_positions_are_moved_apart(positions, expected):
    assert spread_out(positions, 0.1) == pytest.approx(expected, abs=1e-3)
