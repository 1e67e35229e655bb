"""`model.frozen_norms`: the encoder learns under the statistics of its initial weights, and keeps them for good."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import tiny_recipe
from tests.distributed.test_process_group import assert_equal, twenty_steps
from tests.training.test_loop import recipe_in
from torch import Tensor, nn

from byolt.distributed.batch_norm import SyncBatchNorm, synchronise_norms
from byolt.files import read_json
from byolt.methods.build import build_method
from byolt.networks.frozen import freeze_norms, is_frozen
from byolt.recipe.identity import result_keys
from byolt.recipe.model import Model
from byolt.studies.measure import last_encoder
from byolt.training.checkpoint import load_checkpoint
from byolt.training.loop import pretrain
from byolt.training.step import Learner
from byolt_export.errors import ByoltError, InputError

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
METHODS: dict[str, dict[str, Any]] = {
    "byol": {},
    "simclr": {},
    "simsiam": {},
    "moco_v2": {"queue_size": 64, "norm_groups": 4},
    "moco_v3": {},
    "mean_teacher": {"labelled_share": 0.5},
}


@pytest.fixture
def initial(tmp_path: Path) -> Path:
    """Weights of the tiny recipe's backbone, whose norms have statistics, scales and shifts of their own."""
    model = timm.create_model("resnet18", layers=[1, 1, 1, 1], channels=[16, 16, 16, 16], num_classes=0)
    conv = torch.nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    model.conv1 = conv
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for name, value in weights.items():
        if name.endswith("running_mean"):
            value.uniform_(-0.5, 0.5)  # Smaller than the deviation, so that no ReLU is dead.
        elif name.endswith("running_var"):
            value.uniform_(0.2, 1.5)
        elif ".bn" in name or name.startswith("bn") or ".downsample.1" in name:
            value.add_(7 if name.endswith("num_batches_tracked") else 0.1 * torch.randn(value.shape))
    save_file(weights, tmp_path / "initial.safetensors")
    return tmp_path / "initial.safetensors"


def model_of(initial: Path, **keys: Any) -> dict[str, Any]:
    return {"init": "file", "init_file": initial, "frozen_norms": True} | keys


def learner(initial: Path, *, name: str = "byol", frozen: bool = True, **sections: Any) -> Learner:
    method = {"name": name} | METHODS[name]
    recipe = tiny_recipe(model=model_of(initial, frozen_norms=frozen), method=method, **sections)
    return Learner(recipe, torch.device("cpu"), steps=8, steps_per_epoch=4, classes=3 if name == "mean_teacher" else 0)


def batch(name: str = "byol", seed: int = 0) -> tuple[Tensor, ...]:
    view_1, view_2 = torch.randn(2, 16, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return (view_1, view_2, torch.arange(16) % 3) if name == "mean_teacher" else (view_1, view_2)


def assert_statistics_kept(encoder: nn.Module, initial: Path) -> None:
    kept = load_file(initial)
    for name, value in encoder.state_dict().items():
        if name.endswith(STATISTICS):
            assert torch.equal(value, kept[name]), name


@pytest.mark.parametrize("name", METHODS)
def test_after_steps_every_statistic_is_that_of_the_file_and_every_weight_has_moved(name: str, initial: Path) -> None:
    learned = learner(initial, name=name)
    for step in range(3):
        learned.method.train()  # Whoever calls it.
        learned.step(step, *batch(name, seed=step))
    encoders = [learned.method.encoder, *([] if learned.method.target is None else [learned.method.target[0]])]
    before = load_file(initial)
    for encoder in encoders:
        assert_statistics_kept(encoder, initial)
        for weight, value in encoder.named_parameters():
            assert not torch.equal(value, before[weight]), weight
        assert encoder.training
    heads = [part for part in learned.method.projector.modules() if isinstance(part, nn.BatchNorm1d)]
    assert all(head.training and int(head.num_batches_tracked or 0) >= 6 for head in heads)  # As before.
    assert bool(heads) == (name != "mean_teacher")


class _ByHand(nn.Module):
    """w (x - mean) / sqrt(var + eps) + b, with constants for the mean and the variance."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.weight, self.bias = norm.weight, norm.bias
        self.mean, self.deviation = norm.running_mean.clone(), (norm.running_var + norm.eps).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        of_channel = (value[:, None, None] for value in (self.weight, self.mean, self.deviation, self.bias))
        weight, mean, deviation, bias = of_channel
        return weight * (x - mean) / deviation + bias


def by_hand(module: nn.Module) -> nn.Module:
    for name, child in list(module.named_children()):
        setattr(module, name, _ByHand(child) if isinstance(child, nn.BatchNorm2d) else by_hand(child))
    return module


@pytest.mark.parametrize("machine", [{}, {"recompute": True}])
def test_a_step_is_that_of_constants_for_mean_and_variance(machine: dict[str, Any], initial: Path) -> None:
    learned, views = learner(initial, machine=machine), batch()
    plain = copy.deepcopy(learner(initial).method)
    by_hand(plain.encoder)
    assert plain.target is not None
    by_hand(plain.target[0])
    outcome = plain(*views)
    outcome.loss.backward()
    before = {name: value.detach().clone() for name, value in learned.method.named_parameters()}
    found = learned.step(0, *views)
    torch.testing.assert_close(found.loss, outcome.loss)
    gradients = {name: value.grad for name, value in plain.named_parameters() if value.grad is not None}
    assert {"encoder.bn1.weight", "encoder.bn1.bias", "encoder.conv1.weight"} < gradients.keys()
    for name, value in learned.method.named_parameters():
        if name in gradients:  # Rate 0.4 * 16 / 256.
            torch.testing.assert_close(value, before[name] - 0.025 * gradients[name], rtol=1e-4, atol=1e-6)
    assert abs(float(learner(initial, frozen=False).step(0, *views).loss - found.loss)) > 1e-3


def test_a_whole_run_keeps_them_says_so_and_goes_on_to_the_bit_where_it_was_killed(
    initial: Path, tmp_path: Path
) -> None:
    recipe = recipe_in(tmp_path, model=model_of(initial), optim={"momentum": 0.9})
    run = pretrain(recipe)
    delivered, state = load_file(run.encoder_file), load_checkpoint(run.checkpoints)["method"]
    kept = load_file(initial)
    for name, value in delivered.items():
        assert torch.equal(value, state[f"encoder.{name}"]), name
        assert torch.equal(value, kept[name]) == name.endswith(STATISTICS), name
    assert read_json(run.path / "evaluation" / "norm_statistics.json") == {"layers": 0, "frozen": 13}
    for name, value in last_encoder(run).state_dict().items():
        assert torch.equal(value, delivered[name]), name
    assert not any(is_frozen(part) for part in run.encoder().modules())  # The plain module, strictly loaded.

    class Killed(Exception):
        pass

    def killed_at_4(record: Any) -> None:
        if record.step >= 4:
            raise Killed

    again = recipe_in(tmp_path / "again", model=model_of(initial), optim={"momentum": 0.9})
    again = again.model_copy(update={"machine": again.machine.model_copy(update={"checkpoint_every_s": 0.001})})
    with pytest.raises(Killed):
        pretrain(again, on_log=killed_at_4)
    resumed = pretrain(again, resume="auto")
    assert "learning from step" in (resumed.path / "train.log").read_text()
    for name, value in load_checkpoint(resumed.checkpoints)["method"].items():
        assert torch.equal(value, state[name]), name
    assert resumed.encoder_file.read_bytes() == run.encoder_file.read_bytes()


def test_random_weights_have_nothing_to_keep() -> None:
    with pytest.raises(
        ByoltError, match="frozen_norms keeps statistics that random weights lack: take `init: imagenet`"
    ):
        tiny_recipe(model={"frozen_norms": True})


def test_a_backbone_without_norms_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model.frozen_norms: Sequential has no BatchNorm whose statistics"):
        freeze_norms(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))


def test_the_key_enters_the_hash_where_it_is_set_alone(initial: Path) -> None:
    recipes = [tiny_recipe(model=model_of(initial, frozen_norms=frozen)) for frozen in (False, True)]
    before, after = (result_keys(recipe) for recipe in recipes)
    assert "model.frozen_norms" not in before
    assert after == before | {"model.frozen_norms": True}
    assert Model().frozen_norms is False


def test_processes_leave_frozen_norms_as_they_are(initial: Path) -> None:
    method = build_method(tiny_recipe(model=model_of(initial)))
    frozen = [name for name, part in method.named_modules() if isinstance(part, nn.BatchNorm2d)]
    synchronise_norms(method, torch.device("cpu"))
    assert len(frozen) == 26  # The target's too.
    for name, part in method.named_modules():
        if name in frozen:
            assert type(part) is nn.BatchNorm2d
            assert not part.train().training
        elif isinstance(part, nn.BatchNorm1d | SyncBatchNorm):
            assert isinstance(part, SyncBatchNorm)


FROZEN = ["byol frozen norms", "moco v2 frozen norms"]


@pytest.mark.full
@pytest.mark.parametrize("method", FROZEN)
def test_twenty_steps_of_two_processes_are_those_of_one(method: str, tmp_path: Path) -> None:
    one, two = (twenty_steps(tmp_path, processes, FROZEN) for processes in (1, 2))
    assert_equal(method, one, two)
    for out in (one, two):
        weights = torch.load(out / f"{method}.pt")["weights"]
        statistics = {name: value for name, value in weights.items() if name.endswith(("mean", "var"))}
        of_encoder = [value for name, value in statistics.items() if name.startswith(("encoder.", "target.0."))]
        assert of_encoder
        assert all(bool((value == 0.5).all()) for value in of_encoder)
