"""Limits that a delivered file must keep: those of every network, and the tighter ones of this very file.

docs/decisions/0021-two-gates.md says where each number comes from.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from byolt_export.bundle.manifest import Gates, Precision
from byolt_export.proof.agreement import SHARES
from byolt_export.proof.measures import QUERIES
from byolt_export.proof.report import Measures

# The outer gates: what any network's file must keep to be delivered, trained weights on real images.
GATES: Mapping[Precision, Gates] = {
    "fp32": Gates(1e-4, 1e-4, 0.99999, 0.99, 0.99, 0.99, 0.0),
    "fp16": Gates(0.03, 0.1, 0.98, 0.99, 0.98, 0.99, 0.2),
    "int8": Gates(0.05, 0.25, 0.9, 0.95, 0.95, 0.97, 0.4),
}
# Mean and worst distance of the same file later, in parts of what it showed when it was made. INT8's levels are the
# same on every engine; what else is summed or rounded is not.
_ROOM: Mapping[Precision, tuple[float, float]] = {"fp32": (3.0, 3.0), "fp16": (3.0, 3.0), "int8": (1.5, 2.0)}
# What another order of sums costs wherever little was measured; in half one and two roundings of a value.
_FLOOR: Mapping[Precision, tuple[float, float]] = {"fp32": (1e-5, 2e-5), "fp16": (2**-11, 2**-10), "int8": (0.0, 0.0)}
_DRIFT_ROOM, _LEAST_DRIFT = 3.0, 2**-10  # The same of an int8 file's distance from itself.
_BY_CHANCE = 0.001  # Of golden images drawn again and again, how many may fall short by chance.


def outer_gates(precision: Precision, images: int) -> Gates:
    """The outer gates for so many images: their shares in whole images, for of 94 none can be 99 % but 93 or 94."""
    gates, queries = GATES[precision], min(images, QUERIES)
    return replace(gates, **{name: math.floor(getattr(gates, name) * queries + 1e-9) / queries for name in SHARES})


def golden_gates(precision: Precision, images: int) -> Gates:
    """The outer gates for so many golden images alone, which are a sample: distances as they are, shares by chance."""
    gates = GATES[precision]
    return replace(gates, **{name: least_share(getattr(gates, name), images) for name in SHARES})


def least_share(share: float, images: int) -> float:
    """What of so many images is kept in 999 of 1,000 samples, where ``share`` of all images is (binomial)."""
    images = min(images, QUERIES)
    missed, probability = 0, share**images
    so_far = probability
    while so_far < 1 - _BY_CHANCE and missed < images:
        probability *= (images - missed) / (missed + 1) * (1 - share) / share
        missed += 1
        so_far += probability
    return (images - missed) / images


def gates_of_file(
    precision: Precision,
    measured: Iterable[Measures],
    maps: Iterable[float],
    images: int,
    reordered_mean: float | None = None,
) -> Gates:
    """The tightened gates that are delivered with a file: room about what was measured, within the outer gates.

    Args:
        precision: Of the file.
        measured: Its distances when it was made, on the golden images and in the gallery.
        maps: Worst relative L2 of each map, of features.
        images: Golden images, which are all that a later proof has.
        reordered_mean: Of an int8 file, relative L2 that another order of the same sums costs, mean of the images.
    """
    measured = tuple(measured)
    found = (
        max(measures.relative_l2_mean for measures in measured),
        max(*(measures.relative_l2_worst for measures in measured), *maps, 0.0),
    )
    mean, worst = (
        max(room * distance, floor)
        for room, distance, floor in zip(_ROOM[precision], found, _FLOOR[precision], strict=True)
    )
    wanted = {"relative_l2_mean_max": mean, "relative_l2_worst_max": worst}
    if reordered_mean is not None:  # Nor may it be further from itself than from PyTorch.
        wanted["drift_mean_max"] = min(max(_DRIFT_ROOM * reordered_mean, _LEAST_DRIFT), mean)
    return tighten(golden_gates(precision, images), wanted)


def faults(measures: Measures, gates: Gates) -> list[str]:
    """What in the measures breaks the gates, one phrase each; empty when all is kept."""
    return [*distances(measures, gates), *directions(measures, gates), *shares(measures, gates)]


def distances(measures: Measures, gates: Gates) -> list[str]:
    """The same of the error as a share of an output's length, whatever lies between different images."""
    found = [] if measures.finite else ["outputs are not finite"]
    if measures.relative_l2_worst > gates.relative_l2_worst_max:
        found.append(
            f"relative L2 {measures.relative_l2_worst:.2g} of image {measures.worst_image} "
            f"is above {gates.relative_l2_worst_max:.2g}"
        )
    if measures.relative_l2_mean > gates.relative_l2_mean_max:
        found.append(f"mean relative L2 {measures.relative_l2_mean:.2g} is above {gates.relative_l2_mean_max:.2g}")
    return found


def directions(measures: Measures, gates: Gates) -> list[str]:
    """The same of the error against what lies between different images."""
    return _below(measures, gates, ("centred_cosine_worst",))


def shares(measures: Measures, gates: Gates) -> list[str]:
    """The same of the images whose neighbour or class was kept."""
    return _below(measures, gates, SHARES)


def _below(measures: Measures, gates: Gates, names: Iterable[str]) -> list[str]:
    found = []
    for name in names:
        value, limit = getattr(measures, name), getattr(gates, name)
        if value is not None and value < limit:
            found.append(f"{name.replace('_', ' ')} {value:.6g} is below {limit:.6g}")
    return found


def tighten(gates: Gates, wanted: Mapping[str, float]) -> Gates:
    """The stricter of a gate and the wanted limit, name by name: a wanted limit never loosens a gate."""
    stricter = {
        name: (min if name.endswith("_max") else max)(limit, getattr(gates, name)) for name, limit in wanted.items()
    }
    return replace(gates, **stricter)
