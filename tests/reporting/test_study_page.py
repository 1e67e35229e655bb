"""A study's page: every seed as given, mean and interval by hand, and right for one arm as for twelve."""

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from tests.reporting.pages import Page

from byolt.reporting.study_charts import study_chart
from byolt.reporting.study_page import write_study_report
from byolt.studies.results import ArmResults, StudyResults, Table

HOSTILE = "<b onclick=x>&"


def records_of(rank: float, *, predictor: bool = True) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = [
        {"step": step, "loss": 1.0, "z_std_ratio": 0.8, "projection_rank": rank + step} for step in (10, 20, 30)
    ]
    if predictor:
        records[1]["predictor_alignment"] = records[2]["predictor_alignment"] = 0.5
    records[2]["spectrum"] = [0.5, 0.25, 0.0]
    return records


def arm(name: str, *accuracies: float, **more: Any) -> ArmResults:
    count = len(accuracies)
    return ArmResults(name, "", tuple(range(count)), accuracies, more.pop("states", ("finished",) * count), **more)


def results(*tables: tuple[str, tuple[ArmResults, ...]], **more: Any) -> StudyResults:
    told: dict[str, Any] = {"notes": (), "environment": {}, "recipe_text": "", "hours": 0.5, "ours": ""} | more
    ours = told.pop("ours")
    measured = tuple(Table(caption, "linear probe", arms, ours) for caption, arms in tables)
    return StudyResults("methods", "Methods", measured, **told)


def written(path: Path, study: StudyResults) -> Page:
    write_study_report(path / "study.html", study)
    page = Page((path / "study.html").read_text(encoding="utf-8"))
    page.stands_alone()
    return page


@pytest.mark.parametrize("count", [1, 12])
def test_one_to_twelve_arms(tmp_path: Path, count: int) -> None:
    arms = tuple(arm(f"arm {k}", 0.5, 0.4, records=(records_of(k), records_of(k))) for k in range(count))
    page = written(tmp_path, results(("untuned", arms), ("tuned", arms)))
    for k in range(count):
        assert page.text.count(f"arm {k}") >= 4  # A row and a legend in each of two tables.
        assert page.charts["Accuracy of every seed, one row per arm: Methods"].count(f"arm {k}") >= 2
    swatches = re.findall(r'<i style="([^"]*)"', page.html)
    assert len(swatches) == 2 * count
    assert len(set(swatches)) == count  # Told apart by colour or dash.


def test_mean_deviation_and_interval_by_hand(tmp_path: Path) -> None:
    # 40, 42, 44: mean 42, deviation 2, t(2) = 4.3027 at 97.5 %: 42 -/+ 4.3027 x 2 / sqrt(3) = 37.03 to 46.97.
    page = written(tmp_path, results(("one", (arm("a", 0.40, 0.42, 0.44), arm("b", 0.3)))))
    read = [text for _, text in page.values]
    assert read[:7] == ["42.00%", "2.00%", "37.03%", "46.97%", "40.00%", "42.00%", "44.00%"]
    assert read[7:] == ["30.00%", "30.00%"]  # One seed: a mean, and no spread.


def test_collapsed_and_lost_seeds_are_marked(tmp_path: Path) -> None:
    lost = arm("a", 0.1, math.nan, states=("collapsed", "diverged"))
    page = written(tmp_path, results(("one", (lost, arm("none", math.nan)))))
    assert page.text.count("collapsed") == 2  # The seed, and the chart's caption.
    assert "a has a seed whose loss was not finite" in page.text
    assert not [text for _, text in page.values if text == "10.00%"][1:]  # The seed's own; a mean would hide the other.
    assert "nan" not in page.text.lower()
    only_lost = written(tmp_path, results(("one", (arm("none", math.nan),))))
    assert not only_lost.charts


def test_what_is_not_there_has_no_section(tmp_path: Path) -> None:
    page = written(tmp_path, results(("one", (arm("a", 0.5, 0.6),))))
    assert page.sections == {"seeds"}
    assert "published" not in page.text
    full = written(
        tmp_path,
        results(
            ("one", (arm("a", 0.5, 0.525, published=72.5, source="300 epochs"), arm("b", 0.49, 0.51))),
            ours="a",
            notes=("a note",),
            environment={"byolt": "0.1.0"},
            recipe_text="name: x\nseed: 0\n",
        ),
    )
    assert full.sections == {"seeds", "sentences", "comparisons", "notes", "made"}
    for text in ("72.5 (300 epochs)", "a and b are not told apart", "a note", "name: x\nseed: 0"):
        assert text in full.text
    assert "+1.25" in [text for _, text in full.values]  # Points: (1.0 + 1.5) / 2.


def test_an_arm_without_predictor_or_metrics_has_no_line_of_it(tmp_path: Path) -> None:
    arms = (arm("with", 0.5, records=(records_of(1),)), arm("without", 0.5, records=(records_of(1, predictor=False),)))
    page = written(tmp_path, results(("one", (*arms, arm("no metrics", 0.5)))))
    predictor, rank = "Predictor along the projections' axes, drawn", "Effective rank of the projections, drawn"
    assert {predictor, rank} <= page.charts.keys()
    page = written(tmp_path, results(("one", arms[1:])))
    assert rank in page.charts
    assert predictor not in page.charts


def test_runs_that_are_elsewhere_are_named(tmp_path: Path) -> None:
    one = records_of(1)
    arms = (arm("here", 0.5, 0.5, records=(one, one)), arm("half", 0.5, 0.5, records=(one, [])))
    page = written(tmp_path, results(("one", (*arms, arm("gone", 0.5, records=([],)), arm("of no run", 0.5)))))
    assert "not at hand: half (1 of 2 seeds), gone (1 of 1 seeds)." in page.text


def test_names_cannot_mark_up_the_page_or_the_chart(tmp_path: Path) -> None:
    study = results((HOSTILE, (arm(HOSTILE, 0.5, 0.6),)), notes=(HOSTILE,), recipe_text=HOSTILE)
    page = written(tmp_path, study)
    assert "<b" not in page.html.replace("<body", "").replace("<br", "")
    assert HOSTILE in page.text
    ElementTree.fromstring(study_chart(study))


def test_the_chart_is_a_file_of_its_own_and_the_same_each_time() -> None:
    study = results(("untuned", (arm("a", 0.5, 0.6), arm("b", 0.1, 0.1, states=("collapsed", "collapsed")))))
    svg = study_chart(study)
    assert svg == study_chart(study)
    assert "prefers-color-scheme: dark" in svg
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert {"untuned", "linear probe (%)", "a", "b"} <= set(root.itertext())
