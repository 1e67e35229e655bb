"""What every section of a recipe is made of: strict mappings, and the mark of keys that change no result."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, JsonValue, Strict
from pydantic.fields import FieldInfo

MACHINE: dict[str, JsonValue] = {"machine": True}
Share = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[tuple[float, float], Strict(False)]
Rgb = Annotated[tuple[float, float, float], Strict(False)]
FolderPath = Annotated[Path, Strict(False)]


def machine(default: Any = ..., **constraints: Any) -> Any:
    """A key that does not change what is learned, and so stays out of the run's hash."""
    return Field(default, json_schema_extra=MACHINE, **constraints)


class Section(BaseModel):
    """A mapping of the recipe: strict types, no unknown keys, read-only once parsed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def is_section(annotation: Any) -> TypeGuard[type[Section]]:
    """Whether a field's type is a mapping of further keys."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def leaves(section: Section, parents: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo, Any]]:
    """(path, field, JSON value) of every key below a section."""
    dumped = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from leaves(value, (*parents, name))
        else:
            yield (*parents, name), field, dumped[name]
