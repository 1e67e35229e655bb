"""``byolt report``: a run as one HTML file that needs no server, no script and no network."""

from dataclasses import dataclass
from pathlib import Path

from byolt.files import write_text
from byolt.preflight import check_finished
from byolt.recipe.load import Overrides, with_overrides
from byolt.reporting import embeddings, tables
from byolt.reporting.curves import DYNAMICS, LEARNING, RunCurves, read_band
from byolt.reporting.page import render
from byolt.reporting.pictures import data_uri
from byolt.reporting.starts_page import answer_of
from byolt.run import Run, open_run
from byolt.working import working
from byolt_export.errors import InputError


@dataclass(frozen=True)
class Written:
    """Where the report lies, and what it could not show."""

    path: Path
    left_out: tuple[str, ...]


def report(run: Run | str | Path, overrides: Overrides = ()) -> Written:
    """Write ``report.html`` into a run's folder, of whatever the run has by now.

    Args:
        run: Finished, collapsed or still learning; or its folder.
        overrides: Of machine keys.

    Raises:
        InputError: An override does not fit.
    """
    run = open_run(run)
    recipe = with_overrides(run.recipe, overrides)
    check_finished(run, recipe)
    records = run.log_records()
    probed = (run.metrics("collapse") or {}).get("encoder", {}).get("images", recipe.evaluation.probe_images)
    views = run.path / "plots" / "views.png"
    left_out, gallery, seen, confusion = [], None, None, None
    # What needs the encoder and its images; without them the report is of the rest, and says so.
    try:
        gallery = embeddings.open_gallery(run, recipe)
        seen = embeddings.embedding_sections(gallery, recipe)
    except InputError as error:
        left_out.append(f"what the encoder sees: {error}")
    else:
        try:
            confusion = embeddings.confusion_section(gallery, recipe)
        except InputError as error:
            left_out.append(f"errors by class: {error}")
    by_chance = tables.chance_of(run)
    if by_chance is None and gallery is not None:
        by_chance = gallery.chance
    curves = RunCurves(records, recipe.schedule.epochs, probed, read_band(recipe.name), by_chance)
    with working("drawing the curves"):
        learning, dynamics = curves.charts(LEARNING), [*curves.charts(DYNAMICS), *curves.spectrum()]
    page = render(
        "report.html.jinja",
        run=run,
        recipe=recipe,
        head=tables.heading(run, recipe, records),
        accuracies=tables.accuracies(run),
        folds=tables.accuracies_over_folds(run),
        finetuned=tables.finetuning(run),
        starts=answer_of(run),
        learning=learning,
        dynamics=dynamics,
        collapse=tables.collapse_measures(run),
        views=data_uri(views.read_bytes()) if views.exists() else None,
        seen=seen,
        confusion=confusion,
        parity=tables.parity(run),
        metrics=tables.metrics_at_evaluations(records),
        environment=tables.environment(run),
        recipe_keys=tables.recipe_keys(run.recipe),
        left_out=left_out,
    )
    path = run.path / "report.html"
    write_text(path, page)
    return Written(path, tuple(left_out))
