"""What pytest checks every annotation of the packages with: shapes by jaxtyping, the rest by beartype."""

from collections.abc import Callable
from typing import Any, TypeVar

Checked = TypeVar("Checked", bound=Callable[..., Any])

try:
    from beartype import BeartypeConf, beartype
except ModuleNotFoundError:  # A machine with a GPU may have its image's packages alone.

    def check_types(checked: Checked) -> Checked:
        """Nothing."""
        return checked

else:
    check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))  # PEP 484: an int is a float.
