"""BatchNorm over the global batch of several processes.

On GPUs torch's own does it; that one refuses tensors on a CPU, where this one stands in, checked against it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from byolt.distributed.collectives import batch_moments, rank, sum_over_processes, world_size
from byolt.networks.frozen import is_frozen


class SyncBatchNorm(_BatchNorm):
    """BatchNorm with mean and variance of the global batch in training, on any device.

    Takes the place of a BatchNorm under its name, with the activation that timm's kind holds.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        """Take over the weights, statistics and settings of ``norm``."""
        super().__init__(
            norm.num_features,
            norm.eps,
            norm.momentum,
            norm.affine,
            norm.track_running_stats,
        )
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.drop, self.act = getattr(norm, "drop", nn.Identity()), getattr(norm, "act", nn.Identity())
        self.train(norm.training)

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, D, ...) by the moments of all processes' rows, or in evaluation by the running ones."""
        if not self.training:
            return self._after(super().forward(x))
        dtype = x.dtype
        x = x if dtype == torch.float64 else x.float()
        mean, variance = batch_moments(x)
        self._follow(mean.detach(), variance.detach(), count=world_size() * x.numel() // x.shape[1])
        shape = (1, -1, *(1,) * (x.ndim - 2))
        normal = (x - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normal = torch.addcmul(self.bias.view(shape), normal, self.weight.view(shape))
        return self._after(normal.to(dtype))

    def _after(self, normal: Tensor) -> Tensor:
        activated: Tensor = self.act(self.drop(normal))
        return activated

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        unbiased = variance * (count / max(count - 1, 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)


@contextmanager
def statistics_in_turn(network: nn.Module, parts: int) -> Iterator[None]:
    """Running statistics as if all processes' parts of a batch had gone through one ``network``, rank after rank.

    Each part moves a statistic r to (1 - m) r + m s, so n parts to (1 - m)^n r and a sum over the parts that does not
    depend on r: those sums of all processes are added, the later ranks' with their full weight.

    Args:
        network: Normalises each part alone.
        parts: How many go through it here inside the context.
    """
    norms = [norm for norm in network.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    norms = [norm for norm in norms if not is_frozen(norm)]  # Not by a formula that rounds, either.
    if world_size() == 1 or not norms:
        yield
        return
    statistics = [
        (norm.momentum or 0.0, s) for norm in norms for s in (norm.running_mean, norm.running_var) if s is not None
    ]
    before = [statistic.clone() for _, statistic in statistics]
    yield
    later = parts * (world_size() - 1 - rank())
    added = [
        (1 - momentum) ** later * (statistic - (1 - momentum) ** parts * old)
        for (momentum, statistic), old in zip(statistics, before, strict=True)
    ]
    total = torch.split(sum_over_processes(torch.cat(added)), [len(old) for old in before])
    for (momentum, statistic), old, new in zip(statistics, before, total, strict=True):
        # Not through autograd's eyes: in training no backward reads them, but it would see that they changed.
        statistic.data.copy_((1 - momentum) ** (parts * world_size()) * old + new)


def synchronise_norms(module: nn.Module, device: torch.device) -> nn.Module:
    """Each BatchNorm of ``module`` in place by one over all processes; the module itself where it is one.

    Weights keep their names. torch's kind on a GPU, ``SyncBatchNorm`` elsewhere. Frozen norms see no batch, and stay.
    """
    if is_frozen(module):
        return module
    if isinstance(module, _BatchNorm):
        return _torch_norm(module) if device.type == "cuda" else SyncBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, synchronise_norms(child, device))
    return module


def _torch_norm(norm: _BatchNorm) -> nn.Module:
    if hasattr(norm, "act"):  # timm's norms hold their activation, which torch's conversion would drop.
        import timm.layers.norm_act as converters

        convert: Any = converters.convert_sync_batchnorm
    else:
        convert = nn.SyncBatchNorm.convert_sync_batchnorm
    converted: nn.Module = convert(norm)
    return converted
