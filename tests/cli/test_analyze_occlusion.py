import json

import pytest
from tests import coco_cases

from tiedconv.analysis.occlusion import analyze_occlusion
from tiedconv.cli.main import main


@pytest.fixture(scope="module")
def data():
    truth, results = coco_cases.generate(3, images=20, noise=0.02)
    return truth, results, [entry for i, entry in enumerate(results) if i % 3]


@pytest.fixture
def files(data, tmp_path):
    """val.json, resnet/results.json and two runs of a worse model: tied/0.json, tied/1.json."""
    truth, results, fewer = data
    contents = {"val": truth, "resnet/results": results, "tied/0": fewer, "tied/1": results[::2]}
    for name, content in contents.items():
        file = tmp_path / f"{name}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    return tmp_path


def occlusion(folder, predictions, *more):
    given = ",".join(item.format(folder) for item in predictions.split(","))
    options = ["--annotations", f"{folder}/val.json", "--predictions", given, "--output", f"{folder}/out"]
    main(["analyze", "occlusion", *options, *map(str, more)])


def test_a_table_the_numbers_and_a_plot(data, files, capsys):
    out = files / "new" / "a"
    runs = "resnet={}/resnet/results.json,tied [8]={}/tied/0.json,tied [8]={}/tied/1.json"
    options = ["--edges", "0,0.2,0.6,1", "--resamples", 7, "--seed", 3, "--output", out]
    occlusion(files, runs, *options)
    truth, results, fewer = data
    report = analyze_occlusion(
        truth,
        {"resnet": results, "tied [8]": [fewer, results[::2]]},
        edges=(0, 0.2, 0.6, 1),
        resamples=7,
        seed=3,
    )
    assert (out / "occlusion.json").read_text() == report.to_json() + "\n"
    assert (out / "occlusion.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "tied [8]</span></span> AP, difference to resnet" in page
    printed = capsys.readouterr().out
    assert "mask AP by occlusion of boxes" in printed
    lines = printed.splitlines()
    for place, bin_ in enumerate(report.bins):
        [row] = [i for i, line in enumerate(lines) if f" {bin_.low:g} – {bin_.high:g} " in line]
        ap, ap75 = (report.models[0].scores[metric][place] for metric in ("AP", "AP75"))
        shown = [bin_.images, bin_.instances, "resnet", f"{100 * ap.value:.1f}", f"{100 * ap75.value:.1f}"]
        assert lines[row].split()[3:] == list(map(str, shown))
        assert f" {100 * ap75.low:.1f} to {100 * ap75.high:.1f} " in lines[row + 1]
    rows = [i for i, line in enumerate(lines) if "tied [8], 2 runs" in line]
    difference = report.models[1].differences["AP75"][1]
    assert f" {100 * difference.value:+.1f} " in lines[rows[1]]
    assert f" {100 * difference.low:+.1f} to {100 * difference.high:+.1f} " in lines[rows[1] + 1]
    assert "Δ: minus resnet, on the same images" in " ".join(printed.split())


def test_files_without_a_label_take_their_folder_and_one_model_has_no_differences(files, monkeypatch, capsys):
    monkeypatch.chdir(files / "tied")
    occlusion(files, "0.json,{}/tied/1.json", "--kind", "box", "--resamples", 0)
    printed = capsys.readouterr().out
    assert "box AP by occlusion of boxes" in printed
    assert "tied, 2 runs" in printed
    assert "Δ AP " not in printed
    assert "draws" not in printed


def test_a_folder_with_an_equals_sign_is_no_label(files, capsys):
    (files / "lr=0.1").mkdir()
    (files / "tied" / "0.json").rename(files / "lr=0.1" / "0.json")
    occlusion(files, "{}/lr=0.1/0.json", "--resamples", 0)
    assert " lr=0.1 " in capsys.readouterr().out


def test_bins_without_objects_are_shown(files, capsys):
    occlusion(files, "{}/resnet/results.json", "--edges", "0,0.99,1", "--resamples", 0)
    [row] = [line for line in capsys.readouterr().out.splitlines() if " 0.99 – 1 " in line]
    assert row.split()[3:] == ["0", "0", "resnet", "-", "-"]


@pytest.mark.parametrize(
    ("predictions", "options", "message"),
    [
        (
            "{}/resnet/results.json",
            ["--edges", "0,half,1"],
            "--edges: expected float, got half",
        ),
        ("{}/resnet/results.json", ["--output", "{}/val.json"], "cannot write --output .*report.html: "),
        ("resnet=", [], "predictions must be label=file, separated by commas, got 'resnet='"),
        ("a={}/resnet/results.json,b={}/none.json", [], "No such file or directory: .*none.json"),
        ("a={}/resnet/results.json,b={}/val.json", [], "read_results: .*val.json: results must be a list"),
        ("{}/tied/0.json,{}/other/tied/0.json", [], "the files of two folders would both be called 'tied', "),
    ],
)
def test_mistakes_are_named_before_anything_is_evaluated(files, monkeypatch, predictions, options, message):
    monkeypatch.setattr("tiedconv.cli.analyze_occlusion.analyze_occlusion", lambda *_, **__: pytest.fail("evaluated"))
    with pytest.raises(SystemExit, match=f"tiedconv analyze occlusion: .*{message}"):
        occlusion(files, predictions, *(option.format(files) for option in options))


def test_annotations_without_masks_are_named(files):
    truth = json.loads((files / "val.json").read_text())
    del truth["annotations"][2]["segmentation"]
    (files / "val.json").write_text(json.dumps(truth))
    with pytest.raises(SystemExit, match=r"read_annotations: .*val\.json: annotation 2 must have as its segmentation"):
        occlusion(files, "{}/resnet/results.json")
