"""Reference bands of a recipe's healthy runs, which `byolt report` draws behind the curves of a new one.

    python benchmarks/bands.py cifar10-study "five seeds, commit 1234abc" RUN...

Runs must be finished and healthy; the band is written into the package.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from byolt.files import write_json
from byolt.reporting.curves import Records, values_of
from byolt.run import open_run

BANDS = Path(__file__).resolve().parents[1] / "toolchain" / "byolt" / "reporting" / "bands"
SHARES = 20
KEYS = (
    *("loss", "z_std_ratio", "rankme", "knn", "alignment", "uniformity", "projection_rank", "predictor_alignment"),
    "target_distance",
)


def bands_of(runs: Sequence[Records]) -> dict[str, list[list[float]]]:
    """``{key: [[share of the run, least, largest value over runs], ...]}``, where every run was measured."""
    bands = {}
    for key in KEYS:
        band = []
        for number in range(1, SHARES + 1):
            values = [_values_up_to(records, key, number) for records in runs]
            if all(len(own) for own in values):  # A run that was not measured here would make the band narrower.
                every = np.concatenate(values)
                band.append([number / SHARES, float(every.min()), float(every.max())])
        if band:
            bands[key] = band
    return bands


def _values_up_to(records: Records, key: str, number: int) -> npt.NDArray[np.float64]:
    """A run's values since the share before; where there are none, the one on the line between its neighbours."""
    steps, values = values_of(records, key)
    shares = SHARES * steps / records[-1]["step"]
    inside = values[(number - 1 < shares) & (shares <= number)]
    if len(inside) or not len(values) or number < shares[0]:
        return inside
    return np.array([float(f"{np.interp(number, shares, values):.6g}")])


def main(name: str, source: str, folders: list[str]) -> None:
    """Write the band of ``name`` from the runs in ``folders``."""
    runs = [open_run(Path(folder)) for folder in folders]
    for run in runs:
        state = run.result or {}
        if (state.get("state"), state.get("verdict")) != ("finished", "healthy"):
            sys.exit(f"{run.path} is not a finished, healthy run")
    write_json(BANDS / f"{name}.json", {"source": source, "curves": bands_of([run.log_records() for run in runs])})
    print(f"wrote {BANDS / name}.json from {len(runs)} runs")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
