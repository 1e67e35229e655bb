"""Reference bands: least and largest value over runs at shares of the run, and how a chart shows them."""

from typing import Any

import pytest
from benchmarks.bands import bands_of

from byolt.reporting.curves import LEARNING, RunCurves, read_band

RARE = [{"step": 50, "rankme": 10.0}, {"step": 100, "rankme": 20.0}]
EARLY = [{"step": 5, "rankme": 1.0}, *RARE]


def run_of(*values: float, every: int = 10) -> list[dict[str, float]]:
    return [{"step": every * number, "z_std_ratio": value} for number, value in enumerate(values, start=1)]


@pytest.mark.parametrize(
    ("runs", "key", "band"),
    [
        # 20 values a run: one in each twentieth, so that every share has the values of its own number.
        (
            [run_of(*range(20)), run_of(*range(5, 25), every=7)],
            "z_std_ratio",
            [[k / 20, k - 1, k + 4] for k in range(1, 21)],
        ),
        # 200 values: all ten between two shares count.
        ([run_of(*(k % 2 for k in range(200)))], "z_std_ratio", [[k / 20, 0, 1] for k in range(1, 21)]),
        # Between evaluations the line between them, nothing before the first: from 10 to 20 in ten twentieths.
        ([RARE], "rankme", [[k / 20, k, k] for k in range(10, 21)]),
        # No band where one run was not measured: the second has nothing before the tenth share.
        ([EARLY, RARE], "rankme", [[k / 20, k, k] for k in range(10, 21)]),
        ([EARLY, run_of(1.0)], "rankme", None),
        ([[{"step": 1, "loss": float("nan")}]], "loss", None),
    ],
)
def test_least_and_largest_over_runs(runs: list[Any], key: str, band: list[list[float]] | None) -> None:
    assert bands_of(runs).get(key) == band


def test_a_band_is_drawn_with_its_source() -> None:
    records = [{**record, "epoch": 1 + record["step"] // 101} for record in run_of(*[0.8] * 20)]
    band = {"source": "five seeds of it", "curves": bands_of([records])}
    (with_band,), (without,) = (
        RunCurves(records, epochs=2, probe_images=64, band=one).charts(LEARNING) for one in (band, read_band("none"))
    )
    assert "five seeds of it" in with_band.reading
    assert "healthy runs" in with_band.svg
    assert "healthy runs" not in without.svg
    assert "dimensional below 0.25" in without.svg
