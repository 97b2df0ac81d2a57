"""The frame that the reports share: one HTML file that needs nothing else, no script, no network, no second file."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from .._files import write_whole
from ..analysis.style import COLOURS
from ._finding import NARROW, Finding
from .results import Quartiles


def write_page(path: Path, title: str, found: Finding, sections: Sequence[str]) -> None:
    """Write a report.

    Args:
        path: the HTML file; its folder exists.
        title: headline, plain text.
        found: what came out, plain text.
        sections: HTML of :func:`section`; empty ones are left out.
    """
    template = resources.files("tiedconv.compare").joinpath("report.html.template").read_text(encoding="utf-8")
    lines = "".join(f"<li><strong>{escape(label)}</strong>: {escape(line)}</li>" for label, line in found.lines)
    finding = f'<p class="finding">{escape(found.lead)}</p>' + (f'\n<ul class="finding">{lines}</ul>' if lines else "")
    page = Template(template).substitute(
        title=escape(title), finding=finding, sections="\n".join(filter(None, sections))
    )
    write_whole(path, page)


def section(title: str, content: str, note: str = "") -> str:
    """Return a section, or nothing if it has no content; title and note are plain text."""
    lead = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section>\n<h2>{title}</h2>\n{lead}\n{content}\n</section>" if content else ""


def grid(figures: list[str]) -> str:
    """Return figures side by side, as many as fit."""
    return '<div class="grid">\n' + "\n".join(figures) + "\n</div>" if figures else ""


def table(label: str, head: Iterable[tuple[str, str]], rows: Iterable[list[str]]) -> str:
    """Return a table from plain headings with their units and cells in HTML; the first cell heads its row."""
    titles = "".join(f'<th scope="col">{name}{f"<span>{unit}</span>" if unit else ""}</th>' for name, unit in head)
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="card scroll" role="region" aria-label="{label}" tabindex="0">\n'
        f"<table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def name(index: int, label: str) -> str:
    """Return a model's name with the colour that it has in the figures."""
    colour = f"var(--s{index % len(COLOURS)})"
    return f'<span class="name"><i style="background: {colour}"></i><span>{escape(label)}</span></span>'


def spread(spread: Quartiles | None) -> str:
    """Return a median with its quartiles below."""
    if spread is None:
        return "–"
    median, q1, q3 = (
        thousands(value) if value >= 100 else f"{value:.1f}" for value in (spread.median, spread.q1, spread.q3)
    )
    return f"{median}<small>{q1}–{q3}</small>"


def thousands(value: float) -> str:
    """Return a number, rounded, in groups of three digits."""
    return f"{value:,.0f}".replace(",", NARROW)


def conditions(command: str, blocks: Mapping[str, Mapping[str, str]]) -> str:
    """Return the command that repeats a comparison, and what it was done with, a card a block."""
    facts = "\n".join(
        f'<section class="card"><h3>{title}</h3><dl>'
        + "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in block.items())
        + "</dl></section>"
        for title, block in blocks.items()
    )
    line = f'<pre class="card" tabindex="0"><code>{escape(command)}</code></pre>'
    return f'{line}\n<div class="facts">\n{facts}\n</div>'
