"""Whose nearest neighbour or class a file keeps, of all images that it was run on, and how sure that is."""

from dataclasses import dataclass

import numpy as np

SHARES = ("overlap_at_1", "overlap_at_10", "top_1_agreement")
Z_95 = 1.959964


def wilson_interval_95(share: float, queries: int) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share of so many queries, as if each were drawn for itself.

    They share a gallery, so it says nothing of another one. Of overlap at 10, whose queries are kept in part, it is
    too wide rather than too narrow.
    """
    room = Z_95**2 / queries
    centre = (share + room / 2) / (1 + room)
    half = Z_95 / (1 + room) * np.sqrt(share * (1 - share) / queries + room / (4 * queries))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


@dataclass(frozen=True)
class Share:
    """A share of ``queries``, its 95 % interval by Wilson's score, and the gate that it is judged by."""

    value: float
    interval_95: tuple[float, float]
    queries: int
    gate: float


@dataclass(frozen=True)
class Agreement:
    """Whose neighbour or class was kept, of all images there are: golden and gallery images as one set.

    A device has the golden images alone, and gates to their number. ``None`` where a share has no meaning.
    """

    images: int
    overlap_at_1: Share | None
    overlap_at_10: Share | None
    top_1_agreement: Share | None

    @property
    def remarks(self) -> tuple[str, ...]:
        """What keeps its gate by less than chance may have given, in words."""
        found = {name: getattr(self, name) for name in SHARES}
        return tuple(
            f"{name.replace('_', ' ')} {share.value:.6g} keeps {share.gate:.6g}, but its 95 % interval begins at "
            f"{share.interval_95[0]:.6g}: {share.queries} queries are too few to be sure of it"
            for name, share in found.items()
            if share is not None and share.interval_95[0] < share.gate <= share.value
        )
