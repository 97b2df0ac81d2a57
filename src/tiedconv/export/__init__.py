"""Models made ready to be used: deployed as ordinary layers, or written to files that other programs read."""

from ..models import from_pretrained
from .deployment import Branches, deploy
from .hub import push_to_hub, save_pretrained
from .layouts import Layout, weight_bytes
from .onnx_files import open_onnx, to_onnx
from .openvino_files import open_openvino, to_openvino
from .program import ExportedFile, to_program
from .quantize import quantize_onnx, quantize_openvino

__all__ = [
    "Branches",
    "ExportedFile",
    "Layout",
    "deploy",
    "from_pretrained",
    "open_onnx",
    "open_openvino",
    "push_to_hub",
    "quantize_onnx",
    "quantize_openvino",
    "save_pretrained",
    "to_onnx",
    "to_openvino",
    "to_program",
    "weight_bytes",
]
