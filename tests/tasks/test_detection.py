import contextlib
import inspect
import io
import json
import math
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import timm
import torch
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tiedconv.data import OcclusionScenes, SceneOptions
from tiedconv.data.scenes import write_scenes
from tiedconv.detection import DetectorName, Widths
from tiedconv.metrics.coco import METRICS, coco_metrics, read_annotations
from tiedconv.tasks import ClassificationTask, DetectionTask, Optimization
from tiedconv.tasks.detection import coco_results

# pycocotools' decode calls what numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
# Lightning wonders about fixed norms.
fixed_norms = pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training")

SCENES = SceneOptions(image_size=64, train_images=2, val_images=5, min_size=20, max_size=30, max_objects=3)
NAMES = DetectorName.__args__


class Losses(L.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.seen.append(outputs["loss"].item())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, SCENES)
    return str(folder)


def make_data(root, **options):
    return OcclusionScenes(root, SCENES, **{"batch_size": 2, **options})


def make_task(detector="mask_rcnn", score_thresh=0.05, **options):
    L.seed_everything(3, verbose=False)
    prefix = "" if detector == "retinanet" else "box_"
    small = {"min_size": 64, "max_size": 64, f"{prefix}score_thresh": score_thresh, f"{prefix}detections_per_img": 20}
    if detector != "retinanet":
        small |= {"rpn_post_nms_top_n_train": 60, "rpn_post_nms_top_n_test": 60, "box_batch_size_per_image": 32}
    widths = Widths(fpn=16, box=32, mask=16, mask_convs=1)
    defaults = {"backbone": "resnet_tiny", "num_classes": 11, "widths": widths, "options": small}
    defaults["optimization"] = Optimization(lr=0.02, schedule="cosine")
    return DetectionTask(detector, **{**defaults, **options})


def make_trainer(folder, epochs=1, callbacks=(), **options):
    defaults = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return L.Trainer(default_root_dir=folder, max_epochs=epochs, callbacks=list(callbacks), **{**defaults, **options})


def box_results():
    return {
        "boxes": torch.tensor([[2.0, 3.0, 7.0, 9.0], [0.0, 0.5, 4.25, 2.0]]),
        "labels": torch.tensor([2, 1]),
        "scores": torch.tensor([0.75, 0.25]),
    }


def test_results_in_cocos_format_by_hand():
    assert coco_results(42, box_results(), [0, 18]) == [
        {"image_id": 42, "category_id": 18, "bbox": [2.0, 3.0, 5.0, 6.0], "score": 0.75},
        {"image_id": 42, "category_id": 0, "bbox": [0.0, 0.5, 4.25, 1.5], "score": 0.25},
    ]


def test_masks_are_cut_at_a_half_and_encoded_for_pycocotools():
    masks = torch.rand(2, 1, 12, 9)
    masks[0, 0, 0, :2] = torch.tensor([0.5, 0.5001])
    results = json.loads(json.dumps(coco_results(1, {**box_results(), "masks": masks}, [5, 6])))
    for result, mask in zip(results, masks[:, 0], strict=True):
        assert result["segmentation"]["size"] == [12, 9]
        decoded = coco_masks.decode(result["segmentation"])
        assert np.array_equal(decoded, (mask > 0.5).numpy())
    assert coco_masks.decode(results[0]["segmentation"])[0, :2].tolist() == [0, 1]


def test_an_image_without_detections_has_no_results():
    nothing = {name: value[:0] for name, value in box_results().items()}
    assert coco_results(1, nothing, [5]) == []
    assert coco_results(1, {**nothing, "masks": torch.zeros(0, 1, 4, 4)}, [5]) == []


def test_results_of_half_precision_are_plain_numbers():
    halved = {name: value.bfloat16() if name != "labels" else value for name, value in box_results().items()}
    assert json.loads(json.dumps(coco_results(42, halved, [0, 18]))) == coco_results(42, box_results(), [0, 18])


def test_the_background_is_never_detected():
    """RetinaNet has a sigmoid for class 0 as well, and no category has that label."""
    task = make_task("retinanet", options={"min_size": 64, "max_size": 64, "score_thresh": 0.0}).eval()
    with torch.no_grad():
        detections = task([torch.rand(3, 64, 64) for _ in range(4)])
    labels = torch.cat([found["labels"] for found in detections])
    assert len(labels) > 0
    assert labels.min() > 0


@pytest.mark.parametrize("detector", NAMES)
def test_a_few_steps_lower_the_loss(tmp_path, root, detector):
    recorder = Losses()
    task = make_task(detector, optimization=Optimization(optimizer="adamw", lr=0.01, schedule="cosine"))
    trainer = make_trainer(tmp_path, 12, [recorder], limit_val_batches=0)
    trainer.fit(task, make_data(root))
    assert len(recorder.seen) == 12
    assert np.mean(recorder.seen[-3:]) < 0.85 * np.mean(recorder.seen[:3])
    logged = trainer.callback_metrics
    assert logged["train/loss"].item() == pytest.approx(recorder.seen[-1], rel=1e-5)
    parts = [value for name, value in logged.items() if name.startswith("train/") and name != "train/loss"]
    assert torch.stack(parts).sum().item() == pytest.approx(recorder.seen[-1], rel=1e-5)
    assert 0 < logged["lr"].item() <= 0.01


def reference(root, results, kind, images):
    """pycocotools' own figures of the validation scenes."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(f"{root}/annotations/instances_val.json")
        keys = ("image_id", "category_id", "score", "bbox" if kind == "box" else "segmentation")
        found = truth.loadRes([{key: result[key] for key in keys} for result in results])
        evaluation = COCOeval(truth, found, "bbox" if kind == "box" else "segm")
        evaluation.params.imgIds = sorted(images)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [value if value >= 0 else math.nan for value in evaluation.stats[:6].tolist()]


class Oracle(torch.nn.Module):
    """Detects the ground truth, badly: a pixel aside, some of another class, some not at all."""

    def __init__(self, data):
        super().__init__()
        truth = data.ground_truth()
        self.by_image = {record["id"]: [] for record in truth["images"]}
        for annotation in truth["annotations"]:
            self.by_image[annotation["image_id"]].append(annotation)
        self.queue = list(self.by_image)

    def forward(self, images):
        return [self.detect(self.queue.pop(0)) for _ in images]

    def detect(self, image):
        kept = [a for a in self.by_image[image] if a["id"] % 5]
        boxes = torch.tensor([a["bbox"] for a in kept], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = [torch.from_numpy(coco_masks.decode(a["segmentation"])).roll(1, 0) for a in kept]
        return {
            "boxes": boxes + 1,
            "labels": torch.tensor([a["category_id"] if a["id"] % 7 else 1 for a in kept]),
            "scores": torch.tensor([1 / (1 + a["id"]) for a in kept]),
            "masks": torch.stack(masks)[:, None].float() if masks else torch.zeros(0, 1, 64, 64),
        }


@pytest.mark.parametrize(("batches", "images"), [(None, {0, 1, 2, 3, 4}), (2, {0, 1, 2, 3}), (1, {0, 1})])
def test_validation_logs_pycocotools_figures_of_the_images_it_saw(tmp_path, root, batches, images):
    data, task = make_data(root), make_task()
    task.model = Oracle(data)
    trainer = make_trainer(tmp_path, logger=CSVLogger(tmp_path), limit_val_batches=batches or 1.0)
    (logged,) = trainer.validate(task, data, verbose=False)

    results = json.loads(Path(trainer.log_dir, "results.json").read_text())
    assert {result["image_id"] for result in results} == images
    annotations = read_annotations(Path(trainer.log_dir, "annotations.json"), "mask")
    assert {image["id"] for image in annotations["images"]} == images
    for kind in ("box", "mask"):
        figures = [logged[f"val/{kind}_{name}"] for name in METRICS]
        assert figures == pytest.approx(reference(root, results, kind, images), abs=1e-6, nan_ok=True)
        assert figures == pytest.approx(list(coco_metrics(annotations, results, kind).values()), abs=1e-6, nan_ok=True)
        assert 0 < figures[0] < 0.95
    assert len(logged) == 12
    assert not list(Path(trainer.log_dir).glob("*.part"))


def test_the_results_file_gives_the_logged_metrics(tmp_path, root):
    data, task = make_data(root), make_task("retinanet", score_thresh=0.0)
    trainer = make_trainer(tmp_path, 2, logger=CSVLogger(tmp_path))
    trainer.fit(task, data)
    logged = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    results = json.loads(Path(trainer.log_dir, "results.json").read_text())
    assert {result["image_id"] for result in results} == set(range(5))
    assert {result["category_id"] for result in results} <= set(range(1, 11))
    expected = {f"val/box_{name}": value for name, value in coco_metrics(data.ground_truth(), results, "box").items()}
    assert logged == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_test_and_validate_are_the_same_and_start_anew(tmp_path, root):
    data, task = make_data(root), make_task()
    trainer = make_trainer(tmp_path, logger=CSVLogger(tmp_path))
    logged = []
    for measure in (trainer.validate, trainer.test, trainer.test):
        task.model = Oracle(data)
        logged += measure(task, data, verbose=False)
        assert len({(r["image_id"], r["score"]) for r in read(trainer)}) == len(read(trainer)) > 0
    assert logged[1] == pytest.approx(logged[0], nan_ok=True)
    assert logged[2] == pytest.approx(logged[0], nan_ok=True)


def read(trainer):
    return json.loads(Path(trainer.log_dir, "results.json").read_text())


def test_a_sanity_check_leaves_no_results(tmp_path, root):
    seen = []

    class Look(L.Callback):
        def on_train_start(self, trainer, module):
            seen.append(list(Path(trainer.log_dir).glob("*.json")))

    trainer = make_trainer(
        tmp_path, callbacks=[Look()], logger=CSVLogger(tmp_path), num_sanity_val_steps=1, limit_train_batches=1
    )
    trainer.fit(make_task("faster_rcnn"), make_data(root))
    assert seen == [[]]
    assert Path(trainer.log_dir, "results.json").exists()


@pytest.mark.parametrize("detector", ["retinanet", "mask_rcnn"])
def test_prediction_draws_and_lists_what_is_sure_enough(tmp_path, root, detector):
    data = make_data(root, predict_path=f"{root}/val")
    task = make_task(detector, score_thresh=0.0, min_score=0.0)
    trainer = make_trainer(tmp_path, logger=CSVLogger(tmp_path))
    trainer.predict(task, data)
    folder = Path(trainer.log_dir)
    listed = json.loads((folder / "predictions.json").read_text())
    assert [Path(one["image"]).name for one in listed] == [f"{i:06d}.png" for i in range(5)]
    assert {folder / one["picture"] for one in listed} == set((folder / "predictions").iterdir())
    for one in listed:
        with Image.open(folder / one["picture"]) as picture:
            assert picture.size == (512, 512)  # 64 pixels, enlarged to at least 480
        assert all(found["class"] in data.classes for found in one["detections"])
        scores = [found["score"] for found in one["detections"]]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) > 0


def test_predictions_are_those_of_the_model(tmp_path, root):
    data, task = make_data(root), make_task(min_score=0.2)
    task.model = Oracle(data)
    trainer = make_trainer(tmp_path, logger=CSVLogger(tmp_path))
    batches = trainer.predict(task, data)
    listed = json.loads(Path(trainer.log_dir, "predictions.json").read_text())
    assert [source for batch in batches for source in batch["source"]] == [one["image"] for one in listed]
    for image, one in enumerate(listed):
        expected = Oracle(data).detect(image)
        sure = [i for i, score in enumerate(expected["scores"].tolist()) if score >= 0.2]
        assert [found["class"] for found in one["detections"]] == [str(expected["labels"][i].item() - 1) for i in sure]
        assert [found["box"] for found in one["detections"]] == [expected["boxes"][i].tolist() for i in sure]


@fixed_norms
@pytest.mark.filterwarnings("ignore:Optimization. the training ends after max_epochs")
@pytest.mark.filterwarnings("ignore:DetectionTask. stages or norms are fixed")
def test_a_checkpoint_gives_the_task_back(tmp_path, root):
    task = make_task(
        "cascade_mask_rcnn",
        backbone="tiedresnet_tiny",
        frozen_stages=2,
        norm="frozen",
        context_blocks=2,
        levels=3,
        anchor_sizes=[8, 16, 32, 64],
        backbone_kwargs={"drop_path_rate": 0.1},
        optimization=Optimization(lr=0.02, schedule="multistep", milestones=(1, 3)),
        min_score=0.3,
    )
    trainer = make_trainer(tmp_path, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(task, make_data(root))
    trainer.save_checkpoint(tmp_path / "task.ckpt")
    torch.load(tmp_path / "task.ckpt", weights_only=True)
    loaded = DetectionTask.load_from_checkpoint(tmp_path / "task.ckpt", weights_only=True)
    assert set(loaded.hparams) == set(inspect.signature(DetectionTask).parameters)
    assert loaded.hparams == task.hparams
    assert loaded.optimization == task.optimization
    assert loaded.state_dict().keys() == task.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in task.state_dict().items())
    images = [torch.rand(3, 64, 64)]
    with torch.no_grad():
        for mine, theirs in zip(task.eval()(images), loaded.eval()(images), strict=True):
            assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@fixed_norms
def test_a_classifiers_checkpoint_is_not_a_detectors():
    classifier = ClassificationTask("resnet_tiny", num_classes=10)
    checkpoint = {"state_dict": classifier.state_dict(), "hyper_parameters": dict(classifier.hparams)}
    with pytest.raises(ValueError, match=r"a classifier, resnet_tiny, not a detector, mask_rcnn on resnet_tiny\. Give"):
        make_task().on_load_checkpoint(checkpoint)


def test_training_starts_from_a_classifiers_weights_and_its_checkpoint_needs_them_no_more(tmp_path, root):
    state = timm.create_model("resnet_tiny", num_classes=10).state_dict()
    torch.save(state, tmp_path / "classifier.pth")
    task = make_task("faster_rcnn", weights=str(tmp_path / "classifier.pth"), frozen_stages=2, norm="frozen")
    trainer = make_trainer(tmp_path, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(task, make_data(root))
    body = task.model.backbone.body.state_dict()
    assert torch.equal(body["layer1.1.conv2.weight"], state["layer1.1.conv2.weight"])
    assert not torch.equal(body["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])

    trainer.save_checkpoint(tmp_path / "task.ckpt")
    (tmp_path / "classifier.pth").unlink()
    loaded = DetectionTask.load_from_checkpoint(tmp_path / "task.ckpt", weights_only=True)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in task.state_dict().items())


def test_channels_last_and_half_precision_train(tmp_path, root):
    task = make_task("mask_rcnn", backbone="tiedresnet_tiny", channels_last=True)
    trainer = make_trainer(tmp_path, precision="bf16-mixed", limit_val_batches=1)
    trainer.fit(task, make_data(root))
    assert task.model.backbone.body.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert {parameter.dtype for parameter in task.parameters()} == {torch.float32}
    assert math.isfinite(trainer.callback_metrics["train/loss"].item())


@pytest.mark.filterwarnings("ignore:Optimization. the training ends after max_epochs")
def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, root):
    def train(folder, epochs, resume=None):
        task = make_task("faster_rcnn", optimization=Optimization(lr=0.01, schedule="multistep", milestones=(2,)))
        trainer = make_trainer(folder, epochs, limit_val_batches=0)
        trainer.fit(task, make_data(root, batch_size=1, flip=0.5), ckpt_path=resume, weights_only=True)
        trainer.save_checkpoint(folder / "saved.ckpt")
        return task.state_dict()

    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = train(tmp_path / "whole", 3)
    train(tmp_path / "parts", 1)
    torch.rand(5)
    resumed = train(tmp_path / "parts", 3, resume=tmp_path / "parts" / "saved.ckpt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detector": "yolo"}, r"build_detector: name must be one of retinanet, .*, got 'yolo'\."),
        ({"backbone": "resnet_tyni"}, r"no model is called 'resnet_tyni'\. Did you mean resnet_tiny\?"),
        ({"min_score": 1.5}, r"DetectionTask: min_score must be in 0-1, got 1\.5\."),
        ({"min_score": -0.5}, r"DetectionTask: min_score must be in 0-1, got -0\.5\."),
        ({"num_classes": 1}, r"build_detector: num_classes counts the background and must be at least 2, got 1\."),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        DetectionTask(**{"detector": "faster_rcnn", "backbone": "resnet_tiny", **options})


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match=r"build_detector: faster_rcnn has no option score_thresh\."):
        DetectionTask("faster_rcnn", "resnet_tiny", options={"score_thresh": 0.1})


def test_norms_fixed_at_random_are_warned_of(tmp_path, root):
    task = make_task("faster_rcnn", norm="frozen")
    with pytest.warns(UserWarning, match="nothing says what the backbone starts from"):
        make_trainer(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(task, make_data(root))


def test_milestones_that_never_come_are_warned_of(tmp_path, root):
    task = make_task("faster_rcnn", optimization=Optimization(schedule="multistep", milestones=(1, 0)))
    with pytest.warns(UserWarning, match=r"ends after max_epochs=1, before the milestones \[1\], so the learning rate"):
        make_trainer(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(task, make_data(root))


def test_data_must_fit_the_detector(tmp_path, root):
    trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match=r"mask_rcnn learns masks, but the data have masks=False\. Set data\.masks"):
        trainer.fit(make_task("mask_rcnn"), OcclusionScenes(str(root), masks=False, scenes=make_data(root).scenes))
    loader = make_data(root).train_dataloader()
    with pytest.raises(ValueError, match=r"expected a DetectionData as datamodule, got NoneType\. Pass one"):
        make_trainer(tmp_path).fit(make_task("faster_rcnn"), loader, loader)


def test_damaged_images_cost_no_detections_of_others(root, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in (0, 1, 5):
        Image.effect_noise((40, 30), 50).save(photos / f"{i}.jpg")
    for i in (2, 3):  # a batch of its own
        (photos / f"{i}.jpg").write_text("no image" * (i - 2))
    (photos / "4.jpg").write_bytes((photos / "0.jpg").read_bytes()[:300])
    data = make_data(root, predict_path=str(photos), num_workers=0)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    with pytest.raises(OSError, match=r"3 of 6 images have no prediction, see .* The first: .*2\.jpg cannot be read"):
        trainer.predict(make_task("retinanet"), data, return_predictions=False)
    listed = json.loads((tmp_path / "predictions.json").read_text())
    assert [one["image"] for one in listed] == [str(photos / f"{i}.jpg") for i in (0, 1, 5)]
    assert len((tmp_path / "predictions-failed.txt").read_text().splitlines()) == 3
