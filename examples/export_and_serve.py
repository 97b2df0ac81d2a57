"""A tied network in ONNX Runtime and OpenVINO, float32 and int8, timed beside ResNet-50 and served over HTTP.

    python examples/export_and_serve.py    # a minute on two cores; --quick takes seconds

Both networks are deployed, written for both engines, and given one image at a time, in turns. `--model` and `--beside`
take the names that `tiedconv export` takes. The weights are random: give your own by `--checkpoint last.ckpt`, and a
folder of some hundred photographs by `--images`, which the int8 files are calibrated on.

The server answers an image with the likeliest classes. It needs numpy, Pillow and the engine, but neither torch nor
tiedconv. The script sends each file of the tied network a request and compares the answer with PyTorch's. With
`--port 8000` it goes on to serve the fastest file:

    curl --data-binary @photo.jpg http://127.0.0.1:8000    # {"417": 0.31, "8": 0.12, ...}
"""

import argparse
import io
import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import urlopen

import numpy as np
import onnxruntime
import openvino
import sklearn.datasets
import torch
from PIL import Image, ImageOps
from timm.data import resolve_model_data_config
from torch import nn

from tiedconv.bench.timer import interleaved
from tiedconv.export import deploy, open_onnx, open_openvino, quantize_onnx, quantize_openvino, to_onnx, to_openvino
from tiedconv.models import build_model

ENGINES: dict[str, tuple[Any, ...]] = {
    "ONNX Runtime": (".onnx", to_onnx, quantize_onnx, open_onnx),
    "OpenVINO": (".xml", to_openvino, quantize_openvino, open_openvino),
}
PHOTOS = Path(sklearn.datasets.__file__).parent / "images"
LARGEST = 10_000_000  # bytes of a request


class Server(ThreadingHTTPServer):
    """Serves an exported classifier."""

    def __init__(self, port: int, file: Path, prepare: Callable[[bytes], np.ndarray]) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.prepare = prepare
        if file.suffix == ".xml":
            compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            self.run = lambda image: compiled.infer_new_request(image)[0]  # new: requests come side by side
        else:
            session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
            self.run = lambda image: session.run(None, {"images": image})[0]

    def predict(self, image: np.ndarray) -> dict[int, float]:
        (logits,) = self.run(image)
        powers = np.exp(logits - logits.max())
        return {int(i): float(powers[i] / powers.sum()) for i in logits.argsort()[:-6:-1]}


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 30  # seconds in which a request must arrive

    def do_POST(self) -> None:
        try:
            length = int(self.headers["Content-Length"])
            if not 0 < length <= LARGEST:
                raise ValueError
            image = self.server.prepare(self.rfile.read(length))
        except Exception:  # Pillow raises many kinds for damaged and huge images
            self.send_error(400, f"not an image of at most {LARGEST} bytes, with its Content-Length")
        else:
            body = json.dumps(self.server.predict(image)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing for every request."""


def prepare(content: bytes, input_size: tuple[int, int, int], mean: list[float], std: list[float]) -> np.ndarray:
    """Return an image file as a batch of one, (1, 3, H, W)."""
    _, height, width = input_size
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))  # upright: phones store photographs sideways
    image = ImageOps.fit(image.convert("RGB"), (width, height))
    return ((np.asarray(image) / 255 - mean) / std).astype(np.float32).transpose(2, 0, 1)[None]


def build(name: str, checkpoint: Path | None = None) -> nn.Module:
    model = build_model(name, checkpoint=checkpoint).eval()
    for parameter in model.parameters():
        if not parameter.any():  # residual branches start at zero, where a wrong one would not show
            nn.init.normal_(parameter, std=0.1)
    return model


def answer(file: Path, prepare: Callable[[bytes], np.ndarray], photo: bytes) -> dict[int, float]:
    """Serve a file for one request."""
    with Server(0, file, prepare) as server:
        Thread(target=server.serve_forever).start()
        with urlopen(server.address, photo) as response:
            answered = json.load(response)
        server.shutdown()
    return {int(i): probability for i, probability in answered.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiedresnet50_4s16w")
    parser.add_argument("--checkpoint", type=Path, help="weights of the model, such as a last.ckpt of tiedconv fit")
    parser.add_argument("--beside", default="resnet50")
    parser.add_argument("--images", type=Path, default=PHOTOS, help="folder of photographs, .jpg; default: two")
    parser.add_argument("--port", type=int, help="serve the fastest file there until Ctrl-C")
    parser.add_argument("--output", type=Path, default=Path("runs/examples/export_and_serve"))
    parser.add_argument("--quick", action="store_true", help="small networks, few calls")
    args = parser.parse_args()
    photos = [path.read_bytes() for path in sorted(args.images.rglob("*.jpg"))]
    if not photos:
        parser.error(f"no .jpg in {args.images}")

    torch.manual_seed(0)
    names = ("tiedresnet_tiny", "resnet_tiny") if args.quick else (args.model, args.beside)
    tied, other = build(names[0], args.checkpoint), build(names[1])
    config = resolve_model_data_config(tied)
    size = config["input_size"]
    ready = partial(prepare, input_size=size, mean=config["mean"], std=config["std"])
    images = [torch.from_numpy(ready(photo)) for photo in photos]
    with torch.inference_mode():
        expected = tied(images[0])[0].softmax(0)

    print(f"{'ms per image':22} {names[0]:>20} {names[1]:>12} {'times as fast':>14} {'answer differs by':>18}")
    milliseconds: dict[Path, float] = {}
    for engine, (suffix, write, quantize, load) in ENGINES.items():
        files: dict[str, Path] = {}
        for name, network in (("tied", tied), ("other", other)):
            path = args.output / f"{name}{suffix}"
            write(deploy(network), path, input_size=size, dynamic_size=False, batch_size=1)
            small = quantize(path, images, path.with_suffix(f".int8{suffix}"))
            files |= {f"{name} float32": path, f"{name} int8": small.path}
        runs = {name: partial(load(path), images[0]) for name, path in files.items()}
        times = interleaved(runs, rounds=3 if args.quick else 50)  # in turns: other work slows all of them alike
        for kind in ("float32", "int8"):
            ours, theirs = times[f"tied {kind}"], times[f"other {kind}"]
            file, ratio = files[f"tied {kind}"], ours.speedup_over(theirs)
            milliseconds[file] = 1000 * ours.median
            error = max(abs(p / expected[i].item() - 1) for i, p in answer(file, ready, photos[0]).items())
            print(
                f"{engine:12} {kind:9} {milliseconds[file]:20.2f} {1000 * theirs.median:12.2f} "
                f"{ratio.median:8.2f} ±{ratio.spread:.2f} {error:18.0e}"
            )

    print(f"The files are in {args.output}.")
    if args.port is not None:
        fastest = min(milliseconds, key=milliseconds.__getitem__)
        with Server(args.port, fastest, ready) as server, suppress(KeyboardInterrupt):
            print(f"{fastest} is served at {server.address}", flush=True)
            server.serve_forever()


if __name__ == "__main__":
    main()
