"""The rows of a study: one CSV line per finished run, keyed by what was learned and how it was measured.

A run is the hash of its result keys (seed, tau, views and all) and its images, its protocol the hash of the keys that
measure and of ``PROTOCOL``, and byolt's version: what differs in any of them is another row.
"""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from byolt import __version__
from byolt.device import precision_for
from byolt.locks import lock
from byolt.recipe.identity import recipe_hash, result_keys
from byolt.recipe.schema import Recipe
from byolt.studies.plan import Job
from byolt_export.errors import InputError, not_written

PRECISION = "precision"
"""The last column; a file of an older byolt has none, and its rows are fp32's."""
COLUMNS = (
    *("run", "protocol", "byolt", "role", "arm", "method", "seed", "state", "verdict", "epochs", "learn_s"),
    *("validation", "knn", "linear", "classifier", "finetuned", "scratch", "probe_few", "n_few", "n_test"),
    *("z_std_ratio", "rankme", "projection_rank", "torch", "processor", "commit", "date", "changes"),
    PRECISION,
)
Row = dict[str, str]

PROTOCOL = 2
"""How runs are measured: with BatchNorm statistics taken anew from learning images; by 1 with the moving averages of
learning. A study's rows are all of one protocol."""
PROTOCOLS = {1: "BatchNorm by the moving averages of learning", 2: "BatchNorm statistics taken anew"}


class Key(NamedTuple):
    """What a row is found by."""

    run: str
    protocol: str
    byolt: str


def key_of(job: Job, fingerprint: str, protocol: int = PROTOCOL) -> Key:
    """The key of a job on images of that fingerprint, measured by a protocol of ``PROTOCOLS``."""
    recipe = job.recipe
    measured: dict[str, Any] = {
        "role": job.role,
        "evaluation": recipe.evaluation.model_dump(mode="json", exclude={"every_epochs"}),
    }
    if job.role == "finetune":
        measured |= {"finetune": recipe.finetune.model_dump(mode="json"), "share": recipe.study.labelled_share}
    if protocol > 1:  # The hashes of rows that were there stay.
        measured["protocol"] = protocol
    precision = precision_for(recipe.machine.precision, recipe.machine.device)
    if precision != "fp32":  # So that no fp32 row is taken, or paired, for it.
        measured["precision"] = precision
    digest = hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()[:8]
    return Key(run_hash(job.recipe, fingerprint), digest, __version__)


def run_hash(recipe: Recipe, fingerprint: str) -> str:
    """The hash that names the run's folder."""
    return recipe_hash(result_keys(recipe), fingerprint)


class Ledger:
    """The CSV file; several processes may append to it."""

    def __init__(self, path: Path, columns: tuple[str, ...] = COLUMNS) -> None:
        self.path, self.columns = path, columns

    def rows(self) -> dict[Key, Row]:
        """Every row by its key; of two with one key the first.

        Raises:
            InputError: The file has other columns, or a row that is cut off.
        """
        found: dict[Key, Row] = {}
        for row in self.lines():
            found.setdefault(Key(row["run"], row["protocol"], row["byolt"]), row)
        return found

    def lines(self) -> list[Row]:
        """Every row, in order.

        Raises:
            InputError: The file has other columns, or a row that is cut off.
        """
        if not self.path.exists() or self.path.stat().st_size == 0:
            return []
        with open(self.path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = tuple(reader.fieldnames or ())
            if columns not in (self.columns, self._older):
                raise InputError(f"{self.path}: its columns are not those of a study; name another --results folder")
            found: list[Row] = []
            try:
                for row in reader:
                    if len(row) != len(columns) or None in row.values():
                        raise self._cut_off(reader.line_num)
                    found.append({PRECISION: "fp32"} | row)
            except (csv.Error, UnicodeDecodeError) as error:
                raise self._cut_off(reader.line_num + 1) from error
        return found

    def hours(self) -> float:
        """Of learning, over all rows; a run that is measured in two ways was learned once."""
        return sum({row["run"]: float(row["learn_s"]) for row in self.rows().values()}.values()) / 3600

    @property
    def _older(self) -> tuple[str, ...]:
        return tuple(name for name in self.columns if name != PRECISION)

    def _cut_off(self, line: int) -> InputError:
        return InputError(f"{self.path}:{line}: half a row; remove that line, and its run is learned again")

    def append(self, row: dict[str, Any]) -> None:
        """Add one row.

        Raises:
            InputError: The row is not fp32's, and the file is of an older byolt that knew no other.
            ByoltError: The disk is full or the folder cannot be written.
        """
        assert set(row) <= set(self.columns), set(row) - set(self.columns)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a+", newline="", encoding="utf-8", errors="backslashreplace") as file:
                lock(file)  # Until it is closed.
                file.seek(0)
                header = file.readline()  # What is written goes to the end, wherever was read.
                columns = tuple(next(csv.reader([header]))) if header else self.columns
                if columns == self._older and row[PRECISION] != "fp32":
                    raise InputError(
                        f"{self.path} is of an older byolt and holds rows of fp32 alone; name another --results folder "
                        f"for {row[PRECISION]}"
                    )
                kept = {name: value for name, value in row.items() if name in columns}
                writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
                if not header:
                    writer.writeheader()
                writer.writerow(kept)
        except OSError as error:
            raise not_written(self.path, error) from error
