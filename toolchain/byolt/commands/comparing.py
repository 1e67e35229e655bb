"""Commands that compare: study, ablate."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

import byolt
from byolt.commands.options import JSON, PATH, RECIPE, SET, print_result, tell, with_sets
from byolt.environment import command

if TYPE_CHECKING:
    from byolt.studies.results import StudyResults

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
    "--methods", default="byol,simclr,simsiam,moco_v2,moco_v3", show_default=True, help="Names with commas between."
)
@click.option("--seeds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Runs of each method.")
@click.option("--tune/--no-tune", default=True, show_default=True, help="Also with settings chosen by study.tuning.")
@JOBS
@RESULTS
@JSON
def study(
    recipe_path: Path,
    overrides: tuple[str, ...],
    methods: str,
    seeds: int,
    tune: bool,
    jobs: int | None,
    results: Path,
    as_json: bool,
) -> None:
    """Compare methods on RECIPE over several seeds, with intervals and paired tests.

    Finished runs are rows of <results>/<recipe>.csv; the same command makes those that are missing.
    """
    metrics = byolt.study(
        byolt.load_recipe(recipe_path, overrides),
        [name.strip() for name in methods.split(",") if name.strip()],
        seeds=seeds,
        tune=tune,
        jobs=jobs,
        results=results,
        source=recipe_path,
        on_log=tell,
    )
    following = command("ablate", recipe_path, "target", *with_sets(overrides), *_kept_in(results))
    _tell_study(metrics, results, following, as_json)


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
    from byolt.reporting.study_charts import study_chart
    from byolt.reporting.study_page import write_study_report
    from byolt.reporting.study_text import print_study, write_markdown

    page, plot, report = (results / f"{metrics.name}.{kind}" for kind in ("md", "svg", "html"))
    write_markdown(metrics, page, shlex.join(["byolt", *sys.argv[1:]]))
    write_text(plot, study_chart(metrics))
    write_study_report(report, metrics)
    print_result(metrics.to_dict(), as_json, lambda: print_study(metrics, [page, plot, report], following))
