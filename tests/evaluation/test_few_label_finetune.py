"""Fine-tuning with few labels: it looks at the drawn images alone, and each choice of the grid does what it says."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.conftest import tiny_recipe
from tests.evaluation.arrays import ArrayImages, coloured_images
from torch import nn

from byolt.evaluation.features import LabelledImages
from byolt.evaluation.few_label_finetune import BRIGHTNESS, GRID, FewLabelTrainer, Setting, _batches, relit
from byolt_export.errors import Stopped


def encoder() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        return nn.Sequential(*layers).eval()


def trainer(images: ArrayImages, labels: np.ndarray) -> FewLabelTrainer:
    return FewLabelTrainer(encoder(), LabelledImages(images, labels, 2), tiny_recipe())


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = (Setting(0.01, True, 3), Setting(0.01, False, 3))
    monkeypatch.setattr("byolt.evaluation.few_label_finetune.GRID", grid)


def test_the_grid_has_at_most_six_settings_that_are_read_from_their_text() -> None:
    assert len(GRID) == len({str(setting) for setting in GRID}) <= 6
    assert str(GRID[0]) == "rate=0.0001 norms=frozen steps=40"


def test_long_features_do_not_throw_an_encoder_away() -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = encoder()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 1000 * self.inner(images)

    images, labels = coloured_images(40, 2, 16, seed=0)
    ours = FewLabelTrainer(Long().eval(), LabelledImages(images, labels, 2), tiny_recipe())
    for setting in GRID:
        logits = ours.logits(ours.trained(np.arange(20), setting, 0.1, seed=0), images)
        assert (logits.argmax(1).numpy() == labels).mean() > 0.9


@pytest.mark.usefixtures("short")
def test_no_image_and_no_label_outside_of_the_draws_touches_the_choice_or_the_weights() -> None:
    images, labels = coloured_images(60, 2, 16, seed=0)
    draws = [np.arange(0, 8), np.arange(12, 20)]
    ours = trainer(images, labels)
    choice = ours.chosen(draws, 0.1, "auc")
    weights = ours.trained(draws[0], GRID[0]._replace(steps=3), 0.1, seed=5).state_dict()
    assert set(images.fetched) == {*range(8), *range(12, 20)}
    planted, altered = labels.copy(), images.images.copy()
    others = np.setdiff1d(np.arange(60), np.concatenate(draws))
    planted[others] = 1 - planted[others]
    altered[others] = 255 * planted[others, None, None, None]  # Their brightness says their class.
    other = trainer(ArrayImages(altered), planted)
    assert other.chosen(draws, 0.1, "auc") == choice
    again = other.trained(draws[0], GRID[0]._replace(steps=3), 0.1, seed=5).state_dict()
    assert all(weights[name].equal(value) for name, value in again.items())
    planted[0] = 1 - planted[0]
    told = other.trained(draws[0], GRID[0]._replace(steps=3), 0.1, seed=5).state_dict()
    assert not weights["head.weight"].equal(told["head.weight"])


def test_frozen_norms_keep_the_encoders_statistics_and_learned_ones_are_of_the_few_images() -> None:
    images, labels = coloured_images(40, 2, 16, seed=0)
    ours, drawn = trainer(images, labels), np.arange(10)
    frozen, learned = (ours.trained(drawn, Setting(0.01, norms, 4), 0.1, seed=0) for norms in (True, False))
    assert frozen.encoder[1].running_mean.equal(torch.zeros(8))  # As the encoder has them.
    with torch.no_grad():
        mean, std = (torch.tensor(value)[:, None, None] for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        batch = (torch.from_numpy(images.images[drawn]).permute(0, 3, 1, 2) / 255 - mean) / std
        torch.testing.assert_close(learned.encoder[1].running_mean, learned.encoder[0](batch).mean((0, 2, 3)))
    assert not frozen.encoder[0].weight.equal(ours.encoder[0].weight)  # All weights are trained.


def test_a_rate_that_is_too_high_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = (Setting(1e30, True, 3), Setting(0.001, True, 3))
    monkeypatch.setattr("byolt.evaluation.few_label_finetune.GRID", grid)
    images, labels = coloured_images(40, 2, 16, seed=0)
    assert trainer(images, labels).chosen([np.arange(20)], 0.1, "accuracy").number == 1


def test_it_goes_on_from_the_probe_and_learns() -> None:
    images, labels = coloured_images(120, 2, 16, seed=0)
    ours, drawn, tested = trainer(images, labels), np.arange(20), np.arange(20, 120)

    def loss(setting: Setting) -> float:
        logits = ours.logits(ours.trained(drawn, setting, 10.0, seed=0), ours.train.subset(tested).images)
        return float(F.cross_entropy(logits, torch.from_numpy(labels[tested])))

    # A probe with so much decay hardly decides; 40 steps do.
    assert loss(Setting(0.03, True, 40)) < 0.7 * loss(Setting(0.0, True, 1))


def test_each_image_comes_once_before_one_comes_again() -> None:
    batches = list(_batches(20, 5, np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == [16] * 5  # 80 = 4 times 20.
    assert set(Counter(np.concatenate(batches)).values()) == {4}
    assert sorted(np.concatenate(batches)[:20]) == list(range(20))
    assert [len(batch) for batch in _batches(6, 2, np.random.default_rng(0))] == [6, 6]


def test_another_light_fakes_no_colour() -> None:
    grey = torch.rand(6, 1, 8, 8).expand(6, 3, 8, 8)
    lit = relit(grey, np.random.default_rng(0))
    assert lit[:, 0].equal(lit[:, 2])
    shift = (lit - grey).mean((1, 2, 3))
    assert 0 < float(shift.abs().max()) <= BRIGHTNESS
    gain = lit.std((1, 2, 3)) / grey.std((1, 2, 3))
    assert float((gain - 1).abs().max()) <= BRIGHTNESS
    assert len(set(gain.tolist())) == 6


def test_a_signal_ends_a_training_before_its_next_step() -> None:
    images, labels = coloured_images(20, 2, 16, seed=0)

    def stop() -> None:
        raise Stopped("stopped by SIGINT", 2)

    with pytest.raises(Stopped):
        FewLabelTrainer(encoder(), LabelledImages(images, labels, 2), tiny_recipe(), stop).trained(
            np.arange(10), GRID[0], 0.1, seed=0
        )
