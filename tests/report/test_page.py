import re
from html.parser import HTMLParser

from tiedconv.report import page, plots, style


class Reader(HTMLParser):
    """Collects ids, the text and the tags of a page."""

    def __init__(self, html):
        super().__init__()
        self.ids, self.tags, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_data(self, data):
        self.text += data


def axes(label="a"):
    return plots.plot_curves({label: [[0.1, 0.5]]})


def test_a_page_holds_what_it_was_given_and_nothing_from_elsewhere(tmp_path):
    file = tmp_path / "r.html"
    table = page.table("numbers", [("model", ""), ("time", "ms")], [[page.name(0, "resnet"), "3"]])
    figures = [page.plot(axes(), title=f"figure {n}", alt="curve", caption="a caption") for n in range(2)]
    repeat = {"command": "tiedconv x --y z", "blocks": {"Data": {"images": "5"}}}
    sections = [page.section("Numbers", table, "a note"), page.section("Empty", ""), page.grid(figures)]
    page.write_page(file, "A title", "A lead.", [("one", "first")], sections, **repeat)
    html = file.read_text(encoding="utf-8")
    reader = Reader(html)
    for text in ("A title", "A lead.", "one: first", "a note", "figure 1", "a caption", "tiedconv x --y z", "resnet"):
        assert text in reader.text
    assert "Empty" not in reader.text
    assert len(reader.ids) == len(set(reader.ids)) > 2
    assert reader.tags.count("svg") == 2
    assert not re.search(r'(src|href)="(?!#|data:)', html)
    assert "<script" not in html


def test_names_that_are_no_utf8_are_written_out(tmp_path):
    page.write_page(tmp_path / "r.html", "caf\udce9", "", [], [], command="tiedconv --root caf\udce9", blocks={})
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert r"tiedconv --root caf\udce9" in html
    assert r"<title>caf\udce9</title>" in html


def test_a_figure_of_several_axes_is_drawn_whole_and_follows_the_theme():
    figure = axes().figure
    figure.clear()
    for ax, label in zip(figure.subplots(1, 2), ("left", "right"), strict=True):
        plots.plot_curves({label: [[0.1, 0.2]]}, ax)
    written = page.plot(figure, title="two", alt="two curves")
    assert ">left<" in written
    assert ">right<" in written
    assert "var(--s0)" in written
    assert style.COLOURS[0] not in written
    assert 'role="img" aria-label="two curves"' in written


def test_numbers_are_grouped():
    assert page.thousands(1234567.4) == f"1{style.NARROW}234{style.NARROW}567"
