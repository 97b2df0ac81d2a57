"""tiedconv.compare.report on classifiers: what the page says, and that it is one whole file."""

import base64
import io
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser

import pytest
from PIL import Image
from scipy import stats

from tiedconv.analysis import Histogram
from tiedconv.compare._finding import finding, images_error, interval, score
from tiedconv.compare.report import write_report
from tiedconv.compare.results import Comparison, ModelResult, Quartiles, Run, Sample

VOID = {"meta", "img", "br", "link", "input", "hr"}


def png(size: int = 8) -> str:
    buffer = io.BytesIO()
    Image.new("L", (size, size), 128).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def make_run(seed: int, top1: float, *, classes: int = 3, samples: int = 2, **details) -> Run:
    details = {
        "confusion": [[50 if i == j else int(j == 0) for j in range(classes)] for i in range(classes)],
        "predictions": [[0, 0.9]] * samples,
        "similarity": [similarity("layer1", [1, 9], 0.4), similarity("layer2", [0, 0], 0.0)],
        **details,
    }
    history = [
        {"epoch": 1, "train_loss": 1.5, "val_loss": 1.6, "top1": top1 / 2},
        {"epoch": 2, "train_loss": 0.5, "val_loss": 0.7, "top1": top1},
    ]
    return Run(seed, 12.3, history, {"top1": top1, "top5": 1.0}, details)


def similarity(layer: str, counts: list[int], mean: float) -> dict:
    return asdict(Histogram(layer, [-1.0, 0.0, 1.0], counts, mean))


def make_model(name: str, tops: list[float], **changes) -> ModelResult:
    model = ModelResult(
        label=name,
        name=name,
        kwargs={},
        params=800_000,
        macs=10_000_000,
        train_images_per_s=Quartiles(1000.0, 900.0, 1100.0),
        inference_images_per_s=Quartiles(5000.0, 4900.0, 5100.0),
        peak_memory_mib=123.4,
        runs=[make_run(seed, top1) for seed, top1 in enumerate(tops)],
    )
    return replace(model, **changes)


def make_comparison(models: list[ModelResult] | None = None, **changes) -> Comparison:
    if models is None:
        models = [make_model("resnet_tiny", [0.96, 0.97, 0.98]), make_model("tiedresnet_tiny", [0.97, 0.98, 0.96])]
    comparison = Comparison(
        title="Digits",
        command="tiedconv compare --config digits.yaml",
        conditions={"Data": {"data set": "digits"}, "Budget": {"epochs": "2"}, "Machine": {"processor": "a CPU"}},
        seeds=[0, 1, 2],
        models=models,
        metrics=["top1"],
        samples=[Sample(png(), 0), Sample(png(), 1)],
        classes=["zero", "one", "two"],
        images=152,
    )
    return replace(comparison, **changes)


class Page(HTMLParser):
    """A page's elements, attributes and text; complains about an element that is not closed where it should be."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def render(tmp_path):
    def write_and_parse(comparison: Comparison) -> Page:
        write_report(comparison, tmp_path / "report.html")
        return Page((tmp_path / "report.html").read_text(encoding="utf-8"))

    return write_and_parse


def test_the_report_says_what_was_measured(render):
    text = render(make_comparison()).text.replace("\u202f", " ")
    for part in (
        "Digits",
        "resnet_tiny",
        "97.0 ± 1.0",
        "800 000",
        "10.00",
        "1 000",
        "900–1 100",
        "123",
        "a CPU",
        "digits.yaml",
    ):
        assert part in text
    for section in ("Results", "Learning curves", "Confusion", "Filter similarity", "Sample predictions", "Every run"):
        assert section in text


def test_the_file_needs_nothing_else(tmp_path):
    write_report(make_comparison(), tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not re.search(r"https?:|//\w|@import", re.sub(r"base64,[A-Za-z0-9+/=]*", "", html))
    assert not page.all("script")
    assert not page.all("link")
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (tag, value)
    assert not re.findall(r"url\((?!#)", html)


def test_ids_are_unique_and_references_resolve(tmp_path):
    write_report(make_comparison(), tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    ids = [attributes["id"] for _, attributes in Page(html).elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', html)) <= set(ids)


def test_every_string_from_outside_is_escaped(tmp_path):
    evil = '<script>alert("1")</script>&\'%$x$'
    models = [
        make_model(
            "m",
            [0.5, 0.6],
            label=f"{evil} {i}",
            runs=[make_run(s, 0.5, similarity=[similarity(evil, [3, 0], 0.1)]) for s in range(2)],
        )
        for i in range(3)
    ]
    comparison = make_comparison(
        models,
        title=evil,
        command=evil,
        conditions={evil: {evil: evil}},
        classes=[evil, evil, evil],
        samples=[Sample(evil, 0)],
    )
    write_report(comparison, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert "<script" not in html
    assert not page.all("script")
    assert all(set(attributes) <= {"src", "alt", "class", "loading"} for attributes in page.all("img"))
    assert evil in page.text


def test_the_same_comparison_gives_the_same_bytes(tmp_path):
    write_report(make_comparison(), tmp_path / "a.html")
    write_report(make_comparison(), tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_figures_and_images_have_text_alternatives(render):
    page = render(make_comparison())
    svgs = page.all("svg")
    assert len(svgs) == 2 + 3 + 2 + 2  # cost, curves, confusion, similarity
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in svgs)
    assert all(image["alt"] for image in page.all("img"))
    assert all(cell["scope"] in ("col", "row") for cell in page.all("th"))


def test_figures_follow_the_theme(tmp_path):
    write_report(make_comparison(), tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    figures = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "var(--s0)" in figures
    assert "var(--ink)" in figures
    assert set(re.findall(r"#[0-9a-f]{6}\b", re.sub(r"base64,[^\"]*", "", figures))) <= {"#ffffff"}


@pytest.mark.parametrize("models", [1, 7])
@pytest.mark.parametrize("seeds", [1, 2])
def test_any_number_of_models_and_seeds(render, models, seeds):
    results = [make_model(f"net{i}", [0.9 + 0.01 * s for s in range(seeds)]) for i in range(models)]
    page = render(make_comparison(results, seeds=list(range(seeds))))
    assert ("±" in page.text.partition("Accuracies are")[0]) == (seeds > 1)
    assert len(page.all("svg")) == 2 + 3 + models + 2


@pytest.mark.parametrize("classes", [1, 21, 1000])
def test_any_number_of_classes(render, classes):
    runs = [make_run(0, 0.5, classes=classes)]
    names = [f"class {i}" for i in range(classes)]
    comparison = make_comparison([make_model("a", [], runs=runs)], classes=names)
    assert "a" in render(replace(comparison, samples=[Sample(png(), classes - 1)])).text


def test_nothing_optional(render):
    run = Run(0, 12.3, [], {"top1": 0.9}, {})
    model = make_model("a", [], train_images_per_s=None, inference_images_per_s=None, peak_memory_mib=None, runs=[run])
    page = render(make_comparison([model], samples=[], conditions={}, classes=[], images=0))
    assert "90.0" in page.text
    for part in (
        "Training",
        "Validation loss",
        "Peak memory",
        "Learning curves",
        "Confusion",
        "Filter similarity",
        "Sample predictions",
    ):
        assert part not in page.text.replace("Training time", "")


def test_a_model_without_finished_runs(render):
    page = render(make_comparison([make_model("a", [0.9]), make_model("tied", [])]))
    assert "tied: no finished run." in page.text
    page = render(make_comparison([make_model("a", []), make_model("b", [])]))
    assert "Every run" not in page.text


def test_losses_that_are_not_finite_leave_a_gap(render):
    run = make_run(0, 0.5)
    run.history[-1]["train_loss"] = None
    for epoch in run.history:
        epoch["val_loss"] = None
    titles = [svg["aria-label"] for svg in render(make_comparison([make_model("a", [], runs=[run])])).all("svg")]
    assert any(title.startswith("Training loss by epoch") for title in titles)
    assert not any(title.startswith("Validation loss") for title in titles)


def test_letters_that_matplotlib_lacks(render):
    assert "鯨" in render(make_comparison(classes=["鯨", "🐈", "чай"])).text


def test_wrong_predictions_are_marked_in_words(render):
    page = render(make_comparison())
    assert page.text.count("✓ zero") == 2
    assert page.text.count("✗ zero (wrong)") == 2


def test_layers_with_other_names_share_a_figure_by_their_place(render):
    other = [similarity("stages_0", [5, 5], 0.1)]
    models = [make_model("a", [0.9]), make_model("b", [], runs=[make_run(0, 0.9, similarity=other)])]
    text = render(make_comparison(models)).text
    assert "layer1 · stages_0" in text
    assert "layer2" in text


def said_of(model: ModelResult, base: ModelResult, **changes) -> str:
    """What the finding says of a model beside its base."""
    _, ((label, line),) = finding(make_comparison([base, model], **changes))
    assert label == model.label
    return line.replace("\u202f", " ")


# Three seeds around a mean, sample standard deviation 0.01. The difference of two such means has the standard error
# 0.01 * sqrt(2/3) = 0.008165 with 4 degrees of freedom, where t = 2.7764: the interval is -+ 2.267 points.
def around(mean: float) -> list[float]:
    return [mean - 0.01, mean, mean + 0.01]


@pytest.mark.parametrize(
    ("tied", "untied", "words"),
    [
        (
            around(0.97),
            around(0.96),
            "1.00 points higher (95 % interval over seeds from 1.27 lower to 3.27 higher): the interval includes no "
            "difference, so neither is shown to be better.",
        ),
        (
            around(0.94),
            around(0.96),
            "2.00 points lower (95 % interval over seeds from 0.27 higher to 4.27 lower): the interval includes no",
        ),
        (
            around(0.93),
            around(0.96),
            "3.00 points lower (95 % interval over seeds 0.73 to 5.27): this speaks against it.",
        ),
        (
            around(0.96),
            around(0.93),
            "3.00 points higher (95 % interval over seeds 0.73 to 5.27): this speaks for it.",
        ),
        ([0.97], [0.96], "1.00 points higher. There is no spread over seeds"),
        ([0.97, 0.98, 0.96], [0.96], "1.00 points higher. There is no spread over seeds"),
        # 152 images, t = 4.3027 with 2 degrees of freedom: -+ 4.3027 * 0.5 / 152
        (
            [0.97] * 2,
            [0.96] * 2,
            "1.00 points higher (95 % interval over seeds from 0.42 lower to 2.42 higher): the interval includes no",
        ),
        # t = 2.1009 with 18
        ([0.97] * 10, [0.96] * 10, "1.00 points higher (95 % interval over seeds 0.31 to 1.69): this speaks for"),
        # The standard error of the seeds, 0.07 points, is less than half an image, 0.33: that counts instead.
        ([0.965, 0.966], [0.95, 0.951], "1.50 points higher (95 % interval over seeds 0.08 to 2.92): this speaks for"),
        # A difference of less than one image is never shown: half an image to either side is 1.42 points.
        ([0.961, 0.962], [0.962, 0.963], "from 1.32 higher to 1.52 lower): the interval includes no difference"),
        (around(0.96), around(0.96), "no difference (95 % interval over seeds from 2.27 higher to 2.27 lower)"),
    ],
)
def test_the_finding_is_no_firmer_than_the_numbers(tied, untied, words):
    line = said_of(make_model("tiedresnet_tiny", tied), make_model("resnet_tiny", untied))
    assert words in line


@pytest.mark.parametrize(("ours", "theirs"), [(2, 2), (3, 3), (2, 5), (10, 10)])
def test_the_interval_is_welchs(ours, theirs):
    a = [0.95 + 0.004 * (seed % 3) for seed in range(ours)]
    b = [0.93 + 0.011 * (seed * seed % 4) for seed in range(theirs)]
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert interval(a, b, 1_000_000) == pytest.approx(tuple(expected))
    assert interval(a, b) == pytest.approx(tuple(expected))


def test_without_a_spread_there_is_no_interval():
    assert interval([0.9], [0.8, 0.9], 100) is None
    assert interval([0.9, 0.9], [0.8, 0.8]) is None
    a, b = (make_model(name, [top1, top1]) for name, top1 in (("a", 0.9), ("b", 0.8)))
    assert "so it decides nothing" in said_of(a, b, images=0)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_the_interval_misses_one_time_in_twenty(seeds):
    """Accuracies of equal models, normal over the seeds: the interval leaves out their difference, 0, in 5 %."""
    drawn = stats.norm(0.9, 0.01).rvs((2000, 2, seeds), random_state=0).tolist()
    bounds = [interval(a, b, 10_000) for a, b in drawn]
    wrong = sum(not low <= 0 <= high for low, high in bounds) / len(bounds)
    assert wrong <= 0.065


@pytest.mark.parametrize(("images", "words"), [(9_999, "96.5 ± 0.7 %"), (10_000, "96.50 ± 0.71 %")])
def test_many_images_give_accuracies_two_decimals(images, words):
    model = make_model("a", [0.96, 0.97])
    assert score(make_comparison([model], images=images), model).replace("\u202f", " ") == words


def test_the_report_says_what_the_interval_covers(render):
    models = [make_model("a", [0.5, 0.5]), make_model("b", [0.8, 0.9])]
    comparison = make_comparison(models)
    assert images_error(comparison) == pytest.approx((0.5 * 0.5 / 152) ** 0.5)
    text = render(comparison).text.replace("\u202f", " ")
    assert text.count("cover the seeds only") == 1
    assert "95 % intervals of the differences to a are Welch's" in text
    assert "One of the 152 validation images" in text
    assert "a standard error of up to 4.1 points (binomial)" in text
    assert "measured eagerly in float32, at the training's batch size and memory format" in text
    assert "Deployed is" not in text
    deployed = render(make_comparison([replace(m, deployed_images_per_s=Quartiles(9.5, 9, 10)) for m in models]))
    assert "Deployed is the network of ordinary layers" in deployed.text
    alone = render(make_comparison([make_model("a", [0.5]), make_model("b", [0.8])]))
    assert "cover the seeds only" not in alone.text


def test_the_finding_names_costs_and_speeds():
    base = make_model("resnet_tiny", around(0.96))
    tied = make_model(
        "tiedresnet_tiny",
        around(0.96),
        params=700_000,
        macs=10_490_000,
        train_images_per_s=Quartiles(800.0, 790.0, 810.0),
    )
    line = said_of(tied, base)
    assert line.startswith("96.0 ± 1.0 % top-1; no difference")
    assert "It has 12 % fewer parameters and needs 4.9 % more multiply-adds." in line
    assert "it trains at 0.80 times and infers at 1.00 times the images per second of resnet_tiny." in line
    base, tied = (
        replace(model, deployed_images_per_s=Quartiles(speed, speed, speed), deployed_bytes=size)
        for model, speed, size in ((base, 100.0, 2_000_000), (tied, 150.0, 1_000_000))
    )
    line = said_of(tied, base)
    assert "infers at 1.00 times and runs deployed in ONNX Runtime at 1.50 times the images per second of" in line
    assert line.endswith("Its deployed file has 50 % fewer bytes.")


def test_several_models_are_set_against_the_first():
    models = [make_model("tiedresnet50", around(0.95)), *(make_model(name, around(0.9)) for name in ("resnet18", "b"))]
    lead, lines = finding(make_comparison(models))
    assert lead.replace("\u202f", " ") == "tiedresnet50 reaches 95.0 ± 1.0 % top-1."
    assert [label for label, _ in lines] == ["resnet18", "b"]
    assert "this speaks against it. It has equally many parameters" in lines[0][1]


def test_one_model_is_compared_with_nothing():
    lead, lines = finding(make_comparison([make_model("a", [0.9])]))
    assert "There is no other model" in lead
    assert lines == []
