"""Recipes: every fault at once, where it is, and what makes two runs the same run."""

from pathlib import Path

import pytest

from byolt.recipe.explain import explain
from byolt.recipe.identity import recipe_hash, result_keys
from byolt.recipe.load import dump_recipe, load_recipe, with_overrides
from byolt_export.errors import InputError

GOOD = """\
# A comment.
data: {name: synthetic, image_size_px: 32}
optim:
  base_lr: 3e-1
  batch_size: 64
schedule: {epochs: 20, warmup_epochs: 2}
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


def faults_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_recipe(path, overrides)
    return str(caught.value).splitlines()


def test_a_good_recipe_is_named_after_its_file_and_reads_3e_1_as_a_number(good: Path) -> None:
    recipe = load_recipe(good)
    assert (recipe.name, recipe.optim.base_lr, recipe.optim.name) == ("good", 0.3, "lars")


def test_three_faults_are_three_lines(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "seed: true\ndata:\n  name: sintetic\n  image_size_px: 32\noptim:\n  batch_sise: 12\nschedule: {epochs: 20}\n"
    )
    assert faults_of(path) == [
        f"{path}:1: seed: should be a whole number, got true",
        f"{path}:3: data.name: 'sintetic' is not one of folder, shards, stl10, cifar10, cifar100, imagenette, solar, "
        "synthetic; did you mean 'synthetic'?",
        f"{path}:6: optim.batch_sise: unknown key; did you mean 'batch_size'?",
    ]


def test_a_misspelt_required_key_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("data: {name: synthetic, image_size_px: 32}\nschedule:\n  epoch: 3\n")
    assert faults_of(path) == [f"{path}:3: schedule.epoch: unknown key; did you mean 'epochs'?"]


def test_a_missing_key_points_at_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("schedule: {epochs: 20}\ndata:\n  name: synthetic\n")
    assert faults_of(path) == [f"{path}:2: data.image_size_px: required key is missing"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.momentun=0.9", "--set optim.momentun=0.9: optim.momentun: unknown key; did you mean 'momentum'?"),
        (
            "optim.weight_decay=-4",
            "--set optim.weight_decay=-4: optim.weight_decay: should be at least 0, got -4",
        ),
        ("optim.base_lr.x=1", "--set optim.base_lr.x=1: optim.base_lr holds a value, not a mapping"),
        ("optim.base_lr", "--set optim.base_lr: write key=value, for example --set optim.batch_size=128"),
        ("optim.name=[", "--set optim.name=[: a list or mapping that begins with [ or { is not closed"),
        (
            "views.view_1.crop_area=[0.5, 0.1]",
            "--set views.view_1.crop_area=[0.5, 0.1]: views.view_1: crop_area [0.5, 0.1] must hold two positive "
            "numbers, the smaller first",
        ),
    ],
)
def test_a_fault_in_an_override_names_the_flag(good: Path, override: str, message: str) -> None:
    assert faults_of(good, override) == [message]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", ":2: "),
        ("- a\n- b\n", ":1: a recipe is a mapping of keys"),
        ("seed: 1\nseed: 2\n", ":2: found duplicate key"),
        ("", ":1: a recipe is a mapping of keys"),
    ],
)
def test_what_is_not_a_recipe_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert f"{path}{message}" in faults_of(path)[0]


def test_a_missing_file_suggests_its_neighbour(good: Path) -> None:
    assert faults_of(good.with_name("god.yaml")) == [
        f"recipe {good.with_name('god.yaml')} not found; did you mean {good}?"
    ]


def test_cross_field_faults(good: Path) -> None:
    assert "accumulate 3 must cut batch_size 64 into equal parts" in faults_of(good, "optim.accumulate=3")[0]
    assert "warmup_epochs 20 must be below epochs 20" in faults_of(good, "schedule.warmup_epochs=20")[0]
    assert faults_of(good, "data.name=folder") == [
        "--set data.name=folder: data: root is missing: a `folder` set needs the folder's path"
    ]


def test_the_second_view_keeps_its_own_defaults_when_one_key_is_set(good: Path) -> None:
    # Table 6 of the paper: blur 1.0 and 0.1, solarize 0.0 and 0.2.
    views = load_recipe(good, ["views.view_2.crop_area=[0.2, 1.0]"]).views
    assert (views.view_1.blur, views.view_2.blur) == (1.0, 0.1)
    assert (views.view_1.solarize, views.view_2.solarize) == (0.0, 0.2)


def test_a_dumped_recipe_reads_back_equal(good: Path, tmp_path: Path) -> None:
    recipe = load_recipe(good, ["data.root=some/where", "views.view_1.crop_area=[0.2, 0.9]"])
    dumped = tmp_path / "resolved.yaml"
    dumped.write_text(dump_recipe(recipe))
    assert load_recipe(dumped) == recipe


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "method.tau_base=0.99",
        "views.view_1.crop_area=[0.2, 1.0]",
        "views.view_2.solarize=0.1",
        "optim.base_lr=0.2",
    ],
)
def test_seed_tau_and_augmentation_make_another_run(good: Path, override: str) -> None:
    one, other = result_keys(load_recipe(good)), result_keys(load_recipe(good, [override]))
    assert recipe_hash(one, "images") != recipe_hash(other, "images")


@pytest.mark.parametrize(
    "override", ["machine.workers=4", "data.root=elsewhere", "evaluation.knn_k=5", "machine.runs_dir=out"]
)
def test_the_machine_does_not_make_another_run(good: Path, override: str) -> None:
    one, other = result_keys(load_recipe(good)), result_keys(load_recipe(good, [override]))
    assert recipe_hash(one, "images") == recipe_hash(other, "images")


def test_other_images_make_another_run(good: Path) -> None:
    keys = result_keys(load_recipe(good))
    assert recipe_hash(keys, "images") != recipe_hash(keys, "other images")


def test_initial_weights_count_by_their_content(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    first.write_bytes(b"weights")
    second.write_bytes(b"weights")
    settings = ["model.init=file"]
    keys = [result_keys(load_recipe(good, [*settings, f"model.init_file={path}"])) for path in (first, second)]
    assert keys[0] == keys[1]
    package = tmp_path / "weights_in_a_package"
    package.mkdir()
    (package / "__init__.py").touch()
    for folder in (tmp_path, package):
        (folder / "encoder.safetensors").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    for place in (tmp_path, "package:weights_in_a_package/encoder.safetensors"):
        assert result_keys(load_recipe(good, [*settings, f"model.init_file={place}"])) == keys[0]
    second.write_bytes(b"others")
    assert result_keys(load_recipe(good, [*settings, f"model.init_file={second}"])) != keys[0]


def test_overrides_on_a_parsed_recipe_are_checked_too(good: Path) -> None:
    recipe = load_recipe(good)
    assert with_overrides(recipe, ["finetune.epochs=3"]).finetune.epochs == 3
    with pytest.raises(InputError, match="--set finetune.epoch=3: finetune.epoch: unknown key; did you mean 'epochs'"):
        with_overrides(recipe, ["finetune.epoch=3"])


@pytest.mark.parametrize("override", ["optim.base_lr=0.2", "seed=4", "views.view_2.blur=0.5", "data.image_size_px=64"])
def test_after_learning_a_result_key_is_refused_by_name(good: Path, override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(InputError, match=f"--set {key}: the run has been learned with another value") as fault:
        with_overrides(load_recipe(good), [override, "finetune.epochs=3"])
    assert "\n" not in str(fault.value)


def test_after_learning_machine_keys_may_change(good: Path) -> None:
    settings = ["machine.device=cpu", "data.root=elsewhere", "export.max_batch=8", "evaluation.knn_k=3", "seed=0"]
    changed = with_overrides(load_recipe(good), settings)  # The run's own seed changes nothing.
    assert (changed.data.root, changed.export.max_batch, changed.evaluation.knn_k) == (Path("elsewhere"), 8, 3)


def test_every_key_is_explained() -> None:
    rows = explain()
    assert all(row.meaning.endswith((".", ")")) and len(row.meaning) > 5 for row in rows)
    kinds = {row.key: row.kind for row in rows}
    assert (kinds["optim.base_lr"], kinds["machine.workers"], kinds["data.root"]) == ("result", "machine", "machine")
    rows = explain("method")
    assert {row.key for row in rows if row.method == "simclr"} == {"method.name", "method.temperature"}
    assert {"method.tau_base", "method.target", "method.beta"} <= {row.key for row in rows if row.method == "byol"}
    assert {row.method for row in rows} == {"byol", "simclr", "simsiam", "moco_v2", "moco_v3", "mean_teacher"}
    assert [row.method for row in explain("method.queue_size")] == ["moco_v2"]
    with pytest.raises(InputError, match="did you mean 'optim.base_lr'"):
        explain("optim.base_rl")


def test_a_recipe_is_explained_with_its_values(good: Path) -> None:
    values = {row.key: row.value for row in explain(recipe=load_recipe(good))}
    assert (values["optim.base_lr"], values["optim.momentum"], values["views.view_2.solarize"]) == (0.3, 0.9, 0.2)
    assert set(values) == {row.key for row in explain() if row.method in ("", "byol")}
