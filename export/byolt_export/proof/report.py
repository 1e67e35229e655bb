"""What was measured and judged, as ``parity.json`` holds it: the one model of that file, written and read here.

Axes: N images.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, FiniteFloat, TypeAdapter, ValidationError

from byolt_export.bundle.folder import PARITY, open_file
from byolt_export.bundle.golden import PERTURBATIONS
from byolt_export.bundle.manifest import Gates, Manifest, Precision, Speed, Verdict, first_fault
from byolt_export.errors import InputError
from byolt_export.proof.agreement import Agreement

SLOWER = 0.95  # Times fp32. What is nearer to it may be as fast.
_Read = TypeVar("_Read")
_PARITY_BYTES = 64 * 2**20  # A bundle is somebody else's file: nothing larger is read.


@dataclass(frozen=True)
class Measures:
    """How far a candidate is from its reference; ``None`` where a measure has no meaning for the data."""

    images: int
    finite: bool
    relative_l2_mean: float
    relative_l2_worst: float
    relative_l2_histogram: tuple[int, ...]
    """Images in each bin of ``HISTOGRAM_EDGES``."""
    worst_image: int
    centred_cosine_mean: float
    centred_cosine_worst: float
    overlap_at_1: float | None
    overlap_at_10: float | None
    top_1_agreement: float | None


@dataclass(frozen=True)
class Task:
    """Do delivered embeddings serve the task as well? kNN and linear accuracy on the same held-out images.

    ``difference`` is candidate less reference; ``not worse`` when its 95 % interval lies above minus the margin,
    ``undecided`` where the images are too few to tell, else ``worse``.
    """

    queries: int
    knn_accuracy: float
    knn_agreement: float
    knn_difference: float
    knn_interval_95: tuple[float, float]
    linear_accuracy: float
    linear_agreement: float
    linear_difference: float
    linear_interval_95: tuple[float, float]
    margin: float
    verdict: Literal["not worse", "undecided", "worse"]


@dataclass(frozen=True)
class BatchCheck:
    """All golden images in batches of exactly ``batch``: against the reference, and against batch 1."""

    batch: int
    relative_l2_worst: float | None
    from_batch_1_worst: float | None
    fault: str = ""


@dataclass(frozen=True)
class MapCheck:
    """One output by its name, before it is pooled: relative L2 over all values of an image, on ``images`` images."""

    name: str
    images: int
    relative_l2_mean: float
    relative_l2_worst: float


@dataclass(frozen=True)
class Control:
    """The candidate against the outputs of a deliberately wrong model, which must fail the gate.

    ``below the limit``: a perturbation too small for the precision to tell, which the gates allow.
    """

    name: str
    state: Literal["fails", "below the limit", "not noticed", "not applicable"]
    relative_l2_worst: float | None = None


@dataclass(frozen=True)
class Parity:
    """One file, run by one provider, against the PyTorch model; ``reasons`` is empty when it passed."""

    verdict: Verdict
    reasons: tuple[str, ...]
    gates: Gates
    golden: Measures | None = None
    gallery: Measures | None = None
    task: Task | None = None
    batches: tuple[BatchCheck, ...] = ()
    controls: tuple[Control, ...] = ()
    maps: tuple[MapCheck, ...] = ()
    agreement: Agreement | None = None
    drift_mean: float | None = None
    """Of an int8 file: mean relative L2 from what it gave when it was made."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is to be said of a verdict that holds all the same."""
        return () if self.agreement is None else self.agreement.remarks

    @property
    def detection_limit(self) -> float | None:
        """The least noise on the largest kernel, as a share of its standard deviation, that fails the gate."""
        noticed = {c.name for c in self.controls if c.state == "fails"}
        return min((share for name, share in PERTURBATIONS.items() if name in noticed), default=None)

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers."""
        plain = asdict(self) | {"remarks": self.remarks, "detection_limit": self.detection_limit}
        plain["gates"] = self.gates.to_json()
        absent = {"maps"} if not self.maps else set()
        absent |= {"drift_mean"} if self.drift_mean is None else set()
        return {key: value for key, value in plain.items() if key not in absent}


@dataclass(frozen=True)
class NodeError:
    """One node: its output's relative L2 from PyTorch's, and what of it the node's own inputs did not bring."""

    name: str
    operator: str
    relative_l2: float
    own: float
    share: float
    """Of the sum of all nodes' own errors."""


@dataclass(frozen=True)
class Bisection:
    """Every compared node in the order of computation, and the first whose error jumps."""

    first_bad: NodeError | None
    layers: tuple[NodeError, ...]

    def to_text(self) -> str:
        """One sentence."""
        if self.first_bad is None:
            return f"no node's error jumps ({len(self.layers)} compared)"
        bad = self.first_bad
        return (
            f"the error jumps at node `{bad.name}` ({bad.operator}): relative L2 {bad.relative_l2:.2g}, "
            f"of which {bad.own:.2g} is its own, {bad.share:.0%} of the total of {len(self.layers)} compared nodes"
        )


@dataclass(frozen=True)
class FileReport:
    """One file of the bundle, run by one provider of ONNX Runtime or by TensorRT."""

    name: str
    precision: Precision
    provider: str
    parity: Parity
    bisection: Bisection | None = None
    speeds: tuple[Speed, ...] = ()
    """At each batch size that it was timed at here, the smallest first."""

    @property
    def times_fp32(self) -> float | None:
        """Its throughput here over fp32's, at the batch size that the bundle is tuned for; none of fp32 itself."""
        is_fp32 = self.precision == "fp32" and self.provider == "CPUExecutionProvider"
        return self.speeds[-1].times_fp32 if self.speeds and not is_fp32 else None

    @property
    def is_slower(self) -> bool:
        """Whether it is slower than fp32 by more than its timing tells."""
        return self.times_fp32 is not None and self.times_fp32 < SLOWER

    @property
    def verdict_with_speed(self) -> str:
        """``passed; 2.6 x fp32 here``; what is slower is called so."""
        if self.times_fp32 is None:
            return self.parity.verdict
        slower = ", which is slower" if self.is_slower else ""
        return f"{self.parity.verdict}; {self.times_fp32:.2g} x fp32 here{slower}"

    @property
    def is_engine(self) -> bool:
        """A TensorRT plan, not an ONNX file."""
        return self.name.endswith(".engine")

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers."""
        about = {"name": self.name, "precision": self.precision, "provider": self.provider}
        found = {} if self.bisection is None else {"bisection": asdict(self.bisection)}
        speeds = {"speeds": [speed.model_dump(mode="json") for speed in self.speeds]} if self.speeds else {}
        return about | self.parity.to_json() | found | speeds

    @classmethod
    def from_json(cls, entry: Any) -> "FileReport":
        """The report that ``to_json`` wrote; keys that it does not know are passed over.

        Raises:
            ValidationError: A field is missing, or of another type.
        """
        flat = dict(entry) if isinstance(entry, dict) else {}
        return _FILE_REPORT.validate_python(flat | {"parity": flat})


@dataclass(frozen=True)
class Report:
    """A bundle and the verdict on each of its files: what ``byolt export`` and ``byolt verify`` print."""

    path: Path
    files: tuple[FileReport, ...]

    @property
    def verdict(self) -> Verdict:
        """``failed`` if any file failed; ``passed`` if something passed and nothing failed; else ``not run here``.

        What could not run here keeps its own ``not run here``: engines where there is no GPU, ONNX files on a device
        that has no ONNX Runtime and proves its engines.
        """
        if any(file.parity.verdict == "failed" for file in self.files):
            return "failed"
        return "passed" if self.passed else "not run here"

    @property
    def passed(self) -> set[str]:
        """Names of the files that passed somewhere."""
        return {file.name for file in self.files if file.parity.verdict == "passed"}

    @property
    def reason(self) -> str:
        """Why it did not pass, in one line; empty when it did."""
        found = [f"{f.name} ({f.provider}): {reason}" for f in self.files for reason in f.parity.reasons]
        return "" if self.verdict == "passed" else "; ".join(found)

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers; the bundle's place is not part of it."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "files": [file.to_json() for file in self.files],
        }


_FILE_REPORT = TypeAdapter(FileReport)


class _Judged(BaseModel, strict=True):
    """Of a file in ``parity.json`` what a later proof needs."""

    name: str
    gates: dict[str, FiniteFloat]


_JUDGED = TypeAdapter(list[_Judged])


def read_report(folder: Path, manifest: Manifest) -> Report:
    """What ``parity.json`` of a bundle says was measured where the bundle was made.

    Raises:
        InputError: The file is missing, is not the one that the manifest names, or does not fit.
    """
    return Report(folder, _listed(folder, manifest, lambda files: tuple(map(FileReport.from_json, files))))


def read_gates(folder: Path, manifest: Manifest) -> dict[str, dict[str, float]]:
    """The gates that ``parity.json`` says each file of the manifest was judged by when it was made.

    Raises:
        InputError: As of ``read_report``, or a file of the manifest is not listed, or twice.
    """
    judged = _listed(folder, manifest, _JUDGED.validate_python)
    names, known = [entry.name for entry in judged], {field.name for field in fields(Gates)}
    for file in manifest.files:
        if names.count(file.name) != 1:
            raise InputError(f"{folder / PARITY} does not list {file.name} once: export it again")
    return {entry.name: {name: limit for name, limit in entry.gates.items() if name in known} for entry in judged}


def _listed(folder: Path, manifest: Manifest, read: Callable[[Any], _Read]) -> _Read:
    """What is read of the list of files."""
    path = open_file(folder, PARITY, manifest.parity_sha256)
    if path.stat().st_size > _PARITY_BYTES:
        raise InputError(f"{path} is larger than it may be ({_PARITY_BYTES // 2**20} MiB): export it again")
    try:
        return read(json.loads(path.read_text("utf-8"))["files"])
    except ValidationError as error:
        raise InputError(f"{path} does not fit: {first_fault(error)}; export it again") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} does not fit: it lists no files; export it again") from error
