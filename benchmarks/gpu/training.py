"""Training from scratch on photographs that lie on the device, interrupted at any epoch and continued."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .models import autocast, build, compiled
from .photographs import Photographs, centre_crops, random_crops
from .session import Row, Session


@dataclass(frozen=True)
class Recipe:
    """How every network is trained: one cycle of SGD with momentum.

    Attributes:
        pixels: height and width of the crops.
        stored: height and width of the images that they are cut from.
        epochs, batch: the last incomplete batch of an epoch is left out.
        rate: the highest learning rate, reached after ``warm_up`` of all steps; from there a cosine leads to 0.
        momentum, decay, smoothing: of SGD (Nesterov), of weights with two dimensions and more, of the labels.
        seeds: of weights and data; as many as there is time for.
        every: epochs between two tests and two checkpoints.
    """

    pixels: int = 64
    stored: int = 72
    epochs: int = 100
    batch: int = 256
    rate: float = 0.4
    warm_up: float = 0.15
    momentum: float = 0.9
    decay: float = 5e-4
    smoothing: float = 0.1
    seeds: int = 5
    every: int = 10


def name(network: str, seed: int) -> str:
    """What the file calls a training."""
    return f"{network}, seed {seed}"


class Trainer:
    """One network, compiled once and trained from every seed."""

    def __init__(
        self, session: Session, recipe: Recipe, network: str, train: Photographs, val: Photographs, classes: int
    ) -> None:
        self.session, self.recipe, self.network = session, recipe, network
        self.images, self.tests, self.classes = train, val, classes
        self.steps = len(train) // recipe.batch  # per epoch
        self.model = self._fresh()
        self.compiled = compiled(self.model, session.tiny)

    def train(self, seed: int) -> Row | None:
        """Train from a seed, or go on from its checkpoint.

        Returns:
            The figures, or None if time ran out: then there is a checkpoint.
        """
        torch.manual_seed(seed)
        self.model.load_state_dict(self._fresh().state_dict())  # in place, or it would be compiled again
        optimizer = self._optimizer()
        checkpoint = self.session.folder / f"imagenette-{self.network}-{seed}.pt"
        first, curve, seconds = 0, [], 0.0
        if checkpoint.exists():
            state = torch.load(checkpoint, map_location=self.session.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            first, curve, seconds = state["epoch"], state["curve"], state["seconds"]
        for epoch in range(first, self.recipe.epochs):
            out_of_time = not self.session.allows()
            if epoch > first and (out_of_time or epoch % self.recipe.every == 0):
                states = {"model": self.model.state_dict(), "optimizer": optimizer.state_dict()}
                _save({**states, "epoch": epoch, "curve": curve, "seconds": seconds}, checkpoint)
            if out_of_time:
                self.session.log(f"{name(self.network, seed)}: stopped after {epoch} of {self.recipe.epochs} epochs")
                return None
            start = time.perf_counter()
            loss = self._epoch(optimizer, seed, epoch)
            seconds += time.perf_counter() - start
            if (epoch + 1) % self.recipe.every == 0 or epoch + 1 == self.recipe.epochs:
                correct = self._correct()
                curve.append([epoch + 1, round(loss, 4) if math.isfinite(loss) else None, _percent(correct)])
                self.session.log(
                    f"{name(self.network, seed)}: epoch {epoch + 1}, loss {loss:.3f}, {curve[-1][2]:.2f} %"
                )
        checkpoint.unlink(missing_ok=True)
        return {
            "network": self.network,
            "seed": seed,
            "top1": curve[-1][2],
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "epochs": self.recipe.epochs,
            "train_seconds": round(seconds, 1),
            "curve": curve,
            "correct": "".join(str(int(value)) for value in correct.tolist()),
        }

    def _fresh(self) -> nn.Module:
        model = build(self.network, self.session.tiny, self.classes)
        return model.to(self.session.device).to(memory_format=torch.channels_last)

    def _optimizer(self) -> torch.optim.Optimizer:
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": self.recipe.decay}, {"params": others, "weight_decay": 0.0}]
        fused = self.session.device.type == "cuda"
        return torch.optim.SGD(groups, lr=0.1, momentum=self.recipe.momentum, nesterov=True, fused=fused)

    def _epoch(self, optimizer: torch.optim.Optimizer, seed: int, epoch: int) -> float:
        """Train on all images once and return the last loss. Order and crops follow from seed and epoch alone."""
        recipe, device = self.recipe, self.session.device
        self.model.train()
        generator = torch.Generator(device).manual_seed(100_000 * seed + epoch)
        order = torch.randperm(len(self.images), generator=generator, device=device)
        loss = torch.zeros((), device=device)
        for i in range(self.steps):
            chosen = order[i * recipe.batch : (i + 1) * recipe.batch]
            crops = random_crops(self.images.images[chosen], recipe.pixels, generator)
            for group in optimizer.param_groups:
                group["lr"] = rate(recipe, (epoch * self.steps + i) / (recipe.epochs * self.steps))
            optimizer.zero_grad()
            with autocast(device):
                logits = self.compiled(crops)
            labels = self.images.labels[chosen]
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.smoothing)
            loss.backward()
            optimizer.step()
        return loss.item()

    @torch.inference_mode()
    def _correct(self) -> Tensor:
        """Whether each test image is classified correctly."""
        self.model.eval()
        found = []
        for images, labels in zip(self.tests.images.split(512), self.tests.labels.split(512), strict=True):
            with autocast(self.session.device):
                logits = self.model(centre_crops(images, self.recipe.pixels))
            found.append(logits.argmax(1) == labels)
        return torch.cat(found)


def rate(recipe: Recipe, done: float) -> float:
    """Return the learning rate after a part of all steps."""
    if done < recipe.warm_up:
        return recipe.rate * (0.04 + 0.96 * done / recipe.warm_up)
    return recipe.rate * (1 + math.cos(math.pi * (done - recipe.warm_up) / (1 - recipe.warm_up))) / 2


def _percent(correct: Tensor) -> float:
    return round(100 * correct.float().mean().item(), 3)


def _save(state: dict[str, Any], path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    torch.save(state, part)
    part.replace(path)
