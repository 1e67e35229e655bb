"""The charts of a study: every seed a dot, and how the arms differ while they learn."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from byolt.reporting.bands import values_of
from byolt.reporting.charts import Chart, Line, Panel, canvas, finished, line_chart, plain
from byolt.reporting.curves import DYNAMICS, LEARNING, spectra_svg, spectrum_line
from byolt.reporting.theme import ALARM, FAINT, INK, PALETTE, series_style
from byolt.studies.results import ArmResults, Table

SHARES = 60
"""Points of a mean curve."""
_NAME_CHARACTERS = 28

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


def accuracy_chart(key: str, label: str, tables: Sequence[Table]) -> Markup:
    """One panel per table, one row per arm: a dot per seed, a bar for the mean, a line for its 95 % t interval."""
    heights = [0.8 + 0.3 * len(table.arms) for table in tables]
    with canvas() as figure:
        figure.set_size_inches(5.5, sum(heights) + 0.75)
        every = figure.subplots(len(tables), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, table in zip(every, tables, strict=True):
            for row, arm in enumerate(table.arms):
                _draw_arm(axes, row, arm)
            axes.set_yticks(range(len(table.arms)), [plain(arm.name, _NAME_CHARACTERS) for arm in table.arms])
            axes.set_ylim(len(table.arms) - 0.5, -0.5)
            axes.margins(x=0.08)
            axes.grid(False, axis="y")
            axes.set_title(plain(table.caption, 48), loc="left", fontsize=10, fontweight="bold", color=INK)
            axes.set_xlabel(f"{plain(table.measure, 52)} (%)")
        figure.text(0.995, 0.004, _KEY, ha="right", va="bottom", fontsize=8.5, color=FAINT)
        foot = 0.2 / figure.get_figheight()
        figure.get_layout_engine().set(rect=(0, foot, 1, 1 - foot))
        return finished(figure, key, label)


_KEY = "dot: a seed; cross: a collapsed one; bar: mean; line: 95 % t interval"


def _draw_arm(axes: Any, row: int, arm: ArmResults) -> None:
    colour = PALETTE[row % len(PALETTE)]
    summary = arm.summary
    if summary is not None:
        if math.isfinite(summary.low):
            ends = [100 * summary.low, 100 * summary.high]
            axes.plot(ends, [row, row], color=colour, linewidth=1.4, marker="|", markersize=8)
        axes.plot([100 * summary.mean] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=2.6)
    for accuracy, gone in zip(arm.accuracies, arm.collapsed, strict=True):
        if math.isfinite(accuracy):
            how = (
                {"marker": "x", "color": ALARM, "s": 30}
                if gone
                else {"marker": "o", "color": colour, "s": 17, "alpha": 0.75}
            )
            axes.scatter([100 * accuracy], [row], zorder=3, linewidths=1.4 if gone else 0, **how)


def dynamics_charts(arms: Sequence[ArmResults], prefix: str) -> list[Chart]:
    """A line an arm, the mean over its seeds, against the share of the run; then the spectrum at the end."""
    found = []
    for name, reading in _READINGS.items():
        title, _, ((key, y_label, *_),) = (LEARNING | DYNAMICS)[name]
        lines = [line for number, arm in enumerate(arms) if (line := _mean_line(arm, number, key)) is not None]
        if lines:
            panel = Panel(y_label, lines, legend=False)
            svg = line_chart(f"{prefix}-{key}", f"{title}, a line an arm", "share of the run (%)", [panel], (0, 100))
            found.append(Chart(title, svg, reading))
    lines = [line for number, arm in enumerate(arms) if (line := _last_spectrum(arm, number)) is not None]
    spectra = spectra_svg(f"{prefix}-spectrum", "Spectrum of the projections at the end, a line an arm", lines)
    if spectra is not None:
        reading = (
            "Variance along each axis of the projections' covariance at the end, first seed of each arm, as a share of "
            "their energy. A line that drops early is dimensional collapse; an arm without a line has nothing above "
            "rounding."
        )
        found.append(Chart("Spectrum at the end", spectra, reading))
    return found


def _mean_line(arm: ArmResults, number: int, key: str) -> Line | None:
    """The mean over seeds at even shares of the run, where every seed with this key was measured."""
    curves = [
        (values, arm.steps or records[-1]["step"]) for records in arm.records if (values := values_of(records, key))
    ]
    if not curves:
        return None
    shares = np.linspace(0, 1, SHARES + 1)
    start = max(values[0][0] / end for values, end in curves)
    stop = min(values[-1][0] / end for values, end in curves)  # A collapsed run ends before its time.
    shares = shares[(shares >= start) & (shares <= stop)]
    if not len(shares):
        return None
    heights = [np.interp(shares * end, *np.array(values).T) for values, end in curves]
    colour, dash = series_style(number)
    return Line((100 * shares).tolist(), np.mean(heights, axis=0).tolist(), "", colour, dash, len(shares) < 3)


def _last_spectrum(arm: ArmResults, number: int) -> Line | None:
    for records in arm.records:
        spectra = [record["spectrum"] for record in records if record.get("spectrum")]
        if spectra:
            colour, dash = series_style(number)
            return spectrum_line(spectra[-1], "", colour, dash)
    return None
