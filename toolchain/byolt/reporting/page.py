"""Pages of HTML from the templates beside this file: every name is escaped, and nothing is loaded from anywhere."""

import math
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from byolt_export.proof.page import visible


class Number(Markup):
    """A number as it is read, in an element that holds it exactly."""

    numeric = True


def number(value: float | None, form: str) -> Number:
    """A value by a format, for example ``.2f``; a dash where there is none, which NaN says too."""
    if value is None or math.isnan(value):
        return Number("&ndash;")
    return Number('<data value="{}">{}</data>').format(repr(value), format(value, form))


@dataclass(frozen=True)
class HtmlTable:
    """Rows of cells by their headings; a cell is text or markup, a ``Number`` stands to the right."""

    rows: list[dict[str, Any]]
    note: str = ""
    caption: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def columns(self) -> list[str]:
        """Those headings under which some row has something."""
        return [name for name in self.rows[0] if any(row[name] for row in self.rows)]


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
