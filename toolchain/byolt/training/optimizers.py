"""LARS as in the paper, and the split of parameters that every optimizer here shares."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

if TYPE_CHECKING:
    from byolt.recipe.method_settings.base import PredictorRate
    from byolt.recipe.optim import Optim


class Lars(Optimizer):
    """Layer-wise adaptive rate scaling with momentum (You et al. 2017).

    For a weight w with gradient g: u = g + decay * w; u <- u * trust * |w| / |u|, where both norms are positive;
    m <- momentum * m + u; w <- w - lr * m. A group with ``adapt=False`` skips the middle part.
    """

    def __init__(
        self, params: Any, lr: float, *, momentum: float = 0.9, weight_decay: float = 0.0, trust: float = 0.001
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step; ``closure`` is refused, since no caller has one."""
        assert closure is None
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            if not weights:
                continue
            update: list[Tensor] = [w.grad for w in weights]
            if group["weight_decay"]:
                update = list(torch._foreach_add(update, weights, alpha=group["weight_decay"]))
            if group["adapt"]:
                update = list(torch._foreach_mul(update, _trust_ratios(weights, update, group["trust"])))
            momenta = [self._momentum(w) for w in weights]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, update)
            if isinstance(group["lr"], Tensor):  # On the device, so that a captured step reads it anew.
                torch._foreach_add_(weights, torch._foreach_mul(momenta, -group["lr"]))
            else:
                torch._foreach_add_(weights, momenta, alpha=-group["lr"])

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"]
        return momentum


def _trust_ratios(weights: list[Tensor], update: list[Tensor], trust: float) -> list[Tensor]:
    """trust * |w| / |u| a tensor, and 1 where either norm is 0; no host synchronisation."""
    weight_norm = torch.stack(torch._foreach_norm(weights))
    update_norm = torch.stack(torch._foreach_norm(update))
    both = (weight_norm > 0) & (update_norm > 0)
    ratio = torch.where(both, trust * weight_norm / update_norm, torch.ones_like(weight_norm))
    return list(ratio.unbind())


def build_optimizer(
    method: nn.Module,
    optim: "Optim",
    predictor: "PredictorRate | None" = None,
    *,
    heads_first: bool = False,
    device_rates: bool = False,
) -> Optimizer:
    """The recipe's optimizer over the online parameters (the target's ask for no gradient).

    Biases and normalisation parameters get neither weight decay nor, in LARS, a trust ratio
    ("we exclude the biases and batch normalization parameters from both LARS adaptation and weight decay",
    section 3.3). The rate is set before each step by the schedule.

    Args:
        method: Its parameters that ask for a gradient are learned.
        optim: Which optimizer, and its settings.
        predictor: How the predictor's rate departs from that of the rest (Table 21); kept as ``rate_multiplier`` and
            ``constant_rate`` of its groups.
        heads_first: Whether the encoder waits for the heads at first; kept as ``waits`` of its groups.
        device_rates: Whether each group's rate is a tensor beside its weights, as a captured step needs it.
    """
    own: dict[str, dict[str, Any]] = {"encoder.": {"waits": True}} if heads_first else {}
    if predictor is not None and predictor != (1.0, False):
        own["predictor."] = {"rate_multiplier": predictor.multiplier, "constant_rate": predictor.constant}
    learned = {name: p for name, p in method.named_parameters() if p.requires_grad}
    others: list[Tensor] = [p for name, p in learned.items() if not name.startswith(tuple(own))]
    groups = _groups(others, optim)
    for part, settings in own.items():
        groups += [group | settings for group in _groups([p for n, p in learned.items() if n.startswith(part)], optim)]
    if device_rates:
        for group in groups:
            group["lr"] = torch.zeros((), device=others[0].device)
    if optim.name == "lars":
        return Lars(groups, lr=0.0, momentum=optim.momentum, trust=optim.trust_coefficient)
    if optim.name == "sgd":
        return SGD(groups, lr=0.0, momentum=optim.momentum, fused=True)
    return AdamW(groups, lr=0.0, betas=(optim.momentum, 0.999), capturable=device_rates, fused=True)


def _groups(learned: list[Tensor], optim: "Optim") -> list[dict[str, Any]]:
    """Weights, and then biases and normalisation parameters."""
    weights: dict[str, Any] = {"params": [p for p in learned if p.ndim > 1], "weight_decay": optim.weight_decay}
    others: dict[str, Any] = {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0}
    return [weights, others | ({"adapt": False} if optim.name == "lars" else {})]
