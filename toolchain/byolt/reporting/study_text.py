"""A study for people: tables on the terminal, and the same as Markdown."""

import math
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table as Grid

from byolt.console.tables import wide_console
from byolt.files import write_text
from byolt.studies.results import ArmResults, StudyResults, Table


def print_study(study: StudyResults, written: list[Path], next_command: str) -> None:
    """Each table with its tests, the notes, the files, and the next command to type."""
    for table in study.tables:
        grid = Grid(box=None, pad_edge=False, header_style="bold", title=table.caption, title_justify="left")
        for heading in _headings(table):
            grid.add_column(heading)
        for arm in table.arms:
            grid.add_row(*(escape(cell) for cell in _cells(arm, table)))
        wide_console().print(grid, highlight=False)
        for sentence in table.said:
            click.echo(f"         {sentence}")
    for note in study.notes:
        click.echo(f"note     {note}")
    for path in written:
        click.echo(f"wrote    {path}")
    click.echo(f"next     {next_command}")


def write_markdown(study: StudyResults, path: Path, command: str) -> None:
    """The tables, tests and notes as a page for a repository.

    Raises:
        ByoltError: The disk is full or cannot be written.
    """
    environment = "; ".join(f"{name} {value}" for name, value in study.environment.items())
    lines = [
        f"# {study.title}: {study.name}",
        "",
        f"`{command}`",
        "",
        f"{environment}; {study.hours:.1f} hours of learning",
    ]
    lines[-1] += " by one process each, over all runs of this recipe that are kept."
    lines += ["", f"![every seed]({path.stem}.svg)"]
    for table in study.tables:
        lines += ["", f"## {table.caption}", "", f"{table.measure[0].upper()}{table.measure[1:]}, per cent.", ""]
        lines += [_row(_headings(table)), _row(["---"] * len(_headings(table)))]
        lines += [_row(_cells(arm, table)) for arm in table.arms]
        if table.comparisons:
            lines += ["", *_tests(table)]
        lines += ["", *(f"- {sentence[0].upper()}{sentence[1:]}." for sentence in table.said)]
    lines += ["", *(f"- {note}" for note in study.notes)]
    write_text(path, "\n".join(lines).rstrip() + "\n")


def _headings(table: Table) -> list[str]:
    named = ["arm", "mean +/- std [95 % interval]", "each seed"]
    if any(arm.knn for arm in table.arms):
        named.append("kNN")
    if any(arm.published is not None for arm in table.arms):
        named += ["published", "in"]
    return [*named, "minutes", "state", "sets"]


def _cells(arm: ArmResults, table: Table) -> list[str]:
    summary = arm.summary
    mean = "no figure"
    if summary is not None:
        mean = f"{100 * summary.mean:.1f}"
        if not math.isnan(summary.low):
            mean += f" +/- {100 * summary.std:.1f} [{100 * summary.low:.1f}, {100 * summary.high:.1f}]"
    cells = [arm.name, mean, " ".join(f"{100 * value:.1f}" for value in arm.accuracies)]
    if any(other.knn for other in table.arms):
        cells.append(f"{100 * sum(arm.knn) / len(arm.knn):.1f}" if arm.knn else "")
    if any(other.published is not None for other in table.arms):
        cells += ["" if arm.published is None else f"{arm.published:g}", arm.source]
    states = {state: arm.states.count(state) for state in dict.fromkeys(arm.states)}
    outcome = ", ".join(state if count == len(arm.states) else f"{count} {state}" for state, count in states.items())
    return [*cells, f"{arm.minutes:.1f}", outcome, arm.changes]


def _tests(table: Table) -> list[str]:
    rows = [
        _row([f"{table.ours} less", "points", "simultaneous 95 % interval", "p", "p, Holm", "effect size"]),
        _row(["---"] * 6),
    ]
    for name, c in table.comparisons.items():
        interval = f"{100 * c.low:+.2f} to {100 * c.high:+.2f}"
        rows.append(
            _row(
                [name, f"{100 * c.difference:+.2f}", interval, f"{c.p:.4f}", f"{c.p_holm:.4f}", f"{c.effect_size:.2f}"]
            )
        )
    return rows


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
