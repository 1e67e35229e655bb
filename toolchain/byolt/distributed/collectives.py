"""What the processes of one run compute together; one process alone gets its own value back.

Each process holds an equal part of the global batch, in the order of its rank. A loss is a mean over the local part,
and gradients are averaged over the processes: so a method is written for the whole batch, with these where one image's
term looks at others. Axes: N local rows, W processes, D columns.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor


def world_size() -> int:
    """Processes of the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of every process, (W N, ...), in the order of the ranks; gradients go back to the process they belong to."""
    if world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows.contiguous())
    return gathered


def own_rows(rows: Tensor) -> Int64[Tensor, "N"]:
    """Where this process's ``rows`` lie among the gathered ones."""
    return rank() * len(rows) + torch.arange(len(rows), device=rows.device)


def sum_over_processes(value: Tensor) -> Tensor:
    """Sum of a value over the processes, differentiable."""
    if world_size() == 1:
        return value
    total: Tensor = _Sum.apply(value)
    return total


def mean_over_processes(value: Tensor) -> Tensor:
    """Mean of a value over the processes, differentiable: of local means, the mean over the global batch."""
    return sum_over_processes(value) / world_size()


def batch_moments(x: Float[Tensor, "N D *rest"]) -> tuple[Float[Tensor, "D"], Float[Tensor, "D"]]:
    """Mean and biased variance a column over the global batch and its pixels, differentiable."""
    others = [0, *range(2, x.ndim)]
    mean = mean_over_processes(x.mean(others))
    # From the mean, in a second sum: the difference of two large sums would round the variance away.
    apart = x - mean.view(1, -1, *(1,) * (x.ndim - 2))
    return mean, mean_over_processes(apart.square().mean(others))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        # Each process's loss depends on every process's value.
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        context.rows = len(rows)
        gathered = rows.new_empty((world_size() * len(rows), *rows.shape[1:]))
        dist.all_gather_into_tensor(gathered, rows)
        return gathered

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[rank() * context.rows :][: context.rows]
