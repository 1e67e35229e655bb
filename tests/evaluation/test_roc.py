"""The area under the ROC curve: by hand, beside scikit-learn, and how often its intervals hold the true one."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from byolt.evaluation.answers import Answers, compared, measured
from byolt.evaluation.roc import area_difference_on_test_set, area_on_test_set, auc
from byolt_export.errors import InputError

SCORES, LABELS = np.array([3.0, 1.0, 2.0, 1.0, 0.0]), np.array([1, 1, 0, 0, 0])


def drawn(seed: int, ones: int = 60, zeros: int = 90, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Normal scores, those of class 1 higher by `shift`: the area is Phi(shift / sqrt 2)."""
    labels = np.repeat([1, 0], [ones, zeros])
    return np.random.default_rng(seed).normal(size=len(labels)) + shift * labels, labels


def test_the_area_and_its_interval_by_hand() -> None:
    # 3 is above 2, 1 and 0; 1 is below 2, equal to 1 and above 0: (3 + 1.5) / 6.
    assert auc(SCORES, LABELS) == pytest.approx(0.75)
    # Placements of class 1: 1 and 1/2, variance 1/8; of class 0: 1/2, 3/4 and 1, variance 1/16.
    # DeLong: 1/8 / 2 + 1/16 / 3 = 1/12. On the logit scale the deviation is sqrt(1/12) / (0.75 * 0.25) = 1.5396007.
    # log 3 -/+ 1.959964 * 1.5396007 = 1.0986123 -/+ 3.0175619: ends 1 / (1 + e^1.9189496), 1 / (1 + e^-4.1161742)
    found = area_on_test_set(SCORES, LABELS)
    assert found == {"area": pytest.approx(0.75), "interval_95": pytest.approx([0.1279787, 0.9839549], abs=1e-6)}


def test_it_is_scikit_learns_with_ties_and_with_weights() -> None:
    random = np.random.default_rng(0)
    scores, labels = drawn(1)
    scores = scores.round(1)
    weights = random.multinomial(len(labels), np.full(len(labels), 1 / len(labels)))
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auc(scores, labels, weights) == pytest.approx(
        roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12
    )
    # A weight is how often an image counts.
    assert auc(scores, labels, weights) == pytest.approx(auc(scores.repeat(weights), labels.repeat(weights)), abs=1e-12)
    assert math.isnan(auc(scores, labels, labels))


def test_the_variance_is_that_of_all_pairs() -> None:
    """DeLong's variance from its definition, a matrix of every pair."""
    scores, labels = drawn(2)
    won = np.sign(scores[labels == 1][:, None] - scores[labels == 0]) / 2 + 0.5
    variance = won.mean(1).var(ddof=1) / 60 + won.mean(0).var(ddof=1) / 90
    low, high = area_on_test_set(scores, labels)["interval_95"]
    logit = math.log(high / (1 - high)) - math.log(low / (1 - low))
    area = won.mean()
    assert logit == pytest.approx(2 * 1.959964 * math.sqrt(variance) / (area * (1 - area)), rel=1e-6)


def test_the_paired_difference_is_that_of_all_pairs_and_turns_round() -> None:
    a, labels = drawn(3)
    b = a + np.random.default_rng(4).normal(size=len(a)) / 2
    won = [np.sign(scores[labels == 1][:, None] - scores[labels == 0]) / 2 for scores in (a, b)]
    apart = won[0] - won[1]
    error = math.sqrt(apart.mean(1).var(ddof=1) / 60 + apart.mean(0).var(ddof=1) / 90)
    found, other = area_difference_on_test_set(a, b, labels), area_difference_on_test_set(b, a, labels)
    assert found.difference == pytest.approx(auc(a, labels) - auc(b, labels))
    assert (found.low, found.high) == pytest.approx((apart.mean() - 1.959964 * error, apart.mean() + 1.959964 * error))
    assert found.p == pytest.approx(2 * NormalDist().cdf(-abs(apart.mean()) / error))
    assert other == pytest.approx((-found.difference, -found.high, -found.low, found.p))
    # Which class is called 1 changes nothing.
    assert area_difference_on_test_set(-a, -b, 1 - labels) == pytest.approx(found)
    with pytest.raises(InputError, match="areas: 150 images against 149"):
        area_difference_on_test_set(a, b[1:], labels)


def test_where_no_variance_is_known_the_interval_is_not_a_point() -> None:
    labels = np.repeat([1, 0], [10, 30])
    apart = area_on_test_set(labels.astype(float), labels)
    # Wilson's of 10 pairs in 10: 10 / (10 + 3.841459).
    assert apart == {"area": 1.0, "interval_95": pytest.approx([0.7224672, 1.0], abs=1e-6)}
    constant = area_on_test_set(np.zeros(40), labels)
    # Centre 1/2, half 1.959964 sqrt(0.25 / 10 + 3.841459 / 400) / 1.3841459 = 0.2634069
    assert constant == {"area": 0.5, "interval_95": pytest.approx([0.2365931, 0.7634069], abs=1e-6)}
    one = area_on_test_set(np.array([1.0, 2.0, 0.0]), np.array([1, 0, 0]))
    assert one["area"] == 0.5
    assert one["interval_95"] == pytest.approx([0.0546208, 0.9453792], abs=1e-6)
    # Newcombe's: both ends lie 1 - 0.7224672 away.
    same = area_difference_on_test_set(labels.astype(float), 2.0 * labels, labels)
    assert same == pytest.approx((0, -0.2775328, 0.2775328, 1), abs=1e-6)
    assert area_difference_on_test_set(labels.astype(float), -1.0 * labels, labels).p == 0


def test_the_interval_holds_the_true_area_as_often_as_it_says() -> None:
    true, held, studies = NormalDist().cdf(1 / math.sqrt(2)), 0, 1000
    for seed in range(studies):
        low, high = area_on_test_set(*drawn(seed, 20, 30))["interval_95"]
        held += low <= true <= high
    assert 0.93 <= held / studies <= 0.975


def test_two_classes_have_an_area_and_three_have_none() -> None:
    labels = np.array([0, 0, 1, 1])
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 3.0], [0.0, 0.5]])
    answers = Answers.of([logits[:3], logits[3:]])
    assert answers.predicted.tolist() == [0, 1, 1, 1]
    # Margins -2, 1, 2 and 1/2: of four pairs 1/2 is below 1.
    assert measured(answers, labels)["auc"]["area"] == 0.75
    assert compared(answers, Answers.of([-logits]), labels)["auc"]["difference"] == pytest.approx(0.5)
    assert "auc" not in measured(answers, np.zeros(4, np.int64))
    three = Answers.of([torch.eye(3)[[0, 1, 2, 0]]])
    assert three.margins is None
    assert "auc" not in measured(three, labels)
    assert "auc" not in compared(answers, three, labels)
