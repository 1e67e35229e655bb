"""A study of starts as one HTML file and one picture: label efficiency curves with their bands."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from byolt.evaluation.label_efficiency import Point
from byolt.evaluation.label_efficiency_words import name, sentence
from byolt.files import write_text
from byolt.reporting.charts import GREY, MARKS, Chart, canvas, svg_of
from byolt.reporting.page import HtmlTable, Number, number, render
from byolt.reporting.pictures import data_uri
from byolt.reporting.starts_text import setting_rows
from byolt.run import Run
from byolt.studies.starts_results import StartsResults, WayResults


def write_starts_report(path: Path, study: StartsResults) -> None:
    """Write the page whole, or leave what was there.

    Raises:
        ByoltError: The file cannot be written.
    """
    page = render(
        "starts.html.jinja",
        study=study,
        chart=data_uri(starts_chart(study).encode(), "svg+xml"),
        parts=[_part(way) for way in study.ways],
        environment=HtmlTable([{"environment": name, "": value} for name, value in study.environment.items()]),
    )
    write_text(path, page)


def starts_chart(study: StartsResults) -> str:
    """An SVG file of a panel for each way: a line for each start against the number of labels, and its interval."""
    return _chart(study.measure, [(way.caption, way.curves) for way in study.ways])


def answer_of(run: Run) -> dict[str, Any] | None:
    """What a study of starts said that a run was part of, for the run's report: its sentences and its picture."""
    study = run.metrics("starts")
    if study is None:
        return None
    panels = [
        (way["caption"], {start: [Point(**point) for point in points] for start, points in way["curves"].items()})
        for way in study["ways"].values()
    ]
    reading = "The band is the pointwise 95 % interval. Read along a horizontal line: labels for the same result."
    chart = Chart(f"{study['measure']} by number of labels", _chart(study["measure"], panels), reading)
    return {"ways": list(study["ways"].values()), "charts": [chart], "study": study["study"]}


def _chart(measure: str, panels: Sequence[tuple[str, Mapping[str, Sequence[Point]]]]) -> str:
    rows = len(panels)
    with canvas(6.4, 3.4 * rows + 0.3, rows=rows) as (figure, all_axes):
        for axes, (caption, curves) in zip(all_axes, panels, strict=True):
            _draw(axes, curves)
            axes.set_title(caption, loc="left", fontsize=10, fontweight="bold")
            axes.set(ylabel=f"{measure} (%)", xlabel="labelled images")
        figure.supxlabel("band: pointwise 95 % interval", x=0.995, ha="right", fontsize=8.5, color=GREY)
        return svg_of(figure)


def _draw(axes: Axes, curves: Mapping[str, Sequence[Point]]) -> None:
    for place, (start, points) in enumerate(curves.items()):
        budgets, means, lows, highs = np.array(points, float).T
        colour = f"C{place}"
        axes.plot(budgets, 100 * means, color=colour, marker=MARKS[place], linestyle="solid", label=name(start))
        axes.fill_between(budgets, 100 * lows, 100 * highs, color=colour, alpha=0.13, linewidth=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(budgets.tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{budget:,.0f}" for budget in budgets])
    axes.legend(fontsize=8.5)


def _part(way: WayResults) -> dict[str, Any]:
    columns, rows = setting_rows(way)
    return {
        "way": way,
        "curves": HtmlTable([_curve_cells(way, place) for place in range(len(way.measured.budgets))]),
        "differences": HtmlTable([_difference_cells(one) for one in way.differences]),
        "saved": [sentence(saved) for saved in way.saved],
        "settings": HtmlTable([dict(zip(columns, row, strict=True)) for row in rows]),
    }


def _curve_cells(way: WayResults, place: int) -> dict[str, Any]:
    cells: dict[str, Any] = {"labels": number(way.measured.budgets[place], ",d")}
    for start, points in way.curves.items():
        _, mean, low, high = points[place]
        ends = Number(" [{}, {}]").format(*(number(100 * end, ".1f") for end in (low, high)))
        cells[name(start)] = Number("{}{}").format(number(100 * mean, ".1f"), ends if math.isfinite(low) else "")
    return cells


def _difference_cells(one: Any) -> dict[str, Any]:
    points = {"points": one.difference, "from": one.low, "to": one.high}
    return {
        "difference": f"{name(one.ours)} less {name(one.theirs)}",
        "labels": number(one.budget, ",d"),
        **{heading: number(100 * value, "+.1f") for heading, value in points.items()},
        "p": number(one.p, ".2g"),
        "p, Holm": number(one.p_holm, ".2g"),
        "verdict": one.verdict,
        "interval covers": one.covers,
    }
