"""The page, the picture and the Markdown of a study of starts say its figures, and one sentence of each kind."""

import json
from pathlib import Path

import numpy as np
from tests.reporting.pages import Page

from byolt.evaluation.label_efficiency import Measured
from byolt.reporting.starts_page import answer_of, starts_chart, write_starts_report
from byolt.reporting.starts_text import print_starts, write_starts_markdown
from byolt.run import Run
from byolt.studies.starts_results import StartsResults, WayResults


def results() -> StartsResults:
    """Three seeds, two draws: random weights have 12 or 13 of 20 images right with 10 labels, BYOL 18 or 19."""
    right = {("scratch", 10): 12, ("scratch", 40): 15, ("byol", 10): 18, ("byol", 40): 19}
    scores = {}
    for number, (cell, count) in enumerate(right.items()):
        rows = np.zeros((3, 2, 20))
        for seed in range(3):
            for draw in range(2):
                rows[seed, draw, : count + (seed + draw + number) % 2] = 1
        scores[cell] = rows
    measured = Measured(("scratch", "byol"), (10, 40), scores, np.arange(20) % 2, "accuracy")
    way = WayResults("linear", measured, dict.fromkeys(right, "l2=0.1"))
    images = {"train": 40, "test": 20, "classes": 2}
    return StartsResults("parts-starts", (way,), (0, 1, 2), images, ("a <b>note</b>",), {"byolt": "0"}, "seed: 0", 1.5)


def test_the_page_and_its_picture(tmp_path: Path) -> None:
    study = results()
    write_starts_report(tmp_path / "starts.html", study)
    page = Page((tmp_path / "starts.html").read_text(encoding="utf-8"))
    page.stands_alone()
    # 12, 13, 13, 12, 12, 13 of 20 are 62.5 %.
    assert ("62.5", "62.5") in page.values
    (drawing,) = page.charts.values()
    # A drawing of lines is the only picture: a committed page shows no image of the set.
    assert [tag for tag, _ in page.tags].count("img") == 1
    assert "<image" not in starts_chart(study)
    for said in ("accuracy (%)", "BYOL from random weights", "Linear probe on frozen features"):
        assert said in drawing
    assert study.ways[0].recommendation in page.text
    assert "a <b>note</b>" in page.text


def test_the_sentence_the_table_and_the_json(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    study = results()
    write_starts_markdown(study, tmp_path / "starts.md", "byolt study parts.yaml --starts scratch,byol")
    text = (tmp_path / "starts.md").read_text()
    assert "\n| 10 | 62.5 [" in text
    assert "BYOL from random weights with 10 labels equals random weights with more than 40" in text
    assert "| 10 | l2=0.1 | l2=0.1 |" in text
    assert "![accuracy by number of labels](starts.svg)" in text
    print_starts(study, [tmp_path / "starts.md"], "byolt pretrain")
    shown = capsys.readouterr().out
    assert study.ways[0].recommendation in shown.replace("\n", " ")
    told = json.loads(json.dumps(study.to_dict()))["ways"]["linear"]
    assert told["curves"]["scratch"][0]["mean"] == 0.625
    assert [one["budget"] for one in told["labels_saved"]] == [10]  # Nothing is measured above the largest.
    found = [(one["ours"], one["theirs"], one["budget"]) for one in told["differences"]]
    assert found == [("byol", "scratch", 10)]  # Neither 50 nor 100 was measured.


def test_starts_are_compared_at_few_numbers_of_labels() -> None:
    budgets, rows = (10, 50, 100, 400), np.eye(3)[:, None]
    scores = {(start, budget): rows for start in ("scratch", "byol") for budget in budgets}
    way = WayResults("linear", Measured(("scratch", "byol"), budgets, scores, np.arange(3) % 2, "accuracy"), {})
    assert [one.budget for one in way.differences] == [50, 100]


def test_the_report_of_a_run_repeats_the_answer_and_the_picture(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert answer_of(run) is None
    study = results()
    run.write_metrics("starts", study.to_dict())
    answer = answer_of(run)
    assert answer is not None
    assert answer["ways"][0]["recommendation"] == study.ways[0].recommendation
    assert answer["charts"][0].svg == starts_chart(study)
