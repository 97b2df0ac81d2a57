"""What differs between a comparison of classifiers and one of detectors."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..analysis import evenly_spaced
from ..data import ImageData
from ..tasks import Task
from .results import Comparison, ModelResult
from .training import Budget, ModelSpec, split_sizes

Log = Callable[[str], None]
Folders = Mapping[str, Sequence[Path]]
"""Folders of the runs, by the models' labels, in the order of the seeds."""


@dataclass
class Adapter(ABC):
    """A comparison's models, data and budget, as in :func:`tiedconv.compare.compare`, and what is done with them.

    Attributes:
        metrics: what the table of results shows; the models are compared by the first.
        settings: what a run's results depend on besides model, data and budget.
        logged: what is kept of each epoch, as in :class:`tiedconv.compare.training.History`.
        trainer_options: more for Lightning's trainer.
    """

    models: Sequence[ModelSpec]
    data: Any  # of the subclass's own kind
    budget: Budget
    metrics: list[str]
    settings: dict[str, Any]

    logged: ClassVar[Mapping[str, str]]
    trainer_options: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def describe(self, spec: ModelSpec) -> ModelResult:
        """Build a model and count it. What cannot be built fails here, before any training."""

    @abstractmethod
    def task(self, spec: ModelSpec) -> Task:
        """Build what trains a model."""

    @abstractmethod
    def evaluate(self, task: Any, folder: Path) -> tuple[dict[str, float | None], dict[str, Any]]:
        """Return metrics and details of a trained model, as in :class:`tiedconv.compare.results.Run`.

        May write more into the run's folder.
        """

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return more fields of :class:`tiedconv.compare.results.Comparison`, such as ``samples``."""

    @abstractmethod
    def complete(self, comparison: Comparison, folders: Folders, log: Log) -> Iterator[Comparison]:
        """Add speed, and what else is measured after the trainings; yield what there is after every part."""

    def examples(self, count: int) -> list[int]:
        """Return the places of ``count`` validation images, evenly spaced."""
        return evenly_spaced(len(self.data.split(train=False)), count)


def data_facts(data: ImageData) -> dict[str, str]:
    """Return the name of the data set and the number of images in each split, as printed."""
    return {"data set": type(data).__name__, **{what: f"{images:,}" for what, images in split_sizes(data).items()}}


def as_facts(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that are set, as text; nested ones are called ``outer: inner``."""
    shown: dict[str, str] = {}
    for option, value in options.items():
        if isinstance(value, Mapping):
            shown |= {f"{option}: {name}": text for name, text in as_facts(value).items()}
        elif value is not None:
            shown[option.replace("_", " ")] = str(value)
    return shown
