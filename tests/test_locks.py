"""One process writes in a run's folder at a time: held by a live process, free after a dead one, never in the way."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from byolt.locks import NAME, sole_writer, writer
from byolt.run import Run
from byolt.studies.ledger import Ledger
from byolt_export.errors import InputError

FORKS = """
import os, sys, time
from pathlib import Path
from byolt.locks import sole_writer
with sole_writer(Path(sys.argv[1]), "learned"):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


def take(folder: Path) -> None:
    with sole_writer(folder, "learned"):
        pass


def test_a_second_writer_is_told_who_is_at_work_and_since_when(tmp_path: Path) -> None:
    with sole_writer(tmp_path, "fine-tuned"):
        told = rf"{tmp_path} is being fine-tuned now by process {os.getpid()} since \d\d:\d\d; wait until it has ended"
        with pytest.raises(InputError, match=told):
            take(tmp_path)
        with pytest.raises(InputError, match=rf"{tmp_path} has no encoder yet: it is being fine-tuned now by process"):
            Run(tmp_path).encoder()
    assert writer(tmp_path) is None
    take(tmp_path)  # The file of the first is still there.


def test_of_another_host_and_another_day_and_without_a_word(tmp_path: Path) -> None:
    with sole_writer(tmp_path, "learned"):
        (tmp_path / NAME).write_text(
            '{"doing": "learned", "pid": 7, "host": "gpu4", "since": "2024-02-03T12:00:00+00:00"}'
        )
        told = writer(tmp_path)
        assert told is not None
        assert told.startswith("is being learned now by process 7 on gpu4 since 2024-02-0")
        for half in ("", '{"doing": "le', "[]", '{"doing": 1, "pid": 7, "host": "a", "since": 5}'):
            (tmp_path / NAME).write_text(half)
            assert str(writer(tmp_path)).startswith("is being written now by another process; wait")


def test_a_killed_process_holds_nothing_though_one_that_it_forked_lives_on(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", FORKS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        told = writer(tmp_path)
        assert told is not None
        assert f"by process {parent.pid} since" in told
        parent.kill()
        parent.wait()
        os.kill(child, 0)  # It is there, as a worker of the loader is for some seconds.
        take(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        parent.stdout.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EIO])
def test_a_file_system_without_locks_is_told_and_never_in_the_way(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", without)
    with caplog.at_level("INFO", logger="byolt"), sole_writer(tmp_path, "learned"):
        take(tmp_path)
        assert writer(tmp_path) is None
    assert f"{tmp_path}: this file system has no locks; see that no other process writes there" in caplog.messages
    ledger = Ledger(tmp_path / "rows.csv")
    ledger.append({"run": "a", "protocol": "b", "byolt": "c", "state": "finished"})
    assert [row["state"] for row in ledger.rows().values()] == ["finished"]


def test_a_folder_that_cannot_hold_the_file_is_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()  # As root may write where it is not allowed to.
    with ExitStack() as both:
        both.enter_context(sole_writer(tmp_path, "learned"))
        both.enter_context(sole_writer(tmp_path / "gone", "learned"))
    assert writer(tmp_path) is None
