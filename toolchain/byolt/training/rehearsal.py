"""``--dry-run`` and ``--profile``: a few real steps, nothing written, and what they say of the whole run."""

import os
import resource
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import torch
from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerActivity, profile

from byolt.console.progress import duration
from byolt.recipe.schema import Recipe
from byolt.training.advice import Facts, advice
from byolt.training.cuda_graph import Stepper
from byolt.training.loop import Parts, prepare
from byolt.training.memory import Largest, largest_batch, within_memory
from byolt.training.stream import Fetched, Plan, batch_stream

WARMUP_STEPS, STEPS = 4, 20
PHASES = ("data", "views", "forward", "backward", "optimizer", "target")


@dataclass(frozen=True)
class Stage:
    """Epochs one after the other whose views are of one size, and so whose steps take one time."""

    view_size_px: int
    epochs: int
    steps: int
    images_per_s: float
    shares: dict[str, float]
    """Share of a step's time by phase; empty without ``--profile``."""


@dataclass(frozen=True)
class Rehearsal:
    """What a few steps of each stage say of the whole run."""

    device: str
    images: int
    steps: int
    images_per_s: float
    """Over the whole run: each stage weighs by its steps."""
    peak_memory_mb: float
    finish_s: float
    shares: dict[str, float]
    """Share of the whole run's time by phase; empty without ``--profile``."""
    stages: tuple[Stage, ...]
    largest_batch: int | None
    """Largest ``optim.batch_size`` that the memory here holds; None where that could not be found."""
    largest_because: str
    """By what it was found, or why it was not."""
    advice: list[str]
    """What would shorten a step; empty without ``--profile``."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def to_text(self) -> str:
        """Lines for people."""
        memory = "of the GPU" if self.device == "cuda" else "of the process"
        lines = [
            f"device         {self.device}",
            f"images         {self.images:,}",
            f"speed          {self.images_per_s:,.0f} images/s",
            f"peak memory    {self.peak_memory_mb:,.0f} MB {memory}",
            f"largest batch  {'not found: ' if self.largest_batch is None else f'about {self.largest_batch:,} '}"
            f"{self.largest_because}",
            f"whole run      {self.steps:,} steps, {duration(self.finish_s)} without evaluations",
        ]
        if len(self.stages) > 1:
            lines += [
                f"at {s.view_size_px:>4} px     {s.images_per_s:,.0f} images/s, {s.epochs:,} epochs"
                for s in self.stages
            ]
        lines += [f"{phase:<14} {share:.1%} of a step" for phase, share in self.shares.items()]
        lines += [f"advice         {sentence}" for sentence in self.advice]
        return "\n".join(lines)


def rehearse(recipe: Recipe, *, profiled: bool) -> Rehearsal:
    """Take some steps of each stage of the recipe on its own images; writes nothing but the cache of decoded images.

    Raises:
        InputError: Images, model or batch size do not fit.
    """
    parts = prepare(recipe)
    with within_memory(parts):
        largest = largest_batch(parts)
        stages = tuple(_rehearse_stage(parts, *stage, profiled=profiled) for stage in _stages(recipe))
    seconds = [stage.steps * recipe.optim.batch_size / stage.images_per_s for stage in stages]
    finish_s = sum(seconds)
    shares = {
        phase: sum(stage.shares[phase] * part_s for stage, part_s in zip(stages, seconds, strict=True)) / finish_s
        for phase in stages[0].shares
    }
    return Rehearsal(
        parts.learner.device.type,
        len(parts.store),
        parts.plan.steps,
        parts.plan.steps * recipe.optim.batch_size / finish_s,
        _peak_memory_mb(parts.learner.device),
        finish_s,
        shares,
        stages,
        *largest,
        advice(shares, recipe, _facts(parts, largest)),
    )


def _facts(parts: Parts, largest: Largest) -> Facts:
    """Of this machine and process, for the advice."""
    store, device = parts.store, parts.learner.device
    decoded_gb = len(store) * store.size_px**2 * 3 / 1e9
    return Facts(
        device.type,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        has_bf16=device.type == "cuda" and torch.cuda.is_bf16_supported(),
        streamed_gb=decoded_gb if store.images is None else 0.0,
        largest_batch=largest.batch,
    )


def _stages(recipe: Recipe) -> Iterator[tuple[int, int, int]]:
    """View size, first epoch and number of epochs of each stage."""
    for size_px, epochs in groupby(range(recipe.schedule.epochs), recipe.view_size_px_of):
        first, *others = epochs
        yield size_px, first, 1 + len(others)


def _rehearse_stage(parts: Parts, size_px: int, first_epoch: int, epochs: int, *, profiled: bool) -> Stage:
    recipe, plan, device = parts.recipe, parts.plan, parts.learner.device
    start, of_stage = first_epoch * plan.steps_per_epoch, epochs * plan.steps_per_epoch
    plan = Plan(
        plan.images,
        plan.batch_size,
        first_epoch + epochs,
        plan.seed,
        start_step=start,
        labelled=plan.labelled,
        parts=plan.parts,
        order=plan.order,
    )
    warmup = min(WARMUP_STEPS, of_stage - 1)
    steps = min(STEPS, of_stage - warmup)
    shares: dict[str, float] = {}
    # A captured step has no phases: its profile is of the same step, one kernel at a time.
    stepper = Stepper(parts.learner, recipe, captured=False) if profiled else parts.stepper
    with closing(batch_stream(plan, parts.store, recipe, device)) as stream:
        _take(stepper, stream, start, warmup)
        if profiled:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
            with profile(activities=activities) as profiler:
                elapsed_s = _take(stepper, stream, start + warmup, steps)
            shares = _shares(profiler.events(), elapsed_s, device)
        else:
            elapsed_s = _take(stepper, stream, start + warmup, steps)
    return Stage(size_px, epochs, of_stage, steps * recipe.optim.batch_size / elapsed_s, shares)


def _take(stepper: Stepper, stream: Iterator[Fetched], start: int, steps: int) -> float:
    """Seconds that ``steps`` steps from ``start`` on took, the device's work included."""
    device = stepper.learner.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started_s = time.monotonic()
    for step in range(start, start + steps):
        stepper.step(step, next(stream))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic() - started_s


def _shares(events: EventList, elapsed_s: float, device: torch.device) -> dict[str, float]:
    """Share of the time by phase: on a GPU of its kernels, by the phase that launched them.

    Waiting for data is always the host's time: it can pass while the GPU still computes.
    """
    spans = [event for event in events if event.name in PHASES and event.device_type.name == "CPU"]
    spent_us = {phase: sum(e.time_range.elapsed_us() for e in spans if e.name == phase) for phase in PHASES}
    if device.type == "cuda":
        spent_us |= dict.fromkeys(PHASES[1:], 0.0)
        spans.sort(key=lambda span: span.time_range.start)
        starts = [span.time_range.start for span in spans]
        # A phase's own event may carry its span on the GPU once more, idle time included.
        for event in (event for event in events if event.name not in PHASES):
            # Backward's launches come from a thread of their own while its span is open, so the clock decides.
            before = bisect_right(starts, event.time_range.start) - 1
            if event.kernels and before >= 0 and spans[before].name != "data":
                spent_us[spans[before].name] += sum(kernel.duration for kernel in event.kernels)
    shares = {phase: us / (elapsed_s * 1e6) for phase, us in spent_us.items()}
    return shares | {"host": max(0.0, 1 - sum(shares.values()))}


def _peak_memory_mb(device: torch.device) -> float:
    """Largest memory in use on a GPU, or on the CPU the largest resident size of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
