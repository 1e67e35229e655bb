"""The order of an epoch: every image once, by (seed, epoch) alone, and of shards no more than a window at a time."""

import numpy as np
import pytest

from byolt.data.order import WINDOW, epoch_order, sharded_order

SIZES = np.array([7, 50, 0, 31, 50, 50, 1, 44, 50, 50, 12, 50, 50, 50, 9, 50, 50, 50, 50, 50, 50, 50, 50, 23, 50])


def test_the_order_of_other_sets_is_what_it_was() -> None:
    # Of the first release: another order would be another run under the same hash.
    assert epoch_order(10, seed=3, epoch=1).tolist() == [2, 4, 0, 5, 8, 1, 3, 9, 7, 6]


def test_the_order_of_shards_stays_what_it_is() -> None:
    assert sharded_order(np.array([3, 2, 4]), seed=3, epoch=1).tolist() == [8, 6, 7, 2, 4, 5, 3, 1, 0]


@pytest.mark.parametrize("window", [1, 2, 5, WINDOW, 100])
@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (2**31 - 1, 999)])
def test_every_image_comes_once_and_only_a_window_of_shards_is_in_use(window: int, seed: int, epoch: int) -> None:
    order = sharded_order(SIZES, seed, epoch, window)
    assert sorted(order.tolist()) == list(range(SIZES.sum()))
    shard = np.repeat(np.arange(len(SIZES)), SIZES)[order]
    # From a shard's first image to its last it is in use; count those at each image.
    first, last = (
        {s: int(places[end]) for s in set(shard.tolist()) for places in [np.flatnonzero(shard == s)]} for end in (0, -1)
    )
    in_use = [sum(first[s] <= place <= last[s] for s in first) for place in range(len(order))]
    assert max(in_use) <= window
    assert max(in_use) > min(window, len(first)) / 2  # And it does mix them.


def test_it_is_a_function_of_seed_and_epoch() -> None:
    orders = {(s, e): tuple(sharded_order(SIZES, s, e).tolist()) for s in (0, 1) for e in (0, 1)}
    assert len(set(orders.values())) == 4
    assert all(tuple(sharded_order(SIZES, *key).tolist()) == order for key, order in orders.items())


def test_shards_come_in_another_order_each_epoch() -> None:
    shard = np.repeat(np.arange(len(SIZES)), SIZES)
    starts = [shard[sharded_order(SIZES, 0, epoch)[0]] for epoch in range(20)]
    assert len(set(starts)) > 5


def test_few_shards_are_mixed_as_a_whole() -> None:
    # Two shards in a window of 16: place 0 or 1 + 16 u, so that of the first half 9/16 at most are of one shard.
    half = np.array([5000, 5000])
    of_first = (sharded_order(half, 0, 0)[:5000] < 5000).mean()
    assert 0.42 < of_first < 0.58
