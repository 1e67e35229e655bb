import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from byolt.data.subsets import stratified_subset
from byolt.evaluation.linear import L2_PATH, LinearProbe, linear_probe

CLASSES = 3


def blobs(count: int, seed: int = 0, spread: float = 2.0) -> tuple[torch.Tensor, np.ndarray]:
    """Overlapping classes in 8 correlated features of very different location and scale."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(CLASSES, count, p=[0.5, 0.3, 0.2])
    latent = rng.normal(size=(count, 8)) * spread + 1.5 * np.eye(8)[labels]
    mixed = latent @ np.random.default_rng(9).normal(size=(8, 8))
    return torch.from_numpy((mixed + 100) * 10.0 ** np.arange(-2, 6)), labels.astype(np.int64)


def fitted(features: torch.Tensor, labels: np.ndarray) -> LinearProbe:
    return linear_probe(features, labels, classes=CLASSES, validation_share=0.2, seed=0)


def standardised(features: torch.Tensor) -> torch.Tensor:
    return (features - features.mean(0)) / features.std(0, correction=0)


def on_standardised(probe: LinearProbe, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The probe's weights for standardised features: w x + b = (w s)((x - m) / s) + (b + w m)."""
    return probe.weight * features.std(0, correction=0), probe.bias + probe.weight @ features.mean(0)


def test_the_minimum_is_that_of_scikit_learn() -> None:
    features, labels = blobs(400)
    probe = fitted(features, labels)
    rows = standardised(features).numpy()
    # sum of losses + |W|^2 / (2 C) is 1 / C times mean of losses * C * N ...: the same minimum at C = 1 / (N l2).
    other = LogisticRegression(C=1 / (400 * probe.l2), tol=1e-8, max_iter=10_000).fit(rows, labels)
    weight, bias = on_standardised(probe, features)
    expected_bias = other.intercept_ - other.intercept_.mean()  # A shift of all logits is free.
    # L-BFGS stops at a loss change of 1e-6; twice the l2 would move the weights by more than 0.05.
    np.testing.assert_allclose(weight.numpy(), other.coef_, atol=0.01)
    np.testing.assert_allclose((bias - bias.mean()).numpy(), expected_bias, atol=0.01)
    doubled = LogisticRegression(C=1 / (800 * probe.l2), tol=1e-8, max_iter=10_000).fit(rows, labels)
    assert np.abs(doubled.coef_ - other.coef_).max() > 0.05


def test_the_gradient_over_all_training_images_vanishes() -> None:
    features, labels = blobs(300, seed=1)
    probe = fitted(features, labels)
    weight, bias = (part.requires_grad_() for part in on_standardised(probe, features))
    logits = F.linear(standardised(features), weight, bias)
    loss = F.cross_entropy(logits, torch.from_numpy(labels)) + probe.l2 / 2 * weight.square().sum()
    loss.backward()
    # Fitted on the 80 % alone, or with the bias decayed, it is above 0.01.
    assert weight.grad.abs().max() < 2e-3
    assert bias.grad.abs().max() < 2e-3


def test_l2_is_the_best_on_the_held_out_part_and_the_stronger_of_equals() -> None:
    features, labels = blobs(300, seed=2)
    probe = fitted(features, labels)
    tried = probe.validation_accuracies
    assert tuple(tried) == L2_PATH[: len(tried)]
    assert probe.l2 == max(l2 for l2, accuracy in tried.items() if accuracy == max(tried.values()))
    held_out = stratified_subset(labels, 0.2, 0)
    part = np.setdiff1d(np.arange(300), held_out)
    rows = standardised(features[part]).numpy()
    at = {l2: LogisticRegression(C=1 / (len(part) * l2), tol=1e-8, max_iter=10_000) for l2 in tried}
    outside = ((features[held_out] - features[part].mean(0)) / features[part].std(0, correction=0)).numpy()
    for l2, accuracy in tried.items():
        # One of 60 images may sit on the boundary to within the tolerance of the fit.
        assert at[l2].fit(rows, labels[part]).score(outside, labels[held_out]) == pytest.approx(accuracy, abs=1.01 / 60)


def test_dead_and_repeated_features_change_nothing() -> None:
    features, labels = blobs(300, seed=4)
    dead = torch.cat([features, torch.full((300, 2), 7.3, dtype=torch.float64), torch.zeros(300, 1)], 1)
    probe, other = fitted(dead, labels), fitted(features, labels)
    assert torch.isfinite(probe.weight).all()
    assert probe.weight[:, 8:].abs().max() < 1e-12
    torch.testing.assert_close(F.linear(dead, probe.weight, probe.bias), F.linear(features, other.weight, other.bias))
    repeated = fitted(torch.cat([features, features], 1), labels)  # Of rank 8 in 16 dimensions.
    torch.testing.assert_close(repeated.weight[:, :8], repeated.weight[:, 8:])


def test_float32_features_of_more_dimensions_than_images() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = np.arange(40) % CLASSES
    features = torch.randn(40, 100, generator=generator) + 2 * F.one_hot(torch.from_numpy(labels), 100)
    probe = fitted(features, labels)
    assert probe.weight.dtype == torch.float32
    assert (probe.predict(features) == labels).all()


def test_the_same_seed_gives_the_same_bits() -> None:
    features, labels = blobs(200, seed=5)
    one, two = fitted(features, labels), fitted(features, labels)
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.bias, two.bias)
    other = linear_probe(features, labels, classes=CLASSES, validation_share=0.2, seed=1)
    assert other.validation_accuracies != one.validation_accuracies


def test_one_image_a_class_is_fitted_with_the_strongest_l2() -> None:
    features = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, -2.0]])
    probe = fitted(features, np.arange(3))
    assert (probe.l2, probe.validation_accuracies) == (1.0, {})
    assert probe.predict(features).tolist() == [0, 1, 2]
    # With two images of one class there is one to choose l2 by.
    more = fitted(torch.cat([features, torch.tensor([[3.0, 0.0]])]), np.array([0, 1, 2, 0]))
    assert len(more.validation_accuracies) > 0
