"""The batch sampler: which images each step learns from.

The order is a permutation keyed by (seed, epoch): it can start at any step, in any number of processes, and gives the
same batches. Of several processes each takes its part of every batch. Axes: B images of a batch, S pixels of a side.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int64, UInt
from torch import Tensor

from byolt.data.order import Order, epoch_order
from byolt.distributed.collectives import rank, world_size
from byolt_export.errors import InputError

UNLABELLED = -1
"""The label of an image whose class is not used."""


class Batch(NamedTuple):
    """A batch on its way: what the sampler chose, and from the loader on its pixels; numbers are then tensors."""

    epoch: int
    indices: Int64[np.ndarray, "B"]
    """Numbers of the images."""
    view_keys: Int64[np.ndarray, "B"] | Int64[Tensor, "B"]
    """What the views of each image are drawn by."""
    labels: Int64[np.ndarray, "B"] | Int64[Tensor, "B"] | None = None
    """Class of each image, ``UNLABELLED`` where it is not used; None where no label is used at all."""
    images: UInt[Tensor, "B S S C"] | None = None
    """Decoded squares to cut views from; with ``second_views`` first views."""
    second_views: UInt[Tensor, "B S S C"] | None = None
    """Where workers make the views."""

    def with_tensors(self) -> "Batch":
        """The same with keys and labels as tensors."""
        labels = None if self.labels is None else torch.as_tensor(self.labels)
        return self._replace(view_keys=torch.as_tensor(self.view_keys), labels=labels)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same with each tensor changed."""
        fields: dict[str, Any] = self._asdict()
        changed: dict[str, Any] = {name: change(field) for name, field in fields.items() if isinstance(field, Tensor)}
        return self._replace(**changed)

    def to(self, device: torch.device) -> "Batch":
        """The same on a device, without waiting for it."""
        return self.mapped(lambda tensor: tensor.to(device, non_blocking=True))


class LabelledImages(NamedTuple):
    """The images whose labels are used, for batches of two streams."""

    indices: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    per_batch: int


@dataclass(frozen=True)
class BatchSampler:
    """Which images each batch of a run has, from ``start_step`` on; iterating draws one permutation per epoch.

    A last incomplete batch of a pass is left out. With ``labelled`` a batch begins with that many labelled images, in
    passes of their own, and the rest of it is from all images without labels: as many steps and images as without.

    Raises:
        InputError: Fewer images than one batch, or a batch that cannot be shared out.
    """

    images: int
    batch_size: int
    epochs: int
    seed: int
    start_step: int = 0
    labelled: LabelledImages | None = None
    parts: int = 1
    """Those that a batch goes through one after the other; of each of them every process takes an equal share."""
    order: Callable[[int, int], Order] | None = None
    """The numbers of all images by (seed, epoch); None is ``epoch_order``."""

    def __post_init__(self) -> None:
        if self.images < self.batch_size:
            raise InputError(
                f"optim.batch_size {self.batch_size} is larger than the set of {self.images} images; "
                f"use --set optim.batch_size={max(2, self.images // 4)} or more images"
            )
        shares = self.parts * world_size()
        if self.batch_size % shares or self.batch_size // shares < 2:
            raise InputError(
                f"optim.batch_size {self.batch_size} in {self.parts} parts (optim.accumulate) does not go "
                f"to {world_size()} processes in equal shares of at least 2; give another batch size or number of "
                "processes"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of one pass."""
        return self.images // self.batch_size

    @property
    def steps(self) -> int:
        """Steps of all epochs, those before ``start_step`` too."""
        return self.epochs * self.steps_per_epoch

    def window(self, first_epoch: int, epochs: int) -> "BatchSampler":
        """The same batches, of ``epochs`` epochs from ``first_epoch`` on alone."""
        return replace(self, start_step=first_epoch * self.steps_per_epoch, epochs=first_epoch + epochs)

    def with_batch_size(self, batch_size: int) -> "BatchSampler":
        """Batches of another size from the first epoch on, the same share of each labelled."""
        labelled = self.labelled
        if labelled is not None:
            labelled = labelled._replace(per_batch=labelled.per_batch * batch_size // self.batch_size)
        return replace(self, batch_size=batch_size, labelled=labelled, start_step=0)

    def __len__(self) -> int:
        return self.steps - self.start_step

    def __iter__(self) -> Iterator[Batch]:
        for epoch in range(self.start_step // self.steps_per_epoch, self.epochs):
            first = (
                self.start_step - epoch * self.steps_per_epoch if epoch * self.steps_per_epoch < self.start_step else 0
            )
            order = self.order(self.seed, epoch) if self.order else epoch_order(self.images, self.seed, epoch)
            for k in range(first, self.steps_per_epoch):
                chosen = order[k * self.batch_size : (k + 1) * self.batch_size]
                whole = Batch(epoch, chosen, chosen)
                if self.labelled is not None:
                    whole = self._two_streams(epoch, k, order, self.labelled)
                yield self._share_of(whole)

    def _share_of(self, whole: Batch) -> Batch:
        """What this process takes of a batch, in the order of the parts."""
        if world_size() == 1:
            return whole
        own = np.arange(self.batch_size).reshape(self.parts, world_size(), -1)[:, rank()].ravel()
        labels = None if whole.labels is None else whole.labels[own]
        return Batch(whole.epoch, whole.indices[own], whole.view_keys[own], labels)

    def _two_streams(self, epoch: int, k: int, order: npt.NDArray[np.int64], labelled: LabelledImages) -> Batch:
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
            # An image may come twice an epoch, and then with other views.
            np.concatenate([labelled.indices[chosen] + (1 + passes) * self.images, unlabelled]),
            np.concatenate([labelled.labels[chosen], np.full(rest, UNLABELLED)]),
        )
