import math

import pytest
import torch

from byolt.evaluation.collapse import THRESHOLDS, CollapseMonitor, alignment, rankme, uniformity, z_std_ratio

GOOD, LOW, POINT = (0.8, 40.0), (0.8, 5.0), (0.01, 1.0)


def after(monitor: CollapseMonitor, *readings: tuple[float, float], start: int = 1) -> list[str]:
    """States after each (spread, RankMe) of 2,048 images and 256 features, one an epoch."""
    return [monitor.update(epoch, *reading, 2048, 256).state for epoch, reading in enumerate(readings, start)]


def test_spread_by_hand() -> None:
    # Unit vectors (1, 0), (0, 1), (-1, 0), (0, -1): each dimension holds 1, 0, -1, 0, of variance 1/2.
    # Mean standard deviation 1 / sqrt 2, times sqrt 2: 1. Lengths do not matter.
    z = torch.tensor([[3.0, 0.0], [0.0, 0.1], [-1.0, 0.0], [0.0, -7.0]])
    assert z_std_ratio(z) == pytest.approx(1.0)
    # (1, 0), (0.6, 0.8): deviations 0.2 and 0.4, mean 0.3, times sqrt 2.
    assert z_std_ratio(torch.tensor([[1.0, 0.0], [3.0, 4.0]])) == pytest.approx(0.3 * math.sqrt(2), abs=1e-6)


def test_spread_of_isotropic_projections_is_1_and_of_a_point_0() -> None:
    z = torch.randn(4096, 128, generator=torch.Generator().manual_seed(0))
    assert z_std_ratio(z) == pytest.approx(1.0, abs=0.01)
    assert z_std_ratio(torch.ones(64, 128)) == pytest.approx(0.0, abs=1e-9)
    # A common mean of length m beside unit noise: 1 / sqrt(1 + m^2) to first order; here m = 3.
    mean = torch.full((128,), 3.0)
    assert z_std_ratio(z + mean) == pytest.approx(1 / math.sqrt(10), abs=0.01)


@pytest.mark.parametrize("rank", [1, 5, 32])
def test_rankme_of_equal_singular_values_is_their_number(rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(256, rank, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(32, rank, generator=generator))[0]
    # The paper's 1e-7 adds at most 32 * 1e-7 * 16 = 5e-5 to the entropy.
    assert rankme(100 * left @ right.T) == pytest.approx(rank, rel=2e-4)


def test_rankme_of_unequal_values_by_hand_and_not_centred() -> None:
    # Singular values 3 and 1: p = 3/4, 1/4; exp(-(3/4 ln 3/4 + 1/4 ln 1/4)) = exp(0.562335) = 1.754765
    assert rankme(torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])) == pytest.approx(1.754765, abs=1e-4)
    # Centring would leave nothing of a constant; the paper's measure finds one direction.
    assert rankme(torch.full((100, 16), 2.0)) == pytest.approx(1.0, abs=1e-3)
    assert rankme(torch.zeros(100, 16)) == pytest.approx(1.0, abs=1e-3)


def test_alignment_and_uniformity_by_hand() -> None:
    # Unit pairs (1, 0)-(0, 1): squared distance 2; (0, 1)-(0, 1): 0. Mean 1.
    z_1, z_2 = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 3.0], [0.0, 5.0]])
    assert alignment(z_1, z_2) == pytest.approx(1.0)
    # Three points: squared distances 2, 4, 2; log((2 exp(-4) + exp(-8)) / 3) = log(0.012322217) = -4.396349
    assert uniformity(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])) == pytest.approx(-4.396349, abs=1e-5)
    assert uniformity(torch.ones(5, 4)) == pytest.approx(0.0)


def test_there_is_no_verdict_during_warm_up_and_its_readings_do_not_count() -> None:
    assert after(CollapseMonitor(2), GOOD, POINT, POINT, POINT, POINT) == ["none"] * 3 + ["dimensional", "complete"]
    assert after(CollapseMonitor(2), POINT, POINT, GOOD) == ["none", "none", "healthy"]
    assert after(CollapseMonitor(2.5), GOOD, GOOD, GOOD) == ["none", "none", "healthy"]


def test_complete_needs_three_readings_in_a_row() -> None:
    monitor = CollapseMonitor(0)
    assert after(monitor, GOOD, POINT, POINT, GOOD) == ["healthy", "healthy", "dimensional", "healthy"]
    assert after(monitor, POINT, POINT, POINT) == ["healthy", "dimensional", "complete"]
    assert after(monitor, LOW, GOOD) == ["dimensional", "healthy"]


def test_dimensional_needs_two_readings_in_a_row() -> None:
    assert (
        after(CollapseMonitor(0), LOW, GOOD, LOW, LOW, LOW, LOW) == ["none", "healthy", "healthy"] + ["dimensional"] * 3
    )


@pytest.mark.parametrize(
    ("reading", "state"),
    [
        ((0.25, 12.8), "healthy"),  # 5 % of min(2048, 256) = 12.8.
        ((0.249, 12.8), "dimensional"),
        ((0.25, 12.79), "dimensional"),
        ((0.1, 2.0), "dimensional"),
        ((0.099, 1.99), "complete"),
        ((0.1, 1.99), "dimensional"),
        ((0.099, 2.0), "dimensional"),
        ((math.nan, math.nan), "complete"),
        # A rank of 1 from stale BatchNorm statistics, beside projections that spread: learning goes on.
        ((0.68, 1.0), "dimensional"),
    ],
)
def test_thresholds(reading: tuple[float, float], state: str) -> None:
    assert after(CollapseMonitor(0), reading, reading, reading)[-1] == state


@pytest.mark.parametrize(
    ("spread", "rankme", "projection_rank", "state"),
    [
        (0.014, 39.0, 1.01, "complete"),  # Without predictor, where BatchNorm keeps the encoder's rank.
        (0.014, 39.0, 2.0, "dimensional"),
        (0.014, 1.9, 2.0, "complete"),
        (0.68, 1.0, 13.6, "dimensional"),
        (0.9, 40.0, 1.0, "healthy"),  # A teacher's logits of two classes spread along one direction.
    ],
)
def test_complete_needs_spread_and_a_rank_to_agree(
    spread: float, rankme: float, projection_rank: float, state: str
) -> None:
    monitor = CollapseMonitor(0)
    states = [monitor.update(epoch, spread, rankme, 2048, 256, projection_rank).state for epoch in (1, 2, 3)]
    assert states[-1] == state
    assert CollapseMonitor(9).judge_last(spread, rankme, 2048, 256, projection_rank).state == state


def test_the_last_reading_is_judged_at_the_end_within_warm_up_too() -> None:
    monitor = CollapseMonitor(10)
    assert after(monitor, GOOD, GOOD) == ["none", "none"]
    assert monitor.judge_last(*GOOD, 2048, 256).state == "healthy"
    assert monitor.judge_last(*LOW, 2048, 256).state == "dimensional"
    assert monitor.judge_last(*POINT, 2048, 256).state == "complete"


def test_rank_is_judged_by_the_smaller_of_images_and_features() -> None:
    verdicts = [CollapseMonitor(0) for _ in range(2)]
    for epoch in (1, 2):
        few = verdicts[0].update(epoch, 0.8, 6.0, 64, 512)  # 5 % of 64 = 3.2.
        many = verdicts[1].update(epoch, 0.8, 6.0, 2048, 512)  # 5 % of 512 = 25.6.
    assert (few.state, many.state) == ("healthy", "dimensional")


def test_advice_names_keys_of_the_recipe_and_is_empty_when_healthy() -> None:
    from byolt.recipe.method_settings import METHODS
    from byolt.recipe.schema import Recipe

    monitor = CollapseMonitor(0)
    assert monitor.update(1, *GOOD, 2048, 256).advice == ""
    for limit in THRESHOLDS:
        named = [word.strip("`,:;") for word in limit.advice.split() if "." in word]
        assert named
        for section, key in (name.split(".") for name in named):
            of_section = METHODS["byol"] if section == "method" else Recipe.model_fields[section].annotation
            assert key in of_section.model_fields
    advice = [monitor.update(2, *POINT, 2048, 256).advice for _ in range(3)]
    assert advice == ["", THRESHOLDS[0].advice, THRESHOLDS[1].advice]


def test_a_restored_monitor_goes_on_as_the_uninterrupted_one() -> None:
    readings = [GOOD, POINT, POINT, POINT, LOW, GOOD]
    whole = after(CollapseMonitor(0), *readings)
    for cut in range(len(readings)):
        first, second = CollapseMonitor(0), CollapseMonitor(0)
        head = after(first, *readings[:cut])
        second.restore(first.state())
        assert head + after(second, *readings[cut:], start=cut + 1) == whole
