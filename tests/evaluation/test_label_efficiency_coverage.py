from dataclasses import replace

import numpy as np
import pytest
from benchmarks.label_efficiency_coverage import AT, BUDGETS, REGIMES, STARTS, claims, holds, nested, study
from scipy import stats

from byolt.evaluation.label_efficiency import labels_saved
from byolt.evaluation.variance_components import Measure


@pytest.mark.parametrize("measure", ["auc", "accuracy"])
def test_the_simulated_curves_are_moved_along_log_labels(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ours with 50 labels has what theirs has with 200; over 60 seeds the standard error is about 0.004.
    monkeypatch.setattr("benchmarks.label_efficiency_coverage.ANSWER", 200.0)
    made = study(np.random.default_rng(0), REGIMES["draws"], measure, (60, 5, 200))
    ours, theirs, equal, at_50 = made.components([("ours", AT), ("theirs", 200), ("equal", 200), ("theirs", AT)]).mean
    assert ours == pytest.approx(theirs, abs=0.01)
    assert equal == pytest.approx(theirs, abs=0.01)
    assert theirs - at_50 > 0.04
    assert made.scores["theirs", 10].shape == (60, 5, 200)
    assert made.scores["theirs", BUDGETS[-1]].shape == (60, 1, 200)


def test_draws_are_nested() -> None:
    drawn = nested(np.random.default_rng(0), 100, 100).reshape(len(BUDGETS), -1)
    # The mean of 20 labels of which 10 are those before: correlation sqrt(10 / 20).
    assert np.corrcoef(drawn[:2])[0, 1] == pytest.approx(0.5**0.5, abs=0.03)
    assert drawn.std(axis=1) == pytest.approx(np.ones(len(BUDGETS)), abs=0.03)


@pytest.mark.full
@pytest.mark.parametrize("regime", ["seeds", "draws", "images"])
def test_intervals_hold_what_they_promise(regime: str) -> None:
    studies, sizes, rng = 200, (3, 10, 300), np.random.default_rng(1)
    held, left_out, claimed = 0, 0, 0
    for _ in range(studies):
        one = study(rng, REGIMES[regime], "auc", sizes)
        held += holds(labels_saved(one, "ours", "theirs", AT))
        claimed += claims(one)
        if regime == "seeds":
            left_out += holds(labels_saved(replace(one, fixed=frozenset(STARTS)), "ours", "theirs", AT))
    fewest, most = stats.binom(studies, 0.95).ppf([0.005, 0.995])
    assert fewest <= held <= most
    assert claimed <= stats.binom(studies, 0.05).ppf(0.995)
    if regime == "seeds":  # Without the level of seeds the interval misses: the test sees that it is there.
        assert left_out < fewest
