"""Optional dependencies."""

import json
import sys

import pytest

from tiedconv._extras import require


def test_require_returns_the_module():
    assert require("json", extra="analysis") is json
    assert require("json.decoder", extra="analysis") is json.decoder


@pytest.mark.parametrize("module", ["tiedconv_no_such_module", "tiedconv_no_such_module.part"])
def test_require_names_the_extra_that_installs_a_missing_module(module):
    with pytest.raises(
        ModuleNotFoundError, match=r"^tiedconv: .* is needed here and not installed\. Run: pip install 'tiedc"
    ) as e:
        require(module, extra="analysis")
    assert str(e.value).endswith("'tiedconv[analysis]'")
    assert e.value.name == "tiedconv_no_such_module"


def test_require_does_not_blame_a_module_that_is_there_for_what_it_lacks(tmp_path, monkeypatch):
    (tmp_path / "tiedconv_half_installed.py").write_text("import tiedconv_missing_part\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'tiedconv_missing_part'$"):
        require("tiedconv_half_installed", extra="analysis")
    assert "tiedconv_half_installed" not in sys.modules
