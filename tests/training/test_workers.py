"""Workers that find too little shared memory or are lost: one sentence, and never a wait without end."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.util import register_after_fork
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.conftest import tiny_recipe
from tests.training.test_loader import streamed

from byolt.data import FolderSource, open_store
from byolt.data.sampler import Batch, BatchSampler
from byolt.recipe.schema import Recipe
from byolt.training.loader import batch_stream
from byolt.training.workers import needed_bytes, next_batch, refuse_little_shared_memory, shared, worker_faults
from byolt_export.errors import ByoltError

CPU = torch.device("cpu")


def of_two_workers(**sections: Any) -> Recipe:
    return tiny_recipe(machine={"workers": 2}, **sections)


def test_the_shared_memory_that_is_needed_by_hand() -> None:
    # 16 images of 16 x 16 x 3 = 12288 bytes, 3 pages; keys and labels a page each; 2 x 2 batches ahead and 2 in use.
    # Three queues (two workers' and the results') of 8 pages.
    assert needed_bytes(of_two_workers(), 2) == (6 * (3 + 2) + 3 * 8) * 4096
    # Two views of 20 images of 8 x 8 x 3 = 3840 bytes, a page each.
    small = of_two_workers(optim={"batch_size": 20}, views={"backend": "albumentations", "size_px": 8})
    assert needed_bytes(small, 1) == (4 * (2 + 2) + 2 * 8) * 4096


def test_processes_of_one_machine_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    of_torchrun = {"RUN_ID": "job", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (of_torchrun | {"MASTER_ADDR": "a", "MASTER_PORT": "1"}).items():
        monkeypatch.setenv("TORCHELASTIC_RUN_ID" if name == "RUN_ID" else name, value)
    # 4 images a process in a page; 24 + 24 pages as above: 42 each.
    needed = (6 * (1 + 2) + 24) * 4096
    assert needed_bytes(of_two_workers(), 2) == needed
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_bavail=2 * needed - 1, f_frsize=1))
    with pytest.raises(ByoltError, match="2 workers need 0.3 MB there"):
        refuse_little_shared_memory(of_two_workers())
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_bavail=2 * needed, f_frsize=1))
    refuse_little_shared_memory(of_two_workers())


def test_too_little_room_is_told_with_the_workers_that_would_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_bavail=64 << 20, f_frsize=1))  # Docker's.
    recipe = tiny_recipe(
        machine={"workers": 4}, data={"name": "synthetic", "image_size_px": 224}, optim={"batch_size": 64}
    )
    # 64 x 224 x 224 x 3 = 9.63 MB a batch: ten of them for four workers, six for two, and four for one.
    with pytest.raises(ByoltError) as fault:
        refuse_little_shared_memory(recipe, tmp_path)
    assert fault.value.exit_code == 1
    assert str(fault.value) == (
        f"{tmp_path} has 67.1 MB free, and 4 workers need 96.6 MB there for batches of 64 images; "
        "start the container with --shm-size=128m, or give --set machine.workers=2"
    )
    refuse_little_shared_memory(recipe.model_copy(update={"machine": recipe.machine.model_copy(update={"workers": 0})}))


def test_a_system_without_the_folder_is_not_measured(tmp_path: Path) -> None:
    refuse_little_shared_memory(of_two_workers(), tmp_path / "gone")


def test_a_batch_that_finds_no_room_is_a_sentence_and_not_lost(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))  # Of shared memory too.
    images = torch.zeros(2, 512, 512, 3, dtype=torch.uint8)
    try:
        with pytest.raises(ByoltError, match=r"found no place in shared memory \(File too large") as fault:
            shared(Batch(0, torch.arange(2).numpy(), torch.arange(2), images=images))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "--shm-size, or give --set machine.workers=0, and go on with --resume auto" in str(fault.value)


def test_a_batch_that_finds_no_room_in_a_worker_ends_the_stream(tmp_path: Path) -> None:
    streamed(tmp_path)
    store = open_store(
        FolderSource(tmp_path / "images"), 512, "crop", budget_gb=0, cache_dir=tmp_path / "c", corrupt_limit=0.0
    )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(ByoltError, match="found no place in shared memory"):
            list(batch_stream(BatchSampler(len(store), 8, 1, seed=0), store, of_two_workers(), CPU))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def children() -> set[int]:
    own = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in own if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()}


# torch tells of it in a signal's handler, which may run while the loader is being taken down.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_worker_is_a_sentence_and_a_signal_to_all_processes_leaves_the_workers(tmp_path: Path) -> None:
    store, before = streamed(tmp_path), children()
    stream = batch_stream(BatchSampler(len(store), 8, 100, seed=0), store, of_two_workers(), CPU)
    next(stream), next(stream)  # One of each.
    workers = children() - before
    assert len(workers) == 2
    for name in ("TERM", "HUP", "INT"):  # By another process, as a batch system does.
        subprocess.run(["kill", f"-{name}", *map(str, workers)], check=True)
    assert len([next(stream) for _ in range(20)]) == 20

    def lose_one() -> None:
        with worker_faults():
            os.kill(min(workers), signal.SIGKILL)
            list(stream)

    how = "killed by signal: Killed|exited unexpectedly|it ended"
    told = rf"a worker that reads images was lost \(({how})\): .* go on with --resume auto"
    with pytest.raises(ByoltError, match=told):
        lose_one()


def test_a_thread_that_begins_before_the_worker_s_own_lines_is_not_ended_either(tmp_path: Path) -> None:
    class Begun:
        """For whose sake a thread begins in each forked process, as by garbage that is collected there."""

    begun, store, before = Begun(), streamed(tmp_path), children()
    register_after_fork(begun, lambda _: threading.Thread(target=time.sleep, args=(100,), daemon=True).start())
    stream = batch_stream(BatchSampler(len(store), 8, 100, seed=0), store, of_two_workers(), CPU)
    next(stream), next(stream)
    del begun
    for worker in children() - before:
        subprocess.run(["kill", "-TERM", str(worker)], check=True)
    assert len([next(stream) for _ in range(20)]) == 20
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_how_a_worker_ended_is_told_though_its_batch_is_missed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch tells of it from a signal's handler, wherever the process is by then."""

    def tell(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 42) is killed by signal: Killed. ")

    def missed(seconds: float) -> Iterator[None]:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        raise ConnectionResetError
        yield

    before = signal.signal(signal.SIGALRM, tell)
    try:
        with pytest.raises(ByoltError, match=r"was lost \(killed by signal: Killed\): memory"):
            next_batch(missed(0.2))
    finally:
        signal.signal(signal.SIGALRM, before)
    monkeypatch.setattr("byolt.training.workers._TOLD_WITHIN_S", 0.0)
    with pytest.raises(ByoltError, match=r"was lost \(it ended\): memory"):
        next_batch(missed(0.0))


def test_a_process_that_fails_ends_its_workers(tmp_path: Path) -> None:
    """The stream is still held when it exits, as by a traceback."""
    program = f"""if True:
        from pathlib import Path
        from tests.training.test_loader import streamed
        from tests.training.test_workers import CPU, of_two_workers
        from byolt.data.sampler import BatchSampler
        from byolt.training.loader import batch_stream
        store = streamed(Path({str(tmp_path)!r}))
        stream = batch_stream(BatchSampler(len(store), 8, 100, seed=0), store, of_two_workers(), CPU)
        next(stream)
        raise SystemExit(3)
    """
    paths = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", program], env=environment, timeout=120, check=False)
    assert done.returncode == 3


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("DataLoader worker (pid 42) is killed by signal: Bus error. It is possible", "killed by signal: Bus error"),
        ("DataLoader worker (pid(s) 4, 5) exited unexpectedly", "exited unexpectedly"),
        ("received 0 items of ancdata", "ulimit -n allows no more open files"),
    ],
)  # fmt: skip
def test_what_torch_says_of_a_lost_worker(said: str, told: str) -> None:
    with pytest.raises(ByoltError) as fault, worker_faults():
        raise RuntimeError(said)
    assert str(fault.value).startswith(f"a worker that reads images was lost ({told}): memory or shared memory")


def test_the_wait_for_a_batch_has_an_end() -> None:
    class Never:
        asked = 0

        def __iter__(self) -> "Never":
            return self

        def __next__(self) -> None:
            self.asked += 1
            if self.asked == 3:
                raise StopIteration
            raise RuntimeError("DataLoader timed out after 5.0 seconds")

    assert next_batch(Never()) is None  # It was asked again, twice.
    with pytest.raises(ByoltError, match="no batch came from the workers in 0 minutes; look whether the images"):
        next_batch(Never(), patience_s=0.0)
