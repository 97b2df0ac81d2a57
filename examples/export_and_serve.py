"""A tied model behind HTTP: exported to ONNX, run by ONNX Runtime, served by Python's standard library.

    python examples/export_and_serve.py    # two minutes on two cores; --quick takes seconds

At the end a tied network and a ResNet-50 run side by side in ONNX Runtime and OpenVINO, with float32 and int8 files.

The server takes an image file of any kind and size by POST, or a TIFF of several pages as a batch, and answers with
JSON. It needs onnxruntime, numpy and Pillow alone, neither torch nor tiedconv. Here the script is its own client:

    curl --data-binary @digit.png http://127.0.0.1:8000    # {"predictions": [{"0": 0.003, "1": 0.941, ...}]}
"""

import argparse
import io
import json
import statistics
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import urlopen

import lightning as L
import numpy as np
import onnxruntime
import timm
import torch
from PIL import Image, ImageSequence
from sklearn.datasets import load_digits

from tiedconv.data import Digits
from tiedconv.export import (
    deploy,
    open_onnx,
    open_openvino,
    quantize_onnx,
    quantize_openvino,
    to_onnx,
    to_openvino,
)
from tiedconv.tasks import ClassificationTask, Optimization, quiet_lightning

LARGEST = 10_000_000  # bytes of a request
ENGINES: dict[str, tuple[Any, ...]] = {
    "ONNX Runtime": (to_onnx, quantize_onnx, open_onnx, "onnx"),
    "OpenVINO": (to_openvino, quantize_openvino, open_openvino, "xml"),
}


class Server(ThreadingHTTPServer):
    """Serves an ONNX file of a classifier of grey images."""

    def __init__(self, port: int, file: Path, classes: tuple[str, ...], mean: float, std: float) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        self.classes, self.mean, self.std = classes, mean, std

    def predict(self, content: bytes) -> list[dict[str, float]]:
        pages = [np.asarray(page.convert("L")) for page in ImageSequence.Iterator(Image.open(io.BytesIO(content)))]
        images = ((np.stack(pages)[:, None] / 255 - self.mean) / self.std).astype(np.float32)
        (logits,) = self.session.run(None, {"images": images})
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return [dict(zip(self.classes, row.tolist(), strict=True)) for row in powers / powers.sum(1, keepdims=True)]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if length > LARGEST:
            return self.answer(413, {"error": f"at most {LARGEST} bytes"})
        try:
            predictions = self.server.predict(self.rfile.read(length))
        except (OSError, ValueError) as error:  # no image, or pages of different sizes
            return self.answer(400, {"error": str(error)})
        return self.answer(200, {"predictions": predictions})

    def answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing for every request."""


def train(quick: bool, data: Digits) -> torch.nn.Module:
    epochs, layers = (1, [1, 1, 1, 1]) if quick else (8, [2, 2, 2, 2])
    recipe = Optimization(lr=0.05, schedule="cosine")
    task = ClassificationTask("tiedresnet_tiny", data.num_classes, 1, {"layers": layers}, optimization=recipe)
    silent: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with quiet_lightning(advice=False):
        trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", enable_model_summary=False, **silent)
        trainer.fit(task, data)
    return task.model.eval()


def tiff(count: int, side: int) -> tuple[bytes, list[Image.Image]]:
    """Return some digits as a file of several pages, and as images."""
    grey = (load_digits().images[:count] * (255 / 16)).round().astype(np.uint8)
    pages = [Image.fromarray(page).resize((side, side)) for page in grey]
    file = io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    return file.getvalue(), pages


def time_engines(quick: bool, folder: Path) -> None:
    """Print how long two networks take for one image, in each engine; random weights and images do for that."""
    names, size = (("tiedresnet50_4s16w", "resnet50"), (3, 224, 224))
    if quick:
        names, size = (("tiedresnet_tiny", "resnet_tiny"), (3, 32, 32))
    images = torch.randn(16, *size).split(1)
    print(f"\n{'ms per image':22} {names[0]:>20} {names[1]:>12} {'times':>6}")
    for engine, (write, quantize, load, suffix) in ENGINES.items():
        runs = {}
        for name in names:
            network = deploy(timm.create_model(name, zero_init_last=False))  # zeros could be left out
            file = write(network, folder / f"{name}.{suffix}", input_size=size, dynamic_size=False, batch_size=1)
            small = quantize(file.path, images, folder / f"{name}.int8.{suffix}")
            runs["float32", name], runs["int8", name] = load(file.path), load(small.path)
        times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
        for _ in range(3 if quick else 50):  # in turns, so that other work on the machine slows all of them alike
            for key, run in runs.items():
                started = time.perf_counter()
                run(images[0])
                times[key].append(1000 * (time.perf_counter() - started))
        for kind in ("float32", "int8"):
            tied, plain = (statistics.median(times[kind, name]) for name in names)
            print(f"{engine:12} {kind:9} {tied:20.2f} {plain:12.2f} {plain / tied:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--output", type=Path, default=Path("runs/examples/export_and_serve"))
    parser.add_argument("--quick", action="store_true", help="one epoch, few requests")
    args = parser.parse_args()

    L.seed_everything(0, verbose=False)
    data = Digits()
    model = train(args.quick, data)
    file = to_onnx(deploy(model), args.output / "digits.onnx", input_size=data.input_size)
    print(f"{file.path}: {file.bytes:,} bytes, differs from PyTorch by {file.max_rel_error:.0e} of the largest output")

    server = Server(args.port, file.path, data.classes, data.mean[0], data.std[0])
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        print(f"serving at {address}\n\n{'images':>6} {'pixels':>7} {'ms a request':>13} {'differ by':>10}")
        for count, side in ((1, 32), (32, 24), (1, 16), (10, 16)):
            content, pages = tiff(count, side)
            times = []
            for _ in range(3 if args.quick else 30):
                started = time.perf_counter()
                with urlopen(address, content) as response:
                    predictions = json.load(response)["predictions"]
                times.append(1000 * (time.perf_counter() - started))
            served = torch.tensor([list(row.values()) for row in predictions])
            images = torch.stack([torch.tensor(np.asarray(page))[None] / 255 for page in pages])
            with torch.no_grad():
                expected = model((images - data.mean[0]) / data.std[0]).softmax(1)
            difference = (served - expected).abs().max().item()
            print(f"{count:>6} {side:>4}x{side} {statistics.median(times):>11.1f} {difference:>10.0e}")
        print(f"\nlast request: {', '.join(max(row, key=row.get) for row in predictions)} (0 to 9 are right)")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    time_engines(args.quick, args.output / "engines")


if __name__ == "__main__":
    main()
