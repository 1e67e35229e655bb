"""The loader: the sampler's batches with their pixels, on the device, and the pairs of views that are made of them.

A view's parameters are a hash of (seed, epoch, key of the image, view): any number of workers gives the same batches.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.profiler import record_function
from torch.utils.data import DataLoader, Dataset, get_worker_info

from byolt.data.sampler import Batch, BatchSampler
from byolt.training.workers import ASK_EVERY_S, PREFETCH, leave_stopping_to_the_loader, next_batch, shared, started
from byolt_export.errors import ByoltError

if TYPE_CHECKING:
    from byolt.data import ImageStore
    from byolt.recipe.schema import Recipe


def _with_prefetch(sampler: BatchSampler, store: "ImageStore") -> Iterator[Batch]:
    """The sampler's batches, each announced to the store in advance, so that remote shards are fetched meanwhile."""
    waiting: deque[Batch] = deque()
    for batch in sampler:
        store.prefetch(batch.indices)
        waiting.append(batch)
        if len(waiting) * len(batch.indices) > store.prefetch_images:
            yield waiting.popleft()
    yield from waiting


class _Reader(Dataset[Batch | ByoltError]):
    """Fetches one whole batch: decoded squares, or with albumentations both views of each image.

    A fault is returned, not raised: what a worker raises arrives with its traceback in place of the one sentence.
    """

    def __init__(self, store: "ImageStore", recipe: "Recipe") -> None:
        self.store = store
        self.views = None
        if recipe.views.backend == "albumentations":
            from byolt.views.albumentations_backend import AlbumentationsViews

            self.views = AlbumentationsViews(recipe.views, size_px=recipe.view_size_px, seed=recipe.seed)

    def __getitem__(self, batch: Batch) -> Batch | ByoltError:
        try:
            fetched = self._fetch(batch)
            return fetched if get_worker_info() is None else shared(fetched)
        except ByoltError as error:
            return error

    def _fetch(self, batch: Batch) -> Batch:
        batch = batch.with_tensors()
        if self.views is None:
            return batch._replace(images=torch.from_numpy(self.store.batch(batch.indices)))
        pairs = [
            self.views(self.store[int(i)], int(key), batch.epoch)
            for i, key in zip(batch.indices, batch.view_keys, strict=True)
        ]
        view_1, view_2 = (torch.from_numpy(np.stack(side)) for side in zip(*pairs, strict=True))
        return batch._replace(images=view_1, second_views=view_2)


def batch_stream(
    sampler: BatchSampler, store: "ImageStore", recipe: "Recipe", device: torch.device
) -> Generator[Batch, None, None]:
    """The sampler's batches on ``device``: from a copy of the whole set there where it fits, else loaded ahead.

    Raises:
        InputError: An image is gone or has become unreadable (streamed sets only).
        ByoltError: A worker was lost, or finds no room for its batch.
    """
    if is_resident(store, recipe, device):
        yield from resident_stream(sampler, store, device)
        return
    workers = recipe.machine.workers
    loader = DataLoader(
        _Reader(store, recipe),
        sampler=_with_prefetch(sampler, store),
        batch_size=None,  # The reader fetches whole batches.
        num_workers=workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=PREFETCH if workers else None,
        timeout=ASK_EVERY_S if workers else 0,
        worker_init_fn=leave_stopping_to_the_loader,
    )
    yield from _copied_ahead(_timed(loader), device) if device.type == "cuda" else _timed(loader)


def resident_stream(sampler: BatchSampler, store: "ImageStore", device: torch.device) -> Iterator[Batch]:
    """Batches out of all decoded squares, which are copied to ``device`` once."""
    assert store.images is not None
    squares = torch.from_numpy(np.array(store.images)).to(device)
    for batch in sampler:
        with record_function("data"):
            places = torch.from_numpy(batch.indices).to(device, non_blocking=True)
            yield batch.with_tensors().to(device)._replace(images=squares[places])


def is_resident(store: "ImageStore", recipe: "Recipe", device: torch.device) -> bool:
    """Whether all decoded squares are copied to the device once: no worker reads any then."""
    resident = device.type == "cuda" and recipe.views.backend == "batched" and store.images is not None
    return resident and store.images.nbytes <= recipe.machine.resident_gb * 1e9  # type: ignore[union-attr]


def _copied_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches on a GPU, each copied while it computes on the one before."""
    copies: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    computes = torch.cuda.current_stream(device)
    waiting: Batch | None = None
    for on_host in batches:
        with torch.cuda.stream(copies):
            following = on_host.to(device)
        if waiting is not None:
            yield waiting
        computes.wait_stream(copies)
        for tensor in following:
            if isinstance(tensor, Tensor):
                tensor.record_stream(computes)
        waiting = following
    if waiting is not None:
        yield waiting


ViewMaker = Callable[..., tuple[Tensor, Tensor]]
"""``views.batched_views``, or the same compiled."""


def make_views(
    batch: Batch, recipe: "Recipe", epoch: Tensor | None = None, maker: ViewMaker | None = None
) -> tuple[Tensor, ...]:
    """View 1 and view 2 of a batch, and its labels where it has some.

    Views are (B, 3, s, s), float32, normalised, channels-last, on the batch's device.

    Args:
        batch: On the device.
        recipe: What the views are drawn from.
        epoch: The batch's own as a tensor (), for a captured or compiled step.
        maker: What makes both views of a batch in place of ``views.batched_views``.
    """
    from byolt.views import batched_views, in_unit_range, normalise

    data = recipe.data
    assert batch.images is not None
    assert isinstance(batch.view_keys, Tensor)
    with record_function("views"):
        if batch.second_views is None:
            views = (maker or batched_views)(
                in_unit_range(batch.images, data.white),
                batch.view_keys,
                epoch=batch.epoch if epoch is None else epoch,
                seed=recipe.seed,
                views=recipe.views,
                size_px=recipe.view_size_px_of(batch.epoch),
                mean=data.mean,
                std=data.std,
            )
        else:
            views = normalise(batch.images, data.mean, data.std), normalise(batch.second_views, data.mean, data.std)
    return (*views, batch.labels) if isinstance(batch.labels, Tensor) else views


def view_stream(
    sampler: BatchSampler, store: "ImageStore", recipe: "Recipe", device: torch.device
) -> Generator[tuple[int, tuple[Tensor, ...]], None, None]:
    """(epoch, views and labels) a step: ``make_views`` of each batch of ``batch_stream``."""
    for batch in batch_stream(sampler, store, recipe, device):
        yield batch.epoch, make_views(batch, recipe)


def _timed(loader: DataLoader[Any]) -> Iterator[Batch]:
    """The loader's batches, each wait for one under its own name in a profile."""
    batches = started(loader)
    while True:
        with record_function("data"):
            batch = next_batch(batches)
        if batch is None:
            return
        if isinstance(batch, ByoltError):
            raise batch
        yield batch
