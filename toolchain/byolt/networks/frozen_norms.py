"""An encoder that learns under the BatchNorm statistics of its initial weights (`model.frozen_norms`).

Its norms stay in eval mode whatever the mode of the network around them: they normalise by their running statistics,
which nothing moves, while scale and shift are learned. Statistics of few images, of another kind than those that the
initial weights were learned from, can make their features worse.
"""

from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from byolt_export.errors import InputError


def has_statistics(module: nn.Module) -> bool:
    """Whether a module normalises by moving averages in eval mode: BatchNorm of any kind, timm's EvoNorm B0."""
    moves = isinstance(module, _BatchNorm) or isinstance(getattr(module, "momentum", None), float)
    return moves and isinstance(getattr(module, "running_var", None), Tensor)


def freeze_norms(encoder: nn.Module) -> None:
    """Put each norm of ``encoder`` into eval mode for good, in place; names and types stay.

    Raises:
        InputError: There is none.
    """
    norms = [module for module in encoder.modules() if has_statistics(module)]
    if not norms:
        raise InputError(
            f"model.frozen_norms: {type(encoder).__name__} has no BatchNorm whose statistics could be kept; leave it "
            "false"
        )
    for norm in norms:
        norm.eval()
        # On the instance: a deep copy of the norm, such as a target network's, gets one of its own.
        norm.train = partial(_left_alone, norm)  # type: ignore[method-assign]


def is_frozen(module: nn.Module) -> bool:
    """Whether ``freeze_norms`` has put this norm into eval mode for good."""
    return "train" in vars(module)


def _left_alone(norm: nn.Module, mode: bool = True) -> nn.Module:
    """``norm.train(mode)`` of a frozen norm."""
    return norm
