"""What the reports share: the frame of one HTML file that needs no script, no network and no second file."""

import base64
import io
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image

from .. import __version__
from .._extras import require
from .._files import printable, write_whole
from . import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def write_page(
    path: Path,
    title: str,
    lead: str,
    lines: Sequence[tuple[str, str]],
    sections: Sequence[str],
    *,
    command: str,
    blocks: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write a report, with how to repeat it at the end.

    Args:
        path: the HTML file; its folder exists.
        title: headline, plain text.
        lead: what came out, in a sentence or two, plain text.
        lines: below the lead one line per model or layer, its label and what is said of it, plain text. May be empty.
        sections: HTML of :func:`section`; empty ones are left out.
        command: the command line that repeats it.
        blocks: what it was done with and on: headings, each with its facts.
    """
    sections = [*sections, section("How to repeat it", _conditions(command, blocks))]
    template = resources.files("tiedconv.report").joinpath("report.html.template").read_text(encoding="utf-8")
    items = "".join(f"<li><strong>{escape(label)}</strong>: {escape(line)}</li>" for label, line in lines)
    finding = f'<p class="finding">{escape(lead)}</p>' + (f'\n<ul class="finding">{items}</ul>' if items else "")
    page = Template(template).substitute(
        title=escape(title), finding=finding, sections="\n".join(filter(None, sections))
    )
    write_whole(path, printable(page))


@dataclass(frozen=True, eq=False)
class Origin:
    """What a report about models comes from.

    Attributes:
        command: the command line that repeats it.
        weights: by the models' labels, where their weights are from; ``"random"`` if they are untrained.
        settings: what else was asked for.
    """

    command: str
    weights: Mapping[str, str]
    settings: Mapping[str, Any]

    def random_note(self) -> str:
        """Return a sentence that names the models with random weights, or nothing if there are none."""
        labels = [label for label, weights in self.weights.items() if weights == "random"]
        return f"Random weights, not trained: {', '.join(labels)}." if labels else ""

    def blocks(self) -> dict[str, Mapping[str, Any]]:
        """Return what :func:`write_page` prints of it."""
        versions = {"tiedconv": __version__, "torch": torch.__version__}
        return {"Weights": self.weights, "Conditions": {**self.settings, **versions}}

    def write_page(
        self, folder: Path, title: str, lead: str, lines: Sequence[tuple[str, str]], sections: Sequence[str]
    ) -> None:
        """Write ``report.html`` by :func:`write_page`, with where it comes from, and a note on random weights."""
        lead = f"{lead} {self.random_note()}"
        write_page(folder / "report.html", title, lead, lines, sections, command=self.command, blocks=self.blocks())

    def numbers(self, models: Mapping[str, Mapping[str, Any]]) -> str:
        """Return it as JSON, with what was found in each model."""
        found = [{"label": label, "weights": self.weights[label], **entry} for label, entry in models.items()]
        return json.dumps({"tiedconv": __version__, **self.settings, "models": found}, indent=1, default=str) + "\n"


def section(title: str, content: str, note: str = "") -> str:
    """Return a section, or nothing if it has no content; title and note are plain text, the content is HTML."""
    lead = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{lead}\n{content}\n</section>" if content else ""


def grid(figures: Iterable[str], *, column: int = 330) -> str:
    """Return figures side by side, as many as fit with ``column`` pixels each."""
    joined = "\n".join(figures)
    return f'<div class="grid" style="--column: {column}px">\n{joined}\n</div>' if joined else ""


def table(label: str, head: Iterable[tuple[str, str]], rows: Iterable[list[str]]) -> str:
    """Return a table from plain headings with their units and cells in HTML; the first cell heads its row."""
    titles = "".join(
        f'<th scope="col">{escape(title)}{f"<span>{escape(unit)}</span>" if unit else ""}</th>' for title, unit in head
    )
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="card scroll" role="region" aria-label="{escape(label)}" tabindex="0">\n'
        f"<table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def name(index: int, label: str) -> str:
    """Return a model's name with the colour that it has in the figures."""
    colour = f"var(--s{index % len(style.COLOURS)})"
    return f'<span class="name"><i style="background: {colour}"></i><span>{escape(label)}</span></span>'


def thousands(value: float) -> str:
    """Return a number, rounded, in groups of three digits."""
    return f"{value:,.0f}".replace(",", style.NARROW)


def encoded(picture: Image.Image, kind: Literal["jpeg", "png"] = "png") -> str:
    """Return a picture as the base64 text that :func:`picture` takes."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


def picture(encoded: str, *, title: str, alt: str, caption: str = "", kind: Literal["jpeg", "png"] = "png") -> str:
    """Return a photograph or a drawing of pixels, base64-encoded, as a ``<figure>``; title, alt, caption plain text."""
    image = f'<img class="picture" src="data:image/{kind};base64,{escape(encoded)}" alt="{escape(alt)}" loading="lazy">'
    return _figure(image, title, caption)


def plot(drawn: "Axes | Figure", *, title: str, alt: str, caption: str = "") -> str:
    """Return a whole plot as a ``<figure>`` with inline SVG; title, alt and caption are plain text.

    Its colours follow the page's theme. Its ids are unique in a page if title and alt together are.
    """
    matplotlib = require("matplotlib", extra="analysis")
    prefix = f"f{sha256(f'{title} {alt}'.encode(errors='replace')).hexdigest()[:12]}-"
    buffer = io.StringIO()
    # Text stays text, in the page's font; the salt makes the same figure the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawn.figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)  # type: ignore[union-attr]
    text = buffer.getvalue()
    head, body = re.fullmatch(r".*?<svg ([^>]*)>(.*)</svg>\s*", text, re.DOTALL).groups()  # type: ignore[union-attr]
    view = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r'\bid="', f'id="{prefix}', body).replace("xlink:href=", "href=")
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", body)
    svg = f'<svg {view[0] if view else ""} role="img" aria-label="{escape(alt)}">{_themed(body)}</svg>'
    return _figure(svg, title, caption)


@contextmanager
def quiet_about_glyphs() -> Iterator[None]:
    """Silence matplotlib on letters that its own font lacks: the browser draws the text, with its fonts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _conditions(command: str, blocks: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the command that repeats a report, and what it was done with, a card per block; all plain text."""
    facts = "\n".join(
        f'<section class="card"><h3>{escape(title)}</h3><dl>'
        + "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in block.items())
        + "</dl></section>"
        for title, block in blocks.items()
    )
    line = f'<pre class="card" tabindex="0"><code>{escape(command)}</code></pre>'
    return f'{line}\n<div class="facts">\n{facts}\n</div>'


def _figure(content: str, title: str, caption: str) -> str:
    below = f"<p>{escape(caption)}</p>" if caption else ""
    return f'<figure class="card"><figcaption><h3>{escape(title)}</h3>{below}</figcaption>{content}</figure>'


def _themed(svg: str) -> str:
    """Replace the plots' colours by the page's variables, so that the figure follows light and dark."""
    names = {style.INK: "ink", style.MUTED: "muted", style.RULE: "rule"}
    names |= {colour: f"s{index}" for index, colour in enumerate(style.COLOURS)}
    return re.sub("|".join(names), lambda match: f"var(--{names[match[0]]})", svg)
