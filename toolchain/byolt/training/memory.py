"""Batches and memory: the largest batch that fits, and what is said when one did not.

The peak of a step is a straight line in the batch: weights, moments and the libraries do not depend on it, views and
activations are so much an image. Two batches that really ran give the line.
"""

import gc
import math
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch

from byolt.distributed.collectives import world_size
from byolt.errors import is_memory_fault
from byolt.recipe.methods.mean_teacher import MeanTeacherMethod
from byolt.recipe.methods.moco_v2 import MocoV2Method
from byolt.run import Run
from byolt.training import cuda_graph as stepper_file
from byolt.training import step as learner_file
from byolt.training import stream as stream_file
from byolt.training.allocator import give_back_freed_memory
from byolt.training.room import forget_peak, peak_bytes, room_bytes
from byolt.training.stream import Plan, view_stream
from byolt_export.errors import ByoltError

if TYPE_CHECKING:
    from byolt.recipe.schema import Recipe
    from byolt.training.loop import Parts

MARGIN = 0.1  # Left free: other processes, fragments, an evaluation.
_WARY = 0.6  # On a CPU a library that is refused memory may end the process: no larger share of the batch is tried.
_STEPS = 2  # The optimizer's moments are there from the second on.
_EVEN = 8  # Tensor cores and vector units take eights.


class Line(NamedTuple):
    """Peak memory of a step by its batch."""

    fixed_bytes: float
    image_bytes: float

    def at(self, batch: int) -> float:
        """Peak at a batch, in bytes."""
        return self.fixed_bytes + self.image_bytes * batch

    def batch_within(self, room: float) -> int:
        """Largest batch whose peak leaves the margin of ``room`` bytes free; 0 where none does."""
        return max(0, int((room * (1 - MARGIN) - self.fixed_bytes) / self.image_bytes))


def line_through(small: int, small_bytes: float, large: int, large_bytes: float) -> Line | None:
    """The line through two batches and their peaks; None where the larger did not take more."""
    image_bytes = (large_bytes - small_bytes) / (large - small)
    return Line(small_bytes - image_bytes * small, image_bytes) if image_bytes > 0 else None


class Largest(NamedTuple):
    """The largest batch, or None, and by what it was found or why not."""

    batch: int | None
    because: str


def largest_batch(parts: "Parts") -> Largest:
    """The largest batch of the recipe that this machine holds, from two steps each at half its batch and at its batch.

    On a GPU it is tried, and lowered until it runs; on a CPU it is not, since a try that is too large would not fail
    but end the process. Spoils the learner's weights.

    Raises:
        RuntimeError, MemoryError: The recipe's own batch does not fit.
    """
    recipe, device = parts.recipe, parts.learner.device
    large = recipe.optim.batch_size
    small = large // 2 // _unit(recipe) * _unit(recipe)
    if not _is_whole(small, recipe):
        return Largest(None, f"half of batch {large} is too small to draw a line from")
    if not forget_peak(device):
        return Largest(None, "this system does not let a process begin its peak memory anew")
    line = line_through(small, peak_of(parts, small), large, peak_of(parts, large))
    if line is None:
        return Largest(None, f"batches {small} and {large} take the same memory")
    room, most = _room(parts), _most(parts)
    found = max(large, rounded(min(line.batch_within(room), most), recipe))  # The recipe's own did run.
    if device.type == "cuda":
        found = _that_runs(parts, found, known=large)
    release(parts)
    what = "all images" if found == most else f"{room / 1e9:,.0f} GB here"
    return Largest(found, f"by the memory of batches {small:,} and {large:,} ({what})")


def peak_of(parts: "Parts", batch: int) -> int:
    """Peak memory, in bytes, of real steps at ``batch`` images on the widest views of the run."""
    release(parts)
    device = parts.learner.device
    forget_peak(device)
    here = parts.recipe.machine.model_copy(update={"workers": 0})
    recipe = parts.recipe.model_copy(update={"machine": here})
    with closing(view_stream(_plan(parts, batch), parts.store, recipe, device)) as stream:
        for _ in range(_STEPS):
            _, views = next(stream)
            parts.learner.step(0, *views)
    return peak_bytes(device)


def release(parts: "Parts") -> None:
    """Give back what the last step held, so that the next peak is its own."""
    parts.learner.optimizer.zero_grad(set_to_none=True)
    parts.stepper.forget()
    gc.collect()
    if parts.learner.device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        give_back_freed_memory()


@contextmanager
def within_memory(parts: "Parts", run: Run | None = None) -> Iterator[None]:
    """Steps that may run out of memory: then they are told which batch fits, found by trying, and what else helps.

    Raises:
        ByoltError: Memory ran out in a step or in the making of its views. The learner's weights are spoiled by the
            trials; whatever else the block raised passes.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (is_memory_fault(error) and _in_a_step(error)):
            raise
        traceback.clear_frames(error.__traceback__)  # They hold the failed step's tensors.
        message = _advice(parts, run)
    else:
        return
    raise ByoltError(message)


def _in_a_step(error: BaseException) -> bool:
    """Whether it came through a step or the stream of batches, and not from an evaluation or a checkpoint."""
    files = {learner_file.__file__, stepper_file.__file__, stream_file.__file__}
    return any(frame.f_code.co_filename in files for frame, _ in traceback.walk_tb(error.__traceback__))


def _advice(parts: "Parts", run: Run | None) -> str:
    recipe = parts.recipe
    batch = recipe.optim.batch_size
    told = f"out of memory at optim.batch_size {batch} with views of {recipe.view_size_px} px on {parts.learner.device}"
    fits, line = fitting_batch(parts)
    ways = [f"set optim.batch_size={fits}, which fits" if fits else "take a smaller optim.batch_size"]
    accumulate = _parts_that_run(parts, fits, line) if fits and line else None
    if accumulate:
        ways.append(f"optim.accumulate={accumulate}, which keeps the batch but shows BatchNorm parts of it")
    if not recipe.machine.recompute:
        ways.append("machine.recompute=true, which costs time alone")
    told += f"; give --{', or '.join(ways)}" if fits else f"; {', or '.join(ways)}"
    if run is not None:
        told += f"; the last checkpoint in {run.path} is whole, and --resume takes the machine's keys alone"
    return told


def fitting_batch(parts: "Parts") -> tuple[int | None, Line | None]:
    """The largest batch below the recipe's that ran just now, and the line that led to it; None where none did.

    From below and with the margin, four times as many each time: a try that is too large could end the process on a
    CPU instead of failing, and the steps up to there cost a third of the last.
    """
    # Of several processes a trial of one alone would wait for the others for ever.
    if world_size() > 1 or not forget_peak(parts.learner.device):
        return None, None
    recipe, line = parts.recipe, None
    ran: list[tuple[int, int]] = []
    even = math.lcm(_EVEN, _unit(recipe))
    batch = max(even, recipe.optim.batch_size // 64 // even * even)
    while batch < recipe.optim.batch_size and (line is None or batch <= _worth_a_try(parts, line)):
        peak = _tried(parts, batch) if _is_whole(batch, recipe) else 0
        if peak is None:
            break
        if peak:
            line = line_through(*ran[-1], batch, peak) or line if ran else None
            ran.append((batch, peak))
        batch *= 4
    if not ran:
        return None, None
    known = ran[-1][0]
    guess = known if line is None else min(_worth_a_try(parts, line), recipe.optim.batch_size - 1)
    return _that_runs(parts, rounded(guess, recipe), known), line


def _worth_a_try(parts: "Parts", line: Line) -> int:
    found = line.batch_within(_room(parts))
    return found if parts.learner.device.type == "cuda" else int(found * _WARY)


def rounded(batch: int, recipe: "Recipe") -> int:
    """Down to a multiple of 8 that the recipe's parts divide; below the first of these, to what the parts divide."""
    unit = _unit(recipe)
    even = math.lcm(_EVEN, unit)
    return batch // even * even or batch // unit * unit


def _that_runs(parts: "Parts", guess: int, known: int) -> int:
    """``guess``, or less by a quarter of the way down to ``known`` each time, until one runs; ``known`` did."""
    while guess > known:
        if _tried(parts, guess) is not None:
            return guess
        guess = rounded(known + (guess - known) * 3 // 4, parts.recipe)
    return known


def _tried(parts: "Parts", batch: int) -> int | None:
    """Peak of steps at ``batch``; None where they do not fit."""
    try:
        return peak_of(parts, batch)
    except (RuntimeError, MemoryError) as error:
        if not is_memory_fault(error):
            raise
        return None


def _parts_that_run(parts: "Parts", fits: int, line: Line) -> int | None:
    """The fewest equal parts in which the recipe's own batch runs; None where no three tries found it."""
    recipe, learner = parts.recipe, parts.learner
    batch, before = recipe.optim.batch_size, learner.accumulate
    if isinstance(recipe.method, MeanTeacherMethod):
        return None
    counts = [k for k in range(before + 1, batch // 2 + 1) if batch % k == 0 and batch // k <= fits // before]
    groups = recipe.method.norm_groups if isinstance(recipe.method, MocoV2Method) else 1
    counts = [k for k in counts if batch // k % groups == 0 and batch // k >= 2 * groups]
    view_bytes = 2 * batch * 3 * recipe.view_size_px**2 * 4  # All views are there at once; making them takes as much.
    try:
        for count in counts[:3]:
            learner.accumulate = count
            needed = line.at(batch // count) + 2 * view_bytes
            if needed < _room(parts) * (1 - MARGIN) and _tried(parts, batch) is not None:
                return count
    finally:
        learner.accumulate = before
    return None


def _plan(parts: "Parts", batch: int) -> Plan:
    """Batches of another size from the first epoch of the widest views on."""
    recipe, labelled = parts.recipe, parts.plan.labelled
    epoch = max(range(recipe.schedule.epochs), key=recipe.view_size_px_of)
    if labelled is not None and isinstance(recipe.method, MeanTeacherMethod):
        labelled = labelled._replace(per_batch=recipe.method.labelled_in(batch))
    start = epoch * (parts.plan.images // batch)
    return Plan(
        parts.plan.images,
        batch,
        epoch + _STEPS,
        recipe.seed,
        start_step=start,
        labelled=labelled,
        order=parts.plan.order,
    )


def _room(parts: "Parts") -> int:
    release(parts)
    return room_bytes(parts.learner.device)


def _unit(recipe: "Recipe") -> int:
    """What a batch must be a multiple of."""
    groups = recipe.method.norm_groups if isinstance(recipe.method, MocoV2Method) else 1
    return recipe.optim.accumulate * groups


def _is_whole(batch: int, recipe: "Recipe") -> bool:
    """Whether the recipe's parts, its labelled images among them, have at least two images each."""
    labelled = recipe.method.labelled_in(batch) if isinstance(recipe.method, MeanTeacherMethod) else 2
    return batch % _unit(recipe) == 0 and batch >= 2 * _unit(recipe) and 2 <= labelled <= max(2, batch - 2)


def _most(parts: "Parts") -> int:
    """What bounds a batch besides memory: the images, and for MoCo v2 the queue that holds both views' keys."""
    method = parts.recipe.method
    if isinstance(method, MocoV2Method):
        return min(parts.plan.images, method.queue_size // 2 * parts.recipe.optim.accumulate)
    return parts.plan.images
