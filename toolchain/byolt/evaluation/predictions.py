"""What each classifier said of each test image, kept so that two models can be compared on the same images."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from byolt.data import ImageStore
from byolt.data.source import Labels
from byolt.evaluation.answers import Answers, compared
from byolt.evaluation.norm_statistics import lag
from byolt.files import write_bytes
from byolt.run import Run, open_run
from byolt_export.errors import InputError

PROBES = ("knn", "linear")
_MARGINS = "_margins"


class Predictions(NamedTuple):
    """Answers of a run's frozen encoder."""

    images: str
    """Fingerprint of the test images."""
    labels: Labels
    answers: dict[str, Answers]
    """By probe."""


def write_predictions(run: Run, answers: dict[str, dict[str, Answers]], test: ImageStore) -> None:
    """Keep the answers of every kind of features as ``evaluation/predictions.npz``: classes, of two margins too.

    Raises:
        ByoltError: The disk is full or cannot be written.
    """
    arrays: dict[str, Any] = {
        f"{name}_{probe}{suffix}": column
        for name, by in answers.items()
        for probe, answer in by.items()
        for suffix, column in (("", answer.predicted), (_MARGINS, answer.margins))
        if column is not None
    }
    path = run.path / "evaluation" / "predictions.npz"
    content = io.BytesIO()
    np.savez_compressed(content, images=np.array(test.fingerprint), labels=test.labels, **arrays)  # type: ignore[arg-type]
    write_bytes(path, content.getvalue())


def read_predictions(run: Run) -> Predictions:
    """The answers of a run's encoder.

    Raises:
        InputError: The run was not evaluated with labels, or the file is damaged.
    """
    path = run.path / "evaluation" / "predictions.npz"
    try:
        with np.load(path, allow_pickle=False) as kept:
            answers = {
                probe: Answers(kept[f"encoder_{probe}"], kept.get(f"encoder_{probe}{_MARGINS}")) for probe in PROBES
            }
            return Predictions(str(kept["images"]), kept["labels"], answers)
    except FileNotFoundError as error:
        raise InputError(f"{run.path} has no predictions; make them with: byolt evaluate {run.path}") from error
    except Exception as error:  # numpy and zipfile raise half a dozen kinds for a damaged file.
        raise InputError(f"{path} is damaged; make it again with: byolt evaluate {run.path}") from error


def compare(run: Run | str | Path, other: Run | str | Path) -> dict[str, Any]:
    """McNemar's test of one run's encoder against another's, by kNN and by linear probe, on the same test images.

    Of two classes DeLong's test of the areas under the curve stands beside it, under ``auc``. Both cover the draw of
    the test images and not that of the seeds: for methods compare several seeds (`byolt study`).

    Raises:
        InputError: One has no predictions, they are of other images, or one alone has BatchNorm's moving averages.
    """
    run, other = open_run(run), open_run(other)
    ours, theirs = read_predictions(run), read_predictions(other)
    if lag(run) != lag(other):
        old, new = (run, other) if lag(run) else (other, run)
        raise InputError(
            f"{old.path} was learned by an earlier byolt, with BatchNorm's moving averages in its encoder, and "
            f"{new.path} has statistics of its images: learn {old.path} again before they are compared"
        )
    if ours.images != theirs.images or not np.array_equal(ours.labels, theirs.labels):
        raise InputError(f"{run.path} and {other.path} were evaluated on other test images; evaluate both on one set")
    return {probe: compared(ours.answers[probe], theirs.answers[probe], ours.labels) for probe in PROBES}
