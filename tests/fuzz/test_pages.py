"""Names that are markup, in every place of the reports: the page has the text, and no element or attribute of it."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from tests.compare import test_detection_report as of_detectors
from tests.compare import test_report as of_classifiers
from tests.fuzz.cases import fuzz
from tests.report import test_occlusion_report as of_occlusion
from tests.report import test_similarity_report as of_similarity

from tiedconv.compare.report import write_report
from tiedconv.report import page, plots
from tiedconv.report.occlusion_report import write_occlusion
from tiedconv.report.similarity_report import write_similarity

EVIL = [
    "<img src=x onerror=alert(1)>", "</title><script>alert(1)</script>", '"><svg onload=alert(1)>', "' onmouseover='x",
    "a & b &lt;i&gt; &amp;", "\u202e<b>אבג</b>", "<!-- ", "]]>", "</svg><a href=javascript:x>",
    "$title ${lead} $$", "${",
    "</pre></code>", "`<x>`", "\\<br>", "<i>\u2028</i>", "$x$<u>", "&#60;u&#62;", "%3Cb%3E",
    "<style>*{}</style>", "a\n<p>b",
]  # fmt: skip
TEXT = st.one_of(st.sampled_from(EVIL), st.tuples(st.sampled_from(EVIL), st.sampled_from(EVIL)).map("".join))


class Reader(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def squeezed(text: str) -> str:
    return "".join(text.split())


def check_page(path: Path, plain: Path, texts: list[str]) -> None:
    """The page has the elements of the same page with plain names, attribute for attribute, and the names as text."""
    read, expected = Reader(path), Reader(plain)
    ours = [element for element in read.elements if element[0] not in DRAWN]
    assert ours == [element for element in expected.elements if element[0] not in DRAWN]
    assert {tag for tag, _ in read.elements} <= {tag for tag, _ in expected.elements} | DRAWN
    assert not any(name.startswith("on") for _, names in read.elements for name in names)
    for text in texts:
        assert squeezed(text) in squeezed(read.text)


DRAWN = {"g", "path", "text", "tspan", "use", "defs", "rect", "clippath", "image", "style", "svg", "line"}
"""Elements of the drawings, whose number depends on the length of a label."""


def write_classifiers(path: Path, title: str, label: str, fact: str, name: str) -> None:
    models = [replace(of_classifiers.make_model(x, [0.9]), label=x) for x in (label, f"{label} 2")]
    changes: dict[str, Any] = {"title": title, "command": fact, "conditions": {title: {fact: label}}}
    write_report(of_classifiers.make_comparison(models, **changes, classes=[name, "one", "two"], seeds=[0]), path)


def write_detectors(path: Path, title: str, label: str, fact: str, name: str) -> None:
    models = [of_detectors.make_model(x, [0.4, 0.5]) for x in (label, f"{label} 2")]
    changes: dict[str, Any] = {"title": title, "command": fact, "conditions": {fact: {name: label}}}
    write_report(replace(of_detectors.make_comparison(*models), **changes), path)


def write_occluded(path: Path, title: str, label: str, fact: str, name: str) -> None:
    report = of_occlusion.report(20, 30, 10, label=label)
    write_occlusion(report, path.parent, command=fact, blocks={title: {name: fact}})
    (path.parent / "report.html").rename(path)


def write_alike(path: Path, title: str, label: str, fact: str, name: str) -> None:
    layers = [replace(layer, layer=f"{name}{layer.layer}") for layer in of_similarity.layers(0.1, 0.6)]
    labels = (label, f"{label} 2")
    origin = page.Origin(fact, dict.fromkeys(labels, "random"), {title: name})
    write_similarity(dict.fromkeys(labels, layers), path.parent, origin)
    (path.parent / "report.html").rename(path)


REPORTS = {
    "classifiers": write_classifiers,
    "detectors": write_detectors,
    "occlusion": write_occluded,
    "similarity": write_alike,
}


@pytest.mark.parametrize("write", REPORTS.values(), ids=REPORTS)
@fuzz(3, texts=st.lists(TEXT, min_size=4, max_size=4))
def test_a_report_shows_names_as_text(tmp_path, write, texts):
    write(tmp_path / "evil.html", *texts)
    write(tmp_path / "plain.html", "title", "label", "fact", "name")
    check_page(tmp_path / "evil.html", tmp_path / "plain.html", texts)


def write_parts(path: Path, given: list[str]) -> None:
    one, two, three, four = given
    table = page.table(one, [(two, three)], [[page.name(0, four), "1"]])
    photo = page.picture("AAAA", title=one, alt=two, caption=three)
    sections = [page.section(four, table, one), page.grid([photo])]
    page.write_page(path, one, two, [(three, four)], sections, command=one, blocks={two: {three: four}})


@fuzz(24, given_=st.lists(TEXT, min_size=4, max_size=4))
def test_the_parts_of_pages_show_names_as_text(tmp_path, given_):
    write_parts(tmp_path / "evil.html", given_)
    write_parts(tmp_path / "plain.html", ["a", "b", "c", "d"])
    check_page(tmp_path / "evil.html", tmp_path / "plain.html", given_)


@fuzz(4, label=TEXT, title=TEXT)
def test_drawings_show_names_as_text(tmp_path, label, title):
    drawn = plots.plot_curves({label: [[0.1, 0.5]], "other": [[0.2, 0.3]]})
    with page.quiet_about_glyphs():
        figure = page.plot(drawn, title=title, alt=label, caption=title)
    page.write_page(tmp_path / "evil.html", "a", "b", [], [figure], command="c", blocks={})
    read = Reader(tmp_path / "evil.html")
    assert squeezed(title) in squeezed(read.text)
    assert not {"img", "script", "b", "u", "i", "a", "x", "br"} & {tag for tag, _ in read.elements}
    assert not any(name.startswith("on") for _, names in read.elements for name in names)
