"""What is said of a finished run: the verdict and kNN beside what no learning gives, by hand-written metrics."""

from pathlib import Path
from typing import Any

import pytest

from byolt.evaluation.outcome import outcome_of
from byolt.files import write_json
from byolt.run import Run


def run_with(folder: Path, verdict: str = "healthy", **beside: Any) -> Run:
    write_json(folder / "result.json", {"state": "finished", "step": 4, "verdict": verdict, "beside": beside})
    return Run(folder)


def compared(encoder: float, **others: tuple[float, float]) -> dict[str, Any]:
    """kNN of the encoder, and of others with the lower end of the difference's interval."""
    knn = {"encoder": encoder} | {name: accuracy for name, (accuracy, _) in others.items()}
    against = {
        name: {"difference": encoder - accuracy, "low": low, "high": 1.0} for name, (accuracy, low) in others.items()
    }
    return {"knn": knn, "against": against, "images": 1200, "rankme": {"encoder": 9.0, "untrained": 3.0}}


def test_no_better_than_a_colour_histogram_is_said_and_is_not_good(tmp_path: Path) -> None:
    run = run_with(tmp_path, **compared(0.225, untrained=(0.15, 0.01), pixels=(0.14, 0.02), colours=(0.24, -0.05)))
    outcome = outcome_of(run)
    assert outcome is not None
    assert outcome.sentence == (
        "no better than a colour histogram (kNN on 1,200 images held out of learning's: 22.5%; "
        "the untrained encoder 15.0%, a colour histogram 24.0%, raw pixels 14.0%)"
    )
    assert not outcome.good


def test_what_few_images_cannot_show_is_not_called_better(tmp_path: Path) -> None:
    run = run_with(tmp_path, **compared(0.5, untrained=(0.45, -0.02), pixels=(0.4, 0.0), colours=(0.2, 0.1)))
    outcome = outcome_of(run)
    assert outcome is not None
    assert outcome.sentence.startswith("ahead of the untrained encoder and raw pixels, but by less than so few images")
    assert not outcome.good


def test_better_than_all_is_good_unless_the_verdict_is_not(tmp_path: Path) -> None:
    figures = compared(0.5, untrained=(0.4, 0.05), pixels=(0.3, 0.1), colours=(0.2, 0.1))
    good = outcome_of(run_with(tmp_path, **figures))
    assert good is not None
    assert good.sentence.startswith("better than the untrained encoder, a colour histogram and raw pixels (kNN")
    assert good.good
    flat = outcome_of(run_with(tmp_path, "dimensional", **figures))
    assert flat is not None
    assert flat.sentence.startswith("few directions carry the representation; better than")
    assert not flat.good


def test_test_images_count_more_than_those_of_learning(tmp_path: Path) -> None:
    run = run_with(tmp_path, **compared(0.5, untrained=(0.4, 0.05), pixels=(0.3, 0.1), colours=(0.2, 0.1)))
    knn = {"encoder": 0.3, "untrained": 0.35}
    for name, accuracy in knn.items():
        run.write_metrics(name, {"knn": {"accuracy": accuracy, "n_test": 50}})
    against = {"untrained": {"knn": {"difference": -0.05, "low": -0.1, "high": 0.02}}}
    run.write_metrics("encoder", {"knn": {"accuracy": 0.3, "n_test": 50}, "against": against})
    outcome = outcome_of(run)
    assert outcome is not None
    assert (
        outcome.sentence
        == "no better than the untrained encoder (kNN on 50 test images: 30.0%; the untrained encoder 35.0%)"
    )


@pytest.mark.parametrize(("verdict", "good"), [("healthy", True), ("dimensional", False), ("complete", False)])
def test_without_labels_the_verdict_and_the_ranks_are_said(tmp_path: Path, verdict: str, good: bool) -> None:
    outcome = outcome_of(run_with(tmp_path, verdict, rankme={"encoder": 13.6, "untrained": 5.2}))
    assert outcome is not None
    assert outcome.good == good
    assert "RankMe 13.6, untrained 5.2; without labels nothing more can be told" in outcome.sentence
    assert ("all images fall onto one point" in outcome.sentence) == (verdict == "complete")


def test_of_an_unfinished_or_collapsed_run_nothing_came_out(tmp_path: Path) -> None:
    assert outcome_of(Run(tmp_path)) is None
    write_json(tmp_path / "result.json", {"state": "collapsed", "verdict": "complete", "step": 3})
    assert outcome_of(Run(tmp_path)) is None
