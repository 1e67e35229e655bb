"""Listings for people."""

import textwrap
from collections.abc import Sequence

import click


def print_explanation(rows: Sequence[tuple[str, str, str, str, str]]) -> None:
    """The keys of a recipe: name, type and default, whether it changes the result, meaning."""
    for key, kind, default, marked, meaning in rows:
        click.echo(f"{key}  ({kind}; {'required' if default == 'required' else f'default {default}'}; {marked})")
        click.echo(textwrap.fill(meaning, width=100, initial_indent="    ", subsequent_indent="    "))
