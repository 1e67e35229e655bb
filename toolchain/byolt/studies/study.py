"""Methods or ablations compared over seeds: make the runs that are missing, then the tables."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from byolt.recipe.evaluation import SUPERVISED
from byolt.recipe.load import recipe_text
from byolt.recipe.schema import Recipe
from byolt.run import run_of
from byolt.studies.ablations import CAVEAT, ablation_arms
from byolt.studies.ledger import PROTOCOL, PROTOCOLS, Key, Ledger, Row, key_of
from byolt.studies.plan import WITH_LABELS, Arm, Job, Role, in_words, jobs_of, method_arm, tuning_arms
from byolt.studies.results import ArmResults, StudyResults, Table, collapsed_in_words, measured_with
from byolt.studies.runner import (
    OnLog,
    RowsMissing,
    at_once_default,
    check_study,
    complete,
    decode_all,
    ledger_of,
    with_one_number_of_threads,
)
from byolt_export.errors import InputError

LINEAR = "linear probe on frozen features, test accuracy"
FEW = "test accuracy of the classifier"
FINETUNED = "byol, then fine-tuned"
Made = TypeVar("Made")


class StudyContext(NamedTuple):
    """What every part of a study needs."""

    fingerprint: str
    images: int
    ledger: Ledger
    seeds: Sequence[int]
    at_once: int
    on_log: OnLog
    protocol: int = PROTOCOL
    only_read: bool = False

    def rows(self, arms: Sequence[Arm], role: Role, seeds: Sequence[int] | None = None) -> "Rows":
        """Learn what is missing of these arms."""
        jobs = jobs_of(arms, self.seeds if seeds is None else seeds, role)
        known = complete(
            jobs,
            self.fingerprint,
            self.ledger,
            at_once=self.at_once,
            on_log=self.on_log,
            protocol=self.protocol,
            only_read=self.only_read,
        )
        return Rows(self, role, known)


class Rows(NamedTuple):
    """Rows of the ledger, by arm and seed."""

    context: StudyContext
    role: Role
    known: Mapping[Key, Row]

    def of(self, arm: Arm, seed: int) -> Row:
        """The row of one run."""
        return self.known[self._key(arm, seed)]

    def has(self, arm: Arm, seed: int) -> bool:
        """Whether that run has ended."""
        return self._key(arm, seed) in self.known

    def _key(self, arm: Arm, seed: int) -> Key:
        job, context = Job(arm.name, arm.with_seed(seed), self.role), self.context
        return key_of(job, context.fingerprint, context.protocol)

    def ranked(self, arms: Sequence[Arm], seed: int) -> list[Arm]:
        """Settings by validation accuracy at the tuning seed, the best first; equals stay in order."""

        def validation(arm: Arm) -> float:
            accuracy = _number(self.of(arm, seed)["validation"])
            return accuracy if accuracy == accuracy else -1.0

        return sorted(arms, key=validation, reverse=True)

    def metrics(self, arm: Arm, column: str, name: str | None = None) -> ArmResults:
        """An arm over the study's seeds by one column of the ledger."""
        rows = [self.of(arm, seed) for seed in self.context.seeds]
        return ArmResults(
            name or arm.name,
            in_words(arm.changes),
            tuple(self.context.seeds),
            tuple(_number(row[column]) for row in rows),
            tuple(row["state"] for row in rows),
            tuple(_number(row["knn"]) for row in rows) if column == "linear" else (),
            arm.published,
            arm.source,
            sum(float(row["learn_s"]) for row in rows) / 60 / len(rows),
            arm.recipe.schedule.epochs * (self.context.images // arm.recipe.optim.batch_size),
            tuple(_records(arm.with_seed(seed), self.context.fingerprint) for seed in self.context.seeds),
        )


def seeds_of(recipe: Recipe, seeds: int) -> range:
    """A study's seeds, from the recipe's on.

    Raises:
        InputError: The tuning seed is one of them.
    """
    numbers = range(recipe.seed, recipe.seed + seeds)
    if recipe.study.tuning_seed in numbers:
        raise InputError(f"study.tuning_seed {recipe.study.tuning_seed} is one of the study's own; take another")
    return numbers


def refuse_without_byol(methods: Collection[str]) -> None:
    """Refuse methods among which there is nothing that the others are tested against.

    Raises:
        InputError: There is no BYOL.
    """
    if "byol" not in methods:
        raise InputError("--methods: byol is what the others are tested against; name it too")


def context_of(
    recipe: Recipe, results: str | Path, seeds: Sequence[int], jobs: int | None, on_log: OnLog | None
) -> StudyContext:
    """Decode the images, and find the rows that there are."""
    store, ledger = decode_all(recipe), ledger_of(Path(results), recipe)
    at_once, log = jobs or at_once_default(recipe), on_log or (lambda line: None)
    return StudyContext(store.fingerprint, len(store), ledger, seeds, at_once, log)


def _by_one_protocol(context: StudyContext, make: Callable[[StudyContext], Made]) -> tuple[Made, list[str]]:
    """What a study says by rows of one protocol, and a note where it is an earlier one.

    Whole pages are made of what is there, by the latest protocol that has all rows; else what is missing of this one is
    learned. So rows of two protocols are never compared.
    """
    for protocol in sorted(PROTOCOLS, reverse=True):
        try:
            made = make(context._replace(protocol=protocol, only_read=True))
        except RowsMissing:
            continue
        return made, [] if protocol == PROTOCOL else [
            f"Measured by an earlier protocol ({PROTOCOLS[protocol]}; now: {PROTOCOLS[PROTOCOL]}): not to be compared "
            "with rows of this one, which another --results folder makes."
        ]
    return make(context), []


def study(
    recipe: Recipe,
    methods: Sequence[str] = ("byol", "simclr", "simsiam", "moco_v2", "moco_v3"),
    *,
    seeds: int = 5,
    tune: bool = True,
    jobs: int | None = None,
    results: str | Path = "docs/results",
    source: str | Path | None = None,
    on_log: OnLog | None = None,
) -> StudyResults:
    """Every method with every seed, BYOL tested against each; once as set, and once tuned, with one budget.

    A finished run is a row of ``<results>/<recipe name>.csv``; the same call again makes those that are missing.

    Args:
        recipe: Data, views, encoder and length that all share; its `study` section says what each method sets.
        methods: Names; with ``mean_teacher`` comes a table of few labels.
        seeds: How many, from the recipe's seed on.
        tune: Whether settings are chosen by `study.tuning` too.
        jobs: Runs that learn at a time, each in a process; left out, as many as fit the cores.
        results: Folder of the CSV.
        source: The file that the recipe was read from, for the report; left out, the recipe in full.
        on_log: Called with a line for each run.

    Raises:
        InputError: A method is unknown, BYOL is not among them, or the tuning seed is one of the study's.
        ByoltError: A run could not be made; the rows of the others are kept.
    """
    numbers = seeds_of(recipe, seeds)
    names = [name for name in dict.fromkeys(methods) if name != SUPERVISED]
    names += [SUPERVISED] if "mean_teacher" in names else []
    arms = {name: method_arm(recipe, name) for name in names}
    refuse_without_byol(arms)
    tried = [arm for name in names for arm in tuning_arms(recipe, name)] if tune else []
    check_study([*arms.values(), *tried], Path(results), jobs)
    text, context = recipe_text(recipe, source), context_of(recipe, results, numbers, jobs, on_log)
    recipe = with_one_number_of_threads(recipe, context.on_log)
    arms = {name: method_arm(recipe, name) for name in names}

    def made(context: StudyContext) -> tuple[list[Table], list[str]]:
        tables = _tables(context, arms, recipe, "as set")
        if not (tune and recipe.study.tuning):
            return tables, []
        chosen = {name: _chosen(context, recipe, name) for name in names}
        return tables + _tables(context, chosen, recipe, "tuned"), [_told_of_tuning(chosen, recipe)]

    (tables, notes), said = _by_one_protocol(context, made)
    return _metrics(recipe, text, context, recipe.name, "Methods on equal terms", tables, notes + said)


def _tables(context: StudyContext, arms: Mapping[str, Arm], recipe: Recipe, how: str) -> list[Table]:
    frozen = [arm for name, arm in arms.items() if name not in WITH_LABELS]
    rows = context.rows(frozen, "study")
    tables = [Table(f"Without labels, {how}", LINEAR, tuple(rows.metrics(arm, "linear") for arm in frozen), "byol")]
    labelled = [arm for name, arm in arms.items() if name in WITH_LABELS]
    if labelled:
        taught = context.rows(labelled, "study")
        tuned = context.rows([arms["byol"]], "finetune")
        few = [
            tuned.metrics(arms["byol"], "finetuned", FINETUNED),
            *(taught.metrics(arm, "classifier") for arm in labelled),
            tuned.metrics(arms["byol"], "scratch", "fine-tuning's steps from random weights"),
            tuned.metrics(arms["byol"], "probe_few", "byol, linear probe on the few labels"),
        ]
        share = recipe.study.labelled_share
        tables.append(Table(f"With {share:.0%} of the labels, {how}", FEW, tuple(few), FINETUNED))
    return tables


def _chosen(context: StudyContext, recipe: Recipe, name: str) -> Arm:
    """The setting of best validation accuracy at the tuning seed; of equals the first, which is the method's own."""
    seed, candidates = recipe.study.tuning_seed, tuning_arms(recipe, name)
    return context.rows(candidates, "tuning", [seed]).ranked(candidates, seed)[0]


def _told_of_tuning(chosen: Mapping[str, Arm], recipe: Recipe) -> str:
    tried = 1 + max(len(settings) for settings in recipe.study.tuning.values())
    choices = "; ".join(f"{name}: {in_words(arm.changes) or 'as the recipe'}" for name, arm in chosen.items())
    return (
        f"Tuned: each method tried {tried} settings, once, on a validation split of the training images with seed "
        f"{recipe.study.tuning_seed}, which no run of the study has. Chosen: {choices}."
    )


def ablate(
    recipe: Recipe,
    name: str,
    *,
    seeds: int = 3,
    jobs: int | None = None,
    results: str | Path = "docs/results",
    source: str | Path | None = None,
    on_log: OnLog | None = None,
) -> StudyResults:
    """One of the paper's ablations on this recipe, with the published values beside ours.

    A row that collapses is a result; its encoder is measured as its last checkpoint has it.

    Args:
        recipe: One of BYOL.
        name: ``tau``, ``batch``, ``augment``, ``target``, ``predictor`` or ``beta``.
        seeds: Runs of each row.
        jobs, results, source, on_log: As of ``study``.

    Raises:
        InputError: No such ablation, or a recipe of another method.
    """
    arms = ablation_arms(recipe, name)
    check_study(arms, Path(results), jobs)
    text, context = (
        recipe_text(recipe, source),
        context_of(recipe, results, range(recipe.seed, recipe.seed + seeds), jobs, on_log),
    )
    recipe = with_one_number_of_threads(recipe, context.on_log)
    arms = ablation_arms(recipe, name)

    def made(context: StudyContext) -> Table:
        rows = context.rows(arms, "study")
        return Table(f"Ablation: {name}", LINEAR, tuple(rows.metrics(arm, "linear") for arm in arms))

    table, said = _by_one_protocol(context, made)
    notes = [*collapsed_in_words(table.arms), CAVEAT, *said]
    title = f"BYOL taken apart: {name}"
    return _metrics(recipe, text, context, f"{recipe.name}-{name}", title, [table], notes)


def _metrics(
    recipe: Recipe, text: str, context: StudyContext, name: str, title: str, tables: list[Table], notes: list[str]
) -> StudyResults:
    return StudyResults(name, title, tuple(tables), tuple(notes), measured_with(recipe), text, context.ledger.hours())


def _records(recipe: Recipe, fingerprint: str) -> list[dict[str, object]]:
    return run_of(recipe, fingerprint).log_records()


def _number(text: str) -> float:
    return float(text) if text else float("nan")
