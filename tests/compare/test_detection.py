import json
import math
from dataclasses import replace

import pytest

from tiedconv.compare import Budget, Detector, ModelSpec, compare
from tiedconv.data import OcclusionScenes, SceneOptions
from tiedconv.detection import Widths
from tiedconv.metrics.coco import METRICS, coco_metrics
from tiedconv.tasks import DetectionTask, Optimization

SCENES = SceneOptions(image_size=48, train_images=6, val_images=5, min_size=16, max_size=24, max_objects=3)
MODELS = [ModelSpec(name, kwargs={"layers": (1, 1, 1, 1)}, label=name) for name in ("resnet_tiny", "tiedresnet_tiny")]
BUDGET = Budget(epochs=2, optimization=Optimization(lr=0.01, schedule="cosine"))
DETECTOR = Detector(
    "mask_rcnn",
    widths=Widths(fpn=8, box=16, mask=8, mask_convs=1),
    options={"min_size": 48, "max_size": 48, "box_score_thresh": 0.0, "box_detections_per_img": 3},
)


class KilledError(Exception):
    pass


def run(folder, *, models=MODELS[:1], detector=DETECTOR, budget=BUDGET, seeds=(0,)):
    data = OcclusionScenes(str(folder / "scenes"), SCENES, batch_size=2)
    return compare(models, data, budget, seeds, folder / "out", detector=detector, log=lambda line: None)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    return folder, run(folder, models=MODELS, seeds=(0, 3))


@pytest.mark.slow
def test_every_model_has_a_run_for_each_seed_with_its_metrics_and_pictures(compared):
    _, comparison = compared
    assert [model.label for model in comparison.models] == ["resnet_tiny", "tiedresnet_tiny"]
    for model in comparison.models:
        assert [one.seed for one in model.runs] == [0, 3]
        assert model.train_images_per_s.median > 0
        assert model.inference_images_per_s.median > 0
        for one in model.runs:
            assert [epoch["epoch"] for epoch in one.history] == [0, 1]
            assert set(one.metrics) == {f"{kind}_{name}" for kind in ("box", "mask") for name in METRICS}
            assert len(one.details["pictures"]) == len(comparison.samples) == 5
    assert comparison.metric == "mask_AP"
    assert comparison.occlusion.regions == "amodal"
    assert sum(bin_.images for bin_ in comparison.occlusion.bins) == 5
    assert [model.runs for model in comparison.occlusion.models] == [2, 2]


@pytest.mark.slow
def test_detections_are_kept_in_coco_s_format_and_give_the_reported_metrics(compared):
    folder, comparison = compared
    truth = json.loads((folder / "scenes" / "annotations" / "instances_val.json").read_text())
    assert json.loads((folder / "out" / "annotations.json").read_text()) == truth
    for model in comparison.models:
        for one in model.runs:
            file = folder / "out" / "runs" / model.label / f"seed-{one.seed}" / "detections.json"
            for kind in ("box", "mask"):
                for name, again in coco_metrics(truth, json.loads(file.read_text()), kind).items():
                    assert one.metrics[f"{kind}_{name}"] == (None if math.isnan(again) else again)


@pytest.mark.slow
def test_backbone_costs_are_those_of_the_network_without_its_classifier(compared):
    import timm

    _, comparison = compared
    body = timm.create_model("resnet_tiny", features_only=True, layers=(1, 1, 1, 1))
    assert comparison.models[0].params == sum(p.numel() for p in body.parameters())
    assert comparison.models[0].detector_params > comparison.models[0].params


@pytest.mark.slow
def test_report_and_numbers_are_written(compared):
    folder, comparison = compared
    page = (folder / "out" / "report.html").read_text()
    assert (folder / "out" / "occlusion.png").stat().st_size > 10_000
    assert "Average precision under occlusion" in page
    assert page.count("<img") == 5 * 3
    written = json.loads((folder / "out" / "results.json").read_text())
    assert written["models"][1]["runs"][0]["metrics"] == comparison.models[1].runs[0].metrics


@pytest.mark.slow
def test_finished_runs_are_read_and_not_trained_again(compared, monkeypatch):
    folder, comparison = compared
    monkeypatch.setattr(DetectionTask, "training_step", lambda *_: pytest.fail("trained again"))
    again = run(folder, models=MODELS, seeds=(0, 3))
    assert [model.runs for model in again.models] == [model.runs for model in comparison.models]


@pytest.mark.slow
def test_interrupted_run_ends_with_the_numbers_of_an_uninterrupted_one(compared, tmp_path, monkeypatch):
    _, comparison = compared
    whole_step = DetectionTask.training_step

    def dying_step(self, batch, batch_idx):
        if self.current_epoch == 1 and batch_idx == 1:
            raise KilledError
        return whole_step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(DetectionTask, "training_step", dying_step)
        with pytest.raises(KilledError):
            run(tmp_path)
    (resumed,) = run(tmp_path).models
    expected = comparison.models[0].runs[0]
    assert replace(resumed.runs[0], seconds=expected.seconds) == expected


def test_options_of_classifiers_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the budget's label_smoothing, mixup are for classifiers. Leave them out"):
        run(tmp_path, budget=replace(BUDGET, label_smoothing=0.1, mixup=0.2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "remedy"), [("result.json", "Remove it: "), ("detections.json", "Remove .*result.json: ")]
)
def test_damaged_files_are_named(compared, file, remedy):
    folder, _ = compared
    path = folder / "out" / "runs" / "resnet_tiny" / "seed-0" / file
    whole = path.read_text()
    path.write_text("")
    try:
        with pytest.raises(ValueError, match=rf"^{path} is damaged or of another version \(.*\. {remedy}"):
            run(folder)
    finally:
        path.write_text(whole)


@pytest.mark.slow
def test_folder_of_another_detector_is_refused(compared):
    folder, _ = compared
    with pytest.raises(
        ValueError, match=r"holds a run with other settings: detector.norm = 'batch' there, 'frozen' here"
    ):
        run(folder, detector=replace(DETECTOR, norm="frozen"))
