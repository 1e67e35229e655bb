"""What a study or an ablation shows: tables of arms, tests in words, and what is to be said with them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from byolt.environment import environment
from byolt.evaluation.statistics import (
    Comparison,
    RankCorrelation,
    Summary,
    differences_over_seeds,
    mean_over_seeds,
    rank_correlation,
    sentence,
)
from byolt.recipe.schema import Recipe


@dataclass(frozen=True)
class ArmResults:
    """One arm over its seeds."""

    name: str
    changes: str
    """What the recipe changes, in words; empty for none."""
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    """Of each seed, in 0 to 1; NaN where the run has none (its loss was not finite)."""
    states: tuple[str, ...]
    """``finished``, ``collapsed`` or ``diverged``, a seed."""
    knn: tuple[float, ...] = ()
    """kNN accuracies beside them, where they were measured."""
    published: float | None = None
    source: str = ""
    minutes: float = 0.0
    """Mean time to learn."""
    steps: int = 0
    """Steps of a run that does not collapse; 0 where the log's last step says it."""
    records: tuple[list[dict[str, Any]], ...] = field(default=(), repr=False)
    """The log of each seed's run, where its folder is at hand."""

    @property
    def collapsed(self) -> tuple[bool, ...]:
        """Whether each seed was called collapsed while it learned."""
        return tuple(state == "collapsed" for state in self.states)

    @property
    def whole(self) -> bool:
        """Whether every seed has an accuracy."""
        return all(value == value for value in self.accuracies)

    @property
    def summary(self) -> Summary | None:
        """Mean, deviation and interval over the seeds, within 0 and 1; None where a seed has no figure."""
        if not self.whole:
            return None
        found = mean_over_seeds(self.accuracies)
        low, high = (min(max(end, 0.0), 1.0) for end in (found.low, found.high))  # NaN of one seed stays NaN.
        return found._replace(low=low, high=high)


@dataclass(frozen=True)
class Table:
    """Arms that are compared by one measure."""

    caption: str
    measure: str
    """In words, with the split."""
    arms: tuple[ArmResults, ...]
    ours: str = ""
    """The arm that the others are tested against; empty for no test."""

    @property
    def comparisons(self) -> dict[str, Comparison]:
        """Our arm against each other one, over the seeds."""
        ours = next((arm for arm in self.arms if arm.name == self.ours and arm.whole), None)
        others = {arm.name: arm.accuracies for arm in self.arms if arm.name != self.ours and arm.whole}
        if ours is None or not others or len(ours.seeds) < 2:
            return {}
        return differences_over_seeds(ours.accuracies, others)

    @property
    def sentences(self) -> list[str]:
        """What the tests say, in words."""
        said = [sentence(self.ours, name, comparison) for name, comparison in self.comparisons.items()]
        lost = [arm.name for arm in self.arms if not arm.whole]
        return said + [f"{name} has a seed whose loss was not finite: it is not compared" for name in lost]

    @property
    def said(self) -> list[str]:
        """The sentences, and the rank correlation where there are published values."""
        order = self.order
        if order is None or order.rho != order.rho:
            return self.sentences
        rank = f"rank correlation with the published values {order.rho:.2f} (n = {order.n}, p = {order.p:.3f})"
        return [*self.sentences, rank]

    @property
    def order(self) -> RankCorrelation | None:
        """Rank correlation of our means with the published values, over the arms that have both."""
        pairs = [
            (arm.summary.mean, arm.published)
            for arm in self.arms
            if arm.published is not None and arm.summary is not None
        ]
        if len(pairs) < 3:
            return None
        ours, published = zip(*pairs, strict=True)
        return rank_correlation(ours, published)


@dataclass(frozen=True)
class StudyResults:
    """All that a study says."""

    name: str
    title: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    environment: dict[str, str]
    recipe_text: str
    hours: float
    """Of learning, over all runs, one process each."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without the logs."""
        lines = {
            "study": self.name,
            "tables": [_table(table) for table in self.tables],
            "notes": list(self.notes),
            "hours": round(self.hours, 2),
        }
        return dict(without_nan(lines))


def measured_with(recipe: Recipe) -> dict[str, str]:
    """Versions, processor and threads of a study, in words."""
    made = environment()
    return {
        "byolt": made["byolt"],
        "torch": made["packages"].get("torch", ""),
        "processor": made["processor"],
        "cores": str(made["cores"]),
        "threads a run": str(recipe.machine.threads or "torch's choice"),
    }


def without_nan(value: Any) -> Any:
    """None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value


def _table(table: Table) -> dict[str, Any]:
    order = table.order
    return {
        "caption": table.caption,
        "measure": table.measure,
        "arms": [_arm(arm) for arm in table.arms],
        "comparisons": {name: c._asdict() | {"verdict": c.verdict} for name, c in table.comparisons.items()},
        "sentences": table.sentences,
        "rank_correlation": None if order is None else order._asdict(),
    }


def _arm(arm: ArmResults) -> dict[str, Any]:
    summary = arm.summary
    return {
        "name": arm.name,
        "changes": arm.changes,
        "seeds": list(arm.seeds),
        "accuracies": list(arm.accuracies),
        "states": list(arm.states),
        "knn": list(arm.knn),
        "summary": None if summary is None else summary._asdict(),
        "published": arm.published,
        "source": arm.source,
        "minutes": round(arm.minutes, 2),
    }


def collapsed_in_words(arms: Sequence[ArmResults]) -> list[str]:
    """Which arms were called collapsed while they learned, and in how many seeds."""
    lines = []
    for arm in arms:
        count = sum(arm.collapsed)
        if count:
            lines.append(f"{arm.name}: called collapsed while it learned in {count} of {len(arm.states)} seeds")
    return lines
