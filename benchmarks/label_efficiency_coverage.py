"""Do the intervals of a study of starts hold what they promise? Simulated studies whose answer is known.

    python benchmarks/label_efficiency_coverage.py [--studies 1000] [--measure auc] [--regime seeds] [--seeds 3]

A study has two starts, seeds, nested draws of labels at six numbers of labels and one set of test images, as
``byolt study --starts`` has. The expected curve of ours is that of theirs moved along log labels, so that ours with 50
labels equals theirs with exactly 130. Prints how many of the 95 % intervals of the labels saved hold 130, how many
families of differences between equal starts claim any (at most 5 %), and how many curves' points are held. Writes
nothing.
"""

import argparse
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from byolt.evaluation.label_efficiency import Measured, curves, differences, labels_saved
from byolt.evaluation.variance_components import Measure

Array = npt.NDArray[np.float64]

BUDGETS = (10, 20, 50, 100, 200, 1970)
AT, ANSWER = 50, 130.0
DRAWS, IMAGES, POSITIVE = 20, 656, 0.3


class Regime(NamedTuple):
    """Standard deviations, in those of an image's score within its class.

    ``seed``: of a start's seeds. ``draw``: of draws of 10 labels; falls with the root of their number, none at "all".
    ``image``: share of an image's score that all seeds and draws of a start have in common.
    """

    seed: float
    draw: float
    image: float


REGIMES = {
    "seeds": Regime(seed=0.06, draw=0.1, image=0.1),
    "draws": Regime(seed=0.01, draw=0.5, image=0.1),
    "images": Regime(seed=0.01, draw=0.1, image=0.9),
    "all alike": Regime(seed=0.04, draw=0.4, image=0.6),
}


def main() -> None:
    """Print a line for each regime and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--measure", choices=["auc", "accuracy"], action="append")
    parser.add_argument("--regime", choices=list(REGIMES), action="append")
    asked = parser.parse_args()
    print(f"{asked.studies} studies each, {asked.seeds} seeds, {DRAWS} draws, {IMAGES} test images")
    print("measure   variance of  labels saved: held  [95 %]          median interval  families  [95 %]")
    for measure in asked.measure or ["auc", "accuracy"]:
        for regime in asked.regime or REGIMES:
            rng = np.random.default_rng(0)
            print(row(rng, regime, measure, asked.studies, asked.seeds), flush=True)


def row(rng: np.random.Generator, regime: str, measure: Measure, studies: int, seeds: int) -> str:
    """One line of the table."""
    held, claimed, ends = 0, 0, []
    for _ in range(studies):
        saved = labels_saved(study(rng, REGIMES[regime], measure, seeds=seeds), "ours", "theirs", AT)
        held += holds(saved.low, saved.high, saved.low_censored, saved.high_censored)
        ends.append((saved.low, saved.high))
        equal = study(rng, REGIMES[regime], measure, seeds=seeds, answer=AT)
        claimed += any(one.verdict != "not told apart" for one in differences(equal, [("ours", "theirs")], BUDGETS))
    low, high = np.median(ends, axis=0)
    return (
        f"{measure:9} {regime:12} {held / studies:18.3f}  {binomial(held, studies)}   [{low:4.0f}, {high:4.0f}]     "
        f"{claimed / studies:8.3f}  {binomial(claimed, studies)}"
    )


def holds(low: float, high: float, low_censored: bool, high_censored: bool) -> bool:
    """Whether an interval of the labels saved holds the answer."""
    return (low_censored or low <= ANSWER) and (high_censored or ANSWER <= high)


def binomial(count: int, n: int) -> str:
    """Wilson's 95 % interval of a share."""
    ends = stats.binomtest(count, n).proportion_ci(0.95, method="wilson")
    return f"[{ends.low:.3f}, {ends.high:.3f}]"


def study(
    rng: np.random.Generator, regime: Regime, measure: Measure, *, seeds: int = 3, answer: float = ANSWER
) -> Measured:
    """One study in which ours with 50 labels equals theirs with ``answer``."""
    labels = (np.arange(IMAGES) < POSITIVE * IMAGES).astype(np.int64)
    # A part of an image's difficulty is common to the starts, as much is of each start's own.
    common = rng.normal(0, 1, (1, IMAGES))
    difficulty = {start: regime.image * (common + rng.normal(0, 1, (1, IMAGES))) / 2**0.5 for start in STARTS}
    of_seed = {start: rng.normal(0, regime.seed, (seeds, 1)) for start in STARTS}
    # Nested draws: that of 20 labels holds that of 10. The same labels help both starts, each in its own way too.
    walk = {name: nested(rng, seeds) for name in ("both", *STARTS)}
    scores: dict[tuple[str, int], Array] = {}
    for start in STARTS:
        shift = np.log(answer / AT) if start == "ours" else 0.0
        for k, budget in enumerate(BUDGETS):
            one = budget == BUDGETS[-1]
            of_draw = 0.0 if one else regime.draw * (BUDGETS[0] / budget) ** 0.5
            drawn = of_draw * (walk["both"][k] + walk[start][k])[:, : 1 if one else None] / 2**0.5
            spread = regime.seed**2 + of_draw**2
            right = of_seed[start] + drawn + separation(np.log(budget) + shift, spread, measure)
            noise = rng.normal(0, (1 - regime.image**2) ** 0.5, (*right.shape, IMAGES))
            score = difficulty[start] + noise + right[..., None] * (labels if measure == "auc" else 1)
            scores[start, budget] = score if measure == "auc" else (score > 0).astype(np.float64)
    return Measured(STARTS, BUDGETS, scores, labels, measure)


STARTS = ("theirs", "ours")


def separation(log_labels: float, spread: float, measure: Measure) -> float:
    """Mean separation whose expected metric is the curve's, given the variance of the separation.

    E Phi((m + e) / s) = Phi(m / sqrt(s^2 + var e)), with s^2 = 2 for the area of two classes, 1 for an accuracy.
    """
    # From 64 % with 10 labels to 86 % with 1,970, flattening.
    curve = 1.3 - 1.4 * np.exp(-log_labels / 6)
    return float(curve * ((2 if measure == "auc" else 1) + spread) ** 0.5)


def nested(rng: np.random.Generator, seeds: int) -> Array:
    """Standard normal effect of each draw at each number of labels: the mean of as many labels, those before in it."""
    steps = rng.normal(0, np.sqrt(np.diff((0, *BUDGETS)))[:, None, None], (len(BUDGETS), seeds, DRAWS))
    return steps.cumsum(0) / np.sqrt(BUDGETS)[:, None, None]


if __name__ == "__main__":
    main()
