"""A study as one HTML file: tables over seeds, the tests' verdicts, and how the arms differ while they learn."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from byolt.reporting.page import Figure, number, render
from byolt.reporting.study_charts import Arm, accuracy_chart, dynamics_charts
from byolt.reporting.theme import VARIABLES, series_style, standalone
from byolt.run import write_text

__all__ = ["Arm", "StudyFigures", "study_chart", "write_study_report"]

_COLUMNS = {
    "table": "table",
    "against": "against",
    "difference": "difference, points",
    "low": "from",
    "high": "to",
    "p": "p",
    "p_holm": "p, Holm",
    "effect_size": "effect size",
}


@dataclass(frozen=True)
class StudyFigures:
    """All that a study's page shows."""

    name: str
    title: str
    measure: str
    """What the accuracies are of, for example "linear probe, test accuracy"."""
    tables: tuple[tuple[str, tuple[Arm, ...]], ...]
    """(caption, arms): for example untuned, tuned, with labels."""
    sentences: tuple[str, ...]
    """What the tests say, in words."""
    comparisons: tuple[dict[str, Any], ...]
    """Rows: table, against, difference, low, high, p, p_holm, effect_size (points)."""
    notes: tuple[str, ...]
    environment: dict[str, Any]
    recipe_text: str


def write_study_report(path: Path, figures: StudyFigures) -> None:
    """Write the page whole, or leave what was there.

    Raises:
        MissingPart: matplotlib or jinja2 is not installed.
        ByoltError: The file cannot be written.
    """
    tables = [
        {
            "caption": caption,
            "rows": [_row(arm) for arm in arms],
            "published": any(arm.published for arm in arms),
            "changes": any(arm.changes for arm in arms),
            "charts": dynamics_charts(arms, f"t{place}"),
            "swatches": [(*_swatch(index), arm.name) for index, arm in enumerate(arms)],
        }
        for place, (caption, arms) in enumerate(figures.tables)
    ]
    used = [key for key in _COLUMNS if any(key in row for row in figures.comparisons)]
    page = render(
        "study.html.jinja",
        study=figures,
        tables=tables,
        chart_svg=_chart(figures) if _drawable(figures) else None,
        comparison_names=[_COLUMNS[key] for key in used],
        comparisons=[[_cell(key, row.get(key)) for key in used] for row in figures.comparisons],
    )
    write_text(path, page)


def study_chart(figures: StudyFigures) -> str:
    """Every seed a dot, a panel a table, as an SVG file that stands alone on a light and on a dark ground."""
    return standalone(str(_chart(figures)))


def _chart(figures: StudyFigures) -> Any:
    label = f"{figures.measure} of every seed, an arm a row: {figures.title}"
    return accuracy_chart("accuracies", label, figures.measure, [table for table in figures.tables if table[1]])


def _drawable(figures: StudyFigures) -> bool:
    return any(arm.summary is not None for _, arms in figures.tables for arm in arms)


def _swatch(index: int) -> tuple[str, str]:
    """The variable of an arm's colour, and the dashes of its line."""
    colour, dash = series_style(index)
    return VARIABLES[colour], {"-": "none", "--": "5 2", ":": "1.5 2"}[dash]


def _row(arm: Arm) -> dict[str, Any]:
    summary = arm.summary
    seeds = [
        {"seed": seed, "accuracy": _known(value, ".2%"), "collapsed": gone}
        for seed, value, gone in zip(arm.seeds, arm.accuracies, arm.collapsed, strict=True)
    ]
    mean, std, low, high = (None,) * 4 if summary is None else (summary.mean, summary.std, summary.low, summary.high)
    return {
        "name": arm.name,
        "changes": arm.changes,
        "published": arm.published,
        "seeds": seeds,
        "mean": _known(mean, ".2%"),
        "std": _known(std, ".2%"),
        "low": _known(low, ".2%"),
        "high": _known(high, ".2%"),
        "collapsed": sum(arm.collapsed),
    }


def _known(value: float | None, form: str) -> Figure | None:
    """A figure, or None where there is none: NaN says so too."""
    return number(value, form) if value is not None and math.isfinite(value) else None


def _cell(key: str, value: Any) -> Any:
    if key in ("table", "against"):
        return "" if value is None else str(value)
    return _known(value, ".2g" if key.startswith("p") else "+.2f")
