import numpy as np
import pytest
import torch

from byolt.evaluation import knn
from byolt.evaluation.knn import knn_predict
from byolt_export.errors import InputError


def reference_predict(
    gallery: np.ndarray, labels: np.ndarray, queries: np.ndarray, classes: int, k: int, temperature: float
) -> np.ndarray:
    """Float64, one query at a time."""
    gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    predicted = []
    for query in queries.astype(np.float64):
        cosines = gallery @ (query / np.linalg.norm(query))
        nearest = np.argsort(-cosines, kind="stable")[:k]
        votes = [np.exp(cosines[nearest][labels[nearest] == c] / temperature).sum() for c in range(classes)]
        predicted.append(int(np.argmax(votes)))
    return np.array(predicted)


@pytest.mark.parametrize(("temperature", "winner"), [(0.28, 0), (0.30, 1)])
def test_votes_weigh_exp_of_cosine_over_temperature(temperature: float, winner: int) -> None:
    # Cosines with the query: 0.8 for class 0, 0.6 twice for class 1, -1 for class 2. The lengths must not matter.
    # exp(0.8 / T) = 2 exp(0.6 / T) at T = 0.2 / ln 2 = 0.2885: below it the nearest wins, above it the pair.
    gallery = torch.tensor([[8.0, 6.0], [0.6, 0.8], [60.0, -80.0], [-1.0, 0.0]])
    predicted = knn_predict(
        gallery, np.array([0, 1, 1, 2]), torch.tensor([[5.0, 0.0]]), classes=3, k=3, temperature=temperature
    )
    assert predicted.tolist() == [winner]


@pytest.mark.parametrize("chunk_elements", [1, 2_000, 25_000_000])
def test_predictions_equal_a_float64_search(monkeypatch: pytest.MonkeyPatch, chunk_elements: int) -> None:
    monkeypatch.setattr(knn, "CHUNK_ELEMENTS", chunk_elements)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 300)
    gallery = rng.normal(size=(300, 16)) + 0.4 * np.eye(16)[labels]
    queries = rng.normal(size=(100, 16)) + 0.4 * np.eye(16)[rng.integers(0, 5, 100)]
    predicted = knn_predict(
        torch.from_numpy(gallery).float(), labels, torch.from_numpy(queries).float(), classes=5, k=20, temperature=0.1
    )
    np.testing.assert_array_equal(predicted, reference_predict(gallery, labels, queries, 5, 20, 0.1))


@pytest.mark.parametrize(("k", "winner"), [(1, 2), (2, 1), (3, 1), (5, 0)])
def test_equal_cosines_go_to_the_lower_index_and_equal_votes_to_the_lower_class(k: int, winner: int) -> None:
    # All five are equally near: k = 2 votes 2, 1 (a tie, so 1); k = 3 votes 2, 1, 1; k = 5 votes 2, 1, 1, 0, 0.
    gallery = torch.ones(5, 4)
    predicted = knn_predict(gallery, np.array([2, 1, 1, 0, 0]), torch.ones(2, 4), classes=3, k=k, temperature=0.07)
    assert predicted.tolist() == [winner, winner]


def test_a_tie_for_the_last_place_keeps_the_nearer_ones() -> None:
    # Cosines 0.6, 0.6, 1, 0.6: k = 2 is the third and the first, and the third outweighs the first.
    gallery = torch.tensor([[0.6, 0.8], [0.6, -0.8], [1.0, 0.0], [0.6, 0.8]])
    query = torch.tensor([[1.0, 0.0]])
    values, columns = knn._nearest(query @ gallery.T, 2)
    assert sorted(columns[0].tolist()) == [0, 2]
    assert sorted(values[0].tolist()) == pytest.approx([0.6, 1.0])
    assert knn_predict(gallery, np.array([0, 0, 1, 0]), query, classes=2, k=2, temperature=1.0).tolist() == [1]


def test_a_tiny_temperature_leaves_it_to_the_nearest() -> None:
    rng = np.random.default_rng(1)
    gallery, queries = rng.normal(size=(50, 3)), rng.normal(size=(20, 3))
    labels = np.arange(50)
    predicted = knn_predict(
        torch.from_numpy(gallery).float(), labels, torch.from_numpy(queries).float(), classes=50, k=50, temperature=1e-5
    )
    np.testing.assert_array_equal(predicted, reference_predict(gallery, labels, queries, 50, 1, 1.0))


def test_more_neighbours_than_images_are_refused() -> None:
    with pytest.raises(InputError, match="kNN: k 4 exceeds the gallery of 3 images; take a smaller k"):
        knn_predict(torch.ones(3, 2), np.zeros(3, np.int64), torch.ones(1, 2), classes=1, k=4, temperature=1.0)
