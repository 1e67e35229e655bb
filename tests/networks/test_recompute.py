"""Blocks computed again in backward: the same weights and statistics to the bit, and fewer bytes kept."""

import copy
from typing import Any

import pytest
import torch
from tests.conftest import tiny_recipe
from torch import Tensor, nn

from byolt.networks.encoders import build_encoder
from byolt.networks.recompute import recompute_blocks
from byolt.recipe.model import Model
from byolt.training.step import Learner
from byolt_export.errors import InputError

# Blocks as the papers' tables have them.
FAMILIES = {
    "resnet18": 8,
    "timm/resnetv2_50": 16,
    "mobilenet_v2": 17,
    "efficientnet_b0": 16,
    "timm/mobilenetv3_small_050": 11,
    "convnext_tiny": 18,
    "timm/convnext_atto": 12,
    "timm/vit_tiny_patch16_224": 12,
    "vit_b_16": 12,
}


def learner(**sections: Any) -> Learner:
    recipe = tiny_recipe(**sections)
    return Learner(recipe, torch.device("cpu"), steps=8, steps_per_epoch=4)


def views(seed: int) -> tuple[Tensor, Tensor]:
    view_1, view_2 = torch.randn(2, 16, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return view_1, view_2


def encoder_of(backbone: str, size_px: int = 224) -> nn.Module:
    args: dict[str, Any] = {"image_size": 224} if backbone == "vit_b_16" else {}
    return build_encoder(Model(backbone=backbone, args=args), seed=0, image_size_px=size_px)[0]


def kept_bytes(encoder: nn.Module, images: Tensor) -> int:
    """Bytes that a forward in training keeps for backward, weights left out."""
    weights = {value.untyped_storage().data_ptr() for value in encoder.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = encoder(images)
    assert features.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["byol", "simclr"])
def test_weights_moments_and_statistics_are_bit_equal_after_five_steps(method: str, precision: str) -> None:
    same: dict[str, Any] = {"method": {"name": method}, "optim": {"momentum": 0.9, "base_lr": 4.0}}
    plain = learner(**same, machine={"precision": precision})
    again = learner(**same, machine={"precision": precision, "recompute": True})
    assert (plain.recomputed_blocks, again.recomputed_blocks) == (0, 4)
    for step in range(5):
        assert torch.equal(plain.step(step, *views(step)).loss, again.step(step, *views(step)).loss)
    expected, found = plain.method.state_dict(), again.method.state_dict()
    assert list(expected) == list(found)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    counts = [value for name, value in found.items() if name.startswith("encoder") and "num_batches" in name]
    assert {int(count) for count in counts} == {10}  # Five steps of two views.


@pytest.mark.parametrize(("backbone", "blocks"), FAMILIES.items(), ids=list(FAMILIES))
def test_the_blocks_of_a_family_are_found(backbone: str, blocks: int) -> None:
    assert recompute_blocks(encoder_of(backbone)) == blocks


@pytest.mark.parametrize(
    ("backbone", "share"),
    # The stem of a ResNet keeps what it kept: at 64 of its channels more than the eight blocks' inputs together.
    [("resnet18", 0.6), ("mobilenet_v2", 0.3), ("timm/convnext_atto", 0.3), ("timm/vit_tiny_patch16_224", 0.3)],
)
def test_less_is_kept_and_the_gradient_is_the_same(backbone: str, share: float) -> None:
    plain = encoder_of(backbone)
    again = copy.deepcopy(plain)
    recompute_blocks(again)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert kept_bytes(again, images) < share * kept_bytes(plain, images)
    for encoder in (plain, again):
        encoder(images).square().sum().backward()
    for fast, slow in zip(plain.parameters(), again.parameters(), strict=True):
        assert (fast.grad is None) == (slow.grad is None)
        assert fast.grad is None or (slow.grad is not None and torch.equal(fast.grad, slow.grad))


def test_a_deep_copy_runs_its_own_weights() -> None:
    online = encoder_of("resnet18", 32)
    recompute_blocks(online)
    target = copy.deepcopy(online)
    with torch.no_grad():
        for weight in online.parameters():
            weight.zero_()
    images = torch.randn(4, 3, 32, 32)
    assert online(images).abs().sum() == 0
    features = target(images)
    assert features.abs().sum() > 0
    features.sum().backward()
    assert all(weight.grad is None for weight in online.parameters())
    assert all(weight.grad is not None for weight in target.parameters())


def test_nothing_is_recomputed_without_a_gradient_or_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, images = encoder_of("resnet18", 32), torch.randn(2, 3, 32, 32)
    recompute_blocks(encoder)
    monkeypatch.setattr("byolt.networks.recompute.checkpoint", None)
    with torch.no_grad():
        encoder(images)
    encoder.eval()(images)
    with pytest.raises(TypeError):
        encoder.train()(images)


def test_names_and_kinds_stay() -> None:
    plain, again = encoder_of("resnet18", 32), encoder_of("resnet18", 32)
    recompute_blocks(again)
    assert list(plain.state_dict()) == list(again.state_dict())
    assert [type(part).__name__ for part in plain.modules()] == [type(part).__name__ for part in again.modules()]
    assert isinstance(again.get_submodule("layer1.0"), type(plain.get_submodule("layer1.0")))


def test_the_exported_graph_is_the_same() -> None:
    plain, again = encoder_of("resnet18", 32).eval(), encoder_of("resnet18", 32).eval()
    recompute_blocks(again)
    images = (torch.randn(2, 3, 32, 32),)
    graphs = [torch.export.export(encoder, images).graph for encoder in (plain, again)]
    first, second = ([(node.op, str(node.target)) for node in graph.nodes] for graph in graphs)
    assert first == second


def test_an_encoder_without_blocks_is_told() -> None:
    with pytest.raises(InputError, match=r"machine\.recompute: VGG has no stage of blocks .*optim\.accumulate"):
        recompute_blocks(encoder_of("vgg11"))
