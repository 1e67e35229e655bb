"""`model.frozen_parts`: weights by name that stay the initial ones; all others learn."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import tiny_recipe
from tests.training.test_frozen_norms import METHODS, batch, initial, model_of
from tests.training.test_loop import recipe_in

from byolt.methods.build import build_method
from byolt.recipe.identity import result_keys
from byolt.training.loop import pretrain
from byolt.training.step import Learner
from byolt_export.errors import ByoltError, InputError

__all__ = ["initial"]
PARTS = ("conv1", "bn1", "layer1.0")
HELD = tuple(f"{part}." for part in PARTS)


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_the_parts_stay_and_the_rest_learns(name: str, norms: bool, initial: Path) -> None:
    model = model_of(initial, frozen_parts=PARTS, frozen_norms=norms)
    recipe = tiny_recipe(model=model, method={"name": name} | METHODS[name], optim={"weight_decay": 0.1})
    learned = Learner(
        recipe, torch.device("cpu"), steps=8, steps_per_epoch=4, classes=3 if name == "mean_teacher" else 0
    )
    for step in range(3):
        learned.step(step, *batch(name, seed=step))
    before = load_file(initial)
    encoders = [learned.method.encoder, *([] if learned.method.target is None else [learned.method.target[0]])]
    for encoder in encoders:
        for weight, value in encoder.named_parameters():
            assert torch.equal(value, before[weight]) == weight.startswith(HELD), weight
    of_stem = learned.method.encoder.get_buffer("bn1.running_mean")
    assert torch.equal(of_stem, before["bn1.running_mean"]) == norms  # Statistics are the other key's.


def test_a_whole_run_writes_them_as_they_were(initial: Path, tmp_path: Path) -> None:
    run = pretrain(recipe_in(tmp_path, model=model_of(initial, frozen_parts=PARTS)))
    kept = load_file(initial)
    for name, value in load_file(run.encoder_file).items():
        of_statistics = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert torch.equal(value, kept[name]) == (of_statistics or name.startswith(HELD)), name


def test_a_name_that_no_part_has_is_refused(initial: Path) -> None:
    with pytest.raises(InputError, match=r"model.frozen_parts: ResNet has no part 'layer1.9'; it has layer1.0$"):
        build_method(tiny_recipe(model=model_of(initial, frozen_parts=["layer1.9"])))
    with pytest.raises(InputError, match=r"has no part 'zzz'; it has conv1, bn1, act1, maxpool, layer1,"):
        build_method(tiny_recipe(model=model_of(initial, frozen_parts=["zzz"])))


def test_random_weights_have_nothing_to_keep() -> None:
    with pytest.raises(ByoltError, match="frozen_parts keeps initial weights, and random ones know nothing"):
        tiny_recipe(model={"frozen_parts": ["conv1"]})


def test_the_key_enters_the_hash_where_it_is_set_alone(initial: Path) -> None:
    before, after = (
        result_keys(tiny_recipe(model=model_of(initial, frozen_parts=parts))) for parts in ((), ("conv1",))
    )
    assert "model.frozen_parts" not in before
    assert "model.frozen_parts" in after
