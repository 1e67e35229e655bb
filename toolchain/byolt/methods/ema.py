"""The moving average that a target network is of the online network."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def ema_update(target: nn.Module, online: list[nn.Module], tau: float | Tensor) -> None:
    """Set xi <- tau * xi + (1 - tau) * theta (equation 1 of BYOL), for parameters.

    Buffers are left alone: the target's running statistics come from its own forwards.
    """
    theta: list[Tensor] = [weight for part in online for weight in part.parameters()]
    xi: list[Tensor] = list(target.parameters())
    # lerp(xi, theta, 1 - tau) = xi + (1 - tau) (theta - xi); foreach: one call for all tensors.
    if isinstance(tau, Tensor):  # Of a captured step, on the device; foreach has no lerp by one.
        torch._foreach_add_(xi, torch._foreach_mul(torch._foreach_sub(theta, xi), 1 - tau))
    else:
        torch._foreach_lerp_(xi, theta, 1 - tau)
