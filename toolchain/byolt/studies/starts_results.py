"""What a study of starts says: label efficiency curves, labels saved, and which start to take."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from byolt.data import Splits
from byolt.evaluation.few_label_finetune import GRID
from byolt.evaluation.few_labels import FOLDS, L2_GRID
from byolt.evaluation.label_efficiency import (
    Difference,
    Measured,
    Point,
    Saved,
    curves,
    differences,
    labels_saved,
)
from byolt.evaluation.label_efficiency_words import recommendation, sentence
from byolt.recipe.load import dump_recipe
from byolt.recipe.schema import Recipe
from byolt.studies.results import measured_with, without_nan
from byolt.studies.starts_ledger import DRAWS, Cell, Rows
from byolt.studies.starts_measure import TUNING_DRAWS
from byolt.studies.starts_plan import PAIRS, WAYS, Way

SAVED_AT = 50
"""The number of labels that the one sentence is about; the nearest where it was not measured."""
COMPARED_AT = (50, 100)
"""Numbers of labels at which starts are compared; the smallest of a study without these."""
MEASURES = {"auc": "area under the ROC curve", "accuracy": "accuracy"}


@dataclass(frozen=True)
class WayResults:
    """All starts by one way to use few labels."""

    way: Way
    measured: Measured = field(repr=False)
    settings: Mapping[tuple[str, int], str]
    """Chosen for each start and number of labels."""

    @property
    def caption(self) -> str:
        """The way in words."""
        return WAYS[self.way][0].upper() + WAYS[self.way][1:]

    @cached_property
    def curves(self) -> dict[str, list[Point]]:
        """Mean and interval of each start at each number of labels."""
        return curves(self.measured)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Starts that are compared: the same initial weights with learning and without."""
        return [pair for pair in PAIRS if set(pair) <= set(self.measured.starts)]

    @property
    def compared_at(self) -> tuple[int, ...]:
        """Few numbers of labels: with 3 seeds the intervals of 12 comparisons are 3.6 times as wide as that of one."""
        budgets = self.measured.budgets
        return tuple(budget for budget in budgets if budget in COMPARED_AT) or budgets[:1]

    @cached_property
    def differences(self) -> list[Difference]:
        """Of each pair at ``compared_at``; one family."""
        return differences(self.measured, self.pairs, self.compared_at) if self.pairs else []

    @cached_property
    def saved(self) -> list[Saved]:
        """Of each pair, with each number of labels but the largest: there is nothing above it to read off."""
        few = self.measured.budgets[:-1]
        return [labels_saved(self.measured, *pair, budget) for pair in self.pairs for budget in few]

    @property
    def sentences(self) -> list[str]:
        """Labels saved at one number of labels, fixed beforehand, of each pair; with what the interval covers."""
        few = self.measured.budgets[:-1]
        nearest = min(few, key=lambda budget: abs(budget - SAVED_AT), default=0)
        said = [saved for saved in self.saved if saved.budget == nearest]
        return [f"{sentence(saved)} (95 % interval over {saved.covers})" for saved in said]

    @property
    def recommendation(self) -> str:
        """Which start to take, or that they are not told apart."""
        if not self.pairs:
            return "Nothing is compared: name a start with learning and the same one without."
        return recommendation(self.measured.starts, self.differences)


@dataclass(frozen=True)
class StartsResults:
    """All that a study of starts says."""

    name: str
    ways: tuple[WayResults, ...]
    seeds: tuple[int, ...]
    images: dict[str, int]
    """How many ``train`` and ``test`` images have labels, and how many ``classes`` there are."""
    notes: tuple[str, ...]
    environment: dict[str, str]
    recipe_text: str
    hours: float
    """Of learning and measuring, one process each."""

    @property
    def title(self) -> str:
        """The question."""
        return "Is pretraining on these images worth it?"

    @property
    def measure(self) -> str:
        """In words."""
        return MEASURES[self.ways[0].measured.measure]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        about = {"study": self.name, "measure": self.measure, "seeds": list(self.seeds), "images": self.images}
        ways = {way.way: _way(way) for way in self.ways}
        lines = about | {"ways": ways, "notes": list(self.notes), "hours": round(self.hours, 2)}
        return dict(without_nan(lines))


def _way(way: WayResults) -> dict[str, Any]:
    return {
        "caption": way.caption,
        "curves": {start: [point._asdict() for point in points] for start, points in way.curves.items()},
        "differences": [asdict(one) | {"verdict": one.verdict} for one in way.differences],
        "labels_saved": [asdict(one) for one in way.saved],
        "settings": [{"start": s, "budget": b, "setting": setting} for (s, b), setting in way.settings.items()],
        "sentences": way.sentences,
        "recommendation": way.recommendation,
    }


def results_of(
    recipe: Recipe, measured: Mapping[Way, Measured], cells: Sequence[Cell], rows: Rows, splits: Splits
) -> StartsResults:
    """What a study says of its scores.

    Args:
        recipe: The study's.
        measured: Scores by way.
        cells: All of it.
        rows: Of the ledger.
        splits: What labels were drawn from and what was tested on.
    """
    ways = [
        WayResults(way, scores, {(c.start.name, c.budget): rows.setting(c) or "" for c in cells if c.way == way})
        for way, scores in measured.items()
    ]
    assert splits.train is not None
    assert splits.test is not None
    train, test = len(splits.train), len(splits.test)
    return StartsResults(
        f"{recipe.name}-starts",
        tuple(ways),
        tuple(sorted({cell.seed for cell in cells})),
        {"train": train, "test": test, "classes": len(splits.train.classes)},
        tuple(_notes(recipe, cells, rows, splits)),
        measured_with(recipe),
        dump_recipe(recipe),
        rows.hours(cells),
    )


def _notes(recipe: Recipe, cells: Sequence[Cell], rows: Rows, splits: Splits) -> list[str]:
    """How it was measured, and what is to be known with it."""
    assert splits.test is not None
    ways = {cell.way: None for cell in cells}
    grids: dict[str, Sequence[Any]] = {"linear": L2_GRID, "finetune": GRID}
    draws = ", ".join(f"{DRAWS[way]} draws a seed ({WAYS[way]})" for way in ways)
    tuning = ", ".join(f"{TUNING_DRAWS[way]} ({WAYS[way]})" for way in ways)
    settings = ", ".join(f"{len(grids[way])} ({WAYS[way]})" for way in ways)
    found = [
        f"Labels: {draws}, stratified by class, the same for every start; of all labels there is one draw. Every "
        "classifier was asked once about one set of test images.",
        f"Settings: {settings}, the same for every start and number of labels, chosen by {FOLDS}-fold cross-validation "
        f"inside further draws of as many labels that are not reported, {tuning}, of all labels inside them, with the "
        "first seed's encoder. With fewer than three images of a class there are fewer folds, with one none: then the "
        "strongest regularisation is taken.",
        "scratch has BatchNorm statistics of the images to learn from; imagenet has those of its weights"
        f"{', and imagenet+byol keeps them' if recipe.model.frozen_norms else ''}.",
        "Compared are BYOL from ImageNet with ImageNet alone, and BYOL from random weights with random weights, at 50 "
        "and 100 labels, or the fewest where neither was measured: one family for each way, fixed beforehand. A "
        "direction is named where the simultaneous interval lies on one side of 0.",
    ]
    if splits.test.name.endswith(", learned from"):
        found.append("The test images were learned from, without labels: the metrics are not of images new to BYOL.")
    else:
        found.append("No start learned from a test image.")
    collapsed = sorted({str(cell.start.name) for cell in cells if rows.state(cell) == "collapsed"})
    found += [
        f"{name}: called collapsed while it learned; measured as its last checkpoint has it." for name in collapsed
    ]
    init = {"file": f"{recipe.model.init_file}", "imagenet": "the library's", "random": "the library's"}
    if any("imagenet" in cell.start.name for cell in cells):
        found.append(f"ImageNet weights of {recipe.model.backbone}: {init[recipe.model.init]}.")
    return found
