import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from byolt.evaluation.label_efficiency import (
    Cell,
    Measured,
    curves,
    differences,
    isotonic,
    labels_saved,
    reached_at,
)
from byolt_export.errors import InputError

N = 200
Array = npt.NDArray[np.float64]


def right(*shares: list[float]) -> Array:
    """Of each seed, for each draw the first images classified right: all starts and seeds are right at the same."""
    return (np.arange(N) < N * np.array(shares)[..., None]).astype(np.float64)


def measured(scores: dict[Cell, Array], *starts: str, **others: object) -> Measured:
    starts = starts or ("theirs", "ours")
    budgets = tuple(dict.fromkeys(budget for _, budget in scores))
    made = Measured(starts, budgets, scores, np.zeros(N, dtype=np.int64), "accuracy")
    return replace(made, **others)


def two(seed: int = 0, seeds: int = 3, lead: float = 0.1) -> Measured:
    """Ours above theirs with 10, 20 and all 100 labels; seeds and draws spread."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 1, N)
    scores = {}
    for start, above in (("theirs", 0.0), ("ours", lead)):
        for budget, share in ((10, 0.6), (20, 0.7), (100, 0.8)):
            limit = stats.norm.ppf(share + above + rng.normal(0, 0.01, (seeds, 1 if budget == 100 else 4, 1)))
            scores[start, budget] = (difficulty + rng.normal(0, 0.1, N) < limit).astype(np.float64)
    return measured(scores)


def test_the_mean_is_of_seeds_and_draws_and_the_band_on_the_scale_of_log_odds() -> None:
    # Seeds 0.4, 0.5, 0.6: MS / n = 0.01 / 3. Their images: the first 80 count more, so Cov is not 0; taken from below.
    one = measured({("a", 10): right([0.3, 0.5], [0.4, 0.6], [0.5, 0.7])}, "a")
    (point,) = curves(one)["a"]
    assert point[:2] == (10, pytest.approx(0.5))
    half = float(one.components([("a", 10)]).half_width(np.array([1.0]), 0.05))
    assert half > stats.t.isf(0.025, 2) * (0.01 / 3) ** 0.5 - 1e-12
    # The derivative of log(p / (1 - p)) at 0.5 is 4.
    assert math.log(point.high / (1 - point.high)) == pytest.approx(4 * half)
    assert point.low == pytest.approx(1 - point.high)


def test_a_band_stays_within_0_and_1_and_claims_no_width_of_0() -> None:
    points = curves(measured({("a", 10): right([0.96], [0.99], [1.0]), ("a", 20): right([1.0], [1.0], [1.0])}, "a"))[
        "a"
    ]
    assert 0 < points[0].low < 0.983 < points[0].high < 1
    assert points[1].mean == 1
    assert math.isnan(points[1].low)


def test_draws_of_all_seeds_count_where_the_encoder_is_fixed() -> None:
    scores = {("a", 10): right([0.5, 0.7], [0.5, 0.7]), ("a", 20): right([0.7], [0.7])}
    cells = [("a", 10), ("a", 20)]
    by_seed = measured(scores, "a").components(cells)
    by_draw = measured(scores, "a", fixed=frozenset({"a"})).components(cells)
    assert (by_seed.units, by_draw.units) == (2, 4)
    assert by_seed.between == pytest.approx(np.zeros((2, 2)))
    # Draws -0.1, 0.1, -0.1, 0.1 from their mean, divisor 3; the one draw of all labels stands beside each.
    assert by_draw.between == pytest.approx(np.array([[0.04 / 3, 0], [0, 0]]))
    assert by_draw.mean == pytest.approx([0.6, 0.7])


def test_differences_are_a_family() -> None:
    study = two()
    found = differences(study, [("ours", "theirs")], [10, 20, 100])
    assert [d.budget for d in found] == [10, 20, 100]
    for d in found:
        part = study.components([("ours", d.budget), ("theirs", d.budget)])
        half = float(part.half_width(np.array([1.0, -1.0]), 0.05 / 3))
        assert (d.low, d.high) == pytest.approx((d.difference - half, d.difference + half))
        assert d.difference == pytest.approx(part.mean[0] - part.mean[1])
        assert d.covers == ("seeds, test images" if d.budget == 100 else "seeds, draws of labels and test images")
    assert [d.verdict for d in found] == ["better"] * 3
    lowest = min(found, key=lambda d: d.p)
    assert lowest.p_holm == pytest.approx(3 * lowest.p)
    turned = differences(study, [("theirs", "ours")], [20])[0]
    assert turned.verdict == "worse"
    assert turned.difference == pytest.approx(-found[1].difference)


def test_equal_starts_are_not_told_apart() -> None:
    assert {d.verdict for d in differences(two(lead=0.0), [("ours", "theirs")], [10, 20, 100])} == {"not told apart"}


def test_nothing_is_better_on_the_draws_of_one_seed() -> None:
    one = two(seeds=1)
    (found,) = differences(one, [("ours", "theirs")], [10])
    assert found.low > 0
    assert found.covers == "draws of labels and test images, not seeds: there is one"
    assert math.isnan(found.p)
    assert math.isnan(found.p_holm)
    assert found.verdict == "not told apart"
    # Where no encoder depends on the seed the draws are all there is.
    (found,) = differences(replace(one, fixed=frozenset({"ours", "theirs"})), [("ours", "theirs")], [10])
    assert found.covers == "draws of labels and test images"
    assert found.verdict == "better"


def test_labels_saved_by_hand() -> None:
    # Log-odds of theirs: log 1 = 0 with 10 labels, log 3 with 1000; ours log 2 with 10: log 2 / log 3 of the way.
    near = (-0.01, 0.0, 0.01)
    scores = {
        ("theirs", 10): right(*([0.5 + d] for d in near)),
        ("theirs", 1000): right(*([0.75 + d] for d in near)),
        ("ours", 10): right(*([2 / 3 + 1 / 600 + d] for d in near)),
        ("ours", 1000): right(*([0.8 + d] for d in near)),
    }
    share = 134 / 200
    found = labels_saved(measured(scores), "ours", "theirs", 10)
    assert found.equal_to == pytest.approx(10 * 100 ** (math.log(share / (1 - share)) / math.log(3)))
    assert (found.reached, found.fewest, found.most) == ("within", 10, 1000)
    assert not found.low_censored
    assert not found.high_censored


def test_an_end_of_the_labels_saved_is_where_the_test_just_does_not_reject() -> None:
    study = two(lead=0.05)
    found = labels_saved(study, "ours", "theirs", 10)
    assert 10 < found.low < found.equal_to < found.high < 100
    cells = study.components([("ours", 10), ("theirs", 10), ("theirs", 20), ("theirs", 100)])
    odds = cells.scaled(1 / (cells.mean * (1 - cells.mean)))._replace(mean=np.log(cells.mean / (1 - cells.mean)))
    for end in (found.low, found.high):
        curve = [np.interp(math.log(end), np.log([10, 20, 100]), one) for one in np.eye(3)]
        assert odds.p_value(np.array([1, *(-w for w in curve)])) == pytest.approx(0.05, abs=0.005)  # The grid's step.


def test_labels_saved_beyond_what_was_measured_are_censored() -> None:
    ahead = labels_saved(two(lead=0.15), "ours", "theirs", 100)
    assert (ahead.reached, ahead.equal_to, ahead.high, ahead.high_censored) == ("with more", 100, 100, True)
    assert not ahead.low_censored
    behind = labels_saved(two(lead=-0.15), "ours", "theirs", 10)
    assert (behind.reached, behind.equal_to, behind.low, behind.low_censored) == ("with fewer", 10, 10, True)
    assert not behind.high_censored


@pytest.mark.parametrize(("lead", "low_censored", "high_censored"), [(0.09, False, True), (-0.09, True, False)])
def test_an_interval_that_meets_an_end_is_censored_there(lead: float, low_censored: bool, high_censored: bool) -> None:
    found = labels_saved(two(lead=lead), "ours", "theirs", 20)
    assert found.reached == "within"  # The estimate itself is not beyond the end.
    assert (found.low_censored, found.high_censored) == (low_censored, high_censored)


def test_a_flat_curve_leaves_the_labels_saved_without_an_end() -> None:
    flat = two(lead=0.0)
    scores = {cell: flat.scores[cell[0], 10 if cell[1] != 100 else 100] for cell in flat.scores}
    scores["theirs", 100] = flat.scores["theirs", 10][:, :1]
    found = labels_saved(replace(flat, scores=scores), "ours", "theirs", 10)
    assert (found.low_censored, found.high_censored) == (True, True)
    assert (found.low, found.high) == (10, 100)


def test_a_curve_is_made_to_rise_by_pooling() -> None:
    assert isotonic(np.array([1.0, 3.0, 2.0, 4.0, 3.0, 2.0])) == pytest.approx([1, 2.5, 2.5, 3, 3, 3])
    # Between the knots by a line, at a flat part its first point, beyond the curve its ends.
    at, curve = np.array([0.0, 1.0, 2.0, 4.0]), np.array([1.0, 2.0, 2.0, 3.0])
    assert [reached_at(at, curve, y) for y in (0.5, 1.25, 2.0, 2.5, 3.0, 3.5)] == [0, 0.25, 1, 3, 4, 4]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"budgets": (20, 10, 100)}, "do not ascend"),
        ({"starts": ("ours", "theirs", "byol")}, "byol with 10 labels was not measured; run that row"),
        ({"labels": np.zeros(N + 1, dtype=np.int64)}, "other seeds, draws or test images"),
    ],
)
def test_cells_that_do_not_fit_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(two(), **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 4, N), "other seeds"), ((3, 3, N), "draws"), ((3, 4, N), "theirs with 20 labels: a score is not a finite")],
)
def test_a_cell_of_another_kind_is_refused(shape: tuple[int, ...], message: str) -> None:
    study = two()
    with pytest.raises(InputError, match=message):
        replace(study, scores={**study.scores, ("theirs", 20): np.full(shape, np.nan)})


def test_what_was_not_measured_is_not_compared() -> None:
    with pytest.raises(InputError, match="ours with 30 labels is not in the study"):
        labels_saved(two(), "ours", "theirs", 30)
    with pytest.raises(InputError, match="nothing to compare"):
        differences(two(), [], [10])
