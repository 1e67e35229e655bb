"""A study for people: tables on the terminal, and the same as Markdown."""

import math
from collections.abc import Sequence
from pathlib import Path

import click

from byolt.console.tables import print_table
from byolt.files import write_text
from byolt.studies.lengths_results import LengthsResults
from byolt.studies.results import ArmResults, StudyResults, Table

SEEDS_IN_BRACKETS = "Mean +/- standard deviation, per cent, and in brackets the number of seeds"


def print_study(study: StudyResults, written: list[Path], next_command: str) -> None:
    """Each table with its tests, the notes, the files, and the next command to type."""
    if isinstance(study, LengthsResults):
        print_table(*overview(study), title=study.title)
        for gap in study.gaps:
            click.echo(f"         {gap.sentence}")
    for table in study.tables:
        print_table(*_arms(table), title=table.caption)
        for sentence in table.said:
            click.echo(f"         {sentence}")
    for note in study.notes:
        click.echo(f"note     {note}")
    print_written(written, next_command)


def print_written(written: Sequence[Path], next_command: str) -> None:
    """The files that a study wrote, and the next command."""
    for path in written:
        click.echo(f"wrote    {path}")
    click.echo(f"next     {next_command}")


def write_markdown(study: StudyResults, path: Path, command: str) -> None:
    """The tables, tests and notes as a page for a repository.

    Raises:
        ByoltError: The disk is full or cannot be written.
    """
    environment = "; ".join(f"{name} {value}" for name, value in study.environment.items())
    about = f"{environment}; {study.hours:.1f} hours of learning by one process each, over all runs of this recipe"
    lines = [f"# {study.title}: {study.name}", "", f"`{command}`", "", f"{about} that are kept."]
    alt = "every seed"
    if isinstance(study, LengthsResults):
        alt = "accuracy against epochs"
        lines += ["", *markdown_table(*overview(study)), "", f"{SEEDS_IN_BRACKETS}.", ""]
        lines += [*(f"- {capital(gap.sentence)}." for gap in study.gaps)]
    lines += ["", f"![{alt}]({path.stem}.svg)"]
    for table in study.tables:
        lines += [
            "",
            f"## {table.caption}",
            "",
            f"{capital(table.measure)}, per cent.",
            "",
            *markdown_table(*_arms(table)),
        ]
        if table.comparisons:
            lines += ["", *markdown_table(*_tests(table))]
        lines += ["", *(f"- {capital(sentence)}." for sentence in table.said)]
    lines += ["", *(f"- {note}" for note in study.notes)]
    write_text(path, "\n".join(lines).rstrip() + "\n")


def overview(study: LengthsResults) -> tuple[list[str], list[list[str]]]:
    """Headings and a row for each method: mean and deviation at each length, and over how many seeds."""
    cells: dict[str, dict[str, str]] = {}
    for table in study.tables:
        for arm in table.arms:
            cells.setdefault(arm.name, {})[table.caption] = _in_short(arm)
    columns = [table.caption for table in study.tables]
    return ["method", *columns], [[name, *(own.get(column, "") for column in columns)] for name, own in cells.items()]


def _in_short(arm: ArmResults) -> str:
    if arm.summary is None:
        return "no figure"
    _, mean, std, *_ = arm.summary
    spread = "" if math.isnan(std) else f" +/- {100 * std:.1f}"
    return f"{100 * mean:.1f}{spread} ({len(arm.seeds)})"


def _arms(table: Table) -> tuple[list[str], list[list[str]]]:
    """Headings under which some arm has something, and a row per arm."""
    rows = [_cells(arm) for arm in table.arms]
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    return columns, [[row[name] for name in columns] for row in rows]


def _cells(arm: ArmResults) -> dict[str, str]:
    mean = "no figure"
    if arm.summary is not None:
        mean = f"{100 * arm.summary.mean:.1f}"
        if not math.isnan(arm.summary.low):
            std, low, high = (100 * value for value in (arm.summary.std, arm.summary.low, arm.summary.high))
            mean += f" +/- {std:.1f} [{low:.1f}, {high:.1f}]"
    states = {state: arm.states.count(state) for state in arm.states}
    return {
        "arm": arm.name,
        "mean +/- std [95 % interval]": mean,
        "each seed": " ".join(f"{100 * value:.1f}" for value in arm.accuracies),
        "kNN": f"{100 * sum(arm.knn) / len(arm.knn):.1f}" if arm.knn else "",
        "published": "" if arm.published is None else f"{arm.published:g}",
        "in": arm.source,
        "minutes": f"{arm.minutes:.1f}",
        "state": ", ".join(name if len(states) == 1 else f"{count} {name}" for name, count in states.items()),
        "sets": arm.changes,
    }


def _tests(table: Table) -> tuple[list[str], list[list[str]]]:
    headings = [f"{table.ours} less", "points", "simultaneous 95 % interval", "p", "p, Holm", "effect size"]
    rows = [
        [
            name,
            f"{100 * c.difference:+.2f}",
            f"{100 * c.low:+.2f} to {100 * c.high:+.2f}",
            *(f"{p:.4f}" for p in (c.p, c.p_holm)),
            f"{c.effect_size:.2f}",
        ]
        for name, c in table.comparisons.items()
    ]
    return headings, rows


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def capital(text: str) -> str:
    """A sentence's beginning; what follows stays, names with capitals too."""
    return text[0].upper() + text[1:]
