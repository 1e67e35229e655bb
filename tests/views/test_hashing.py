"""The hash that every view is drawn from: its values, and that its keys do not show in them."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from byolt.views.hashing import _mix, seed_of, uniform

IMAGES = 5000
GOLDEN = [[12378218, 11806854, 16495643], [10968303, 6125481, 5619463]]
GOLDEN_SEED = 2744219892


def reference(seed: int, epoch: int, index: int, view: int, slot: int) -> int:
    """The hash again, step by step on Python's integers."""

    def finalise(word: int) -> int:
        word = (word + 2654435769) % 2**32
        word = (word ^ word // 2**16) * 2246822507 % 2**32
        word = (word ^ word // 2**13) * 3266489909 % 2**32
        return word ^ word // 2**16

    first, second = 0, 1540483477
    for key in (seed, epoch, index, view):
        first, second = finalise(first + key), finalise((second ^ key) + first)
    return finalise(finalise(first + slot * 2654435769) ^ second)


@pytest.mark.parametrize(("word", "digest"), [(0, 0), (1, 0x514E28B7), (0xFFFFFFFF, 0x81F16F39)])
def test_mixing_is_murmurs_finaliser_of_the_shifted_word(word: int, digest: int) -> None:
    """MurmurHash3 of the empty string with seed 0, 1 and 2^32 - 1 is its finaliser alone: published values."""
    shifted = (word - 0x9E3779B9) % 2**32
    assert _mix(shifted) == digest
    assert _mix(torch.tensor(shifted)).item() == digest


def test_numbers_are_those_of_the_integer_reference() -> None:
    keys = list(itertools.product((0, 7, 2**31 - 1), (0, 999), (0, 1, 1_281_166, 2**31), (1, 2)))
    for seed, epoch, index, view in keys:
        numbers = uniform(seed, epoch, torch.tensor([index]), view, 36)[0].double()
        expected = [reference(seed, epoch, index, view, slot) // 2**8 / 2**24 for slot in range(36)]
        assert numbers.tolist() == expected


def test_golden_values() -> None:
    """Any change of these changes every run: 24 bits of ``reference`` at seed 0, epoch 0, images 0 and 1, view 1."""
    bits = (uniform(0, 0, torch.tensor([0, 1]), 1, 3).double() * 2**24).long()
    assert bits.tolist() == GOLDEN
    assert seed_of(0, 0, 0, 1) == GOLDEN_SEED


def test_epoch_may_be_a_tensor_and_the_batch_may_be_shuffled() -> None:
    index, shuffled = torch.arange(64), torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(uniform(3, torch.tensor(5), index, 1, 4), uniform(3, 5, index, 1, 4))
    assert torch.equal(uniform(3, 5, shuffled, 1, 4), uniform(3, 5, index, 1, 4)[shuffled])


NEIGHBOURS = {
    "slot": lambda n: uniform(0, 0, torch.arange(n), 1, 2).unbind(1),
    "image": lambda n: (uniform(0, 0, torch.arange(n), 1, 1)[:, 0], uniform(0, 0, torch.arange(n) + 1, 1, 1)[:, 0]),
    "view": lambda n: tuple(uniform(0, 0, torch.arange(n), view, 1)[:, 0] for view in (1, 2)),
    "epoch": lambda n: tuple(uniform(0, epoch, torch.arange(n), 1, 1)[:, 0] for epoch in (0, 1)),
    "seed": lambda n: tuple(uniform(seed, 0, torch.arange(n), 1, 1)[:, 0] for seed in (0, 1)),
    "epoch for one image": lambda n: _series(lambda k: uniform(0, k, torch.tensor([7]), 1, 1), n),
    "seed for one image": lambda n: _series(lambda k: uniform(k, 0, torch.tensor([7]), 1, 1), n),
}


def _series(draw, n: int):  # type: ignore[no-untyped-def]
    numbers = torch.cat([draw(k)[:, 0] for k in range(n // 5 + 1)])
    return numbers[:-1], numbers[1:]


@pytest.mark.parametrize("key", NEIGHBOURS)
def test_neighbouring_keys_give_independent_uniform_numbers(key: str) -> None:
    """Uniform by Kolmogorov-Smirnov, and jointly uniform with the neighbour's on an 8 x 8 grid (chi-squared)."""
    here, there = (side.numpy() for side in NEIGHBOURS[key](IMAGES))
    assert stats.kstest(here, "uniform").pvalue > 1e-3
    counts = np.histogram2d(here, there, bins=8, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3
    assert abs(np.corrcoef(here, there)[0, 1]) < 4 / np.sqrt(len(here))


def test_seeds_of_neighbouring_keys_seldom_meet() -> None:
    """40,000 seeds of 32 bits: 40,000^2 / 2 / 2^32 = 0.19 pairs are expected to be equal; 3 or more are 1 in 1,000."""
    keys = itertools.product((0, 1), (0, 1), range(5000), (1, 2))
    seeds = [seed_of(*key) for key in keys]
    assert len(seeds) - len(set(seeds)) < 3
