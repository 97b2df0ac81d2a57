"""timm's models under a pyramid: compared with the models themselves, and with torchvision's own ResNet backbone."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from tiedconv.detection import FPNBackbone
from tiedconv.nn import TiedGlobalContext
from tiedconv.tasks import ClassificationTask

# Numbers of stages, and the first parameter after so many.
FAMILIES = {
    "resnet_tiny": {1: "layer1.0.conv1.weight", 2: "layer2.0.conv1.weight", 4: "layer4.0.conv1.weight"},
    "tiedresnet_tiny": {1: "layer1.0.conv1.weight", 2: "layer2.0.conv1.weight"},
    "test_resnet": {1: "layer1.0.conv1.weight", 3: "layer3.0.conv1.weight"},
    "efficientnet_b0": {1: "blocks.1.0.conv_pw.weight", 3: "blocks.3.0.conv_pw.weight"},
    "tiedefficientnet_b0_b4": {1: "blocks.1.0.conv_pw.weight", 4: "blocks.5.0.conv_pw.weight"},
    "mobilenetv3_small_100": {1: "blocks.0.0.conv_dw.weight", 2: "blocks.1.0.conv_pw.weight"},
    "convnext_atto": {1: "stages_1.downsample.0.weight", 2: "stages_2.downsample.0.weight"},
    "regnetx_002": {1: "s1.b1.conv1.conv.weight", 2: "s2.b1.conv1.conv.weight"},
    "densenet121": {1: "features_denseblock1.denselayer1.norm1.weight", 2: "features_transition1.norm.weight"},
}


def small(name: str, **options: Any) -> FPNBackbone:
    torch.manual_seed(0)
    return FPNBackbone(name, **{"out_channels": 8, **options})


def images(height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def lively(backbone: FPNBackbone) -> FPNBackbone:
    """Give norms statistics that they would have after training."""
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.4, 0.8)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return backbone


def batch_norms(module: nn.Module) -> dict[str, Any]:
    found = module.named_modules()
    return {name: norm for name, norm in found if isinstance(norm, nn.modules.batchnorm._BatchNorm)}


@pytest.mark.parametrize(
    ("name", "top", "extra"),
    [("tiedresnet_tiny", "p6p7", ["p6", "p7"]), *((name, "pool", ["pool"]) for name in FAMILIES)],
)
def test_a_pyramid_has_the_maps_that_its_reductions_say(name: str, top: Any, extra: list[str]) -> None:
    backbone = small(name, levels=3, top=top).eval()
    with torch.no_grad():
        pyramid = backbone(images())

    assert list(pyramid) == ["0", "1", "2", *extra]
    sizes = [(2, 8, math.ceil(64 / r), math.ceil(96 / r)) for r in backbone.reductions]
    assert [tuple(level.shape) for level in pyramid.values()] == sizes
    of_timm = timm.create_model(name, features_only=True).feature_info.reduction()[-3:]
    assert backbone.reductions[:3] == of_timm
    assert backbone.reductions[3:] == [of_timm[-1] * 2 ** (i + 1) for i in range(len(extra))]


def test_a_swin_transformer_has_a_pyramid_too() -> None:
    kwargs = {"strict_img_size": False, "embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    backbone = small("swin_tiny_patch4_window7_224", model_kwargs=kwargs).eval()
    assert [level.shape[2:] for level in backbone(images()).values()] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]


def test_the_body_is_timms_model() -> None:
    backbone = lively(small("efficientnet_b0", levels=3, model_kwargs={"drop_path_rate": 0.1})).eval()
    twin: Any = timm.create_model("efficientnet_b0", features_only=True).eval()
    twin.load_state_dict(backbone.body.state_dict())
    with torch.no_grad():
        features, pyramid = twin(images())[-3:], backbone(images())
        expected = backbone.fpn({str(i): feature for i, feature in enumerate(features)})
    assert_close(pyramid, expected)


def test_a_resnet_has_torchvisions_pyramid() -> None:
    theirs: Any = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d)
    ours = lively(FPNBackbone("resnet18"))
    body = {name: value for name, value in ours.body.state_dict().items() if not name.startswith("fc.")}
    theirs.body.load_state_dict(body)
    theirs.fpn.load_state_dict(ours.fpn.state_dict())
    with torch.no_grad():
        assert_close(ours.eval()(images()), theirs.eval()(images()))
    assert ours.out_channels == theirs.out_channels == 256
    assert ours.reductions == [4, 8, 16, 32, 64]


@pytest.mark.parametrize("levels", [1, 5])
def test_any_number_of_levels(levels: int) -> None:
    backbone = small("test_resnet", levels=levels)
    assert backbone.reductions == [2, 4, 8, 16, 32, 64][-levels - 1 :]
    assert [64 // level.shape[2] for level in backbone(images()).values()] == backbone.reductions


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_vit"])
def test_a_model_without_stages_is_refused(name: str) -> None:
    message = rf"last 2 feature maps of {name} have reductions \[16, 16\], which do not grow .* Choose a backbone with"
    with pytest.raises(ValueError, match=f"FPNBackbone: the {message} stages, such as a ResNet, EfficientNet"):
        small(name, levels=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 0}, r"levels must be in 1-5 for resnet_tiny, got 0\."),
        ({"levels": 6}, r"levels must be in 1-5 for resnet_tiny, got 6\."),
        ({"frozen_stages": -1}, r"frozen_stages must be in 0-5 for resnet_tiny, got -1\."),
        ({"frozen_stages": 6}, r"frozen_stages must be in 0-5 for resnet_tiny, got 6\."),
        ({"norm": "group"}, r"norm must be one of batch, frozen, sync, got 'group'\."),
        ({"top": "p8"}, r"top must be one of pool, p6p7, got 'p8'\."),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"FPNBackbone: {message}"):
        small("resnet_tiny", **options)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no model is called 'resnet_tyni'\."):
        small("resnet_tyni")


@pytest.mark.parametrize(("name", "stages", "follows"), [(n, s, f) for n, c in FAMILIES.items() for s, f in c.items()])
def test_frozen_stages_fix_what_comes_before_and_nothing_after(name: str, stages: int, follows: str) -> None:
    backbone = small(name, levels=3, frozen_stages=stages)
    names = [n for n, _ in backbone.body.named_parameters()]
    split = names.index(follows)
    assert 0 < split < len(names)
    assert [n for n, p in backbone.body.named_parameters() if not p.requires_grad] == names[:split]
    assert all(p.requires_grad for p in backbone.fpn.parameters())
    # A norm is fixed with its scale and shift.
    fixed = {n for n, norm in batch_norms(backbone.body).items() if not norm.training}
    assert fixed == {n for n, norm in batch_norms(backbone.body).items() if not norm.weight.requires_grad}


def test_no_stage_and_every_stage_can_be_frozen() -> None:
    assert all(p.requires_grad for p in small("resnet_tiny").parameters())
    backbone = small("resnet_tiny", frozen_stages=5)
    assert not any(p.requires_grad for p in backbone.body.parameters())
    assert not any(norm.training for norm in batch_norms(backbone.body).values())


def train_a_step(backbone: FPNBackbone) -> dict[str, Tensor]:
    """Return the state from before a step of training on something."""
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.eval()
    backbone.train()
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1, weight_decay=0.1)
    sum(level.square().mean() for level in backbone(images()).values()).backward()  # type: ignore[union-attr]
    optimizer.step()
    return before


@pytest.mark.parametrize("name", ["resnet_tiny", "tiedresnet_tiny", "test_efficientnet"])
def test_a_step_of_training_leaves_frozen_stages_alone(name: str) -> None:
    backbone = lively(small(name, levels=3, frozen_stages=2))
    before = train_a_step(backbone)
    after = backbone.state_dict()
    fixed = {f"body.{n}" for n, p in backbone.body.named_parameters() if not p.requires_grad}
    for norm in batch_norms(backbone.body):
        if f"body.{norm}.weight" in fixed:
            fixed |= {f"body.{norm}.{kind}" for kind in ("running_mean", "running_var", "num_batches_tracked")}
    changed = {n for n in after if not torch.equal(after[n], before[n])}
    assert changed == after.keys() - fixed
    assert sum("running_mean" in n for n in fixed) >= 4


@pytest.mark.parametrize("name", ["resnet_tiny", "tiedresnet_tiny", "test_efficientnet"])
def test_frozen_norms_change_in_nothing_and_all_else_does(name: str) -> None:
    backbone = lively(small(name, levels=3, norm="frozen"))
    before = train_a_step(backbone)
    after = backbone.state_dict()
    of_norms = {f"body.{norm}.{key}" for norm, m in batch_norms(backbone.body).items() for key in m.state_dict()}
    assert {n for n in after if not torch.equal(after[n], before[n])} == after.keys() - of_norms
    with torch.no_grad():
        as_in_training, as_in_evaluation = backbone.train()(images()), backbone.eval()(images())
    assert_close(as_in_training, as_in_evaluation)


def test_batch_norms_train_by_default() -> None:
    backbone = lively(small("resnet_tiny"))
    before = train_a_step(backbone)
    assert not any(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("name", ["tiedresnet_tiny", "test_efficientnet", "regnetx_002", "densenet121"])
def test_synchronised_norms_compute_the_same_on_one_device(name: str) -> None:
    plain, synchronised = lively(small(name, levels=3)), small(name, levels=3, norm="sync", frozen_stages=1)
    synchronised.load_state_dict(plain.state_dict())
    norms = batch_norms(synchronised.body).values()
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert len(norms) == len(batch_norms(plain.body))
    with torch.no_grad():
        assert_close(synchronised.eval()(images()), plain.eval()(images()))


CONTEXT_WEIGHTS = {1: 9_961_472, 2: 2_490_368, 4: 622_592}  # 2 C² / (4 B²) a block, of 4, 6 and 3 blocks


@pytest.mark.parametrize("blocks", CONTEXT_WEIGHTS)
def test_context_blocks_have_the_weights_of_the_papers_table_4(blocks: int) -> None:
    with torch.device("meta"):
        backbone = FPNBackbone("resnet50", context_blocks=blocks)
    contexts = {n: m for n, m in backbone.body.named_modules() if isinstance(m, TiedGlobalContext)}
    assert [n.partition(".")[0] for n in contexts] == ["layer2"] * 4 + ["layer3"] * 6 + ["layer4"] * 3
    weights = sum(layer.weight.numel() for m in contexts.values() for layer in (m.fc1, m.fc2))
    assert weights == CONTEXT_WEIGHTS[blocks]


@pytest.mark.parametrize("name", ["resnet_tiny", "tiedresnet_tiny", "seresnet50"])
def test_context_blocks_start_as_the_identity_and_count_after_that(name: str) -> None:
    plain, with_context = lively(small(name)).eval(), small(name, context_blocks=2).eval()
    missing, unexpected = with_context.load_state_dict(renamed(plain, with_context), strict=False)
    assert unexpected == []
    contexts = [m for m in with_context.body.modules() if isinstance(m, TiedGlobalContext)]
    assert len(missing) == sum(len(m.state_dict()) for m in contexts) > 0
    with torch.no_grad():
        expected = plain(images())
        assert_close(with_context(images()), expected)
        for context in contexts:
            nn.init.normal_(context.fc2.weight)
        changed = with_context(images())
    assert all(not torch.allclose(changed[level], expected[level]) for level in expected)


def renamed(plain: FPNBackbone, with_context: FPNBackbone) -> dict[str, Tensor]:
    """The state, with attention of timm's own where it went when a context block came to its side."""
    names = with_context.state_dict().keys()
    state = plain.state_dict()
    return {n if n in names else n.replace(".se.", ".se.0."): value for n, value in state.items()}


def test_every_context_block_is_trained() -> None:
    backbone = lively(small("tiedresnet_tiny", context_blocks=4))
    for context in (m for m in backbone.body.modules() if isinstance(m, TiedGlobalContext)):
        nn.init.normal_(context.fc2.weight)
    sum(level.square().mean() for level in backbone(images()).values()).backward()  # type: ignore[union-attr]
    # A softmax does not see its logits' common bias.
    seen = {n: p for n, p in backbone.named_parameters() if not n.endswith("se.context.bias")}
    assert [n for n, p in seen.items() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "convnext_atto"])
def test_context_blocks_need_bottlenecks(name: str) -> None:
    message = rf"which {name} does not have\. Choose a ResNet, ResNeXt or tied one, or leave context_blocks out"
    with pytest.raises(ValueError, match=f"FPNBackbone: context_blocks needs the bottlenecks of a ResNet, {message}"):
        small(name, context_blocks=2)


def test_context_blocks_must_fit() -> None:
    with pytest.raises(ValueError, match=r"TiedGlobalContext: .*blocks"):
        small("resnet_tiny", context_blocks=3)


def saved_by_lightning(name: str, folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """A classifier's checkpoint, as a training leaves it."""
    task = ClassificationTask(name, 10, 3)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=1
    )
    trainer.strategy.connect(task)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt", task.model.state_dict()


def saved_by_torch(name: str, folder: Path) -> tuple[Path, dict[str, Tensor]]:
    state = timm.create_model(name, num_classes=7).state_dict()
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth", state


def saved_by_safetensors(name: str, folder: Path) -> tuple[Path, dict[str, Tensor]]:
    state = timm.create_model(name, num_classes=1000).state_dict()
    save_file(state, folder / "weights.safetensors")
    return folder / "weights.safetensors", state


def flat(name: str) -> str:
    return name.replace(".", "_")  # timm's features_only joins the names of some families by _


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("tiedresnet_tiny", saved_by_lightning),
        ("tiedresnet_tiny", saved_by_torch),
        ("tiedresnet_tiny", saved_by_safetensors),
        ("test_efficientnet", saved_by_torch),
        ("convnext_atto", saved_by_torch),
        ("regnetx_002", saved_by_torch),
    ],
)
def test_the_body_starts_from_a_classifiers_weights(name: str, save: Callable[..., Any], tmp_path: Path) -> None:
    path, state = save(name, tmp_path)
    backbone = small(name, levels=3, weights=path if save is saved_by_torch else str(path))
    expected = {flat(key): value for key, value in state.items()}
    for key, value in backbone.body.state_dict().items():
        assert torch.equal(value, expected[flat(key)]), key


def test_weights_and_other_options_go_together(tmp_path: Path) -> None:
    path, state = saved_by_torch("tiedresnet_tiny", tmp_path)
    options: dict[str, Any] = {"context_blocks": 2, "norm": "frozen", "frozen_stages": 2}
    backbone = small("tiedresnet_tiny", weights=path, model_kwargs={"drop_path_rate": 0.1}, **options)
    body = backbone.body.state_dict()
    assert all(torch.equal(body[key], value) for key, value in state.items() if not key.startswith("fc."))
    assert "layer4.0.se.fc1.weight" in body


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path, _ = saved_by_torch("resnet_tiny", tmp_path)
    message = r"does not hold the weights of tiedresnet_tiny \(missing: \d+, such as layer1\.0\..*; unknown: \d+, such"
    with pytest.raises(ValueError, match=rf"FPNBackbone: {path} {message}"):
        small("tiedresnet_tiny", weights=path)
    message = r"weights of resnet_tiny \(of another shape: \d+, such as layer1\.0\.conv1\.weight\)\."
    with pytest.raises(ValueError, match=f"FPNBackbone: .*{message}"):
        small("resnet_tiny", weights=path, model_kwargs={"base_width": 48})


def test_weights_for_other_channels_are_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet_tiny", in_chans=1).state_dict(), tmp_path / "grey.pth")
    with pytest.raises(ValueError, match=r"weights of resnet_tiny \(of another shape: 1, such as conv1\.weight\)"):
        small("resnet_tiny", weights=tmp_path / "grey.pth")


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    message = rf"FPNBackbone: {tmp_path}/last\.ckpt does not exist\. Give a checkpoint of `tiedconv fit`, "
    with pytest.raises(FileNotFoundError, match=message):
        small("resnet_tiny", weights=tmp_path / "last.ckpt")


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"FPNBackbone: .*list\.pth must hold a state dict, got a list\."):
        small("resnet_tiny", weights=tmp_path / "list.pth")


def test_fixed_norms_stay_fixed_when_lightning_exchanges_them_for_synchronised_ones():
    body = FPNBackbone("resnet_tiny", norm="frozen")
    body = torch.nn.SyncBatchNorm.convert_sync_batchnorm(body).train()
    norms = [module for module in body.body.modules() if isinstance(module, torch.nn.SyncBatchNorm)]
    assert norms
    assert not any(norm.training for norm in norms)
