"""What every runtime asks of an ONNX file before it runs it: that it maps images to outputs as a bundle's files do."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from byolt_export.arrays import image_of
from byolt_export.errors import InputError

Sides = tuple[int | str | None, ...]
"""A tensor's shape; a side that is not fixed is no whole number, the batch in front."""


class Port(NamedTuple):
    """One input or output of a graph."""

    name: str
    type: str
    """As NumPy calls it."""
    sides: Sides


def check_ports(path: Path, inputs: Sequence[Port], outputs: Sequence[Port]) -> tuple[tuple[int, ...], str]:
    """Shape (H, W, C) and type of the images that a file takes.

    Raises:
        InputError: It does not map images to outputs as a bundle's files do.
    """
    shape: tuple[int, ...] = ()
    if [(i.name, i.type, len(i.sides)) for i in inputs] == [("images", "uint8", 4)]:
        fixed = tuple(side for side in inputs[0].sides[1:] if isinstance(side, int))
        shape, dtype = image_of(fixed) if len(fixed) == 3 else ((), "")
    if not shape or not outputs or not all(o.type == "float32" and 2 <= len(o.sides) <= 4 for o in outputs):
        raise InputError(
            f"{path} is not an encoder of a bundle: it must map one input `images`, uint8 (batch, H, W, 3) (1 of "
            "grey, twice as many above 8 bits), to one float output (batch, D), or to float maps"
        )
    if isinstance(inputs[0].sides[0], int):
        raise InputError(f"{path} accepts batches of {inputs[0].sides[0]} alone: export it with a dynamic batch")
    return shape, dtype
