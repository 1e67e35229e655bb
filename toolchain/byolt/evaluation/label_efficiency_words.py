"""The answers of a study of starts in sentences: how many labels a start saves, and which start to take."""

import math
from collections.abc import Callable, Sequence

from byolt.evaluation.label_efficiency import Difference, Saved

NAMES = {
    "scratch": "random weights",
    "imagenet": "ImageNet alone",
    "byol": "BYOL from random weights",
    "imagenet+byol": "BYOL from ImageNet",
}


def sentence(saved: Saved) -> str:
    """For example: BYOL from ImageNet with 50 labels equals ImageNet alone with about 130 [90, 190].

    Two digits of what lies between the numbers of labels measured; the interval is rounded outwards.
    """

    def digits(value: float, toward: Callable[[float], int]) -> str:
        step = 10 ** max(0, math.floor(math.log10(value)) - 1)
        measured = value in (saved.fewest, saved.most)
        return f"{value if measured else toward(value / step) * step:,.0f}"

    fewer, more = f"fewer than {saved.fewest:,}", f"more than {saved.most:,}"
    estimate = {"with fewer": fewer, "with more": more, "within": f"about {digits(saved.equal_to, round)}"}
    low = fewer if saved.low_censored else digits(saved.low, math.floor)
    high = more if saved.high_censored else digits(saved.high, math.ceil)
    return (
        f"{name(saved.ours)} with {saved.budget:,} labels equals {name(saved.theirs)} with "
        f"{estimate[saved.reached]} [{low}, {high}]"
    )


def recommendation(starts: Sequence[str], found: Sequence[Difference]) -> str:
    """Which start to take by a family of differences, or that they are not told apart.

    A start beats another where it is better with some number of labels and worse with none. Taken is the one that beats
    most, itself or by those that it beats, and that none beats; of equals the first named, which is the cheapest.
    Starts that no difference joins, directly or over others, are answered apart.
    """
    groups = _joined(starts, found)
    said = " ".join(_of_joined(group, found, alone=len(groups) == 1) for group in groups)
    if len(groups) > 1:
        said += " Between these no difference was tested: see the curves."
    one_seed = any("not seeds" in d.covers for d in found)
    return said + (" One seed tells nothing of the seeds: run at least 3." if one_seed else "")


def _joined(starts: Sequence[str], found: Sequence[Difference]) -> list[list[str]]:
    """The starts in groups whose members are compared, directly or over others; all in one where nothing is."""
    groups: list[list[str]] = []
    for d in found:
        met = [group for group in groups if d.ours in group or d.theirs in group]
        members = {d.ours, d.theirs}.union(*met)
        groups = [group for group in groups if group not in met] + [[one for one in starts if one in members]]
    return groups or [list(starts)]


def _of_joined(starts: Sequence[str], found: Sequence[Difference], *, alone: bool) -> str:
    """The recommendation among starts of one group; ``alone`` where there is no other."""
    beaten = {start: _beaten_by(start, found) for start in starts}
    unbeaten = [one for one in starts if not any(one in theirs for theirs in beaten.values())]
    best = max(unbeaten, key=lambda one: len(beaten[one]), default=starts[0])
    if beaten.get(best):
        against = [clause for other in starts if other != best and (clause := _clause(best, other, found))]
        return f"Take {name(best)}: {'; '.join(against)}."
    mixed = _mixed([d for d in found if d.ours in starts])
    if alone:
        return f"Not told apart: no start is better throughout; the cheapest is {name(starts[0])}.{mixed}"
    names = " and ".join(name(one) for one in starts)
    return f"Not told apart are {names}; the cheapest is {name(starts[0])}.{mixed}"


def name(start: str) -> str:
    """A start in words; its own name where it has no other."""
    return NAMES.get(start, start)


def _beaten_by(start: str, found: Sequence[Difference]) -> set[str]:
    """The starts that one beats, itself or by those that it beats."""
    beaten: set[str] = set()
    waiting = [start]
    while waiting:
        one = waiting.pop()
        new = {other for other in _compared(one, found) if _beats(one, other, found)} - beaten
        beaten |= new
        waiting += sorted(new)
    return beaten


def _beats(one: str, other: str, found: Sequence[Difference]) -> bool:
    verdicts = _verdicts(one, other, found)
    return bool(verdicts["better"]) and not verdicts["worse"]


def _compared(one: str, found: Sequence[Difference]) -> set[str]:
    return {d.theirs if d.ours == one else d.ours for d in found if one in (d.ours, d.theirs)}


def _verdicts(one: str, other: str, found: Sequence[Difference]) -> dict[str, list[int]]:
    """Numbers of labels with which one is better than another, worse, or not told apart."""
    turned = {"better": "worse", "worse": "better", "not told apart": "not told apart"}
    verdicts: dict[str, list[int]] = {verdict: [] for verdict in turned}
    for d in found:
        if {d.ours, d.theirs} == {one, other}:
            verdicts[d.verdict if d.ours == one else turned[d.verdict]].append(d.budget)
    return verdicts


def _clause(one: str, other: str, found: Sequence[Difference]) -> str:
    """For example: better than ImageNet alone with 50 and 100 labels, not told apart with 10."""
    parts: list[str] = []
    for verdict, budgets in _verdicts(one, other, found).items():
        than = f" than {name(other)}" if verdict != "not told apart" else f" from {name(other)}"
        if budgets:
            parts.append(f"{verdict}{'' if parts else than} with {_listed(budgets)}{'' if parts else ' labels'}")
    return ", ".join(parts)


def _mixed(found: Sequence[Difference]) -> str:
    """The pairs in which the better start changes with the number of labels."""
    pairs = dict.fromkeys((d.ours, d.theirs) for d in found)
    mixed = [pair for pair in pairs if all(_verdicts(*pair, found)[verdict] for verdict in ("better", "worse"))]
    return "".join(f" {name(ours)} is {_clause(ours, theirs, found)}." for ours, theirs in mixed)


def _listed(budgets: Sequence[int]) -> str:
    words = [f"{budget:,}" for budget in budgets]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
