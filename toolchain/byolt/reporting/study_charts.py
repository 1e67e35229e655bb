"""The charts of a study: every seed a dot, and how the arms differ while they learn."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from byolt.reporting.charts import ALARM, GREY, MARKS, Chart, canvas, shortened, svg_of
from byolt.reporting.curves import DYNAMICS, LEARNING, spectra_chart, values_of
from byolt.studies.lengths_results import LengthsResults
from byolt.studies.results import ArmResults, StudyResults

SHARES = 60
"""Points of a mean curve."""

# How to read each chart that has one line per arm.
_READINGS = {
    "rank": "How many directions carry the projections. An arm that collapses falls towards 1.",
    "spread": "1 is even over all directions, 0 is a single point: complete collapse.",
    "predictor": "Rises towards 1 where the predictor turns into the axes of the projections' covariance; arms without "
    "a predictor have no line.",
    "target": "How far the target's weights lag behind the online ones; arms without a target of their own have no "
    "line.",
    "loss": "Losses of different methods do not compare; that of a collapsed arm is often the lowest.",
}


def chart_of(study: StudyResults) -> str:
    """The picture of a study, an SVG file: accuracy against epochs where it has several lengths, else every seed."""
    return lengths_chart(study) if isinstance(study, LengthsResults) else study_chart(study)


def lengths_chart(study: LengthsResults) -> str:
    """An SVG file of accuracy against epochs: a line for each method, its 95 % t interval, and a dot for each seed."""
    names = dict.fromkeys(arm.name for table in study.tables for arm in table.arms)
    with canvas(6.4, 3.7) as (figure, (axes,)):
        for place, name in enumerate(names):
            _draw_method(axes, place, name, study)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(list(study.lengths)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{epochs:,}" for epochs in study.lengths])
        axes.set_title(f"{shortened(study.tables[0].measure, 52)} (%)", loc="left", fontsize=10)
        axes.set(xlabel="epochs")
        axes.legend(fontsize=8.5)
        key = "dot: a seed; line: mean; band: 95 % t interval over seeds"
        figure.supxlabel(key, x=0.995, ha="right", fontsize=8.5, color=GREY)
        return svg_of(figure)


def _draw_method(axes: Axes, place: int, name: str, study: LengthsResults) -> None:
    tables = zip(study.lengths, study.tables, strict=True)
    measured = [(epochs, arm) for epochs, table in tables for arm in table.arms if arm.name == name]
    means = [(epochs, arm.summary) for epochs, arm in measured if arm.summary is not None]
    lengths, colour, mark = [epochs for epochs, _ in means], f"C{place}", MARKS[place % len(MARKS)]
    lows, centres, highs = 100 * np.array([(s.low, s.mean, s.high) for _, s in means]).reshape(-1, 3).T
    axes.plot(lengths, centres, color=colour, linestyle="solid", marker=mark, label=shortened(name))
    axes.fill_between(lengths, lows, highs, color=colour, alpha=0.13, linewidth=0)
    for epochs, arm in measured:
        seeds = 100 * np.array(arm.accuracies)
        axes.scatter(np.full(len(seeds), epochs), seeds, s=9, color=colour, alpha=0.6, linewidths=0)


def study_chart(study: StudyResults) -> str:
    """An SVG file of a panel per table, a row per arm: a dot per seed, a bar for the mean, a line for its interval."""
    heights = [0.8 + 0.3 * len(table.arms) for table in study.tables]
    with canvas(5.5, sum(heights) + 0.75, rows=len(heights), height_ratios=heights) as (figure, panels):
        for axes, table in zip(panels, study.tables, strict=True):
            for row, arm in enumerate(table.arms):
                _draw_arm(axes, row, arm)
            axes.set_yticks(range(len(table.arms)), [shortened(arm.name, 28) for arm in table.arms])
            axes.set_ylim(len(table.arms) - 0.5, -0.5)
            axes.margins(x=0.08)
            axes.grid(False, axis="y")
            axes.set_title(shortened(table.caption, 48), loc="left", fontsize=10, fontweight="bold")
            axes.set_xlabel(f"{shortened(table.measure, 52)} (%)")
        key = "dot: a seed; cross: a collapsed one; bar: mean; line: 95 % t interval"
        figure.supxlabel(key, x=0.995, ha="right", fontsize=8.5, color=GREY)
        return svg_of(figure)


def _draw_arm(axes: Axes, row: int, arm: ArmResults) -> None:
    """One row; matplotlib leaves out what is NaN."""
    colour = f"C{row}"
    if arm.summary is not None:
        low, mean, high = 100 * np.array([arm.summary.low, arm.summary.mean, arm.summary.high])
        axes.plot([low, high], [row, row], color=colour, linewidth=1.4, marker="|", markersize=8, linestyle="solid")
        axes.plot([mean, mean], [row - 0.3, row + 0.3], color=colour, linewidth=2.6, linestyle="solid")
    accuracies, collapsed = 100 * np.array(arm.accuracies), np.array(arm.collapsed, bool)
    rows = np.full(len(accuracies), row)
    axes.scatter(accuracies[~collapsed], rows[~collapsed], s=17, color=colour, alpha=0.75, linewidths=0, zorder=3)
    axes.scatter(accuracies[collapsed], rows[collapsed], s=30, color=ALARM, marker="x", linewidths=1.4, zorder=3)


def dynamics_charts(arms: Sequence[ArmResults]) -> list[Chart]:
    """A line an arm, the mean over its seeds, against the share of the run; then the spectrum at the end."""
    found = []
    for name, reading in _READINGS.items():
        kind = (LEARNING | DYNAMICS)[name]
        lines = [_mean_curve(arm, kind.curves[0].key) for arm in arms]
        if not any(line.size for line in lines):
            continue
        with canvas() as (figure, (axes,)):
            for shares, means in lines:  # An arm without a line keeps its colour.
                axes.plot(100 * shares, means, marker="o" if len(shares) < 3 else "")
            axes.set(xlabel="share of the run (%)", ylabel=kind.curves[0].label, xlim=(0, 100))
            found.append(Chart(kind.title, svg_of(figure), reading))
    spectra = spectra_chart(
        "Spectrum at the end",
        "Variance along each axis of the projections' covariance at the end, first seed of each arm, as a share of "
        "their energy. A line that drops early is dimensional collapse; an arm without a line has nothing above "
        "rounding.",
        [_last_spectrum(arm) for arm in arms],
        [{}] * len(arms),
    )
    return [*found, *spectra]


def _mean_curve(arm: ArmResults, key: str) -> npt.NDArray[np.float64]:
    """Shares of the run and means over seeds (2, N), where every seed with this key was measured."""
    curves = [
        (values_of(records, key) / [[arm.steps or records[-1]["step"]], [1]]) for records in arm.records if records
    ]
    curves = [curve for curve in curves if curve.size]
    if not curves:
        return np.empty((2, 0))
    shares = np.linspace(0, 1, SHARES + 1)
    start = max(curve[0, 0] for curve in curves)
    stop = min(curve[0, -1] for curve in curves)  # A collapsed run ends before its time.
    shares = shares[(shares >= start) & (shares <= stop)]
    return np.array([shares, np.mean([np.interp(shares, *curve) for curve in curves], axis=0)])


def _last_spectrum(arm: ArmResults) -> list[float]:
    """Of the first seed that has one."""
    spectra = [[record["spectrum"] for record in records if record.get("spectrum")] for records in arm.records]
    return next((own[-1] for own in spectra if own), [])
