"""Listings for people."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table

from byolt_export.errors import visible

if TYPE_CHECKING:
    from byolt.recipe.explain import KeyRow

WIDTH = 80
"""Characters of a line where nothing says how wide the terminal is."""
_GAP = 2  # Between two columns.


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None, *, numbers: Iterable[str] = ()
) -> None:
    """A plain table that no line of is wider than the terminal; cells are never cut and never broken.

    Headings are broken at their spaces where cells need the room; where that is not enough each row becomes a block:
    its first cell, and below it the others, each after its heading.

    Args:
        columns: Headings.
        rows: A cell per heading each.
        title: A line above.
        numbers: Headings of the columns that stand to the right.
    """
    # They may hold words of somebody else's file: none of them moves the cursor.
    cells, width = [[visible(cell, keep="") for cell in row] for row in rows], line_width()
    widths = [
        max(_longest_word(heading), *(cell_len(row[place]) for row in cells)) if cells else _longest_word(heading)
        for place, heading in enumerate(columns)
    ]
    console = Console(width=width, markup=False, highlight=False)
    if sum(widths) + _GAP * (len(widths) - 1) > width:
        if title:
            console.print(title, style="italic")
        console.print(columns[0], style="bold")
        for row in cells:
            click.echo("\n".join(_block(columns, row, width)))
        return
    spare = width - sum(widths) - _GAP * (len(widths) - 1)
    for place, heading in enumerate(columns):  # From the left a heading gets what keeps it on one line.
        more = min(spare, max(0, cell_len(heading) - widths[place]))
        widths[place], spare = widths[place] + more, spare - more
    right = set(numbers)
    shown = [
        Column(heading, width=own, justify="right" if heading in right else "left")
        for heading, own in zip(columns, widths, strict=True)
    ]
    table = Table(
        *shown,
        box=None,
        pad_edge=False,
        padding=(0, _GAP, 0, 0),
        header_style="bold",
        title=title,
        title_justify="left",
    )
    for row in cells:
        table.add_row(*row)
    console.print(table)


def line_width() -> int:
    """Characters of a line: of the terminal, else as COLUMNS says, else ``WIDTH``."""
    if not sys.stdout.isatty() and not os.environ.get("COLUMNS"):
        return WIDTH
    return max(20, shutil.get_terminal_size((WIDTH, 24)).columns)


def _longest_word(heading: str) -> int:
    return max(map(cell_len, heading.split()), default=0)


def _block(columns: Sequence[str], row: Sequence[str], width: int) -> list[str]:
    """A row as lines: its first cell, then ``heading: cell`` of the others that have something, as many as fit."""
    lines = [row[0]]
    for heading, cell in zip(columns[1:], row[1:], strict=True):
        if cell.strip():
            said = f"{heading}: {cell.strip()}" if heading else cell.strip()
            joined = f"{lines[-1]}; {said}"
            if len(lines) > 1 and cell_len(joined) <= width:
                lines[-1] = joined
            elif heading and cell_len(said) + 2 > width:
                lines += [f"  {heading}:", f"    {cell.strip()}"]
            else:
                lines.append(f"  {said}")
    wrapped = (
        textwrap.wrap(line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False) or [""]
        for line in lines
    )
    return [line for part in wrapped for line in part]


def print_explanation(rows: Sequence["KeyRow"], *, with_values: bool) -> None:
    """The keys of a recipe: name, value where there is a recipe, type and default, result or machine, meaning."""
    for row in rows:
        value = f" = {json.dumps(row.value)}" if with_values else ""
        default = "required" if row.default == "required" else f"default {row.default}"
        of = f" of {row.method}" if row.method else ""
        click.echo(f"{row.key}{of}{value}  ({row.type}; {default}; {row.kind})")
        text = textwrap.fill(row.meaning, width=line_width(), initial_indent="    ", subsequent_indent="    ")
        click.echo(text)
