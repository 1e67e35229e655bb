"""pydantic's faults of a recipe in byolt's words: which key, what, and for a misspelt word the closest known one."""

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from byolt.recipe.method_settings import METHODS
from byolt.recipe.section import Section, is_section
from byolt.recipe.yaml_text import Key
from byolt_export.errors import InputError, quoted
from byolt_export.wording import fault_in_words, shown

# How pydantic names, after the key, the two kinds that one key takes.
_NUMBER, _WORD = "constrained-int", "literal['auto']"
_MOST = 100
"""Faults that are put into words; a file with more of them is another file."""


class Fault(NamedTuple):
    """One fault of a recipe."""

    key: Key
    kind: str
    what: str

    def __str__(self) -> str:
        return f"{quoted('.'.join(map(str, self.key)), 120) or 'recipe'}{self.what}"


class RecipeFault(InputError):
    """Faults of a recipe, a line each."""

    def __init__(self, faults: list[Fault], left_out: int = 0) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults, self.left_out = faults, left_out


def recipe_fault(error: ValidationError, root: type[Section]) -> RecipeFault:
    """What pydantic found in the sections below ``root``, each fault once."""
    found = [details for details in error.errors(include_url=False) if _is_of_its_kind(details)]
    return RecipeFault(
        _one_fault_each([_fault(details, root) for details in found[:_MOST]], root), max(0, len(found) - _MOST)
    )


def _is_of_its_kind(details: ErrorDetails) -> bool:
    """Of a key that takes a number or a word pydantic tells both faults: a text misses the word, others the number."""
    member, is_text = details["loc"][-1:], isinstance(details.get("input"), str)
    return member != (_NUMBER,) if is_text else member != (_WORD,)


def _fault(details: ErrorDetails, root: type[Section]) -> Fault:
    """One of pydantic's faults in our words."""
    location, kind, value = tuple(details["loc"]), details["type"], details.get("input")
    if location[-1:] == (_WORD,):
        return Fault(location[:-1], kind, f": should be a number, or auto, got {shown(value)}")
    location = location[:-1] if location[-1:] == (_NUMBER,) else location
    # pydantic names the method between the section and its key.
    key = ("method", *location[2:]) if location[:1] == ("method",) else location
    if kind == "union_tag_invalid":
        return Fault((*key, "name"), kind, _not_one_of(value["name"], [*METHODS]))
    if kind == "extra_forbidden":
        known = _fields_at(root, location[:-1])
        return Fault(key, kind, f": unknown key{did_you_mean(str(key[-1]), known) or '; known: ' + ', '.join(known)}")
    if kind == "too_long" or (kind == "missing" and isinstance(key[-1], int)):
        of_list = location if kind == "too_long" else location[:-1]
        length = _length(_field_at(root, of_list).annotation)
        return Fault(of_list, kind, f": should be a list of {length}, got {shown(value)}")
    if kind == "missing":
        return Fault(key, kind, ": required key is missing")
    if key[-1:] == ("[key]",):
        return Fault(key[:-2], kind, f": has a key that is no text: {shown(value)}")
    if kind == "literal_error":
        return Fault(key, kind, _not_one_of(value, _options(_field_at(root, location).annotation)))
    if kind == "string_pattern_mismatch":
        return Fault(key, kind, f": should be small letters, digits and dashes, such as my-images, got {shown(value)}")
    colon = isinstance(value, str) and ":" in value and kind in ("model_type", "dict_type")
    hint = "; YAML wants a space after each colon" if colon else ""
    return Fault(key, kind, f": {fault_in_words(details)}{hint}")


def _one_fault_each(faults: list[Fault], root: type[Section]) -> list[Fault]:
    """A missing key beside a misspelt one is one fault, reported once, at the misspelt key."""
    misspelt = {
        (*fault.key[:-1], near)
        for fault in faults
        if fault.kind == "extra_forbidden"
        for near in difflib.get_close_matches(str(fault.key[-1]), _fields_at(root, fault.key[:-1]), n=1)
    }
    kept = [fault for fault in faults if not (fault.kind == "missing" and fault.key in misspelt)]
    return list(dict.fromkeys(kept))


def _options(annotation: Any) -> list[str]:
    """What a key that takes one of a few values takes; it may be left out where ``None`` is among its types."""
    inside = get_args(annotation)
    return _options(inside[0]) if type(None) in inside else [option_in_yaml(option) for option in inside]


def option_in_yaml(option: object) -> str:
    """One of the values that a key takes, as a recipe writes it."""
    return str(option).lower() if isinstance(option, bool) else str(option)


def _not_one_of(value: Any, options: Sequence[str]) -> str:
    near = did_you_mean(value, options) if isinstance(value, str) else ""
    return f": {shown(value)} is not one of {', '.join(options)}{near}"


def _length(annotation: Any) -> int:
    """Items of the tuple that a type is or holds."""
    inside = get_args(annotation)
    return len(inside) if get_origin(annotation) is tuple else max(map(_length, inside), default=0)


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'x'?``, or nothing where no known word is near."""
    near = difflib.get_close_matches(word.lower(), known, n=1)
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
