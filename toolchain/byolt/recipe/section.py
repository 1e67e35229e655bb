"""What every section of a recipe is made of: strict mappings, and the mark of keys that change no result."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, Strict

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
