"""A study as one HTML file: tables over seeds, the tests' verdicts, and how the arms differ while they learn."""

import itertools
import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

from byolt.files import write_text
from byolt.reporting.charts import LOOKS
from byolt.reporting.page import HtmlTable, Number, number, render
from byolt.reporting.pictures import data_uri
from byolt.reporting.study_charts import accuracy_chart, dynamics_charts
from byolt.study.results import ArmResults, StudyResults, Table

_COLLAPSED = Markup(' <span class="state bad">collapsed</span>')


def write_study_report(path: Path, metrics: StudyResults) -> None:
    """Write the page whole, or leave what was there.

    Raises:
        ByoltError: The file cannot be written.
    """
    measured = any(math.isfinite(value) for table in metrics.tables for arm in table.arms for value in arm.accuracies)
    page = render(
        "study.html.jinja",
        study=metrics,
        sentences=[f"{table.caption}: {said}" for table in metrics.tables for said in table.said],
        chart=data_uri(study_chart(metrics).encode(), "svg+xml") if measured else None,
        tables=[_section(table) for table in metrics.tables],
        comparisons=_comparisons(metrics),
        environment=HtmlTable(["environment", ""], [list(item) for item in metrics.environment.items()]),
    )
    write_text(path, page)


def study_chart(metrics: StudyResults) -> str:
    """Every seed a dot, a panel a table, as an SVG file that stands alone on a light and on a dark ground."""
    return accuracy_chart(metrics.tables)


def _section(table: Table) -> dict[str, Any]:
    lost = {arm.name: sum(not records for records in arm.records) for arm in table.arms}
    return {
        "caption": table.caption,
        "measure": table.measure,
        "arms": _arms(table),
        "charts": dynamics_charts(table.arms),
        "legend": list(zip((arm.name for arm in table.arms), itertools.cycle(LOOKS))),
        "undrawn": [
            f"{arm.name} ({lost[arm.name]} of {len(arm.records)} seeds)" for arm in table.arms if lost[arm.name]
        ],
    }


def _arms(table: Table) -> HtmlTable:
    """A row per arm; a column of which no arm has anything is left out."""
    rows = [_cells(arm) for arm in table.arms]
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    return HtmlTable(
        columns,
        [[row[name] for name in columns] for row in rows],
        "Mean, sample standard deviation and Student's 95 % interval over seeds; one seed tells no spread.",
    )


def _cells(arm: ArmResults) -> dict[str, Any]:
    mean, std, low, high = (
        number(None if arm.summary is None else getattr(arm.summary, name), ".2%")
        for name in ("mean", "std", "low", "high")
    )
    seeds = [
        Markup('<span><span class="note">{}:</span> {}{}</span>').format(seed, number(accuracy, ".2%"), mark)
        for seed, accuracy, mark in zip(
            arm.seeds, arm.accuracies, (_COLLAPSED if gone else "" for gone in arm.collapsed), strict=True
        )
    ]
    return {
        "arm": arm.name,
        "changes": arm.changes,
        "mean": mean,
        "std": std,
        "95 % interval": low if low == number(None, "") else Number("{} to {}").format(low, high),
        "kNN": number(sum(arm.knn) / len(arm.knn), ".2%") if arm.knn else "",
        "published": "" if arm.published is None else f"{arm.published:g} ({arm.source})",
        "each seed": Markup(" ").join(seeds),
    }


def _comparisons(metrics: StudyResults) -> HtmlTable:
    """Differences in points."""
    rows = [
        [
            table.caption,
            name,
            *(number(100 * points, "+.2f") for points in (c.difference, c.low, c.high)),
            *(number(p, ".2g") for p in (c.p, c.p_holm)),
            number(c.effect_size, "+.2f"),
        ]
        for table in metrics.tables
        for name, c in table.comparisons.items()
    ]
    return HtmlTable(
        ["table", "against", "difference, points", "from", "to", "p", "p, Holm", "effect size"],
        rows,
        "Differences in points of accuracy, paired by seed, with the simultaneous interval that the words above are "
        "drawn from; p is that of the paired t test, beside it adjusted by Holm for the number of comparisons.",
    )
