"""What a study of lengths shows: a table for each length, and whether differences grow or shrink from the first on."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from byolt.evaluation.statistics import Comparison, differences_over_seeds, in_points
from byolt.studies.results import ArmResults, StudyResults, Table, without_nan


class Gap(NamedTuple):
    """BYOL less another method at two lengths, over the seeds that both have at both."""

    ours: str
    theirs: str
    first: int
    """Epochs."""
    last: int
    before: float
    """Mean difference at the first, in [-1, 1]."""
    after: float
    change: Comparison
    """``after`` less ``before``, paired by seed: what we gain less what they gain. A family for each length."""

    @property
    def verdict(self) -> str:
        """``narrows``, ``widens``, ``changes sides``, or ``not told apart`` where the simultaneous interval holds 0."""
        if self.change.verdict == "not told apart":
            return "not told apart"
        if self.before * self.after < 0:
            return "changes sides"
        return "narrows" if abs(self.after) < abs(self.before) else "widens"

    @property
    def sentence(self) -> str:
        """In words, in points."""
        moved = (
            f"{self.ours} less {self.theirs} is {100 * self.before:+.1f} points at {self.first} epochs and "
            f"{100 * self.after:+.1f} at {self.last}"
        )
        c = self.change
        if c.low != c.low:
            return f"{moved}: the same change at each of {c.n} seeds, and no spread to draw an interval from"
        change = f"{in_points(c.difference, c.low, c.high, '+')} over {c.n} seeds"
        if self.verdict == "not told apart":
            return f"{moved}: the change is not told apart from none, {change} holds 0"
        return f"{moved}: the gap {self.verdict}, a change of {change}"


@dataclass(frozen=True)
class LengthsResults(StudyResults):
    """Tables of one length each."""

    lengths: tuple[int, ...] = ()
    """Epochs of each table, rising."""

    @property
    def gaps(self) -> list[Gap]:
        """How our difference to each other method moves from the first length to each longer one."""
        first, *longer = zip(self.lengths, self.tables, strict=True)
        return [gap for later in longer for gap in _gaps(first, later)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without the logs."""
        gaps = [
            gap._asdict() | {"change": gap.change._asdict(), "verdict": gap.verdict, "sentence": gap.sentence}
            for gap in self.gaps
        ]
        return super().to_dict() | {"lengths": list(self.lengths), "gaps": without_nan(gaps)}


def _gaps(first: tuple[int, Table], last: tuple[int, Table]) -> list[Gap]:
    (start, early), (end, late) = first, last
    seeds = [seed for seed in late.arms[0].seeds if seed in early.arms[0].seeds]
    before = {arm.name: _of_seeds(arm, seeds) for arm in early.arms if arm.whole}
    after = {arm.name: _of_seeds(arm, seeds) for arm in late.arms if arm.whole and arm.name in before}
    gains = {name: [b - a for a, b in zip(before[name], own, strict=True)] for name, own in after.items()}
    ours = late.ours
    others = {name: gain for name, gain in gains.items() if name != ours}
    if ours not in gains or not others or len(seeds) < 2:
        return []

    def less(accuracies: dict[str, list[float]], theirs: str) -> float:
        return (sum(accuracies[ours]) - sum(accuracies[theirs])) / len(seeds)

    return [
        Gap(ours, name, start, end, less(before, name), less(after, name), change)
        for name, change in differences_over_seeds(gains[ours], others).items()
    ]


def _of_seeds(arm: ArmResults, seeds: list[int]) -> list[float]:
    return [arm.accuracies[arm.seeds.index(seed)] for seed in seeds]
