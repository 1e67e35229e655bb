"""A study of starts for people: tables and sentences on the terminal, and the same as Markdown."""

import math
from collections.abc import Sequence
from pathlib import Path

import click

from byolt.console.tables import print_table
from byolt.evaluation.label_efficiency_words import name, sentence
from byolt.files import write_text
from byolt.reporting.study_text import capital, markdown_table, print_written
from byolt.studies.starts_results import StartsResults, WayResults

TableRows = tuple[list[str], list[list[str]]]


def print_starts(study: StartsResults, written: Sequence[Path], next_command: str) -> None:
    """Of each way the curves as a table, the sentence and the recommendation; the files, the next command."""
    for way in study.ways:
        click.echo(f"{way.caption}: {study.measure}, per cent [95 % interval]")
        print_table(*curve_rows(way))
        for said in way.sentences:
            click.echo(f"labels   {said}")
        click.echo(f"advice   {way.recommendation}")
    print_written(written, next_command)


def write_starts_markdown(study: StartsResults, path: Path, command: str) -> None:
    """Everything that a study of starts says, as a page for a repository.

    Raises:
        ByoltError: The disk is full or cannot be written.
    """
    images, made = study.images, "; ".join(f"{name} {value}" for name, value in study.environment.items())
    about = (
        f"{_count(len(study.seeds), 'seed')}; labels are drawn from {images['train']:,} training images of "
        f"{images['classes']} classes, and tested on {images['test']:,}; {made}; {study.hours:.2f} hours by one "
        "process at a time."
    )
    lines = [f"# {study.title} {study.name}", "", f"`{command}`", "", about]
    for way in study.ways:
        lines += ["", f"**{way.caption}.** {way.recommendation}", *(f"- {said}." for said in way.sentences)]
    lines += ["", f"![{study.measure} by number of labels]({path.stem}.svg)"]
    for way in study.ways:
        lines += ["", f"## {way.caption}", "", f"{capital(study.measure)}, per cent, with its "]
        lines[-1] += "pointwise 95 % interval, by the number of labels."
        lines += ["", *markdown_table(*curve_rows(way))]
        if way.differences:
            lines += ["", *markdown_table(*difference_rows(way)), "", *(f"- {sentence(one)}." for one in way.saved)]
        lines += ["", "Settings chosen:", "", *markdown_table(*setting_rows(way))]
    lines += ["", "## How it was measured", "", *(f"- {note}" for note in study.notes)]
    write_text(path, "\n".join(lines) + "\n")


def curve_rows(way: WayResults) -> TableRows:
    """Headings, and a row for each number of labels: mean and interval of each start, per cent."""
    starts, curves = way.measured.starts, way.curves
    rows = [
        [f"{budget:,}", *(_interval(curves[start][place]) for start in starts)]
        for place, budget in enumerate(way.measured.budgets)
    ]
    return ["labels", *starts], rows


def difference_rows(way: WayResults) -> TableRows:
    """Headings, and a row for each pair and number of labels."""
    rows = [
        [
            f"{name(one.ours)} less {name(one.theirs)}",
            f"{one.budget:,}",
            f"{100 * one.difference:+.1f}",
            f"{100 * one.low:+.1f} to {100 * one.high:+.1f}" if math.isfinite(one.low) else "",
            *(f"{p:.4f}" if math.isfinite(p) else "" for p in (one.p, one.p_holm)),
            one.verdict,
        ]
        for one in way.differences
    ]
    return ["difference", "labels", "points", "simultaneous 95 % interval", "p", "p, Holm", "verdict"], rows


def setting_rows(way: WayResults) -> TableRows:
    """Headings, and a row for each number of labels: the setting of each start."""
    starts = way.measured.starts
    rows = [[f"{budget:,}", *(way.settings[start, budget] for start in starts)] for budget in way.measured.budgets]
    return ["labels", *starts], rows


def _interval(point: tuple[int, float, float, float]) -> str:
    _, mean, low, high = point
    spread = f" [{100 * low:.1f}, {100 * high:.1f}]" if math.isfinite(low) else ""
    return f"{100 * mean:.1f}{spread}"


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
