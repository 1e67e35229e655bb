"""The loader's workers: the shared memory that they need, how long they are waited for, and what a lost one becomes.

A worker hands its batch over in shared memory. Containers have 64 MB of it by default: where a batch finds no room
there, torch's own way loses it in a thread of the worker, and the loader waits for ever.
"""

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import DataLoader

from byolt.data.sampler import Batch
from byolt.launch import launch
from byolt_export.errors import ByoltError

if TYPE_CHECKING:
    from byolt.recipe.schema import Recipe

SHARED_MEMORY = Path("/dev/shm")
PREFETCH = 2
"""Batches that each worker is ahead."""
ASK_EVERY_S = 5.0
"""How often the loader looks whether its workers live while it waits."""
_PATIENCE_S = 1800.0
_TOLD_WITHIN_S = 5.0  # By then torch's handler of SIGCHLD has raised for a worker that is gone.
_HOLDS_SIGTERM = hasattr(signal, "sigwaitinfo")  # Not on macOS: there a worker ends by it at once.
_HELD = 2  # Batches that the main process has at a time: of the step at hand, and the next.
_PAGE_BYTES = 4096
_QUEUE_BYTES = 8 * _PAGE_BYTES  # A worker's queue and its locks.
_LATE = object()
_LOST_WORDS = ("DataLoader worker", "received 0 items of ancdata")


def needed_bytes(recipe: "Recipe", workers: int) -> int:
    """Shared memory of one process's loader: every batch that its workers are ahead, and those in use."""
    images = -(-recipe.optim.batch_size // launch().processes)
    of_numbers = 2 * _pages(8 * images)  # Keys of the views, and labels.
    if recipe.views.backend == "albumentations":
        batch = 2 * _pages(images * recipe.view_size_px**2 * 3)
    else:
        batch = _pages(images * recipe.data.learn_size_px**2 * recipe.data.pixel_bytes)
    return (workers * PREFETCH + _HELD) * (batch + of_numbers) + (workers + 1) * _QUEUE_BYTES


def _pages(size_bytes: int) -> int:
    return -(-size_bytes // _PAGE_BYTES) * _PAGE_BYTES


def refuse_little_shared_memory(recipe: "Recipe", folder: Path = SHARED_MEMORY) -> None:
    """See that the workers' batches find room in shared memory, with those of the machine's other processes.

    Args:
        recipe: What is to be learned.
        folder: Where the system keeps shared memory; one that is not there is not measured.

    Raises:
        ByoltError: They do not; the message says how many workers would fit.
    """
    workers = recipe.machine.workers
    free = _free_bytes(folder)
    if not workers or free is None:
        return
    processes = launch().on_machine
    needed = processes * needed_bytes(recipe, workers)
    if needed <= free:
        return
    fewer = next((n for n in range(workers - 1, 0, -1) if processes * needed_bytes(recipe, n) <= free), 0)
    wanted_mib = 2 ** math.ceil(math.log2(needed * 1.25 / 2**20))
    raise ByoltError(
        f"{folder} has {free / 1e6:,.1f} MB free, and {workers} workers need {needed / 1e6:,.1f} MB there for batches "
        f"of {recipe.optim.batch_size} images; start the container with --shm-size={max(wanted_mib, 64)}m, or give "
        f"--set machine.workers={fewer}"
    )


def _free_bytes(folder: Path) -> int | None:
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def shared(batch: Batch) -> Batch:
    """A worker's batch in shared memory.

    Raises:
        ByoltError: It finds no room there.
    """
    try:
        return batch.mapped(Tensor.share_memory_)
    except (RuntimeError, OSError) as error:
        why = str(error).strip().splitlines()[0].rpartition(": ")[2]
        raise ByoltError(
            f"a worker's batch found no place in shared memory ({why}); {_WAYS_OUT}, and go on with --resume auto"
        ) from error


_WAYS_OUT = "start the container with a larger --shm-size, or give --set machine.workers=0"


def leave_stopping_to_the_loader(worker: int) -> None:
    """In a worker: signals that a terminal or a batch system sends to all processes must not end it before the step."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if _HOLDS_SIGTERM:  # Blocked since it began, see `started`.
        threading.Thread(target=_end_with_the_loader, daemon=True).start()


def _end_with_the_loader() -> None:
    """The loader's process ends its workers by SIGTERM too, and waits for them as it exits: the sender tells which."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)


def started(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches, its workers begun.

    Raises:
        ByoltError: The system has no process, or no shared memory for their queues.
    """
    if not loader.num_workers:
        return iter(loader)
    # Inherited, it holds for every thread of a worker: some begin before the worker's own first line, where garbage of
    # this process is collected there. The tracker unblocks SIGTERM as it begins, which is else with the first queue.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM} if _HOLDS_SIGTERM else ())
    try:
        return iter(loader)
    except OSError as error:
        raise ByoltError(f"{loader.num_workers} workers cannot be started ({error.strerror}); {_WAYS_OUT}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def next_batch(batches: Iterator[Any], patience_s: float = _PATIENCE_S) -> Any:
    """The next batch, None after the last.

    Raises:
        ByoltError: None has come in ``patience_s``, or a worker is lost.
    """
    until_s = time.monotonic() + patience_s
    while (batch := _next(batches)) is _LATE:
        if time.monotonic() >= until_s:
            raise ByoltError(
                f"no batch came from the workers in {patience_s / 60:,.0f} minutes; look whether the images can be "
                "read, give --set machine.workers=0, and go on with --resume auto"
            )
    return batch


def _next(batches: Iterator[Any]) -> Any:
    """What is there within ``ASK_EVERY_S``, or ``_LATE``; the iterator can be asked again after a time out."""
    try:
        with worker_faults():
            return next(batches, None)
    except RuntimeError as error:
        if "DataLoader timed out" in str(error):
            return _LATE
        raise
    except (ConnectionError, EOFError) as error:  # The batch was announced, and its worker gone before it was fetched.
        with worker_faults():  # Else torch's error, a moment later, ends whatever line is reached by then.
            time.sleep(_TOLD_WITHIN_S)
        raise _lost("it ended") from error


@contextmanager
def worker_faults() -> Iterator[None]:
    """What torch raises of a lost worker, at whatever line the main process is, as one sentence.

    Raises:
        ByoltError: A worker was lost inside.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in _LOST_WORDS):
            raise
        said = str(error).strip().splitlines()[0]
        how = said.rpartition(") ")[2].partition(". ")[0].rstrip(" .").removeprefix("is ")
        how = "ulimit -n allows no more open files" if "ancdata" in str(error) else how
        raise _lost(how) from error


def _lost(how: str) -> ByoltError:
    return ByoltError(
        f"a worker that reads images was lost ({how}): memory or shared memory ran out, or it was killed; lower "
        "machine.workers or start the container with a larger --shm-size, and go on with --resume auto"
    )
