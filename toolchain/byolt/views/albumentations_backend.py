"""Views of single images by albumentations, made in worker processes; the only file that imports albumentations.

It is unmaintained since 2025 and pinned at its last MIT release, hence the one file.
"""

import difflib
import os
import random
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from byolt.views.hashing import seed_of
from byolt_export.errors import InputError, MissingPart

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # Or the import asks the network for a newer version.

try:
    import albumentations
    import cv2
except ImportError as error:
    raise MissingPart('views.backend: albumentations is not installed; pip install "byolt[train]"') from error

if TYPE_CHECKING:
    from byolt.recipe.views import ExtraTransform, View, Views

Image = npt.NDArray[np.uint8]

cv2.setNumThreads(0)  # Workers are the parallelism; a thread pool in each fights for the same cores.


class AlbumentationsViews:
    """Both views of an image, uint8, before normalisation."""

    def __init__(self, views: "Views", *, size_px: int, seed: int, record: bool = False) -> None:
        """Compose both distributions at ``size_px``; with ``record`` the parameters drawn are kept.

        Raises:
            InputError: An extra transform is unknown, or its arguments do not fit.
        """
        self.seed = seed
        # One pair of generators for all transforms. albumentations' own set_random_seed gives each transform a
        # generator of the same seed: whether to flip and whether to jitter would then be the same draw.
        self.python, self.numpy = random.Random(), np.random.Generator(np.random.Philox(key=0))
        extra = [_extra(item, size_px) for item in views.extra]
        self.views = [_compose(view, size_px, extra, record) for view in (views.view_1, views.view_2)]
        for view in self.views:
            view.set_random_state(self.numpy, self.python)

    def __call__(self, image: Image, index: int, epoch: int) -> tuple[Image, Image]:
        """Views (s, s, 3) of image number ``index`` (S, S, 3); the same for the same (seed, epoch, index)."""
        view_1, view_2 = (self.make(number, image, index, epoch)["image"] for number in (1, 2))
        return view_1, view_2

    def make(self, number: int, image: Image, index: int, epoch: int) -> dict[str, Any]:
        """View 1 or 2 under ``image``, and where recorded under ``applied_transforms`` each transform's parameters."""
        key = seed_of(self.seed, epoch, index, number)
        self.python.seed(key)
        state: Any = self.numpy.bit_generator.state
        state["state"]["key"][:] = (key, 0)
        state["state"]["counter"][:] = 0
        state["buffer_pos"], state["has_uint32"] = 4, 0
        self.numpy.bit_generator.state = state
        made: dict[str, Any] = self.views[number - 1](image=image)
        return made


class _QuarterTurn(albumentations.RandomRotate90):  # type: ignore[misc]
    """A turn by 90, 180 or 270 degrees; albumentations' own counts no turn at all as a fourth."""

    def get_params(self) -> dict[str, int]:
        """How many turns to the left, 1 to 3."""
        return {"factor": self.py_random.randint(1, 3)}


def _compose(
    view: "View", size_px: int, extra: list[albumentations.BasicTransform], record: bool
) -> albumentations.Compose:
    """The paper's Table 6 in its order, with a turn after the flip, then the recipe's extra transforms."""

    def around(reach: float) -> tuple[float, float]:
        return 1 - reach, 1 + reach

    steps = [
        albumentations.RandomResizedCrop(
            size=(size_px, size_px),
            scale=view.crop_area,
            ratio=view.crop_aspect,
            interpolation=cv2.INTER_CUBIC,
            area_for_downscale="image",  # OpenCV's cubic does not antialias where it shrinks.
        ),
        albumentations.HorizontalFlip(p=view.flip),
        *([_QuarterTurn(p=view.quarter_turn)] if view.quarter_turn > 0 else []),  # It draws at 0 too.
        albumentations.ColorJitter(
            brightness=around(view.brightness),
            contrast=around(view.contrast),
            saturation=around(view.saturation),
            hue=(-view.hue, view.hue),
            p=view.jitter,
        ),
        albumentations.ToGray(p=view.grey),
        # blur_limit=0: the kernel's size follows sigma.
        albumentations.GaussianBlur(blur_limit=0, sigma_limit=view.blur_sigma_px, p=view.blur),
        albumentations.Solarize(threshold_range=(0.5, 0.5), p=view.solarize),
    ]
    return albumentations.Compose([*steps, *extra], save_applied_params=record)


def _extra(item: "ExtraTransform", size_px: int) -> albumentations.BasicTransform:
    """The recipe's transform, tried once on an image, so that it fails now and not in a worker."""
    known = [
        name
        for name, value in vars(albumentations).items()
        if isinstance(value, type) and issubclass(value, albumentations.BasicTransform)
    ]
    if item.name not in known:
        near = difflib.get_close_matches(item.name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"views.extra: albumentations has no transform {item.name!r}{hint}")
    image = np.zeros((size_px, size_px, 3), np.uint8)
    with warnings.catch_warnings():
        # An argument that a transform does not know is a warning of albumentations; here it is a fault.
        warnings.simplefilter("error")
        try:
            transform: albumentations.BasicTransform = getattr(albumentations, item.name)(**item.args)
        except (TypeError, ValueError, UserWarning) as error:
            # Of pydantic's report on several lines, the first fault: its key, and what is wrong.
            lines = [line.strip().split(" [type=")[0] for line in str(error).splitlines()]
            reason = (": ".join(lines[1:3]) if len(lines) > 2 else lines[0]).replace("Input should", "should")
            reason = reason.replace("Value error, ", "")
            raise InputError(f"views.extra: {item.name} does not take {item.args}: {reason}") from error
        try:
            made = transform(image=image, force_apply=True)["image"]
        except (cv2.error, KeyError, TypeError, ValueError, NotImplementedError) as error:
            raise InputError(f"views.extra: {item.name} does not work on an image alone; leave it out") from error
    if made.shape != image.shape or made.dtype != image.dtype:
        raise InputError(
            f"views.extra: {item.name} makes {made.dtype} {made.shape} of a uint8 {image.shape} view; "
            "only a transform that keeps size and type can be added"
        )
    return transform
