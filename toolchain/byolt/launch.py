"""Which process of a job this is, by the variables that torchrun sets; imports no torch.

Other launchers set some of the same variables, and torchrun alone ends every process when one is lost: without it a
process learns alone, and says so.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from byolt_export.errors import InputError

_LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)
_PRECEDENCE_S, _PAUSE_S = 1.0, 0.05
_TORCHRUN = "torchrun --nproc-per-node=N -m byolt pretrain RECIPE"


class Launch(NamedTuple):
    """Of all processes of a job, which this is."""

    rank: int
    local_rank: int
    """On its machine."""
    processes: int
    on_machine: int


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch() -> Launch:
    """What torchrun says of this process; one alone without it.

    Raises:
        InputError: A variable of torchrun's is gone, or is none of its numbers.
    """
    if not under_torchrun():
        return Launch(0, 0, 1, 1)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise InputError(f"torchrun started this process, but {name} is not set: leave its variables alone")
    rank, processes = _rank_and_size("RANK", "WORLD_SIZE")
    on_machine = _number("LOCAL_WORLD_SIZE")
    local_rank = _number("LOCAL_RANK")
    assert rank is not None
    assert local_rank is not None
    assert processes is not None
    return Launch(rank, local_rank, processes, processes if on_machine is None else on_machine)


def other_launcher() -> str | None:
    """Without torchrun: what a launcher's variables say of several processes, which does not hold; None where nothing.

    Raises:
        InputError: RANK or WORLD_SIZE is no number that it can be, or they describe a whole job of several processes.
    """
    _rank_and_size("RANK", "WORLD_SIZE")
    for rank_name, size_name in _LAUNCHERS:
        named = [f"{name}={os.environ[name]}" for name in (rank_name, size_name) if os.environ.get(name)]
        size = os.environ.get(size_name, "")
        # Batch systems tell each job its size, so that alone says nothing where a rank belongs to it.
        several = size.isdecimal() and int(size) > 1 and (size_name == "WORLD_SIZE" or os.environ.get(rank_name))
        if several or os.environ.get(rank_name, "0") not in ("", "0"):
            return _told(" and ".join(named), int(size) if several else 1, rank_name)
    return None


def _told(named: str, processes: int, rank_name: str) -> str:
    whole = all(os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    if rank_name == "RANK" and processes > 1 and whole:
        raise InputError(
            f"{named} describe {processes} processes that learn together, which torchrun has to start: {_TORCHRUN}; "
            "unset WORLD_SIZE to learn in this process alone"
        )
    return f"{named}, but torchrun did not start this process: it learns alone (several: {_TORCHRUN})"


def _rank_and_size(rank_name: str, size_name: str) -> tuple[int | None, int | None]:
    rank, size = _number(rank_name), _number(size_name)
    if size == 0 or (rank is not None and size is not None and rank >= size):
        raise InputError(f"{rank_name}={rank} is no rank of {size_name}={size}; unset both, or start with {_TORCHRUN}")
    return rank, size


def _number(name: str) -> int | None:
    text = os.environ.get(name, "").strip()
    if text and not text.isdecimal():
        raise InputError(f"{name}={text} is no whole number from 0 on; unset it, or start with {_TORCHRUN}")
    return int(text) if text else None


def speaks(*, at_once: bool = False) -> bool:
    """Whether this process is the one that tells what ended the job: of torchrun's on a machine the first that asks.

    Where all meet it rank 0 does: the others wait a moment for it, and so does torchrun, which ends every process when
    one has ended, while rank 0 may still write.

    Args:
        at_once: Do not wait for rank 0.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE", "")
    if not under_torchrun() or not error_file:
        return True
    told = Path(error_file).parents[1] / "byolt-told"  # Of this start of the job; torchrun removes the folder.
    until_s = time.monotonic() + _PRECEDENCE_S
    while not at_once and os.environ.get("RANK") != "0" and not told.exists() and time.monotonic() < until_s:
        time.sleep(_PAUSE_S)
    with suppress(OSError):
        told.touch(exist_ok=False)
        return True
    return not told.exists()  # A folder that cannot be written: rather twice than not at all.


def signed(words: str) -> str:
    """``words`` with the rank of the process that says them, where there are several."""
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    return f"rank {rank}: {words}" if under_torchrun() and size != "1" else words
