"""The run from a recipe to a learned encoder: prepare, then numbered steps, then the encoder's file.

Started by torchrun, every process runs all of this on its part of each batch; the first alone writes.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from byolt.data import ImageStore, Splits, open_splits, store_of
from byolt.data.subsets import stratified_subset
from byolt.device import pick_device
from byolt.distributed.process_group import first_on_its_machine, is_first, join, largest, leave, meet, was_restarted
from byolt.evaluation.finetune import Classifier, save_classifier
from byolt.files import read_json, write_json
from byolt.networks.encoders import load_snippet, save_weights
from byolt.recipe.load import result_keys
from byolt.recipe.schema import Recipe
from byolt.run import Run, create_run, run_of
from byolt.training.allocator import keep_freed_memory
from byolt.training.checkpoint import load_checkpoint, refuse_other_recipe, save_checkpoint
from byolt.training.cuda_graph import Stepper, captures
from byolt.training.logger import Journal, checkpoint_state
from byolt.training.memory import within_memory
from byolt.training.online_eval import Watch
from byolt.training.signals import StopSignals
from byolt.training.step import Learner
from byolt.training.stream import Labelled, Plan, batch_stream
from byolt_export.errors import Stopped, TrainingFault

_FAULT = "fault.json"
"""In a run's folder: what ended its learning, and under which job of torchrun."""


@dataclass
class Parts:
    """What a run is made of, before its first step."""

    recipe: Recipe
    splits: Splits
    store: ImageStore
    plan: Plan
    learner: Learner
    stepper: Stepper


def pretrain(recipe: Recipe, recipe_text: str, *, resume: Path | Literal["auto"] | None, console: Console) -> Run:
    """Learn an encoder by the recipe, from the first step or from a run's last checkpoint.

    A run that has ended is not learned again: it is returned as it is. ``resume`` is an unfinished run's folder;
    ``auto`` is the recipe's own folder where there is one, else the run starts at its first step.

    Raises:
        InputError: The recipe, the images or the run to resume do not fit.
        TrainingFault: The representation collapsed, or the loss is not finite.
        Stopped: A signal came; the checkpoint of that step is written.
    """
    parts = prepare(recipe)
    identity: dict[str, Any] = {"result_keys": result_keys(recipe), "images": parts.store.fingerprint}
    with first_on_its_machine():
        watch = Watch(recipe, parts.splits, parts.store)
    run = Run(resume) if isinstance(resume, Path) else run_of(recipe, parts.store.fingerprint)
    result, exists = run.result, run.path.exists()
    meet()  # No process has changed the run's folder before each has looked.
    if isinstance(resume, Path) or (result is None and exists and (resume == "auto" or was_restarted())):
        _go_on(run, parts, watch, identity)
    elif result is None and is_first():
        with create_run(recipe, parts.store.fingerprint, recipe_text) as made:
            watch.write_grid(made.path / "plots" / "views.png")
            save_checkpoint(made.checkpoints, checkpoint_state(identity, parts.learner, watch, step=0), keep=1)
    if result is None:
        meet()
        with within_memory(parts, run), _faults_kept(run):
            learn(parts, Journal(run, recipe, parts.plan, parts.learner, watch, identity, console))
    elif result["state"] == "collapsed":
        raise TrainingFault(f"{run.path} collapsed by step {result['step']}; change the recipe, or remove the folder")
    leave()
    return run


def _go_on(run: Run, parts: Parts, watch: Watch, identity: dict[str, Any]) -> None:
    """Take up a run where its last checkpoint left it.

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
    watch.restore(state["watch"])
    parts.plan.start_step = state["step"]
    meet()  # Each has read before the first one writes.
    if is_first():
        run.forget_after(state["step"])


@contextmanager
def _faults_kept(run: Run) -> Iterator[None]:
    """Write down what ends learning for good, so that torchrun's next start of the same job does not learn it again."""
    try:
        yield
    except TrainingFault as fault:
        if is_first() and "TORCHELASTIC_RUN_ID" in os.environ:
            write_json(run.path / _FAULT, {"job": os.environ["TORCHELASTIC_RUN_ID"], "fault": str(fault)})
        raise


def prepare(recipe: Recipe) -> Parts:
    """Open the images and build the networks; nothing is written but the cache of decoded images.

    Raises:
        InputError: Images, model or batch size do not fit; one sentence says where and what.
    """
    join(recipe.machine.device)
    configure_torch(recipe)
    data, optim = recipe.data, recipe.optim
    with first_on_its_machine():
        splits = open_splits(data, recipe.seed)
        store = store_of(splits.learn, data, data.learn_size_px)
    plan = Plan(
        len(store),
        optim.batch_size,
        recipe.schedule.epochs,
        recipe.seed,
        labelled=labelled_part(store, recipe),
        parts=optim.accumulate,
        order=store.order,
    )
    device = pick_device(recipe.machine.device)
    captured = captures(recipe, device)
    learner = Learner(
        recipe,
        device,
        steps=plan.steps,
        steps_per_epoch=plan.steps_per_epoch,
        classes=len(store.classes),
        device_rates=captured,
    )
    return Parts(recipe, splits, store, plan, learner, Stepper(learner, recipe, captured=captured))


def labelled_part(store: ImageStore, recipe: Recipe) -> Labelled | None:
    """The labels that the recipe's method is given: a stratified share, a function of the seed; None without any."""
    share = recipe.method.share_of_labels
    if share is None or store.labels is None:
        return None
    chosen = stratified_subset(store.labels, share, recipe.seed)
    return Labelled(chosen, store.labels[chosen], recipe.method.labelled_in(recipe.optim.batch_size))


def configure_torch(recipe: Recipe) -> None:
    """Threads, arithmetic and memory of the process, by the recipe."""
    if pick_device(recipe.machine.device).type == "cpu":
        keep_freed_memory()
    if recipe.machine.threads is not None:
        torch.set_num_threads(recipe.machine.threads)
    torch.use_deterministic_algorithms(recipe.machine.deterministic)
    torch.backends.cudnn.benchmark = not recipe.machine.deterministic


def learn(parts: Parts, journal: Journal) -> None:
    """The loop: views, step, and at their times the log, the evaluation and the checkpoint."""
    plan, learner, step = parts.plan, parts.learner, parts.plan.start_step
    with StopSignals() as signals, journal:
        end_if_collapsed(journal, step)  # It may have been killed between its last checkpoint and its end.
        waiting_s = time.monotonic()
        for batch in batch_stream(plan, parts.store, parts.recipe, learner.device):
            journal.waited(time.monotonic() - waiting_s)
            outcome = parts.stepper.step(step, batch)
            step += 1
            journal.note(outcome)
            if journal.log_is_due(step):
                journal.log(step, batch.epoch, outcome)
            evaluation_is_due = journal.evaluation_is_due(step)
            if evaluation_is_due:
                journal.evaluate(step, batch.epoch, outcome)
            # Clocks and signals differ between processes; what follows from them must not.
            checkpoint_is_due, received = largest(journal.checkpoint_is_due(), signals.received or 0)
            if evaluation_is_due or checkpoint_is_due or received:
                journal.save(step)
            if evaluation_is_due:
                end_if_collapsed(journal, step)
            if received:
                raise Stopped(
                    f"stopped by {signal.Signals(received).name} after step {step} of {plan.steps}; the checkpoint is "
                    f"written, go on with --resume {journal.run.path}",
                    signal.Signals(received),
                )
            waiting_s = time.monotonic()
        if is_first():
            write_encoder(journal.run, parts)
        journal.end("finished", step)


def end_if_collapsed(journal: Journal, step: int) -> None:
    """End a run whose verdict is complete collapse.

    Raises:
        TrainingFault: It is; the message says what to change.
    """
    verdict = journal.watch.monitor.verdict
    if verdict.state == "complete":
        journal.end("collapsed", step)
        raise TrainingFault(f"the representation collapsed by step {step}: {verdict.advice}")


def write_encoder(run: Run, parts: Parts) -> None:
    """The delivered encoder alone, under the plain module's names, with the lines that load it in its metadata."""
    method = parts.learner.method
    save_weights(method.eval_encoder, run.encoder_file, {"load": load_snippet(parts.recipe.model)})
    if method.eval_classifier is not None:
        save_classifier(run, Classifier(method.eval_encoder, method.eval_classifier), parts.store.classes)
