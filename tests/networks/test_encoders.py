"""Encoders by name: features, stems, edge networks that learn, and weights that load without byolt."""

import re
from pathlib import Path
from typing import Any

import pytest
import safetensors
import timm
import torch
import torchvision
from safetensors.torch import save_file
from tests.conftest import tiny_recipe
from torch import nn

from byolt.networks.encoders import build_encoder, load_snippet, save_weights
from byolt.networks.initial_weights import load_encoder
from byolt.recipe.model import Model
from byolt.training.step import Learner
from byolt_export.errors import InputError

SMALL_TIMM: dict[str, Any] = {"backbone": "timm/resnet18", "args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]}}


def model(**keys: Any) -> Model:
    return Model.model_validate(keys)


@pytest.mark.parametrize(
    ("backbone", "feature_dim"),
    [
        ("resnet18", 512),
        ("resnet50", 2048),
        ("mobilenet_v3_small", 576),
        ("efficientnet_b0", 1280),
        ("regnet_y_400mf", 440),
        ("timm/mobilenetv3_small_100", 1024),
    ],
)
def test_edge_networks_learn_two_steps(backbone: str, feature_dim: int) -> None:
    recipe = tiny_recipe(model={"backbone": backbone, "args": {}, "stem": "plain"}, optim={"batch_size": 4})
    learner = Learner(recipe, torch.device("cpu"), steps=4, steps_per_epoch=4)
    assert learner.method.projector[0].in_features == feature_dim
    before = {name: value.clone() for name, value in learner.method.encoder.named_parameters()}
    losses = [learner.step(step, *torch.randn(2, 4, 3, 64, 64)).loss for step in range(2)]
    assert all(torch.isfinite(loss) for loss in losses)
    moved = [not torch.equal(value, before[name]) for name, value in learner.method.encoder.named_parameters()]
    assert all(moved), f"{moved.count(False)} parameters of {backbone} took no gradient"


@pytest.mark.parametrize(
    "keys",
    [
        {"backbone": "resnet18"},
        {"backbone": "resnet18", "stem": "small"},
        {"backbone": "mobilenet_v3_small"},
        {"backbone": "convnext_tiny"},
        {"backbone": "mnasnet0_5"},
        SMALL_TIMM,
        SMALL_TIMM | {"stem": "small"},
        {"backbone": "timm/resnetv2_18", "args": {"layers": [1, 1], "channels": [8, 16]}, "stem": "half"},
    ],
)
def test_the_snippet_loads_the_weights_into_the_plain_model(
    keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = model(**keys)
    encoder, _ = build_encoder(settings, seed=1, image_size_px=32)
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"torch": torch, "torchvision": torchvision, "timm": timm, "safetensors": safetensors}
    exec(load_snippet(settings), names)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(names["encoder"].eval()(images), encoder.eval()(images))


@pytest.mark.parametrize(
    ("backbone", "args", "feature_dim"),
    [
        ("googlenet", {"aux_logits": False, "init_weights": False}, 1024),
        ("convnext_tiny", {}, 768),
        ("timm/deit_tiny_distilled_patch16_224", {"img_size": 32, "depth": 1}, 192),
    ],
)
def test_backbones_of_several_outputs_give_one_vector(backbone: str, args: dict[str, Any], feature_dim: int) -> None:
    """Without auxiliary classifiers, and a classifier that flattens the features itself."""
    encoder, width = build_encoder(model(backbone=backbone, args=args), seed=0, image_size_px=32)
    assert width == feature_dim
    assert encoder.train()(torch.randn(2, 3, 32, 32)).shape == (2, feature_dim)


def test_the_look_at_the_features_leaves_encoder_and_random_state_alone() -> None:
    state = torch.get_rng_state()
    encoder, _ = build_encoder(model(**SMALL_TIMM), seed=0, image_size_px=32)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(encoder.bn1.running_var, torch.ones(64))
    assert encoder.bn1.num_batches_tracked == 0


def test_small_stem_keeps_the_resolution() -> None:
    encoder, _ = build_encoder(model(**SMALL_TIMM, stem="small"), seed=0, image_size_px=32)
    assert encoder.conv1.stride == (1, 1)
    assert encoder.maxpool(encoder.conv1(torch.zeros(1, 3, 32, 32))).shape[2:] == (32, 32)


def test_dropout_and_stochastic_depth_are_zero() -> None:
    encoder, _ = build_encoder(model(backbone="efficientnet_b0"), seed=0, image_size_px=32)
    rates = [m.p for m in encoder.modules() if type(m).__name__ in ("StochasticDepth", "Dropout")]
    assert rates
    assert set(rates) == {0.0}


def test_zero_init_residual_makes_blocks_the_identity() -> None:
    plain, zero = (
        build_encoder(model(backbone="resnet18", zero_init_residual=on), seed=0, image_size_px=32)[0]
        for on in (False, True)
    )
    assert torch.equal(zero.layer1[0].bn2.weight, torch.zeros(64))
    assert torch.equal(plain.layer1[0].bn2.weight, torch.ones(64))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"backbone": "resnet81"}, "torchvision has no model 'resnet81'; did you mean 'resnet18'?"),
        ({"backbone": "timm/resnet19"}, "timm has no model 'resnet19'; did you mean 'timm/resnet1"),
        ({"backbone": "mobilenet_v3_small", "stem": "small"}, "mobilenet_v3_small has no ResNet stem"),
        ({"backbone": "resnet18", "args": {"layer": 3}}, "model.args do not fit resnet18"),
        ({"backbone": "vit_b_16"}, "vit_b_16 does not take 32 px images"),
        (
            {"backbone": "googlenet", "args": {"init_weights": False}},
            "googlenet gives a GoogLeNetOutputs for 2 images while it learns, not one tensor (batch, features): "
            "set model.args: {aux_logits: false}",
        ),
        (
            SMALL_TIMM | {"args": SMALL_TIMM["args"] | {"features_only": True}},
            "timm/resnet18 gives a list for 2 images, not one tensor (batch, features): leave features_only out",
        ),
        (
            SMALL_TIMM | {"args": SMALL_TIMM["args"] | {"global_pool": ""}},
            "gives a tensor of shape (2, 16, 1, 1) for 2 images, not one tensor (batch, features): leave global_pool",
        ),
    ],
)
def test_what_does_not_fit_is_told(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        build_encoder(model(**keys), seed=0, image_size_px=32)


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    save_file(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(InputError, match="of another backbone"):
        load_encoder(nn.Linear(3, 3), path)
    with pytest.raises(InputError, match="of another backbone"):
        load_encoder(nn.BatchNorm1d(2), path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read: damaged, or no safetensors file"):
        load_encoder(nn.Linear(2, 2), path)


def test_building_leaves_torchs_random_state() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    build_encoder(model(**SMALL_TIMM), seed=0, image_size_px=32)
    assert torch.equal(before, torch.get_rng_state())


def test_a_backbone_that_asks_for_the_version_of_its_weights_is_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(backbone="mnasnet0_5")
    (written, _), (read, _) = (build_encoder(model, seed=seed, image_size_px=32) for seed in (0, 1))
    save_weights(written, tmp_path / "encoder.safetensors", {})
    load_encoder(read, tmp_path / "encoder.safetensors")
    assert all(torch.equal(value, read.state_dict()[name]) for name, value in written.state_dict().items())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"torch": torch, "torchvision": torchvision, "safetensors": safetensors}
    exec(load_snippet(model), names)
    assert torch.equal(names["encoder"].state_dict()["layers.0.weight"], written.state_dict()["layers.0.weight"])
