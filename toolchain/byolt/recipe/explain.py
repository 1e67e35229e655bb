"""What each key of a recipe means, from the schema, and what a recipe sets it to."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo

from byolt.recipe.faults import did_you_mean, option_in_yaml
from byolt.recipe.method_settings import METHODS
from byolt.recipe.schema import Recipe
from byolt.recipe.section import MACHINE, Section, is_section, leaves
from byolt_export.errors import InputError


class KeyRow(NamedTuple):
    """One key."""

    key: str
    type: str
    """In words for a person."""
    default: str
    """As text; ``required`` where there is none."""
    kind: str
    """``result`` or ``machine``."""
    meaning: str
    method: str = ""
    """The one method that has this key; empty for keys of every recipe."""
    value: Any = None
    """What the recipe at hand has, as JSON; None without a recipe."""


def explain(under: str | None = None, recipe: Recipe | None = None) -> list[KeyRow]:
    """A row for every key, from the schema, with the recipe's value where there is a recipe.

    Args:
        under: A key or section; only it and what is below it.
        recipe: The recipe whose values are added.

    Raises:
        InputError: There is no such key.
    """
    rows = list(_rows(Recipe, ()))
    if recipe is not None:
        values = {".".join(path): value for path, _, value in leaves(recipe)}
        rows = [row._replace(value=values[row.key]) for row in rows if row.method in ("", recipe.method.name)]
    if under is None:
        return rows
    chosen = [row for row in rows if row.key == under or row.key.startswith(f"{under}.")]
    if not chosen:
        near = did_you_mean(under, [row.key for row in rows])
        raise InputError(f"no key {under!r} in a recipe{near or '; see byolt recipe explain'}")
    return chosen


def _rows(section: type[Section], parents: tuple[str, ...], method: str = "") -> Iterator[KeyRow]:
    for name, field in section.model_fields.items():
        inner = field.annotation
        if is_section(inner):
            yield from _rows(inner, (*parents, name))
            continue
        if section is Recipe and name == "method":
            for known, keys in METHODS.items():
                yield from _rows(keys, (name,), known)
            continue
        kind = "machine" if field.json_schema_extra == MACHINE else "result"
        default = "required" if field.is_required() else str(field.default)
        yield KeyRow(".".join((*parents, name)), _type_name(field), default, kind, field.description or "", method)


def _type_name(field: FieldInfo) -> str:
    """``int``, ``one of lars, sgd, adamw``, ``Path or nothing``: words for a person."""
    annotation: Any = field.annotation
    inside: tuple[Any, ...] = get_args(annotation)
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(option_in_yaml, inside))
    if type(None) in inside:
        if get_origin(inside[0]) is Literal:
            return "one of " + ", ".join(str(option) for option in get_args(inside[0])) + ", or nothing"
        core = next(iter(get_args(inside[0])), inside[0])
        return f"{core.__name__} or nothing"
    if isinstance(annotation, type) and not inside:
        return annotation.__name__
    return re.sub(r"\b(typing|byolt\.recipe\.\w+)\.", "", str(_bare(annotation)))


def _bare(annotation: Any) -> Any:
    """A type without its bounds and checks."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _bare(inside[0])
    return origin[tuple(map(_bare, inside))] if origin and inside else annotation
