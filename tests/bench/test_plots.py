"""tiedconv.bench.plots: what the axes hold, not how they look."""

from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from tests.figures import written

from tiedconv.bench import Quartiles, Timing, plots
from tiedconv.bench.machine import describe_machine
from tiedconv.bench.models import ModelRow
from tiedconv.bench.operators import Case, OperatorRow
from tiedconv.bench.results import Results
from tiedconv.report import style


def operator(blocks=2, memory_format="contiguous", **milliseconds):
    case = Case(32, 4, 3, blocks, 1, memory_format)
    return OperatorRow(
        case, False, "view", {name: Timing(tuple(s / 1e3 for s in ms)) for name, ms in milliseconds.items()}
    )


def model(name, ratio=None, memory_format="contiguous", seconds=(0.5, 1.0), quantity="throughput", engine="eager"):
    timing = Timing(seconds) if seconds else None
    ratio = ratio and Quartiles(ratio, ratio, ratio)
    return ModelRow(
        quantity, "float32", name, engine, memory_format, 4, timing, ratio=ratio, error="" if seconds else "x"
    )


def test_operators_draw_speedup_ideal_and_released():
    rows = [
        operator(2, dense=(4.0,), tied=(2.5,), released=(8.0,)),
        operator(8, dense=(4.0,), tied=(1.0,)),
        operator(4, tied=(1.0,)),  # dense failed
    ]
    ax = plots.plot_operators(rows)
    assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches] == [
        pytest.approx((1, 1.6)),
        pytest.approx((1, 4)),
    ]
    marks = {line.get_label(): list(line.get_xdata()) for line in ax.lines}
    assert marks["released"] == [0.5]
    assert marks["B times, the ideal"] == [2, 8, 4]
    low, high = ax.get_xlim()
    assert low < 0.5 < 8 < high
    assert {"3x3, 32 ch, 4²    B = 2", "8", "0.5×", "1×", "8×"} <= set(written(ax))


def test_models_draw_figures_with_the_ratio_to_the_reference():
    rows = [
        model("ref", 1.0, seconds=(0.5,)),
        model("own", 1.25, seconds=(0.4,)),
        model("ref", 1.0, None, seconds=(0.1,), engine="openvino"),
        model("own", None, None, seconds=(), engine="openvino"),
    ]
    ax = plots.plot_models(rows)
    assert sorted(bar.get_width() for bar in ax.patches) == pytest.approx([8, 10, 40])
    assert {"8.00", "10.0   1.25×", "40.0", "failed"} == {text.get_text() for text in ax.texts}
    assert {bar.get_width(): to_hex(bar.get_facecolor()) for bar in ax.patches}[10] == style.series(1).colour
    assert {"eager\ncontiguous", "openvino", "throughput, images/s (higher is better), batch 4, float32"} <= set(
        written(ax)
    )


def test_latency_and_memory_are_better_when_low():
    memory = replace(model("a", seconds=(), quantity="memory"), mib=1234.4, error="")
    assert {"memory, MiB (lower is better), batch 4, float32", "1,234"} <= set(written(plots.plot_models([memory])))
    latency = model("a", quantity="latency")
    assert "latency, ms (lower is better), batch 4, float32" in written(plots.plot_models([latency]))


@pytest.mark.parametrize("draw", [plots.plot_operators, plots.plot_models])
def test_the_given_axes_are_drawn_on_and_nothing_is_still_a_figure(draw):
    ax = Figure().add_subplot()
    assert draw([], ax) is ax
    assert written(ax)


def results(benchmark, rows, **options):
    return Results(benchmark, {**describe_machine(), "processor": "Abacus"}, options, rows=rows)


def test_operators_have_a_panel_per_format():
    rows = [
        operator(2, memory_format, dense=(2.0,), tied=(1.0,), released=(1.0,))
        for memory_format in ("contiguous", "channels_last")
    ]
    figure = plots.draw(results("operators", rows, batch=3))
    assert len(figure.axes) == 2
    texts = " ".join(written(figure.axes[0]))
    assert all(text in texts for text in ("contiguous", "channels_last", "Abacus", "batch 3", "released"))


def test_models_have_a_panel_per_quantity():
    rows = [model("a", quantity=quantity) for quantity in ("latency", "throughput", "train")]
    figure = plots.draw(results("models", rows, models=["a"], batch=4))
    assert [ax.get_visible() for ax in figure.axes] == [True, True, True, False]
    assert "times the speed of a" in " ".join(written(figure.axes[0]))


def test_when_everything_failed_there_is_still_a_figure():
    assert written(plots.draw(results("operators", [operator()])).axes[0])
    assert written(plots.draw(results("models", [model("a", seconds=())], models=["a"])).axes[0])


def test_suffixes():
    plots.check_suffix(Path("a.svg"))
    plots.check_suffix(Path("a.PNG"))
    for name in ("a.xyz", "a", "png"):
        with pytest.raises(ValueError, match=f"bench: cannot draw --plot {name}: its suffix must be one of .*png"):
            plots.check_suffix(Path(name))
