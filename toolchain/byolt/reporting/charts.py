"""Charts as SVG that takes its colours from the page: lines, clouds of points, matrices."""

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from byolt.reporting.theme import ALARM, FAINT, INK, PALETTE, series_style, themed
from byolt_export.errors import MissingPart
from byolt_export.proof.page import visible

WIDTH_IN, HEIGHT_IN = 5.0, 2.9
"""At 72 points an inch: 360 px wide, so that text has its true size on a phone and in three columns."""
MOST_CLASSES = 28
"""Classes that colours and marks can tell apart."""
MARKS = "osD^"


@dataclass(frozen=True)
class Chart:
    """A drawing with its title above and how to read it below."""

    title: str
    svg: Markup
    reading: str


@dataclass(frozen=True)
class Line:
    """A curve; ``marks`` shows each point, where there are few."""

    x: Sequence[float]
    y: Sequence[float]
    name: str = ""
    colour: str = PALETTE[0]
    dash: str = "-"
    marks: bool = False


@dataclass(frozen=True)
class Limit:
    """A level below which something is wrong."""

    level: float
    name: str


@dataclass(frozen=True)
class Band:
    """Where the same curve ran in healthy runs."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    name: str = "healthy runs"


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    y_label: str
    lines: Sequence[Line]
    limits: Sequence[Limit] = ()
    band: Band | None = None
    y_range: tuple[float | None, float | None] = (None, None)
    log: bool = False
    legend: bool = field(default=True)


def line_chart(
    key: str, label: str, x_label: str, panels: Sequence[Panel], x_range: tuple[float, float] | None = None
) -> Markup:
    """Panels one above the other over the same x."""
    with canvas() as figure:
        height = HEIGHT_IN if len(panels) == 1 else 1.75 * len(panels)
        figure.set_size_inches(WIDTH_IN, height)
        every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, panel in zip(every, panels, strict=True):
            _draw(axes, panel)
            axes.set_ylabel(panel.y_label)
        every[-1].set_xlabel(x_label)
        if x_range is not None:
            every[-1].set_xlim(*x_range)
        return finished(figure, key, label)


def _draw(axes: Any, panel: Panel) -> None:
    if panel.band is not None:
        band = panel.band
        axes.fill_between(band.x, band.low, band.high, color=PALETTE[2], alpha=0.25, linewidth=0, label=band.name)
    for line in panel.lines:
        mark: dict[str, Any] = {"marker": "o", "markersize": 3.5, "clip_on": False} if line.marks else {}
        axes.plot(line.x, line.y, line.dash, color=line.colour, linewidth=1.3, label=line.name or "_", **mark)
    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda *_: "")
    axes.set_ylim(*panel.y_range)
    for number, limit in enumerate(panel.limits):
        axes.axhline(limit.level, color=ALARM, linewidth=1, linestyle=(0, (4, 3)))
        side = number % 2  # Names of near levels stand at different ends.
        axes.annotate(
            limit.name,
            (1 - side, limit.level),
            xycoords=axes.get_yaxis_transform(),  # x as a share of the axes, y in data.
            xytext=(4 * side - 2, 2),
            textcoords="offset points",
            color=ALARM,
            fontsize=9,
            ha="left" if side else "right",
            va="bottom",
        )
    if panel.legend and (panel.band is not None or any(line.name for line in panel.lines)):
        axes.legend(frameon=False)


def class_cloud(
    key: str, label: str, points: npt.NDArray[np.float64], labels: npt.NDArray[np.int64] | None, classes: Sequence[str]
) -> Markup:
    """Points on a plane whose axes mean nothing, coloured by class where there are labels."""
    with canvas() as figure:
        shown = [] if labels is None else most_frequent(labels)
        columns = 4 if max((len(plain(classes[one])) for one in shown), default=0) <= 11 else 2
        rows = math.ceil(len(shown) / columns)
        figure.set_size_inches(WIDTH_IN, 3.7 + 0.19 * rows)
        axes = figure.subplots()
        handles, names = [], [plain(name) for name in classes]
        rest = np.ones(len(points), bool) if labels is None else ~np.isin(labels, shown)
        colour = PALETTE[0] if labels is None else FAINT
        if rest.any():
            axes.scatter(*points[rest].T, s=7, color=colour, alpha=0.7, linewidths=0)
        for number, one in enumerate(shown):
            assert labels is not None
            mark = MARKS[number // len(PALETTE)]
            inside = points[labels == one]
            handles.append(axes.scatter(*inside.T, s=9, color=series_style(number)[0], marker=mark, linewidths=0))
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel("first t-SNE axis, no unit")
        axes.set_ylabel("second t-SNE axis, no unit")
        if shown:
            figure.legend(
                handles,
                [f"\u200a{names[one]}" for one in shown],  # A name that starts with _ would be left out.
                loc="outside lower center",
                ncols=columns,
                frameon=False,
                handletextpad=0.2,
                columnspacing=1,
            )
        return finished(figure, key, label)


def most_frequent(labels: npt.NDArray[np.int64]) -> list[int]:
    """The classes that a cloud can tell apart, ascending."""
    counts = np.bincount(labels[labels >= 0])
    order = np.argsort(-counts, kind="stable")[:MOST_CLASSES]
    return sorted(int(one) for one in order if counts[one])


def matrix_chart(key: str, label: str, shares: npt.NDArray[np.float64], classes: Sequence[str]) -> Markup:
    """A row-normalised matrix: the darker, the larger the share; with its percentages where they have room."""
    count = len(classes)
    with canvas() as figure:
        figure.set_size_inches(WIDTH_IN, 4.4)
        axes = figure.subplots()
        blue = [int(PALETTE[0][start : start + 2], 16) / 255 for start in (1, 3, 5)]
        pixels = np.concatenate([np.broadcast_to(blue, (*shares.shape, 3)), 0.75 * shares[..., None]], 2)
        axes.imshow(pixels, interpolation="none", aspect="auto")  # The page shows through where a share is small.
        if count <= 30:
            names = [plain(name) for name in classes]
            axes.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(count), names)
        if count <= 12:
            for row, column in np.argwhere(shares >= 0.005):
                text = f"{100 * shares[row, column]:.0f}"
                axes.text(column, row, text, ha="center", va="center", color=INK, fontsize=9)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.grid(False)
        return finished(figure, key, label)


@contextmanager
def canvas() -> Iterator[Any]:
    """A figure in the house's style, drawn in the stand-in colours; the same figure gives the same bytes.

    Raises:
        MissingPart: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPart('matplotlib is not installed, which draws: pip install "byolt[train]"') from error
    style: Any = {
        "svg.fonttype": "none",  # Text stays text: small, sharp, and read aloud.
        "font.family": "DejaVu Sans",
        "text.parse_math": False,  # A name may hold a dollar.
        "font.size": 10,
        "axes.labelsize": 10,
        "legend.fontsize": 9,
        "text.color": INK,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": FAINT,
        "grid.alpha": 0.25,
        "grid.linewidth": 0.6,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.labelcolor": INK,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
    }
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # The page's font draws the text.
        yield Figure(layout="constrained")


def plain(name: str, most: int = 24) -> str:
    """A name as a chart can show it: short, and without characters that cannot be seen."""
    name = str(visible(name))
    return name if len(name) <= most else name[: most - 1] + "\u2026"


def finished(figure: Any, key: str, label: str) -> Markup:
    """The figure as themed SVG; ``key`` is unique in the page and makes the ids of this drawing its own."""
    import matplotlib as mpl

    file = io.StringIO()
    mpl.rcParams["svg.hashsalt"] = key  # Within the canvas, which restores it.
    # No date and no version: the same run gives the same file.
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return Markup(themed(file.getvalue(), label))  # Names in it were escaped by matplotlib.
