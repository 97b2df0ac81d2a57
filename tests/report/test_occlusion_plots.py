import math
from itertools import pairwise

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from tests.figures import written

from tiedconv.analysis.occlusion import Estimate, ModelOcclusion, OcclusionBin, OcclusionReport
from tiedconv.report import style
from tiedconv.report.occlusion_plots import draw_occlusion, plot_occlusion


def report(values, edges=(0, 0.2, 0.4, 1), spread=0.05):
    """Return a report with the given AP of each model and bin; AP75 is half of it."""
    bins = [OcclusionBin(low, high, 1200 * (i + 1), 9) for i, (low, high) in enumerate(pairwise(edges))]
    models = []
    for label, row in values.items():
        scores = {
            metric: [
                None if v is None else Estimate(v / part, v / part - spread if spread else None, v / part + 2 * spread)
                for v in row
            ]
            for metric, part in (("AP", 1), ("AP75", 2))
        }
        models.append(ModelOcclusion(label, 1, scores, {}))
    return OcclusionReport("mask", "boxes", 200 if spread else 0, 0, bins, models)


def test_lines_bars_and_counts():
    ax = plot_occlusion(report({"resnet": [0.5, 0.4, 0.2], "_tied": [0.5, 0.45, 0.3]}), "AP75")
    assert [list(line.get_ydata()) for line in ax.lines] == [[0.25, 0.2, 0.1], [0.25, 0.225, 0.15]]
    assert [to_hex(line.get_color()) for line in ax.lines] == [style.series(0).colour, style.series(1).colour]
    bars = [segment[:, 1].tolist() for bar in ax.collections for segment in bar.get_segments()]
    assert bars[2] == pytest.approx([0.05, 0.2])
    assert len(bars) == 6
    assert {"resnet", "_tied", "0–0.2\n1,200", "0.4–1\n3,600"} <= set(written(ax))
    assert any(text.startswith("Mask AP75, with 95") for text in written(ax))


def test_models_stand_side_by_side_around_the_middle_of_a_bin():
    first, second = (line.get_xdata() for line in plot_occlusion(report({"a": [0.5] * 3, "b": [0.5] * 3})).lines)
    assert [(x + y) / 2 for x, y in zip(first, second, strict=True)] == pytest.approx([0, 1, 2])
    assert all(0 < y - x < 0.5 for x, y in zip(first, second, strict=True))


def test_a_bin_without_objects_is_a_gap():
    ax = plot_occlusion(report({"a": [0.5, None, 0.2], "empty": [None] * 3}))
    assert math.isnan(ax.lines[0].get_ydata()[1])
    assert len(ax.collections) == 2
    assert "a" in written(ax)
    assert "empty" not in written(ax)


def test_without_intervals_there_are_no_bars():
    ax = plot_occlusion(report({"a": [0.5, 0.4, 0.2]}, spread=0))
    assert not ax.collections
    assert "Mask AP" in written(ax)


def test_the_names_of_many_bins_do_not_touch_each_other_or_the_names_of_models():
    edges = (0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1)
    ax = plot_occlusion(report({f"tiedresnext50_32x4d_{i}": [0.5] * 10 for i in range(6)}, edges))
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.get_xticklabels()]
    assert len(boxes) == 10
    assert all(a.x1 + 2 < b.x0 for a, b in pairwise(boxes))
    assert all(boxes[-1].x1 < text.get_window_extent().x0 for text in ax.texts)


def test_the_axis_ends_where_average_precision_does():
    low, high = plot_occlusion(report({"a": [1.0, 0.5, 0.0]})).get_ylim()
    assert -0.05 < low < 0
    assert 1 < high < 1.05


def test_the_given_axes_are_drawn_on_and_returned():
    ax = Figure().add_subplot()
    assert plot_occlusion(report({"a": [0.5] * 3}), ax=ax) is ax


def test_both_metrics_in_one_figure():
    figure = draw_occlusion(report({"a": [0.5, 0.4, 0.2]}))
    assert [ax.lines[0].get_ydata()[0] for ax in figure.axes] == [0.5, 0.25]
