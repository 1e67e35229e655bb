"""The run's batches in their one order, on the device, and the pairs of views that are made of them.

The order is a permutation keyed by (seed, epoch), a view's parameters a hash of (seed, epoch, index, view):
the stream can start at any step, with any number of workers, and gives the same batches. Of several processes each
takes its part of every batch.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.autograd.profiler import record_function
from torch.utils.data import DataLoader, Dataset

from byolt.data.order import Order, epoch_order
from byolt.distributed.collectives import rank, world_size
from byolt.methods.mean_teacher import UNLABELLED
from byolt_export.errors import ByoltError, InputError

if TYPE_CHECKING:
    from byolt.data import ImageStore
    from byolt.recipe.schema import Recipe


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
        parts: int = 1,
        order: Callable[[int, int], Order] | None = None,
    ) -> None:
        """Plan ``epochs`` passes over ``images`` images; a last incomplete batch of a pass is left out.

        With ``labelled`` a batch begins with that many labelled images, in passes of their own, and the rest of it is
        from all images without labels: as many steps and images as without. ``parts`` are those that a batch goes
        through one after the other; of each of them every process takes an equal share. ``order`` gives the numbers of
        all images by (seed, epoch); left out, ``epoch_order``.

        Raises:
            InputError: Fewer images than one batch, or a batch that cannot be shared out.
        """
        if images < batch_size:
            raise InputError(
                f"optim.batch_size {batch_size} is larger than the set of {images} images; "
                f"use --set optim.batch_size={max(2, images // 4)} or more images"
            )
        if batch_size % (parts * world_size()) or batch_size // (parts * world_size()) < 2:
            raise InputError(
                f"optim.batch_size {batch_size} in {parts} parts (optim.accumulate) does not go to {world_size()} "
                "processes in equal shares of at least 2; give another batch size or number of processes"
            )
        self.images, self.batch_size, self.epochs, self.parts = images, batch_size, epochs, parts
        self.own = np.arange(batch_size).reshape(parts, world_size(), -1)[:, rank()].ravel()
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
                whole = Batch(epoch, order[k * self.batch_size : (k + 1) * self.batch_size])
                if self.labelled is not None:
                    whole = self._two_streams(epoch, k, order, self.labelled)
                yield self._share_of(whole)

    def _share_of(self, whole: Batch) -> Batch:
        """What this process takes of a batch, in the order of the parts."""
        if len(self.own) == self.batch_size:
            return whole
        labels, draws = (None if array is None else array[self.own] for array in (whole.labels, whole.draws))
        return Batch(whole.epoch, whole.indices[self.own], labels, draws)

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


class Fetched(NamedTuple):
    """A batch's pixels: squares to cut views from, or the views themselves."""

    epoch: int
    drawn_by: Int64[Tensor, "B"]
    """What the views of each image are drawn by."""
    images: UInt8[Tensor, "B S S 3"]
    """Decoded squares; with ``others`` first views."""
    others: UInt8[Tensor, "B s s 3"] | None = None
    """Second views, where workers make them."""
    labels: Int64[Tensor, "B"] | None = None

    def moved(self, device: torch.device) -> "Fetched":
        """The same on a device, without waiting for it."""
        return self.mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Fetched":
        """The same with each tensor changed."""
        others, labels = (None if t is None else change(t) for t in (self.others, self.labels))
        return Fetched(self.epoch, change(self.drawn_by), change(self.images), others, labels)


class _Reader(Dataset["Fetched | ByoltError"]):
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
        index, labels = _drawn_by(batch), None if batch.labels is None else torch.from_numpy(batch.labels)
        if self.views is None:
            return Fetched(batch.epoch, index, torch.from_numpy(self.store.batch(batch.indices)), labels=labels)
        pairs = [
            self.views(self.store[int(i)], draw, batch.epoch)
            for i, draw in zip(batch.indices, index.tolist(), strict=True)
        ]
        view_1, view_2 = (torch.from_numpy(np.stack(side)) for side in zip(*pairs, strict=True))
        return Fetched(batch.epoch, index, view_1, view_2, labels)


def _drawn_by(batch: Batch) -> Int64[Tensor, "B"]:
    return torch.from_numpy(batch.indices if batch.draws is None else batch.draws)


def batch_stream(
    plan: Plan, store: "ImageStore", recipe: "Recipe", device: torch.device
) -> Generator[Fetched, None, None]:
    """The plan's batches on ``device``: from a copy of the whole set there where it fits, else loaded ahead.

    Raises:
        InputError: An image is gone or has become unreadable (streamed sets only).
    """
    if device.type == "cuda" and _fits(store, recipe):
        yield from resident_stream(plan, store, device)
        return
    loader = DataLoader(
        _Reader(store, recipe),
        sampler=_announced(plan, store),
        batch_size=None,  # The reader fetches whole batches.
        num_workers=recipe.machine.workers,
        pin_memory=device.type == "cuda",
    )
    yield from _copied_ahead(_timed(loader), device) if device.type == "cuda" else _timed(loader)


def resident_stream(plan: Plan, store: "ImageStore", device: torch.device) -> Iterator[Fetched]:
    """Batches out of all decoded squares, which are copied to ``device`` once."""
    assert store.images is not None
    squares = torch.from_numpy(np.array(store.images)).to(device)
    for batch in plan:
        with record_function("data"):
            places = torch.from_numpy(batch.indices).to(device, non_blocking=True)
            labels = None if batch.labels is None else torch.from_numpy(batch.labels)
            fetched = Fetched(batch.epoch, _drawn_by(batch), places, labels=labels).moved(device)
            yield fetched._replace(images=squares[places])


def _fits(store: "ImageStore", recipe: "Recipe") -> bool:
    resident = recipe.views.backend == "batched" and store.images is not None
    return resident and store.images.nbytes <= recipe.machine.resident_gb * 1e9  # type: ignore[union-attr]


def _copied_ahead(fetched: Iterator[Fetched], device: torch.device) -> Iterator[Fetched]:
    """Batches on a GPU, each copied while it computes on the one before."""
    copies: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    computes = torch.cuda.current_stream(device)
    waiting: Fetched | None = None
    for on_host in fetched:
        with torch.cuda.stream(copies):
            following = on_host.moved(device)
        if waiting is not None:
            yield waiting
        computes.wait_stream(copies)
        for tensor in following[1:]:
            if isinstance(tensor, Tensor):
                tensor.record_stream(computes)
        waiting = following
    if waiting is not None:
        yield waiting


def make_views(batch: Fetched, recipe: "Recipe", epoch: Tensor | None = None) -> tuple[Tensor, ...]:
    """View 1 and view 2 of a batch, and its labels where it has some.

    Views are (B, 3, s, s), float32, normalised, channels-last, on the batch's device.

    Args:
        batch: On the device.
        recipe: What the views are drawn from.
        epoch: The batch's own as a tensor (), for a captured step.
    """
    from byolt.views import batched_views, normalise

    data = recipe.data
    with record_function("views"):
        if batch.others is None:
            views = batched_views(
                batch.images,
                batch.drawn_by,
                epoch=batch.epoch if epoch is None else epoch,
                seed=recipe.seed,
                views=recipe.views,
                size_px=recipe.view_size_px_of(batch.epoch),
                mean=data.mean,
                std=data.std,
            )
        else:
            views = normalise(batch.images, data.mean, data.std), normalise(batch.others, data.mean, data.std)
    return views if batch.labels is None else (*views, batch.labels)


def view_stream(
    plan: Plan, store: "ImageStore", recipe: "Recipe", device: torch.device
) -> Generator[tuple[int, tuple[Tensor, ...]], None, None]:
    """(epoch, views and labels) a step: ``make_views`` of each batch of ``batch_stream``."""
    for batch in batch_stream(plan, store, recipe, device):
        yield batch.epoch, make_views(batch, recipe)


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
