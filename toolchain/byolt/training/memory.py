"""Memory of a step: the largest batch, estimated from two smaller ones, and what is said when memory ran out.

The peak of a step is a straight line in the batch: weights, moments and libraries take the same at any batch, views and
activations so much per image. Two batches that ran give the line; no batch is tried on it.
"""

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from byolt.device import kib_of, peak_bytes
from byolt.distributed.collectives import world_size
from byolt.library_errors import is_memory_fault
from byolt.run import Run, command_to_go_on
from byolt.training.allocator import give_back_freed_memory
from byolt.training.loader import view_stream
from byolt.training.prepare import Parts
from byolt_export.errors import ByoltError, first_line

MARGIN = 0.1  # Left free: other processes, fragments, an evaluation.
_STEPS = 2  # The optimizer's moments are there from the second on.
_EVEN = 8  # Tensor cores and vector units take eights.
_ELEMENTS = 2**31 - 1  # Of one tensor at most: many kernels count in 32 bits.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # Control groups, version 2, 1.


class PeakLine(NamedTuple):
    """Peak memory of a step by its batch."""

    fixed_bytes: float
    image_bytes: float

    def batch_within(self, memory_bytes: float) -> int:
        """Largest batch whose peak leaves the margin of ``memory_bytes`` free; 0 where none does."""
        return max(0, int((memory_bytes * (1 - MARGIN) - self.fixed_bytes) / self.image_bytes))


def line_through(small: int, small_bytes: float, large: int, large_bytes: float) -> PeakLine | None:
    """The line through two batches and their peaks; None where the larger did not take more."""
    image_bytes = (large_bytes - small_bytes) / (large - small)
    return PeakLine(small_bytes - image_bytes * small, image_bytes) if image_bytes > 0 else None


class LargestBatch(NamedTuple):
    """An estimate, or None, and what it rests on or why there is none."""

    batch: int | None
    because: str


def largest_batch(parts: Parts) -> LargestBatch:
    """Estimate the largest batch from steps at a quarter and at half of the recipe's; they change the weights.

    None is larger than the recipe's. A fault in them that is not of memory leaves the estimate out, and says so.

    Raises:
        ByoltError: Memory ran out in them.
    """
    batch, unit, device = parts.recipe.optim.batch_size, _unit(parts), parts.learner.device
    quarter, half = batch // 4 // unit * unit, batch // 2 // unit * unit
    if quarter < 2 * unit:
        return LargestBatch(None, f"a quarter of batch {batch} is too small to estimate from")
    try:
        with within_memory(parts, None):
            quarter_bytes, half_bytes = peak_of_steps(parts, quarter), peak_of_steps(parts, half)
    except RuntimeError as error:  # A library's, of these batches; the recipe's own may well pass.
        if world_size() > 1:  # The other processes wait for this one.
            raise
        return LargestBatch(None, f"steps at batches {quarter} and {half} failed: {first_line(error)}")
    line = line_through(quarter, quarter_bytes, half, half_bytes)
    if line is None:
        return LargestBatch(None, f"batch {half} had no higher peak than batch {quarter}")
    memory, cap = memory_bytes(device), batch_cap(parts)
    found = _whole(min(line.batch_within(memory), cap), unit)
    bound = f"{memory / 1e9:,.1f} GB here" if found < _whole(cap, unit) else "no larger one is of use"
    return LargestBatch(found, f"estimated from the peaks of batches {quarter} and {half} ({bound})")


def peak_of_steps(parts: Parts, batch: int) -> int:
    """Peak memory, in bytes, of two real steps at ``batch`` images on the widest views of the run."""
    recipe, device = parts.recipe, parts.learner.device
    widest = max(range(recipe.schedule.epochs), key=recipe.view_size_px_of)
    here = recipe.model_copy(update={"machine": recipe.machine.model_copy(update={"workers": 0})})
    begin_peak_anew(device)
    sampler = parts.sampler.with_batch_size(batch).window(widest, 1)
    with closing(view_stream(sampler, parts.store, here, device)) as stream:
        for _, views in islice(stream, _STEPS):
            parts.learner.step(0, *views)
    return peak_bytes(device)


def begin_peak_anew(device: torch.device) -> None:
    """Let ``peak_bytes`` tell the peak of what follows, from what is in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    give_back_freed_memory()
    with suppress(OSError):  # Where it is not allowed an earlier peak may hide a later one.
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak begins anew at what is resident now.


@contextmanager
def within_memory(parts: Parts, at_most: int | None, run: Run | None = None) -> Iterator[None]:
    """Steps, and no evaluation or checkpoint: memory that runs out in them ends with what to change.

    Args:
        parts: Whose steps.
        at_most: Largest batch that may fit, where one is known.
        run: Whose checkpoint stays.

    Raises:
        ByoltError: Memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_memory_fault(error):
            raise
        raise ByoltError(_ways_out(parts, at_most, run)) from error


def _ways_out(parts: Parts, at_most: int | None, run: Run | None) -> str:
    recipe, batch = parts.recipe, parts.recipe.optim.batch_size
    fits = _whole(min(at_most or 0, batch - 1), _unit(parts))
    bound = f" (at most about {fits} here; --dry-run with a smaller one estimates the largest)" if fits else ""
    ways = [
        f"lower optim.batch_size{bound}",
        "raise optim.accumulate (BatchNorm then sees parts of a batch)",
    ]
    if not recipe.machine.recompute:
        ways.append("set machine.recompute=true (the same result in about a third more time)")
    where = f"optim.batch_size {batch} with views of {recipe.view_size_px} px on {parts.learner.device}"
    kept = (
        f"; the last checkpoint in {run.path} is whole: with other machine keys, and those alone, go on with "
        f"{command_to_go_on(run.path)}"
        if run
        else ""
    )
    return f"out of memory in a step at {where}: {', or '.join(ways)}{kept}"


def batch_bound(parts: Parts) -> int:
    """Before the first step: what would fit if the recipe's batch took just all the memory that there is."""
    device, batch = parts.learner.device, parts.recipe.optim.batch_size
    memory = memory_bytes(device)
    line = line_through(0, in_use_bytes(device), batch, memory)
    return line.batch_within(memory) if line else 0


def batch_cap(parts: Parts) -> int:
    """What bounds a batch besides memory: the images, what the method takes, and the elements of one tensor."""
    recipe, size_px, accumulate = parts.recipe, parts.recipe.view_size_px, parts.recipe.optim.accumulate
    elements = elements_per_image(parts.learner.method.encoder, size_px, parts.learner.device)
    similarities = math.isqrt(_ELEMENTS) // 2  # Of both views' images, each with each.
    of_method = recipe.method.largest_batch(accumulate) or parts.sampler.images
    in_a_tensor = min(_ELEMENTS // elements * accumulate, _ELEMENTS // (3 * size_px**2), similarities)
    return min(parts.sampler.images, of_method, in_a_tensor)


def elements_per_image(encoder: nn.Module, size_px: int, device: torch.device) -> int:
    """Elements of the largest tensor, for one image, that a module of the encoder gives."""
    sizes = [3 * size_px**2]

    def note(_: nn.Module, __: object, given: object) -> None:
        if isinstance(given, Tensor):
            sizes.append(given.numel() // 2)

    hooks = [module.register_forward_hook(note) for module in encoder.modules()]
    with torch.no_grad():
        encoder(torch.zeros(2, 3, size_px, size_px, device=device))
    for hook in hooks:
        hook.remove()
    return max(sizes)


def _unit(parts: Parts) -> int:
    """What a batch must be a multiple of."""
    return parts.recipe.optim.accumulate * math.lcm(parts.recipe.method.norm_parts or 1, world_size())


def _whole(batch: int, unit: int) -> int:
    """Down to a multiple of eight units; below the first of these, of the unit."""
    even = math.lcm(_EVEN, unit)
    return batch // even * even or batch // unit * unit


def memory_bytes(device: torch.device) -> int:
    """What the peak may come to: in use now and free besides, within the limit of the process's control group."""
    if device.type == "cuda":
        # What torch has reserved is not free to the driver, but is to torch.
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    limits = [int(text) for file in map(Path, _LIMITS) if file.exists() and (text := file.read_text().strip()) != "max"]
    return min([in_use_bytes(device) + kib_of("/proc/meminfo", "MemAvailable") * 1024, *limits])


def in_use_bytes(device: torch.device) -> int:
    """Allocated now on a GPU, resident now on a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else kib_of("/proc/self/status", "VmRSS") * 1024
