"""A recipe file and overrides to a frozen ``Recipe``, or every fault at once.

Each fault is one line: ``file:line: key: what; did you mean``. A fault in an override names the flag.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from byolt.recipe.faults import Fault, RecipeFault
from byolt.recipe.schema import NAME, Recipe
from byolt.recipe.section import MACHINE, leaves
from byolt.recipe.yaml_text import MOST_BYTES, Document, Key, read_yaml
from byolt_export.errors import InputError, quoted
from byolt_export.wording import shown

RESOLVED = "recipe.resolved.yaml"
"""Every key of a run's recipe, in the run's folder."""
_MOST_FAULTS = 20
Overrides = Mapping[str, Any] | Sequence[str]
"""Dotted keys and their values, or ``key=value`` texts whose values are YAML, as ``--set`` takes them."""


def load_recipe(path: str | Path, overrides: Overrides = ()) -> Recipe:
    """Read a recipe file, apply overrides in order, and check the whole.

    Args:
        path: A YAML file.
        overrides: ``{"data.root": "images"}``, or texts as ``--set`` takes them.

    Raises:
        InputError: The file is missing or not YAML, or holds faults; all are named, a line each.
    """
    path = Path(path)
    document = _read_mapping(path)
    tree = document.value
    tree.setdefault("name", _name_of(path))
    if path.name == RESOLVED:
        _as_now(tree)
    return _check(tree, overrides, document.lines, path)


def with_overrides(recipe: Recipe, overrides: Overrides) -> Recipe:
    """The recipe of a run that has been learned, with overrides applied and checked like a file.

    Only machine keys may change (those of `evaluation`, `finetune` and `export` among them): what was learned was
    learned by the result keys, so another value for one of them would be a word without an effect, or a wrong one.

    Raises:
        InputError: An override does not fit, or sets a result key; the key is named.
    """
    changed = _check(recipe.model_dump(mode="json"), overrides, {}, Path("recipe"))
    before = {path: value for path, _, value in leaves(recipe)}
    late = [
        path for path, field, value in leaves(changed) if field.json_schema_extra != MACHINE and before[path] != value
    ]
    if late:
        keys = ", ".join(".".join(path) for path in late)
        raise InputError(
            f"--set {keys}: the run has been learned with another value, and nothing after learning follows this one; "
            "leave it out, or learn another run with byolt pretrain (machine keys alone may change now: "
            "evaluation.*, finetune.*, export.*, machine.* and the paths of data)"
        )
    return changed


def with_changes(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with dotted keys set to values; another method starts from its own defaults.

    Raises:
        InputError: A value does not fit.
    """
    tree = recipe.model_dump(mode="json")
    if changes.get("method.name", recipe.method.name) != recipe.method.name:
        tree["method"] = {}
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        node = tree
        for name in parents:
            inner = node.get(name)
            if not isinstance(inner, dict):
                raise InputError(f"{dotted}: no such key in a recipe; see byolt recipe explain")
            node = inner
        node[last] = value
    return _check(tree, (), {}, Path("recipe"))


def _check(tree: dict[str, Any], overrides: Overrides, lines: Mapping[Key, int], path: Path) -> Recipe:
    flags: dict[Key, str] = {}
    for key, value, flag in _parsed(overrides):
        _apply(tree, key, value, flag)
        flags[tuple(key.split("."))] = flag
    try:
        return Recipe.model_validate(tree)
    except RecipeFault as error:
        placed = sorted((*_where(fault, lines, path, flags), str(fault)) for fault in error.faults)
        told = [f"{where}: {what}" for _, where, what in placed[:_MOST_FAULTS]]
        more = error.left_out + len(placed) - len(told)
        raise InputError("\n".join([*told, f"{path}: {more} more faults"] if more else told)) from error


def dump_recipe(recipe: Recipe) -> str:
    """Every key of a recipe as YAML that ``load_recipe`` reads back to an equal recipe."""
    yaml = YAML()
    yaml.default_flow_style = None
    text = StringIO()
    yaml.dump(recipe.model_dump(mode="json", exclude_none=True), text)
    return text.getvalue()


def recipe_text(recipe: Recipe, source: str | Path | None) -> str:
    """The file that a recipe was read from; without one, every key of the recipe.

    Raises:
        InputError: The file cannot be read.
    """
    return dump_recipe(recipe) if source is None else _read_text(Path(source))


def _read_text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise InputError(f"{path} is larger than a recipe can be ({MOST_BYTES // 1024} KiB)")
        return content.decode()
    except FileNotFoundError as error:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise InputError(f"recipe {path} not found{hint}") from error
    except OSError as error:
        raise InputError(f"recipe {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = 1 + error.object.count(b"\n", 0, error.start)
        raise InputError(f"{path}:{line}: this is not UTF-8; save the recipe as UTF-8 text") from error


def _read_mapping(path: Path) -> Document:
    document = read_yaml(_read_text(path), str(path))
    if not isinstance(document.value, dict):
        raise InputError(f"{path}:1: a recipe is a mapping of keys; see `byolt recipe explain`")
    return document


def _name_of(path: Path) -> str:
    """The name that a recipe without one has by its file: ``My Set.yaml`` is ``my-set``."""
    name = path.stem.lower().replace("_", "-")
    return (
        name
        if re.search(NAME, name) and len(name) <= 100
        else re.sub(r"[^a-z0-9]+", "-", name).strip("-")[:100] or "recipe"
    )


def _as_now(tree: dict[str, Any]) -> None:
    """Read a run's recipe of before ``export.opt_batch`` followed ``export.max_batch``: 8 stood there whatever that."""
    export = tree.get("export")
    if isinstance(export, dict) and export.get("opt_batch") == 8:
        del export["opt_batch"]


def _parsed(overrides: Overrides) -> Iterator[tuple[str, Any, str]]:
    """Dotted key, value and what to call it of each override; a text's value is YAML: ``3e-4`` is a number."""
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            if not isinstance(key, str):
                raise InputError(f"an override is a dotted key and its value, not {shown(key)}")
            yield key, value, f"{key}={value if isinstance(value, str) else shown(value)}"
        return
    for override in overrides:
        key, equals, text = override.partition("=")
        flag = f"--set {quoted(override, 120)}"
        if not equals or not key.strip():
            raise InputError(f"{flag}: write key=value, for example --set optim.batch_size=128")
        yield key.strip(), read_yaml(text, flag, lines=False).value, flag


def _apply(tree: dict[str, Any], key: str, value: Any, flag: str) -> None:
    """Set ``a.b`` in the tree."""
    *parents, last = key.split(".")
    node = tree
    for depth, name in enumerate(parents):
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise InputError(f"{flag}: {'.'.join(parents[: depth + 1])} holds a value, not a mapping")
    node[last] = value


def _where(fault: Fault, lines: Mapping[Key, int], path: Path, flags: dict[Key, str]) -> tuple[int, str]:
    """Line number and ``file:line``, or 0 and the flag that set the key; a missing key points at its parent."""
    for length in range(len(fault.key), 0, -1):
        if fault.key[:length] in flags:
            return 0, flags[fault.key[:length]]
    below = [flag for key, flag in flags.items() if key[: len(fault.key)] == fault.key]
    if below and fault.kind == "value_error":  # A section's parts do not fit one another, and a flag set one of them.
        return 0, ", ".join(below)
    line = next((lines[fault.key[:n]] for n in range(len(fault.key), 0, -1) if fault.key[:n] in lines), 1)
    return line, f"{path}:{line}"
