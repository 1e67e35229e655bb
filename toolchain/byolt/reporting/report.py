"""``byolt report``: a run as one HTML file that needs no server, no script and no network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from byolt.files import write_text
from byolt.recipe.load import Overrides, with_overrides
from byolt.recipe.schema import Recipe
from byolt.reporting.bands import read_band
from byolt.reporting.charts import MOST_CLASSES, Chart, class_cloud, matrix_chart, most_frequent
from byolt.reporting.curves import course_of, dynamics_charts, learning_charts, spectra_svg, spectrum_line
from byolt.reporting.facts import (
    COLOURS,
    accuracies,
    collapse_rows,
    environment_rows,
    finetuning,
    heading,
    metric_table,
    parity_rows,
    recipe_rows,
)
from byolt.reporting.page import number, percent, render
from byolt.reporting.pictures import picture, square, thumbnail_map
from byolt.reporting.theme import PALETTE
from byolt.run import Run, open_run
from byolt_export.errors import InputError

CONFUSED_PAIRS = 8


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
        MissingPart: matplotlib, jinja2 or scikit-learn is not installed.
    """
    run = open_run(run)
    recipe = with_overrides(run.recipe, overrides)
    records = run.log_records()
    seen, left_out = _seen(run, recipe)
    page = render(
        "report.html.jinja",
        head=heading(run, recipe, records),
        colours=COLOURS,
        **_charts(run, recipe, records),
        views=picture(run.path / "plots" / "views.png"),
        seen=seen,
        accuracies=accuracies(run),
        collapse=collapse_rows(run),
        finetuned=finetuning(run),
        parity=parity_rows(run),
        metrics=metric_table(records),
        environment=environment_rows(run),
        recipe=recipe_rows(run.recipe),
        left_out=left_out,
    )
    path = run.path / "report.html"
    write_text(path, page)
    return Written(path, tuple(left_out))


def _charts(run: Run, recipe: Recipe, records: list[dict[str, Any]]) -> dict[str, list[Chart]]:
    result = run.result or {}
    probed = (run.metrics("collapse") or {}).get("encoder", {}).get("images", recipe.evaluation.probe_images)
    course = course_of(
        records,
        epochs=recipe.schedule.epochs,
        total_steps=result["step"] if result.get("state") == "finished" else None,
        probe_images=probed,
        band=read_band(recipe.name),
    )
    return {"learning": learning_charts(course), "dynamics": dynamics_charts(course)}


def _seen(run: Run, recipe: Recipe) -> tuple[dict[str, Any] | None, list[str]]:
    """What needs the encoder and its images; without them the report is of the rest, and says so."""
    from byolt.reporting.seen import see

    try:
        found = see(run, recipe)
    except InputError as error:
        return None, [f"what the encoder sees: {error}"]
    return {
        "gallery": found.gallery,
        "changed": found.changed,
        "neighbours": _neighbour_rows(found),
        "same_class": percent(found.neighbours.same_class),
        "k": found.neighbours.cosines.shape[1],
        "cloud": _cloud(found),
        "map": thumbnail_map(found.map.images, found.map.points),
        "mapped": len(found.map.points),
        "spectrum": _feature_spectrum(found),
        "confusion": _confusion(found),
    }, list(found.left_out)


def _neighbour_rows(found: Any) -> list[list[dict[str, Any]]]:
    """Rows of cells: an image, what class it is, how near, and whether its class is the query's."""
    near, rows = found.neighbours, []
    for index, images in enumerate(near.images):
        names = [""] * len(images)
        same = [False] * len(images)
        if near.labels is not None:
            names = [found.classes[label] if label >= 0 else "" for label in near.labels[index]]
            same = [label >= 0 and label == near.labels[index][0] for label in near.labels[index]]
        cosines = [None, *near.cosines[index].tolist()]
        rows.append(
            [
                {"source": square(image), "name": name, "same": alike, "cosine": number(cosine, ".2f")}
                for image, name, alike, cosine in zip(images, names, same, cosines, strict=True)
            ]
        )
    return rows


def _cloud(found: Any) -> Chart:
    labels, about_colours = found.map.labels, ""
    if labels is not None and not (labels >= 0).any():
        labels = None
    if labels is not None:
        about_colours = " Colours and marks are the classes, which the encoder was never shown."
        if len(np.unique(labels[labels >= 0])) > len(most_frequent(labels)):
            about_colours = f" Colours and marks are the {MOST_CLASSES} most frequent classes; the others are grey."
    return Chart(
        "Map of the embeddings",
        class_cloud("cloud", "t-SNE map of the embeddings", found.map.points, labels, found.classes),
        f"t-SNE of {len(found.map.points):,} images of the learning set: images with near embeddings stand near each "
        f"other; distances between far groups, sizes and directions mean nothing.{about_colours}",
    )


def _feature_spectrum(found: Any) -> Chart | None:
    lines = [
        spectrum_line(values, name, PALETTE[number], dash)
        for number, (dash, (name, values)) in enumerate(zip(("-", "--"), found.spectra.items(), strict=True))
    ]
    svg = spectra_svg("features", "Spectrum of the frozen encoder's features, on a log axis", lines)
    if svg is None:
        return None
    return Chart(
        "Spectrum of the encoder's features",
        svg,
        f"Variance along each axis of the covariance of {found.gallery:,} images' features, as a share of their "
        "energy. A flatter line uses more of the features; the dashed one is the same network before learning.",
    )


def _confusion(found: Any) -> dict[str, Any] | None:
    confusion = found.confusion
    if confusion is None:
        return None
    counts = confusion.counts
    totals = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED_PAIRS]
    pairs = [(int(place // len(counts)), int(place % len(counts))) for place in order]
    classes = found.classes
    reading = (
        f"Row: true class, column: what the probe said, in % of the row; a good encoder fills the diagonal. The probe "
        f"was fitted for this picture on {confusion.n_train:,} labelled training images, spread evenly, and tested on "
        f"{confusion.n_test:,} test images: {confusion.accuracy:.1%} correct. The table of accuracies has the probe "
        "on all of them."
    )
    svg = matrix_chart("confusion", "Confusion matrix of the linear probe on the test split", shares, classes)
    return {
        "chart": Chart("Where the linear probe errs", svg, reading),
        "pairs": [
            (classes[true], classes[said], int(counts[true, said]), percent(float(shares[true, said])))
            for true, said in pairs
            if wrong[true, said]
        ],
    }
