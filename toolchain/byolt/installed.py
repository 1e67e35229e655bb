"""Python packages that hold data or weights: found, never imported."""

from importlib.util import find_spec
from pathlib import Path

from byolt_export.errors import MissingPart


def package_folder(name: str, whose: str) -> Path:
    """The folder of the installed package that is imported as ``name``.

    Args:
        name: A top-level package.
        whose: What asks for it, as the error says it: a key of the recipe, or a set with its licence.

    Raises:
        MissingPart: It is not installed.
    """
    spec = find_spec(name)
    places = (spec.submodule_search_locations if spec else None) or []
    if not places:
        # The name of an import and that of an install differ in the dash alone, for pip not even in that.
        raise MissingPart(f"{whose}: the package {name} is not installed: pip install {name.replace('_', '-')}")
    return Path(next(iter(places)))
