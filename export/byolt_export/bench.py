"""How fast, with how right beside it: functions from images to outputs, timed side by side; numpy alone.

On a machine that does other things too, one function's time says little. So the functions take turns: in every round
each runs for a slice of time, and speeds are compared within the round.
"""

import gc
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from byolt_export.errors import ByoltError
from byolt_export.measures import Images
from byolt_export.parity import Run

ROUNDS, WARM_UP_CALLS, WARM_UP_S = 5, 3, 0.2
MEMORY_IS = "peak resident memory of a fresh process that opens it and runs the batch; memory of a GPU is not counted"

Clock = Callable[[], float]


@dataclass(frozen=True)
class Accuracy:
    """How close a candidate's outputs are to PyTorch's, and over how many images that was found."""

    images: int
    agreement: float
    """Neighbour overlap@1 of embeddings, top-1 agreement of logits."""
    relative_l2_mean: float
    knn_difference: float | None = None
    """kNN accuracy less PyTorch's, where there are labels."""
    knn_interval_95: tuple[float, float] | None = None


@dataclass(frozen=True)
class Candidate:
    """Something that computes the outputs; ``open`` is called in this process, and in another to weigh its memory."""

    name: str
    precision: str
    open: Callable[[], Run]
    file_bytes: int | None = None
    accuracy: Accuracy | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Row:
    """A candidate at one batch size; without ``calls``, ``reason`` says why it did not run."""

    name: str
    precision: str
    batch: int
    reason: str = ""
    calls: int = 0
    latency_ms_p50: float | None = None
    latency_ms_p90: float | None = None
    latency_ms_p99: float | None = None
    images_per_s: float | None = None
    relative_speed: float | None = None
    """Of the baseline's median latency over this one's in the same round, the median of the rounds."""
    relative_speed_range: tuple[float, float] | None = None
    memory_mib: float | None = None
    file_mib: float | None = None
    accuracy: Accuracy | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers."""
        return asdict(self)


def bench(
    candidates: Sequence[Candidate],
    images: Images,
    batches: Sequence[int],
    *,
    baseline: str,
    seconds: float,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Row, ...]:
    """Time every candidate at every batch size.

    Args:
        candidates: What to time; one that cannot be opened or run becomes a row with the reason.
        images: uint8 (N, H, W, 3), repeated to fill a batch.
        batches: Batch sizes.
        baseline: Name of the candidate that the others' speed is compared with.
        seconds: Timed seconds a candidate and batch size, spread over the rounds; warm-up comes on top.
        say: Takes one line on what is being done.
    """
    memory, runs, refused = {}, {}, {}
    for candidate in candidates:
        say(f"{candidate.name}: opening, and weighing it in a process of its own")
        try:
            runs[candidate.name] = candidate.open()
        except ByoltError as error:
            refused[candidate.name] = str(error)
            continue
        memory[candidate.name] = peak_memory_mib(candidate.open, images, batches)
    rows = []
    for index, batch in enumerate(batches):
        say(f"batch {batch}: {len(runs)} candidates in turn")
        taken, failed = time_in_turn(runs, filled(images, batch), seconds=seconds)
        for candidate in candidates:
            name = candidate.name
            if name not in taken:
                reason = refused.get(name) or failed[name]
                rows.append(Row(name, candidate.precision, batch, reason, accuracy=candidate.accuracy))
            else:
                figures = _figures(taken[name], taken.get(baseline), batch)
                rows.append(_row(candidate, batch, figures, memory[name][index]))
    return tuple(rows)


def _row(candidate: Candidate, batch: int, figures: dict[str, Any], memory_mib: float | None) -> Row:
    return Row(
        candidate.name,
        candidate.precision,
        batch,
        memory_mib=memory_mib,
        file_mib=None if candidate.file_bytes is None else candidate.file_bytes / 2**20,
        accuracy=candidate.accuracy,
        **figures,
    )


def filled(images: Images, batch: int) -> Images:
    """A batch of exactly ``batch`` images, repeated from the start where there are fewer."""
    return np.ascontiguousarray(images[np.arange(batch) % len(images)])


def time_in_turn(
    runs: Mapping[str, Run],
    images: Images,
    *,
    seconds: float,
    rounds: int = ROUNDS,
    warm_up_s: float = WARM_UP_S,
    clock: Clock = time.perf_counter,
) -> tuple[dict[str, list[list[float]]], dict[str, str]]:
    """Seconds of each call on ``images``, a list a round, by name; and by name why one does not run them.

    Each is warmed up first. A round gives each a slice of ``seconds / rounds``, two calls at least, in an order that
    moves on by one a round. The first call of a slice is not counted: it finds the caches as another left them, and
    the other's threads perhaps still waiting for work.
    """
    faults = {name: _warm_up(run, images, warm_up_s, clock) for name, run in runs.items()}
    failed = {name: fault for name, fault in faults.items() if fault}
    able = [name for name in runs if name not in failed]
    taken: dict[str, list[list[float]]] = {name: [] for name in able}
    gc.collect()
    for turn in range(rounds):
        start = turn % max(len(able), 1)
        for name in (*able[start:], *able[:start]):
            runs[name](images)
            taken[name].append(_slice(runs[name], images, seconds / rounds, 2, clock))
    return taken, failed


def _warm_up(run: Run, images: Images, seconds: float, clock: Clock) -> str:
    """Why it does not run these images; empty when it does."""
    try:
        _slice(run, images, seconds, WARM_UP_CALLS, clock)
    except ByoltError as error:
        return str(error)
    return ""


def _slice(run: Run, images: Images, seconds: float, calls: int, clock: Clock) -> list[float]:
    """Seconds of each call, for that long and that many calls at least."""
    taken: list[float] = []
    while len(taken) < calls or sum(taken) < seconds:
        started_s = clock()
        run(images)
        taken.append(clock() - started_s)
    return taken


def _figures(taken: list[list[float]], baseline: list[list[float]] | None, batch: int) -> dict[str, Any]:
    calls = [latency for turn in taken for latency in turn]
    ratios = [] if baseline is None else relative_speeds(taken, baseline)
    return {
        "calls": len(calls),
        **{f"latency_ms_p{share}": 1e3 * percentile(calls, share) for share in (50, 90, 99)},
        "images_per_s": batch * len(calls) / sum(calls),
        "relative_speed": median(ratios) if ratios else None,
        "relative_speed_range": (min(ratios), max(ratios)) if ratios else None,
    }


def relative_speeds(taken: list[list[float]], baseline: list[list[float]]) -> list[float]:
    """The baseline's median latency over a candidate's, one ratio a round: a call that was held up moves no median."""
    return [median(b) / median(a) for a, b in zip(taken, baseline, strict=True)]


def percentile(latencies: Sequence[float], share: float) -> float:
    """The least latency seen that ``share`` % of the calls did not exceed: of few calls, p99 is the slowest."""
    return float(np.percentile(latencies, share, method="inverted_cdf"))


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other equals or exceeds in both numbers and exceeds in one; slowest first.

    Args:
        points: Speed and accuracy, more of each being better.
    """
    front = [
        k
        for k, (speed, accuracy) in enumerate(points)
        if not any(s >= speed and a >= accuracy and (s, a) != (speed, accuracy) for s, a in points)
    ]
    return sorted(front, key=lambda k: points[k])


def peak_memory_mib(open_run: Callable[[], Run], images: Images, batches: Sequence[int]) -> list[float | None]:
    """See ``MEMORY_IS``: a figure a batch size; ``None`` where the system does not tell, or that process fails.

    ``open_run`` goes to the other process and must be picklable; batches run from the smallest to the largest there,
    since a peak never falls.
    """
    ascending = sorted(batches)
    try:
        task = pickle.dumps((open_run, images, ascending))
    except (pickle.PicklingError, AttributeError, TypeError):  # A function within a function, for one.
        return [None] * len(batches)
    # Not `multiprocessing`, which would run the caller's own script again in the new process.
    program = f"from {__name__} import _weigh; _weigh()"
    places = os.pathsep.join(place or os.curdir for place in sys.path)
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=task,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": places},
        check=False,
    )
    if done.returncode != 0:
        return [None] * len(batches)
    peaks = dict(zip(ascending, json.loads(done.stdout.splitlines()[-1]), strict=True))
    return [peaks[batch] for batch in batches]


def _weigh() -> None:
    """What the other process does: peaks in MiB as JSON, the last line of its output."""
    open_run, images, batches = pickle.load(sys.stdin.buffer)  # Of the process that started this one.
    run, peaks = open_run(), []
    for batch in batches:
        run(filled(images, batch))
        peaks.append(_peak_mib())
    sys.stdout.write(f"\n{json.dumps(peaks)}\n")


def _peak_mib() -> float | None:
    """Peak resident memory of this process. Not ``getrusage``, whose peak a process inherits from its parent."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)
