"""Every script of the gallery runs as a user starts it, and prints what it is for."""

import io
import json
import os
import re
import subprocess
import sys
from functools import partial
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))


def run(name: str, folder: Path) -> str:
    """Run a script in an empty folder and return its output; it must warn of nothing, and write where it says."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, "--quick"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    own = folder / "runs" / "examples" / Path(name).stem
    assert [path for path in folder.rglob("*") if path.is_file() and not path.is_relative_to(own)] == []
    return done.stdout


def numbers(pattern: str, output: str) -> tuple[float, ...]:
    """The groups of the pattern's one match in the output."""
    (found,) = re.findall(pattern, output)
    return tuple(float(group.replace(",", "")) for group in ([found] if isinstance(found, str) else found))


def check_own_network(output: str, folder: Path) -> None:
    (untied, its), (tied, accuracy) = (numbers(rf"(?m)^{n} +([\d,]+) +([\d.]+)%", output) for n in ("untied", "tied"))
    assert tied < untied / 3
    assert min(its, accuracy) > 40  # a tenth is right by chance, three quarters after the one epoch
    assert numbers(r"likewise: ([\d,]+) -> ([\d,]+) parameters", output) == (untied, tied)


def check_tie_timm_model(output: str, folder: Path) -> None:
    for before, after in re.findall(r"parameters +([\d,]+) -> ([\d,]+)", output):
        assert int(after.replace(",", "")) < int(before.replace(",", "")) / 3
    last = re.findall(r"1 epoch trained +([\d.]+)%", output)
    assert len(last) == 2
    assert numbers(r"loaded again it has ([\d.]+)%", output) == (float(last[1]),)
    assert (folder / "model" / "model.safetensors").is_file()


def check_detect_own_coco(output: str, folder: Path) -> None:
    assert "16 images to train on, 4 to test on; classes: circle, square, triangle" in output
    ap, ap50 = numbers(r"box AP ([\d.]+), AP50 ([\d.]+) after 1 epochs", output)
    assert 0 <= ap <= ap50 <= 1
    assert (folder / "prediction.png").read_bytes().startswith(b"\x89PNG")


def check_own_dataset(output: str, folder: Path) -> None:
    (trained,) = numbers(r"2 epochs: ([\d.]+)% of 50 new ones right", output)
    (on_the_command_line,) = numbers(r"val/top1 +│ +([\d.]+)", output)
    assert on_the_command_line == pytest.approx(trained / 100, abs=1e-3)


def check_export_and_serve(output: str, folder: Path) -> None:
    rows = re.findall(r"(?m)^(ONNX Runtime|OpenVINO) +(float32|int8) +[\d.]+ +[\d.]+ +[\d.]+ ±[\d.]+ +(\S+)$", output)
    errors = {(engine, kind): float(error) for engine, kind, error in rows}
    assert len(rows) == len(errors) == 4
    for (_, kind), error in errors.items():
        assert error < (1e-4 if kind == "float32" else 0.1)
    assert {path.name for path in folder.iterdir()} >= {"tied.onnx", "tied.int8.onnx", "tied.xml", "tied.int8.bin"}


CHECKS = {
    "detect_own_coco.py": check_detect_own_coco,
    "export_and_serve.py": check_export_and_serve,
    "own_dataset.py": check_own_dataset,
    "own_network.py": check_own_network,
    "tie_timm_model.py": check_tie_timm_model,
}


# One of them, the lightest, for every change: the others take up to half a minute of processor time, even with --quick.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "own_network.py" else pytest.mark.stress) for name in SCRIPTS]
)
def test_script_runs_and_prints_what_it_is_for(name, tmp_path):
    CHECKS[name](run(name, tmp_path), tmp_path / "runs" / "examples" / Path(name).stem)


@pytest.fixture
def address():
    """Of the server of export_and_serve.py, with a network that answers the mean red of each row of its input."""
    for package in ("onnxruntime", "openvino", "sklearn"):
        pytest.importorskip(package)
    found = spec_from_file_location("export_and_serve", EXAMPLES / "export_and_serve.py")
    example = module_from_spec(found)
    found.loader.exec_module(example)
    with ThreadingHTTPServer(("127.0.0.1", 0), example.Handler) as server:
        server.prepare = partial(example.prepare, input_size=(3, 2, 2), mean=[0, 0, 0], std=[1, 1, 1])
        server.predict = lambda image: dict(enumerate(image[0, 0].mean(1).tolist()))
        Thread(target=server.serve_forever).start()
        yield server.server_address
        server.shutdown()


def encoded(size: tuple[int, int], **options: Any) -> bytes:
    """A picture whose left half is black and whose right half is white."""
    image, file = Image.new("RGB", size), io.BytesIO()
    image.paste("white", (size[0] // 2, 0, *size))
    image.save(file, "PNG", **options)
    return file.getvalue()


def ask(address: tuple[str, int], body: bytes, **headers: str) -> tuple[int, bytes]:
    connection = HTTPConnection(*address, timeout=10)
    connection.request("POST", "/", body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    return response.status, response.read()


def test_the_server_turns_photographs_upright_and_refuses_what_is_no_image(address, monkeypatch):
    exif = Image.Exif()
    exif[274] = 6  # held so that its left side is above
    status, answer = ask(address, encoded((8, 8), exif=exif))
    assert (status, json.loads(answer)) == (200, pytest.approx({"0": 0, "1": 1}, abs=0.1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for body, headers in (
        (b"no image", {}),
        (encoded((20, 20)), {}),
        (b"", {}),
        (b"", {"Content_Length": "abc"}),
        (b"", {"Content_Length": "-1"}),
    ):
        status, answer = ask(address, body, **headers)
        assert status == 400
        assert b"not an image of at most 10000000 bytes" in answer


def test_the_page_lists_every_script():
    assert re.findall(r"(?m)^\| \[`(\w+\.py)`\]\(\1\)", (EXAMPLES / "README.md").read_text()) == SCRIPTS
