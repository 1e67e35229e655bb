"""The `method` section of a recipe: settings of one method, told apart by `name`.

A file of this package is a method: ``NAME.py`` holds the settings of `method.name: NAME`, and ``byolt.methods.NAME``
what is computed by them. Defaults are the published ones of ImageNet, whatever the recipe's data; a recipe says where
it departs.
"""

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Discriminator, Tag

from byolt.recipe.method_settings.base import MethodSettings
from byolt_export.wording import shown


def _settings_of(name: str) -> type[MethodSettings]:
    """The settings that the file of a method defines."""
    module = import_module(f"{__name__}.{name}")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, MethodSettings) and value.__module__ == module.__name__
    )
    return found


METHODS: dict[str, type[MethodSettings]] = {
    name: _settings_of(name) for _, name, _ in pkgutil.iter_modules(__path__) if name != "base"
}


def _name_of(method: Any) -> str:
    """Which method a mapping or a section is of; BYOL where it does not say."""
    name = method.get("name", "byol") if isinstance(method, dict) else getattr(method, "name", "byol")
    return name if isinstance(name, str) else shown(name)


if TYPE_CHECKING:
    Method = MethodSettings
else:
    Method = Annotated[
        Union[tuple(Annotated[settings, Tag(name)] for name, settings in METHODS.items())],  # noqa: UP007
        Discriminator(_name_of),
    ]
__all__ = ["METHODS", "Method", "MethodSettings"]
