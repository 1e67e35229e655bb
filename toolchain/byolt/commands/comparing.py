"""Commands that compare: study, ablate."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import byolt
from byolt.commands.options import JSON, PATH, RECIPE, SET, print_result, tell, with_sets
from byolt.environment import command, typed_again
from byolt_export.errors import InputError

if TYPE_CHECKING:
    from byolt.studies.results import StudyResults

METHODS = ("byol", "simclr", "simsiam", "moco_v2", "moco_v3")
_RESULTS = Path("docs/results")
RESULTS = click.option(
    "--results",
    type=PATH,
    default=_RESULTS,
    show_default=True,
    help="Folder of the CSV, the page and the plot.",
)
JOBS = click.option("--jobs", type=click.IntRange(1), help="Runs at once.  [default: as many as fit the cores]")


@click.command()
@RECIPE
@SET
@click.option(
    "--methods",
    help=f"Names with commas between; of lengths NAME:16 stops at 16 epochs.  [default: {','.join(METHODS)}]",
)
@click.option(
    "--tune/--no-tune", default=None, help="Methods also with settings chosen by study.tuning.  [default: tune]"
)
@click.option("--epochs", help="Methods at several lengths: epochs with commas between, for example 4,16,48.")
@click.option("--no-learn", is_flag=True, help="Of lengths: tables of the runs that have ended.")
@click.option("--starts", help="In place of methods: scratch,imagenet,byol,imagenet+byol, or some of them.")
@click.option("--labels", help="Of starts: numbers of labels with commas between.  [default: 10,20,50,100,200,all]")
@click.option("--finetune", is_flag=True, help="Of starts: fine-tune all weights too, with 10, 50 and 200 labels.")
@click.option("--data", "data_root", type=PATH, help="Of starts: labelled folder beside the recipe's images.")
@click.option("--test", "test_root", type=PATH, help="Of starts: labelled folder held out, with --data.")
@click.option(
    "--seeds", type=click.IntRange(1, 1000), help="Runs of each.  [default: 5 of methods, 3 of lengths and starts]"
)
@JOBS
@RESULTS
@JSON
def study(
    recipe_path: Path,
    overrides: tuple[str, ...],
    starts: str | None,
    seeds: int | None,
    jobs: int | None,
    results: Path,
    as_json: bool,
    **asked: Any,
) -> None:
    """Compare methods on RECIPE over several seeds, with intervals and paired tests.

    With --epochs: accuracy against epochs, and whether BYOL comes closer to the others as runs grow longer.

    With --starts: is pretraining on these images worth it? Initial weights, learned from and not, are compared at each
    number of labels.

    Finished runs are rows of <results>/<recipe>.csv; the same command makes those that are missing.
    """
    recipe = byolt.load_recipe(recipe_path, overrides)
    common: dict[str, Any] = {"jobs": jobs, "results": results, "on_log": tell}
    if starts is not None:
        _refuse(asked, ("methods", "tune", "epochs", "no_learn"), "is of methods: leave it out with --starts")
        _study_starts(recipe, recipe_path, starts, asked, common | {"seeds": seeds or 3}, as_json)
        return
    _refuse(asked, ("labels", "finetune", "data_root", "test_root"), "is of starts: give --starts too")
    names = _names(asked["methods"]) if asked["methods"] is not None else METHODS
    common["source"] = recipe_path
    if asked["epochs"] is None:
        _refuse(asked, ("no_learn",), "is of lengths: give --epochs too")
        metrics = byolt.study(recipe, names, seeds=seeds or 5, tune=asked["tune"] is not False, **common)
    else:
        _refuse(asked, ("tune",), "is of one length: with --epochs settings are chosen where study.tuning has some")
        lengths = _lengths(names, asked["epochs"])
        metrics = byolt.study_lengths(recipe, lengths, seeds=seeds or 3, learn=not asked["no_learn"], **common)
    following = command("ablate", recipe_path, "target", *with_sets(overrides), *_kept_in(results))
    _tell_study(metrics, results, following, as_json)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _lengths(names: Sequence[str], epochs: str) -> dict[str, list[int]]:
    """Epochs of each method; those of NAME:16 end at 16."""
    every, found = [_whole("--epochs", length) for length in _names(epochs)], {}
    for name in names:
        method, _, last = name.partition(":")
        longest = _whole(f"--methods {name}", last) if last else max(every, default=0)
        found[method] = [length for length in every if length <= longest]
    return found


def _whole(where: str, text: str) -> int:
    if not text.isdecimal():
        raise InputError(f"{where}: {text!r} is no number of epochs; write for example --epochs 4,16,48")
    return int(text)


def _refuse(asked: dict[str, Any], names: tuple[str, ...], why: str) -> None:
    """Refuse options of the other kind of study: they would be words without an effect."""
    for name in names:
        if asked[name] not in (None, False) or (name == "tune" and asked[name] is not None):
            raise InputError(f"--{name.removesuffix('_root').replace('_', '-')} {why}")


def _study_starts(
    recipe: "byolt.Recipe", path: Path, starts: str, asked: dict[str, Any], common: dict[str, Any], as_json: bool
) -> None:
    """Initial weights compared, and what it comes to written beside the CSV."""
    from byolt.files import write_text
    from byolt.recipe.load import with_overrides
    from byolt.reporting.starts_page import starts_chart, write_starts_report
    from byolt.reporting.starts_text import print_starts, write_starts_markdown

    folders = {"study.labelled_root": asked["data_root"], "study.labelled_test_root": asked["test_root"]}
    recipe = with_overrides(recipe, {key: str(folder) for key, folder in folders.items() if folder is not None})
    labels = None if asked["labels"] is None else [_budget(name) for name in _names(asked["labels"])]
    found = byolt.study_starts(recipe, _names(starts), labels, finetune=asked["finetune"], **common)
    page, plot, report = (common["results"] / f"{found.name}.{kind}" for kind in ("md", "svg", "html"))
    write_starts_markdown(found, page, shlex.join(["byolt", *sys.argv[1:]]))
    write_text(plot, starts_chart(found))
    write_starts_report(report, found)
    following = typed_again("--finetune", of=("study",), without="--finetune")
    if asked["finetune"] or not following:
        following = command("pretrain", path)
    print_result(found.to_dict(), as_json, lambda: print_starts(found, [page, plot, report], following))


def _budget(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


@click.command()
@RECIPE
@click.argument("name", metavar="tau|batch|augment|target|predictor|beta")
@SET
@click.option("--seeds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Runs of each row.")
@JOBS
@RESULTS
@JSON
def ablate(
    recipe_path: Path,
    name: str,
    overrides: tuple[str, ...],
    seeds: int,
    jobs: int | None,
    results: Path,
    as_json: bool,
) -> None:
    """One of the paper's ablations on RECIPE, with the published values beside ours.

    Rows that collapse are results: they are reported, and the command goes on.
    """
    metrics = byolt.ablate(
        byolt.load_recipe(recipe_path, overrides),
        name,
        seeds=seeds,
        jobs=jobs,
        results=results,
        source=recipe_path,
        on_log=tell,
    )
    following = command("study", recipe_path, *with_sets(overrides), *_kept_in(results))
    _tell_study(metrics, results, following, as_json)


def _kept_in(results: Path) -> list[str]:
    return [] if results == _RESULTS else ["--results", str(results)]


def _tell_study(metrics: "StudyResults", results: Path, following: str, as_json: bool) -> None:
    from byolt.files import write_text
    from byolt.reporting.study_charts import chart_of
    from byolt.reporting.study_page import write_study_report
    from byolt.reporting.study_text import print_study, write_markdown

    page, plot, report = (results / f"{metrics.name}.{kind}" for kind in ("md", "svg", "html"))
    write_markdown(metrics, page, shlex.join(["byolt", *sys.argv[1:]]))
    write_text(plot, chart_of(metrics))
    write_study_report(report, metrics)
    print_result(metrics.to_dict(), as_json, lambda: print_study(metrics, [page, plot, report], following))
