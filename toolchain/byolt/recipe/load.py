"""A recipe file and ``--set`` overrides to a frozen ``Recipe``, or every fault at once.

Each fault is one line: ``file:line: key: what; did you mean``. A fault in an override names the flag.
"""

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from byolt.recipe.methods import METHODS
from byolt.recipe.schema import Recipe
from byolt.recipe.section import MACHINE, Section
from byolt_export.errors import InputError

Key = tuple[str | int, ...]


class Fault(NamedTuple):
    """One fault of a recipe."""

    key: Key
    kind: str
    what: str


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, apply ``--set`` overrides in order, and check the whole.

    Raises:
        InputError: The file is missing or not YAML, or holds faults; all are named, a line each.
    """
    document = _read_yaml(path)
    tree = _plain(document)
    tree.setdefault("name", path.stem.lower().replace("_", "-"))
    return _check(tree, overrides, document, path)


def with_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe of a run that has been learned, with ``--set`` overrides applied and checked like a file.

    Only machine keys may change (those of `evaluation`, `finetune` and `export` among them): what was learned was
    learned by the result keys, so another value for one of them would be a word without an effect, or a wrong one.

    Raises:
        InputError: An override does not fit, or sets a result key; the key is named.
    """
    changed = _check(recipe.model_dump(mode="json"), overrides, CommentedMap(), Path("recipe"))
    before = {path: value for path, _, value in leaves(recipe)}
    late = [
        path for path, field, value in leaves(changed) if field.json_schema_extra != MACHINE and before[path] != value
    ]
    if late:
        keys = ", ".join(_dotted(path) for path in late)
        raise InputError(
            f"--set {keys}: the run has been learned with another value, and nothing after learning follows this one; "
            "leave it out, or learn another run with byolt pretrain (machine keys alone may change now: "
            "evaluation.*, finetune.*, export.*, machine.* and the paths of data)"
        )
    return changed


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
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
    return _check(tree, (), CommentedMap(), Path("recipe"))


def _check(tree: dict[str, Any], overrides: Sequence[str], document: CommentedMap, path: Path) -> Recipe:
    flags: dict[Key, str] = {}
    for override in overrides:
        _apply(tree, override, flags)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        faults = _one_fault_each([_fault(details) for details in error.errors()])
        placed = sorted(
            (*_where(fault, document, path, flags), f"{_dotted(fault.key)}{fault.what}") for fault in faults
        )
        raise InputError("\n".join(f"{where}: {what}" for _, where, what in placed)) from error


def dump_recipe(recipe: Recipe) -> str:
    """Every key of a recipe as YAML that ``load_recipe`` reads back to an equal recipe."""
    yaml = YAML()
    yaml.default_flow_style = None
    text = StringIO()
    yaml.dump(recipe.model_dump(mode="json", exclude_none=True), text)
    return text.getvalue()


def result_keys(recipe: Recipe) -> dict[str, Any]:
    """The keys that change what is learned, dotted, with JSON values; an initial file counts by its content."""
    keys = {
        ".".join(path): value
        for path, field, value in leaves(recipe)
        if field.json_schema_extra != MACHINE and path != ("name",)
    }
    if recipe.model.init_file is not None:
        try:
            keys["model.init_file"] = hashlib.sha256(recipe.model.init_file.read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(f"model.init_file {recipe.model.init_file} cannot be read: {error.strerror}") from error
    return keys


def recipe_hash(keys: dict[str, Any], fingerprint: str) -> str:
    """Eight hex digits that name a run: its result keys and the content of its images."""
    text = json.dumps({"recipe": keys, "images": fingerprint}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def leaves(section: Section, parents: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo, Any]]:
    """(path, field, JSON value) of every key below a section."""
    dumped = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from leaves(value, (*parents, name))
        else:
            yield (*parents, name), field, dumped[name]


def _read_yaml(path: Path) -> CommentedMap:
    try:
        document = YAML().load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise InputError(f"recipe {path} not found{hint}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path} cannot be read: {error}") from error
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}:{line}: {error.problem or 'not YAML'}") from error
    except YAMLError as error:
        raise InputError(f"{path}:1: not YAML: {error}") from error
    if not isinstance(document, CommentedMap):
        raise InputError(f"{path}:1: a recipe is a mapping of keys; see `byolt recipe explain`")
    return document


def _plain(node: Any) -> Any:
    if isinstance(node, CommentedMap):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(value) for value in node]
    return node


def _apply(tree: dict[str, Any], override: str, flags: dict[Key, str]) -> None:
    """Set ``a.b=c`` in the tree; the value is read as YAML, so ``3e-4`` is a number and ``[1, 2]`` a list."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted.strip():
        raise InputError(f"--set {override}: write key=value, for example --set optim.batch_size=128")
    *parents, last = dotted.strip().split(".")
    node = tree
    for depth, name in enumerate(parents):
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise InputError(f"--set {override}: {'.'.join(parents[: depth + 1])} holds a value, not a mapping")
    try:
        node[last] = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise InputError(f"--set {override}: the value is not YAML") from error
    flags[(*parents, last)] = f"--set {override}"


def _fault(details: ErrorDetails) -> Fault:
    """One of pydantic's faults in our words."""
    told, kind, value = tuple(details["loc"]), details["type"], details.get("input")
    # pydantic names the method between the section and its key.
    key = ("method", *told[2:]) if told[:1] == ("method",) else told
    if kind == "union_tag_invalid":
        named = details["ctx"]["tag"]
        return Fault(
            (*key, "name"), kind, f": {named!r} is not one of {', '.join(METHODS)}{did_you_mean(named, [*METHODS])}"
        )
    if kind == "extra_forbidden":
        known = _fields_at(told[:-1])
        return Fault(key, kind, f": unknown key{did_you_mean(str(key[-1]), known) or '; known: ' + ', '.join(known)}")
    if kind == "missing":
        return Fault(key, kind, ": required key is missing")
    if kind == "literal_error":
        options = [str(option) for option in get_args(_field_at(told).annotation)]
        return Fault(key, kind, f": {value!r} is not one of {', '.join(options)}{did_you_mean(str(value), options)}")
    if kind == "value_error":
        return Fault(key, kind, f": {details['ctx']['error']}")
    what = details["msg"].removeprefix("Input ")
    return Fault(key, kind, f": {what}, got {value!r}")


def _one_fault_each(faults: list[Fault]) -> list[Fault]:
    """A missing key beside a misspelt one is one fault, told once, at the misspelt key."""
    misspelt = {
        (*fault.key[:-1], near)
        for fault in faults
        if fault.kind == "extra_forbidden"
        for near in difflib.get_close_matches(str(fault.key[-1]), _fields_at(fault.key[:-1]), n=1)
    }
    return [fault for fault in faults if not (fault.kind == "missing" and fault.key in misspelt)]


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'x'?``, or nothing where no known word is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _section_at(key: Key) -> type[Section] | None:
    """The section that a path of keys leads to; a list of sections counts by its items, a method by its name."""
    section: type[Section] = Recipe
    if key[:1] == ("method",):
        named = METHODS.get(str(key[1])) if len(key) > 1 else None
        if named is None:
            return None
        section, key = named, key[2:]
    for name in key:
        if isinstance(name, int):
            continue
        field = section.model_fields.get(name)
        inside = [t for t in (field.annotation, *get_args(field.annotation)) if is_section(t)] if field else []
        if not inside:
            return None
        section = inside[0]
    return section


def is_section(annotation: Any) -> TypeGuard[type[Section]]:
    """Whether a field's type is a mapping of further keys."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _fields_at(key: Key) -> list[str]:
    section = _section_at(key)
    return list(section.model_fields) if section else []


def _field_at(key: Key) -> FieldInfo:
    section = _section_at(key[:-1])
    assert section is not None
    return section.model_fields[str(key[-1])]


def _dotted(key: Key) -> str:
    return ".".join(str(part) for part in key) or "recipe"


def _where(fault: Fault, document: CommentedMap, path: Path, flags: dict[Key, str]) -> tuple[int, str]:
    """Line number and ``file:line``, or 0 and the flag that set the key; a missing key points at its parent."""
    for length in range(len(fault.key), 0, -1):
        if fault.key[:length] in flags:
            return 0, flags[fault.key[:length]]
    below = [flag for key, flag in flags.items() if key[: len(fault.key)] == fault.key]
    if below and fault.kind == "value_error":  # A section's parts do not fit one another, and a flag set one of them.
        return 0, ", ".join(below)
    node, line = document, 0
    for part in fault.key:
        if isinstance(node, CommentedMap) and part in node:
            line = node.lc.key(part)[0]
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            line = node.lc.item(part)[0]
        else:
            break
        node = node[part]
    return line + 1, f"{path}:{line + 1}"
