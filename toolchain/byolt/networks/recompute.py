"""Activation checkpointing: an encoder's blocks keep their input alone, and compute the rest again in backward.

Chen et al. 2016 (arXiv:1604.06174). Less memory for one more forward of the blocks, about a third of a step's
arithmetic. What is learned stays the same to the bit wherever a layer computes the same twice.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.checkpoint import checkpoint

from byolt_export.errors import InputError


def _recomputed(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """``block.forward``, whose activations are computed again in backward."""
    plain = partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return plain(*args, **kwargs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _buffers_spared(block)

    if torch.compiler.is_compiling():  # The compiler updates each buffer once, whatever it computes again.
        return checkpoint(plain, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
    # No random state to keep: dropout and stochastic depth are 0 in every encoder of byolt.
    return checkpoint(plain, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts, **kwargs)


def recompute_blocks(encoder: nn.Module) -> int:
    """Let each block of ``encoder`` compute its activations again in the backward pass; how many blocks there are.

    Changed in place; names, weights, evaluation and export stay as they were. A block is an item of a stage
    (``nn.Sequential`` or ``nn.ModuleList``) with at least two convolution or linear layers.

    Raises:
        InputError: The encoder has no such block.
    """
    blocks = list(_blocks(encoder))
    if not blocks:
        raise InputError(
            f"machine.recompute: {type(encoder).__name__} has no stage of blocks that could be computed again; "
            "leave it false, and save memory with optim.accumulate"
        )
    for block in blocks:
        # On the instance: names and types stay, and a deep copy of the block gets a forward of its own weights.
        block.forward = partial(_recomputed, block)
    return len(blocks)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(module, nn.Sequential | nn.ModuleList) and _is_block(child):
            yield child
        else:
            yield from _blocks(child)


def _is_block(item: nn.Module) -> bool:
    """Enough to be worth it, called as a whole, and no stage of several blocks."""
    stages = [part for part in item.modules() if isinstance(part, nn.Sequential | nn.ModuleList)]
    is_stage = any(sum(_layers(part) >= 2 for part in stage) >= 2 for stage in stages)
    is_called = type(item).forward is not nn.Module.forward  # A ModuleList is not.
    return _layers(item) >= 2 and is_called and not is_stage


def _layers(module: nn.Module) -> int:
    return sum(isinstance(part, _ConvNd | nn.Linear) for part in module.modules())


@contextmanager
def _buffers_spared(block: nn.Module) -> Iterator[None]:
    """Run on copies of the buffers: BatchNorm's statistics must not see a batch twice."""
    # Not written back: a write would raise the version of tensors that the other view's graph holds.
    own = [(part, dict(part._buffers)) for part in block.modules()]
    try:
        for part, buffers in own:
            part._buffers.update({name: None if value is None else value.clone() for name, value in buffers.items()})
        yield
    finally:
        for part, buffers in own:
            part._buffers.update(buffers)
