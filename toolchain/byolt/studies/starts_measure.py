"""Learn one start with one seed, and measure it at every number of labels; each in a process of its own.

One way of measuring for every start: settings are chosen on draws of labels that are not reported, of the study's first
seed, and each reported draw trains one classifier, which is asked about the test images once.
"""

import signal
import time
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from byolt.data.source import Labels
from byolt.environment import environment
from byolt.evaluation.evaluate import embed_store, evaluation_store, labelled
from byolt.evaluation.features import LabelledImages
from byolt.evaluation.few_label_finetune import GRID, FewLabelTrainer
from byolt.evaluation.few_labels import (
    L2_GRID,
    choose_l2,
    draw_of_labels,
    measure_of,
    metric_of,
    scores_of,
)
from byolt.evaluation.linear import fit_path
from byolt.networks.encoders import build_encoder, untrained_encoder, weight_seed
from byolt.recipe.schema import Recipe
from byolt.run import learned_for_s, run_of
from byolt.studies.measure import last_encoder, with_statistics_of_learning
from byolt.studies.runner import learning_fingerprint, refuse_other_precision
from byolt.studies.starts_ledger import Cell, Images, StartsLedger
from byolt.studies.starts_plan import LabelledSet, Start, Way
from byolt.training.loop import pretrain
from byolt.training.prepare import configure_torch
from byolt.training.signals import StopSignals
from byolt_export.errors import Stopped, TrainingFault

TUNING_DRAWS: dict[Way, int] = {"linear": 20, "finetune": 2}
"""Draws of labels that settings are chosen on, by cross-validation within each."""
_REPORTED, _TUNING = 0, 1


@dataclass(frozen=True)
class LearnJob:
    """A start to be learned with a seed."""

    start: str
    recipe: Recipe

    def __str__(self) -> str:
        return f"{self.start}, seed {self.recipe.seed}"


@dataclass(frozen=True)
class MeasureJob:
    """A start and seed to be measured in one way, at the numbers of labels where that is not done."""

    start: Start
    seed: int
    way: Way
    budgets: tuple[int, ...]
    labelled: LabelledSet
    images: Images
    kept: StartsLedger

    def __str__(self) -> str:
        return f"{self.start.name}, seed {self.seed}"

    def cell(self, budget: int) -> Cell:
        """What is measured at one number of labels."""
        return Cell(self.start, self.seed, self.way, budget, self.images)


class Encoder(NamedTuple):
    """What is measured, and how it was learned."""

    network: nn.Module
    columns: dict[str, Any]


def learn(job: LearnJob) -> dict[str, Any]:
    """Learn a start; one that collapses is measured as its last checkpoint has it.

    Raises:
        TrainingFault: The loss is not finite, so there is nothing to measure.
    """
    run = run_of(job.recipe, learning_fingerprint(job.recipe))
    refuse_other_precision(run, job.recipe)
    try:
        pretrain(job.recipe, resume="auto")
    except TrainingFault:
        if run.result is None:
            raise
    result = run.result or {}
    return {"state": result.get("state", ""), "verdict": result.get("verdict", "")}


def encoder_of(start: Start, seed: int) -> Encoder:
    """The encoder of a start with a seed; random weights get BatchNorm statistics of the images to learn from.

    Raises:
        InputError: Its run has not ended, or was learned in another precision, or its initial weights cannot be had.
    """
    recipe = start.with_seed(seed)
    if start.learns:
        run = run_of(recipe, learning_fingerprint(recipe))
        refuse_other_precision(run, recipe)
        result = run.result or {}
        columns = {name: result.get(name, "") for name in ("state", "verdict")}
        columns["learn_s"] = round(learned_for_s(run.log_records()) or 0.0)
        return Encoder(last_encoder(run) if columns["state"] == "collapsed" else run.encoder(), columns)
    if "imagenet" in start.name:
        size_px = recipe.data.image_size_px
        network, _ = build_encoder(recipe.model, seed=weight_seed(seed), image_size_px=size_px)
        return Encoder(network.eval(), {})
    return Encoder(with_statistics_of_learning(untrained_encoder(recipe).eval(), recipe), {})


def measure_start(job: MeasureJob) -> dict[str, Any]:
    """Choose the settings that were not chosen yet (of the first seed), and measure every draw that has no row.

    Returns:
        The mean metric by number of labels.

    Raises:
        Stopped: A signal came; what was measured is kept.
    """
    recipe = job.start.with_seed(job.seed)
    configure_torch(recipe)
    splits = job.labelled.open()
    assert splits.train is not None
    assert splits.test is not None
    train, test = (labelled(evaluation_store(part, recipe)) for part in (splits.train, splits.test))
    encoder = encoder_of(job.start, job.seed)
    with StopSignals() as signals:
        subject = _Subject(job, recipe, encoder, train, test, signals, environment())
        classifiers: Classifiers = _Linear(subject) if job.way == "linear" else _FineTuned(subject)
        return {str(budget): subject.measure(job.cell(budget), classifiers) for budget in job.budgets}


@runtime_checkable  # Where annotations are checked while the tests run, this one is asked by isinstance.
class Classifiers(Protocol):
    """One way to make classifiers of few labels from an encoder."""

    def chosen(self, draws: list[Labels], budget: int) -> tuple[str, float]:
        """The setting that is best in cross-validation inside these draws, and its metric there."""
        ...

    def tested(self, drawn: Labels, setting: str, key: int) -> Tensor:
        """Logits (N, C) of the test images by a classifier of the drawn labels; ``key`` draws what is random."""
        ...


class _Subject(NamedTuple):
    """An encoder and the images that it is measured on."""

    job: MeasureJob
    recipe: Recipe
    encoder: Encoder
    train: LabelledImages
    test: LabelledImages
    signals: StopSignals
    made: dict[str, Any]
    """By what, for the rows."""

    def measure(self, cell: Cell, classifiers: "Classifiers") -> float:
        """Choose where that is to be done, then draw after draw; the mean metric."""
        kept, measure = self.job.kept, measure_of(self.train.labels)
        rows = kept.rows()
        setting = rows.setting(cell)
        if setting is None:
            setting = self._choose(cell, classifiers)
        scores = kept.scores_of_whole_draws(cell, rows)
        for draw in range(len(scores), cell.draws):
            started_s = time.monotonic()
            drawn = draw_of_labels(self.train.labels, cell.budget, (self.job.seed, draw, _REPORTED))
            logits = classifiers.tested(drawn, setting, 1000 * self.job.seed + draw)
            scores.append(scores_of(logits, self.test.labels, measure))
            kept.write_scores(cell.key, np.stack(scores), self.test.labels)
            metric = metric_of(scores[-1], self.test.labels, measure)
            self._append(cell, "test", str(draw), setting, metric, started_s)
            self.stop_where_told()
        return float(np.mean([metric_of(row, self.test.labels, measure) for row in scores]))

    def _choose(self, cell: Cell, classifiers: "Classifiers") -> str:
        assert self.job.seed == self.job.start.recipe.seed
        started_s, count = time.monotonic(), 1 if cell.draws == 1 else TUNING_DRAWS[cell.way]
        draws = [draw_of_labels(self.train.labels, cell.budget, (self.job.seed, n, _TUNING)) for n in range(count)]
        setting, metric = classifiers.chosen(draws, cell.budget)
        self._append(cell, "tuning", "", setting, metric, started_s)
        return setting

    def _append(self, cell: Cell, role: str, draw: str, setting: str, metric: float, started_s: float) -> None:
        made = self.made
        self.job.kept.append(
            cell,
            role=role,
            draw=draw,
            setting=setting,
            measure=measure_of(self.train.labels),
            metric=round(metric, 5),
            n_test=len(self.test.labels) if role == "test" else "",
            measure_s=round(time.monotonic() - started_s, 2),
            torch=made["packages"].get("torch", ""),
            processor=made["processor"],
            commit=made["commit"] or "",
            date=made["started"][:10],
            **self.encoder.columns,
        )

    def stop_where_told(self) -> None:
        """Raise ``Stopped`` after a signal."""
        if self.signals.received:
            received = signal.Signals(self.signals.received)
            raise Stopped(f"stopped by {received.name}; what was measured is kept", received)


class _Linear:
    """Linear probes on features that are computed once."""

    def __init__(self, subject: _Subject) -> None:
        self.train, self.measure = subject.train, measure_of(subject.train.labels)
        network = subject.encoder.network
        self.features, self.test = (
            embed_store(network, part.images, subject.recipe) for part in (subject.train, subject.test)
        )

    def chosen(self, draws: list[Labels], budget: int) -> tuple[str, float]:
        choice = choose_l2(self.features, self.train.labels, draws, self.train.classes, self.measure)
        return f"l2={L2_GRID[choice.number]:g}", choice.metric

    def tested(self, drawn: Labels, setting: str, key: int) -> Tensor:
        few = self.features[drawn], self.train.labels[drawn]
        (probe,) = fit_path(*few, classes=self.train.classes, l2s=[_l2_of(setting)])
        return probe.logits(self.test)


class _FineTuned:
    """All weights, from the linear probe with the l2 that was chosen for this start and number of labels."""

    def __init__(self, subject: _Subject) -> None:
        self.subject = subject
        self.trainer = FewLabelTrainer(subject.encoder.network, subject.train, subject.recipe, subject.stop_where_told)

    def _l2(self, budget: int) -> float:
        probe = self.subject.job.cell(budget)._replace(way="linear")
        setting = self.subject.job.kept.rows().setting(probe)
        assert setting is not None
        return _l2_of(setting)

    def chosen(self, draws: list[Labels], budget: int) -> tuple[str, float]:
        choice = self.trainer.chosen(draws, self._l2(budget), measure_of(self.subject.train.labels))
        return str(GRID[choice.number]), choice.metric

    def tested(self, drawn: Labels, setting: str, key: int) -> Tensor:
        (grid,) = (one for one in GRID if str(one) == setting)
        classifier = self.trainer.trained(drawn, grid, self._l2(len(drawn)), seed=key)
        return self.trainer.logits(classifier, self.subject.test.images)


def _l2_of(setting: str) -> float:
    return float(setting.removeprefix("l2="))
