"""The run's batches in their one order, as pairs of views on the device.

The order is a permutation keyed by (seed, epoch), a view's parameters a hash of (seed, epoch, index, view):
the stream can start at any step, with any number of workers, and gives the same batches.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.profiler import record_function
from torch.utils.data import DataLoader, Dataset

from byolt.data.order import Order, epoch_order
from byolt.methods.mean_teacher import UNLABELLED
from byolt_export.errors import ByoltError, InputError

if TYPE_CHECKING:
    from byolt.data import ImageStore
    from byolt.schema import Recipe


class Batch(NamedTuple):
    """Which images a step learns from."""

    epoch: int
    indices: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64] | None = None
    """Class of each image, -1 where it is not told; None where no label is used at all."""
    draws: npt.NDArray[np.int64] | None = None
    """What the views of each image are drawn by, where that is not its number: an image may come twice an epoch."""


class Labelled(NamedTuple):
    """The images whose labels are used, for batches of two streams."""

    indices: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    per_batch: int


class Plan:
    """Every batch of a run, in order, from ``start_step`` on; iterating draws one permutation an epoch."""

    def __init__(
        self,
        images: int,
        batch_size: int,
        epochs: int,
        seed: int,
        start_step: int = 0,
        labelled: Labelled | None = None,
        order: Callable[[int, int], Order] | None = None,
    ) -> None:
        """Plan ``epochs`` passes over ``images`` images; a last incomplete batch of a pass is left out.

        With ``labelled`` a batch begins with that many labelled images, in passes of their own, and the rest of it is
        from all images without labels: as many steps and images as without. ``order`` gives the numbers of all images
        by (seed, epoch); left out, ``epoch_order``.

        Raises:
            InputError: Fewer images than one batch.
        """
        if images < batch_size:
            raise InputError(
                f"optim.batch_size {batch_size} is larger than the set of {images} images; "
                f"use --set optim.batch_size={max(2, images // 4)} or more images"
            )
        self.images, self.batch_size, self.epochs = images, batch_size, epochs
        self.seed, self.start_step, self.labelled = seed, start_step, labelled
        self.order = order or partial(epoch_order, images)
        self.steps_per_epoch = images // batch_size
        self.steps = epochs * self.steps_per_epoch

    def __len__(self) -> int:
        return self.steps - self.start_step

    def __iter__(self) -> Iterator[Batch]:
        for epoch in range(self.start_step // self.steps_per_epoch, self.epochs):
            first = (
                self.start_step - epoch * self.steps_per_epoch if epoch * self.steps_per_epoch < self.start_step else 0
            )
            order = self.order(self.seed, epoch)
            for k in range(first, self.steps_per_epoch):
                if self.labelled is None:
                    yield Batch(epoch, order[k * self.batch_size : (k + 1) * self.batch_size])
                else:
                    yield self._two_streams(epoch, k, order, self.labelled)

    def _two_streams(self, epoch: int, k: int, order: npt.NDArray[np.int64], labelled: Labelled) -> Batch:
        rest = self.batch_size - labelled.per_batch
        unlabelled = order[k * rest : (k + 1) * rest]
        # The labelled stream is one permutation after the other, from any step on.
        first = (epoch * self.steps_per_epoch + k) * labelled.per_batch
        places = np.arange(first, first + labelled.per_batch)
        passes, within = np.divmod(places, len(labelled.indices))
        chosen = np.empty_like(places)
        for number in np.unique(passes):
            # Seeds of recipes are below 2^31: the offset keeps this order apart from those of the epochs.
            of_pass = epoch_order(len(labelled.indices), self.seed + 2**32, int(number))
            chosen[passes == number] = of_pass[within[passes == number]]
        return Batch(
            epoch,
            np.concatenate([labelled.indices[chosen], unlabelled]),
            np.concatenate([labelled.labels[chosen], np.full(rest, UNLABELLED)]),
            np.concatenate([labelled.indices[chosen] + (1 + passes) * self.images, unlabelled]),
        )


def _announced(plan: Plan, store: "ImageStore") -> Iterator[Batch]:
    """The plan's batches, each told to the store some time before it is read: remote shards are fetched meanwhile."""
    waiting: deque[Batch] = deque()
    for batch in plan:
        store.expect(batch.indices)
        waiting.append(batch)
        if len(waiting) * len(batch.indices) > store.look_ahead_images:
            yield waiting.popleft()
    yield from waiting


Fetched = tuple[int, Tensor, Tensor, Tensor | None, tuple[Tensor, ...]]


class _Reader(Dataset[Fetched | ByoltError]):
    """Fetches one whole batch: decoded squares, or with albumentations both views of each image.

    A fault is returned, not raised: what a worker raises arrives with its traceback in place of the one sentence.
    """

    def __init__(self, store: "ImageStore", recipe: "Recipe") -> None:
        self.store = store
        self.views = None
        if recipe.views.backend == "albumentations":
            from byolt.views.albumented import AlbumentationsViews

            self.views = AlbumentationsViews(recipe.views, size_px=recipe.view_size_px, seed=recipe.seed)

    def __getitem__(self, batch: Batch) -> Fetched | ByoltError:
        try:
            return self._fetch(batch)
        except ByoltError as error:
            return error

    def _fetch(self, batch: Batch) -> Fetched:
        draws = batch.indices if batch.draws is None else batch.draws
        index = torch.from_numpy(draws)
        labels = () if batch.labels is None else (torch.from_numpy(batch.labels),)
        if self.views is None:
            return batch.epoch, index, torch.from_numpy(self.store.batch(batch.indices)), None, labels
        pairs = [
            self.views(self.store[int(i)], int(draw), batch.epoch) for i, draw in zip(batch.indices, draws, strict=True)
        ]
        view_1, view_2 = (torch.from_numpy(np.stack(side)) for side in zip(*pairs, strict=True))
        return batch.epoch, index, view_1, view_2, labels


def view_stream(
    plan: Plan, store: "ImageStore", recipe: "Recipe", device: torch.device
) -> Generator[tuple[int, tuple[Tensor, ...]], None, None]:
    """(epoch, (view 1, view 2)) a step; views are (B, 3, H, W), float32, normalised, channels-last, on ``device``.

    A plan with labels adds them, (B,), as a third of the batch.

    Raises:
        InputError: An image is gone or has become unreadable (streamed sets only).
    """
    from byolt.views import batched_views, normalise

    data = recipe.data
    loader = DataLoader(
        _Reader(store, recipe),
        sampler=_announced(plan, store),
        batch_size=None,  # The reader fetches whole batches.
        num_workers=recipe.machine.workers,
        pin_memory=device.type == "cuda",
    )
    for epoch, index, first, second, labels in _timed(loader):
        with record_function("views"):
            images = first.to(device, non_blocking=True)
            if second is None:
                views = batched_views(
                    images,
                    index.to(device, non_blocking=True),
                    epoch=epoch,
                    seed=recipe.seed,
                    views=recipe.views,
                    size_px=recipe.view_size_px_of(epoch),
                    mean=data.mean,
                    std=data.std,
                )
            else:
                others = second.to(device, non_blocking=True)
                views = normalise(images, data.mean, data.std), normalise(others, data.mean, data.std)
        yield epoch, (*views, *(label.to(device, non_blocking=True) for label in labels))


def _timed(loader: DataLoader[Any]) -> Iterator[Fetched]:
    """The loader's batches, each wait for one under its own name in a profile."""
    batches = iter(loader)
    while True:
        with record_function("data"):
            batch = next(batches, None)
        if batch is None:
            return
        if isinstance(batch, ByoltError):
            raise batch
        yield batch
