"""`data.bit_depth: auto`: the fewest bits that hold every value of a set."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from byolt.data.decode import least_depth
from byolt.data.progress import ImageProgress
from byolt.data.source import FileImages, ImageSource, UnreadableImage
from byolt.data.splits import open_sources
from byolt.log import warn_once

if TYPE_CHECKING:
    from byolt.recipe.schema import Recipe

_AT_ONCE = 256


def with_bit_depth(recipe: "Recipe") -> "Recipe":
    """The recipe with a number for `data.bit_depth: auto`: every file is decoded once, test images too.

    Raises:
        InputError: The set is missing, or its parts do not fit one another.
    """
    if recipe.data.bit_depth != "auto":
        return recipe
    sources = open_sources(recipe.data)
    found = [_largest(source) for source in (sources.learn, sources.test) if source is not None]
    largest = max((value for value in found if value is not None), default=None)
    bits = None if largest is None else least_depth(largest)
    said = "no file has more than 8 bits" if bits is None else f"{bits}, for the largest value is {largest}"
    warn_once(f"{sources.learn.name}: data.bit_depth auto: {said}")
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"bit_depth": bits})})


def _largest(source: ImageSource) -> int | None:
    """The largest value of the files of more than 8 bits; None where there is none."""
    assert isinstance(source, FileImages)

    def attempt(index: int) -> int | None:
        try:
            return source.decode(index).largest
        except UnreadableImage:
            return None  # Said, and counted, where the images are decoded.

    progress, largest = ImageProgress(source.name, "looking for the bit depth of", live=True), -1
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(source), _AT_ONCE):
            numbers = range(start, min(start + _AT_ONCE, len(source)))
            largest = max(largest, *(-1 if value is None else value for value in pool.map(attempt, numbers)))
            progress(numbers.stop, len(source))
    return None if largest < 0 else largest
