"""pydantic's faults of a recipe in byolt's words: which key, what, and for a misspelt word the closest known one."""

import difflib
from collections.abc import Sequence
from typing import NamedTuple, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from byolt.recipe.method_settings import METHODS
from byolt.recipe.section import Section, is_section
from byolt_export.errors import InputError

Key = tuple[str | int, ...]


class Fault(NamedTuple):
    """One fault of a recipe."""

    key: Key
    kind: str
    what: str

    def __str__(self) -> str:
        return f"{'.'.join(str(part) for part in self.key) or 'recipe'}{self.what}"


class RecipeFault(InputError):
    """Faults of a recipe, a line each."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


def faults_of(error: ValidationError, root: type[Section]) -> list[Fault]:
    """Every fault that pydantic found in the sections below ``root``, each once."""
    return _one_fault_each([_fault(details, root) for details in error.errors()], root)


def _fault(details: ErrorDetails, root: type[Section]) -> Fault:
    """One of pydantic's faults in our words."""
    location, kind, value = tuple(details["loc"]), details["type"], details.get("input")
    # pydantic names the method between the section and its key.
    key = ("method", *location[2:]) if location[:1] == ("method",) else location
    if kind == "union_tag_invalid":
        named = details["ctx"]["tag"]
        return Fault(
            (*key, "name"), kind, f": {named!r} is not one of {', '.join(METHODS)}{did_you_mean(named, [*METHODS])}"
        )
    if kind == "extra_forbidden":
        known = _fields_at(root, location[:-1])
        return Fault(key, kind, f": unknown key{did_you_mean(str(key[-1]), known) or '; known: ' + ', '.join(known)}")
    if kind == "missing":
        return Fault(key, kind, ": required key is missing")
    if kind == "literal_error":
        options = [str(option) for option in get_args(_field_at(root, location).annotation)]
        return Fault(key, kind, f": {value!r} is not one of {', '.join(options)}{did_you_mean(str(value), options)}")
    if kind == "value_error":
        return Fault(key, kind, f": {details['ctx']['error']}")
    what = details["msg"].removeprefix("Input ")
    return Fault(key, kind, f": {what}, got {value!r}")


def _one_fault_each(faults: list[Fault], root: type[Section]) -> list[Fault]:
    """A missing key beside a misspelt one is one fault, reported once, at the misspelt key."""
    misspelt = {
        (*fault.key[:-1], near)
        for fault in faults
        if fault.kind == "extra_forbidden"
        for near in difflib.get_close_matches(str(fault.key[-1]), _fields_at(root, fault.key[:-1]), n=1)
    }
    return [fault for fault in faults if not (fault.kind == "missing" and fault.key in misspelt)]


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'x'?``, or nothing where no known word is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _section_at(root: type[Section], key: Key) -> type[Section] | None:
    """The section that a path of keys leads to; a list of sections counts by its items, a method by its name."""
    section = root
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


def _fields_at(root: type[Section], key: Key) -> list[str]:
    section = _section_at(root, key)
    return list(section.model_fields) if section else []


def _field_at(root: type[Section], key: Key) -> FieldInfo:
    section = _section_at(root, key[:-1])
    assert section is not None
    return section.model_fields[str(key[-1])]
