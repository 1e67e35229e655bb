"""A bench: candidates timed side by side, each with its memory and its accuracy."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from byolt_export.arrays import Function, Images
from byolt_export.bench.memory import peak_memory_mib
from byolt_export.errors import ByoltError
from byolt_export.runtime.timing import filled, percentile, relative_speeds, time_in_turn


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
    open: Callable[[], Function]
    file_bytes: int | None = None
    accuracy: Accuracy | None = None
    verdict: str = ""


@dataclass(frozen=True)
class BenchResult:
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


def time_candidates(
    candidates: Sequence[Candidate],
    images: Images,
    batches: Sequence[int],
    *,
    baseline: str,
    seconds: float,
    on_log: Callable[[str], None] = lambda _: None,
) -> tuple[BenchResult, ...]:
    """Time every candidate at every batch size.

    Args:
        candidates: What to time; one that cannot be opened or run becomes a row with the reason.
        images: uint8 (N, H, W, 3), repeated to fill a batch.
        batches: Batch sizes.
        baseline: Name of the candidate that the others' speed is compared with.
        seconds: Timed seconds a candidate and batch size, spread over the rounds; warm-up comes on top.
        on_log: Takes one line on what is being done.
    """
    memory, runs, refused = {}, {}, {}
    for candidate in candidates:
        on_log(f"{candidate.name}: opening, and weighing it in a process of its own")
        try:
            runs[candidate.name] = candidate.open()
        except ByoltError as error:
            refused[candidate.name] = str(error)
            continue
        memory[candidate.name] = peak_memory_mib(candidate.open, images, batches)
    rows = []
    for index, batch in enumerate(batches):
        on_log(f"batch {batch}: {len(runs)} candidates in turn")
        taken, failed = time_in_turn(runs, filled(images, batch), seconds=seconds)
        for candidate in candidates:
            name = candidate.name
            if name not in taken:
                reason = refused.get(name) or failed[name]
                rows.append(BenchResult(name, candidate.precision, batch, reason, accuracy=candidate.accuracy))
            else:
                metrics = _speed_metrics(taken[name], taken.get(baseline), batch)
                rows.append(_row(candidate, batch, metrics, memory[name][index]))
    return tuple(rows)


def _row(candidate: Candidate, batch: int, metrics: dict[str, Any], memory_mib: float | None) -> BenchResult:
    return BenchResult(
        candidate.name,
        candidate.precision,
        batch,
        memory_mib=memory_mib,
        file_mib=None if candidate.file_bytes is None else candidate.file_bytes / 2**20,
        accuracy=candidate.accuracy,
        **metrics,
    )


def _speed_metrics(taken: list[list[float]], baseline: list[list[float]] | None, batch: int) -> dict[str, Any]:
    calls = [latency for turn in taken for latency in turn]
    ratios = [] if baseline is None else relative_speeds(taken, baseline)
    return {
        "calls": len(calls),
        **{f"latency_ms_p{share}": 1e3 * percentile(calls, share) for share in (50, 90, 99)},
        "images_per_s": batch * len(calls) / sum(calls),
        "relative_speed": median(ratios) if ratios else None,
        "relative_speed_range": (min(ratios), max(ratios)) if ratios else None,
    }


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
