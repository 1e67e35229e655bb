"""Listings for people."""

import json
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.console import Console

if TYPE_CHECKING:
    from byolt.recipe.explain import KeyRow


def wide_console() -> Console:
    """The terminal, or where there is none a page that takes a wide table whole, whatever COLUMNS says of another."""
    return Console(width=None if sys.stdout.isatty() else 180)


def print_explanation(rows: Sequence["KeyRow"], *, with_values: bool) -> None:
    """The keys of a recipe: name, value where there is a recipe, type and default, result or machine, meaning."""
    for row in rows:
        value = f" = {json.dumps(row.value)}" if with_values else ""
        default = "required" if row.default == "required" else f"default {row.default}"
        of = f" of {row.method}" if row.method else ""
        click.echo(f"{row.key}{of}{value}  ({row.type}; {default}; {row.kind})")
        click.echo(textwrap.fill(row.meaning, width=100, initial_indent="    ", subsequent_indent="    "))
