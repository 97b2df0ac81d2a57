import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from timm.data import create_transform
from torch import nn
from torchvision.transforms import functional as F

from tiedconv.models import build_model
from tiedconv.models.inputs import eval_transform, input_size, native_input_size


@pytest.mark.parametrize(
    ("name", "kwargs", "size"),
    [
        ("tiedresnet_tiny", {"in_chans": 1}, (1, 32, 32)),
        ("tresnet_m", {}, (3, 224, 224)),  # its first convolution has 48 channels
        ("vit_tiny_patch16_224", {"img_size": 96}, (3, 96, 96)),
        ("torchvision/resnet18", {}, (3, 224, 224)),
    ],
)
def test_a_model_runs_on_its_native_input(name: str, kwargs: dict, size: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        model = build_model(name, **kwargs).eval()
        assert native_input_size(model) == size
        assert model(torch.empty(1, *size)).shape == (1, 1000)


def test_other_models_have_no_native_input() -> None:
    assert native_input_size(nn.Conv2d(3, 3, 1)) is None


def picture(mode: str) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (40, 52, 4), dtype=np.uint8)
    return Image.fromarray(values, "RGBA").convert(mode) if mode != "RGBA" else Image.fromarray(values)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_pictures_of_every_mode_become_a_timm_models_input(mode: str) -> None:
    model = timm.create_model("tiedresnet_tiny", num_classes=3).eval()
    expected = create_transform((3, 32, 32), interpolation="bilinear", crop_pct=1.0)(picture(mode).convert("RGB"))
    assert torch.equal(eval_transform(model)(picture(mode)), expected)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_model_of_one_channel_sees_grey(mode: str) -> None:
    model = timm.create_model("tiedresnet_tiny", num_classes=3, in_chans=1).eval()
    grey = F.center_crop(F.resize(picture(mode).convert("L"), 32), [32, 32])
    expected = (F.to_tensor(grey) - (0.485 + 0.456 + 0.406) / 3) / ((0.229 + 0.224 + 0.225) / 3)
    image = eval_transform(model)(picture(mode))
    torch.testing.assert_close(image, expected)
    assert model(image[None]).shape == (1, 3)


def test_pictures_become_a_torchvision_models_input() -> None:
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    model = torchvision.models.resnet18(weights=None)
    image = eval_transform(model)(picture("RGB"))
    assert image.shape == input_size(model) == (3, 224, 224)
    torch.testing.assert_close(image, weights.transforms(antialias=True)(picture("RGB")), atol=0.03, rtol=0)


def test_a_model_of_its_own_class_says_no_input_size() -> None:
    for question in (input_size, eval_transform):
        with pytest.raises(ValueError, match=r"^Sequential does not say which images .* Give --input_size C,H,W\."):
            question(nn.Sequential())
