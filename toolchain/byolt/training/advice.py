"""What to change where a step's time goes: one sentence a finding, each with the key to set.

The shares are of the time of a step by phase (``byolt pretrain --profile``): data is waiting for images, host the
rest, in which no phase ran and on a GPU no kernel did. Each rule states its threshold and why it lies there.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from byolt.recipe.schema import Recipe

NOTHING = "nothing to change: no phase takes more than its part, and no setting is in the way"

DATA = 0.10  # A tenth is what a better order of the other work could not win back.
VIEWS = 0.25  # A small encoder's own forward takes about that; above it the views are the dearer half of the input.
HOST = 0.20  # A GPU that idles a fifth of a step waits for Python to launch its kernels.
UPDATES = 0.25  # Optimizer and target cost the same at any batch: above a quarter, the batch is small for the weights.
COARSE = 1.5  # Squares this much wider than the views are cut down without a gain in detail.
WIDE_PX = 64  # From about this size on albumentations makes a view on a CPU in less time than the batched backend.
PER_WORKER = 0.05  # One worker to propose for each twentieth of a step spent waiting, at most the free cores.


class Facts(NamedTuple):
    """What the rules look at besides the shares and the recipe."""

    device: str
    """``cpu`` or ``cuda``."""
    cores: int
    """Cores that this process may run on."""
    threads: int
    """Threads of torch on the CPU."""
    has_bf16: bool = False
    """Whether there is a GPU that computes in bf16."""
    streamed_gb: float = 0.0
    """Decoded size of a set that is decoded from its files each time; 0 where it is cached."""
    largest_batch: int | None = None
    """The largest batch that the memory holds, where it is known."""


def advice(shares: Mapping[str, float], recipe: Recipe, facts: Facts) -> list[str]:
    """What would shorten a step, by the share it is about, or one sentence that nothing would.

    Args:
        shares: Share of a step's time of ``data``, ``views``, ``forward``, ``backward``, ``optimizer``, ``target`` and
            ``host``; empty where no step was profiled, and then nothing is said.
        recipe: What was run.
        facts: Where it was run.
    """
    if not shares:
        return []
    updates = shares["optimizer"] + shares["target"]
    found = [
        (1.0, _threads(recipe, facts)),
        (shares["data"], _data(shares["data"], recipe, facts)),
        (shares["views"], _views(shares["views"], recipe, facts)),
        (shares["host"], _host(shares["host"], recipe, facts)),
        (updates, _updates(updates, recipe, facts)),
        (shares["forward"] + shares["backward"], _arithmetic(recipe, facts)),
    ]
    said = [sentence for _, sentence in sorted(found, key=lambda pair: -pair[0]) if sentence]
    return said or [NOTHING]


def _threads(recipe: Recipe, facts: Facts) -> str | None:
    """More threads than cores take turns; fewer leave cores idle, where no worker uses them."""
    if facts.threads > facts.cores:
        return (
            f"{facts.threads} threads share {facts.cores} cores and wait for one another: machine.threads={facts.cores}"
        )
    if facts.device == "cpu" and facts.threads + recipe.machine.workers < facts.cores:
        idle = facts.cores - facts.threads - recipe.machine.workers
        return f"{idle} of {facts.cores} cores idle: machine.threads={facts.threads + idle}"
    return None


def _data(share: float, recipe: Recipe, facts: Facts) -> str | None:
    """Waiting for images: decode them once, or read them in workers."""
    if share <= DATA:
        return None
    ways = []
    if facts.streamed_gb:
        ways.append(f"decode the set once with data.cache_budget_gb={math.ceil(facts.streamed_gb)}")
    free = facts.cores - recipe.machine.workers - (facts.threads if facts.device == "cpu" else 1)
    if free > 0:
        workers = recipe.machine.workers + min(free, round(share / PER_WORKER))
        ways.append(f"read in processes of their own with machine.workers={workers}")
    elif facts.device == "cpu" and facts.threads > 1:
        ways.append(f"give a core to reading with machine.threads={facts.threads - 1} machine.workers=1")
    if recipe.data.learn_size_px > COARSE * recipe.view_size_px:
        ways.append(f"decode to smaller squares with data.store_size_px={_enough_px(recipe)} (another result)")
    return f"waiting for images takes {share:.0%} of a step: {', or '.join(ways)}" if ways else None


def _views(share: float, recipe: Recipe, facts: Facts) -> str | None:
    """The batched backend's views; those of albumentations are made in workers and count as data."""
    if share <= VIEWS:
        return None
    told = f"making views takes {share:.0%} of a step"
    if recipe.data.learn_size_px > COARSE * recipe.view_size_px:
        return f"{told}: cut them from smaller squares with data.store_size_px={_enough_px(recipe)} (another result)"
    if facts.device == "cuda":
        return f"{told}: more images a launch with a larger optim.batch_size{_up_to(recipe, facts)} (another result)"
    if recipe.views.backend == "batched" and recipe.view_size_px >= WIDE_PX:
        return f"{told}: at {recipe.view_size_px} px views.backend=albumentations is quicker on a CPU (another result)"
    return None


def _host(share: float, recipe: Recipe, facts: Facts) -> str | None:
    """Python between the kernels."""
    if share <= HOST:
        return None
    ways = [] if recipe.machine.compile or facts.device == "cpu" else ["launch fewer kernels with machine.compile=true"]
    ways.append(f"give each launch more images with a larger optim.batch_size{_up_to(recipe, facts)} (another result)")
    idle = "the GPU idles" if facts.device == "cuda" else "no phase runs in"
    return f"{idle} {share:.0%} of a step: {', or '.join(ways)}"


def _updates(share: float, recipe: Recipe, facts: Facts) -> str | None:
    """What is done once a step, however many images it has."""
    if share <= UPDATES:
        return None
    larger = f"a larger optim.batch_size{_up_to(recipe, facts)} takes fewer of them (another result)"
    return f"optimizer and target take {share:.0%} of a step, at any batch: {larger}"


def _arithmetic(recipe: Recipe, facts: Facts) -> str | None:
    """Settings that are known to slow down forward and backward."""
    keys = []
    if facts.device == "cuda" and facts.has_bf16 and recipe.machine.precision == "fp32":
        keys.append("machine.precision=auto (bf16)")
    if not recipe.machine.channels_last:
        keys.append("machine.channels_last=true")
    return f"forward and backward are quicker with {' and '.join(keys)}" if keys else None


def _enough_px(recipe: Recipe) -> int:
    """The smallest squares that still hold a view and the image of the evaluation."""
    return max(recipe.view_size_px, recipe.data.image_size_px)


def _up_to(recipe: Recipe, facts: Facts) -> str:
    if facts.largest_batch is None or facts.largest_batch <= recipe.optim.batch_size:
        return ""
    return f", up to {facts.largest_batch}"
