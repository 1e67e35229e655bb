"""Functions from images to outputs, timed in turn; numpy alone.

On a machine that does other things too, one function's time says little. So the functions take turns: in every round
each runs for a slice of time, and speeds are compared within the round.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np

from byolt_export.arrays import Function, Images
from byolt_export.errors import ByoltError

ROUNDS, CALLS, WARM_UP_CALLS, WARM_UP_S = 5, 2, 3, 0.2

Clock = Callable[[], float]


def filled(images: Images, batch: int) -> Images:
    """A batch of exactly ``batch`` images, repeated from the start where there are fewer."""
    return np.ascontiguousarray(images[np.arange(batch) % len(images)])


def time_in_turn(
    runs: Mapping[str, Function],
    images: Images,
    *,
    seconds: float,
    rounds: int = ROUNDS,
    calls: int = CALLS,
    warm_up_s: float = WARM_UP_S,
    clock: Clock = time.perf_counter,
) -> tuple[dict[str, list[list[float]]], dict[str, str]]:
    """Seconds of each call on ``images``, a list a round, by name; and by name why one does not run them.

    Each is warmed up first. A round gives each a slice of ``seconds / rounds``, ``calls`` at least, in an order that
    moves on by one a round. The first call of a slice is not counted: it finds the caches as another left them, and
    the other's threads perhaps still waiting for work.
    """
    warm_up_calls = min(WARM_UP_CALLS, calls + 1)
    faults = {name: _warm_up(run, images, warm_up_s, warm_up_calls, clock) for name, run in runs.items()}
    failed = {name: fault for name, fault in faults.items() if fault}
    able = [name for name in runs if name not in failed]
    taken: dict[str, list[list[float]]] = {name: [] for name in able}
    gc.collect()
    for turn in range(rounds):
        start = turn % max(len(able), 1)
        for name in (*able[start:], *able[:start]):
            runs[name](images)
            taken[name].append(_slice(runs[name], images, seconds / rounds, calls, clock))
    return taken, failed


def _warm_up(run: Function, images: Images, seconds: float, calls: int, clock: Clock) -> str:
    """Why it does not run these images; empty when it does."""
    try:
        _slice(run, images, seconds, calls, clock)
    except ByoltError as error:
        return str(error)
    return ""


def _slice(run: Function, images: Images, seconds: float, calls: int, clock: Clock) -> list[float]:
    """Seconds of each call, for that long and that many calls at least."""
    taken: list[float] = []
    while len(taken) < calls or sum(taken) < seconds:
        started_s = clock()
        run(images)
        taken.append(clock() - started_s)
    return taken


def relative_speeds(taken: list[list[float]], baseline: list[list[float]]) -> list[float]:
    """The baseline's median latency over a candidate's, one ratio a round: a call that was held up moves no median."""
    return [median(b) / median(a) for a, b in zip(taken, baseline, strict=True)]


def percentile(latencies: Sequence[float], share: float) -> float:
    """The least latency seen that ``share`` % of the calls did not exceed: of few calls, p99 is the slowest."""
    return float(np.percentile(latencies, share, method="inverted_cdf"))
