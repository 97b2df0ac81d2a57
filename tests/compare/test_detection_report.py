"""tiedconv.compare.report on detectors: what the page says about given numbers."""

from dataclasses import replace

from tiedconv.analysis.occlusion import Estimate, ModelOcclusion, OcclusionBin, OcclusionReport
from tiedconv.bench import Quartiles
from tiedconv.compare._finding import finding
from tiedconv.compare.report import write_report
from tiedconv.compare.results import Comparison, ModelResult, Run, Sample
from tiedconv.metrics.coco import METRICS


def make_model(label, aps, **changes):
    model = ModelResult(
        label=label,
        name=label,
        kwargs={},
        params=1_000_000,
        macs=200_000_000,
        detector_params=2_000_000,
        train_images_per_s=Quartiles(8.0, 7.0, 9.0),
        runs=[
            Run(seed, 100.0, [{"epoch": e, "train_loss": 2.0 - e} for e in (0, 1)], metrics(ap), {"pictures": ["AAAA"]})
            for seed, ap in enumerate(aps)
        ],
    )
    return replace(model, **changes)


def metrics(ap):
    box = {"AP": ap, "AP50": ap + 0.1, "AP75": ap, "AP_S": ap, "AP_M": ap, "AP_L": None}
    return {
        **{f"box_{name}": value for name, value in box.items()},
        **{f"mask_{name}": value for name, value in {**box, "AP": ap / 2}.items()},
    }


def estimates(*values):
    return [None if value is None else Estimate(value, value - 0.02, value + 0.02) for value in values]


def make_comparison(*models, kind="box"):
    bins = [OcclusionBin(0, 0.5, 30, 60), OcclusionBin(0.5, 0.75, 10, 30), OcclusionBin(0.75, 1, 0, 0)]
    first = models[0].label
    occlusions = [
        ModelOcclusion(
            model.label,
            len(model.runs),
            {"AP": estimates(0.5, 0.3, None), "AP75": estimates(0.4, 0.2, None)},
            {} if model.label == first else {"AP": estimates(0.01, 0.059, None), "AP75": estimates(0.02, 0.083, None)},
        )
        for model in models
    ]
    other = "box" if kind == "mask" else "mask"
    return Comparison(
        title="A & B",
        command="tiedconv compare --config x.yaml",
        conditions={"Data": {"data set": "Scenes"}, "Detector": {"detector": "mask_rcnn"}},
        seeds=[0, 1],
        models=list(models),
        metrics=[*(f"{kind}_{name}" for name in METRICS), f"{other}_AP"],
        samples=[Sample("AAAA")],
        classes=[],
        occlusion=OcclusionReport(kind, "amodal", 200, 0, bins, occlusions),
    )


def test_finding_gives_the_difference_its_interval_over_seeds_and_the_gain_under_most_occlusion():
    base = make_model("plain", [0.40, 0.42, 0.41])
    tied = make_model("tied", [0.50, 0.52, 0.51], params=800_000, macs=210_000_000)
    lead, ((label, line),) = finding(make_comparison(base, tied))
    assert lead == "plain reaches 41.0\u202f±\u202f1.0\u202f% box AP."
    assert label == "tied"
    # Welch by hand: sd 0.01 each, n = 3: 0.10 -+ 2.776 * sqrt(2 * 0.0001 / 3)
    assert "10.00 points higher (95\u202f% interval over seeds 7.73 to 12.27): this speaks for it." in line
    assert "20\u202f% fewer parameters and needs 5.0\u202f% more multiply-adds" in line
    assert "Under least occlusion (r 0–0.5) it is +1.0 (95\u202f% interval over images −1.0 to +3.0) points" in line
    assert "under most (r 0.5–0.75) +5.9 (95\u202f% interval over images +3.9 to +7.9)" in line


def test_page_shows_masks_first_where_the_detector_has_them(tmp_path):
    path = tmp_path / "report.html"
    write_report(make_comparison(make_model("plain", [0.4]), kind="mask"), path)
    page = path.read_text()
    assert "plain reaches 20.0\u202f% mask AP." in page
    assert page.index("<span>mask</span>") < page.index("<span>box</span>")
    assert "A &amp; B" in page


def test_page_tells_bins_without_objects(tmp_path):
    path = tmp_path / "report.html"
    write_report(make_comparison(make_model("plain", [0.4]), make_model("tied", [0.5])), path)
    page = path.read_text()
    assert "<span>0 images</span>" in page
    assert "+5.9<small>+3.9 to +7.9</small>" in page
    assert "<td>–</td>" in page
