"""A thousand damaged recipes: each is read, or refused in sentences with exit code 2, within a second."""

import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from byolt.recipe.identity import recipe_hash, result_keys
from byolt.recipe.load import dump_recipe, load_recipe
from byolt_export.errors import InputError

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))
MUTANTS, SEED = 1000, 14
LONGEST_S = 1.0
# Words of libraries that mean nothing to who wrote the recipe.
INTERNALS = re.compile(
    r"Traceback|pydantic|ruamel|Input should|String should|valid dictionary|instance of|block (end|mapping|sequence)"
    r"|Scalar|Commented|unicode string|tag:yaml|stream (end|start)|Errno|<class|object at 0x|codec|\[type="
)
VALUES = (
    *(".inf", "-.inf", ".nan", "0", "-1", "1e400", "1e-300", "9" * 30, "9" * 5000, "0x" + "f" * 99, "0o_", "1_0", "~"),
    *("true", "yes", "''", "x", "'\\'", '"\\q"', '"\\ud800"', '"\\U00110000"', "*a", "&a", "&a x", "!x y", "!!int 3"),
    *("[]", "{}", "[1, [2, [3]]]", "{a: {b: {c: 1}}}", "{b:1}", "[" * 400, "{a: " * 40, "|", ">-", "- x", "a: b", "@"),
    *("2026-01-01", "12:30:00", "[.nan, .inf]", "[0, 0, 0]", "<<: *m", "{<<: {a: 1}}", "%", "`x`", "\t", "~/x", "''"),
)
LINES = (
    *("<<: *m", "base: &m {a: 1}", "---", "...", "%YAML 1.1", "? [a]", ": 1", "- 1", "\t", "!!set {a}", "a: &a [*a]"),
    *("seed: 1", "method: {name: simclr}", "study: {methods: {simclr: {method.temperature: .nan}}}", "1: 2", "null: 1"),
)


def text_mutations() -> list[Callable[[random.Random, str], str]]:
    """What is done to a recipe's text; each takes the random numbers and the text."""

    def at_line(r: random.Random, text: str, change: Callable[[str], str]) -> str:
        lines = text.split("\n")
        number = r.randrange(len(lines))
        return "\n".join([*lines[:number], change(lines[number]), *lines[number + 1 :]])

    def at_match(r: random.Random, text: str, pattern: str, change: Callable[[str], str]) -> str:
        places = list(re.finditer(pattern, text))
        if not places:
            return text
        place = r.choice(places)
        return text[: place.start()] + change(place[0]) + text[place.end() :]

    def other_value(r: random.Random, text: str) -> str:
        return at_match(r, text, r"(?<=: )[^\s,{}\[\]#]+", lambda found: r.choice(VALUES))

    def other_key(r: random.Random, text: str) -> str:
        return at_match(r, text, r"\w+(?=:)", lambda found: r.choice([found[:-1], found + "s", "x" * 9000, "é", "1"]))

    def other_character(r: random.Random, text: str) -> str:
        place = r.randrange(len(text))
        return text[:place] + r.choice("[]{}:,#&*!|>'\"%@`-?\t\n \0\x1b\ufeff\u2028😀") + text[place + r.randrange(3) :]

    return [
        other_value,
        other_key,
        other_character,
        lambda r, text: at_line(r, text, lambda line: " " * r.randrange(9) + line),
        lambda r, text: at_line(r, text, lambda line: line.strip()),
        lambda r, text: at_line(r, text, lambda line: f"{line}\n{line}"),
        lambda r, text: at_line(r, text, lambda line: f"{line}\n{' ' * r.choice([0, 2])}{r.choice(LINES)}"),
        lambda r, text: text[: r.randrange(len(text))],
        lambda r, text: text + text[r.randrange(len(text)) :] * r.choice([1, 30, 300]),
        lambda r, text: text.replace(":", r.choice([":", " :", ":\t", "=", "::"]), r.randrange(9)),
    ]


def mutant(number: int) -> str:
    """Damaged recipe ``number``: one to three mutations of a shipped one."""
    r = random.Random(f"{SEED} {number}")
    text = re.sub(r"#.*", "", r.choice(RECIPES).read_text()) if r.random() < 0.8 else r.choice(RECIPES).read_text()
    for _ in range(r.randrange(1, 4)):
        text = r.choice(text_mutations())(r, text or "a: 1")
    return text


def check(number: int, folder: Path) -> str:
    """``read`` or ``refused``.

    Raises:
        AssertionError: It is neither read well nor refused well.
    """
    path = folder / "mutant.yaml"
    path.write_bytes(mutant(number).encode("utf-8", "surrogatepass"))
    started_s = time.process_time()
    recipe, said = None, []
    try:
        recipe = load_recipe(path)
    except InputError as fault:  # Its exit code is 2.
        said = str(fault).splitlines()
    assert time.process_time() - started_s < LONGEST_S, number
    if recipe is None:
        assert 1 <= len(said) <= 21, (number, said)
        for line in said:
            assert line.startswith(str(path)), (number, line)
            assert len(line) < 600, (number, line)
            assert line.isprintable(), (number, line)
            assert not INTERNALS.search(line), (number, line)
        return "refused"
    resolved = folder / "resolved.yaml"
    resolved.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(resolved) == recipe, number
    keys = json.dumps(result_keys(recipe) if recipe.model.init_file is None else {}, allow_nan=False)
    assert len(recipe_hash(json.loads(keys), "images")) == 8
    return "read"


@pytest.mark.full
def test_a_thousand_damaged_recipes_are_read_or_refused(tmp_path: Path) -> None:
    ends = [check(number, tmp_path) for number in range(MUTANTS)]
    assert min(ends.count("read"), ends.count("refused")) > MUTANTS // 20, (ends.count("read"), ends.count("refused"))


@pytest.mark.parametrize("number", range(40))
def test_a_damaged_recipe_is_read_or_refused(tmp_path: Path, number: int) -> None:
    check(number, tmp_path)
