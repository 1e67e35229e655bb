"""``--dry-run`` and ``--profile``: a few real steps, nothing written, and what they say of the whole run."""

import math
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import torch
from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerActivity, profile

from byolt.cores import usable_cores
from byolt.data.bit_depth import with_bit_depth
from byolt.data.sampler import Batch
from byolt.device import peak_bytes
from byolt.distributed.process_group import all_reduce_max
from byolt.doctor.step_speeds import told
from byolt.recipe.schema import Recipe
from byolt.training.cuda_graph import Stepper
from byolt.training.loader import batch_stream
from byolt.training.memory import begin_peak_anew, largest_batch, within_memory
from byolt.training.precision import precision_speeds
from byolt.training.prepare import Parts, prepare
from byolt.training.rate_and_eta import duration
from byolt.training.threads import step_speeds
from byolt.working import working
from byolt_export.errors import TrainingFault

WARMUP_STEPS, STEPS = 4, 20
_WAITING, _VIEWS = 0.10, 0.25  # Shares of a step above which another setting is worth a try.
_WIDE_PX = 64  # From about this size on albumentations makes a view on a CPU in less time than the batched backend.
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
class DryRun:
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
    """Estimate of the largest ``optim.batch_size`` that the memory here holds; None where there is none."""
    largest_because: str
    """What the estimate rests on, or why there is none."""
    threads: dict[int, float]
    """Images a second by the number of CPU threads, one and all; empty on a GPU."""
    threads_taken: int
    """As the recipe says, or torch."""
    precisions: dict[str, float]
    """Images a second in fp32 and in bf16; empty but on a CPU that multiplies in bf16."""
    precision_taken: str
    """As the recipe says."""
    advice: list[str]
    """Keys that would shorten a step; empty without ``--profile``."""

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
            f"largest batch  {'not known: ' if self.largest_batch is None else f'about {self.largest_batch:,} '}"
            f"{self.largest_because}",
            f"whole run      {self.steps:,} steps, {duration(self.finish_s)} without evaluations",
        ]
        if self.threads:
            lines.append(f"threads        {told(self.threads, self.threads_taken, 'machine.threads')}")
        if self.precisions:
            lines.append(f"precision      {told(self.precisions, self.precision_taken, 'machine.precision')}")
        if len(self.stages) > 1:
            lines += [
                f"at {s.view_size_px:>4} px     {s.images_per_s:,.0f} images/s, {s.epochs:,} epochs"
                for s in self.stages
            ]
        lines += [f"{phase:<14} {share:.1%} of a step" for phase, share in self.shares.items()]
        lines += [f"advice         {sentence}" for sentence in self.advice]
        return "\n".join(lines)


def dry_run(recipe: Recipe, *, profiled: bool = False, steps: int = STEPS, warmup_steps: int = WARMUP_STEPS) -> DryRun:
    """Take some steps of each stage of the recipe on its own images; writes nothing but the cache of decoded images.

    Args:
        recipe: What would be run.
        profiled: Whether to tell the share of each phase.
        steps, warmup_steps: Taken of each stage at most, those before the timed ones apart.

    Raises:
        InputError: Images, model or batch size do not fit.
        TrainingFault: A loss, or what a step left of the weights, is not finite.
        ByoltError: A step needs more memory than there is.
    """
    recipe = with_bit_depth(recipe)
    parts = prepare(recipe)
    with working("taking a few steps at smaller batches"):
        batch, because = largest_batch(parts)
    begin_peak_anew(parts.learner.device)  # Of the recipe's own batch, not of those that were tried before.
    with working("taking a few steps"), within_memory(parts, batch):
        stages = tuple(
            _measure_stage(parts, *stage, profiled=profiled, steps=steps, warmup_steps=warmup_steps)
            for stage in _stages(recipe)
        )
    seconds = [stage.steps * recipe.optim.batch_size / stage.images_per_s for stage in stages]
    finish_s = sum(seconds)
    shares = {
        phase: sum(stage.shares[phase] * part_s for stage, part_s in zip(stages, seconds, strict=True)) / finish_s
        for phase in stages[0].shares
    }
    return DryRun(
        parts.learner.device.type,
        len(parts.store),
        parts.sampler.steps,
        parts.sampler.steps * recipe.optim.batch_size / finish_s,
        peak_bytes(parts.learner.device) / 1e6,
        finish_s,
        shares,
        stages,
        None if batch is None else max(batch, recipe.optim.batch_size),  # The recipe's own did run.
        because,
        step_speeds(parts, parts.learner),
        torch.get_num_threads(),
        precision_speeds(parts),
        "bf16" if parts.learner.bf16 else "fp32",
        advice(shares, parts) if profiled else [],
    )


def _stages(recipe: Recipe) -> Iterator[tuple[int, int, int]]:
    """View size, first epoch and number of epochs of each stage."""
    for size_px, epochs in groupby(range(recipe.schedule.epochs), recipe.view_size_px_of):
        first, *others = epochs
        yield size_px, first, 1 + len(others)


def _measure_stage(
    parts: Parts, size_px: int, first_epoch: int, epochs: int, *, profiled: bool, steps: int, warmup_steps: int
) -> Stage:
    recipe, device = parts.recipe, parts.learner.device
    sampler = parts.sampler.window(first_epoch, epochs)
    start, of_stage = sampler.start_step, len(sampler)
    warmup = min(warmup_steps, of_stage - 1)
    steps = min(steps, of_stage - warmup)
    shares: dict[str, float] = {}
    # A captured step has no phases: its profile is of the same step, one kernel at a time.
    stepper = Stepper(parts.learner, recipe, captured=False) if profiled else parts.stepper
    with closing(batch_stream(sampler, parts.store, recipe, device)) as stream:
        _take(stepper, stream, start, warmup)
        if profiled:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
            with profile(activities=activities) as profiler:
                elapsed_s = _take(stepper, stream, start + warmup, steps)
            shares = _shares(profiler.events(), elapsed_s, device)
        else:
            elapsed_s = _take(stepper, stream, start + warmup, steps)
    return Stage(size_px, epochs, of_stage, steps * recipe.optim.batch_size / elapsed_s, shares)


def _take(stepper: Stepper, stream: Iterator[Batch], start: int, steps: int) -> float:
    """Seconds that ``steps`` steps from ``start`` on took, the device's work included.

    Raises:
        TrainingFault: A loss is not finite, or the weights are not after them.
    """
    device = stepper.learner.device
    finite = torch.ones((), dtype=torch.bool, device=device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started_s = time.monotonic()
    for step in range(start, start + steps):
        finite &= torch.isfinite(stepper.step(step, next(stream)).loss)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elapsed_s = time.monotonic() - started_s
    loss, weights = all_reduce_max(not bool(finite), not stepper.learner.is_finite())
    if loss or weights:
        raise TrainingFault(
            f"{'the loss is' if loss else 'the weights are'} not finite by step {start + steps}; lower optim.base_lr "
            f"(now {stepper.recipe.optim.base_lr:g}) or lengthen schedule.warmup_epochs"
        )
    return elapsed_s


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


def advice(shares: Mapping[str, float], parts: Parts) -> list[str]:
    """Keys that would shorten a step.

    Args:
        shares: Share of a step's time by phase; ``data`` is waiting for images.
        parts: What was run.
    """
    recipe, store, on_gpu = parts.recipe, parts.store, parts.learner.device.type == "cuda"
    machine, threads, said, cores = recipe.machine, torch.get_num_threads(), [], usable_cores()
    if threads > cores:
        said.append(f"{threads} threads share {cores} cores: see the line of threads")
    if shares["data"] > _WAITING:
        decoded_gb = math.ceil(len(store) * store.rule.bytes / 1e9)
        once = f", or decode once with data.cache_budget_gb={decoded_gb}" if store.images is None else ""
        said.append(f"waiting for images takes {shares['data']:.0%} of a step: more machine.workers{once}")
    if shares["views"] > _VIEWS and not on_gpu and recipe.view_size_px >= _WIDE_PX:
        said.append(
            f"making views takes {shares['views']:.0%} of a step: views.backend=albumentations (another result)"
        )
    if on_gpu and torch.cuda.is_bf16_supported() and machine.precision == "fp32":
        said.append("machine.precision=auto computes in bf16")
    if not machine.channels_last:
        said.append("machine.channels_last=true makes convolutions quicker")
    return said
