"""Learn and measure the runs of a study, several at a time, each in a process of its own."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, TypeVar

from byolt.cores import usable_cores
from byolt.data import ImageStore, open_splits, store_of
from byolt.device import precision_for
from byolt.doctor.step_speeds import default_threads
from byolt.environment import environment, typed_again
from byolt.evaluation.evaluate import evaluation_store
from byolt.preflight import check_recipe, check_run_folder, refuse_too_many, refuse_unwritable
from byolt.recipe.schema import Recipe
from byolt.run import Run, learned_for_s, run_of
from byolt.studies.ledger import PROTOCOL, Key, Ledger, Row, key_of
from byolt.studies.plan import Arm, Job
from byolt.training.precision import precision_of
from byolt.training.prepare import prepare
from byolt.training.signals import StopSignals
from byolt_export.errors import ByoltError, InputError, Stopped, TrainingFault

OnLog = Callable[[str], None]
J = TypeVar("J")
K = TypeVar("K")
_POLL_S = 1.0
_told_to_stop = Event()
"""Of a process of the pool."""


class Answer(NamedTuple):
    """What a process sends back: a row, or the fault in words."""

    row: dict[str, Any] | None
    fault: str = ""


class RowsMissing(Exception):
    """Not all rows of a protocol are there, and they are only read."""


def complete(
    jobs: Sequence[Job],
    fingerprint: str,
    ledger: Ledger,
    *,
    at_once: int,
    on_log: OnLog,
    protocol: int = PROTOCOL,
    only_read: bool = False,
) -> dict[Key, Row]:
    """The rows of all jobs: those that the ledger has, and the rest learned, measured and appended.

    A collapsed run is a result like any other. An unfinished run goes on from its checkpoint.

    Args:
        jobs: What is wanted; equal ones are learned once.
        fingerprint: Of the images to learn from.
        ledger: Where rows are kept.
        at_once: Processes.
        on_log: Called with a line for each run.
        protocol: Of the ledger's rows; those of an earlier one can only be read.
        only_read: Learn and measure nothing.

    Raises:
        RowsMissing: They are only read, and not all of them are there.
        ByoltError: A run could not be made; the rows of the others are kept.
        Stopped: A signal came; the runs at hand have written their checkpoints.
    """
    rows = ledger.rows()
    wanted = {key_of(job, fingerprint, protocol): job for job in jobs}
    missing = {key: job for key, job in wanted.items() if key not in rows}
    if missing and only_read:
        raise RowsMissing
    if missing:
        known = len(wanted) - len(missing)
        on_log(f"{len(wanted)} runs, {known} of them known; learning {len(missing)}, {at_once} at once")
    for done, (key, row, left_s) in enumerate(in_processes(learn_and_measure, missing, at_once), start=1):
        ledger.append(key._asdict() | row)
        job = missing[key]
        on_log(f"{done}/{len(missing)} {job}: {_told(row)}; {left_s / 60:.0f} min left")
    rows = ledger.rows()
    return {key: rows[key] for key in wanted}


def in_processes(
    make: Callable[[J], dict[str, Any]], jobs: Mapping[K, J], at_once: int
) -> Iterator[tuple[K, dict[str, Any], float]]:
    """Each job's key and row as it ends, and the seconds that the rest will take; ``at_once`` processes.

    Raises:
        ByoltError: A row could not be made; no further job is begun.
        Stopped: A signal came; the jobs at hand have ended where they can go on.
    """
    started_s, done = time.monotonic(), 0
    with StopSignals() as signals, ProcessPoolExecutor(at_once, multiprocessing.get_context("spawn")) as pool:
        pending = {pool.submit(answer, job, make): key for key, job in jobs.items()}
        while pending:
            finished, _ = wait(pending, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            if signals.received:
                _stop(pool, signals.received)
            for future in finished:
                key, row = pending.pop(future), _row(future, pool)
                done += 1
                yield key, row, (time.monotonic() - started_s) / done * len(pending)


def _row(future: "Future[Answer]", pool: Executor) -> dict[str, Any]:
    """The row of a run; after a fault no further run is begun, and those at hand stop at a checkpoint."""
    try:
        answered = future.result()
    except BrokenProcessPool as error:
        line = typed_again("--jobs", 1, of=("study", "ablate"), without="--jobs") or "one of the --jobs at a time"
        raise ByoltError(
            f"the process of a run was killed, by the system if memory ran out; go on with {line}"
        ) from error
    if answered.row is not None:
        return answered.row
    pool.shutdown(wait=False, cancel_futures=True)
    for child in multiprocessing.active_children():
        child.terminate()
    raise ByoltError(answered.fault)


def _stop(pool: Executor, received: signal.Signals) -> None:
    """Let the runs at hand write their checkpoints, then stop."""
    for child in multiprocessing.active_children():
        if child.pid is not None:
            os.kill(child.pid, received)
    pool.shutdown(wait=True, cancel_futures=True)
    raise Stopped(f"stopped by {received.name}; rows of finished runs are kept, and the same command goes on", received)


def answer(job: J, make: Callable[[J], dict[str, Any]]) -> Answer:
    """The row that ``make`` makes of a job, in a process of the pool; faults come back as words.

    After a signal no further one is begun: the pool has handed out more than it runs, and cannot take it back.
    """
    if _told_to_stop.is_set():
        return Answer(None, "not begun")
    try:
        return Answer(make(job))
    except ByoltError as error:
        if isinstance(error, Stopped):
            _told_to_stop.set()
        return Answer(None, f"{job}: {error}")


def learn_and_measure(job: Job) -> dict[str, Any]:
    """The row of one run, but for its key."""
    from byolt.studies.measure import measure
    from byolt.training.loop import pretrain

    recipe = job.recipe
    started_s = time.monotonic()
    run = run_of(recipe, learning_fingerprint(recipe))
    refuse_other_precision(run, recipe)
    state = "finished"
    try:
        pretrain(recipe, resume="auto")
    except TrainingFault:  # It is a result: its row says so.
        state = "collapsed" if run.result is not None else "diverged"
    learn_s = (learned_for_s(run.log_records()) or 0.0) if state != "diverged" else time.monotonic() - started_s
    made = environment()
    row = {
        "role": job.role,
        "arm": job.arm,
        "method": recipe.method.name,
        "seed": recipe.seed,
        "state": state,
        "epochs": recipe.schedule.epochs,
        "precision": precision_for(recipe.machine.precision, recipe.machine.device),
        "learn_s": round(learn_s),
        "torch": made["packages"].get("torch", ""),
        "processor": made["processor"],
        "commit": made["commit"] or "",
        "date": made["started"][:10],
    }
    return row if state == "diverged" else row | measure(run, job)


def refuse_other_precision(run: Run, recipe: Recipe) -> None:
    """Refuse a run that is there and was learned in another arithmetic: a study's rows tell what each was.

    Raises:
        InputError: It was.
    """
    own, wanted = precision_of(run), precision_for(recipe.machine.precision, recipe.machine.device)
    if own not in (None, wanted):
        raise InputError(
            f"{run.path} was learned in {own}, and the study learns in {wanted}: keep its runs apart with "
            f"--set machine.runs_dir=runs-{wanted}"
        )


def learning_fingerprint(recipe: Recipe) -> str:
    """Of the images that a recipe learns from."""
    return learning_store(recipe).fingerprint


def learning_store(recipe: Recipe) -> ImageStore:
    """The images that a recipe learns from, which are decoded here where they were not yet."""
    data = recipe.data
    return store_of(open_splits(data, recipe.seed).learn, data, data.learn_size_px)


def _told(row: dict[str, Any]) -> str:
    metrics = [
        f"{name} {float(row[name]):.1%}"
        for name in ("validation", "linear", "knn", "classifier", "finetuned")
        if row.get(name) not in (None, "")
    ]
    return ", ".join([str(row["state"]), *metrics, f"{float(row['learn_s']) / 60:.1f} min"])


def ledger_of(results: Path, recipe: Recipe) -> Ledger:
    """The rows of every study and ablation of a recipe."""
    return Ledger(results / f"{recipe.name}.csv")


def decode_all(recipe: Recipe) -> ImageStore:
    """Decode what every run needs before several ask for it at once; the images to learn from.

    Raises:
        InputError: The set has no labels, by which a study compares.
    """
    splits = open_splits(recipe.data, recipe.seed)
    if splits.train is None or splits.test is None:
        raise InputError(f"{recipe.name}: a study compares by labels; give the images in one sub-folder per class")
    for source in (splits.train, splits.test):
        evaluation_store(source, recipe)
    return learning_store(recipe)


def check_study(arms: Sequence[Arm], results: Path, jobs: int | None) -> None:
    """What can be known of every run before an image is opened.

    Args:
        arms: Of the whole study, those that validation chooses from too.
        results: Folder of the CSV.
        jobs: Runs at a time, where it was said.

    Raises:
        InputError: Networks, threads, workers or runs at a time do not fit this machine; arms compute in several
            precisions; the CSV has other columns.
        ByoltError: A folder cannot be written.
    """
    refuse_too_many("--jobs", jobs or 1, "runs")
    refuse_unwritable(results, "--results DIR")
    if len({arm.recipe.machine.precision for arm in arms}) > 1:
        raise InputError("study: machine.precision is one for all arms, or arithmetic is compared with method")
    alike: dict[str, Recipe] = {}
    for recipe in (arm.recipe for arm in arms):
        alike.setdefault(repr((recipe.model, recipe.views, recipe.data.image_size_px)), recipe)
    for recipe in alike.values():
        check_run_folder(recipe)
        check_recipe(recipe)
    ledger_of(results, arms[0].recipe).rows()


def at_once_default(recipe: Recipe) -> int:
    """As many runs as fit the cores, where the recipe says how many threads each takes; else one."""
    threads = recipe.machine.threads
    if not isinstance(threads, int) or recipe.machine.device == "cuda":
        return 1
    return max(1, usable_cores() // threads)


def with_one_number_of_threads(recipe: Recipe, on_log: OnLog) -> Recipe:
    """The recipe with the number of threads that every run of a study learns with.

    ``auto`` takes that of a run of this recipe that was made on such a processor, else it measures.
    """
    from byolt.training.threads import fix_threads, with_threads

    if isinstance(recipe.machine.threads, int):
        return recipe
    if recipe.machine.threads == "auto":
        here = environment()["processor"]
        ended = recipe.machine.runs_dir.glob(f"{recipe.name}-*/result.json")
        earlier = [Run(path.parent).environment for path in ended]
        known = [made["threads"] for made in earlier if made.get("processor") == here and "threads" in made]
        threads = max(known, key=known.count) if known else fix_threads(prepare(recipe), None)
    else:
        threads = default_threads()
    on_log(f"every run learns with {threads} threads (machine.threads)")
    return with_threads(recipe, threads)
