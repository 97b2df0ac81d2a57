"""Drawing functions: each draws results on ``ax``, or on a new figure, and returns the axes."""

import statistics
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._extras import require
from ..report import style
from ..report.labels import label_ends
from .models import UNITS, ModelRow
from .operators import OperatorRow
from .results import Results
from .timer import Quartiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FIG3 = {"tied": 0, "grouped": 1, "released": 2, "standard": 5}  # place in the series of styles


def plot_fig3(rows: Sequence[OperatorRow], ax: "Axes | None" = None, *, top: float | None = None) -> "Axes":
    """Draw time against the number of blocks, as the paper's Fig. 3, with bars from the first to the third quartile.

    Args:
        rows: of the sweep ``"fig3"``, in one memory format, one per number of blocks. What failed is left out.
        ax: where to draw. None: on a new figure.
        top: upper end of the time axis, ms. None: above the slowest.
    """
    ax = style.new_axes(5, 3) if ax is None else ax
    ends = {}
    for name, index in _FIG3.items():
        points = {
            r.case.blocks: Quartiles.of([1e3 * s for s in r.timings[name].seconds]) for r in rows if name in r.timings
        }
        if not points:
            continue
        look = style.series(index)
        medians, bars = _bars(points.values())
        ends[name], *_ = ax.errorbar(
            list(points), medians, yerr=bars, marker=look.marker, markersize=4, elinewidth=1, **look.line
        )
    memory_format = rows[0].case.memory_format if rows else ""
    style.tidy(ax, xlabel="Blocks B, at equal operations", ylabel=f"ms per call, {memory_format}")
    _log2_ticks(ax, sorted({r.case.blocks for r in rows}), "{:g}")
    ax.set_ylim(0, top)
    label_ends(ax, ends)
    return ax


def plot_operators(rows: Sequence[OperatorRow], ax: "Axes | None" = None, *, names: bool = True) -> "Axes":
    """Draw how many times as fast as the dense convolution a tied one is, for every shape and number of blocks.

    A bar is ``tied`` with its quartiles, a diamond the released formulation, a tick at B what B times fewer operations
    would give at the dense convolution's rate.

    Args:
        rows: of the sweep ``"resnet"``, in one memory format. A row whose dense or tied convolution failed has no bar.
        ax: as in :func:`plot_fig3`.
        names: whether to write the shapes beside the axis.
    """
    ax = style.new_axes(5, 0.9 + 0.17 * len(rows)) if ax is None else ax
    shapes = list(dict.fromkeys(r.case.shape for r in rows))
    heights = [i + 0.6 * shapes.index(r.case.shape) for i, r in enumerate(rows)]
    blue, orange = style.series(0).colour, style.series(1).colour
    tied, released = (
        {h: q for h, row in zip(heights, rows, strict=True) if name in row.timings and (q := row.speedup(name))}
        for name in ("tied", "released")
    )
    medians, quartiles = _bars(tied.values())
    ax.barh(list(tied), [m - 1 for m in medians], left=1, height=0.72, color=blue, linewidth=0, label="tied")
    ax.errorbar(medians, list(tied), xerr=quartiles, fmt="none", ecolor=style.INK, elinewidth=0.9)
    of_released, _ = _bars(released.values())
    diamond: dict[str, Any] = {"marker": "D", "markersize": 3.6, "color": "white", "markeredgecolor": orange}
    ax.plot(of_released, list(released), linestyle="none", label="released", **diamond)
    ideal = [row.case.blocks for row in rows]
    tick: dict[str, Any] = {"marker": "|", "markersize": 9, "markeredgewidth": 1.2, "color": style.INK}
    ax.plot(ideal, heights, linestyle="none", label="B times, the ideal", **tick)
    reach = [1.0, *ideal, *medians, *of_released]
    memory_format = rows[0].case.memory_format if rows else ""
    style.tidy(ax, xlabel="Times as fast as the dense convolution", ylabel=memory_format)
    _rules_from(ax, 1)
    ax.set_xlim(min(reach) / 1.15, max(reach) * 1.15)
    _log2_ticks(ax, [2.0**n for n in range(-6, 8) if min(reach) / 1.15 <= 2.0**n <= max(reach) * 1.15], "{:g}×")
    labels = []
    for i, row in enumerate(rows):
        first = i == 0 or rows[i - 1].case.shape != row.case.shape
        labels.append(f"{row.case.shape}    B = {row.case.blocks}" if first else f"{row.case.blocks}")
    ax.set_yticks(heights, labels if names else [""] * len(labels), fontsize=7)
    ax.set_ylim(max(heights, default=0) + 0.8, -0.8)
    return ax


def plot_models(rows: Sequence[ModelRow], ax: "Axes | None" = None) -> "Axes":
    """Draw one bar per model, engine and memory format, with the figure and the ratio to the reference written at it.

    The ratio is that in the same engine and format: how many times as fast, or for memory how many times as much.

    Args:
        rows: of one quantity. What failed has no bar and says so.
        ax: as in :func:`plot_fig3`.
    """
    ax = style.new_axes(5, _models_height(rows)) if ax is None else ax
    names = list(dict.fromkeys(row.model for row in rows))
    groups = list(dict.fromkeys(map(_place, rows)))
    heights = [i + 0.7 * groups.index(_place(row)) for i, row in enumerate(rows)]
    widest = max((row.value.q3 for row in rows if row.value), default=1.0)
    for name in names:
        bars = {h: q for h, row in zip(heights, rows, strict=True) if row.model == name and (q := row.value)}
        medians, quartiles = _bars(bars.values())
        colour = style.series(names.index(name)).colour
        ax.barh(list(bars), medians, height=0.78, color=colour, linewidth=0, label=name)
        ax.errorbar(medians, list(bars), xerr=quartiles, fmt="none", ecolor=style.INK, elinewidth=0.9)
    for height, row in zip(heights, rows, strict=True):
        value = row.value
        text = "failed" if value is None else _number(value.median)
        if value and row.ratio and row.model != names[0]:
            text += f"   {row.ratio.median:.2f}×"
        place = 0 if value is None else value.q3
        ax.text(place + 0.015 * widest, height, text, va="center", fontsize=7, color=style.INK)
    style.tidy(ax, ylabel=_models_title(rows))
    _rules_from(ax, 0)
    ax.spines["bottom"].set_visible(False)
    ax.set_xlim(0, 1.25 * widest)
    middles = [
        statistics.fmean(h for h, row in zip(heights, rows, strict=True) if _place(row) == group) for group in groups
    ]
    ax.set_yticks(middles, groups, fontsize=7)
    ax.set_ylim(max(heights, default=0) + 0.7, -0.7)
    return ax


def check_suffix(path: Path) -> None:
    """Raise ValueError unless matplotlib draws files of that kind."""
    known = sorted(style.new_figure(1, 1).canvas.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in known:
        raise ValueError(f"bench: cannot draw --plot {path}: its suffix must be one of {', '.join(known)}.")


def draw(results: Results) -> "Figure":
    """Return one figure with everything that a benchmark measured, and what it was measured on below."""
    figure = _draw_operators(results.rows) if results.benchmark == "operators" else _draw_models(results.rows)
    machine, options = results.machine, results.options
    lines = [f"{machine['processor']}, threads {machine['threads']}, {machine['device']}, torch {machine['torch']}, "]
    lines[0] += ", ".join(f"{n} {options[n]}" for n in ("dtype", "batch", "image_size", "rounds") if n in options)
    if results.benchmark == "models":
        of = options["models"][0]
        lines.insert(0, f"Beside the bars: times the speed of {of} (memory: times its MiB), same engine and format.")
    length = int(20 * figure.get_figwidth())  # letters that fit
    caption = "\n".join(part for line in lines for part in textwrap.wrap(line, length))
    figure.supxlabel(caption, fontsize=6.5, color=style.MUTED, x=0.01, ha="left")
    return figure


def _draw_operators(rows: Sequence[OperatorRow]) -> "Figure":
    panels = _grouped(rows, lambda row: row.case.memory_format)
    fig3 = rows[0].case.sweep == "fig3"
    columns, tallest = len(panels), max(map(len, panels))
    size = (4.6 * columns, 3.0) if fig3 else (1.4 + 3.2 * columns, 1.2 + 0.17 * tallest)
    figure, axes = _panels([1], columns, size)
    slowest = max((1e3 * t.median for row in rows for t in row.timings.values()), default=1.0)
    for i, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
        if fig3:
            plot_fig3(panel, ax, top=1.1 * slowest)
        else:
            plot_operators(panel, ax, names=i == 0)
    if not fig3:
        _legend(figure, axes[0], "right", ncols=3)
    return figure


def _draw_models(rows: Sequence[ModelRow]) -> "Figure":
    panels = _grouped(rows, lambda row: row.quantity)
    columns = min(2, len(panels))
    heights = [_models_height(panel) for panel in panels]
    lines = [max(heights[i : i + columns]) for i in range(0, len(heights), columns)]
    figure, axes = _panels(lines, columns, (5.2 * columns, 0.5 + sum(lines)))
    for ax, panel in zip(axes, panels, strict=False):
        plot_models(panel, ax)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    _legend(figure, axes[0], "left", ncols=2 * columns)
    return figure


def _grouped(rows: Sequence[Any], key: Callable[[Any], str]) -> list[list[Any]]:
    """Return the rows of each key together, in the order in which the keys come up."""
    return [[row for row in rows if key(row) == name] for name in dict.fromkeys(map(key, rows))]


def _bars(values: Iterable[Quartiles]) -> tuple[list[float], list[list[float]]]:
    """Return medians, and how far the quartiles are below and above them."""
    found = list(values)
    return [q.median for q in found], [[q.median - q.q1 for q in found], [q.q3 - q.median for q in found]]


def _rules_from(ax: "Axes", start: float) -> None:
    """Rule the axes of horizontal bars, which begin at ``start``."""
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color=style.RULE, linewidth=0.6)
    ax.axvline(start, color=style.MUTED, linewidth=0.8)


def _legend(figure: "Figure", ax: "Axes", side: str, ncols: int) -> None:
    place: Any = f"outside upper {side}"
    figure.legend(*ax.get_legend_handles_labels(), loc=place, ncols=ncols, frameon=False, fontsize=8)


def _number(value: float) -> str:
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _models_height(rows: Sequence[ModelRow]) -> float:
    """Inches for a panel with these bars."""
    return 0.7 + 0.16 * len(rows) + 0.11 * len(set(map(_place, rows)))


def _place(row: ModelRow) -> str:
    """Engine and memory format, one below the other."""
    return f"{row.engine}\n{row.memory_format or ''}".strip()


def _models_title(rows: Sequence[ModelRow]) -> str:
    if not rows:
        return ""
    first = rows[0]
    better = "lower" if first.quantity in ("latency", "memory") else "higher"
    return f"{first.quantity}, {UNITS[first.quantity]} ({better} is better), batch {first.batch}, {first.dtype}"


def _panels(lines: Sequence[float], columns: int, size: tuple[float, float]) -> "tuple[Figure, list[Axes]]":
    """Return a new figure (inches) and its axes in rows of the relative heights ``lines``."""
    figure = style.new_figure(*size)
    return figure, list(figure.subplots(len(lines), columns, squeeze=False, height_ratios=list(lines)).flat)


def _log2_ticks(ax: "Axes", ticks: Sequence[float], form: str) -> None:
    """Make the x axis logarithmic with these ticks and no others."""
    ax.set_xscale("log", base=2)
    ticker = require("matplotlib.ticker", extra="analysis")
    ax.xaxis.set_major_locator(ticker.FixedLocator(list(ticks)))
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: form.format(value)))
