"""Tar files that are none, hold what is no image, or are listed in an index that cannot be true."""

import copy
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import tarfile

import pytest
import torch
from PIL import Image

from tiedconv.data import StreamedImages, index_shards

OPTIONS = {"image_size": 16, "batch_size": 4, "num_workers": 0}
_BUFFER = io.BytesIO()
Image.new("RGB", (20, 20), "white").save(_BUFFER, "PNG")
PNG = _BUFFER.getvalue()
SAMPLE = [("7.png", PNG), ("7.cls", b"1")]


def tar_file(*entries):
    """Return the bytes of a tar file with files, (name, content), and links to 7.png, (name, None, kind)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content, *kind in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content or b"")
            if kind:
                (info.type,), info.linkname = kind, "7.png"
            tar.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


def with_shard(root, content, name="a.tar"):
    """Write a training shard of the given bytes and a sound validation shard."""
    for part in ("train", "val"):
        (root / part).mkdir(parents=True)
    (root / "train" / name).write_bytes(content)
    (root / "val" / "a.tar").write_bytes(tar_file(*SAMPLE))
    return str(root)


WHOLE = tar_file(*SAMPLE, ("8.png", PNG), ("8.cls", b"0"))
NO_TAR = "it is not a whole, uncompressed tar file: "


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar_file(("7.png", PNG), ("7.cls", b"2")), "the class of 7 must be a number from 0 to 1 in 7.cls, got b'2'"),
        (tar_file(("7.png", PNG), ("7.cls", b"cat")), "a number from 0 to 1 in 7.cls, got b'cat'"),
        (tar_file(("7.png", PNG), ("7.cls", b"")), "a number from 0 to 1 in 7.cls, got b''"),
        (tar_file(("7.png", PNG)), "a number from 0 to 1 in 7.cls, got no such file"),
        (tar_file(*SAMPLE, ("8.png", None, tarfile.LNKTYPE)), "8.png is a link or a sparse file. Store the file its"),
        (tar_file(*SAMPLE, ("8.png", None, tarfile.SYMTYPE)), "8.png is a link or a sparse file"),
        (tar_file(("7.png", PNG), ("7.cls", None, tarfile.LNKTYPE)), "7.cls is a link or a sparse file"),
        (tar_file(*SAMPLE, ("7.jpg", PNG)), "7.jpg is the second image of the name 7. Give each image its own"),
        (tar_file(*SAMPLE, ("7.cls", b"0")), "7.cls is the second class of the name 7"),
        (tar_file(("7.png", b""), ("7.cls", b"1")), "7.png is empty. Replace the image or take it out"),
        (tar_file(("7.txt", b"text"), ("7.cls", b"1")), "it holds no image. Known suffixes: .jpg"),
        (tar_file(), "it holds no image"),
        (gzip.compress(WHOLE, mtime=0), NO_TAR),
        (b"", f"{NO_TAR}empty file. Copy or write it again"),
        (b"hello" * 300, NO_TAR),
        (WHOLE[:700], NO_TAR),
        (WHOLE[:2048], f"{NO_TAR}it breaks off at byte 2048"),  # between two samples
        (WHOLE[:2048] + b"x" * 512 + WHOLE[2560:], f"{NO_TAR}it breaks off at byte 2048"),
    ],
)
def test_a_shard_that_cannot_be_indexed_is_named(tmp_path, content, message):
    root = with_shard(tmp_path, content)
    with pytest.raises(ValueError, match=f"index_shards: {re.escape(root)}/train/a.tar: .*{re.escape(message)}"):
        index_shards(root, ["black", "white"])
    assert not (tmp_path / "index.json").exists()


def test_folders_and_the_files_of_macos_are_passed_over(tmp_path):
    strange = [("x.png", None, tarfile.DIRTYPE), ("x/._7.png", b"\0\5\x16\7"), ("._7.cls", b"\0\5\x16\7")]
    root = with_shard(tmp_path, tar_file(*strange, *SAMPLE))
    index_shards(root, ["black", "white"])
    split = StreamedImages(root, **OPTIONS).split(train=True)
    assert len(split) == 1
    assert split[0][1] == 1


@pytest.mark.skipif(not shutil.which("tar"), reason="needs GNU tar")
def test_a_sparse_image_is_refused(tmp_path):
    """Its bytes in the tar file are not those of the image."""
    with (tmp_path / "7.bmp").open("wb") as file:
        file.write(PNG)
        os.truncate(file.fileno(), 1_000_000)
    subprocess.run(["tar", "--sparse", "-C", tmp_path, "-cf", tmp_path / "a.tar", "7.bmp"], check=True)
    root = with_shard(tmp_path / "shards", (tmp_path / "a.tar").read_bytes())
    with pytest.raises(ValueError, match=r"train/a.tar: 7.bmp is a link or a sparse file"):
        index_shards(root, ["black", "white"])


@pytest.mark.parametrize("name", ["set 1, küche & co..v2.tar", "imagenet-{000..146}.tar"])
def test_shards_of_other_peoples_names_are_read(tmp_path, name):
    root = with_shard(tmp_path, tar_file(*SAMPLE), name)
    index_shards(root, ["black", "white"])
    assert StreamedImages(root, **OPTIONS).split(train=True)[0][1] == 1


@pytest.mark.parametrize("name", ["a:b.tar", "a\\b.tar"])
def test_a_shard_that_no_index_may_name_is_refused(tmp_path, name):
    root = with_shard(tmp_path, tar_file(*SAMPLE), name)
    with pytest.raises(ValueError, match=r"index_shards: .*index.json: shards must be called train/<name>.tar.*"):
        index_shards(root, ["black", "white"])


INDEX = {
    "classes": ["black", "white"],
    "train": [{"name": "train/a.tar", "bytes": 10240, "offsets": [512], "sizes": [len(PNG)], "labels": [1]}],
    "val": [{"name": "val/a.tar", "bytes": 10240, "offsets": [512], "sizes": [len(PNG)], "labels": [1]}],
}

LISTS = "offsets, sizes, labels of train/a.tar must be lists of whole numbers, with one entry per image"


def changed(**changes):
    """Return the index with other entries in its training shard."""
    index = copy.deepcopy(INDEX)
    index["train"][0].update(changes)
    return index


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([], "it must be an object with classes, train and val, got []"),
        ({}, "classes must be a list of names, got None"),
        ({**INDEX, "classes": "ab"}, "classes must be a list of names, got 'ab'"),
        ({**INDEX, "classes": []}, "classes must be a list of names, got []"),
        ({**INDEX, "classes": ["a", 1]}, "classes must be a list of names, got ['a', 1]"),
        ({**INDEX, "val": None}, "val must be a list of shards, one or more, got None"),
        ({**INDEX, "train": []}, "train must be a list of shards, one or more, got []"),
        ({**INDEX, "train": ["a.tar"]}, "shards must be called train/<name>.tar"),
        (changed(name=3), "shards must be called train/<name>.tar, with no /, \\ or : in <name>, got 3: rename"),
        (changed(name="val/a.tar"), "shards must be called train/<name>.tar"),
        (changed(name="train/.."), "shards must be called train/<name>.tar"),
        (changed(name="train/../a.tar"), "shards must be called train/<name>.tar"),
        (changed(name="/train/a.tar"), "shards must be called train/<name>.tar"),
        (changed(name="train/a.tar\n"), "shards must be called train/<name>.tar"),
        (changed(name="train/a\0.tar"), "shards must be called train/<name>.tar"),
        (changed(name="train/.tar"), "shards must be called train/<name>.tar"),
        (changed(bytes=None), "bytes of train/a.tar must be a whole number from 1 to"),
        (changed(bytes=True), "bytes of train/a.tar must be a whole number from 1 to"),
        (changed(bytes=0), "bytes of train/a.tar must be a whole number from 1 to"),
        (changed(bytes=2**63), "bytes of train/a.tar must be a whole number from 1 to"),
        (changed(labels=None), LISTS),
        (changed(labels=[0.7]), LISTS),
        (changed(labels=["1"]), LISTS),
        (changed(labels=[[1]]), LISTS),
        (changed(labels=[0, 1]), LISTS),
        (changed(labels=[], offsets=[], sizes=[]), LISTS),
        (changed(offsets=[10**30]), LISTS),
        (changed(labels=[-100]), "labels of train/a.tar must be from 0 to 1, got -100 to -100"),
        (changed(labels=[2]), "labels of train/a.tar must be from 0 to 1, got 2 to 2"),
        (changed(offsets=[-1]), "an image of train/a.tar must lie within its 10240 bytes"),
        (changed(offsets=[2**63 - 1]), "an image of train/a.tar must lie within its 10240 bytes"),
        (changed(offsets=[10240 - len(PNG) + 1]), "an image of train/a.tar must lie within its 10240 bytes"),
        (changed(sizes=[0]), "an image of train/a.tar must lie within its 10240 bytes"),
    ],
)
def test_an_index_that_cannot_be_true_is_refused(tmp_path, index, message):
    root = with_shard(tmp_path, tar_file(*SAMPLE))
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"StreamedImages: {re.escape(root)}/index.json: {re.escape(message)}") as info:
        StreamedImages(root, **OPTIONS)
    assert str(info.value).endswith("Rewrite the index with index_shards.")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\ud800".encode("utf-16", "surrogatepass")])
def test_an_index_that_is_no_json_is_refused(tmp_path, text):
    (tmp_path / "index.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"index.json is not JSON: .* Rewrite the index with index_shards"):
        StreamedImages(str(tmp_path), **OPTIONS)


def test_the_index_that_the_others_change_is_sound(tmp_path):
    root = with_shard(tmp_path, tar_file(*SAMPLE))
    (tmp_path / "index.json").write_text(json.dumps(INDEX))
    image, label = StreamedImages(root, **OPTIONS).split(train=True)[0]
    assert label == 1
    assert torch.all(image > 2)
