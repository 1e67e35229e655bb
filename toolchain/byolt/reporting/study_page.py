"""A study as one HTML file: tables over seeds, the tests' verdicts, and how the arms differ while they learn."""

import math
from pathlib import Path
from typing import Any

from byolt.files import write_text
from byolt.reporting.page import FormattedNumber, number, render
from byolt.reporting.study_charts import accuracy_chart, dynamics_charts
from byolt.reporting.theme import VARIABLES, series_style, standalone
from byolt.studies.results import ArmResults, StudyResults, Table

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


def write_study_report(path: Path, metrics: StudyResults) -> None:
    """Write the page whole, or leave what was there.

    Raises:
        MissingPart: matplotlib or jinja2 is not installed.
        ByoltError: The file cannot be written.
    """
    rows = [row for table in metrics.tables for row in _comparisons(table)]
    page = render(
        "study.html.jinja",
        study=metrics,
        sentences=[f"{table.caption}: {said}" for table in metrics.tables for said in table.said],
        tables=[_told(table, place) for place, table in enumerate(metrics.tables)],
        chart_svg=_chart(metrics) if _drawable(metrics) else None,
        comparison_names=list(_COLUMNS.values()),
        comparisons=[[_cell(key, row[key]) for key in _COLUMNS] for row in rows],
    )
    write_text(path, page)


def _told(table: Table, place: int) -> dict[str, Any]:
    return {
        "caption": table.caption,
        "measure": table.measure,
        "rows": [_row(arm) for arm in table.arms],
        "published": any(arm.published is not None for arm in table.arms),
        "changes": any(arm.changes for arm in table.arms),
        "knn": any(arm.knn for arm in table.arms),
        "charts": dynamics_charts(table.arms, f"t{place}"),
        "undrawn": [
            f"{arm.name} ({lost} of {len(arm.records)} seeds)"
            for arm in table.arms
            if (lost := sum(not records for records in arm.records))
        ],
        "swatches": [(*_swatch(index), arm.name) for index, arm in enumerate(table.arms)],
    }


def _comparisons(table: Table) -> list[dict[str, Any]]:
    """Rows in points."""
    return [
        {
            "table": table.caption,
            "against": name,
            "difference": 100 * c.difference,
            "low": 100 * c.low,
            "high": 100 * c.high,
            "p": c.p,
            "p_holm": c.p_holm,
            "effect_size": c.effect_size,
        }
        for name, c in table.comparisons.items()
    ]


def study_chart(metrics: StudyResults) -> str:
    """Every seed a dot, a panel a table, as an SVG file that stands alone on a light and on a dark ground."""
    return standalone(str(_chart(metrics)))


def _chart(metrics: StudyResults) -> Any:
    label = f"Accuracy of every seed, one row per arm: {metrics.title}"
    return accuracy_chart("accuracies", label, [table for table in metrics.tables if table.arms])


def _drawable(metrics: StudyResults) -> bool:
    return any(math.isfinite(value) for table in metrics.tables for arm in table.arms for value in arm.accuracies)


def _swatch(index: int) -> tuple[str, str]:
    """The variable of an arm's colour, and the dashes of its line."""
    colour, dash = series_style(index)
    return VARIABLES[colour], {"-": "none", "--": "5 2", ":": "1.5 2"}[dash]


def _row(arm: ArmResults) -> dict[str, Any]:
    summary = arm.summary
    seeds = [
        {"seed": seed, "accuracy": _known(value, ".2%"), "collapsed": gone}
        for seed, value, gone in zip(arm.seeds, arm.accuracies, arm.collapsed, strict=True)
    ]
    mean, std, low, high = (None,) * 4 if summary is None else (summary.mean, summary.std, summary.low, summary.high)
    return {
        "name": arm.name,
        "changes": arm.changes,
        "published": "" if arm.published is None else f"{arm.published:g} ({arm.source})",
        "knn": _known(sum(arm.knn) / len(arm.knn), ".2%") if arm.knn else None,
        "seeds": seeds,
        "mean": _known(mean, ".2%"),
        "std": _known(std, ".2%"),
        "low": _known(low, ".2%"),
        "high": _known(high, ".2%"),
    }


def _known(value: float | None, form: str) -> FormattedNumber | None:
    """A metric, or None where there is none: NaN says so too."""
    return number(value, form) if value is not None and math.isfinite(value) else None


def _cell(key: str, value: Any) -> Any:
    if key in ("table", "against"):
        return "" if value is None else str(value)
    return _known(value, ".2g" if key.startswith("p") else "+.2f")
