"""From a batch on the device to new weights: views and learner, on one GPU as a CUDA graph.

A step launches some thousand kernels, most of them short: a graph gives them to the GPU at once, and what differs from
step to step (pixels, epoch, rates, tau) lies in tensors that are written before. Nothing in it waits for the GPU.
"""

import torch
from torch import Tensor

from byolt.data.sampler import Batch
from byolt.distributed.collectives import world_size
from byolt.methods.base import Outcome
from byolt.recipe.schema import Recipe
from byolt.training.compiled import view_maker
from byolt.training.loader import ViewMaker, make_views
from byolt.training.step import Learner

WARMUP_STEPS = 3
"""Taken one kernel at a time before a capture, so that momenta, workspaces and chosen algorithms are there."""


def captures(recipe: Recipe, device: torch.device) -> bool:
    """Whether a recipe's steps are captured here: one process on a GPU."""
    return recipe.machine.cuda_graph and device.type == "cuda" and world_size() == 1


class Stepper:
    """Takes a learner's steps."""

    def __init__(self, learner: Learner, recipe: Recipe, *, captured: bool) -> None:
        """Nothing is captured before the first steps of each size of views; ``captured`` needs ``device_rates``."""
        self.learner, self.recipe, self.captured = learner, recipe, captured
        self._seen: dict[int, int] = {}
        self._captures: dict[int, CapturedStep] = {}
        self._maker = view_maker(recipe, learner.device)
        on_gpu = captured and learner.device.type == "cuda"
        self._side: torch.cuda.Stream | None = torch.cuda.Stream() if on_gpu else None  # type: ignore[no-untyped-call]

    def step(self, step: int, batch: Batch) -> Outcome:
        """Take step number ``step``, counted from 0; a captured step's outcome holds until the next one."""
        self.learner.prepare(step)
        if not self.captured:
            return self.learner.advance(*self._views(batch))
        size_px = self.recipe.view_size_px_of(batch.epoch)
        if size_px not in self._captures:
            self._seen[size_px] = self._seen.get(size_px, 0) + 1
            if self._seen[size_px] <= WARMUP_STEPS:
                return self._warm_up(batch)
            self._captures[size_px] = CapturedStep(self.learner, self.recipe, batch, self._side, self._maker)
        return self._captures[size_px].take(batch)

    def _views(self, batch: Batch) -> tuple[Tensor, ...]:
        if self._maker is None:
            return make_views(batch, self.recipe)
        # As a tensor: compiled code that held the number would be another one in each epoch.
        epoch = torch.full((), batch.epoch, dtype=torch.int64, device=self.learner.device)
        return make_views(batch, self.recipe, epoch, self._maker)

    def _warm_up(self, batch: Batch) -> Outcome:
        """An ordinary step, on the stream that the capture will use: gradients belong to the stream they came by."""
        if self._side is not None:
            self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):  # Of None it does nothing.
            outcome = self.learner.advance(*self._views(batch))
        if self._side is not None:
            torch.cuda.current_stream().wait_stream(self._side)
        return outcome


class CapturedStep:
    """One recorded step over tensors of its own; on a CPU the same work is done anew each time."""

    def __init__(
        self,
        learner: Learner,
        recipe: Recipe,
        batch: Batch,
        side: "torch.cuda.Stream | None",
        maker: ViewMaker | None = None,
    ) -> None:
        """Record the step for batches like this one, its views by ``maker``; nothing is learned from it yet."""
        self.learner, self.recipe, self.maker = learner, recipe, maker
        self.batch = batch.mapped(torch.clone)
        self.epoch = torch.zeros((), dtype=torch.int64, device=learner.device)
        self.graph = torch.cuda.CUDAGraph() if learner.device.type == "cuda" else None
        if self.graph is not None:
            learner.optimizer.zero_grad(set_to_none=True)  # The graph's gradients lie in its own memory.
            # Threads that pin batches allocate while this one records: only its own calls may end the capture.
            with torch.cuda.graph(self.graph, stream=side, capture_error_mode="thread_local"):
                self.outcome = self._run()

    def take(self, batch: Batch) -> Outcome:
        """Copy the batch in and run what was recorded."""
        for own, given in zip(self.batch[1:], batch[1:], strict=True):
            if isinstance(own, Tensor):
                assert isinstance(given, Tensor)
                own.copy_(given, non_blocking=True)
        self.epoch.fill_(batch.epoch)
        if self.graph is None:
            self.outcome = self._run()
        else:
            self.graph.replay()
        return self.outcome

    def _run(self) -> Outcome:
        return self.learner.advance(*make_views(self.batch, self.recipe, self.epoch, self.maker))
