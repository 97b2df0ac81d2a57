"""Drawing functions: each draws results on ``ax``, or on a new figure, and returns the axes."""

import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._extras import require
from ..report import style
from .models import UNITS, ModelRow
from .operators import OperatorRow
from .results import Results
from .timer import Quartiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_operators(rows: Sequence[OperatorRow], ax: "Axes | None" = None, *, names: bool = True) -> "Axes":
    """Draw how many times as fast as the dense convolution a tied one is, for every shape and number of blocks.

    A bar is ``tied`` with its quartiles, a diamond the released formulation, a tick at B what B times fewer operations
    would give at the dense convolution's rate.

    Args:
        rows: in one memory format. A row whose dense or tied convolution failed has no bar.
        ax: where to draw. None: on a new figure.
        names: whether to write the shapes beside the axis.
    """
    ax = style.new_axes(5, 0.9 + 0.17 * len(rows)) if ax is None else ax
    shapes = list(dict.fromkeys(row.case.shape for row in rows))
    heights = [i + 0.6 * shapes.index(row.case.shape) for i, row in enumerate(rows)]
    tied, released = (
        {h: q for h, row in zip(heights, rows, strict=True) if name in row.timings and (q := row.speedup(name))}
        for name in ("tied", "released")
    )
    _bars(ax, tied, style.series(0).colour, "tied", start=1)
    diamond: dict[str, Any] = {"marker": "D", "markersize": 3.6, "color": "white"}
    diamond["markeredgecolor"] = style.series(1).colour
    of_released = [q.median for q in released.values()]
    ax.plot(of_released, list(released), linestyle="none", label="released", **diamond)
    ideal = [row.case.blocks for row in rows]
    tick: dict[str, Any] = {"marker": "|", "markersize": 9, "markeredgewidth": 1.2, "color": style.INK}
    ax.plot(ideal, heights, linestyle="none", label="B times, the ideal", **tick)
    xlabel, ylabel = "Times as fast as the dense convolution", rows[0].case.memory_format if rows else ""
    style.tidy(ax, xlabel=xlabel, ylabel=ylabel, grid="x")
    reach = [1.0, *ideal, *(q.median for q in tied.values()), *of_released]
    low, high = min(reach) / 1.15, max(reach) * 1.15
    ax.set_xlim(low, high)
    _log2_ticks(ax, [2.0**n for n in range(-6, 8) if low <= 2.0**n <= high])
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
        ax: as in :func:`plot_operators`.
    """
    ax = style.new_axes(5, _models_height(rows)) if ax is None else ax
    names = list(dict.fromkeys(row.model for row in rows))
    groups = list(dict.fromkeys(map(_place, rows)))
    placed = {i + 0.7 * groups.index(_place(row)): row for i, row in enumerate(rows)}
    widest = max((row.value.q3 for row in rows if row.value), default=1.0)
    for index, name in enumerate(names):
        bars = {h: q for h, row in placed.items() if row.model == name and (q := row.value)}
        _bars(ax, bars, style.series(index).colour, name)
    for height, row in placed.items():
        text = _number(row.value.median) if row.value else "failed"
        if row.value and row.ratio and row.model != names[0]:
            text += f"   {row.ratio.median:.2f}×"
        end = row.value.q3 if row.value else 0
        ax.text(end + 0.015 * widest, height, text, va="center", fontsize=7, color=style.INK)
    style.tidy(ax, ylabel=_models_title(rows), grid="x")
    ax.spines["bottom"].set_visible(False)
    ax.set_xlim(0, 1.25 * widest)
    middles = [statistics.fmean(h for h, row in placed.items() if _place(row) == group) for group in groups]
    ax.set_yticks(middles, groups, fontsize=7)
    ax.set_ylim(max(placed, default=0) + 0.7, -0.7)
    return ax


def check_suffix(path: Path) -> None:
    """Raise ValueError unless matplotlib draws files of that kind."""
    known = sorted(style.new_figure(1, 1).canvas.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in known:
        raise ValueError(f"bench: cannot draw --plot {path}: its suffix must be one of {', '.join(known)}.")


def draw(results: Results) -> "Figure":
    """Return one figure with everything that a benchmark measured, and what it was measured on below."""
    machine, options = results.machine, results.options
    lines = [f"{machine['processor']}, threads {machine['threads']}, {machine['device']}, torch {machine['torch']}, "]
    lines[0] += ", ".join(f"{n} {options[n]}" for n in ("dtype", "batch", "image_size", "rounds") if n in options)
    if results.benchmark == "operators":
        figure = _draw_operators(results.rows)
    else:
        figure = _draw_models(results.rows)
        of = options["models"][0]
        lines.insert(0, f"Beside the bars: times the speed of {of} (memory: times its MiB), same engine and format.")
    length = int(20 * figure.get_figwidth())  # letters that fit
    caption = "\n".join(part for line in lines for part in textwrap.wrap(line, length))
    figure.supxlabel(caption, fontsize=6.5, color=style.MUTED, x=0.01, ha="left")
    return figure


def _draw_operators(rows: Sequence[OperatorRow]) -> "Figure":
    panels = _grouped(rows, lambda row: row.case.memory_format)
    figure = style.new_figure(1.4 + 3.2 * len(panels), 1.2 + 0.17 * max(map(len, panels)))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for i, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
        plot_operators(panel, ax, names=i == 0)
    _legend(figure, axes[0], "right", ncols=3)
    return figure


def _draw_models(rows: Sequence[ModelRow]) -> "Figure":
    panels = _grouped(rows, lambda row: row.quantity)
    columns = min(2, len(panels))
    heights = [_models_height(panel) for panel in panels]
    lines = [max(heights[i : i + columns]) for i in range(0, len(heights), columns)]
    figure = style.new_figure(5.2 * columns, 0.5 + sum(lines))
    axes = list(figure.subplots(len(lines), columns, squeeze=False, height_ratios=lines).flat)
    for ax, panel in zip(axes, panels, strict=False):
        plot_models(panel, ax)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    _legend(figure, axes[0], "left", ncols=2 * columns)
    return figure


def _grouped(rows: Sequence[Any], key: Callable[[Any], str]) -> list[list[Any]]:
    """Return the rows of each key together, in the order in which the keys come up."""
    return [[row for row in rows if key(row) == name] for name in dict.fromkeys(map(key, rows))]


def _bars(ax: "Axes", bars: Mapping[float, Quartiles], colour: str, label: str, start: float = 0) -> None:
    """Draw horizontal bars by their heights, from ``start`` to the medians, with the quartiles as error bars."""
    medians = [q.median for q in bars.values()]
    errors = [[q.median - q.q1 for q in bars.values()], [q.q3 - q.median for q in bars.values()]]
    ax.barh(list(bars), [m - start for m in medians], left=start, height=0.75, color=colour, linewidth=0, label=label)
    ax.errorbar(medians, list(bars), xerr=errors, fmt="none", ecolor=style.INK, elinewidth=0.9)
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


def _log2_ticks(ax: "Axes", ticks: Sequence[float]) -> None:
    """Make the x axis logarithmic with these ticks and no others."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    ax.xaxis.set_minor_locator(require("matplotlib.ticker", extra="analysis").NullLocator())
