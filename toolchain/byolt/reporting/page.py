"""Pages of HTML from the templates beside this file: every name is escaped, and nothing is loaded from anywhere."""

import math
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from byolt_export.proof.page import visible


class Number(Markup):
    """A number as it is read, in an element that holds it exactly; a table sets it to the right."""

    numeric = True


def number(value: float | None, form: str) -> Number:
    """A value by a format, for example ``.2f``; a dash where there is none, which NaN says too."""
    if value is None or math.isnan(value):
        return Number("&ndash;")
    return Number('<data value="{}">{}</data>').format(repr(value), format(value, form))


@dataclass(frozen=True)
class HtmlTable:
    """Rows under their headings; a cell is text or, as ``Number``, markup."""

    columns: list[str]
    rows: list[list[Any]]
    note: str = ""
    caption: str = ""


def render(template: str, **content: Any) -> str:
    """A page by the name of its template."""
    folder = resources.files("byolt.reporting")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)
