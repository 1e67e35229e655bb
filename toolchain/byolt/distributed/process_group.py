"""The processes of a run: one alone, or those that torchrun started, each with its part of every batch."""

import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from byolt.distributed.collectives import rank, world_size
from byolt.launch import launch, other_launcher, under_torchrun
from byolt_export.errors import InputError

T = TypeVar("T")

# One process decodes or evaluates while the others wait; torchrun ends them all where one dies.
_PATIENCE = timedelta(days=7)
_log = logging.getLogger("byolt")


def init_distributed(device: str) -> None:
    """Join the process group of torchrun's job; does nothing the second time, and alone but says so to a launcher.

    Gradients and statistics go over NCCL between GPUs, all else over gloo.

    Args:
        device: The recipe's ``machine.device``; ``auto`` is one GPU per process where there are any.

    Raises:
        InputError: More processes on this machine than GPUs, or a launcher's variables that do not go together.
    """
    if dist.is_available() and dist.is_initialized():
        return
    if not under_torchrun():
        if told := other_launcher():
            _log.info(told)
        return
    backend = "gloo"
    if device != "cpu" and torch.cuda.is_available():
        if local_rank() >= torch.cuda.device_count():
            raise InputError(
                f"torchrun started process {local_rank()} on a machine with {torch.cuda.device_count()} GPUs; give it "
                f"--nproc-per-node={torch.cuda.device_count()}, or --set machine.device=cpu"
            )
        torch.cuda.set_device(local_rank())
        backend = "cpu:gloo,cuda:nccl"
    # Imported later, as DistributedDataParallel does, its functions would hold the group for good: their default.
    import_module("torch.distributed.nn")
    store, own_rank, processes = next(rendezvous("env://", timeout=_PATIENCE))
    # torchrun may keep its store over a restart, and in it the addresses of processes that are gone.
    store = PrefixStore(f"start {_start()}", store)
    dist.init_process_group(backend, store=store, rank=own_rank, world_size=processes, timeout=_PATIENCE)


def destroy_distributed() -> None:
    """Leave the process group at the end of a run, once nothing else holds it.

    With its last reference its threads end; one that lets go of a tensor while the interpreter ends would abort.
    """
    if dist.is_available() and dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


def local_rank() -> int:
    """Number of this process on its machine, from 0."""
    return launch().local_rank


def is_rank_zero() -> bool:
    """Whether this process writes and prints for all; known before the process group exists."""
    return launch().rank == 0 if under_torchrun() else rank() == 0


def was_restarted() -> bool:
    """Whether torchrun started the run again after a process of it had died."""
    return _start() > 0


def _start() -> int:
    """How many times torchrun has started the job anew."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def local_rank_zero_first() -> Iterator[None]:
    """Run the body in local rank 0 first, then in the other processes of the machine, which find what it cached."""
    if local_rank() > 0:
        barrier()
    yield
    if local_rank() == 0:
        barrier()


def barrier() -> None:
    """Wait until every process is here."""
    all_reduce_max(0)


def broadcast_object(value: T) -> T:
    """Rank 0's value, in every process."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def all_reduce_max(*numbers: int) -> list[int]:
    """The maximum of each number over the processes."""
    if world_size() == 1:
        return list(numbers)
    together = torch.tensor(numbers)  # On the CPU: no GPU is waited for.
    dist.all_reduce(together, op=dist.ReduceOp.MAX)
    found: list[int] = together.tolist()
    return found
