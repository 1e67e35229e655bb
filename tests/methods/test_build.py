"""From a recipe to a method: which class, which switches, which heads, and how the predictor's rate departs."""

import math
from typing import Any

import pytest
import torch
from tests.conftest import tiny_recipe
from torch import nn

from byolt.methods.build import build_method
from byolt.methods.byol import Byol
from byolt.methods.mean_teacher import MeanTeacher
from byolt.methods.moco_v2 import MocoV2
from byolt.methods.moco_v3 import MocoV3
from byolt.methods.simclr import SimClr
from byolt.methods.simsiam import SimSiam
from byolt.networks.encoders import build_head, weight_seed
from byolt.recipe.model import Head
from byolt.training.step import Learner
from byolt_export.errors import InputError

MOCO = {"name": "moco_v2", "queue_size": 32, "norm_groups": 2, "tau": 0.9, "temperature": 0.3, "shuffle": False}


def build(method: dict[str, Any], **sections: Any) -> Any:
    return build_method(tiny_recipe(method=method, **sections), classes=3)


@pytest.mark.parametrize(
    ("method", "kind", "attributes"),
    [
        ({}, Byol, {"moving": True, "stop_gradient": True, "normalisation": "l2", "beta": 0.0}),
        ({"target": "frozen"}, Byol, {"moving": False}),
        ({"beta": 0.5, "temperature": 0.2}, Byol, {"beta": 0.5, "temperature": 0.2}),
        ({"target": "copy", "stop_gradient": False}, Byol, {"target": None, "stop_gradient": False}),
        ({"normalisation": "batch"}, Byol, {"normalisation": "batch"}),
        ({"name": "simclr", "temperature": 0.3}, SimClr, {"temperature": 0.3, "predictor": None}),
        ({"name": "simsiam"}, SimSiam, {"target": None}),
        (MOCO, MocoV2, {"temperature": 0.3, "norm_groups": 2, "shuffle": False, "predictor": None}),
        ({"name": "moco_v3", "temperature": 0.3}, MocoV3, {"temperature": 0.3}),
        ({"name": "mean_teacher", "consistency": 7.0, "rampup_share": 0.3}, MeanTeacher, {"consistency": 7.0}),
    ],
)  # fmt: skip
def test_a_recipe_s_method_and_switches(method: dict[str, Any], kind: type, attributes: dict[str, Any]) -> None:
    built = build(method)
    assert type(built) is kind
    assert {name: getattr(built, name) for name in attributes} == attributes


def test_predictors() -> None:
    assert len(build({}).predictor) == 4
    linear = build({"predictor": "linear"}).predictor
    assert [type(layer) for layer in linear] == [nn.Linear]
    assert build({"predictor": "none"}).predictor is None


def test_leaving_the_predictor_out_moves_no_other_weight() -> None:
    whole, without = build({}).state_dict(), build({"predictor": "none"}).state_dict()
    assert all(torch.equal(whole[name], without[name]) for name in without)


def test_every_part_of_every_seed_has_a_seed_of_its_own() -> None:
    assert len({weight_seed(seed, part) for seed in range(5) for part in range(3)}) == 15


def test_every_method_of_a_seed_begins_with_one_encoder() -> None:
    methods: list[dict[str, Any]] = [{}, {"name": "simclr"}, {"name": "simsiam"}, MOCO, {"name": "moco_v3"}]
    first, *others = [build(method).encoder.state_dict() for method in [*methods, {"name": "mean_teacher"}]]
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_heads_of_other_papers() -> None:
    head = Head(hidden_dim=24, out_dim=12, layers=3, out_norm=True)
    kinds = [type(layer).__name__ for layer in build_head(32, head, seed=0)]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    plain = [
        type(layer).__name__ for layer in build_head(32, Head(hidden_dim=24, out_dim=12, hidden_norm=False), seed=0)
    ]
    assert plain == ["Linear", "ReLU", "Linear"]


def test_mean_teacher_without_labels_is_refused() -> None:
    with pytest.raises(InputError, match="mean_teacher needs images whose sub-folders are classes"):
        build_method(tiny_recipe(method={"name": "mean_teacher"}), classes=0)


def learner(method: dict[str, Any]) -> Learner:
    return Learner(tiny_recipe(method=method), torch.device("cpu"), steps=8, steps_per_epoch=4, classes=3)


def rates(learned: Learner, step: int) -> set[float]:
    views = torch.randn(2, 16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    learned.step(step, *views)
    return {round(group["lr"], 9) for group in learned.optimizer.param_groups}


def test_the_predictor_s_rate() -> None:
    # Peak 0.4 * 16 / 256 = 0.025; step 4 of 8 is at half of it.
    assert rates(learner({}), 4) == {0.0125}
    assert rates(learner({"predictor_lr_multiplier": 10.0}), 4) == {0.0125, 0.125}
    assert rates(learner({"name": "simsiam"}), 4) == {0.0125, 0.025}
    assert rates(learner({"name": "simsiam", "predictor_rate": "cosine"}), 4) == {0.0125}
    groups = learner({"predictor_lr_multiplier": 2.0}).optimizer.param_groups
    own = [weight for group in groups if group.get("rate_multiplier") == 2.0 for weight in group["params"]]
    learned = learner({}).method.predictor
    assert learned is not None
    assert len(own) == len(list(learned.parameters()))


def test_the_tau_of_each_method() -> None:
    half = 1 - (1 - 0.9) * (math.cos(math.pi / 2) + 1) / 2
    assert learner({"name": "moco_v3", "tau_base": 0.9}).tau(4) == pytest.approx(half)
    assert learner(MOCO).tau(4) == 0.9
    assert learner({"name": "mean_teacher", "tau": 0.8}).tau(4) == 0.8
    assert learner({"name": "simclr"}).tau(4) is None


def test_a_step_tells_the_method_how_far_the_run_is() -> None:
    learned = learner({"name": "mean_teacher", "consistency": 10.0, "rampup_share": 1.0})
    views = torch.randn(2, 16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    learned.step(4, *views, torch.tensor([0, 1, 2, 0] + [-1] * 12))
    assert isinstance(learned.method, MeanTeacher)
    assert learned.method.weight.item() == pytest.approx(10 * math.exp(-5 * 0.25))


def test_a_batch_that_does_not_fit_the_method_is_refused() -> None:
    with pytest.raises(InputError, match="norm_groups 3 must cut a batch of 16 into equal parts"):
        tiny_recipe(method={"name": "moco_v2", "norm_groups": 3})
    with pytest.raises(InputError, match="queue_size 16 must hold the 32 keys"):
        tiny_recipe(method={"name": "moco_v2", "queue_size": 16})
    with pytest.raises(InputError, match="must leave at least 2 images on either side"):
        tiny_recipe(method={"name": "mean_teacher", "batch_share": 0.05})
