"""Models made ready to be used: optimized, or written to files that other programs read."""

from .hub import from_pretrained, push_to_hub, save_pretrained
from .onnx_files import open_onnx, to_onnx
from .optimize import OptimizedModel, optimize_for_inference
from .program import ExportedFile, to_program
from .quantize import quantize_onnx

__all__ = [
    "ExportedFile",
    "OptimizedModel",
    "from_pretrained",
    "open_onnx",
    "optimize_for_inference",
    "push_to_hub",
    "quantize_onnx",
    "save_pretrained",
    "to_onnx",
    "to_program",
]
