"""The engines that run a network: torch, eagerly or compiled, and two that read exported files."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from torch import Tensor, nn

from ..export import deploy
from ..export.formats import ENGINES
from ..export.program import difference

Engine = Literal["eager", "compiled", "onnxruntime", "openvino"]
IN_TORCH: tuple[Engine, ...] = ("eager", "compiled")
"""Engines that also train, and that compute in any memory format, in bfloat16 and on GPUs."""
_FILES = {"onnxruntime": ENGINES["onnx"], "openvino": ENGINES["openvino"]}

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""The largest difference to the eager model's outputs that an engine may have, relative to the largest output."""


def check_engine(engine: Engine, *, dtype: str, device: torch.device) -> None:
    """Check that an engine is installed and can compute in ``dtype`` on ``device``.

    Raises:
        ModuleNotFoundError: if a package is missing, with the extra that installs it.
        ValueError: if the engine is not torch, and the dtype not float32 or the device not the CPU.
    """
    if engine in IN_TORCH:
        return
    if dtype != "float32" or device.type != "cpu":
        raise ValueError(
            f"bench: {engine} is measured in float32 on the CPU, got dtype={dtype}, device={device}. Leave it out of "
            "the engines, or measure it on its own."
        )
    _FILES[engine].check_installed()


def prepare(
    engine: Engine, model: nn.Module, images: Tensor, memory_format: torch.memory_format
) -> Callable[[Tensor], Tensor]:
    """Return a function that runs ``model`` in an engine.

    All engines but eager run the deployed network (:func:`tiedconv.export.deploy`). ``"compiled"`` compiles it here,
    which has to be inside :func:`compiler`; the others read a file that is exported for images of this shape only.

    Args:
        engine: its name.
        model: in evaluation mode and ``memory_format``, on the device of ``images``.
        images: (N, C, H, W), for which the engine's outputs are compared with the model's.
        memory_format: of weights and images.

    Raises:
        RuntimeError: if the outputs differ from the model's, or the network cannot be exported.
    """
    if engine == "eager":
        return model
    deployed = deploy(model).to(memory_format=memory_format)
    # Not deployed.compile(), which does nothing in torch 2.9 where the model is one of torch's own modules.
    run = torch.compile(deployed, dynamic=False) if engine == "compiled" else _export(engine, deployed, images)
    with torch.inference_mode():
        expected, output = model(images), run(images)
    _, error = difference(output, expected)
    if not error <= TOLERANCE[images.dtype]:
        raise RuntimeError(
            f"bench: the outputs of {engine} differ from the eager model's by {error:.1e} of the largest one, where "
            f"{TOLERANCE[images.dtype]:.1e} is allowed. It is not measured."
        )
    return run


@contextmanager
def compiler() -> Iterator[None]:
    """Set up ``torch.compile`` for measurements.

    - Weights are frozen for inference, and batch norms folded into them. ``torch.compile(options={"freezing": True})``
      does nothing, since it is set only after weights have become inputs.
    - Any number of compiled networks can exist at once; by default torch runs the ninth eagerly, without a warning.
      What was compiled before is forgotten, since torch would look through it at every call.
    """
    import torch._dynamo
    import torch._inductor.config

    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=256), torch._inductor.config.patch(freezing=True):
        yield


def _export(engine: Engine, model: nn.Module, images: Tensor) -> Callable[[Tensor], Tensor]:
    files = _FILES[engine]
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows keeps a file that is open
        path = Path(folder, f"model{files.suffix}")
        files.write(model, path, input_size=images.shape[1:], dynamic_size=False, batch_size=len(images))
        return files.open(path)
