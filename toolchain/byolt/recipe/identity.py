"""What names a run: the keys that change what is learned, and their hash with that of the images."""

import hashlib
import json
from typing import Any

from pydantic_core import to_jsonable_python

from byolt.recipe.initial_file import initial_file
from byolt.recipe.schema import Recipe
from byolt.recipe.section import LATER, MACHINE, leaves
from byolt_export.errors import InputError


def result_keys(recipe: Recipe) -> dict[str, Any]:
    """The keys that change what is learned, dotted, with JSON values; an initial file counts by its content."""
    keys = {
        ".".join(path): value
        for path, field, value in leaves(recipe)
        if field.json_schema_extra != MACHINE and path != ("name",)
        if field.json_schema_extra != LATER or value != to_jsonable_python(field.default)
    }
    if recipe.model.init_file is not None:
        try:
            keys["model.init_file"] = hashlib.sha256(initial_file(recipe.model.init_file).read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(f"model.init_file {recipe.model.init_file} cannot be read: {error.strerror}") from error
    return keys


def recipe_hash(keys: dict[str, Any], fingerprint: str) -> str:
    """Eight hex digits that name a run: its result keys and the content of its images."""
    text = json.dumps({"recipe": keys, "images": fingerprint}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
