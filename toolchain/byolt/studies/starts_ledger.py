"""What a study of starts keeps: a CSV row for each draw of labels, and beside it every test image's score.

A cell is one encoder, one way to use it and one number of labels; its draws are rows, and its scores one file.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from byolt import __version__
from byolt.data.source import Labels
from byolt.device import Precision, precision_for
from byolt.files import write_bytes
from byolt.recipe.identity import recipe_hash, result_keys
from byolt.recipe.schema import Recipe
from byolt.studies.ledger import PRECISION, Key, Ledger, Row, run_hash
from byolt.studies.starts_plan import Start, Way
from byolt_export.errors import InputError

COLUMNS = (
    *("run", "protocol", "byolt", "role", "start", "seed", "way", "budget", "draw", "setting", "measure", "metric"),
    *("n_test", "state", "verdict", "learn_s", "measure_s", "torch", "processor", "commit", "date"),
    PRECISION,
)
PROTOCOL: dict[Way, int] = {"linear": 1, "finetune": 2}
"""How starts are measured; a change of any number is a new protocol. Fine-tuning's first was SGD, which lost some."""
DRAWS: dict[Way, int] = {"linear": 20, "finetune": 5}
"""Of labels, at each budget and seed; of all labels there is one."""
Scores = npt.NDArray[np.float32]


class Images(NamedTuple):
    """What tells one labelled set from another."""

    learned: str
    """Fingerprint of the images to learn from."""
    train: str
    test: str
    n_train: int


class Cell(NamedTuple):
    """One encoder, one way to use it, one number of labels."""

    start: Start
    seed: int
    way: Way
    budget: int
    images: Images

    @property
    def draws(self) -> int:
        """How many draws of labels are measured."""
        return 1 if self.budget == self.images.n_train else DRAWS[self.way]

    @property
    def precision(self) -> Precision:
        """What the encoder was learned in; fp32 where nothing is learned, as everything is measured."""
        machine = self.start.recipe.machine
        return precision_for(machine.precision, machine.device) if self.start.learns else "fp32"

    @property
    def key(self) -> Key:
        """The hash of the encoder, that of how it is measured, and byolt's version."""
        recipe = self.start.with_seed(self.seed)
        measured: dict[str, Any] = {
            "protocol": PROTOCOL[self.way],
            "way": self.way,
            "budget": self.budget,
            "images": [self.images.train, self.images.test],
            "tuned on": self.start.recipe.seed,
            "flip": recipe.views.view_1.flip if self.way == "finetune" else None,
        }
        if self.precision != "fp32":
            measured["precision"] = self.precision
        digest = hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()[:8]
        return Key(_encoder_hash(self.start, recipe, self.images.learned), digest, __version__)

    def __str__(self) -> str:
        return f"{self.start.name}, seed {self.seed}, {self.budget} labels"


def _encoder_hash(start: Start, recipe: Recipe, learned: str) -> str:
    """That of the run's folder; of an encoder that nothing is learned with, of its weights alone."""
    if start.learns:
        return run_hash(recipe, learned)
    keys = {key: value for key, value in result_keys(recipe).items() if key == "seed" or key.startswith("model.")}
    shown = {"size": recipe.data.image_size_px, "mean": recipe.data.mean, "std": recipe.data.std}
    return recipe_hash(keys | shown | {"start": start.name}, learned)


@dataclass(frozen=True)
class StartsLedger:
    """Rows and scores below a folder of results."""

    results: Path
    name: str
    """The recipe's."""

    @property
    def ledger(self) -> Ledger:
        """The CSV file."""
        return Ledger(self.results / f"{self.name}-starts.csv", COLUMNS)

    def rows(self) -> "Rows":
        """Every row as it is now.

        Raises:
            InputError: The file has other columns, or a row that is cut off.
        """
        return Rows(self.ledger.lines())

    def scores_file(self, key: Key) -> Path:
        """Where a cell's scores lie."""
        return self.results / f"{self.name}-starts" / f"{key.run}-{key.protocol}.npz"

    def write_scores(self, key: Key, scores: Scores, labels: Labels) -> None:
        """Keep the scores (draws, N) of a cell, and the classes of the test images (N,)."""
        content = io.BytesIO()
        np.savez_compressed(content, scores=scores, labels=labels)
        write_bytes(self.scores_file(key), content.getvalue())

    def read_scores(self, key: Key) -> tuple[Scores, Labels] | None:
        """Scores (draws, N) and classes (N,) of a cell, or None where nothing was measured.

        Raises:
            InputError: The file is damaged.
        """
        path = self.scores_file(key)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as kept:
                return kept["scores"], kept["labels"]
        except Exception as error:  # numpy and zipfile raise half a dozen kinds for a damaged file.
            raise InputError(f"{path} is damaged; remove it, and its draws are measured again") from error

    def measured(self, cell: Cell, rows: "Rows") -> int:
        """How many draws of a cell, from the first on, have both their row and their scores."""
        return len(self.scores_of_whole_draws(cell, rows))

    def scores_of_whole_draws(self, cell: Cell, rows: "Rows") -> list[Scores]:
        """The scores (N,) of a cell's draws from the first on, as far as each has its row too."""
        kept = self.read_scores(cell.key)
        scores = [] if kept is None else list(kept[0])
        cut = (draw for draw in range(len(scores)) if not rows.of(cell.key, "test", str(draw)))
        return scores[: next(cut, len(scores))]

    def append(self, cell: Cell, **columns: Any) -> None:
        """Add the row of a draw, or of a choice."""
        about = {"start": cell.start.name, "seed": cell.seed, "way": cell.way, "budget": cell.budget}
        self.ledger.append(cell.key._asdict() | about | columns | {PRECISION: cell.precision})


class Rows:
    """Rows of the ledger, by key."""

    def __init__(self, lines: list[Row]) -> None:
        """Of two rows of one draw the first counts."""
        self.found: dict[tuple[str, ...], Row] = {}
        for row in lines:
            self.found.setdefault((row["run"], row["protocol"], row["byolt"], row["role"], row["draw"]), row)

    def of(self, key: Key, role: str, draw: str) -> Row | None:
        """The row of a draw (role ``test``), or of a choice (``tuning``, no draw)."""
        return self.found.get((*key, role, draw))

    def state(self, cell: Cell) -> str:
        """How the learning of a cell's encoder ended; empty where nothing is learned."""
        row = self.of(cell.key, "test", "0")
        return "" if row is None else row["state"]

    def hours(self, cells: Sequence[Cell]) -> float:
        """Of learning, each run once, and of measuring."""
        keys = {cell.key for cell in cells}
        own = [row for key, row in self.found.items() if key[:3] in keys]
        learned = {row["run"]: float(row["learn_s"] or 0) for row in own}
        return (sum(learned.values()) + sum(float(row["measure_s"]) for row in own)) / 3600

    def setting(self, cell: Cell) -> str | None:
        """The setting that was chosen for a cell's start, way and budget; None where none was yet."""
        row = self.of(cell._replace(seed=cell.start.recipe.seed).key, "tuning", "")
        return None if row is None else row["setting"]
