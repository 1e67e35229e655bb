"""Pages of HTML from the templates beside this file: every name is escaped, and nothing is loaded from anywhere."""

from dataclasses import dataclass
from importlib import resources
from typing import Any

from byolt.reporting.theme import DARK, LIGHT, STROKES, css_colours
from byolt_export.errors import MissingPart
from byolt_export.proof.page import visible


@dataclass(frozen=True)
class FormattedNumber:
    """A number as it is read, and as it is exactly."""

    text: str
    exact: str


def number(value: float | None, form: str) -> FormattedNumber | None:
    """A metric by a format, for example ``.2f``; None stays None."""
    return None if value is None else FormattedNumber(format(value, form), repr(value))


def percent(value: float | None, form: str = ".1%") -> FormattedNumber | None:
    """A share as a percentage."""
    return number(value, form)


def render(template: str, **content: Any) -> str:
    """A page by the name of its template.

    Raises:
        MissingPart: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
    except ImportError as error:
        raise MissingPart('jinja2 is not installed, which writes the page: pip install "byolt[train]"') from error
    folder = resources.files("byolt.reporting")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    colours = {"light": css_colours(LIGHT), "dark": css_colours(DARK), "strokes": STROKES}
    return environment.get_template(template).render(theme=colours, **content)
