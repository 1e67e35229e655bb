"""Is it the same function? Measures, gates and the verdict on arrays of outputs; numpy alone.

Axes: N images, D output features, B batch. ``reference`` is PyTorch's output, ``candidate`` a delivered file's.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from byolt_export.errors import ByoltError

Outputs = npt.NDArray[np.float32]
Images = npt.NDArray[np.uint8]
Run = Callable[[Images], Outputs]
Verdict = Literal["passed", "failed", "not run here"]

CONTROLS = ("swapped_channels", "no_normalisation", "perturbed_kernel", "reinitialised", "shuffled_rows")
QUERIES, GALLERY = 1_000, 10_000
# Neighbours closer together than this in cosine are one rank: float32 embeddings cannot tell them apart.
_TIE = 1e-6
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Gates:
    """What outputs must keep to pass: one upper limit, the rest lower limits."""

    relative_l2_worst: float
    centred_cosine_worst: float
    overlap_at_1: float
    overlap_at_10: float
    top_1_agreement: float


# Limits for trained weights on real images. fp32 leaves room for another order of summation alone (measured: 1e-6 to
# 5e-5); fp16 is ten times what its rounding costs (measured: 5e-4 to 9e-4), and well below one wrong layer.
GATES: Mapping[str, Gates] = {
    "fp32": Gates(1e-4, 0.99999, 0.99, 0.99, 0.99),
    "fp16": Gates(5e-3, 0.9999, 0.98, 0.98, 0.98),
}


@dataclass(frozen=True)
class Measures:
    """How far a candidate is from its reference; ``None`` where a measure has no meaning for the data."""

    images: int
    finite: bool
    relative_l2_mean: float
    relative_l2_worst: float
    worst_image: int
    centred_cosine_mean: float
    centred_cosine_worst: float
    overlap_at_1: float | None
    overlap_at_10: float | None
    top_1_agreement: float | None


@dataclass(frozen=True)
class BatchCheck:
    """All golden images in batches of exactly ``batch``: against the reference, and against batch 1."""

    batch: int
    relative_l2_worst: float | None
    from_batch_1_worst: float | None
    fault: str = ""


@dataclass(frozen=True)
class Control:
    """The candidate against the outputs of a deliberately wrong model, which must fail the gate."""

    name: str
    state: Literal["fails", "not noticed", "not applicable"]
    relative_l2_worst: float | None = None


@dataclass(frozen=True)
class Parity:
    """One file, run by one provider, against the PyTorch model; ``reasons`` is empty when it passed."""

    verdict: Verdict
    reasons: tuple[str, ...]
    gates: Gates
    golden: Measures | None = None
    gallery: Measures | None = None
    batches: tuple[BatchCheck, ...] = ()
    controls: tuple[Control, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers."""
        return asdict(self)


def relative_l2(reference: Outputs, candidate: Outputs) -> npt.NDArray[np.float64]:
    """``|c - r| / |r|`` a row, (N,), in float64."""
    r, c = reference.astype(np.float64), candidate.astype(np.float64)
    error: npt.NDArray[np.float64] = np.linalg.norm(c - r, axis=1) / np.maximum(np.linalg.norm(r, axis=1), _TINY)
    return error


def centred_cosine(reference: Outputs, candidate: Outputs) -> npt.NDArray[np.float64]:
    """Cosine a row, (N,), after the reference's mean over N was taken off both.

    Embeddings share a large mean, so the plain cosine of two different images is already high.
    Two rows that are both the mean agree: 1.
    """
    mean = reference.mean(axis=0, dtype=np.float64)
    r, c = reference - mean, candidate - mean
    r_norm, c_norm = np.linalg.norm(r, axis=1), np.linalg.norm(c, axis=1)
    cosine: npt.NDArray[np.float64] = (r * c).sum(axis=1) / np.maximum(r_norm * c_norm, _TINY)
    return np.where((r_norm == 0) & (c_norm == 0), 1.0, cosine)


def neighbour_overlap(reference: Outputs, candidate: Outputs, k: int) -> float | None:
    """Share of the candidate's k nearest neighbours that are nearest neighbours of the reference too.

    Neighbours by cosine among the first 10,000 rows, for up to 1,000 queries spread evenly over them, each query left
    out of its own neighbours. A neighbour as near as the reference's k-th, to 1e-6, counts: the order of ties says
    nothing. ``None`` when a query has no more than k others, for then every neighbour agrees.
    """
    rows = min(len(reference), GALLERY)
    if rows - 1 <= k:
        return None
    queries = np.arange(min(rows, QUERIES)) * rows // min(rows, QUERIES)
    expected = _similarities(reference[:rows], queries)
    kth = np.partition(expected, -k, axis=1)[:, -k, None]
    found = np.argpartition(_similarities(candidate[:rows], queries), -k, axis=1)[:, -k:]
    return float((np.take_along_axis(expected, found, axis=1) >= kth - _TIE).mean())


def _similarities(outputs: Outputs, queries: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Cosines (Q, N) of the queries with every row; -inf with themselves."""
    rows = outputs.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY)
    cosines: npt.NDArray[np.float64] = rows[queries] @ rows.T
    cosines[np.arange(len(queries)), queries] = -np.inf
    return cosines


def top_1_agreement(reference: Outputs, candidate: Outputs) -> float:
    """Share of rows whose largest candidate logit is (one of) the reference's largest."""
    chosen = np.take_along_axis(reference, candidate.argmax(axis=1)[:, None], axis=1)[:, 0]
    return float((chosen == reference.max(axis=1)).mean())


def measure(reference: Outputs, candidate: Outputs, *, logits: bool = False) -> Measures:
    """Every measure of candidate (N, D) against reference (N, D); neighbours of an embedding, top-1 of logits."""
    finite = bool(np.isfinite(candidate).all())
    # A NaN must not hide the worst image or reach the JSON file; `finite` alone decides then.
    candidate = np.nan_to_num(candidate, nan=0.0, posinf=0.0, neginf=0.0)
    error, cosine = relative_l2(reference, candidate), centred_cosine(reference, candidate)
    return Measures(
        images=len(reference),
        finite=finite,
        relative_l2_mean=float(error.mean()),
        relative_l2_worst=float(error.max()),
        worst_image=int(error.argmax()),
        centred_cosine_mean=float(cosine.mean()),
        centred_cosine_worst=float(cosine.min()),
        overlap_at_1=None if logits else neighbour_overlap(reference, candidate, 1),
        overlap_at_10=None if logits else neighbour_overlap(reference, candidate, 10),
        top_1_agreement=top_1_agreement(reference, candidate) if logits else None,
    )


def faults(measures: Measures, gates: Gates) -> list[str]:
    """What in the measures breaks the gates, one phrase each; empty when all is kept."""
    found = [] if measures.finite else ["outputs are not finite"]
    if measures.relative_l2_worst > gates.relative_l2_worst:
        found.append(
            f"relative L2 {measures.relative_l2_worst:.2g} of image {measures.worst_image} "
            f"is above {gates.relative_l2_worst:.2g}"
        )
    for name in ("centred_cosine_worst", "overlap_at_1", "overlap_at_10", "top_1_agreement"):
        value, limit = getattr(measures, name), getattr(gates, name)
        if value is not None and value < limit:
            found.append(f"{name.replace('_', ' ')} {value:.6g} is below {limit:.6g}")
    return found


def tighten(gates: Gates, asked: Mapping[str, float]) -> Gates:
    """The stricter of the built-in and the asked limit, name by name: what is asked can never loosen a gate."""
    stricter = {
        name: min(limit, getattr(gates, name)) if name == "relative_l2_worst" else max(limit, getattr(gates, name))
        for name, limit in asked.items()
    }
    return replace(gates, **stricter)


def prove(
    run: Run,
    images: Images,
    reference: Outputs,
    controls: Mapping[str, Outputs | None],
    *,
    gates: Gates,
    max_batch: int,
    logits: bool,
    gallery: tuple[Images, Outputs] | None = None,
) -> Parity:
    """Run a delivered file on the golden images and judge it.

    It passes when the golden outputs (and the gallery's) keep the gates, every batch size among 1, 2, 7 and
    ``max_batch`` gives the reference's and batch 1's outputs, and every negative control fails the gates.

    Args:
        run: The file: uint8 images (B, H, W, 3), B up to ``max_batch``, to float32 outputs (B, D).
        images: Golden images, uint8 (N, H, W, 3).
        reference: PyTorch outputs of them, (N, D).
        controls: Outputs (N, D) of deliberately wrong models by name; ``None`` where one has no meaning for the data.
        gates: The limits.
        max_batch: Largest batch that the file is stated for.
        logits: Whether the outputs are class scores, not an embedding.
        gallery: More images and their PyTorch outputs, for neighbours in a crowd.
    """
    batches, candidate = _check_batches(run, images, reference, max_batch)
    reasons = [f"at batch {check.batch}, {fault}" for check in batches for fault in _batch_faults(check, gates)]
    if candidate is None:
        return Parity("failed", tuple(reasons), gates, batches=batches)
    golden = measure(reference, candidate, logits=logits)
    reasons = [*faults(golden, gates), *reasons]
    crowd = None
    if gallery is not None and not any(check.fault for check in batches):
        crowd = measure(gallery[1], _run_filled(run, gallery[0], max_batch)[0][: len(gallery[0])], logits=logits)
        reasons += [f"in the gallery, {fault}" for fault in faults(crowd, gates)]
    judged = tuple(_judge(name, wrong, candidate, gates, logits) for name, wrong in controls.items())
    reasons += [f"the wrong model `{c.name}` was not noticed" for c in judged if c.state == "not noticed"]
    return Parity("failed" if reasons else "passed", tuple(reasons), gates, golden, crowd, batches, judged)


def batch_sizes(max_batch: int) -> list[int]:
    """The batch sizes that parity is checked at: one, two, an odd one, and the maximum."""
    return sorted({size for size in (1, 2, 7, max_batch) if size <= max_batch})


def _run_filled(run: Run, images: Images, batch: int) -> tuple[Outputs, npt.NDArray[np.intp]]:
    """Outputs in calls of exactly ``batch`` rows, the last filled up from the start, and which image each row is."""
    rows = np.arange(-(-len(images) // batch) * batch) % len(images)
    return np.concatenate([run(images[part]) for part in rows.reshape(-1, batch)]), rows


def _check_batches(
    run: Run, images: Images, reference: Outputs, max_batch: int
) -> tuple[tuple[BatchCheck, ...], Outputs | None]:
    """A check for each batch size, and the outputs at the largest that ran."""
    checks, alone, outputs = [], None, None
    for batch in batch_sizes(max_batch):
        try:
            result, rows = _run_filled(run, images, batch)
            if result.shape[1] != reference.shape[1]:
                raise ByoltError(f"the output is {result.shape[1]} wide, the reference {reference.shape[1]}")
        except ByoltError as error:  # What does not run is a verdict on the file, not an accident of ours.
            checks.append(BatchCheck(batch, None, None, str(error)))
            continue
        outputs = result[: len(images)]
        alone = outputs if batch == 1 else alone
        filled = np.nan_to_num(result, nan=0.0, posinf=0.0, neginf=0.0)
        worst = float(relative_l2(reference[rows], filled).max())
        single = None if alone is None else float(relative_l2(np.nan_to_num(alone)[rows], filled).max())
        checks.append(BatchCheck(batch, worst, single))
    return tuple(checks), outputs


def _batch_faults(check: BatchCheck, gates: Gates) -> list[str]:
    if check.fault:
        return [check.fault]
    limit = gates.relative_l2_worst
    found = [("the reference", check.relative_l2_worst), ("batch 1", check.from_batch_1_worst)]
    return [
        f"relative L2 {worst:.2g} from {name} is above {limit:.2g}"
        for name, worst in found
        if worst is not None and worst > limit
    ]


def _judge(name: str, wrong: Outputs | None, candidate: Outputs, gates: Gates, logits: bool) -> Control:
    if wrong is None:
        return Control(name, "not applicable")
    measures = measure(wrong, candidate, logits=logits)
    return Control(name, "fails" if faults(measures, gates) else "not noticed", measures.relative_l2_worst)
