"""What every section of a recipe is made of: strict mappings, bounded numbers, and the mark of machine keys."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeGuard

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, Strict
from pydantic.fields import FieldInfo

from byolt_export.wording import shown

MACHINE: dict[str, JsonValue] = {"machine": True}
LATER: dict[str, JsonValue] = {"later": True}

# Every number of a recipe has both bounds (a test looks). Those of no unit are float32's, in which they are computed.
_LEAST, _MOST = 1e-37, 1e37
Count = Annotated[int, Field(ge=1, le=10**9)]
Epochs = Annotated[int, Field(ge=1, le=10**6)]
BatchSize = Annotated[int, Field(ge=2, le=10**6)]
Positive = Annotated[float, Field(ge=_LEAST, le=_MOST)]
NotNegative = Annotated[float, Field(ge=0, le=_MOST)]
Temperature = Annotated[float, Field(ge=1e-6, le=1e6)]
Gigabytes = Annotated[float, Field(ge=0, le=1e9)]
Share = Annotated[float, Field(ge=0, le=1)]

MOST_VALUES, MOST_DEEP = 5_000, 32
"""Values of a recipe, and how deep they may lie: far above what one needs, and read within a second."""


def _expanded(path: Any) -> Any:
    """A path with the home folder for a leading ``~``, as a shell would write it.

    Raises:
        ValueError: It is empty, cannot be a path, or there is no such home.
    """
    if not isinstance(path, str | Path):
        return path
    text = str(path) if path else ""
    if not text or "\0" in text or not is_text(text):
        raise ValueError(f"should be a path in UTF-8, got {shown(path)}")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"no home folder is known for {text}; write the path in full") from error


FolderPath = Annotated[Path, Strict(False), BeforeValidator(_expanded)]


def is_text(value: str) -> bool:
    """Whether a text can be written as UTF-8: no half of a surrogate pair, no byte of another encoding."""
    return not any("\ud800" <= char <= "\udfff" for char in value)


def _text(value: str) -> str:
    if not is_text(value) or not value.isprintable() or len(value) > 2000:
        raise ValueError(f"should be one line of text, got {shown(value)}")
    return value


Text = Annotated[str, AfterValidator(_text)]


def plain(value: Any) -> Any:
    """``value``, where it is made of mappings with texts as keys, lists, texts, finite numbers and booleans alone.

    Raises:
        ValueError: It holds something else, or too much.
    """
    waiting, seen = [(value, 1)], 0
    while waiting:
        node, depth = waiting.pop()
        seen += 1
        if seen > MOST_VALUES or depth > MOST_DEEP:
            raise ValueError(f"holds more than {MOST_VALUES} values, or lies more than {MOST_DEEP} levels deep")
        if isinstance(node, dict):
            waiting += [(inner, depth + 1) for pair in node.items() for inner in pair]
            odd = [key for key in node if not isinstance(key, str)]
            if odd:
                raise ValueError(f"has a key that is no text: {shown(odd[0])}")
        elif isinstance(node, list | tuple):
            waiting += [(inner, depth + 1) for inner in node]
        elif not _is_plain_value(node):
            raise ValueError(f"holds {shown(node)}; it takes texts, finite numbers, true, false, lists and mappings")
    return value


def _is_plain_value(value: Any) -> bool:
    if isinstance(value, str):
        return is_text(value)
    if isinstance(value, int):  # Booleans too.
        return abs(value) < 2**63
    return value is None or (isinstance(value, float) and math.isfinite(value))


Settings = Annotated[dict[str, Any], AfterValidator(plain)]
"""Keys that something else than the recipe defines."""


def machine(default: Any = ..., **constraints: Any) -> Any:
    """A key that does not change what is learned, and so stays out of the run's hash."""
    return Field(default, json_schema_extra=MACHINE, **constraints)


def later(default: Any) -> Any:
    """A key of what is learned that older recipes lack: it enters the run's hash only where it is not its default."""
    return Field(default, json_schema_extra=LATER)


class Section(BaseModel):
    """A mapping of the recipe: strict types, no unknown keys, finite numbers, read-only once parsed."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


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
