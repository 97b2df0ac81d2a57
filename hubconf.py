"""Entry points of torch.hub: ``torch.hub.load("tiedconv/tiedconv:main", name, trust_repo=True)`` builds a network."""

import sys
from pathlib import Path as _Path

dependencies = ["torch", "torchvision", "timm", "safetensors", "huggingface_hub", "numpy"]

_SOURCE = str(_Path(__file__).parent / "src")
sys.path.insert(0, _SOURCE)
try:
    import timm as _timm

    import tiedconv as _tiedconv
finally:
    sys.path.remove(_SOURCE)

globals().update({name: _timm.model_entrypoint(name) for name in _tiedconv.list_models()})
