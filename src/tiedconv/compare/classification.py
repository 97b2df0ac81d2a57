"""Compare classifiers: accuracy, confusion, filter similarity and sample predictions, speed and memory."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from ..analysis.similarity import filter_similarity
from ..bench import throughput, train_step_peak_memory
from ..bench.machine import default_device
from ..bench.timer import rates
from ..data import ClassificationData
from ..export import deploy, open_onnx, to_onnx
from ..metrics.counts import count
from ..models import build_model
from ..report.page import encoded
from ..tasks import ClassificationTask
from .adapter import Adapter, Folders, Log, data_facts
from .results import Comparison, ModelResult, Sample
from .training import OF_CLASSIFIERS, Budget, ModelSpec

SAMPLES = 12
SIMILARITY_IMAGES = 16


class Classifiers(Adapter):
    """Classifiers, and options that are theirs."""

    data: ClassificationData
    logged = OF_CLASSIFIERS

    def __init__(self, models: Sequence[ModelSpec], data: ClassificationData, budget: Budget) -> None:
        started = [spec.label for spec in models if spec.weights]
        if started:
            raise ValueError(f"weights of {', '.join(started)} are for detectors. Classifiers start at random.")
        super().__init__(models, data, budget, metrics=["top1"], settings={})

    def describe(self, spec: ModelSpec) -> ModelResult:
        try:
            model = _builder(spec, self.data)()
        except TypeError as error:
            raise ValueError(f"{spec.name} does not take kwargs={spec.kwargs}: {error}") from error
        counts = count(model, self.data.input_size)
        return ModelResult(spec.label, spec.name, spec.kwargs, counts.params, counts.macs, spec.tied)

    def task(self, spec: ModelSpec) -> ClassificationTask:
        data = self.data
        options = self.budget.task_options()
        return ClassificationTask(spec.name, data.num_classes, data.in_chans, spec.kwargs, spec.tied, **options)

    def evaluate(self, task: ClassificationTask, folder: Path) -> tuple[dict[str, float | None], dict[str, Any]]:
        probabilities, labels = _predict(task, self.data)
        classes = self.data.num_classes
        ranked = probabilities.topk(min(5, classes)).indices
        hits = ranked == labels[:, None]
        pairs = labels * classes + ranked[:, 0]
        details = {
            "confusion": pairs.bincount(minlength=classes**2).reshape(classes, -1).tolist(),
            "predictions": [[int(ranked[i, 0]), probabilities[i, ranked[i, 0]].item()] for i in self.examples(SAMPLES)],
            "similarity": _similarity(task, self.data, self.examples(SIMILARITY_IMAGES)),
        }
        return {"top1": hits[:, 0].double().mean().item(), "top5": hits.any(1).double().mean().item()}, details

    def facts(self) -> dict[str, Any]:
        facts = {**data_facts(self.data), "input": " x ".join(map(str, self.data.input_size))}
        samples = [_sample(self.data, i) for i in self.examples(SAMPLES)]
        images = len(self.data.split(train=False))  # type: ignore[arg-type]  # every split has a length
        return {"conditions": {"Data": facts}, "samples": samples, "images": images}

    def complete(self, comparison: Comparison, folders: Folders, log: Log) -> Iterator[Comparison]:
        log("measuring speed and memory")
        comparison = replace(comparison, models=_measure(comparison.models, self.data, self.budget))
        yield comparison
        log("measuring the speed of the deployed networks")
        yield replace(comparison, models=_measure_deployed(comparison.models, self.data, log))


def _builder(model: ModelSpec | ModelResult, data: ClassificationData) -> Callable[[], torch.nn.Module]:
    build = partial(build_model, model.name, num_classes=data.num_classes, in_chans=data.in_chans)
    return partial(build, tied=model.tied, **model.kwargs)


@torch.inference_mode()
def _predict(task: ClassificationTask, data: ClassificationData) -> tuple[Tensor, Tensor]:
    probabilities, labels = [], []
    for images, targets in data.val_dataloader():
        probabilities.append(task(images.to(task.device)).float().softmax(-1).cpu())
        labels.append(targets)
    return torch.cat(probabilities), torch.cat(labels)


def _similarity(task: ClassificationTask, data: ClassificationData, indices: list[int]) -> list[dict[str, Any]]:
    """Return a histogram per stage, or none for a network whose stages do not return feature maps."""
    split = data.split(train=False)
    images = torch.stack([split[i][0] for i in indices]).to(task.device)
    try:
        layers = filter_similarity(task.model, None, images, batch_size=SIMILARITY_IMAGES)
    except ValueError as error:
        warnings.warn(f"The report will have no filter similarity for this network. {error}", stacklevel=2)
        return []
    return [asdict(layer.histogram()) for layer in layers]


def _sample(data: ClassificationData, index: int) -> Sample:
    image, label = data.split(train=False)[index]
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    picture = to_pil_image((image * std + mean).clamp(0, 1))
    factor = max(1, 144 // max(picture.size))  # a browser would blur what it enlarges
    picture = ImageOps.scale(picture, factor, Image.Resampling.NEAREST)
    picture.thumbnail((160, 160))
    return Sample(encoded(picture), int(label))


def _measure(results: list[ModelResult], data: ClassificationData, budget: Budget) -> list[ModelResult]:
    """Add throughput and memory, in float32 and without compilation, at the batch size of the training."""
    memory_format = torch.channels_last if budget.channels_last else torch.contiguous_format
    shape = (data.batch_size, *data.input_size)
    device = default_device()
    images = torch.randn(shape, device=device).contiguous(memory_format=memory_format)
    models = {r.label: _builder(r, data)().to(device).to(memory_format=memory_format) for r in results}
    training = throughput(models, images, train=True)
    inference = throughput(models, images, train=False)
    return [
        replace(
            r,
            train_images_per_s=training[r.label],
            inference_images_per_s=inference[r.label],
            peak_memory_mib=train_step_peak_memory(_builder(r, data), shape, channels_last=budget.channels_last),
        )
        for r in results
    ]


def _measure_deployed(results: list[ModelResult], data: ClassificationData, log: Log) -> list[ModelResult]:
    """Add file size and throughput of the deployed networks in ONNX Runtime, at the batch size of the training."""
    images = torch.randn(data.batch_size, *data.input_size)
    bytes_: dict[str, int] = {}
    calls: dict[str, Callable[[], object]] = {}
    with TemporaryDirectory() as folder:
        for i, result in enumerate(results):
            network = deploy(_builder(result, data)())
            try:
                file = to_onnx(network, f"{folder}/{i}.onnx", input_size=data.input_size, dynamic_size=False)
            except (ImportError, RuntimeError, TypeError, ValueError) as error:  # the other models are still measured
                log(f"deployed speed of {result.label} is not measured: {error}")
                continue
            bytes_[result.label] = file.bytes
            calls[result.label] = partial(open_onnx(file.path), images)
        speeds = rates(calls, len(images))
    return [replace(r, deployed_images_per_s=speeds.get(r.label), deployed_bytes=bytes_.get(r.label)) for r in results]
