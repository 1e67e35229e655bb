"""How many CPU threads a run learns with: fixed when it begins, written into it, and the same when it goes on."""

import logging
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager

import torch

from byolt.distributed.collectives import world_size
from byolt.doctor.step_speeds import default_threads, quickest, speed_by_threads, told
from byolt.preflight import refuse_too_many
from byolt.recipe.schema import Recipe
from byolt.run import Run
from byolt.training.loader import view_stream
from byolt.training.prepare import Parts
from byolt.training.step import Learner
from byolt.working import working

_log = logging.getLogger("byolt")


def with_threads(recipe: Recipe, threads: int) -> Recipe:
    """The recipe with a number of threads; it changes no result key."""
    return recipe.model_copy(update={"machine": recipe.machine.model_copy(update={"threads": threads})})


def step_speeds(parts: Parts, learner: Learner | None = None) -> dict[int, float]:
    """Images a second of the recipe's own step, views included, by the number of threads.

    Empty on a GPU, where the threads of the host decide nothing, and for one of several processes, of which torchrun
    says how many threads each has.

    Args:
        parts: What is learned from.
        learner: Whose weights may move; left out, one is built, and none of ``parts`` moves.
    """
    recipe, device = parts.recipe, parts.learner.device
    if device.type != "cpu" or world_size() > 1:
        return {}
    learner = learner or Learner(
        recipe,
        device,
        steps=parts.sampler.steps,
        steps_per_epoch=parts.sampler.steps_per_epoch,
        classes=len(parts.store.classes),
    )
    with working("taking a few steps with one thread and with all"), endless_views(parts) as views:
        return speed_by_threads(lambda: learner.step(0, *next(views)[1]), recipe.optim.batch_size)


@contextmanager
def endless_views(parts: Parts) -> Iterator[Iterator[tuple[int, tuple[torch.Tensor, ...]]]]:
    """Batches of views without end, made in this process: a short run has fewer steps than are measured."""
    machine = parts.recipe.machine.model_copy(update={"workers": 0})
    recipe = parts.recipe.model_copy(update={"machine": machine})

    def again() -> Generator[tuple[int, tuple[torch.Tensor, ...]], None, None]:
        while True:
            with closing(view_stream(parts.sampler, parts.store, recipe, parts.learner.device)) as stream:
                yield from stream

    with closing(again()) as views:
        yield views


def fix_threads(parts: Parts, run: Run | None) -> int:
    """The number of threads of a run, which torch has from now on.

    Args:
        parts: Of the recipe as it was given: a number, ``auto`` to measure, or none for torch's own choice.
        run: The run to go on with, whose own number is taken unless the recipe gives another, which is told; or None.

    Raises:
        InputError: The run learned with more threads than this machine can hold.
    """
    on_cpu, given = parts.learner.device.type == "cpu", parts.recipe.machine.threads
    own = threads_of(run) if run is not None and on_cpu else None
    if isinstance(given, int):
        threads = given
        if own is not None and own != given:
            _log.warning(
                "%s was learned with %s threads and goes on with %s (machine.threads): its weights will agree within "
                "rounding with those of a run without a break, not bit for bit",
                *(run and run.path, own, given),
            )
    elif own is not None:
        refuse_too_many("machine.threads of the run", own, "threads", "go on with another by --set machine.threads=")
        threads = own
    elif given == "auto" and (speeds := step_speeds(parts)):
        threads = quickest(speeds)
        _log.info("machine.threads: %s, of %s", threads, told(speeds, threads, "machine.threads"))
    else:
        threads = default_threads()
    torch.set_num_threads(threads)
    return threads


def threads_of(run: Run) -> int | None:
    """The number that a run on the CPU began with; None of one on a GPU, or older than this."""
    threads: int | None = run.environment.get("threads")
    return threads
