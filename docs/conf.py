"""The documentation site: Sphinx over the Markdown of this folder; `make docs` builds it, every warning an error."""

import re
from itertools import groupby
from pathlib import Path
from typing import Any

import click
from sphinx.application import Sphinx
from sphinx.util.logging import getLogger

from byolt import __version__
from byolt.cli import cli
from byolt.recipe.explain import KeyRow, explain
from byolt.recipe.schema import Recipe

project = "byolt"
author = project_copyright = "The byolt maintainers"
version = release = __version__
html_title = f"byolt {version}"
html_theme = "furo"
html_show_sourcelink = False
html_copy_source = False
html_use_index = False
exclude_patterns = ["results/*.html"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
default_role = "literal"  # Docstrings quote names with one backtick or two.
autodoc_default_options = {"members": True, "special-members": "__call__", "member-order": "bysource"}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"

# What a browser fetches by itself; a link to click on is not among it.
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//|url\(["']?https?:"""
)


def setup(app: Sphinx) -> None:
    """Fill the generated pages in, and look at what was built."""
    app.connect("source-read", fill_in)
    app.connect("build-finished", warn_of_what_loads_from_elsewhere)


def fill_in(app: Sphinx, name: str, source: list[str]) -> None:
    """Append what is generated to the page that introduces it."""
    pages = {"reference/command-line": command_line, "reference/recipe": recipe_keys}
    if name in pages:
        source[0] += pages[name]()


def warn_of_what_loads_from_elsewhere(app: Sphinx, error: Exception | None) -> None:
    """Warn where a browser would fetch a font, a script or a picture from another host."""
    for path in Path(app.outdir).rglob("*"):
        if path.suffix in (".html", ".css", ".svg") and (found := LOADED.search(path.read_text())):
            getLogger(__name__).warning(f"{path} loads something from elsewhere: {found[0]}")


def command_line() -> str:
    """A section for each command: what ``byolt COMMAND --help`` prints."""
    parts: list[str] = []

    def add(command: click.Command, parent: click.Context | None, name: str) -> None:
        context = click.Context(command, parent=parent, info_name=name, terminal_width=100)
        parts.append(f"\n## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n")
        if isinstance(command, click.Group):
            for inner in command.list_commands(context):
                add(command.commands[inner], context, inner)

    add(cli, None, "byolt")
    return "".join(parts)


def recipe_keys() -> str:
    """A table for each section of the schema, and for the keys of each method."""
    parts: list[str] = []
    for (section, method), rows in groupby(explain(), key=lambda row: (section_of(row.key), row.method)):
        about = "" if section == "run" else Recipe.model_fields[section].description
        parts.append(f"\n## {section}{': ' * bool(method)}{method}\n\n{about}\n")
        parts += ["| key | type | default | kind | meaning |", "|---|---|---|---|---|", *map(table_row, rows)]
    return "\n".join(parts) + "\n"


def section_of(key: str) -> str:
    """``data`` of ``data.name``; ``run`` for keys outside of sections."""
    section, dot, _ = key.partition(".")
    return section if dot else "run"


def table_row(row: KeyRow) -> str:
    """A key as a row of a Markdown table."""
    cells: list[Any] = [f"`{row.key}`", row.type, f"`{row.default}`", row.kind, row.meaning]
    return "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in cells) + " |"
