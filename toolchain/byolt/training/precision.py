"""The arithmetic that a run learns in: fixed when it begins, written into it, and the same when it goes on."""

import logging

from byolt.device import NO_BF16_UNITS, Precision, has_bf16_units
from byolt.distributed.collectives import world_size
from byolt.doctor.step_speeds import speeds_in_turn
from byolt.run import Run
from byolt.training.prepare import Parts
from byolt.training.threads import endless_views
from byolt.working import working
from byolt_export.errors import InputError

_log = logging.getLogger("byolt")


def fix_precision(parts: Parts, run: Run | None) -> Precision:
    """The arithmetic of a run, which its learner computes in from now on.

    Args:
        parts: Of the recipe as it was given.
        run: The run to go on with, whose own arithmetic is taken unless the recipe names another, which is told; or
            None.

    Raises:
        InputError: The run learned in bf16, the CPU here has no units for it, and the recipe does not say fp32.
    """
    learner = parts.learner
    own = None if run is None else precision_of(run)
    if own == "bf16" and parts.recipe.machine.precision == "auto" and not has_bf16_units(learner.device):
        raise InputError(
            f"{run and run.path} was learned in bf16, and {NO_BF16_UNITS}; go on in fp32 with "
            "--set machine.precision=fp32"
        )
    if own is not None and parts.recipe.machine.precision == "auto":
        learner.bf16 = own == "bf16"
    taken: Precision = "bf16" if learner.bf16 else "fp32"
    if own not in (None, taken):
        _log.warning(
            "%s was learned in %s and goes on in %s (machine.precision): it is no longer a run of one arithmetic",
            *(run and run.path, own, taken),
        )
    return taken


def precision_of(run: Run) -> Precision | None:
    """What a run began to learn in; None of one that is older than this."""
    own: Precision | None = run.environment.get("precision")
    return own


def precision_speeds(parts: Parts) -> dict[str, float]:
    """Images a second of the recipe's own step, views included, in fp32 and in bf16; the learner's weights move.

    Empty but on a CPU that multiplies in bf16, and for one of several processes.
    """
    learner, before = parts.learner, parts.learner.bf16
    if learner.device.type != "cpu" or world_size() > 1 or not has_bf16_units(learner.device):
        return {}

    def compute_in(precision: str) -> None:
        learner.bf16 = precision == "bf16"

    try:
        with working("taking a few steps in fp32 and in bf16"), endless_views(parts) as views:
            step = lambda: learner.step(0, *next(views)[1])  # noqa: E731
            return speeds_in_turn(["fp32", "bf16"], compute_in, step, parts.recipe.optim.batch_size)
    finally:
        learner.bf16 = before
