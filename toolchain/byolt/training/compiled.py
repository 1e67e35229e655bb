"""`machine.compile: encoder`: the encoder by torch.compile while a step is taken, and on a GPU the views.

The heads, the loss and the optimizer are few kernels, and the method's terms go backward one by one as before. One
compiled encoder serves both views and the target, whose code and shapes are the same: torch makes a graph with
gradients of it and one without, where the whole method would be one graph several times as large.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch

from byolt.methods.base import Method

if TYPE_CHECKING:
    from torch import nn

    from byolt.recipe.schema import Recipe
    from byolt.training.loader import ViewMaker


def compiled_encoders(method: Method) -> Callable[[], AbstractContextManager[None]]:
    """A context in which the encoders of ``method``, the online and the target's, run compiled.

    Outside of it they are the plain modules, and their names, weights and types never change: what evaluates, exports,
    copies or saves them compiles nothing.
    """
    encoders: list[nn.Module] = [method.encoder]
    if method.target is not None:
        encoders.append(method.target[0])
    forward = torch.compile(type(method.encoder).forward, dynamic=False)
    compiled = {encoder: partial(forward, encoder) for encoder in encoders}

    @contextmanager
    def inside() -> Iterator[None]:
        for encoder in encoders:
            encoder.forward = compiled[encoder]
        try:
            yield
        finally:
            for encoder in encoders:
                del encoder.forward

    return inside


def view_maker(recipe: "Recipe", device: torch.device) -> "ViewMaker | None":
    """``batched_views`` compiled, where the recipe asks for it and a GPU makes them; None: as it is.

    On a CPU they take each image by itself (``batched._resize_each``), and a compiler gains nothing.
    """
    if recipe.machine.compile != "encoder" or device.type != "cuda":
        return None
    from byolt.views import batched_views

    return torch.compile(batched_views, dynamic=False)
