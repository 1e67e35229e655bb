"""What a classifier said of each test image, and what is measured of it: accuracy, and of two classes the area too.

Axes: N images, C classes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from byolt.data.source import Labels
from byolt.evaluation.roc import area_difference_on_test_set, area_on_test_set
from byolt.evaluation.statistics import accuracy_on_test_set, difference_on_test_set


class Answers(NamedTuple):
    """Of one classifier on N images."""

    predicted: Labels
    """Class of each image, (N,)."""
    margins: npt.NDArray[np.float64] | None
    """Of two classes, the score of class 1 less that of class 0, (N,); None of any other number."""

    @classmethod
    def of(cls, parts: Sequence[Float[Tensor, "_ C"]]) -> "Answers":
        """The class of the highest score, the lower of equals, from the scores of one batch of images after another."""
        predicted = torch.cat([scores.argmax(1) for scores in parts]).numpy()
        if parts[0].shape[1] != 2:
            return cls(predicted, None)
        return cls(predicted, torch.cat([(scores[:, 1] - scores[:, 0]).double() for scores in parts]).numpy())


def measured(answers: Answers, labels: Labels) -> dict[str, Any]:
    """Accuracy with its interval, and under ``auc`` the area with its own where there are two classes; JSON-able."""
    metrics = accuracy_on_test_set(answers.predicted, labels)
    if answers.margins is not None and _both_there(labels):
        metrics["auc"] = area_on_test_set(answers.margins, labels)
    return metrics


def compared(ours: Answers, theirs: Answers, labels: Labels) -> dict[str, Any]:
    """McNemar's test of two classifiers on the same images, and under ``auc`` DeLong's where there are two classes."""
    tests: dict[str, Any] = difference_on_test_set(ours.predicted == labels, theirs.predicted == labels)._asdict()
    if ours.margins is not None and theirs.margins is not None and _both_there(labels):
        tests["auc"] = area_difference_on_test_set(ours.margins, theirs.margins, labels)._asdict()
    return tests


def _both_there(labels: Labels) -> bool:
    """A folder of test images may hold but one of the classes."""
    return len(np.unique(labels)) == 2
