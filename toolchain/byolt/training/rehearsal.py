"""``--dry-run`` and ``--profile``: a few real steps, nothing written, and what they say of the whole run."""

import resource
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from byolt.reporting.progress import duration
from byolt.schema import Recipe
from byolt.training.loop import Parts, prepare
from byolt.training.stream import view_stream

WARMUP_STEPS, STEPS = 3, 20
PHASES = ("data", "views", "forward", "backward", "optimizer", "target")


@dataclass(frozen=True)
class Rehearsal:
    """What a few steps say of the whole run."""

    images: int
    steps: int
    images_per_s: float
    peak_memory_mb: float
    finish_s: float
    shares: dict[str, float]
    """Share of a step's time by phase; empty without ``--profile``."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def to_text(self) -> str:
        """Lines for people."""
        lines = [
            f"images         {self.images:,}",
            f"speed          {self.images_per_s:,.0f} images/s",
            f"peak memory    {self.peak_memory_mb:,.0f} MB",
            f"whole run      {self.steps:,} steps, {duration(self.finish_s)} without evaluations",
        ]
        lines += [f"{phase:<14} {share:.1%} of a step" for phase, share in self.shares.items()]
        return "\n".join(lines)


def rehearse(recipe: Recipe, *, profiled: bool) -> Rehearsal:
    """Take some steps of the recipe on its own images; writes nothing but the cache of decoded images.

    Raises:
        InputError: Images, model or batch size do not fit.
    """
    parts = prepare(recipe)
    stream = iter(view_stream(parts.plan, parts.store, recipe, parts.learner.device))
    warmup = min(WARMUP_STEPS, parts.plan.steps - 1)
    _take(parts, stream, warmup)
    steps = min(STEPS, parts.plan.steps - warmup)
    shares: dict[str, float] = {}
    if profiled:
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        with profile(activities=activities) as profiler:
            elapsed_s = _take(parts, stream, steps)
        total_us = {event.key: event.cpu_time_total for event in profiler.key_averages()}
        shares = {phase: total_us.get(phase, 0.0) / (elapsed_s * 1e6) for phase in PHASES}
        shares["host"] = max(0.0, 1 - sum(shares.values()))
    else:
        elapsed_s = _take(parts, stream, steps)
    images_per_s = steps * recipe.optim.batch_size / elapsed_s
    finish_s = parts.plan.steps * recipe.optim.batch_size / images_per_s
    return Rehearsal(len(parts.store), parts.plan.steps, images_per_s, _peak_memory_mb(), finish_s, shares)


def _take(parts: Parts, stream: Any, steps: int) -> float:
    """Seconds that ``steps`` steps took, the device's work included."""
    started_s = time.monotonic()
    for step in range(steps):
        _, view_1, view_2 = next(stream)
        parts.learner.step(step, view_1, view_2)
    if parts.learner.device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic() - started_s


def _peak_memory_mb() -> float:
    """Largest device memory in use, or on the CPU the largest resident size of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
