"""Methods over lengths: tuned at the shortest, the best two again at the next, then every seed at every length."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from byolt.recipe.load import recipe_text, with_changes
from byolt.recipe.schema import Recipe
from byolt.studies.lengths_results import LengthsResults
from byolt.studies.plan import WITH_LABELS, Arm, in_words, tuning_arms
from byolt.studies.results import Table, measured_with
from byolt.studies.runner import OnLog, check_study, with_one_number_of_threads
from byolt.studies.study import LINEAR, Rows, StudyContext, context_of, refuse_without_byol, seeds_of
from byolt.training.dry_run import dry_run
from byolt.training.rate_and_eta import duration
from byolt_export.errors import InputError

AGAIN = 2
"""Settings of a method that are tried again at its second length: the best of them is kept from there on."""
Lengths = Mapping[str, tuple[int, ...]]
"""Epochs of each method, rising."""


def study_lengths(
    recipe: Recipe,
    methods: Mapping[str, Sequence[int]],
    *,
    seeds: int = 3,
    learn: bool = True,
    jobs: int | None = None,
    results: str | Path = "docs/results",
    source: str | Path | None = None,
    on_log: OnLog | None = None,
) -> LengthsResults:
    """Accuracy against epochs: every method with every seed at every length, BYOL tested against each of the others.

    Each method chooses among its settings of `study.tuning` at its shortest length, on a validation split with
    `study.tuning_seed`; the best two are tried again at the second, and the better of them learns at all longer ones.
    A finished run is a row of ``<results>/<recipe name>.csv``; the same call again makes those that are missing.

    Args:
        recipe: Data, views and encoder that all share.
        methods: Names, and the epochs of each: all begin with the same.
        seeds: How many, from the recipe's seed on.
        learn: Whether runs that are missing are learned; else it is told of those that have ended.
        jobs: Runs that learn at a time, each in a process; left out, as many as fit the cores.
        results: Folder of the CSV.
        source: The file that the recipe was read from, for the report; left out, the recipe in full.
        on_log: Called with a line for each run.

    Raises:
        InputError: A method is unknown or learns from labels, BYOL is not among them, the lengths do not begin
            together, a warm-up does not fit, or the tuning seed is one of the study's.
        ByoltError: A run could not be made; the rows of the others are kept.
    """
    lengths = {name: tuple(sorted(set(epochs))) for name, epochs in methods.items()}
    _check(lengths)
    arms = [_of_length(arm, epochs[0]) for name, epochs in lengths.items() for arm in tuning_arms(recipe, name)]
    numbers = seeds_of(recipe, seeds)
    check_study(arms, Path(results), jobs)
    text, context = recipe_text(recipe, source), context_of(recipe, results, numbers, jobs, on_log)
    if learn:
        recipe = with_one_number_of_threads(recipe, context.on_log)
        _learn(context, recipe, lengths)
    chosen = {name: _settings(context, recipe, name, lengths[name]) for name in lengths}
    tables = {epochs: _table(context, chosen, epochs) for epochs in _all(lengths)}
    told = {epochs: table for epochs, table in tables.items() if table.arms}
    if not told:
        raise InputError(f"{context.ledger.path}: no run of these methods and lengths has ended; leave out --no-learn")
    return LengthsResults(
        f"{recipe.name}-epochs",
        "Methods over lengths",
        tuple(told.values()),
        tuple(_notes(context, recipe, lengths, chosen)),
        measured_with(recipe),
        text,
        context.ledger.hours(),
        tuple(told),
    )


def _check(lengths: Lengths) -> None:
    refuse_without_byol(lengths)
    for name, epochs in lengths.items():
        if name in WITH_LABELS:
            raise InputError(
                f"--methods {name}: it learns from labels; over lengths methods without labels are compared"
            )
        if not epochs or epochs[0] < 1:
            raise InputError(f"--epochs of {name}: whole numbers from 1 on")
        if epochs[0] != lengths["byol"][0]:
            raise InputError(
                f"--epochs of {name} begin with {epochs[0]}, byol's with {lengths['byol'][0]}: how a difference moves "
                "is told from one length on; begin with the same"
            )


def _all(lengths: Lengths) -> list[int]:
    return sorted({epochs for own in lengths.values() for epochs in own})


def _of_length(arm: Arm, epochs: int) -> Arm:
    """An arm that learns for so long."""
    return Arm(arm.name, with_changes(arm.recipe, {"schedule.epochs": epochs}), arm.changes)


def _learn(context: StudyContext, recipe: Recipe, lengths: Lengths) -> None:
    """Make the runs that are missing, in the order in which one depends on the other; long ones last."""
    context.on_log(_estimate(context, recipe, lengths))
    first, *longer = _all(lengths)
    _tune(context, recipe, [arm for name in lengths for arm in _tried(recipe, name, first)])
    _learn_seeds(context, recipe, lengths, first)
    _tune(context, recipe, [arm for name in lengths for arm in _tried_again(context, recipe, name, lengths[name])])
    for epochs in longer:
        _learn_seeds(context, recipe, lengths, epochs)


def _tune(context: StudyContext, recipe: Recipe, arms: Sequence[Arm]) -> None:
    if arms:
        context.rows(arms, "tuning", [recipe.study.tuning_seed])


def _learn_seeds(context: StudyContext, recipe: Recipe, lengths: Lengths, epochs: int) -> None:
    names = [name for name in lengths if epochs in lengths[name]]
    context.rows([_settings(context, recipe, name, lengths[name])[epochs] for name in names], "study")


def _tried(recipe: Recipe, name: str, epochs: int) -> list[Arm]:
    """Settings to choose among at the shortest length; none where there is no choice."""
    arms = [_of_length(arm, epochs) for arm in tuning_arms(recipe, name)]
    return arms if len(arms) > 1 else []


def _tried_again(context: StudyContext, recipe: Recipe, name: str, lengths: Sequence[int]) -> list[Arm]:
    """The best settings of the shortest length at the second; none where there is no choice, or not yet."""
    best = _ranked(context, recipe, _tried(recipe, name, lengths[0]))
    return [_of_length(arm, lengths[1]) for arm in best[:AGAIN]] if len(lengths) > 1 else []


def _ranked(context: StudyContext, recipe: Recipe, arms: Sequence[Arm]) -> list[Arm]:
    """The best on validation images first; none as long as one of them has not ended."""
    rows, seed = Rows(context, "tuning", context.ledger.rows()), recipe.study.tuning_seed
    return rows.ranked(arms, seed) if all(rows.has(arm, seed) for arm in arms) else []


def _settings(context: StudyContext, recipe: Recipe, name: str, lengths: Sequence[int]) -> dict[int, Arm]:
    """What a method learns with at each length, as far as its tuning has come."""
    own = tuning_arms(recipe, name)
    if len(own) == 1:
        return {epochs: _of_length(own[0], epochs) for epochs in lengths}
    best = _ranked(context, recipe, _tried(recipe, name, lengths[0]))
    again = _ranked(context, recipe, _tried_again(context, recipe, name, lengths))
    found = {lengths[0]: best[0]} if best else {}
    return found | {epochs: _of_length(arm, epochs) for arm in again[:1] for epochs in lengths[1:]}


def _table(context: StudyContext, chosen: Mapping[str, Mapping[int, Arm]], epochs: int) -> Table:
    """The methods at one length, over the seeds that all of those begun there have."""
    rows = Rows(context, "study", context.ledger.rows())
    begun = [own[epochs] for own in chosen.values() if epochs in own]
    begun = [arm for arm in begun if any(rows.has(arm, seed) for seed in context.seeds)]
    seeds = [seed for seed in context.seeds if all(rows.has(arm, seed) for arm in begun)]
    rows = rows._replace(context=context._replace(seeds=seeds))
    return Table(f"{epochs} epochs", LINEAR, tuple(rows.metrics(arm, "linear") for arm in begun if seeds), "byol")


def _notes(
    context: StudyContext, recipe: Recipe, lengths: Lengths, chosen: Mapping[str, Mapping[int, Arm]]
) -> list[str]:
    notes = []
    if recipe.study.tuning:
        tried = 1 + max(len(settings) for settings in recipe.study.tuning.values())
        choices = [
            f"{name}, {epochs} epochs: {in_words(arm.changes) or 'as the recipe'}"
            for name, own in chosen.items()
            for epochs, arm in own.items()
            if epochs in lengths[name][:2]
        ]
        notes.append(
            f"Tuned: each method tried {tried} settings at its shortest length, once, on a validation split of the "
            f"training images with seed {recipe.study.tuning_seed}, which no run of the study has, and the best "
            f"{AGAIN} again at its second; the better of them stays at longer ones. Chosen: {'; '.join(choices)}."
        )
    notes.append("Compared at each length: one family, over the seeds that all methods begun there have.")
    rows = Rows(context, "study", context.ledger.rows())
    for name, own in lengths.items():
        for epochs in own:
            arm = chosen[name].get(epochs)
            ended = 0 if arm is None else sum(rows.has(arm, seed) for seed in context.seeds)
            if ended < len(context.seeds):
                notes.append(f"Not finished: {name} at {epochs} epochs, {ended} of {len(context.seeds)} seeds.")
    return notes


def _estimate(context: StudyContext, recipe: Recipe, lengths: Lengths) -> str:
    """One line: what is to be learned and how long that takes, by a few steps of the recipe on this machine."""
    left = _left(context, recipe, lengths)
    if not left:
        return "everything is learned and measured already"
    epochs = sum(count * each for each, count in left.items())
    one_s = dry_run(recipe, steps=6, warmup_steps=2).finish_s / recipe.schedule.epochs
    return (
        f"{left.total()} runs to learn, {epochs:,} epochs of about {duration(one_s)} each; "
        f"about {duration(epochs * one_s / context.at_once)} with {context.at_once} at once"
    )


def _left(context: StudyContext, recipe: Recipe, lengths: Lengths) -> Counter[int]:
    """Runs that are missing, by their epochs; which settings are tried again is not known before."""
    wanted: Counter[tuple[str, str, int]] = Counter()
    for name, own in lengths.items():
        tried = len(_tried(recipe, name, own[0]))
        wanted["tuning", name, own[0]] = tried
        if len(own) > 1:
            wanted["tuning", name, own[1]] = min(AGAIN, tried)
        wanted.update({("study", name, epochs): len(context.seeds) for epochs in own})
    known = Counter((row["role"], row["arm"], int(row["epochs"])) for row in context.ledger.rows().values())
    found: Counter[int] = Counter()
    for (_, _, epochs), count in (wanted - known).items():
        found[epochs] += count
    return found
