import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from byolt.evaluation.variance_components import components, metric_and_influences
from byolt_export.errors import InputError

ONE = np.array([1.0])


def test_area_and_its_influences_are_those_of_delong() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([1, 0, 0, 1, 0, 1, 0])
    scores = rng.integers(0, 4, (2, 7)).astype(np.float64)  # With ties.
    area, influences = metric_and_influences(scores, labels, "auc")
    assert area == pytest.approx([roc_auc_score(labels, row) for row in scores], abs=1e-15)
    # DeLong 1988, eq. 4 to 6: covariances within each class of the share of the other class that an image beats.
    one, other = scores[:, labels == 1, None], scores[:, None, labels == 0]
    won = (one > other) + (one == other) / 2
    expected = np.cov(won.mean(2)) / 3 + np.cov(won.mean(1)) / 4
    assert influences @ influences.T == pytest.approx(expected, abs=1e-15)


def test_accuracy_and_its_influences_by_hand() -> None:
    # Right at 3 of 4 and 2 of 4; sample variances 1/4 and 1/3, covariance (3 * 2 / 12) / 3 = 1/6: over 4 images.
    right = np.array([[1, 1, 1, 0], [1, 1, 0, 0]])
    metric, influences = metric_and_influences(right, np.arange(4), "accuracy")
    assert metric == pytest.approx([0.75, 0.5])
    assert influences @ influences.T == pytest.approx(np.array([[1 / 4, 1 / 6], [1 / 6, 1 / 3]]) / 4)


@pytest.mark.parametrize(
    ("labels", "measure", "message"),
    [([1, 0, 0], "auc", "1 positive and 2 negative test images; it needs 2"), ([1], "accuracy", "it needs 2")],
)
def test_too_few_images_are_refused(labels: list[int], measure: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        metric_and_influences(np.ones((1, len(labels))), np.array(labels), measure)  # type: ignore[arg-type]


def test_seeds_alone_give_students_interval() -> None:
    # As in mean_over_seeds: t(2, 0.975) * 0.1 / sqrt(3) = 0.2484138.
    found = components(np.array([[0.5, 0.6, 0.7]]), np.zeros((1, 3, 4)))
    assert found.mean == pytest.approx([0.6])
    assert float(found.half_width(ONE, 0.05)) == pytest.approx(0.2484138, abs=1e-7)
    assert found.p_value(ONE) == pytest.approx(stats.ttest_1samp([0.5, 0.6, 0.7], 0).pvalue)


def test_images_alone_give_what_the_units_share() -> None:
    # The product of different units is 0.01 at images 0 and 1, 0.03 at 2 and 3: Cov = 0.08. Two units, so 1 pair.
    influences = np.array([[[0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.3, 0.3]]])
    found = components(np.array([[0.6, 0.6]]), influences)
    # Variance of the estimate of Cov: 4 * var(0.01, 0.01, 0.03, 0.03) = 4 * 0.0004 / 3; degrees 2 * 0.08^2 / that = 24.
    expected = stats.t.isf(0.025, 24) * 0.08**0.5
    assert float(found.half_width(ONE, 0.05)) == pytest.approx(expected)
    assert found.p_value(ONE) == pytest.approx(2 * stats.t.sf(0.6 / 0.08**0.5, 24))


def test_both_parts_add_up_with_satterthwaites_degrees() -> None:
    # MS / n = 0.01 / 3; Cov = 4 * 0.0025 = 0.01 without noise. Degrees (0.04 / 3)^2 / ((0.01 / 3)^2 / 2) = 32.
    found = components(np.array([[0.5, 0.6, 0.7]]), np.full((1, 3, 4), 0.05))
    expected = stats.t.isf(0.025, 32) * (0.04 / 3) ** 0.5  # 0.2352: narrower than that of the seeds, 0.2484,
    assert expected < 0.2484138
    assert float(found.half_width(ONE, 0.05)) == pytest.approx(0.2484138, abs=1e-7)  # which is the bound.
    assert float(found.half_width(ONE, 0.3)) == pytest.approx(stats.t.isf(0.15, 32) * (0.04 / 3) ** 0.5)


def test_p_is_the_level_at_which_the_interval_just_holds_0() -> None:
    rng = np.random.default_rng(0)
    found = components(rng.normal(0.6, 0.05, (2, 3)), rng.normal(0, 0.01, (2, 3, 40)))
    weights = np.array([1.0, -1.0])
    p = found.p_value(weights)
    assert float(found.half_width(weights, p)) == pytest.approx(abs(float(weights @ found.mean)))


def test_differences_are_paired() -> None:
    # Both cells fall and rise together: their difference is 0.1 at every unit and every image.
    rng = np.random.default_rng(0)
    values, influences = rng.normal(0.6, 0.1, (1, 3)), rng.normal(0, 0.1, (1, 3, 5))
    found = components(np.concatenate([values + 0.1, values]), np.concatenate([influences, influences]))
    weights = np.array([[1.0, -1.0], [1.0, 0.0]])
    paired, single = found.half_width(weights, 0.05)
    assert np.isnan(paired)  # Nothing varies: no width is claimed.
    assert single > 0.1


def test_one_unit_has_the_variance_of_its_images() -> None:
    found = components(np.array([[0.6]]), np.array([[[0.1, -0.1, 0.1, -0.1, 0.2]]]))
    # 4 * 0.01 + 0.04 = 0.08; its noise 5 * var(0.01 x 4, 0.04) = 5 * 0.00018 = 0.0009; degrees 2 * 0.08^2 / 0.0009.
    assert float(found.half_width(ONE, 0.05)) == pytest.approx(stats.t.isf(0.025, 0.0128 / 0.0009) * 0.08**0.5)
