import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from tests.figures import written

from tiedconv.analysis.summary import LayerSummary
from tiedconv.report import style
from tiedconv.report.summary_plots import plot_parameters, plot_ranks


def layers(shares, samples=1000, params=100):
    return [
        LayerSummary(f"{i}", "Conv2d", (1,), (1,), params * (i + 1), 1, (10, 4, 4), 1, 1, 0, 1, 0, 10 * share, samples)
        for i, share in enumerate(shares)
    ]


def test_a_point_a_layer_and_a_line_through_the_medians_of_tenths():
    shares = [0.1, 0.5, 0.9] + [0.2] * 17 + [0.4]
    ax = plot_ranks({"resnet": layers(shares), "_tied": layers([0.3, 0.3])})
    points = ax.collections[0].get_offsets()
    assert points[:, 0].tolist() == pytest.approx([i / 20 for i in range(21)])
    assert points[:, 1].tolist() == pytest.approx(shares)
    line, other = ax.lines
    assert line.get_ydata()[0] == pytest.approx(0.3)  # of 0.1 and 0.5
    assert line.get_ydata()[1] == pytest.approx(0.55)  # of 0.9 and 0.2
    assert line.get_ydata()[-1] == pytest.approx(0.2)
    assert len(line.get_ydata()) == 10
    assert list(other.get_ydata()) == pytest.approx([0.3, 0.3])
    assert [to_hex(line.get_color()) for line in ax.lines] == [style.series(0).colour, style.series(1).colour]
    assert {"resnet", "_tied", "Effective rank, share of the channels"} <= set(written(ax))


def test_layers_that_the_images_bound_are_left_out_and_a_model_keeps_its_colour():
    bound = layers([0.5, 0.5], samples=10)
    ax = plot_ranks({"bound": bound, "free": layers([0.1, 0.2])})
    assert [to_hex(line.get_color()) for line in ax.lines] == [style.series(1).colour]
    assert "bound" not in written(ax)


def test_parameters_add_up():
    ax = plot_parameters({"a": layers([0.1] * 4), "none": [], "b": layers([0.1], params=7)})
    assert list(ax.lines[0].get_ydata()) == [100, 300, 600, 1000]
    assert list(ax.lines[0].get_xdata()) == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert list(ax.lines[1].get_ydata()) == [1000]  # the mark at the end
    assert to_hex(ax.lines[-1].get_color()) == style.series(2).colour
    assert "none" not in written(ax)


@pytest.mark.parametrize("plot", [plot_ranks, plot_parameters])
def test_the_given_axes_are_drawn_on_and_returned(plot):
    ax = Figure().add_subplot()
    assert plot({"a": layers([0.1, 0.2])}, ax) is ax
