"""ResNet-50 and its tied relatives trained from scratch on Imagenette, seed by seed."""

import os
import statistics
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import torch._dynamo
from scipy import stats

from .photographs import read_zip, synthetic
from .session import Row, Session, table
from .training import Recipe, Trainer, name

NETWORKS = ("resnet50", "tiedresnet50", "tiedresnet50_s", "tiedresnet50_4s16w")
TINY = ("resnet_tiny", "tiedresnet_tiny")


def run(session: Session) -> bool:
    """Train what is not in the records yet; return whether that was all."""
    recipe, networks = Recipe(), TINY if session.tiny else NETWORKS
    if session.tiny:
        recipe = Recipe(pixels=16, stored=18, epochs=2, batch=16, rate=0.05, seeds=2, every=1)
    plan = product(range(recipe.seeds), networks)
    left = [(network, seed) for seed, network in plan if name(network, seed) not in session.records.rows]
    if not left:
        return True
    path = os.environ.get("IMAGENETTE_ZIP")
    if not (path or session.tiny):
        raise ValueError("gpu.sh: imagenette needs the environment variable IMAGENETTE_ZIP: the path of the zip file.")
    size, device = recipe.stored, session.device
    train, val, classes = read_zip(Path(path), size, device) if path else synthetic(size, device)
    session.log(f"{len(train)} images to train on, {len(val)} to test, {classes} classes")
    trainers: dict[str, Trainer] = {}
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=256):  # torch would run the ninth compiled network as eager
        for network, seed in left:
            if not session.allows(5 if network in trainers else 60):  # compiling takes its time
                return False
            if network not in trainers:
                trainers[network] = Trainer(session, recipe, network, train, val, classes)
            row = trainers[network].train(seed)
            if row is None:
                return False
            session.records.add(name(network, seed), row)
    return True


def report(rows: Mapping[str, Row]) -> str:
    """Return one line per network: top-1 in % by seed, their mean, and differences to the first network."""
    runs: dict[str, dict[int, Row]] = {}
    for row in rows.values():
        runs.setdefault(row["network"], {})[row["seed"]] = row
    reference = next(iter(runs.values()))
    seeds = sorted({row["seed"] for row in rows.values()})
    lines = []
    for network, own in runs.items():
        top1 = {seed: row["top1"] for seed, row in own.items()}
        both = [seed for seed in seeds if seed in own and seed in reference]
        by_seed, by_image = _differences([own[seed] for seed in both], [reference[seed] for seed in both])
        if own is reference:
            by_seed = by_image = None
        speed = statistics.median(row["train_seconds"] for row in own.values())
        parameters = next(iter(own.values()))["parameters"] / 1e6
        figures = [f"{top1[seed]:.2f}" if seed in top1 else None for seed in seeds]
        lines.append(
            [network, parameters, *figures, f"{statistics.fmean(top1.values()):.2f}", by_seed, by_image, speed]
        )
    header = ["top-1, %", "M parameters", *(f"seed {seed}" for seed in seeds), "mean"]
    title = (
        f"Differences to {next(iter(runs))} in points, paired, with 95% intervals (Student's t): over seeds, and over "
    )
    title += "test images for these seeds"
    return f"{title}\n{table([*header, 'over seeds', 'over images', 'train s'], lines)}"


def _differences(own: list[Row], reference: list[Row]) -> tuple[str | None, str | None]:
    if not own:
        return None, None
    by_seed = [a["top1"] - b["top1"] for a, b in zip(own, reference, strict=True)]
    pairs = [zip(a["correct"], b["correct"], strict=True) for a, b in zip(own, reference, strict=True)]
    by_image = [100 * statistics.fmean(v) for v in zip(*([int(x) - int(y) for x, y in p] for p in pairs), strict=True)]
    return _interval(by_seed), _interval(by_image)


def _interval(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):+.2f}"
    if len(values) < 2:
        return mean
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    return f"{mean} ± {(high - low) / 2:.2f}"
