"""Reference bands: where the curves of healthy runs of a recipe ran, to draw behind those of a new one."""

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from byolt.files import write_text
from byolt_export.errors import InputError

SHARES = 20
KEYS = (
    "loss",
    "z_std_ratio",
    "rankme",
    "knn",
    "alignment",
    "uniformity",
    "projection_rank",
    "predictor_alignment",
    "target_distance",
)
Curve = list[list[float]]
Records = Sequence[Mapping[str, Any]]


def read_band(recipe_name: str) -> dict[str, Any] | None:
    """``{"source", "curves": {key: [[share of the run, low, high], ...]}}`` of a shipped recipe, or None."""
    file = resources.files("byolt.reporting").joinpath("bands", f"{recipe_name}.json")
    if not file.is_file():
        return None
    band: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return band


def make_band(runs: Sequence[Records], source: str) -> dict[str, Any]:
    """Least and largest value over runs at 20 evenly spaced shares of the run.

    At a share each run counts with every value since the share before; where it was not measured in that stretch, as
    between two evaluations, with the straight line between its neighbours. Before a run's first value there is none.

    Args:
        runs: ``metrics.jsonl`` of finished runs, each as long as its last step.
        source: Which runs these are, in words.

    Raises:
        InputError: There is no run, or one has no records.
    """
    if not runs or not all(runs):
        raise InputError("a reference band needs the records of at least one run, and each run at least a line")
    curves = {key: curve for key in KEYS if (curve := _curve(runs, key))}
    return {"source": source, "curves": curves}


def write_band(path: Path, runs: Sequence[Records], source: str) -> None:
    """Write a band as ``<recipe name>.json``."""
    write_text(path, json.dumps(make_band(runs, source), indent=1) + "\n")


def values_of(records: Records, key: str) -> list[tuple[float, float]]:
    """(step, value) of a key where it was measured and is finite, one per step."""
    found = {float(record["step"]): float(record[key]) for record in records if _is_number(record.get(key))}
    return sorted(found.items())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _curve(runs: Sequence[Records], key: str) -> Curve:
    curve: Curve = []
    every = [values_of(run, key) for run in runs]
    ends = [max(float(record["step"]) for record in run) for run in runs]
    for number in range(1, SHARES + 1):
        seen = [_around(values, number, end) for values, end in zip(every, ends, strict=True)]
        if all(seen):  # A run that was not measured here would make the band narrower than it is.
            both = [value for one in seen for value in one]
            curve.append([number / SHARES, min(both), max(both)])
    return curve


def _around(values: list[tuple[float, float]], number: int, end: float) -> list[float]:
    """A run's values in the ``number``-th stretch, or at its end the one between its neighbours."""
    inside = [value for step, value in values if (number - 1) * end < step * SHARES <= number * end]
    stop = number * end / SHARES
    if inside or not values or stop < values[0][0]:
        return inside
    steps, heights = zip(*values, strict=True)
    return [float(f"{np.interp(stop, steps, heights):.6g}")]
