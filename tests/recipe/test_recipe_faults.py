"""What a recipe cannot be: every number within bounds, plain YAML alone, and each fault in words of byolt's own."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import jaxtyping
import pytest

from byolt.recipe.load import dump_recipe, load_recipe, with_changes, with_overrides
from byolt.recipe.method_settings import METHODS
from byolt.recipe.schema import Recipe
from byolt.recipe.section import Section, is_section
from byolt_export.errors import InputError

KNOWN = "byol, mean_teacher, moco_v2, moco_v3, simclr, simsiam"
GOOD = "data: {name: synthetic, image_size_px: 32}\noptim: {batch_size: 64}\nschedule: {epochs: 20}\n"


def recipe_of(tmp_path: Path, text: str | bytes = GOOD) -> Path:
    path = tmp_path / "good.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def fault_of(path: Path, overrides: Any = ()) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(path, overrides)
    return str(caught.value).replace(f"{path}:", "")


def numbers_in(annotation: Any, metadata: list[Any]) -> Iterator[list[Any]]:
    """The constraints of each number that a type is or holds."""
    inside = list(get_args(annotation))
    if hasattr(annotation, "__metadata__"):
        (inner, *more) = inside
        yield from numbers_in(inner, [*metadata, *(c for m in more for c in getattr(m, "metadata", [m]))])
    elif annotation in (int, float):
        yield metadata
    elif get_origin(annotation) is not dict:
        for inner in inside:
            yield from numbers_in(inner, metadata)


def numbers_of(section: type[Section], parents: tuple[str, ...] = ()) -> Iterator[tuple[str, list[Any]]]:
    for name, field in section.model_fields.items():
        if is_section(field.annotation):
            yield from numbers_of(field.annotation, (*parents, name))
        for metadata in numbers_in(field.annotation, list(field.metadata)):
            yield ".".join((*parents, name)), metadata


def test_every_number_of_a_recipe_has_both_bounds_and_they_are_finite() -> None:
    sections = [((), Recipe), *((("method",), settings) for settings in METHODS.values())]
    found = [number for parents, section in sections for number in numbers_of(section, parents)]
    assert len(found) > 80
    for key, metadata in found:
        low = [getattr(m, bound) for m in metadata for bound in ("ge", "gt") if hasattr(m, bound)]
        high = [getattr(m, bound) for m in metadata for bound in ("le", "lt") if hasattr(m, bound)]
        assert len(low) == len(high) == 1, key
        assert math.isfinite(low[0]), key
        assert math.isfinite(high[0]), key


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("optim.base_lr=.inf", "optim.base_lr: should be a finite number, got inf"),
        ("optim.weight_decay=.nan", "optim.weight_decay: should be a finite number, got nan"),
        ("schedule.warmup_epochs=1e400", "schedule.warmup_epochs: should be a finite number, got inf"),
        ("data.std=[0, 0, 0]", "data.std.0: should be at least 0.001, got 0"),
        ("data.mean=[123.7, 116.3, 103.5]", "data.mean.0: should be at most 1, got 123.7"),
        ("views.view_1.crop_area=[1e-12, 1]", "views.view_1.crop_area.0: should be at least 0.0001, got 1e-12"),
        (
            "views.view_2.blur_sigma_px=[0.1, 1e9]",
            "views.view_2.blur_sigma_px.1: should be at most 100, got 1000000000.0",
        ),
        ("schedule.epochs=1e20", "schedule.epochs: should be a whole number, got 1e+20"),
        (
            "schedule.epochs=100000000000000000000",
            "schedule.epochs: should be at most 1,000,000, got 100000000000000000000",
        ),
        ("machine.threads=10000000", "machine.threads: should be at most 1,000,000, got 10000000"),
        ("machine.threads=0", "machine.threads: should be at least 1, got 0"),
        ("machine.threads=many", "machine.threads: should be a number, or auto, got 'many'"),
        ("machine.threads=1.5", "machine.threads: should be a whole number, got 1.5"),
        ("machine.workers=10000000", "machine.workers: should be at most 1,000,000, got 10000000"),
        ("method.temperature=1e-300", "method.temperature: should be at least 1e-06, got 1e-300"),
        ("export={opt_batch: 8, max_batch: 4}", "export: opt_batch 8 is above max_batch 4"),
        (
            "model.args={drop_rate: .nan}",
            "model.args: holds nan; it takes texts, finite numbers, true, false, lists and mappings",
        ),
        ("study.methods={simclrr: {}}", f"study: methods: 'simclrr' is not one of {KNOWN}; did you mean 'simclr'?"),
        (
            "study.tuning={supervise: [{}]}",
            f"study: tuning: 'supervise' is not one of {KNOWN}, supervised; did you mean 'supervised'?",
        ),
    ],
)
def test_a_number_or_a_name_out_of_bounds_is_told_with_its_bound(tmp_path: Path, override: str, what: str) -> None:
    assert fault_of(recipe_of(tmp_path), [override]).splitlines()[0] == f"--set {override}: {what}"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (
            "optim: &m\n  batch_sise: 12\nfinetune:\n  <<: *m\n",
            "2: finetune.batch_sise: unknown key; did you mean 'batch_size'?",
        ),
        ("data: &m {b: &n 1}\nviews:\n  <<: [*m, *m]\n  b: 3", "4: views.b: unknown key; known: "),
        ("views:\n  <<: 5\n", "2: << takes a mapping, or a list of them, not 5"),
        (
            "seed: !!python/object:os.system 5\n",
            "1: the tag !!python/object:os.system: write the plain value without it",
        ),
        ("seed: 1\nname: !secret x\n", "2: the tag !secret: write the plain value without it"),
        ("a: " + "[" * 3000, "1: more than 32 levels of lists and mappings"),
        ("\n".join(" " * depth + "a:" for depth in range(300)), "32: more than 32 levels of lists and mappings"),
        ("a: &a\n  b: *a\n", "2: *a stands within its own &a"),
        (
            "a: &a [" + "x, " * 99 + "]\n" + "".join(f"b{n}: &b{n} [{'*a, ' * 9}]\n" for n in range(9)),
            "7: more than 5,000 values up to here",
        ),
        ("a: &a0 [x]\n" + "".join(f"b{n}: &a{n + 1} [*a{n}]\n" for n in range(99)), "31: more than 32 levels"),
        ("seed: " + "9" * 5000, "1: a number of 5,000 characters"),
        ("seed: 0x" + "f" * 90, "1: seed: should be below 2,147,483,648, got "),
        ("seed: 0o_\n", "1: '0o_' is no number"),
        ("? [a, b]\n: 1\n", "1: a key is a text, and this is ['a', 'b']"),
        ("1: 2\n", "1: a key is a text, and this is 1"),
        ("seed: 1\n---\nseed: 2\n", "2: a second document (---) begins here; a recipe is one"),
        ('a: "\\ud800"\n', "1: half of a surrogate pair"),
        ('a: "\\U00110000"\n', "1: this is not YAML"),
        ("seed: 1\na: \0\n", "2: a character that is no text (U+0000)"),
        (b"seed: 1\nname: \xff\n", "2: this is not UTF-8; save the recipe as UTF-8 text"),
        (b"seed: 1\n" * 9000, " is larger than a recipe can be (64 KiB)"),
    ],
)
def test_what_is_no_plain_mapping_of_plain_values_is_one_line(tmp_path: Path, text: str | bytes, what: str) -> None:
    started_s = time.process_time()
    path = recipe_of(tmp_path, text)
    said = fault_of(path).removeprefix(str(path))
    assert any(line.startswith(what) for line in said.splitlines()), said
    assert all(len(line) < 400 for line in said.splitlines())
    assert time.process_time() - started_s < 10  # Hours without the limits.


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("model: {projector: 5}\n", "1: model.projector: should be a mapping of keys, got 5"),
        ("views:\noptim: 3\n", "1: views: should be a mapping of keys, got nothing"),
        (
            "optim: base_lr:0.1\n",
            "1: optim: should be a mapping of keys, got 'base_lr:0.1'; YAML wants a space after each colon",
        ),
        (
            "optim:\n  base_lr: 1\n weight_decay: 2\n",
            "3: this line does not start in the column of those above it that belong to the same section",
        ),
        ("optim:\n\tbase_lr: 1\n", "2: a tab; indent with spaces"),
        ("data: {root: C:\\images, name: @x}\n", "1: a text that starts with this character needs quotes round it"),
        ("name: My Set\n", "1: name: should be small letters, digits and dashes, such as my-images, got 'My Set'"),
        (
            "views: {view_1: {crop_area: [1, 2, 3]}}\n",
            "1: views.view_1.crop_area: should be a list of 2, got [1, 2, 3]",
        ),
        ("data: {mean: [0.5]}\n", "1: data.mean: should be a list of 3, got [0.5]"),
        ("data: {name: [folder], root: 7}\n", "1: data.root: should be a path, got 7"),
        ("data: {name: [folder]}\n", "1: data.name: ['folder'] is not one of folder, shards, "),
        ("method: {name: [byol]}\n", "1: method.name: ['byol'] is not one of byol, "),
        ("views: {extra: [5]}\n", "1: views.extra.0: should be a mapping of keys, got 5"),
        ("machine: {deterministic: 1}\n", "1: machine.deterministic: should be true or false, got 1"),
        ("machine: {compile: 1}\n", "1: machine.compile: should be true, false or encoder, got 1"),
        (
            "machine: {compile: encoders}\n",
            "1: machine.compile: 'encoders' is not one of false, true, encoder; did you mean 'encoder'?",
        ),
    ],
)
def test_a_fault_is_told_in_a_readers_words(tmp_path: Path, text: str, what: str) -> None:
    said = fault_of(recipe_of(tmp_path, text))
    assert any(line.startswith(what) for line in said.splitlines()), said


@pytest.mark.parametrize(
    ("file", "name"), [("My Set.yaml", "my-set"), ("Käfer & Co_2.yaml", "k-fer-co-2"), ("日本.yaml", "recipe")]
)
def test_a_recipe_is_named_after_any_file(tmp_path: Path, file: str, name: str) -> None:
    path = tmp_path / file
    path.write_text(GOOD)
    assert load_recipe(path).name == name


def test_many_faults_are_counted(tmp_path: Path) -> None:
    said = fault_of(recipe_of(tmp_path, "".join(f"key{n}: 1\n" for n in range(500)))).splitlines()
    assert (len(said), said[-1].split(":")[-1].strip()) == (21, "482 more faults")  # `data` and `schedule` are missing.


@pytest.mark.parametrize("override", ["model.args={b:1}", "export={max_batch:4}", "study={methods: {byol:1}}"])
def test_a_colon_without_a_space_is_told(tmp_path: Path, override: str) -> None:
    name, value = override.rstrip("}").rpartition("{")[2].split(":")
    said = f"--set {override}: YAML wants a space after the colon: {{{name}: {value}}}, in a shell within quotes"
    assert fault_of(recipe_of(tmp_path), [override]) == said


def test_values_that_only_python_has_are_told(tmp_path: Path) -> None:
    path = recipe_of(tmp_path)
    endless: dict[str, Any] = {}
    endless["a"] = endless
    for value, what in [
        (endless, "holds more than 5000 values, or lies more than 32 levels deep"),
        ({1: 2}, "has a key that is no text: 1"),
        ({"a": object}, "holds <class 'object'>; it takes texts"),
        ({"a": 10**5000}, "holds a number of thousands of digits; it takes texts"),
    ]:
        assert f"model.args: {what}" in fault_of(path, {"model.args": value})
    assert "seed: should be below 2,147,483,648, got a number of thousands of digits" in fault_of(
        path, {"seed": 10**5000}
    )
    assert "model.backbone: should be one line of text, got '\\ud800'" in fault_of(path, {"model.backbone": "\ud800"})


def test_an_override_has_a_text_as_its_key(tmp_path: Path) -> None:
    jaxtyping.config.update("jaxtyping_disable", True)  # As it is outside of the tests.
    try:
        said = fault_of(recipe_of(tmp_path), {5: 1})
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert said == "an override is a dotted key and its value, not 5"


def test_an_alias_is_a_copy_and_a_date_a_text(tmp_path: Path) -> None:
    text = GOOD + "name: 2026-01-01\nviews: {view_1: &v {crop_area: [0.2, 1.0]}, view_2: *v}\n"
    recipe = load_recipe(recipe_of(tmp_path, text), ["views.view_1.crop_area=[0.5, 1.0]"])
    assert recipe.name == "2026-01-01"
    assert (recipe.views.view_1.crop_area, recipe.views.view_2.crop_area) == ((0.5, 1.0), (0.2, 1.0))


def test_opt_batch_follows_max_batch_unless_it_is_set(tmp_path: Path) -> None:
    path = recipe_of(tmp_path)
    batches = [load_recipe(path, [f"export.max_batch={n}"]).export.tuned_batch for n in (1, 8, 64)]
    assert batches == [1, 8, 8]
    assert with_overrides(load_recipe(path), ["export.max_batch=2"]).export.tuned_batch == 2
    # A run of before has both written out, whatever they were.
    resolved = tmp_path / "recipe.resolved.yaml"
    resolved.write_text(dump_recipe(load_recipe(path)) + "export: {max_batch: 4, opt_batch: 8}\n")
    text = dump_recipe(load_recipe(path))
    assert "opt_batch" not in text
    resolved.write_text(text.replace("max_batch: 64", "max_batch: 4, opt_batch: 8"))
    assert load_recipe(resolved).export.tuned_batch == 4


@pytest.mark.parametrize("key", ["data.root", "data.test_root", "data.cache_dir", "machine.runs_dir"])
def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = recipe_of(tmp_path)
    section, name = key.split(".")
    for recipe in (load_recipe(path, [f"{key}=~/imgs"]), load_recipe(path, {key: Path("~/imgs")})):
        assert getattr(getattr(recipe, section), name) == tmp_path / "home" / "imgs"
    assert with_changes(load_recipe(path), {key: "~/a"}).model_dump()[section][name] == tmp_path / "home" / "a"
    assert f"{key}: no home folder is known for ~nobody-here/x; write the path in full" in fault_of(
        path, [f"{key}=~nobody-here/x"]
    )
    assert f"{key}: should be a path in UTF-8, got ''" in fault_of(path, {key: ""})
