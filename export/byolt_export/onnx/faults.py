"""What torch's exporter raises, as one sentence about the module."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from byolt_export.errors import InputError, first_line
from byolt_export.onnx.plain import name_of

# The exporter's chain of errors ends in the operator: `No ONNX function found for <OpOverload(op='aten.median', ...`.
_NO_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")
_OPERATOR = re.compile(r"Error when translating node .*?\[target=torch\.ops\.([\w.]+)\]", re.DOTALL)
_CONSTANT = re.compile(r"specialized it to be a constant \((\d+)\)")


@contextmanager
def export_faults(module: nn.Module, size_px: int) -> Iterator[None]:
    """What the exporter raises, as one sentence about the module."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # The exporter lets through whatever a module's own code raises while traced.
        raise InputError(
            f"{name_of(module)} cannot be exported with images of {size_px} px and a dynamic batch: {reason_of(error)}"
        ) from error


def reason_of(error: BaseException) -> str:
    """Why an export failed: the operator where one is named anywhere in the chain of causes, else the first cause.

    torch wraps each error in another, whose first line names the step of the export and no more.
    """
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    told = "\n".join(map(str, chain))
    if (found := _NO_OPERATOR.search(told)) is not None:
        return f"ONNX has no operator for {found[1]}, which one of its layers computes: replace that layer"
    if (found := _CONSTANT.search(told)) is not None:
        return f"its code takes the batch for a constant ({found[1]}): read it from the input's shape"
    if "data-dependent" in told:
        return "a branch or a shape in its code depends on the images' values: compute it without"
    first = chain[-1]
    found = _OPERATOR.search(told)
    return f"{f'at {found[1]}, ' if found else ''}{type(first).__name__}: {first_line(first)}"
