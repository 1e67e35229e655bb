"""A module as it was meant: out of its wrappers, copied, in eval mode and float32.

Axes: B batch, D output features, S side of the square that the module sees.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from byolt_export.errors import InputError, first_line
from byolt_export.onnx.outputs import NamedOutputs


def plain_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode, float32 and contiguous memory, so that the caller's module stays as it is.

    What ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel`` wraps, at whatever depth, stands alone.

    Raises:
        InputError: It is no module, holds parameters without values, or cannot be copied.
    """
    if not isinstance(module, nn.Module):
        got = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
        raise InputError(f"an export is of a torch.nn.Module, got {got}: give the module itself")
    module = _unwrapped(module)
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError("a TorchScript module cannot be exported: give the torch.nn.Module that it was made from")
    if lazy := next(_without_values(module), None):
        raise InputError(
            f"{name_of(module)} has parameters without values yet ({lazy}): run it once on a batch of images, then "
            "load its weights and export it"
        )
    try:
        # What a forward computed (old weight_norm keeps a kernel so) has a history, which torch does not copy.
        values = {id(value): value.detach().clone() for value in _computed(module)}
        copied = copy.deepcopy(module, values)
        _unwrap_children(copied)
    except Exception as error:  # Whatever a module of somebody else's holds: locks, files, generators.
        raise InputError(f"{name_of(module)} cannot be copied ({first_line(error)}): export one that can") from error
    return _in_float32(copied.eval()).to(memory_format=torch.contiguous_format)


def _in_float32(copied: nn.Module) -> nn.Module:
    """A part in double precision within one of another stays so: it is the module that turns its inputs to double."""
    kinds = {tensor.dtype for tensor in (*copied.parameters(), *copied.buffers()) if tensor.is_floating_point()}
    if torch.float64 not in kinds or len(kinds) == 1:
        return copied.float()
    for tensor in (*copied.parameters(), *copied.buffers()):
        tensor.data = tensor.data.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.data
    return copied


def name_of(module: nn.Module) -> str:
    """The class that the user wrote or chose, whatever wraps it."""
    module = _unwrapped(module)
    return name_of(module.module) if isinstance(module, NamedOutputs) else type(module).__name__


def _unwrapped(module: nn.Module) -> nn.Module:
    while True:
        if isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):  # What torch.compile gives.
            module = inner
        elif isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        else:
            return module


def _unwrap_children(module: nn.Module) -> None:
    if hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable"):
        del module.forward  # A compiled method runs the module that it was taken from, not this copy.
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name] = plain = _unwrapped(child)
            _unwrap_children(plain)


def _without_values(module: nn.Module) -> Iterator[str]:
    for name, layer in module.named_modules():
        for value in (*layer._parameters.values(), *layer._buffers.values()):
            if value is not None and is_lazy(value):
                yield f"{name}, {type(layer).__name__}" if name else type(layer).__name__


def _computed(module: nn.Module) -> Iterator[Tensor]:
    """Tensors with a history among the attributes of all layers."""
    for layer in module.modules():
        for value in tree_leaves(list(vars(layer).values())):
            if isinstance(value, Tensor) and not value.is_leaf:
                yield value
