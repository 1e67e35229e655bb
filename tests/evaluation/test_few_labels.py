"""Few labels: how they are drawn, how a setting is chosen inside of them, and that nothing else is looked at."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from byolt.evaluation.few_labels import (
    L2_GRID,
    choose,
    choose_l2,
    draw_of_labels,
    folds_of,
    measure_of,
    metric_of,
    scores_of,
)
from byolt.evaluation.linear import fit_path
from byolt_export.errors import InputError

LABELS, UNEQUAL = np.repeat([0, 1, 2], [60, 30, 2]), np.repeat([0, 1, 2], [90, 5, 5])


def blobs(count: int, *, classes: int, dim: int) -> tuple[torch.Tensor, npt.NDArray[np.int64]]:
    """Features around a centre a class, which overlap."""
    rng = np.random.default_rng(0)
    labels, centres = np.arange(count) % classes, rng.normal(0, 0.6, (classes, dim))
    return torch.from_numpy(rng.normal(centres[labels], 1).astype(np.float32)), labels


def test_a_draw_has_each_class_by_its_share_and_one_at_least() -> None:
    # 20 * 60/92 = 13.04, 20 * 30/92 = 6.52, 20 * 2/92 = 0.43, raised to 1: 13 + 6 + 1 = 20.
    drawn = draw_of_labels(LABELS, 20, (0, 0))
    assert np.bincount(LABELS[drawn]).tolist() == [13, 6, 1]
    assert (np.diff(drawn) > 0).all()
    # 3.26, 1.63 and 0.11 raised to 1: of 3 + 1 + 1 the largest remainder is the second's.
    assert np.bincount(LABELS[draw_of_labels(LABELS, 5, (0, 0))]).tolist() == [3, 1, 1]
    # 1.96, 0.98, 0.07: one each.
    assert np.bincount(LABELS[draw_of_labels(LABELS, 3, (0, 0))]).tolist() == [1, 1, 1]
    # Classes raised to one image take it from the largest: 3.6, 0.2, 0.2 begin as 3, 1, 1.
    assert np.bincount(UNEQUAL[draw_of_labels(UNEQUAL, 4, (0,))]).tolist() == [2, 1, 1]
    assert draw_of_labels(LABELS, 92, (7,)).tolist() == list(range(92))


def test_a_draw_is_a_function_of_its_key() -> None:
    drawn = {key: tuple(draw_of_labels(LABELS, 20, key)) for key in [(0, 0), (0, 1), (1, 0)]}
    assert len(set(drawn.values())) == 3
    assert drawn[0, 0] == tuple(draw_of_labels(LABELS, 20, (0, 0)))


@pytest.mark.parametrize("budget", [2, 93])
def test_a_budget_that_does_not_fit_is_refused(budget: int) -> None:
    with pytest.raises(InputError, match=rf"--labels {budget}: 92 training images have labels, of 3 classes; give fro"):
        draw_of_labels(LABELS, budget, (0,))


def test_folds_hold_each_image_once_and_every_class() -> None:
    labels = np.repeat([0, 1], [7, 3])
    folds = folds_of(labels, 0)
    assert sorted(np.concatenate(folds)) == list(range(10))
    # Dealt round: 7 are 3, 2, 2; the next three begin at the second fold.
    assert [np.bincount(labels[fold]).tolist() for fold in folds] == [[3, 1], [2, 1], [2, 1]]
    assert len(folds_of(np.array([0, 0, 0, 1, 1]), 0)) == 2  # As many as the smaller class has.
    assert folds_of(np.array([0, 0, 0, 1]), 0) == []


def test_two_classes_are_measured_by_the_area_under_the_curve() -> None:
    labels = np.array([0, 0, 1, 1])
    assert measure_of(labels) == "auc"
    logits = torch.tensor([[0.0, 1], [1, 3], [-1, 2], [5, 7]])
    assert scores_of(logits, labels, "auc").tolist() == [1, 2, 3, 2]
    # Pairs (3, 1), (3, 2), (2, 1) are in order, (2, 2) is a tie: 3.5 of 4.
    assert metric_of(scores_of(logits, labels, "auc"), labels, "auc") == 0.875
    assert scores_of(logits, labels, "accuracy").tolist() == [0, 0, 1, 1]
    assert metric_of(scores_of(logits, labels, "accuracy"), labels, "accuracy") == 0.5
    assert measure_of(np.array([0, 1, 2])) == "accuracy"


def test_the_best_on_what_is_held_out_is_chosen_and_the_first_of_equals() -> None:
    labels, draws = np.repeat([0, 1, 2], 6), [np.arange(18)]
    right = torch.nn.functional.one_hot(torch.from_numpy(labels), 3).float()

    def fit(kept: np.ndarray, out: np.ndarray) -> list[torch.Tensor]:
        assert not set(kept) & set(out)
        assert len(kept) == 12
        return [torch.zeros(6, 3), right[out], right[out], right[out] * torch.nan]

    assert choose(4, draws, labels, "accuracy", fit) == (1, 1.0)
    # One image a class: nothing can be held out.
    number, metric = choose(4, [np.array([0, 6, 12])], labels, "accuracy", fit)
    assert number == 0
    assert np.isnan(metric)


@pytest.mark.parametrize("classes", [2, 3])
def test_no_label_outside_of_the_draws_touches_the_choice(classes: int) -> None:
    features, labels = blobs(150, classes=classes, dim=20)
    draws = [draw_of_labels(labels, 24, (0, number, 1)) for number in range(2)]
    measure = measure_of(labels)
    chosen = choose_l2(features, labels, draws, classes, measure)
    planted, drawn = labels.copy(), np.unique(np.concatenate(draws))
    others = np.setdiff1d(np.arange(150), drawn)
    planted[others] = (planted[others] + 1) % classes
    # A feature that says the class of every image outside of the draws would help whoever looks at them.
    helped = features.clone()
    helped[others, 0] = 100.0 * torch.from_numpy(labels[others]).float()
    assert choose_l2(helped, planted, draws, classes, measure) == chosen
    flipped = labels.copy()
    flipped[drawn] = (flipped[drawn] + np.arange(len(drawn))) % classes
    assert choose_l2(features, flipped, draws, classes, measure).metric < chosen.metric


def test_a_path_of_probes_has_the_minimum_of_each_l2() -> None:
    from sklearn.linear_model import LogisticRegression

    features, labels = blobs(60, classes=3, dim=5)
    rows = ((features - features.mean(0)) / features.std(0, correction=0)).numpy()
    for probe in fit_path(features, labels, classes=3, l2s=L2_GRID[:3]):
        theirs = LogisticRegression(C=1 / (60 * probe.l2), tol=1e-8, max_iter=5000).fit(rows, labels)
        ours = torch.softmax(probe.logits(features), 1).numpy()
        np.testing.assert_allclose(ours, theirs.predict_proba(rows), atol=2e-3)
