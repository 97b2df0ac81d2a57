import pytest

from tiedconv.analysis.occlusion import Estimate, ModelOcclusion, OcclusionBin, OcclusionReport
from tiedconv.report.occlusion_report import occlusion_gain, occlusion_note, write_occlusion


def report(*images, label="resnet", resamples=200):
    bins = [OcclusionBin(i / len(images), (i + 1) / len(images), count, 3 * count) for i, count in enumerate(images)]

    def estimates(first):
        return [
            Estimate(first + i / 10, first - 0.02, first + 0.02) if count else None for i, count in enumerate(images)
        ]

    models = [
        ModelOcclusion(label, 1, {"AP": estimates(0.4), "AP75": estimates(0.3)}, {}),
        ModelOcclusion(
            "tied",
            1,
            {"AP": estimates(0.35), "AP75": estimates(0.2)},
            {"AP": estimates(-0.05), "AP75": estimates(-0.1)},
        ),
    ]
    return OcclusionReport("mask", "boxes", resamples, 0, bins, models)


def page(given, folder):
    write_occlusion(given, folder, command="tiedconv x", blocks={"Data": {"images": "9"}})
    return (folder / "report.html").read_text(encoding="utf-8").replace("\u202f", " ")


def test_the_page_leads_with_the_ends_and_shows_both_metrics(tmp_path):
    html = page(report(20, 30, 10, label="res<net>"), tmp_path)
    assert (
        "res&lt;net&gt; reaches 40.0 % mask AP under least occlusion (r 0–0.333333) and 60.0 % mask AP under most "
        "occlusion (r 0.666667–1)."
    ) in html
    assert "it is −5.0 (95 % interval over images −7.0 to −3.0) points from res&lt;net&gt;, under most" in html
    assert html.count("<svg") == 2
    assert "−10.0<small>−12.0 to −8.0</small>" in html
    assert "res<net>" not in html


def test_bins_with_few_images_are_in_the_table_alone(tmp_path):
    given = report(20, 9, 0)
    html = page(given, tmp_path)
    assert "resnet reaches 40.0 % mask AP under least occlusion (r 0–0.333333).<" in html
    assert "<td>50.0<small>" in html
    assert "<td>–</td>" in html
    assert occlusion_gain(given, given.models[1]) == ""
    assert "No bin has 10 images with objects, which is too few to compare models." in page(report(9, 3), tmp_path)


@pytest.mark.parametrize(("resamples", "said"), [(200, True), (0, False)])
def test_intervals_are_explained_where_there_are_some(resamples, said):
    note = occlusion_note(report(20, resamples=resamples), "seeds")
    assert "r is the area of the objects' boxes that is shared" in note
    assert "mean over the seeds" in note
    assert ("bootstrap" in note) is said
