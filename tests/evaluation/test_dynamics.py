"""Spectrum, predictor alignment and target distance against values worked out by hand."""

import math

import pytest
import torch
from tests.methods.small import parts

from byolt.evaluation.dynamics import dynamics, effective_rank, predictor_alignment, spectrum, target_distance
from byolt.methods.base import Outcome
from byolt.methods.byol import Byol


def test_spectrum_of_four_points_by_hand() -> None:
    # Centred: (+-2, 0) and (0, +-1); variances 2 and 0.5. Mean (1, 0), so the mean squared norm is 2.5 + 1 = 3.5.
    z = torch.tensor([[3.0, 0.0], [-1.0, 0.0], [1.0, 1.0], [1.0, -1.0]])
    torch.testing.assert_close(spectrum(z), torch.tensor([2 / 3.5, 0.5 / 3.5], dtype=torch.float64))
    torch.testing.assert_close(spectrum(10 * z), spectrum(z))


def test_spectrum_of_one_point_is_nothing() -> None:
    # Rounding of the mean leaves far less than float32's own precision.
    assert spectrum(torch.tensor([[1.0, 2.0]]).repeat(5, 1)).abs().max() < 1e-12
    assert effective_rank(torch.zeros(3, dtype=torch.float64)) == 0


def test_effective_rank_by_hand() -> None:
    assert effective_rank(torch.tensor([1.0, 1.0, 0.0])) == pytest.approx(2)
    # Shares 3/4 and 1/4: exp(-(3/4 ln 3/4 + 1/4 ln 1/4)).
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(torch.tensor([0.6, 0.2])) == pytest.approx(expected)


def test_alignment_of_linear_predictors() -> None:
    # Axis-aligned projections with variances 4 and 1.
    z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([2.0, 1.0])
    keeps = torch.tensor([[5.0, 0.0], [0.0, 0.1]])  # Both axes stay, whatever their gains.
    turns = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])  # A quarter turn.
    mirrors = torch.tensor([[1.0, 0.0], [0.0, -1.0]])  # The axis of variance 1 is turned round: (4 - 1) / 5.
    assert predictor_alignment(z, z @ keeps.T) == pytest.approx(1, abs=0.02)
    assert predictor_alignment(z, z @ turns.T) == pytest.approx(0, abs=0.02)
    assert predictor_alignment(z, z @ mirrors.T) == pytest.approx(0.6, abs=0.03)
    assert predictor_alignment(z + 100, z @ keeps.T - 7) == pytest.approx(1, abs=0.02)


def test_distance_of_the_target() -> None:
    encoder, projector = parts()
    net = Byol(encoder, projector, None)
    assert target_distance(net) == 0
    assert net.target is not None
    with torch.no_grad():
        for weight in (*net.encoder.parameters(), *net.projector.parameters()):
            weight.fill_(4.0)
        for weight in net.target.parameters():
            weight.fill_(3.0)
    assert target_distance(net) == pytest.approx(0.25)


def test_a_figure_without_its_part_is_absent() -> None:
    z = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    encoder, projector, predictor = parts(predictor=True)
    whole = dynamics(Outcome(torch.zeros(()), (z, z), z), Byol(encoder, projector, predictor))
    assert set(whole) == {"projection_rank", "predictor_alignment", "target_distance"}
    assert whole["predictor_alignment"] == pytest.approx(1)
    bare = dynamics(Outcome(torch.zeros(()), (z, z)), Byol(encoder, projector, None, target="copy"))
    assert set(bare) == {"projection_rank"}
