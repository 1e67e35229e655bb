"""Label efficiency of a study of starts: curves, differences, and how many labels a start saves, with intervals.

All intervals are of means over seeds, draws of labels and test images, by ``variance_components``; what they cover is
said in words, since a study of one seed tells nothing of the seeds. Metrics are shares in [0, 1].
``label_efficiency_words`` puts the answers into sentences.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from byolt.evaluation.statistics import ALPHA, holm
from byolt.evaluation.variance_components import Components, Measure, components, metric_and_influences
from byolt_export.errors import InputError

GRID = 2001
"""Numbers of labels, evenly spaced in their logarithm, that are tried as ends of an interval."""

Cell = tuple[str, int]
"""A start and a number of labels."""


class Point(NamedTuple):
    """Mean metric of a start at a number of labels and its 95 % interval, NaN where nothing varies."""

    budget: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """What a study of starts measured.

    Seed s and draw r are the same draw of labels for every start; every score is of the same N test images.

    Attributes:
        starts: Names of the initial weights, the cheapest first.
        budgets: Numbers of labels, ascending; "all" is its number.
        scores: Of each start and budget, (seeds, draws, images): the score of the positive class for "auc", 1 where
            the image is classified right for "accuracy". A budget has as many draws as the others, or one ("all").
        labels: Classes of the test images, (N,); for "auc" 1 is positive and 0 negative.
        measure: "auc" or "accuracy".
        fixed: Starts whose encoder is the same at every seed (ImageNet weights under a linear probe).

    Raises:
        InputError: A cell is missing, its shape disagrees, or a score is not finite.
    """

    starts: tuple[str, ...]
    budgets: tuple[int, ...]
    scores: Mapping[Cell, Num[np.ndarray, "_ _ _"]]
    labels: Int[np.ndarray, "_"]
    measure: Measure
    fixed: frozenset[str] = frozenset()
    _found: dict[Cell, tuple[Float[np.ndarray, "S R"], Float[np.ndarray, "S R N"]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Check that the cells fit together, and take the metrics and influences of each once."""
        if list(self.budgets) != sorted(set(self.budgets)) or not self.budgets or self.budgets[0] < 1:
            raise InputError(f"label efficiency: the numbers of labels {self.budgets} do not ascend from at least 1")
        seeds, draws = set(), {1}
        for cell in ((start, budget) for start in self.starts for budget in self.budgets):
            where = f"label efficiency: {cell[0]} with {cell[1]} labels"
            if cell not in self.scores:
                raise InputError(f"{where} was not measured; run that row of the study")
            scores = self.scores[cell]
            seeds.add(scores.shape[0])
            draws.add(scores.shape[1])
            if len(seeds) > 1 or len(draws) > 2 or scores.shape[2] != len(self.labels):
                raise InputError(f"{where}: other seeds, draws or test images than the rest; run that row again")
            if not np.isfinite(scores).all():
                raise InputError(f"{where}: a score is not a finite number; run that row again")
            self._found[cell] = metric_and_influences(scores, self.labels, self.measure)

    def components(self, cells: Sequence[Cell]) -> Components:
        """Means and variance components of cells, the units of one cell beside those of the others."""
        for cell in cells:
            if cell not in self._found:
                raise InputError(f"label efficiency: {cell[0]} with {cell[1]} labels is not in the study")
        found = [self._found[cell] for cell in cells]
        if self._by_draws({start for start, _ in cells}):
            # One draw stands beside each of the others': it is of all labels, and so the same for each.
            draws = max(values.shape[1] for values, _ in found)
            wide = [(np.repeat(v, draws // v.shape[1], 1), np.repeat(i, draws // v.shape[1], 1)) for v, i in found]
            units = [(v.reshape(-1), i.reshape(-1, i.shape[2])) for v, i in wide]
        else:
            units = [(v.mean(1), i.mean(1)) for v, i in found]
        return components(np.stack([v for v, _ in units]), np.stack([i for _, i in units]))

    def covers(self, cells: Sequence[Cell]) -> str:
        """Which variation an interval of these cells covers, in words."""
        drawn = any(self._found[cell][0].shape[1] > 1 for cell in cells)
        levels = "draws of labels and test images" if drawn else "test images"
        if {start for start, _ in cells} <= self.fixed:
            return levels
        return f"seeds, {levels}" if self._seeds > 1 else f"{levels}, not seeds: there is one"

    def tells_seeds(self, starts: set[str]) -> bool:
        """Whether the interval of these starts covers all that varies: with one seed it does not."""
        return self._seeds > 1 or starts <= self.fixed

    @property
    def _seeds(self) -> int:
        return len(next(iter(self._found.values()))[0])

    def _by_draws(self, starts: set[str]) -> bool:
        # Draws of all seeds are alike where no encoder depends on the seed; with one seed there is nothing else.
        return self._seeds == 1 or starts <= self.fixed


@dataclass(frozen=True)
class Difference:
    """Ours minus theirs with the same labels, as one of a family of comparisons fixed beforehand.

    ``low`` to ``high`` is the interval at the level 1 - 0.05 / family (Bonferroni): all of the family hold at once in
    at least 95 % of studies; the verdict is drawn from it alone. ``p`` is that of the two-sided t test with the same
    standard error and degrees of freedom, ``p_holm`` the same adjusted over the family. With one seed of a start that
    learns there is no test: p is NaN and nothing is told apart, however far the draws agree. Where nothing varies the
    interval is NaN too.
    """

    ours: str
    theirs: str
    budget: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    covers: str

    @property
    def verdict(self) -> Literal["better", "worse", "not told apart"]:
        """A direction only where the whole interval lies on one side of 0 and it covers all that varies."""
        if math.isnan(self.p) or not (self.low > 0 or self.high < 0):
            return "not told apart"
        return "better" if self.low > 0 else "worse"


@dataclass(frozen=True)
class Saved:
    """With how many labels theirs reaches what ours has with ``budget``, and the 95 % interval of that number.

    All three lie within the measured numbers of labels, ``fewest`` to ``most``. ``low_censored``: fewer than
    ``fewest`` is not excluded. ``high_censored``: more than ``most`` is not excluded. ``reached`` says where the
    estimate itself lies.
    """

    ours: str
    theirs: str
    budget: int
    equal_to: float
    low: float
    high: float
    low_censored: bool
    high_censored: bool
    reached: Literal["with fewer", "within", "with more"]
    fewest: int
    most: int
    covers: str


def curves(measured: Measured) -> dict[str, list[Point]]:
    """Mean and pointwise 95 % interval of each start at each number of labels.

    The interval is symmetric on the scale of log-odds, so that it stays within 0 and 1.
    """
    found: dict[str, list[Point]] = {}
    for start in measured.starts:
        cells = measured.components([(start, budget) for budget in measured.budgets])
        odds = _log_odds(cells)
        half = odds.half_width(np.eye(len(measured.budgets)), ALPHA)
        ends = _share(np.stack([odds.mean - half, odds.mean + half])).T
        found[start] = [
            Point(budget, float(mean), float(low), float(high))
            for budget, mean, (low, high) in zip(measured.budgets, cells.mean, ends, strict=True)
        ]
    return found


def differences(measured: Measured, pairs: Sequence[tuple[str, str]], budgets: Sequence[int]) -> list[Difference]:
    """Ours minus theirs for each pair at each number of labels: one family, to be fixed before the scores are seen.

    Raises:
        InputError: There is no pair or budget, or one was not measured.
    """
    family = len(pairs) * len(budgets)
    if not family:
        raise InputError("label efficiency: there is nothing to compare; name a pair of starts and a number of labels")
    found = [_difference(measured, *pair, budget, family) for pair in pairs for budget in budgets]
    tested = [i for i, one in enumerate(found) if not math.isnan(one.p)]
    for i, p in zip(tested, holm([found[i].p for i in tested]), strict=True):
        found[i] = Difference(**{**vars(found[i]), "p_holm": p})
    return found


def labels_saved(measured: Measured, ours: str, theirs: str, budget: int) -> Saved:
    """With how many labels theirs reaches what ours has with ``budget``.

    The curve of theirs is piecewise linear in log labels on the scale of log-odds; the estimate is read off its
    isotonic regression. The interval holds every number of labels at which the t test of ours against that curve does
    not reject (Fieller 1954): unlike one around the estimate it is right for a flat curve, where it has no end.

    Raises:
        InputError: A start or the budget was not measured.
    """
    cells = [(ours, budget), *((theirs, b) for b in measured.budgets)]
    odds = _log_odds(measured.components(cells))
    at = np.log(measured.budgets)
    target, rising = odds.mean[0], isotonic(odds.mean[1:])
    estimate = reached_at(at, rising, target)
    tried = np.linspace(at[0], at[-1], GRID)
    weights = np.stack([np.interp(tried, at, one) for one in np.eye(len(at))], axis=1)
    gap = target - weights @ odds.mean[1:]
    half = odds.half_width(np.concatenate([np.ones((GRID, 1)), -weights], axis=1), ALPHA)
    kept = np.abs(gap) <= half
    fewest, most = measured.budgets[0], measured.budgets[-1]
    held = np.append(tried[kept], estimate)
    # Rounded since exp(log(10)) is 10.000000000000002.
    equal_to, low, high = np.exp([estimate, held.min(), held.max()]).round(9).tolist()
    reached: Literal["with fewer", "within", "with more"] = "within"
    if not rising[0] <= target <= rising[-1]:
        reached = "with fewer" if target < rising[0] else "with more"
    return Saved(
        *(ours, theirs, budget, equal_to, low, high),
        low_censored=bool(kept[0]) or reached == "with fewer",
        high_censored=bool(kept[-1]) or reached == "with more",
        reached=reached,
        fewest=fewest,
        most=most,
        covers=measured.covers(cells),
    )


def _difference(measured: Measured, ours: str, theirs: str, budget: int, family: int) -> Difference:
    cells = [(ours, budget), (theirs, budget)]
    found, weights = measured.components(cells), np.array([1.0, -1.0])
    gap = float(weights @ found.mean)
    half = float(found.half_width(weights, ALPHA / family))
    p = found.p_value(weights) if measured.tells_seeds({ours, theirs}) else math.nan
    low, high = np.clip([gap - half, gap + half], -1, 1).tolist()
    return Difference(ours, theirs, budget, gap, low, high, p, p, measured.covers(cells))


def _log_odds(found: Components) -> Components:
    """Means on the scale of log-odds, their covariances by the delta method; kept half an image away from 0 and 1."""
    mean = np.clip(found.mean, 0.5 / found.images, 1 - 0.5 / found.images)
    return found.scaled(1 / (mean * (1 - mean)))._replace(mean=np.log(mean / (1 - mean)))


def _share(log_odds: Float[np.ndarray, "*N"]) -> Float[np.ndarray, "*N"]:
    return np.asarray(1 / (1 + np.exp(-log_odds)))


def isotonic(curve: Float[np.ndarray, "K"]) -> Float[np.ndarray, "K"]:
    """The closest curve that never falls: max over starts of min over ends of the mean between (Robertson 1988)."""
    ks = range(len(curve))
    return np.array([max(min(curve[i : j + 1].mean() for j in ks[k:]) for i in ks[: k + 1]) for k in ks])


def reached_at(at: Float[np.ndarray, "K"], curve: Float[np.ndarray, "K"], target: float) -> float:
    """Where a curve that never falls first reaches the target, by lines between its knots; an end where it does not."""
    last = int(np.searchsorted(curve, target))
    if last in (0, len(curve)):
        return float(at[0] if last == 0 else at[-1])
    share = (target - curve[last - 1]) / (curve[last] - curve[last - 1])
    return float(at[last - 1] + share * (at[last] - at[last - 1]))
