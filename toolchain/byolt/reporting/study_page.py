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
from byolt.reporting.study_charts import dynamics_charts, lengths_chart, study_chart
from byolt.reporting.study_text import SEEDS_IN_BRACKETS, overview
from byolt.studies.lengths_results import LengthsResults
from byolt.studies.results import ArmResults, StudyResults, Table

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
        lengths=_over_lengths(metrics) if isinstance(metrics, LengthsResults) else None,
        sentences=[f"{table.caption}: {said}" for table in metrics.tables for said in table.said],
        chart=data_uri(study_chart(metrics).encode(), "svg+xml") if measured else None,
        parts=[_part(table) for table in metrics.tables],
        comparisons=_comparisons(metrics),
        environment=HtmlTable([{"environment": name, "": value} for name, value in metrics.environment.items()]),
    )
    write_text(path, page)


def _over_lengths(study: LengthsResults) -> dict[str, Any]:
    columns, rows = overview(study)
    return {
        "table": HtmlTable([dict(zip(columns, row, strict=True)) for row in rows], note=f"{SEEDS_IN_BRACKETS}."),
        "sentences": [gap.sentence for gap in study.gaps],
        "chart": data_uri(lengths_chart(study).encode(), "svg+xml"),
    }


def _part(table: Table) -> dict[str, Any]:
    lost = [(arm, sum(not records for records in arm.records)) for arm in table.arms]
    return {
        "table": table,
        "arms": HtmlTable([_cells(arm) for arm in table.arms]),
        "charts": dynamics_charts(table.arms),
        "legend": list(zip((arm.name for arm in table.arms), itertools.cycle(LOOKS))),
        "undrawn": [f"{arm.name} ({count} of {len(arm.records)} seeds)" for arm, count in lost if count],
    }


def _cells(arm: ArmResults) -> dict[str, Any]:
    mean, std, low, high = (
        number(None if arm.summary is None else getattr(arm.summary, name), ".2%")
        for name in ("mean", "std", "low", "high")
    )
    spread = arm.summary is not None and not math.isnan(arm.summary.low)  # One seed has none.
    marks = [_COLLAPSED if gone else "" for gone in arm.collapsed]
    seeds = [
        Markup('<span><span class="note">{}:</span> {}{}</span>').format(seed, number(accuracy, ".2%"), mark)
        for seed, accuracy, mark in zip(arm.seeds, arm.accuracies, marks, strict=True)
    ]
    return {
        "arm": arm.name,
        "changes": arm.changes,
        "mean": mean,
        "std": std,
        "95 % interval": Number("{} to {}").format(low, high) if spread else low,
        "kNN": number(sum(arm.knn) / len(arm.knn), ".2%") if arm.knn else "",
        "published": "" if arm.published is None else f"{arm.published:g} ({arm.source})",
        "each seed": Markup(" ").join(seeds),
    }


def _comparisons(metrics: StudyResults) -> HtmlTable:
    """Differences in points."""
    rows = [
        {
            "table": table.caption,
            "against": name,
            "difference, points": number(100 * c.difference, "+.2f"),
            "from": number(100 * c.low, "+.2f"),
            "to": number(100 * c.high, "+.2f"),
            "p": number(c.p, ".2g"),
            "p, Holm": number(c.p_holm, ".2g"),
            "effect size": number(c.effect_size, "+.2f"),
        }
        for table in metrics.tables
        for name, c in table.comparisons.items()
    ]
    return HtmlTable(rows)
