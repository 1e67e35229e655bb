"""Listings for people."""

import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Column, Table

from byolt_export.errors import visible

if TYPE_CHECKING:
    from byolt.recipe.explain import KeyRow


def print_table(columns: Sequence[str | Column], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """A plain table as wide as the terminal; where there is none, whole, whatever COLUMNS says of another.

    Cells may hold words of somebody else's file: none of them moves the cursor.
    """
    table = Table(*columns, box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(visible, row))
    Console(width=None if sys.stdout.isatty() else 180, markup=False, highlight=False).print(table)


def print_explanation(rows: Sequence["KeyRow"], *, with_values: bool) -> None:
    """The keys of a recipe: name, value where there is a recipe, type and default, result or machine, meaning."""
    for row in rows:
        value = f" = {json.dumps(row.value)}" if with_values else ""
        default = "required" if row.default == "required" else f"default {row.default}"
        of = f" of {row.method}" if row.method else ""
        click.echo(f"{row.key}{of}{value}  ({row.type}; {default}; {row.kind})")
        click.echo(textwrap.fill(row.meaning, width=100, initial_indent="    ", subsequent_indent="    "))
