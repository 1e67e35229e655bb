"""The paper's ablations as grids of recipes, each row with the published accuracy beside it.

Published values are ImageNet linear top-1 in per cent, ResNet-50: of BYOL (Grill et al. 2020) after 300 epochs at batch
4096, of SimSiam (Chen and He 2021) after 100 epochs at batch 512.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from byolt.recipe.faults import did_you_mean
from byolt.recipe.identity import result_keys
from byolt.recipe.load import with_changes
from byolt.recipe.schema import Recipe
from byolt.studies.plan import Arm, Changes
from byolt_export.errors import InputError


class PublishedRow(NamedTuple):
    """One row of a published table."""

    name: str
    changes: dict[str, Any]
    published: float | None
    source: str


_NONE, _COPY, _CONSTANT = {"method.predictor": "none"}, {"method.target": "copy"}, {"method.tau_schedule": "constant"}


def _both(**keys: Any) -> dict[str, Any]:
    """Keys of both views."""
    return {f"views.view_{number}.{key}": value for number in (1, 2) for key, value in keys.items()}


_NO_JITTER, _NO_GREY = _both(jitter=0.0), _both(grey=0.0)
_NO_COLOUR = _NO_JITTER | _NO_GREY
_NO_BLUR, _NO_FLIP = _both(blur=0.0, solarize=0.0), _both(flip=0.0)
_SYMMETRIC = _both(blur=0.5, solarize=0.2)

TAU = (
    PublishedRow("tau 1 (random target)", {"method.tau_base": 1.0} | _CONSTANT, 18.8, "Table 5a"),
    PublishedRow("tau 0.999", {"method.tau_base": 0.999}, 69.8, "Table 5a"),
    PublishedRow("tau 0.99", {"method.tau_base": 0.99}, 72.5, "Table 5a"),
    PublishedRow("tau 0.9", {"method.tau_base": 0.9}, 68.4, "Table 5a"),
    PublishedRow("tau 0 (online weights)", {"method.tau_base": 0.0} | _CONSTANT, 0.3, "Table 5a"),
)
TARGET = (
    PublishedRow("moving average", {}, 72.5, "Table 5a"),
    PublishedRow("copied online network", _COPY, 5.5, "Table 19; SimSiam 68.1"),
    PublishedRow("copied, predictor rate x 2", _COPY | {"method.predictor_lr_multiplier": 2.0}, 62.8, "Table 21"),
    PublishedRow("copied, predictor rate x 10", _COPY | {"method.predictor_lr_multiplier": 10.0}, 66.6, "Table 21"),
    PublishedRow("frozen at its first weights", {"method.target": "frozen"}, 18.8, "Table 5a"),
    PublishedRow("copied, no stop-gradient", _COPY | {"method.stop_gradient": False}, 0.1, "SimSiam, Fig. 2"),
)
PREDICTOR = (
    PublishedRow("two layers", {}, 72.5, "Table 5b"),
    PublishedRow("linear", {"method.predictor": "linear"}, None, ""),
    PublishedRow("none", _NONE, 0.2, "Table 5b"),
    PublishedRow("none, copied target", _NONE | _COPY, 0.1, "Table 5b; SimSiam, Table 1"),
    PublishedRow("none, copied target, no stop-gradient", _NONE | _COPY | {"method.stop_gradient": False}, None, ""),
)
BETA = (
    PublishedRow("predictor and target, beta 0", {}, 72.5, "Table 5b"),
    PublishedRow("predictor and target, beta 1", {"method.beta": 1.0}, 70.9, "Table 5b"),
    PublishedRow("target alone, beta 1", _NONE | {"method.beta": 1.0}, 70.7, "Table 5b"),
    PublishedRow("predictor alone, beta 1", _COPY | {"method.beta": 1.0}, 69.1, "Table 5b"),
    PublishedRow("neither, beta 1", _NONE | _COPY | {"method.beta": 1.0}, 69.4, "Table 5b, SimCLR"),
    PublishedRow("predictor alone, beta 0", _COPY, 0.3, "Table 5b"),
    PublishedRow("target alone, beta 0", _NONE, 0.2, "Table 5b"),
    PublishedRow("neither, beta 0", _NONE | _COPY, 0.1, "Table 5b"),
)
AUGMENT = (
    PublishedRow("as the recipe", {}, 72.5, "Table 17"),
    PublishedRow("no flip", _NO_FLIP, 71.9, "Table 17"),
    PublishedRow("no blur and solarization", _NO_BLUR, 71.2, "Table 17"),
    PublishedRow("no colour jitter", _NO_JITTER, 71.8, "Table 17"),
    PublishedRow("no greyscale", _NO_GREY, 70.3, "Table 17"),
    PublishedRow("no colour", _NO_COLOUR, 63.4, "Table 17"),
    PublishedRow("symmetric blur and solarization", _SYMMETRIC, 72.5, "Table 17"),
    PublishedRow("crop alone", _NO_COLOUR | _NO_BLUR | _NO_FLIP, 59.4, "Table 17"),
    PublishedRow("crop and flip", _NO_COLOUR | _NO_BLUR, 60.1, "Table 17"),
    PublishedRow("crop and colour", _NO_BLUR | _NO_FLIP, 70.7, "Table 17"),
    PublishedRow("crop and blur", _NO_COLOUR | _NO_FLIP, 61.1, "Table 17"),
)
# The recipe's own batch stands beside the paper's 4096; the learning rate follows the batch.
BATCH = ((1, 72.5), (2, 72.4), (4, 72.2), (8, 72.2), (16, 71.8), (32, 69.6), (64, 59.7))
LINES = {"tau": TAU, "target": TARGET, "predictor": PREDICTOR, "beta": BETA, "augment": AUGMENT}
NAMES = ("tau", "batch", "augment", "target", "predictor", "beta")

CAVEAT = (
    "Published values are of ImageNet, ResNet-50 and hundreds of epochs; ours are of the recipe's data, encoder and "
    "length. Compare the order of the rows, not the metrics: the rank correlation does."
)


def ablation_arms(recipe: Recipe, name: str) -> list[Arm]:
    """The rows of an ablation that differ for this recipe; equal ones appear once.

    Raises:
        InputError: No such ablation, or the recipe's method is not BYOL.
    """
    if name not in NAMES:
        raise InputError(f"no ablation {name!r}; known are {', '.join(NAMES)}{did_you_mean(name, NAMES)}")
    if recipe.method.name != "byol":
        raise InputError(f"method.name {recipe.method.name}: the ablations take BYOL apart; use a recipe of byol")
    arms: dict[str, Arm] = {}
    for line in _batches(recipe) if name == "batch" else LINES[name]:
        of_line = with_changes(recipe, line.changes)
        # A switch may change nothing here: a recipe without blur has no row without it.
        same = str(result_keys(of_line))
        arms.setdefault(same, Arm(line.name, of_line, line.changes, line.published, line.source))
    return list(arms.values())


def _batches(recipe: Recipe) -> Iterator[PublishedRow]:
    for divisor, published in BATCH:
        batch, rest = divmod(recipe.optim.batch_size, divisor)
        if not rest and batch // recipe.optim.accumulate >= 2 and batch % recipe.optim.accumulate == 0:
            changes: Changes = {"optim.batch_size": batch}
            yield PublishedRow(f"batch {batch}", dict(changes), published, f"Table 16, batch {4096 // divisor}")
