"""The run from a recipe to a learned encoder: prepare, then numbered steps, then the encoder's file.

Started by torchrun, every process runs all of this on its part of each batch; the first alone writes.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from byolt.data.bit_depth import with_bit_depth
from byolt.data.known_splits import keep_run_images
from byolt.distributed.process_group import (
    all_reduce_max,
    barrier,
    destroy_distributed,
    is_rank_zero,
    local_rank_zero_first,
    was_restarted,
)
from byolt.evaluation.finetune import Classifier, save_classifier
from byolt.files import read_json, write_json
from byolt.locks import sole_writer
from byolt.networks.encoders import load_snippet, save_weights
from byolt.preflight import check_run_folder, refuse_unwritable
from byolt.recipe.identity import result_keys
from byolt.recipe.load import recipe_text
from byolt.recipe.schema import Recipe
from byolt.run import Run, command_to_go_on, create_run, open_run, run_of
from byolt.training.checkpoint import load_checkpoint, refuse_other_recipe, save_checkpoint
from byolt.training.loader import batch_stream
from byolt.training.logger import OnLog, RunLogger, checkpoint_state
from byolt.training.memory import batch_bound, within_memory
from byolt.training.online_eval import OnlineEvaluator
from byolt.training.precision import fix_precision
from byolt.training.prepare import Parts, prepare
from byolt.training.signals import StopSignals
from byolt.training.threads import fix_threads, with_threads
from byolt.training.workers import worker_faults
from byolt_export.errors import Stopped, TrainingFault

_FAULT = "fault.json"
"""In a run's folder: what ended its learning, and under which job of torchrun."""


def pretrain(
    recipe: Recipe,
    *,
    resume: Run | str | Path | None = None,
    on_log: OnLog | None = None,
    source: str | Path | None = None,
) -> Run:
    """Learn an encoder by the recipe, from the first step or from a run's last checkpoint.

    A run that has ended is not learned again: it is returned as it is. Torch's threads and determinism are set for the
    process, by the recipe's ``machine`` section.

    Args:
        recipe: What to learn from and how.
        resume: An unfinished run, or its folder, to go on with; ``auto`` is the recipe's own run where it has begun.
        on_log: Called with each line of the log as it is written; ``print`` shows progress.
        source: The file that the recipe was read from: the run keeps a copy. Left out, it keeps the recipe in full.

    Raises:
        InputError: The recipe, the images or the run to resume do not fit, or another process learns that run now.
        TrainingFault: The representation collapsed, or the loss is not finite.
        Stopped: A signal came; the checkpoint of that step is written.
    """
    text, recipe = recipe_text(recipe, source), with_bit_depth(recipe)
    named = None if resume is None or str(resume) == "auto" else open_run(resume)
    keys = result_keys(recipe)
    if named is None:
        check_run_folder(recipe)
    with ExitStack() as held:
        if named is not None and named.result is None:
            _hold(named, held)
            _check_resumed(named, keys)
        run = _learned(recipe, text, named, keys, auto=resume is not None, on_log=on_log, held=held)
    destroy_distributed()  # After the networks, which hold the group, are gone.
    return run


def _hold(run: Run, held: ExitStack) -> None:
    """Take the run's lock, for all processes of the run, until ``held`` is left."""
    if is_rank_zero():
        held.enter_context(sole_writer(run.path, "learned"))


def _learned(
    recipe: Recipe,
    text: str,
    named: Run | None,
    keys: dict[str, Any],
    *,
    auto: bool,
    on_log: OnLog | None,
    held: ExitStack,
) -> Run:
    parts = prepare(recipe)
    identity: dict[str, Any] = {"result_keys": keys, "images": parts.store.fingerprint}
    with local_rank_zero_first():
        evaluator = OnlineEvaluator(recipe, parts.splits, parts.store)
    run = named or run_of(recipe, parts.store.fingerprint)
    result, exists = run.result, run.path.exists()
    barrier()  # No process has changed the run's folder before each has looked.
    goes_on = bool(named or (result is None and exists and (auto or was_restarted())))
    threads = fix_threads(parts, run if goes_on else None) if result is None else 0
    precision = fix_precision(parts, run if goes_on else None) if result is None else "fp32"
    if goes_on:
        if named is None:
            _hold(run, held)
        parts = _go_on(run, parts, evaluator, identity)
    elif result is None and is_rank_zero():
        written = with_threads(recipe, threads) if recipe.machine.threads == "auto" else recipe
        known = threads if parts.learner.device.type == "cpu" else None
        with create_run(written, parts.store.fingerprint, text, threads=known, precision=precision) as made:
            _hold(made, held)
            keep_run_images(made, parts.splits, parts.store.digests)
            evaluator.write_grid(made.path / "plots" / "views.png")
            save_checkpoint(made.checkpoints, checkpoint_state(identity, parts.learner, evaluator, step=0), keep=1)
    if result is None:
        barrier()
        with _faults_kept(run):
            learn(parts, RunLogger(run, recipe, parts.sampler, parts.learner, evaluator, identity, on_log))
    elif result["state"] == "collapsed":
        raise TrainingFault(f"{run.path} collapsed by step {result['step']}; change the recipe, or remove the folder")
    return run


def _check_resumed(run: Run, keys: dict[str, Any]) -> None:
    """What is known of a run to go on with before its images are opened.

    Raises:
        InputError: There is no checkpoint, or it is of another recipe.
        ByoltError: Its folder cannot be written.
    """
    state = load_checkpoint(run.checkpoints)
    refuse_other_recipe(state, keys, state["images"], run.path)
    refuse_unwritable(run.path, f"copy {run.path} to it, and --resume the copy")


def _go_on(run: Run, parts: Parts, evaluator: OnlineEvaluator, identity: dict[str, Any]) -> Parts:
    """Take up a run where its last checkpoint left it; its sampler then begins there.

    Raises:
        InputError: There is no checkpoint, or it is of another recipe or other images.
        TrainingFault: torchrun starts again what ended by a fault of learning.
    """
    fault = read_json(run.path / _FAULT) or {}
    if was_restarted() and fault.get("job") == os.environ["TORCHELASTIC_RUN_ID"]:
        raise TrainingFault(f"not started again: {fault['fault']}")
    state = load_checkpoint(run.checkpoints)
    refuse_other_recipe(state, identity["result_keys"], identity["images"], run.path)
    parts.learner.restore(state)
    evaluator.restore(state["watch"])
    barrier()  # Each has read before the first one writes.
    if is_rank_zero():
        run.forget_after(state["step"])
        if not run.images_file.exists():  # Of an older byolt; the images were just found to be the run's.
            keep_run_images(run, parts.splits, parts.store.digests)
    return replace(parts, sampler=replace(parts.sampler, start_step=state["step"]))


@contextmanager
def _faults_kept(run: Run) -> Iterator[None]:
    """Write down what ends learning for good, so that torchrun's next start of the same job does not learn it again."""
    try:
        yield
    except TrainingFault as fault:
        if is_rank_zero() and "TORCHELASTIC_RUN_ID" in os.environ:
            write_json(run.path / _FAULT, {"job": os.environ["TORCHELASTIC_RUN_ID"], "fault": str(fault)})
        raise


def learn(parts: Parts, logger: RunLogger) -> None:
    """The loop: views, step, and at their times the log, the evaluation and the checkpoint."""
    sampler, learner, step = parts.sampler, parts.learner, parts.sampler.start_step
    most = batch_bound(parts)
    with StopSignals() as signals, logger, worker_faults():
        end_if_collapsed(logger, step)  # It may have been killed between its last checkpoint and its end.
        waiting_s = time.monotonic()
        for batch in batch_stream(sampler, parts.store, parts.recipe, learner.device):
            logger.waited(time.monotonic() - waiting_s)
            with within_memory(parts, most, logger.run):
                outcome = parts.stepper.step(step, batch)
            step += 1
            logger.note(outcome)
            if logger.log_is_due(step):
                logger.log(step, batch.epoch, outcome)
            evaluation_is_due = logger.evaluation_is_due(step)
            if evaluation_is_due:
                logger.evaluate(step, batch.epoch, outcome)
            # Clocks and signals differ between processes; what follows from them must not.
            checkpoint_is_due, received = all_reduce_max(logger.checkpoint_is_due(), signals.received or 0)
            if evaluation_is_due or checkpoint_is_due or received:
                logger.save(step)
            if evaluation_is_due:
                end_if_collapsed(logger, step)
            if received:
                barrier()  # torchrun ends all of them when one has ended; the first may still write.
                raise Stopped(
                    f"stopped by {signal.Signals(received).name} after step {step} of {sampler.steps}; the checkpoint "
                    f"is written, go on with {command_to_go_on(logger.run.path)}",
                    signal.Signals(received),
                )
            waiting_s = time.monotonic()
        logger.finish(step, lambda: write_encoder(logger.run, parts))


def end_if_collapsed(logger: RunLogger, step: int) -> None:
    """End a run whose verdict is complete collapse.

    Raises:
        TrainingFault: It is; the message says what to change.
    """
    verdict = logger.evaluator.monitor.verdict
    if verdict.state == "complete":
        logger.end("collapsed", step)
        raise TrainingFault(f"the representation collapsed by step {step}: {verdict.advice}")


def write_encoder(run: Run, parts: Parts) -> None:
    """The delivered encoder alone, under the plain module's names, with the lines that load it in its metadata."""
    method = parts.learner.method
    save_weights(method.eval_encoder, run.encoder_file, {"load": load_snippet(parts.recipe.model)})
    if method.eval_classifier is not None:
        save_classifier(run, Classifier(method.eval_encoder, method.eval_classifier), parts.store.classes)
