"""What a run writes down, and when: metrics, evaluations, checkpoints, the end.

Of several processes every one calls it at the same steps, since metrics are of the global batch; the first one writes.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from byolt.data.sampler import BatchSampler
from byolt.distributed.process_group import all_reduce_max, broadcast_object, is_rank_zero
from byolt.files import write_json
from byolt.methods.base import Outcome
from byolt.recipe.schema import Recipe
from byolt.run import Run
from byolt.training.checkpoint import save_checkpoint
from byolt.training.online_eval import NonFiniteFeatures, OnlineEvaluator
from byolt.training.rate_and_eta import Throughput, duration
from byolt.training.step import Learner, gathered
from byolt.training.tensorboard import EventWriter
from byolt_export.errors import ByoltError, TrainingFault


@dataclass(frozen=True)
class LogRecord:
    """A line of ``metrics.jsonl`` as it is written, and where the run is; as a string, one line of progress."""

    step: int
    """Steps taken."""
    steps: int
    """Steps of the whole run."""
    epoch: int
    """Counted from 1."""
    epochs: int
    images_per_s: float
    """Over the steps since the last log line."""
    data_wait: float
    """Share of their time in which the device had no batch."""
    eta_s: float
    """Seconds to the end, evaluations included; 0 until a rate is known."""
    metrics: dict[str, Any]
    """The line: of a step, or of an evaluation."""
    evaluation: dict[str, Any]
    """Metrics of the last evaluation; empty before the first."""

    def __str__(self) -> str:
        parts = [
            f"epoch {self.epoch}/{self.epochs}",
            f"step {self.step}/{self.steps}",
            f"{self.images_per_s:,.0f} images/s",
            f"ETA {duration(self.eta_s)}",
            f"data wait {self.data_wait:.0%}",
            f"loss {self.metrics['loss']:.3f}",
            f"z-std {self.metrics['z_std_ratio']:.2f}",
        ]
        if self.evaluation:
            parts.append(f"verdict {self.evaluation['verdict']}")
        if "knn" in self.evaluation:
            parts.append(f"kNN {self.evaluation['knn']:.1%}")
        return "  ".join(parts)


OnLog = Callable[[LogRecord], None]


class RunLogger:
    """Writes a run's metrics, evaluations and checkpoints; a context manager around the training loop.

    What is measured of a step is computed in ``online_eval.OnlineEvaluator.step_metrics``.
    """

    def __init__(
        self,
        run: Run,
        recipe: Recipe,
        sampler: BatchSampler,
        learner: Learner,
        evaluator: OnlineEvaluator,
        identity: dict[str, Any],
        on_log: OnLog | None,
    ) -> None:
        """``identity`` holds the result keys and the images' fingerprint, which every checkpoint carries.

        Of several processes the first one alone calls ``on_log``.
        """
        self.run, self.recipe, self.sampler, self.learner, self.evaluator = run, recipe, sampler, learner, evaluator
        self.identity, self.on_log, self.writes = identity, on_log, is_rank_zero()
        self.throughput = Throughput(
            steps=sampler.steps,
            steps_per_evaluation=recipe.evaluation.every_epochs * sampler.steps_per_epoch,
            batch_size=recipe.optim.batch_size,
            start_step=sampler.start_step,
        )
        self.events = EventWriter(
            run.path, on=recipe.machine.tensorboard and self.writes, start_step=sampler.start_step
        )
        self.started_s = self.saved_s = time.monotonic()
        self.finite = torch.ones((), dtype=torch.bool, device=learner.device)

    def __enter__(self) -> "RunLogger":
        self._say(f"learning from step {self.sampler.start_step} of {self.sampler.steps}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError, ByoltError):  # A full disk: what ended the loop says more than a log that cannot.
            self.events.close()
            self._say(f"ended: {fault or 'finished'}")

    def waited(self, seconds: float) -> None:
        """Count time in which the device had no batch."""
        self.throughput.waited(seconds)

    def note(self, outcome: Outcome) -> None:
        """Remember whether every loss so far was finite, without waiting for the device."""
        self.finite &= torch.isfinite(outcome.loss)

    def log_is_due(self, step: int) -> bool:
        """Every ``log_every_steps`` and at the last step."""
        return step % self.recipe.machine.log_every_steps == 0 or step == self.sampler.steps

    def evaluation_is_due(self, step: int) -> bool:
        """At the end of every ``every_epochs``-th epoch and of the last."""
        epochs, rest = divmod(step, self.sampler.steps_per_epoch)
        return rest == 0 and (epochs % self.recipe.evaluation.every_epochs == 0 or step == self.sampler.steps)

    def checkpoint_is_due(self) -> bool:
        """Every ``checkpoint_every_s``."""
        return time.monotonic() - self.saved_s > self.recipe.machine.checkpoint_every_s

    def log(self, step: int, epoch: int, outcome: Outcome) -> None:
        """A line of metrics.

        Raises:
            TrainingFault: A loss since the start was not finite.
        """
        self._refuse_non_finite(step)
        outcome = gathered(outcome)
        if not self.writes:
            return
        metrics = self.evaluator.step_metrics(outcome, self.learner.method)
        self.throughput.measure(step)
        record = {
            "step": step,
            "epoch": epoch + 1,
            "elapsed_s": round(time.monotonic() - self.started_s, 2),
            "images_per_s": round(self.throughput.images_per_s, 1),
            "data_wait": round(self.throughput.data_wait, 4),
            "lr": self.learner.learning_rate(step - 1),
        }
        tau = self.learner.tau(step - 1)
        if tau is not None:
            record["tau"] = tau
        self._write(record | metrics)

    def evaluate(self, step: int, epoch: int, outcome: Outcome) -> None:
        """Measure the encoder and write it down; the verdict is the collapse monitor's.

        Raises:
            TrainingFault: A loss since the start, a weight or a feature is not finite.
        """
        started_s = time.monotonic()
        self._refuse_non_finite(step, weights=True)
        outcome = gathered(outcome)
        metrics: dict[str, Any] = {}
        if self.writes:
            with suppress(NonFiniteFeatures):
                metrics = self.evaluator.evaluate(self.learner, outcome, epoch + 1)
        metrics, state = broadcast_object((metrics, self.evaluator.state()))
        if not metrics:  # Finite weights can be so large that what they compute is not.
            raise self._not_finite("the encoder's features are", step)
        if not self.writes:
            self.evaluator.restore(state)  # The verdict is every process's.
            return
        self.throughput.evaluated(time.monotonic() - started_s)
        self._write({"step": step, "epoch": epoch + 1} | metrics, evaluated=True)
        self._say(
            f"epoch {epoch + 1}: "
            + ", ".join(f"{name} {value}" for name, value in metrics.items() if name != "spectrum")
        )

    def save(self, step: int) -> None:
        """Write the checkpoint of a step.

        Raises:
            TrainingFault: A loss since the start or a weight is not finite; the checkpoint before stays.
            ByoltError: The disk is full; the checkpoint before stays.
        """
        self._refuse_non_finite(step, weights=True)
        if self.writes:
            state = checkpoint_state(self.identity, self.learner, self.evaluator, step)
            save_checkpoint(self.run.checkpoints, state, keep=self.recipe.machine.keep_checkpoints)
        self.saved_s = time.monotonic()

    def end(self, state: str, step: int) -> None:
        """Write down that the run has ended and how; the same command again prints it."""
        if self.writes:
            write_json(self.run.path / "result.json", {"state": state, "step": step} | self.evaluator.metrics)

    def _write(self, metrics: dict[str, Any], *, evaluated: bool = False) -> None:
        step, pace = metrics["step"], self.throughput
        self.run.log(metrics)
        self.events.write(step, metrics)
        if self.on_log is not None:
            where = (step, self.sampler.steps, metrics["epoch"], self.recipe.schedule.epochs)
            how = (pace.images_per_s, pace.data_wait, pace.seconds_left(step, evaluated=evaluated))
            with suppress(BrokenPipeError):  # Who has read enough of what `print` shows does not end learning.
                self.on_log(LogRecord(*where, *how, metrics, self.evaluator.metrics))

    def _say(self, text: str) -> None:
        if self.writes:
            self.run.say(text)

    def _refuse_non_finite(self, step: int, *, weights: bool = False) -> None:
        """The loss is that before a step: a step can leave ``weights`` that are not finite after one that is."""
        loss, weight = all_reduce_max(not bool(self.finite), weights and not self.learner.is_finite())
        if loss or weight:
            raise self._not_finite("the loss is" if loss else "the weights are", step)

    def _not_finite(self, what: str, step: int) -> TrainingFault:
        return TrainingFault(
            f"{what} not finite by step {step}; lower optim.base_lr (now {self.recipe.optim.base_lr:g}) "
            f"or lengthen schedule.warmup_epochs; what {self.run.checkpoints} holds is from before"
        )


def checkpoint_state(
    identity: dict[str, Any], learner: Learner, evaluator: OnlineEvaluator, step: int
) -> dict[str, Any]:
    """What ``save_checkpoint`` takes: all that exact resume needs."""
    return identity | learner.state() | {"step": step, "watch": evaluator.state()}
