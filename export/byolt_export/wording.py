"""pydantic's faults in words of a reader of the file: what a value should be, and what it is."""

from typing import Any

from pydantic_core import ErrorDetails

# What a value should be, by pydantic's name of the fault; in braces what its bound is called.
_SHOULD_BE = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than_equal": "at least {ge:,}",
    "greater_than": "above {gt:,}",
    "less_than_equal": "at most {le:,}",
    "less_than": "below {lt:,}",
    "string_type": "a text",
    "string_too_long": "at most {max_length} characters",
    "literal_error": "{expected}",
    "path_type": "a path",
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
    "dataclass_type": "a mapping of keys",
    "tuple_type": "a list",
    "list_type": "a list",
    "too_long": "at most {max_length} long",
    "too_short": "at least {min_length} long",
    "string_pattern_mismatch": "of another form",
}


def fault_in_words(fault: ErrorDetails) -> str:
    """What is wrong with the value at ``fault["loc"]``, for after a colon."""
    kind, value = fault["type"], fault.get("input")
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "missing":
        return "required key is missing"
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    if kind == "json_invalid":  # The file's own bytes would tell a reader nothing.
        return f"no valid JSON ({fault['ctx']['error']})"
    return f"should be {_SHOULD_BE.get(kind, 'another value').format(**_bounds(fault))}, got {shown(value)}"


def _bounds(fault: ErrorDetails) -> dict[str, Any]:
    """What a fault's words name, whole numbers as such: 1 for 1.0, but 1e+37 as it stands."""
    return {
        name: int(bound) if isinstance(bound, float) and bound.is_integer() and abs(bound) < 1e15 else bound
        for name, bound in fault.get("ctx", {}).items()
    }


def shown(value: Any, limit: int = 80) -> str:
    """A value as part of a sentence: one line, as YAML has it, cut at ``limit``."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if hasattr(type(value), "model_fields"):
        return "a mapping"
    if isinstance(value, dict | list | tuple) and len(value) > limit:
        return f"{len(value)} values"
    if isinstance(value, str):
        value = value[: limit + 1]
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits.
        return "a number of thousands of digits"
    return text if len(text) <= limit else f"{text[:limit]}..."
