"""Shards against the image files that they were written from, and against WebDataset's own reader."""

import json
import os
import shutil
import signal
import subprocess
import sys

import fsspec
import lightning as L
import numpy as np
import pytest
import torch
import webdataset
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_iterator

from tiedconv.data import ImageFolder, StreamedImages, index_shards, write_shards
from tiedconv.tasks import ClassificationTask

OPTIONS = {"image_size": 16, "batch_size": 4, "num_workers": 0}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0)
    for part, number in (("train", 11), ("val", 5)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for i in range(number):
                pixels = noise.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i:02d}.{'png' if i % 2 else 'JPEG'}")
    return root


@pytest.fixture(scope="module")
def shards(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "new"
    write_shards(ImageFolder(str(photos), **OPTIONS), str(folder), images_per_shard=4)
    return folder


def epoch(data, number):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    return [(images, labels.tolist()) for images, labels in loader]


def test_validation_images_are_those_of_the_folder(photos, shards):
    streamed = StreamedImages(str(shards), **OPTIONS)
    files = ImageFolder(str(photos), **OPTIONS)
    assert streamed.classes == files.classes
    assert sorted(path.name for path in (shards / "train").iterdir()) == [f"{i:06d}.tar" for i in range(6)]
    for read, expected in zip(streamed.val_dataloader(), files.val_dataloader(), strict=True):
        assert torch.equal(read[0], expected[0])
        assert torch.equal(read[1], expected[1])


def test_webdataset_reads_the_training_images_that_were_written(photos, shards):
    written = {
        (path.read_bytes(), label)
        for label, name in enumerate(("cat", "dog"))
        for path in (photos / "train" / name).iterdir()
    }
    read = []
    for path in sorted((shards / "train").glob("*.tar")):
        with path.open("rb") as file:
            for sample in group_by_keys({"__url__": path.name, **entry} for entry in tar_file_iterator(file)):
                read.append((sample.get("jpeg", sample.get("png")), int(sample["cls"])))
    assert set(read) == written
    assert len(read) == 22
    assert len({label for _, label in read[:4]}) == 2  # mixed


def test_shards_of_webdatasets_own_writer_can_be_indexed(tmp_path):
    pixels = np.full((8, 8, 3), 255, dtype=np.uint8)
    for part, number in (("train", 3), ("val", 2)):
        (tmp_path / part).mkdir()
        with webdataset.TarWriter(str(tmp_path / part / "a.tar")) as writer:
            for i in range(number):
                writer.write({"__key__": f"x/{i}", "png": pixels * (i % 2), "cls": i % 2, "json": {"i": i}})
    index_shards(str(tmp_path), ["black", "white"])
    data = StreamedImages(str(tmp_path), **OPTIONS)
    images, labels = next(iter(data.val_dataloader()))
    assert labels.tolist() == [0, 1]
    white = (1 - torch.tensor(data.mean)) / torch.tensor(data.std)
    assert torch.allclose(images[1, :, 8, 8], white, atol=1e-5)
    assert len(data.split(train=True)) == 3


@pytest.mark.parametrize("window", [None, 1, 2, 100])
def test_order_mixes_within_windows_of_shards(shards, window):
    split = StreamedImages(str(shards), window=window, **OPTIONS).split(train=True)
    order = split.order(torch.Generator().manual_seed(1))
    assert sorted(order) == list(range(22))
    assert order == split.order(torch.Generator().manual_seed(1))
    assert order != split.order(torch.Generator().manual_seed(2))
    if window in (1, 2):
        shard_of = [index // 4 for index in order]
        groups = [shard_of[0]]
        for shard in shard_of:
            if shard not in groups[-window:]:
                groups.append(shard)
        first = [shard_of.index(shard) for shard in range(6)]
        last = [21 - shard_of[::-1].index(shard) for shard in range(6)]
        open_at = [sum(a <= i <= b for a, b in zip(first, last, strict=True)) for i in range(22)]
        assert max(open_at) <= window


@pytest.fixture
def memory():
    """Return a filesystem that is emptied afterwards: all of them are one."""
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/", recursive=True)


def test_a_url_gives_the_same_images_and_is_copied_once(shards, tmp_path, memory):
    memory.put(str(shards), "/remote", recursive=True)
    remote = StreamedImages("memory://remote", cache=str(tmp_path), window=2, **OPTIONS)
    local = StreamedImages(str(shards), window=2, **OPTIONS)
    L.seed_everything(1, verbose=False)
    for read, expected in zip(epoch(remote, 3), epoch(local, 3), strict=True):
        assert torch.equal(read[0], expected[0])
        assert read[1] == expected[1]
    for path in memory.glob("/remote/train/*.tar"):
        memory.rm(path)
    assert len(epoch(remote, 4)) == 5  # from the copies

    (half,) = tmp_path.glob("*/train/000000.tar")
    half.write_bytes(half.read_bytes()[:100])
    memory.pipe("/remote/train/000000.tar", b"another")
    with pytest.raises(OSError, match=r"000000.tar has 7 bytes, the index says \d+. Rewrite the index"):
        epoch(remote, 5)
    memory.put(str(shards / "train" / "000000.tar"), "/remote/train/000000.tar")
    assert len(epoch(remote, 5)) == 5
    assert half.stat().st_size == (shards / "train" / "000000.tar").stat().st_size


def test_two_sets_in_one_cache_keep_their_own_images(tmp_path, memory):
    for name, grey in (("black", 0), ("white", 255)):
        for part in ("train", "val"):
            (tmp_path / name / part / "a").mkdir(parents=True)
            Image.new("RGB", (20, 20), (grey,) * 3).save(tmp_path / name / part / "a" / "0.png")
        write_shards(ImageFolder(str(tmp_path / name), **OPTIONS), str(tmp_path / f"{name}-shards"))
        memory.put(str(tmp_path / f"{name}-shards"), f"/{name}", recursive=True)
    sizes = {(tmp_path / f"{name}-shards" / "val" / "000000.tar").stat().st_size for name in ("black", "white")}
    assert len(sizes) == 1  # tar files are padded
    cache = str(tmp_path / "cache")
    black, white = (
        StreamedImages(f"memory://{name}", cache=cache, **OPTIONS).split(train=False)[0][0]
        for name in ("black", "white")
    )
    assert black.max() < 0 < white.min()


def test_no_shard_is_copied_to_where_its_name_leads(shards, tmp_path, memory):
    """A name from the internet must not choose the file that is written."""
    precious = tmp_path / "precious.tar"
    precious.write_text("mine")
    index = json.loads((shards / "index.json").read_text())
    for name in (str(precious), "../precious.tar", "train/../../precious.tar"):
        index["train"][0]["name"] = name
        memory.pipe("/evil/index.json", json.dumps(index).encode())
        with pytest.raises(ValueError, match=r"memory://evil/index.json: shards must be called train/<name>.tar"):
            StreamedImages("memory://evil", cache=str(tmp_path / "cache"), **OPTIONS)
    assert precious.read_text() == "mine"


def test_a_local_shard_that_is_not_the_indexed_one_is_named(shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "copy")
    split = StreamedImages(str(copy), **OPTIONS).split(train=False)
    shard = copy / "val" / "000000.tar"
    shard.write_bytes(shard.read_bytes() + bytes(512))
    message = r"val/000000.tar has 20992 bytes, the index says 20480. Rewrite the index with index_shards"
    with pytest.raises(OSError, match=message):
        split[0]


def test_workers_read_what_one_process_reads(shards):
    L.seed_everything(1, verbose=False)
    alone = epoch(StreamedImages(str(shards), **OPTIONS), 2)
    workers = epoch(StreamedImages(str(shards), **{**OPTIONS, "num_workers": 2}), 2)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(alone, workers, strict=True))


def test_mistakes_are_named(photos, shards, tmp_path):
    data = ImageFolder(str(photos), **OPTIONS)
    with pytest.raises(ValueError, match="images_per_shard must be at least 1, got 0"):
        write_shards(data, str(tmp_path / "a"), 0)
    with pytest.raises(ValueError, match=r"is not empty. Give a new folder"):
        write_shards(data, str(shards))
    with pytest.raises(FileNotFoundError, match=r"holds no index.json. tiedconv.data.write_shards writes"):
        StreamedImages(str(photos))
    with pytest.raises(ValueError, match=r"a URL needs a cache, .*; got root=s3://a/b and cache=None\."):
        StreamedImages("s3://a/b")
    with pytest.raises(ValueError, match="a folder needs none; got root=photos and cache=c"):
        StreamedImages("photos", cache="c")
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        StreamedImages(str(shards), window=0)
    with pytest.raises(ValueError, match=r"no \*.tar in .*train. Expected train/\*.tar and val"):
        index_shards(str(photos), ["cat", "dog"])


def test_a_broken_image_is_named(shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "copy")
    shard = copy / "val" / "000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"JFIF", b"XXXX").replace(b"\xff\xd8\xff", b"xxx"))
    with pytest.raises(OSError, match=r"val/000000.tar, bytes from 512, cannot be read as an image"):
        StreamedImages(str(copy), **OPTIONS).split(train=False)[0]


class Kill(L.Callback):
    """End the process as a power cut would, in the middle of an epoch."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 7:
            os.kill(os.getpid(), signal.SIGKILL)


def train(shards, folder, *callbacks, resume=None):
    L.seed_everything(3, verbose=False)
    data = StreamedImages(str(shards), window=2, auto_augment="rand-m9", **OPTIONS)
    task = ClassificationTask("tiedresnet_tiny", 2, 3, {"drop_path_rate": 0.3}, mixup=0.2)
    kept = ModelCheckpoint(folder, "last-step", every_n_train_steps=1)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[*callbacks, kept],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(task, data, ckpt_path=resume, weights_only=True)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    return metrics, task.state_dict()


@pytest.mark.slow
def test_a_training_that_was_killed_ends_as_an_uninterrupted_one(shards, tmp_path):
    metrics, weights = train(shards, tmp_path / "whole")
    script = "import sys; from test_streaming import *; train(sys.argv[1], sys.argv[2], Kill())"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.path.dirname(__file__)}
    parts = tmp_path / "parts"
    done = subprocess.run([sys.executable, "-c", script, str(shards), str(parts)], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    last = parts / "last-step.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 6  # one step into the second epoch
    resumed_metrics, resumed = train(shards, parts, resume=last)
    assert resumed_metrics == metrics
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_the_index_is_plain_json(shards):
    index = json.loads((shards / "index.json").read_text())
    assert index["classes"] == ["cat", "dog"]
    assert [entry["name"] for entry in index["val"]] == [f"val/{i:06d}.tar" for i in range(3)]
    assert sum(index["train"][0]["labels"]) in (1, 2, 3)
