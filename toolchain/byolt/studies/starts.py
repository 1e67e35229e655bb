"""``byolt study --starts``: is pretraining on these images worth it, by the number of labels at hand?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from byolt.evaluation.evaluate import evaluation_store, labelled
from byolt.evaluation.features import LabelledImages
from byolt.evaluation.few_labels import measure_of
from byolt.evaluation.label_efficiency import Measured
from byolt.preflight import check_recipe, check_run_folder, refuse_too_many, refuse_unwritable
from byolt.recipe.schema import Recipe
from byolt.run import Run, run_of
from byolt.studies.runner import OnLog, at_once_default, in_processes, learning_store, with_one_number_of_threads
from byolt.studies.starts_estimate import estimate
from byolt.studies.starts_ledger import Cell, Images, StartsLedger
from byolt.studies.starts_measure import LearnJob, MeasureJob, learn, measure_start
from byolt.studies.starts_plan import STARTS, LabelledSet, Start, Way, budgets_of, labelled_set, starts_of
from byolt.studies.starts_results import StartsResults, results_of
from byolt_export.errors import InputError

FINETUNED = (10, 50, 200)
"""Numbers of labels at which all weights are fine-tuned where that is asked for: it is dear."""


def study_starts(
    recipe: Recipe,
    starts: Sequence[str] = STARTS,
    labels: Sequence[int | str] | None = None,
    *,
    seeds: int = 3,
    finetune: bool = False,
    jobs: int | None = None,
    results: str | Path = "docs/results",
    on_log: OnLog | None = None,
) -> StartsResults:
    """Initial weights compared at each number of labels: random or ImageNet, with and without learning by the recipe.

    Every draw of labels is a row of ``<results>/<recipe name>-starts.csv``; the same call again makes those that are
    missing. Labels are drawn from the recipe's own training images, or from ``study.labelled_root``.

    Args:
        recipe: What learns from the images; its own initial weights are those of ``imagenet``, see ``starts_of``.
        starts: Some of ``scratch``, ``imagenet``, ``byol`` and ``imagenet+byol``.
        labels: Numbers of labelled images, and ``all``; None takes 10, 20, 50, 100 and 200 as far as they fit, and all.
        seeds: How many, from the recipe's seed on.
        finetune: Whether all weights are fine-tuned too, at 10, 50 and 200 labels.
        jobs: Runs at a time, each in a process; left out, as many as fit the cores.
        results: Folder of the CSV and the scores.
        on_log: Called with a line for each run, the estimate of the whole first.

    Raises:
        InputError: A start or a number of labels does not fit, initial weights cannot be had, or there are no labels.
        ByoltError: A run could not be made; what was measured is kept.
        Stopped: A signal came; the same call goes on.
    """
    log, kept = on_log or (lambda line: None), StartsLedger(Path(results), recipe.name)
    _check(starts_of(recipe, starts), kept, jobs)
    recipe = with_one_number_of_threads(recipe, log)
    plan = _Plan(recipe, tuple(starts_of(recipe, starts)), range(recipe.seed, recipe.seed + seeds), kept)
    at_once = jobs or at_once_default(recipe)
    sets = plan.opened(labelled_set(recipe))
    # What does not fit is told, and how long it will take, before anything is learned.
    budgets = plan.budgets(labels, sets[0], finetune=finetune)
    to_learn = plan.to_learn()
    log(estimate(recipe, to_learn, plan.unmeasured(plan.cells(budgets, labelled_set(recipe))), sets, at_once))
    for done, (number, row, left_s) in enumerate(in_processes(learn, dict(enumerate(to_learn)), at_once), start=1):
        told = f"{row['state']}, verdict {row['verdict']}; {left_s / 60:.0f} min left"
        log(f"learned {done}/{len(to_learn)} {to_learn[number]}: {told}")
    images = plan.labelled_images()
    train, test = plan.opened(images)
    budgets = plan.budgets(labels, train, finetune=finetune)
    cells = plan.cells(budgets, images)
    _measure(plan, plan.unmeasured(cells), images, at_once, log)
    measured = {way: _measured(plan, [cell for cell in cells if cell.way == way], test) for way in budgets}
    found = results_of(recipe, measured, cells, plan.kept.rows(), images.open())
    for job, run in plan.runs():
        if job.recipe.seed == recipe.seed:  # For the report of the run that a user learned.
            run.write_metrics("starts", found.to_dict())
    return found


@dataclass(frozen=True)
class _Plan:
    """What a study consists of."""

    recipe: Recipe
    starts: tuple[Start, ...]
    seeds: range
    kept: StartsLedger

    def opened(self, images: LabelledSet) -> tuple[LabelledImages, LabelledImages]:
        """The labelled images to train and to test on, decoded before several processes ask for them at once."""
        splits = images.open()
        assert splits.train is not None
        assert splits.test is not None
        learning_store(self.recipe)
        train, test = (labelled(evaluation_store(part, self.recipe)) for part in (splits.train, splits.test))
        return train, test

    def budgets(
        self, labels: Sequence[int | str] | None, train: LabelledImages, *, finetune: bool
    ) -> dict[Way, tuple[int, ...]]:
        """Numbers of labels by way."""
        found = budgets_of(labels, len(train.labels), train.classes)
        few = tuple(budget for budget in found if budget in FINETUNED)
        if finetune and not few:
            raise InputError("--finetune: all weights are fine-tuned at 10, 50 and 200 labels; give one to --labels")
        return {"linear": found, "finetune": few} if finetune else {"linear": found}

    def runs(self) -> Iterable[tuple[LearnJob, Run]]:
        """What learns, and the folder of its run, seed by seed: a study that is cut short has whole pairs."""
        fingerprint = learning_store(self.recipe).fingerprint
        for seed in self.seeds:
            for start in self.starts:
                if start.learns:
                    recipe = start.with_seed(seed)
                    yield LearnJob(start.name, recipe), run_of(recipe, fingerprint)

    def to_learn(self) -> list[LearnJob]:
        """Those whose run has not ended."""
        return [job for job, run in self.runs() if run.result is None]

    def labelled_images(self) -> LabelledSet:
        """What labels are drawn from; of another set than the recipe's, what no run learned from is tested on."""
        images = labelled_set(self.recipe)
        if self.recipe.study.labelled_root is None:
            return images
        return images._replace(run=next((run.path for _, run in self.runs()), None))

    def cells(self, budgets: dict[Way, tuple[int, ...]], images: LabelledSet) -> list[Cell]:
        """Every one, the linear probes first."""
        splits = images.open()
        assert splits.train is not None
        assert splits.test is not None
        train, test = (evaluation_store(part, self.recipe) for part in (splits.train, splits.test))
        about = Images(learning_store(self.recipe).fingerprint, train.fingerprint, test.fingerprint, len(train))
        return [
            Cell(start, seed, way, budget, about)
            for way, of_way in budgets.items()
            for seed in self.seeds
            for start in self.starts
            for budget in of_way
        ]

    def unmeasured(self, cells: Sequence[Cell]) -> list[Cell]:
        """Those of which a draw, or the choice of their setting, is missing."""
        rows = self.kept.rows()
        return [cell for cell in cells if self.kept.measured(cell, rows) < cell.draws or rows.setting(cell) is None]


def _check(starts: Sequence[Start], kept: StartsLedger, jobs: int | None) -> None:
    """What can be known of every run before an image is opened."""
    refuse_too_many("--jobs", jobs or 1, "runs")
    refuse_unwritable(kept.results, "--results DIR")
    for start in starts:
        check_run_folder(start.recipe)
        check_recipe(start.recipe)
    kept.rows()


def _measure(plan: _Plan, missing: Sequence[Cell], images: LabelledSet, at_once: int, log: OnLog) -> None:
    """The first seed's cells before the others, whose settings they choose; linear probes before fine-tuning."""

    def wave(cell: Cell) -> tuple[Way, bool]:
        return cell.way, cell.seed != plan.recipe.seed

    for (way, _), of_wave in groupby(missing, wave):
        jobs = {
            f"{start}, seed {seed}": MeasureJob(
                own[0].start, seed, way, tuple(cell.budget for cell in own), images, own[0].images, plan.kept
            )
            for (start, seed), group in groupby(of_wave, lambda cell: (cell.start.name, cell.seed))
            if (own := list(group))
        }
        for done, (name, row, left_s) in enumerate(in_processes(measure_start, jobs, at_once), start=1):
            told = ", ".join(f"{metric:.1%} with {budget}" for budget, metric in row.items())
            log(f"measured {done}/{len(jobs)} {name}, {way}: {told} labels; {left_s / 60:.0f} min left")


def _measured(plan: _Plan, cells: Sequence[Cell], test: LabelledImages) -> Measured:
    """The scores of every cell of one way."""
    by_seed: dict[tuple[str, int], list[np.ndarray]] = {}
    for cell in cells:
        kept = plan.kept.read_scores(cell.key)
        assert kept is not None
        by_seed.setdefault((cell.start.name, cell.budget), []).append(kept[0][: cell.draws])
    plain = plan.recipe.model.stem == "plain"  # A stem of its own is drawn by the seed.
    way = cells[0].way
    return Measured(
        tuple(start.name for start in plan.starts),
        tuple(sorted({cell.budget for cell in cells})),
        {key: np.stack(scores) for key, scores in by_seed.items()},
        test.labels,
        measure_of(test.labels),
        fixed=frozenset({"imagenet"} if plain and way == "linear" else ()),
    )
