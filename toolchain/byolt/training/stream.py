"""The run's batches in their one order, as pairs of views on the device.

The order is a permutation keyed by (seed, epoch), a view's parameters a hash of (seed, epoch, index, view):
the stream can start at any step, with any number of workers, and gives the same batches.
"""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.profiler import record_function
from torch.utils.data import DataLoader, Dataset

from byolt_export.errors import ByoltError, InputError

if TYPE_CHECKING:
    from byolt.data import ImageStore
    from byolt.schema import Recipe


class Batch(NamedTuple):
    """Which images a step learns from."""

    epoch: int
    indices: npt.NDArray[np.int64]


class Plan:
    """Every batch of a run, in order, from ``start_step`` on; iterating draws one permutation an epoch."""

    def __init__(self, images: int, batch_size: int, epochs: int, seed: int, start_step: int = 0) -> None:
        """Plan ``epochs`` passes over ``images`` images; a last incomplete batch of a pass is left out.

        Raises:
            InputError: Fewer images than one batch.
        """
        if images < batch_size:
            raise InputError(
                f"optim.batch_size {batch_size} is larger than the set of {images} images; "
                f"use --set optim.batch_size={max(2, images // 4)} or more images"
            )
        self.images, self.batch_size, self.epochs = images, batch_size, epochs
        self.seed, self.start_step = seed, start_step
        self.steps_per_epoch = images // batch_size
        self.steps = epochs * self.steps_per_epoch

    def __len__(self) -> int:
        return self.steps - self.start_step

    def __iter__(self) -> Iterator[Batch]:
        for epoch in range(self.start_step // self.steps_per_epoch, self.epochs):
            first = (
                self.start_step - epoch * self.steps_per_epoch if epoch * self.steps_per_epoch < self.start_step else 0
            )
            order = epoch_order(self.images, self.seed, epoch)
            for k in range(first, self.steps_per_epoch):
                yield Batch(epoch, order[k * self.batch_size : (k + 1) * self.batch_size])


def epoch_order(images: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The permutation of an epoch, (images,), a function of (seed, epoch) alone."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(images)


Fetched = tuple[int, Tensor, Tensor, Tensor | None]


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
        index = torch.from_numpy(batch.indices)
        if self.views is None:
            return batch.epoch, index, torch.from_numpy(self.store.batch(batch.indices)), None
        pairs = [self.views(self.store[int(i)], int(i), batch.epoch) for i in batch.indices]
        view_1, view_2 = (torch.from_numpy(np.stack(side)) for side in zip(*pairs, strict=True))
        return batch.epoch, index, view_1, view_2


def view_stream(
    plan: Plan, store: "ImageStore", recipe: "Recipe", device: torch.device
) -> Generator[tuple[int, Tensor, Tensor], None, None]:
    """(epoch, view 1, view 2) a step; views are (B, 3, H, W), float32, normalised, channels-last, on ``device``.

    Raises:
        InputError: An image is gone or has become unreadable (streamed sets only).
    """
    from byolt.views import batched_views, normalise

    data = recipe.data
    loader = DataLoader(
        _Reader(store, recipe),
        sampler=plan,
        batch_size=None,  # The reader fetches whole batches.
        num_workers=recipe.machine.workers,
        pin_memory=device.type == "cuda",
    )
    for epoch, index, first, second in _timed(loader):
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
        yield epoch, *views


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
