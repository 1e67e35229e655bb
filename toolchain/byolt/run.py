"""A run's folder: create, find the latest, resolved recipe, environment, metrics, result.

Imports no torch, so that finding a run and printing what is known of it is quick.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from byolt.environment import command, environment, typed_again
from byolt.files import append_text, read_json, write_json, write_text
from byolt.locks import writer
from byolt.recipe.identity import recipe_hash, result_keys
from byolt.recipe.load import RESOLVED, dump_recipe, load_recipe
from byolt.recipe.schema import Recipe
from byolt_export.errors import ByoltError, InputError

if TYPE_CHECKING:
    from torch import nn

_EXPORT_AGAIN = "export the run again"
_MEASURED = ("collapse", "encoder", "untrained", "start", "pixels", "colours", "finetune")


class RunMetrics(TypedDict, total=False):
    """Every metric of a run that was measured, as ``--json`` prints it; what was not measured is absent."""

    run: str
    """The run's folder."""
    learning: dict[str, Any]
    """How learning ended, and the metrics of its last evaluation: ``result.json``."""
    collapse: dict[str, Any]
    """Collapse measures of the frozen encoder, by kind of encoder; these need no labels."""
    encoder: dict[str, Any]
    """``knn`` and ``linear`` of the learned encoder, each with ``accuracy``, ``interval_95`` and its protocol."""
    untrained: dict[str, Any]
    """The same of the same encoder from random weights."""
    start: dict[str, Any]
    """The same of the weights that learning started from, where those were no random ones."""
    pixels: dict[str, Any]
    """The same of raw pixels."""
    colours: dict[str, Any]
    """The same of a colour histogram."""
    finetune: dict[str, Any]
    """``FinetuneMetrics`` of the largest share of the labels."""
    parity: dict[str, Any]
    """What was proven of the exported bundle."""
    classifier_parity: dict[str, Any]
    """What was proven of the exported classifier."""


@dataclass(frozen=True)
class Run:
    """One run of a recipe on its images: the folder ``<runs_dir>/<recipe name>-<hash of result keys and images>``.

    ``pretrain`` returns it and ``open_run`` finds it again. It holds a path and nothing else: each property reads the
    folder anew, so a run that another process is learning can be watched.
    """

    path: Path

    def encoder(self) -> "nn.Module":
        """The plain torchvision or timm module with the learned weights, in eval mode on the CPU.

        It maps normalised images (B, 3, S, S) to features (B, D). What learning started from is not needed again.

        Raises:
            InputError: The run has not finished, or it collapsed.
        """
        from byolt.networks.encoders import untrained_encoder
        from byolt.networks.initial_weights import load_encoder

        if not self.encoder_file.exists():
            raise self._without_encoder()
        encoder = untrained_encoder(self.recipe)
        load_encoder(encoder, self.encoder_file)
        return encoder.eval()

    def _without_encoder(self) -> InputError:
        result = self.result
        if result is not None and result["state"] == "collapsed":
            return InputError(
                f"{self.path} collapsed by step {result['step']} and left no encoder; a collapsed run cannot go on: "
                "change the recipe and learn again"
            )
        if busy := writer(self.path):
            return InputError(f"{self.path} has no encoder yet: it {busy}")
        line = command("pretrain", self.path / "recipe.resolved.yaml", "--resume", self.path)
        return InputError(f"{self.path} has no encoder yet: go on with {line}")

    def summary(self) -> RunMetrics:
        """Every metric of the run that was measured, JSON-able."""
        parts = {
            "learning": self.result,
            **{name: self.metrics(name) for name in _MEASURED},
            "parity": read_json(self.bundle / "parity.json", mend=_EXPORT_AGAIN),
            "classifier_parity": read_json(self.classifier_bundle / "parity.json", mend=_EXPORT_AGAIN),
        }
        known = {name: part for name, part in parts.items() if part is not None}
        return cast(RunMetrics, {"run": str(self.path)} | known)

    @property
    def checkpoints(self) -> Path:
        """Everything that exact resume needs."""
        return self.path / "checkpoints"

    @property
    def encoder_file(self) -> Path:
        """The learned encoder, ready for the plain torchvision or timm module."""
        return self.path / "encoder.safetensors"

    @property
    def images_file(self) -> Path:
        """The names and digests of the images that were learned from and of those that were held out."""
        return self.path / "images.npz"

    @property
    def classifier_file(self) -> Path:
        """The fine-tuned encoder with its head, and in its metadata the classes."""
        return self.path / "classifier.safetensors"

    @property
    def bundle(self) -> Path:
        """The exported bundle."""
        return self.path / "export"

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe that the run was started with."""
        return load_recipe(self.path / "recipe.resolved.yaml")

    @property
    def environment(self) -> dict[str, Any]:
        """What the run was made by and of, as written when it was created."""
        return read_json(self.path / "environment.json", mend="copy the whole run again") or {}

    @property
    def hash(self) -> str:
        """Hash of the result keys and the images that the run was created with, whatever lies at their paths now.

        Raises:
            InputError: The run's ``environment.json`` is gone, or older than this.
        """
        if "hash" not in self.environment:
            raise InputError(f"{self.path / 'environment.json'} does not name the run's hash; copy the whole run again")
        return str(self.environment["hash"])

    @property
    def classifier_bundle(self) -> Path:
        """The exported bundle of the fine-tuned classifier."""
        return self.path / "export-classifier"

    @property
    def result(self) -> dict[str, Any] | None:
        """State and last metrics of a run that ended, or None while it is unfinished."""
        resolved = self.path / RESOLVED
        mend = f"remove it, and go on with byolt pretrain {resolved} --resume {self.path}, which writes it again"
        return read_json(self.path / "result.json", needs=("state", "step"), mend=mend)

    def metrics(self, name: str) -> dict[str, Any] | None:
        """Metrics of ``evaluation/<name>.json``, or None where they were not measured."""
        again = "finetune" if name.startswith("finetune") else "evaluate"
        mend = f"remove it, and make it again with byolt {again} {self.path}"
        return read_json(self.path / "evaluation" / f"{name}.json", mend=mend)

    def write_metrics(self, name: str, metrics: dict[str, Any]) -> None:
        """Keep metrics as ``evaluation/<name>.json``."""
        write_json(self.path / "evaluation" / f"{name}.json", metrics)

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        append_text(self.path / "metrics.jsonl", json.dumps(record) + "\n")

    def say(self, text: str) -> None:
        """Append one dated line to ``train.log``."""
        append_text(self.path / "train.log", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def log_records(self) -> list[dict[str, Any]]:
        """Every whole line of ``metrics.jsonl``; a kill or a full disk can leave half a last one.

        Raises:
            InputError: A line before the last is no record.
        """
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        last = len(lines)
        records = (_record(line, f"{path}:{number}", last=number == last) for number, line in enumerate(lines, start=1))
        return [record for record in records if record is not None]

    def forget_after(self, step: int) -> None:
        """Drop metrics of steps that a resumed run will take again, and half a line at the end."""
        kept = [record for record in self.log_records() if record["step"] <= step]
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in kept))


def learned_for_s(records: list[dict[str, Any]]) -> float | None:
    """Seconds of learning by a run's log, None without a line."""
    # The clock of a resumed run starts again, so its stretches are added.
    clock = [record["elapsed_s"] for record in records if "elapsed_s" in record]
    if not clock:
        return None
    ends = [now for now, following in zip(clock, [*clock[1:], -1.0], strict=True) if following < now]
    return float(sum(ends))


@contextmanager
def create_run(
    recipe: Recipe, fingerprint: str, recipe_text: str, *, precision: str = "fp32", threads: int | None = None
) -> Iterator[Run]:
    """A new run with what it is made of written down; its folder gets its name when the context is left.

    So a run's folder that is there has all that the caller wrote into it, its first checkpoint too: what fails or is
    killed before that is not in the way of the next start.

    Raises:
        InputError: The run's folder is there already: it was started before and has not ended.
        ByoltError: The folder cannot be made.
    """
    run = run_of(recipe, fingerprint)
    if run.path.exists():
        raise _started_before(run)
    beside = Run(run.path.with_name(f".{run.path.name}.{os.getpid()}.part"))
    try:
        beside.checkpoints.mkdir(parents=True)
        write_text(beside.path / "recipe.yaml", recipe_text)
        write_text(beside.path / "recipe.resolved.yaml", dump_recipe(recipe))
        known: dict[str, Any] = {"images": fingerprint, "hash": recipe_hash(result_keys(recipe), fingerprint)}
        known |= {"precision": precision} | ({} if threads is None else {"threads": threads})
        write_json(beside.path / "environment.json", environment() | known)
        yield beside
        beside.path.rename(run.path)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):  # Another process was quicker.
            raise _started_before(run) from error
        raise ByoltError(
            f"{run.path} cannot be made: {error.strerror}; --set machine.runs_dir=DIR keeps runs where that may be done"
        ) from error
    finally:
        shutil.rmtree(beside.path, ignore_errors=True)


def _started_before(run: Run) -> InputError:
    if busy := writer(run.path):
        return InputError(f"{run.path} {busy}")
    line = command_to_go_on(run.path)
    return InputError(f"{run.path} was started before and has not ended; go on with {line}, or remove the folder")


def command_to_go_on(run: Path) -> str:
    """The whole command that goes on with a run: the one that was typed, or one of the run's own recipe."""
    line = typed_again("--resume", run, of=("pretrain",), without="--resume")
    return line or command("pretrain", run / "recipe.resolved.yaml", "--resume", run)


def run_of(recipe: Recipe, fingerprint: str) -> Run:
    """The folder that belongs to a recipe and its images, there or not."""
    return Run(recipe.machine.runs_dir / f"{recipe.name}-{recipe_hash(result_keys(recipe), fingerprint)}")


def open_run(run: Run | str | Path | None = None, runs_dir: str | Path = "runs") -> Run:
    """The run in a folder; left out, the one below ``runs_dir`` that was last at work.

    Raises:
        InputError: There is none.
    """
    if isinstance(run, Run):
        return run
    runs_dir = Path(runs_dir)
    if run is not None:
        path = Path(run)
        if not (path / "recipe.resolved.yaml").is_file():
            raise InputError(
                f"{path} is not a run's folder (it holds no recipe.resolved.yaml); see what lies in {runs_dir}"
            )
        return Run(path)
    # One with a leading dot was killed while it was made.
    found = [f.parent for f in runs_dir.glob("*/recipe.resolved.yaml") if not f.parent.name.startswith(".")]
    if not found:
        raise InputError(f"no run in {runs_dir}; start one with: {command('pretrain', 'recipes/quickstart.yaml')}")
    return Run(max(found, key=_last_touched))


def _last_touched(folder: Path) -> float:
    log = folder / "metrics.jsonl"
    return (log if log.exists() else folder / "recipe.resolved.yaml").stat().st_mtime


def _record(line: str, where: str, *, last: bool) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, dict) and isinstance(record.get("step"), int):
        return record
    if last:
        return None
    raise InputError(f"{where}: half a line, or none that byolt wrote; remove that line")
