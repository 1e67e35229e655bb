"""Do the intervals of a study of starts hold what they promise? Simulated studies whose answer is known.

    python benchmarks/label_efficiency_coverage.py [--studies 1000] [--measure auc] [--regime seeds] [--bootstrap 500]

A study has three starts, seeds, nested draws of labels at six numbers of labels and one set of test images, as
``byolt study --starts`` has. The expected curve of ours is that of theirs moved along log labels, so that ours with 50
labels equals theirs with exactly 130; the third is as good as theirs. Prints how many of the 95 % intervals of the
labels saved hold 130, and how many families of differences between equal starts claim any (at most 5 %); with
--bootstrap also what is held where the seeds are left out, and by a bootstrap's percentiles. Writes nothing.
"""

import argparse
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from byolt.evaluation.label_efficiency import Measured, Saved, differences, isotonic, labels_saved, reached_at
from byolt.evaluation.variance_components import Measure, metric_and_influences

Array = npt.NDArray[np.float64]

BUDGETS = (10, 20, 50, 100, 200, 1970)
STARTS = ("theirs", "ours", "equal")
AT, ANSWER = 50, 130.0
DRAWS, IMAGES, POSITIVE = 20, 656, 0.3


class Regime(NamedTuple):
    """Standard deviations, in those of an image's score within its class.

    ``seed``: of a start's seeds. ``draw``: of draws of 10 labels; falls with the root of their number, none at "all".
    ``image``: share of an image's score that all seeds and draws of a start have in common. ``fixed``: theirs has the
    same encoder at every seed, as ImageNet weights have.
    """

    seed: float
    draw: float
    image: float
    fixed: bool = False


REGIMES = {
    "seeds": Regime(seed=0.06, draw=0.1, image=0.1),
    "draws": Regime(seed=0.01, draw=0.5, image=0.1),
    "images": Regime(seed=0.01, draw=0.1, image=0.9),
    "all alike": Regime(seed=0.04, draw=0.4, image=0.6),
    "ours learns": Regime(seed=0.06, draw=0.4, image=0.6, fixed=True),
}


def main() -> None:
    """Print a line for each regime and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--measure", choices=["auc", "accuracy"], action="append")
    parser.add_argument("--regime", choices=list(REGIMES), action="append")
    parser.add_argument("--bootstrap", type=int, default=0, metavar="ROUNDS", help="percentile bootstrap beside it")
    asked = parser.parse_args()
    print(f"{asked.studies} studies each, {asked.seeds} seeds, {asked.draws} draws, {IMAGES} test images")
    print("measure   variance of labels saved: held   [median]      families that claim", end="")
    print("   seeds left out        percentiles" if asked.bootstrap else "")
    for measure in asked.measure or ["auc", "accuracy"]:
        for regime in asked.regime or REGIMES:
            print(row(regime, measure, asked.studies, (asked.seeds, asked.draws, IMAGES), asked.bootstrap), flush=True)


def row(regime: str, measure: Measure, studies: int, sizes: tuple[int, int, int], rounds: int) -> str:
    """One line of the table; every share with Wilson's 95 % interval."""
    rng = np.random.default_rng(0)
    held, left_out, percentile, claimed, ends = 0, 0, 0, 0, []
    for _ in range(studies):
        one = study(rng, REGIMES[regime], measure, sizes)
        saved = labels_saved(one, "ours", "theirs", AT)
        held += holds(saved)
        ends.append((saved.low, saved.high))
        claimed += claims(one)
        if rounds:
            left_out += holds(labels_saved(replace(one, fixed=frozenset(STARTS)), "ours", "theirs", AT))
            low, high = percentile_interval(one, rng, rounds)
            percentile += low <= ANSWER <= high
    low, high = np.median(ends, axis=0)
    found = f"{measure:9} {regime:11} {share(held, studies)} [{low:4.0f}, {high:4.0f}]  {share(claimed, studies)}"
    return f"{found}  {share(left_out, studies)}  {share(percentile, studies)}" if rounds else found


def percentile_interval(measured: Measured, rng: np.random.Generator, rounds: int) -> tuple[float, float]:
    """The common hierarchical bootstrap for comparison: seeds, draws in each and images resampled, percentiles."""
    cells = [("ours", AT), *(("theirs", budget) for budget in BUDGETS)]
    found = [metric_and_influences(measured.scores[cell], measured.labels, measured.measure) for cell in cells]
    weights = rng.multinomial(IMAGES, [1 / IMAGES] * IMAGES, rounds) - 1.0
    # The change of a metric with the weights of its images is linear by its influences.
    values = [metric[..., None] + influences @ weights.T for metric, influences in found]
    seeds, draws = found[0][0].shape
    picked = rng.integers(seeds, size=(rounds, seeds, 1))
    drawn = rng.integers(draws, size=(rounds, seeds, draws))
    every = np.arange(rounds)[:, None, None]
    means = np.stack([v[picked, drawn % v.shape[1], every].mean((1, 2)) for v in values])
    odds = np.log(means / (1 - means))
    at = np.log(BUDGETS)
    reached = [_end(at, isotonic(curve), target) for target, curve in zip(odds[0], odds[1:].T, strict=True)]
    low, high = np.quantile(reached, [0.025, 0.975])
    return float(np.exp(low)), float(np.exp(high))


def _end(at: Array, curve: Array, target: float) -> float:
    """Where the curve reaches the target; without end beyond the measured numbers of labels."""
    if target < curve[0] or target > curve[-1]:
        return -100.0 if target < curve[0] else 100.0
    return reached_at(at, curve, float(target))


def holds(saved: Saved) -> bool:
    """Whether an interval of the labels saved holds the answer."""
    return (saved.low_censored or saved.low <= ANSWER) and (saved.high_censored or saved.high >= ANSWER)


def claims(measured: Measured) -> bool:
    """Whether any difference of two equal starts is called better or worse."""
    return any(d.verdict != "not told apart" for d in differences(measured, [("equal", "theirs")], BUDGETS))


def share(count: int, n: int) -> str:
    """A share with Wilson's 95 % interval."""
    ends = stats.binomtest(count, n).proportion_ci(0.95, method="wilson")
    return f"{count / n:.3f} [{ends.low:.3f}, {ends.high:.3f}]"


def study(
    rng: np.random.Generator, regime: Regime, measure: Measure, sizes: tuple[int, int, int] = (3, DRAWS, IMAGES)
) -> Measured:
    """One study of so many seeds, draws and images: theirs, ours with the answer, and a start equal to theirs."""
    seeds, draws, images = sizes
    labels = (np.arange(images) < POSITIVE * images).astype(np.int64)
    # Half of an image's difficulty is common to the starts, half is of each start's own. Nested draws: that of 20
    # labels holds that of 10; the same labels help both starts, each in its own way too.
    common, walk_of_both = rng.normal(0, 1, images), nested(rng, seeds, draws)
    scores: dict[tuple[str, int], Array] = {}
    for start in STARTS:
        shift = np.log(ANSWER / AT) if start == "ours" else 0.0
        sd_seed = 0.0 if regime.fixed and start == "theirs" else regime.seed
        difficulty = regime.image * (common + rng.normal(0, 1, images)) / 2**0.5
        of_seed, walk = rng.normal(0, 1, (seeds, 1)), nested(rng, seeds, draws)
        for k, budget in enumerate(BUDGETS):
            one = budget == BUDGETS[-1]
            sd_draw = 0.0 if one else regime.draw * (BUDGETS[0] / budget) ** 0.5
            of_draw = ((walk_of_both[k] + walk[k]) / 2**0.5)[:, : 1 if one else None]
            expected = separation(np.log(budget) + shift, sd_seed**2 + sd_draw**2, measure)
            separated = expected + sd_seed * of_seed + sd_draw * of_draw
            # A fixed encoder's probe of all labels is one probe.
            noise = rng.standard_normal((1 if one and sd_seed == 0 else seeds, separated.shape[1], images), np.float32)
            score = difficulty + (1 - regime.image**2) ** 0.5 * noise
            score = score + separated[..., None] * (labels if measure == "auc" else 1)
            scores[start, budget] = score if measure == "auc" else (score > 0).astype(np.float64)
    return Measured(STARTS, BUDGETS, scores, labels, measure, frozenset({"theirs"} if regime.fixed else ()))


def separation(log_labels: float, spread: float, measure: Measure) -> float:
    """Mean separation whose expected metric is the curve's, given the variance of the separation.

    E Phi((m + e) / s) = Phi(m / sqrt(s^2 + var e)), with s^2 = 2 for the area of two classes, 1 for an accuracy.
    """
    # From 64 % with 10 labels to 86 % with 1,970, flattening.
    curve = 1.3 - 1.4 * np.exp(-log_labels / 6)
    return float(curve * ((2 if measure == "auc" else 1) + spread) ** 0.5)


def nested(rng: np.random.Generator, seeds: int, draws: int) -> Array:
    """Standard normal effect of each draw at each number of labels: the mean of as many labels, those before in it."""
    steps = rng.normal(0, np.sqrt(np.diff((0, *BUDGETS)))[:, None, None], (len(BUDGETS), seeds, draws))
    return steps.cumsum(0) / np.sqrt(BUDGETS)[:, None, None]


if __name__ == "__main__":
    main()
