"""The charts of ``metrics.jsonl``: how a run went, and what kept it from collapsing."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from byolt.data.subsets import spread
from byolt.evaluation.collapse import RANKME_FLOOR, THRESHOLDS
from byolt.reporting.charts import ALARM, GREY, HEIGHT_IN, PALETTE, Chart, canvas, svg_of

MOST_POINTS = 600
MOST_SPECTRA = 12
LEAST_SHARE = 1e-6
"""Eigenvalues below this share of the projections' energy are rounding."""

Records = Sequence[Mapping[str, Any]]


class Curve(NamedTuple):
    """A metric of the records, and how its axis is drawn."""

    key: str
    label: str
    percent: bool = False
    limits: tuple[float | None, float | None] = (None, None)


class CurveChart(NamedTuple):
    """A curve or two, one above the other, and how to read them."""

    title: str
    reading: str
    curves: tuple[Curve, ...]


LEARNING = {
    "loss": CurveChart(
        "Loss",
        "As a rule it falls, then levels off; against a moving target it may rise for a while. A low loss alone "
        "proves nothing: a collapsed encoder has the lowest.",
        (Curve("loss", "loss (no unit)"),),
    ),
    "spread": CurveChart(
        "Spread of the projections (z-std)",
        "1 is even over all directions, 0 is a single point. Below a dashed line a reading counts towards the "
        "verdict that stands on it.",
        (Curve("z_std_ratio", "z-std ratio (1 = even)", limits=(0, 1.05)),),
    ),
    "rankme": CurveChart(
        "Effective rank of the features (RankMe)",
        "How many directions the encoder's features fill, at each evaluation. It should rise above the dashed "
        "line and stay there; runs compare on the same probe images only.",
        (Curve("rankme", "RankMe (directions)", limits=(0, None)),),
    ),
    "knn": CurveChart(
        "kNN accuracy while learning",
        "On validation images of the training split, never on test images. Higher is better; still rising at the "
        "end means that more epochs would pay.",
        (Curve("knn", "accuracy (%)", percent=True),),
    ),
    "alignment": CurveChart(
        "Alignment and uniformity",
        "Alignment: squared distance of an image's two views, lower is better. Uniformity: how evenly images are "
        "spread, lower is better; towards 0 they fall onto one point.",
        (Curve("alignment", "alignment (0 to 4)"), Curve("uniformity", "uniformity (log)")),
    ),
    "schedules": CurveChart(
        "Learning rate and target decay",
        "What the recipe set. At tau = 1 the target stands still.",
        (Curve("lr", "learning rate"), Curve("tau", "tau (target decay)")),
    ),
    "speed": CurveChart(
        "Speed",
        "Images learned from a second, and the share of the time that the device waited for images. Views of "
        "another size change the level; dips are often other work on the machine.",
        (
            Curve("images_per_s", "images/s", limits=(0, None)),
            Curve("data_wait", "data wait (%)", percent=True, limits=(0, None)),
        ),
    ),
}
DYNAMICS = {
    "rank": CurveChart(
        "Effective rank of the projections",
        "How many directions carry the projections of a batch. Collapse pulls it to 1.",
        (Curve("projection_rank", "rank (directions)", limits=(0, None)),),
    ),
    "predictor": CurveChart(
        "Predictor along the projections' axes",
        "Theory has the predictor turn into the axes of the projections' covariance (Tian et al. 2021, "
        "arXiv 2102.06810): the cosine then rises towards 1. About 0 is a random predictor.",
        (Curve("predictor_alignment", "mean cosine (1 = aligned)", limits=(None, 1.02)),),
    ),
    "target": CurveChart(
        "Distance of the target",
        "How far the target's weights lag behind the online ones. The lag makes the target a steadier teacher; "
        "0 would be no target of its own.",
        (Curve("target_distance", "relative L2 distance", limits=(0, None)),),
    ),
}


@dataclass(frozen=True)
class RunCurves:
    """The records of a run, and what its charts have beside them."""

    records: Records
    epochs: int
    """Of the whole run, whether or not it has got there."""
    probe_images: int
    band: Mapping[str, Any]
    """Where healthy runs went: ``{"source", "curves": {key: [[share of the run, low, high], ...]}}``."""
    chance: float | None = None
    """Accuracy of naming the most frequent class every time; None where there are no labels, or it is not known."""

    @property
    def steps_per_epoch(self) -> float:
        """Exact where a record stands at the end of an epoch, as those of evaluations do."""
        return max((record["step"] / record["epoch"] for record in self.records), default=1.0)

    def charts(self, kinds: Mapping[str, CurveChart]) -> list[Chart]:
        """Those of which something was measured."""
        return [chart for kind in kinds.values() if (chart := self._chart(kind))]

    def spectrum(self) -> list[Chart]:
        """Eigenvalues of the projections' covariance at the evaluations, a line each."""
        evaluated = [record for record in self.records if record.get("spectrum")]
        chosen = [evaluated[k] for k in spread(len(evaluated), MOST_SPECTRA)]
        colours = LinearSegmentedColormap.from_list("epochs", [PALETTE[1], PALETTE[0]])(np.linspace(0, 1, len(chosen)))
        looks = [{"color": colour, "linestyle": "solid"} for colour in colours]
        for number in spread(len(chosen), 5):  # The colours tell the rest.
            looks[number]["label"] = f"epoch {chosen[number]['step'] / self.steps_per_epoch:.3g}"
        return spectra_chart(
            "Spectrum of the projections",
            "Variance along each axis of the projections' covariance, as a share of their energy, at each evaluation "
            "from orange (early) to blue (late). A long flat line fills many directions; a line that drops early is "
            "dimensional collapse, a single point left is complete collapse.",
            [record["spectrum"] for record in chosen],
            looks,
        )

    def _chart(self, kind: CurveChart) -> Chart | None:
        curves = [curve for curve in kind.curves if values_of(self.records, curve.key).size]
        if not curves:
            return None
        reading = kind.reading
        if any(curve.key in self.band["curves"] for curve in curves):
            reading += f" The band is where healthy runs went: {self.band['source']}."
        height_in = HEIGHT_IN if len(curves) == 1 else 1.75 * len(curves)
        with canvas(height_in=height_in, rows=len(curves), sharex=True) as (figure, panels):
            for number, (axes, curve) in enumerate(zip(panels, curves, strict=True)):
                self._draw(axes, curve, PALETTE[number])
            panels[-1].set_xlabel("epoch")
            panels[-1].set_xlim(0, self.records[-1]["step"] / self.steps_per_epoch)
            return Chart(kind.title, svg_of(figure), reading)

    def _draw(self, axes: Axes, curve: Curve, colour: str) -> None:
        scale = 100 if curve.percent else 1
        if curve.key in self.band["curves"]:
            shares, low, high = np.array(self.band["curves"][curve.key]).T
            look: Any = {"color": PALETTE[2], "alpha": 0.25, "linewidth": 0, "label": "healthy runs"}
            axes.fill_between(self.epochs * shares, scale * low, scale * high, **look)
            axes.legend()
        steps, values = values_of(self.records, curve.key)
        stride = -math.ceil(len(steps) / MOST_POINTS)  # From the end, so that the last one stays.
        epochs, values = steps[::stride] / self.steps_per_epoch, scale * values[::stride]
        few = len(epochs) <= 30
        axes.plot(epochs, values, color=colour, marker="o" if few else "", clip_on=not few)
        axes.set_ylabel(curve.label)
        axes.set_ylim(*curve.limits)
        if curve.key == "knn" and self.chance is not None:
            axes.axhline(100 * self.chance, color=GREY, linewidth=1, linestyle="dotted", label="chance")
            axes.legend()
        for number, (level, states) in enumerate(self._floors(curve.key).items()):
            axes.axhline(level, color=ALARM, linewidth=1, linestyle="dashed")
            side = ("right", "left")[number % 2]  # Names of near levels stand at different ends.
            look = {"transform": axes.get_yaxis_transform(), "ha": side, "va": "bottom", "color": ALARM, "fontsize": 9}
            axes.text(0.99 if side == "right" else 0.01, level, f"{states} below {level:g}", **look)

    def _floors(self, key: str) -> dict[float, str]:
        """Levels below which a metric counts towards a verdict, and towards which."""
        features = max((record.get("features", 0) for record in self.records), default=0)
        floors: dict[float, str] = {}
        for limit in THRESHOLDS:
            rankme = max(RANKME_FLOOR, limit.rankme_share * min(self.probe_images, features))
            level = {"z_std_ratio": limit.z_std_ratio, "rankme": rankme}.get(key)
            if level is not None:
                floors[level] = f"{floors[level]}, {limit.state}" if level in floors else limit.state
        return floors


def read_band(recipe_name: str) -> dict[str, Any]:
    """The reference band that comes with a shipped recipe; without curves where there is none."""
    file = resources.files("byolt.reporting").joinpath("bands", f"{recipe_name}.json")
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {"curves": {}}


def values_of(records: Records, key: str) -> npt.NDArray[np.float64]:
    """Steps and values (2, N) of a key where it was measured and is finite, one per step."""
    found = {record["step"]: record[key] for record in records if math.isfinite(record.get(key, math.nan))}
    return np.array([list(found), list(found.values())], np.float64)


def spectra_chart(
    title: str, reading: str, spectra: Sequence[Sequence[float]], looks: Sequence[dict[str, Any]]
) -> list[Chart]:
    """One chart of spectra over each other, without what is rounding; none where nothing is left.

    Args:
        title: Above the chart.
        reading: Below it.
        spectra: Shares of the energy, descending.
        looks: How matplotlib draws each; a label stands in the legend.
    """
    kept = [[share for share in shares if share >= LEAST_SHARE] for shares in spectra]
    if not any(kept):
        return []
    with canvas() as (figure, (axes,)):
        for shares, look in zip(kept, looks, strict=True):
            axes.plot(range(1, len(shares) + 1), shares, marker="o" if len(shares) == 1 else "", **look)
        if any("label" in look for look in looks):
            axes.legend()
        axes.set(xlabel="direction, by its variance (number)", ylabel="share of the energy (log)", yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        return [Chart(title, svg_of(figure), reading)]
