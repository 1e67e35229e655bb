"""The charts of ``metrics.jsonl``: how a run went, and what kept it from collapsing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup

from byolt.evaluation.collapse import RANKME_FLOOR, THRESHOLDS
from byolt.reporting.bands import values_of
from byolt.reporting.charts import Band, Chart, Limit, Line, Panel, line_chart
from byolt.reporting.theme import PALETTE

MOST_POINTS = 600
MOST_SPECTRA = 12
LEAST_SHARE = 1e-6
"""Eigenvalues below this share of the projections' energy are rounding."""

Records = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Course:
    """The records of a run with what turns steps into epochs."""

    records: Records
    steps_per_epoch: float
    epochs: int
    probe_images: int
    band: dict[str, Any] | None = None

    def line(self, key: str, *, percent: bool = False, colour: int = 0) -> Line | None:
        """A key against the epoch, thinned evenly where it has very many points; None where it was not measured."""
        values = values_of(self.records, key)
        if not values:
            return None
        stride = math.ceil(len(values) / MOST_POINTS)
        kept = values[::-stride][::-1]  # From the end, so that the last one stays.
        scale = 100 if percent else 1
        epochs = [step / self.steps_per_epoch for step, _ in kept]
        return Line(epochs, [scale * value for _, value in kept], colour=PALETTE[colour], marks=len(kept) <= 30)

    def healthy(self, key: str, *, percent: bool = False) -> Band | None:
        """The reference band of a key, over epochs."""
        curve = ((self.band or {}).get("curves") or {}).get(key)
        if not curve:
            return None
        scale = 100 if percent else 1
        shares, low, high = zip(*curve, strict=True)
        epochs = [share * self.epochs for share in shares]
        return Band(epochs, [scale * value for value in low], [scale * value for value in high])


def course_of(
    records: Records, *, epochs: int, total_steps: int | None, probe_images: int, band: dict[str, Any] | None
) -> Course:
    """``total_steps`` is known of a run that went through all its epochs, and guessed from the lines otherwise."""
    if total_steps is not None:
        per_epoch = total_steps / epochs
    else:  # Exact where a line stands at the end of an epoch, as those of evaluations do.
        per_epoch = max((record["step"] / record["epoch"] for record in records), default=1.0)
    return Course(records, per_epoch, epochs, probe_images, band)


class Curve(NamedTuple):
    """A key of the records, and how its axis is drawn."""

    key: str
    y_label: str
    percent: bool = False
    y_range: tuple[float | None, float | None] = (None, None)


class Kind(NamedTuple):
    """A chart of a curve or two, one above the other, and how to read it."""

    title: str
    reading: str
    curves: tuple[Curve, ...]


LEARNING = {
    "loss": Kind(
        "Loss",
        "As a rule it falls, then levels off; against a moving target it may rise for a while. A low loss alone "
        "proves nothing: a collapsed encoder has the lowest.",
        (Curve("loss", "loss (no unit)"),),
    ),
    "spread": Kind(
        "Spread of the projections (z-std)",
        "1 is even over all directions, 0 is a single point. Below a dashed line a reading counts towards the "
        "verdict that stands on it.",
        (Curve("z_std_ratio", "z-std ratio (1 = even)", y_range=(0, 1.05)),),
    ),
    "rankme": Kind(
        "Effective rank of the features (RankMe)",
        "How many directions the encoder's features fill, at each evaluation. It should rise above the dashed "
        "line and stay there; runs compare on the same probe images only.",
        (Curve("rankme", "RankMe (directions)", y_range=(0, None)),),
    ),
    "knn": Kind(
        "kNN accuracy while learning",
        "On validation images of the training split, never on test images. Higher is better; still rising at the "
        "end means that more epochs would pay.",
        (Curve("knn", "accuracy (%)", percent=True),),
    ),
    "alignment": Kind(
        "Alignment and uniformity",
        "Alignment: squared distance of an image's two views, lower is better. Uniformity: how evenly images are "
        "spread, lower is better; towards 0 they fall onto one point.",
        (Curve("alignment", "alignment (0 to 4)"), Curve("uniformity", "uniformity (log)")),
    ),
    "schedules": Kind(
        "Learning rate and target decay",
        "What the recipe set. At tau = 1 the target stands still.",
        (Curve("lr", "learning rate"), Curve("tau", "tau (target decay)")),
    ),
    "speed": Kind(
        "Speed",
        "Images learned from a second, and the share of the time that the device waited for images. Views of "
        "another size change the level; dips are often other work on the machine.",
        (
            Curve("images_per_s", "images/s", y_range=(0, None)),
            Curve("data_wait", "data wait (%)", percent=True, y_range=(0, None)),
        ),
    ),
}
DYNAMICS = {
    "rank": Kind(
        "Effective rank of the projections",
        "How many directions carry the projections of a batch. Collapse pulls it to 1.",
        (Curve("projection_rank", "rank (directions)", y_range=(0, None)),),
    ),
    "predictor": Kind(
        "Predictor along the projections' axes",
        "Theory has the predictor turn into the axes of the projections' covariance (Tian et al. 2021, "
        "arXiv 2102.06810): the cosine then rises towards 1. About 0 is a random predictor.",
        (Curve("predictor_alignment", "mean cosine (1 = aligned)", y_range=(None, 1.02)),),
    ),
    "target": Kind(
        "Distance of the target",
        "How far the target's weights lag behind the online ones. The lag makes the target a steadier teacher; "
        "0 would be no target of its own.",
        (Curve("target_distance", "relative L2 distance", y_range=(0, None)),),
    ),
}


def learning_charts(course: Course) -> list[Chart]:
    """Loss, spread, RankMe, kNN, alignment and uniformity, schedules, speed: those that were measured."""
    return [chart for key, kind in LEARNING.items() if (chart := _chart(course, key, kind)) is not None]


def dynamics_charts(course: Course) -> list[Chart]:
    """Rank, predictor, target and spectrum of the projections: those that were measured."""
    found = [*(_chart(course, key, kind) for key, kind in DYNAMICS.items()), spectrum_chart(course)]
    return [chart for chart in found if chart is not None]


def spectrum_chart(course: Course) -> Chart | None:
    """Eigenvalues of the projections' covariance at the evaluations, a line each."""
    spectra = [(record["step"], record["spectrum"]) for record in course.records if record.get("spectrum")]
    count = min(MOST_SPECTRA, len(spectra))
    chosen = [spectra[round(k * (len(spectra) - 1) / max(1, count - 1))] for k in range(count)]
    lines = [
        spectrum_line(values, f"epoch {step / course.steps_per_epoch:.3g}", _blend(k / max(1, count - 1)))
        for k, (step, values) in enumerate(chosen)
    ]
    if count > 5:  # First, last and some between are named; the colours tell the rest.
        named = {round(k * (count - 1) / 4) for k in range(5)}
        lines = [line if k in named else Line(line.x, line.y, "", line.colour) for k, line in enumerate(lines)]
    svg = spectra_svg("spectrum", "Spectrum of the projections' covariance over the epochs, on a log axis", lines)
    if svg is None:
        return None
    return Chart(
        "Spectrum of the projections",
        svg,
        "Variance along each axis of the projections' covariance, as a share of their energy, at each evaluation from "
        "orange (early) to blue (late). A long flat line fills many directions; a line that drops early is "
        "dimensional collapse, a single point left is complete collapse.",
    )


def spectrum_line(values: Sequence[float], name: str, colour: str, dash: str = "-") -> Line:
    """A spectrum without what is rounding."""
    kept = [float(value) for value in values if value >= LEAST_SHARE]
    return Line(list(range(1, len(kept) + 1)), kept, name, colour, dash)


def spectra_svg(
    key: str, label: str, lines: Sequence[Line], y_label: str = "share of the energy (log)"
) -> Markup | None:
    """Spectra over each other; None where none has anything but rounding."""
    lines = [line for line in lines if line.x]
    if not lines:
        return None
    widest = max(len(line.x) for line in lines)
    panel = Panel(y_label, lines, log=True, legend=any(line.name for line in lines))
    return line_chart(key, label, "direction, by its variance (number)", [panel], x_range=(0.5, widest + 0.5))


def _blend(share: float) -> str:
    """From orange to blue; both ends and all between are seen on white and on black."""
    early, late = (230, 159, 0), (0, 114, 178)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(early, late, strict=True))


def _chart(course: Course, key: str, kind: Kind) -> Chart | None:
    limits = {"z_std_ratio": _spread_limits(), "rankme": _rank_limits(course)}
    panels = []
    for colour, (name, y_label, percent, y_range) in enumerate(kind.curves):
        line, band = course.line(name, percent=percent, colour=colour), course.healthy(name, percent=percent)
        if line is not None:
            panels.append(Panel(y_label, [line], limits.get(name, ()), band, y_range))
    if not panels:
        return None
    band_drawn = any(panel.band is not None for panel in panels)
    source = f" The band is where healthy runs went: {(course.band or {}).get('source', '')}." if band_drawn else ""
    last = max(panel.lines[0].x[-1] for panel in panels)
    svg = line_chart(key, f"{kind.title} against the epoch", "epoch", panels, (0, last))
    return Chart(kind.title, svg, kind.reading + source)


def _spread_limits() -> list[Limit]:
    return [Limit(limit.z_std_ratio, f"{limit.state} below {limit.z_std_ratio:g}") for limit in THRESHOLDS]


def _rank_limits(course: Course) -> list[Limit]:
    """The levels that the verdict compares RankMe with, of the features' own size."""
    features = max((int(record["features"]) for record in course.records if "features" in record), default=0)
    most = min(course.probe_images, features)
    levels: dict[float, str] = {}
    for limit in THRESHOLDS:
        level = max(RANKME_FLOOR, limit.rankme_share * most)
        levels[level] = f"{levels[level]}, {limit.state}" if level in levels else limit.state
    return [Limit(level, f"{state} below {level:g}") for level, state in levels.items()]
