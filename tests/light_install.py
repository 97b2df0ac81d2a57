"""Uses tiedconv as a light install must allow it; run by a Python that has the wheel and its own dependencies alone.

python -m venv fresh && fresh/bin/pip install dist/*.whl && fresh/bin/python tests/light_install.py
"""

import timm
import torch
from torch import nn

import tiedconv
from tiedconv import nn as tied
from tiedconv.cli import main
from tiedconv.export import deploy, weight_bytes


def use_layers() -> None:
    layers = [
        (tied.TiedConv1d(8, 16, 3, blocks=2), (2, 8, 9)),
        (tied.TiedConv2d(8, 16, 3, blocks=4), (2, 8, 9, 9)),
        (tied.TiedConv3d(8, 16, 3, blocks=2), (2, 8, 5, 5, 5)),
        (tied.TiedLinear(8, 16, blocks=2), (2, 8)),
        (tied.TiedSE(32), (2, 32, 5, 5)),
    ]
    for layer, size in layers:
        layer(torch.randn(size)).sum().backward()


def use_models() -> None:
    images = torch.randn(1, 3, 64, 64)
    for name in ("tiedresnet50_4s16w", "tiedresnet_tiny"):
        model = timm.create_model(name, num_classes=10).eval()
        plain = deploy(model)
        assert not any(type(module).__module__.startswith("tiedconv.nn") for module in plain.modules())
        with torch.no_grad():
            assert torch.allclose(plain(images), model(images), atol=1e-4)
        assert set(weight_bytes(model)) == {"thin", "fast", "dense"}


def tie_and_untie() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16 * 16, 4)).eval()
    images = torch.randn(2, 3, 8, 8)
    for init in ("project", "data"):
        report = tiedconv.tie_(model, 2, init=init, images=images if init == "data" else None, example_inputs=images)
        assert "layers tied" in str(report)
        outputs = model(images)
        tiedconv.untie_(model, form="dense")
        assert torch.allclose(model(images), outputs, atol=1e-5)


def call_commands() -> None:
    main.main(["--help"])
    main.main(["--version"])
    for name in (*main._COMMANDS, *main._TRAINING):
        try:
            main.main(name.split())
        except SystemExit as error:
            message = str(error)
        else:
            raise AssertionError(f"tiedconv {name} ran without the packages of its extra")
        assert message.startswith(f"tiedconv {name}: "), message
        assert message.endswith(" is needed here and not installed. Run: pip install 'tiedconv[train]'"), message
        assert "\n" not in message, message


if __name__ == "__main__":
    print(f"tiedconv {tiedconv.__version__} at {tiedconv.__file__}")
    use_layers()
    use_models()
    tie_and_untie()
    call_commands()
    print("all works")
