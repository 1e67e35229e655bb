"""What ``manifest.json`` says: the contract of input and output, each delivered file, how it was made and judged."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Field,
    PositiveInt,
    ValidationError,
    model_serializer,
    model_validator,
)

from byolt_export.bundle.image_input import BATCH_BYTES, Batch, Input, ManifestSection
from byolt_export.errors import quoted
from byolt_export.wording import fault_in_words

CONTRACT_KEY = "byolt.contract"  # Where an ONNX file repeats the manifest's contract in its metadata_props.
OPSET = 18  # Of fp32 and fp16: the lowest that torch's exporter really writes, and one that TensorRT 8.6 to 11 read.
NOT_MADE = "0" * 64  # In place of the digest of a file that could not be made: its entry says why.
MOST_SPEEDS = 1024
LEAST_NAMED = 0.5
"""Share of the multiply-adds in the precision that a file is named for, at least; the rest would have cost too much."""

# No way out of the folder.
OnnxName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,90}\.onnx$")]
EngineName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,90}\.engine$")]
OutputName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,60}$")]
Precision = Literal["fp32", "fp16", "int8"]
SpeedRuntime = Literal["cpu", "openvino", "cuda", "tensorrt"]
Placement = Literal["tensorrt", "cpu", "openvino"]
Verdict = Literal["passed", "failed", "not run here"]
Share = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Features(ManifestSection):
    """One output by name, float32: ``shape`` of an image's is (C, H, W) of a map, (tokens, C), or (C,)."""

    name: OutputName
    shape: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=3)]

    @property
    def channels(self) -> int:
        """C."""
        return self.shape[-1] if len(self.shape) == 2 else self.shape[0]


class Output(ManifestSection):
    """What comes out, (B, dim) float32; ``normalized``: divided by its Euclidean norm.

    Of ``features`` each of ``maps`` comes out by its own name, and ``dim`` is the sum of their channels: the width of
    the pooled maps in a row, which the file is judged by.
    """

    name: Literal["embedding", "logits", "features"]
    dim: PositiveInt
    normalized: bool
    maps: Annotated[tuple[Features, ...], Field(max_length=64)] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What the files call their outputs, in order."""
        return tuple(features.name for features in self.maps) or (self.name,)

    @model_validator(mode="after")
    def _maps_are_features(self) -> "Output":
        if (self.name == "features") != bool(self.maps):
            raise ValueError("maps go with features, and features need them")
        if self.maps and (self.normalized or self.dim != sum(features.channels for features in self.maps)):
            raise ValueError("dim of features is the sum of the maps' channels, and they are not normalized")
        if len(set(self.names)) != len(self.names):
            raise ValueError("an output's name stands twice")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, write: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without ``maps`` where there are none: readers of embeddings and logits know no more."""
        return {key: value for key, value in write(self).items() if key != "maps" or value}


class Contract(ManifestSection):
    """What the device has to know. It stands in the manifest and, as JSON, inside each ONNX file."""

    input: Input
    output: Output
    classes: tuple[str, ...]
    recipe_hash: str

    @model_validator(mode="after")
    def _classes_are_logits(self) -> "Contract":
        values = sum(math.prod(features.shape) for features in self.output.maps)
        if self.input.max_batch * values * 4 > BATCH_BYTES:
            raise ValueError(f"the outputs of max_batch {self.input.max_batch} images are more than 1 GiB")
        if (self.output.name == "logits") != bool(self.classes):
            raise ValueError("classes go with logits, and logits need them")
        if self.classes and len(self.classes) != self.output.dim:
            raise ValueError(f"{len(self.classes)} classes for {self.output.dim} logits")
        return self


class Calibration(ManifestSection):
    """How the INT8 scales were found: on which images, by which rule, and what stayed in FP16."""

    images: PositiveInt
    source: str
    sha256: Sha256
    rule: str
    int8_share: Share
    fp16_layers: tuple[str, ...]


@dataclass(frozen=True)
class Gates:
    """What outputs must keep to pass. Names that end in ``_max`` are upper limits, the rest lower limits."""

    relative_l2_mean_max: float
    relative_l2_worst_max: float
    centred_cosine_worst: float
    overlap_at_1: float
    overlap_at_10: float
    top_1_agreement: float
    unnoticed_perturbation_max: float
    """Noise on the largest kernel that may go unnoticed: the detection limit is reported, and no larger than this."""
    drift_mean_max: float = math.inf
    """Of an int8 file, run by ONNX Runtime on a CPU as when it was made: mean relative L2 from what it gave then."""

    def to_json(self) -> dict[str, float]:
        """By name, but for a limit that there is none of."""
        return {name: limit for name, limit in asdict(self).items() if math.isfinite(limit)}


def _older_placement(entry: dict[str, Any]) -> Placement | None:
    """Of an entry that tells none, as before schema version 3."""
    return "tensorrt" if entry.get("precision") == "int8" else None


class Onnx(ManifestSection):
    """A delivered ONNX file, with the verdict of the machine that made it.

    ``shares`` are those of its multiply-adds by type, counted when it was made; schema version 1 has none.
    ``placement`` is the engine that an int8 file's Q/DQ are placed for, and none in other precisions; it came with
    schema version 3, and what is older is for TensorRT.
    """

    name: OnnxName
    precision: Precision
    placement: Placement | None = Field(default_factory=_older_placement)
    opset: PositiveInt
    sha256: Sha256
    verdict: Verdict
    reason: str
    gates: dict[str, float]
    calibration: Calibration | None = None
    shares: dict[Precision, Share] | None = None

    @property
    def is_made(self) -> bool:
        """Whether there is such a file at all."""
        return self.sha256 != NOT_MADE or self.verdict != "failed"

    @property
    def becomes_engines(self) -> bool:
        """Whether TensorRT builds engines from it: it refuses the zero points of an int8 file for a CPU."""
        return self.placement in (None, "tensorrt")

    @model_validator(mode="after")
    def _int8_is_placed(self) -> "Onnx":
        if (self.placement is not None) != (self.precision == "int8"):
            raise ValueError(f"a placement goes with int8, and int8 with one: this file is {self.precision}")
        return self

    @model_validator(mode="after")
    def _gates_are_known(self) -> "Onnx":
        if unknown := set(self.gates) - {field.name for field in fields(Gates)}:
            raise ValueError(f"gates {sorted(unknown)} are not known")
        return self


class Speed(ManifestSection):
    """How fast a file ran on one machine.

    ``threads`` are those of the CPU that one call may use, ``batch`` the images of a call. ``times_fp32`` is its
    throughput over that of the fp32 file in ONNX Runtime on the same processor, in rounds of the same run that took
    turns; none where that file did not run.
    """

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,90}\.(onnx|engine)$")]
    runtime: SpeedRuntime
    processor: Annotated[str, Field(pattern=r"^[ -~]{1,200}$")]
    threads: PositiveInt
    batch: Batch
    images_per_s: Annotated[float, Field(gt=0)]
    times_fp32: Annotated[float, Field(gt=0)] | None


class Profile(ManifestSection):
    """Batch sizes that an engine takes, and the one it is tuned for."""

    min_batch: Batch
    opt_batch: Batch
    max_batch: Batch


class Engine(ManifestSection):
    """A delivered TensorRT plan: what it was built from, by what, for which GPUs, and whether it was proven here."""

    name: EngineName
    precision: Precision
    onnx: OnnxName
    onnx_sha256: Sha256
    flavour: Literal["tensorrt", "tensorrt_rtx"]
    version: Word
    target: Word
    compute_capabilities: Annotated[tuple[PositiveInt, ...], Field(max_length=16)]
    profile: Profile
    workspace_mib: PositiveInt
    sha256: Sha256
    verdict: Verdict
    reason: str


class Golden(ManifestSection):
    """``kind`` says whether images of the user's travel in the bundle."""

    kind: Literal["dataset", "synthetic"]
    images: Annotated[int, Field(ge=8)]
    sha256: Sha256


class Manifest(ManifestSection):
    """All of ``manifest.json``."""

    schema_version: Literal[1, 2, 3] = 1
    contract: Contract
    files: Annotated[tuple[Onnx, ...], Field(min_length=1, max_length=16)]
    engines: Annotated[tuple[Engine, ...], Field(max_length=64)] = ()
    golden: Golden
    parity_sha256: Sha256
    tools: dict[str, str]
    speeds: Annotated[tuple[Speed, ...], Field(max_length=MOST_SPEEDS)] = ()

    @model_validator(mode="after")
    def _later_keys_have_their_version(self) -> "Manifest":
        if any((file.shares is not None) != (self.schema_version > 1) for file in self.files):
            raise ValueError("every file has `shares` from schema version 2 on, and none has them in version 1")
        if self.schema_version < 3 and not all(file.becomes_engines for file in self.files):
            raise ValueError("placement came with schema version 3")
        if self.schema_version < 3 and self.speeds:
            raise ValueError("speeds came with schema version 3")
        if self.schema_version == 1 and not self.contract.input.is_plain:
            raise ValueError("channels and bit_depth came with schema version 2")
        return self


def precision_fault(
    precision: Precision, shares: Mapping[Precision, float] | None, placement: Placement | None = None
) -> str:
    """Why a file does not compute in the precision it is named for; empty where it does, or where no shares are told.

    Args:
        precision: What the file is named for. What an fp16 file loses too much by is kept in fp32.
        shares: Its multiply-adds by type, as ``Onnx`` has them.
        placement: The engine that an int8 file is for. What is kept of it is fp16 for TensorRT, and fp32 for a CPU.
    """
    if shares is None:
        return ""
    kept: Precision = "fp32" if precision != "int8" or placement in ("cpu", "openvino") else "fp16"
    least = 1 if precision == "fp32" else LEAST_NAMED
    others = [share for name, share in shares.items() if name not in (precision, kept)]
    right = shares.get(precision, 0) >= least and not any(others)
    found = ", ".join(f"{shares[name]:.0%} in {name}" for name in get_args(Precision) if shares.get(name))
    return "" if right else f"it is named {precision}, and it multiplies {found or 'in no known type'}"


def first_fault(error: ValidationError) -> str:
    """One fault of a contract or manifest, as ``where: what``; both may repeat words of the file."""
    # Another schema version explains every other fault.
    faults = sorted(error.errors(include_url=False), key=lambda fault: fault["loc"] != ("schema_version",))
    where = ".".join(map(str, faults[0]["loc"])) or "the file"
    return quoted(f"{where}: {fault_in_words(faults[0])}")
