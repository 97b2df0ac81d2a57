"""What docs/guides/other_libraries.md says besides its code."""

import re
import tomllib
from runpy import run_path

import pytest
import segmentation_models_pytorch as smp
import torch
from tests.markdown import ROOT

import tiedconv


def test_torch_hub_offers_every_network_and_asks_for_what_tiedconv_depends_on():
    entries = run_path(str(ROOT / "hubconf.py"))
    assert sorted(name for name in entries if callable(entries[name]) and name[0] != "_") == tiedconv.list_models()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = [re.split(r"[>=\[]", line)[0].replace("-", "_") for line in project["dependencies"]]
    assert entries["dependencies"] == required


@pytest.mark.parametrize(
    "name", ["tiedresnet50_s", "tiedresnext50_32x4d", "tiedsenet50", "tiedresnest50_s", "tiedefficientnet_b0_b2"]
)
def test_encoders_of_segmentation_models_halve_maps_five_times(name: str):
    encoder = smp.encoders.get_encoder(f"tu-{name}", weights=None)
    maps = encoder(torch.zeros(2, 3, 64, 64))
    assert [m.shape[1] for m in maps] == encoder.out_channels
    assert [64 // m.shape[2] for m in maps] == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("tiedresnet_small", IndexError, "list index out of range"),
        ("tiedresnet_tiny", ValueError, "Unsupported model downsampling pattern"),
    ],
)
def test_segmentation_models_refuse_small_networks_as_the_page_says(name: str, error: type, message: str):
    with pytest.raises(error, match=message):
        smp.encoders.get_encoder(f"tu-{name}", weights=None)
    assert message in (ROOT / "docs" / "guides" / "other_libraries.md").read_text(encoding="utf-8")
