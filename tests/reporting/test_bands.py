"""Reference bands: least and largest value over runs at shares of the run."""

import json
from pathlib import Path

import pytest

from byolt.reporting.bands import make_band, read_band, write_band
from byolt.reporting.curves import course_of, learning_charts
from byolt_export.errors import InputError


def run_of(*values: float, key: str = "z_std_ratio", every: int = 10) -> list[dict[str, float]]:
    return [{"step": every * number, key: value} for number, value in enumerate(values, start=1)]


def test_least_and_largest_of_runs_at_each_share() -> None:
    # 20 values a run: one in each twentieth, so that every share has the values of its own number.
    low, high = run_of(*range(20)), run_of(*(value + 5 for value in range(20)), every=7)
    band = make_band([low, high], "two runs")
    assert band["source"] == "two runs"
    assert band["curves"] == {"z_std_ratio": [[(k + 1) / 20, k, k + 5] for k in range(20)]}


def test_every_value_between_two_shares_counts() -> None:
    (curve,) = make_band([run_of(*(float(k % 2) for k in range(200)))], "one run")["curves"].values()
    assert [row[1:] for row in curve] == [[0.0, 1.0]] * 20


def test_between_evaluations_the_line_between_them_and_nothing_before_the_first() -> None:
    rare = [{"step": 50, "rankme": 10.0}, {"step": 100, "rankme": 20.0}]
    curve = make_band([rare], "one run")["curves"]["rankme"]
    assert curve[0] == [0.5, 10.0, 10.0]
    assert curve[5] == [0.75, 15.0, 15.0]  # Half way from 10 to 20.
    assert curve[-1] == [1.0, 20.0, 20.0]


def test_where_one_run_was_not_measured_there_is_no_band() -> None:
    late = [{"step": 50, "rankme": 10.0}, {"step": 100, "rankme": 20.0}]
    early = [{"step": 5, "rankme": 1.0}, *late]
    assert make_band([early, late], "two")["curves"]["rankme"][0][0] == 0.5
    assert make_band([early, run_of(1.0)], "two")["curves"] == {}
    assert make_band([[{"step": 1, "loss": float("nan")}]], "one")["curves"] == {}
    with pytest.raises(InputError, match="at least one run"):
        make_band([], "none")
    with pytest.raises(InputError, match="at least a line"):
        make_band([early, []], "two")


def test_a_recipe_without_a_band_has_none() -> None:
    assert read_band("no-such-recipe") is None


def test_a_band_is_drawn_with_its_source(tmp_path: Path) -> None:
    metrics = [{**record, "epoch": 1 + record["step"] // 101} for record in run_of(*[0.8] * 20)]
    write_band(tmp_path / "band.json", [metrics], "five seeds of it")
    band = json.loads((tmp_path / "band.json").read_text())
    with_band, without = (
        learning_charts(course_of(metrics, epochs=2, total_steps=200, probe_images=64, band=one))
        for one in (band, None)
    )
    assert "five seeds of it" in with_band[0].reading
    assert "healthy runs" in with_band[0].svg
    assert "healthy runs" not in without[0].svg
    assert "dimensional below 0.25" in without[0].svg
