import math
from dataclasses import replace

import pytest

from byolt.evaluation.label_efficiency import Difference, Saved
from byolt.evaluation.label_efficiency_words import recommendation, sentence

SAVED = Saved(
    "imagenet+byol", "imagenet", 50, 134.2, 91.7, 186.1, False, False, "within", fewest=10, most=1970, covers="seeds"
)
MORE, FEWER = {"high": 1970, "high_censored": True}, {"low": 10, "low_censored": True}
STARTS = ("scratch", "imagenet", "byol", "imagenet+byol")


def found(ours: str, theirs: str, **verdicts: str) -> list[Difference]:
    """Differences with the labels and verdicts given as ``at_10="better"``."""
    ends = {"better": (0.01, 0.03, 0.001), "worse": (-0.03, -0.01, 0.001), "same": (-0.01, 0.01, 0.9)}
    made = []
    for at, verdict in verdicts.items():
        low, high, p = ends[verdict]
        made.append(Difference(ours, theirs, int(at[3:]), (low + high) / 2, low, high, p, p, "seeds, test images"))
    return made


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "about 130 [91, 190]"),
        ({"equal_to": 23.4, "low": 12.9, "high": 61.2}, "about 23 [12, 62]"),
        ({"equal_to": 1234.0, "low": 1190.0, **MORE}, "about 1,200 [1,100, more than 1,970]"),
        ({"equal_to": 1970, "reached": "with more", **MORE}, "more than 1,970 [91, more than 1,970]"),
        ({"equal_to": 10, "reached": "with fewer", **FEWER}, "fewer than 10 [fewer than 10, 190]"),
        ({"high": 1970}, "about 130 [91, 1,970]"),
    ],
)
def test_labels_saved_in_words(changed: dict[str, object], words: str) -> None:
    one = replace(SAVED, **changed)  # type: ignore[arg-type]
    assert sentence(one) == f"BYOL from ImageNet with 50 labels equals ImageNet alone with {words}"


def test_the_start_that_beats_most_is_taken() -> None:
    # Not compared with random weights itself, it beats them by what it beats.
    family = [
        *found("imagenet+byol", "imagenet", at_10="same", at_50="better", at_1970="better"),
        *found("imagenet", "scratch", at_10="better", at_50="better", at_1970="same"),
        *found("byol", "scratch", at_10="better", at_50="better", at_1970="better"),
    ]
    assert recommendation(STARTS, family) == (
        "Take BYOL from ImageNet: better than ImageNet alone with 50 and 1,970 labels, not told apart with 10."
    )


def test_of_starts_that_are_not_told_apart_the_cheaper_is_taken() -> None:
    family = [
        *found("scratch", "imagenet", at_10="worse"),
        *found("byol", "scratch", at_10="same"),
        *found("imagenet+byol", "imagenet", at_10="same"),
        *found("imagenet+byol", "scratch", at_10="better"),
    ]
    assert recommendation(STARTS, family) == (
        "Take ImageNet alone: better than random weights with 10 labels; "
        "not told apart from BYOL from ImageNet with 10 labels."
    )


def test_starts_that_nothing_joins_are_answered_apart() -> None:
    """Better than random weights says nothing of ImageNet's, which may be far ahead."""
    family = [
        *found("imagenet+byol", "imagenet", at_50="same", at_100="same"),
        *found("byol", "scratch", at_50="better", at_100="better"),
    ]
    assert recommendation(STARTS, family) == (
        "Not told apart are ImageNet alone and BYOL from ImageNet; the cheapest is ImageNet alone. "
        "Take BYOL from random weights: better than random weights with 50 and 100 labels. "
        "Between these no difference was tested: see the curves."
    )


def test_a_start_that_is_better_here_and_worse_there_does_not_win() -> None:
    family = found("byol", "scratch", at_10="better", at_50="same", at_200="worse")
    assert recommendation(("scratch", "byol"), family) == (
        "Not told apart: no start is better throughout; the cheapest is random weights. BYOL from random weights is "
        "better than random weights with 10 labels, worse with 200, not told apart with 50."
    )


def test_one_seed_is_said_so() -> None:
    (one,) = found("byol", "scratch", at_10="better")
    one = replace(one, p=math.nan, p_holm=math.nan, covers="test images, not seeds: there is one")
    assert recommendation(("scratch", "byol"), [one]) == (
        "Not told apart: no start is better throughout; the cheapest is random weights. "
        "One seed tells nothing of the seeds: run at least 3."
    )
