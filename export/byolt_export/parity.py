"""Is it the same function? Gates, negative controls and the verdict on a delivered file; numpy alone.

Axes: N images, D output features, B batch. ``reference`` is PyTorch's output, ``candidate`` a delivered file's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from byolt_export.errors import ByoltError
from byolt_export.measures import Crowd, Images, Measures, Outputs, Task, measure, measure_task, relative_l2

Run = Callable[[Images], Outputs]
Verdict = Literal["passed", "failed", "not run here"]

# Noise on the largest kernel, as a share of its standard deviation.
PERTURBATIONS = {
    "perturbed_kernel": 0.05,
    "perturbed_kernel_10": 0.1,
    "perturbed_kernel_20": 0.2,
    "perturbed_kernel_40": 0.4,
    "perturbed_kernel_80": 0.8,
}
CONTROLS = ("swapped_channels", "no_normalisation", *PERTURBATIONS, "reinitialised", "shuffled_rows")


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


# Limits for trained weights on real images. fp32 leaves room for another order of summation alone (measured: 1e-6 to
# 5e-5); fp16 is ten times what its rounding costs (measured: 5e-4 to 9e-4), and well below one wrong layer. INT8 has
# 256 levels a tensor: what it must keep is the neighbours; each export tightens the distances to what it measured.
GATES: Mapping[str, Gates] = {
    "fp32": Gates(1e-4, 1e-4, 0.99999, 0.99, 0.99, 0.99, 0.0),
    "fp16": Gates(5e-3, 5e-3, 0.9999, 0.98, 0.98, 0.98, 0.0),
    "int8": Gates(0.05, 0.25, 0.9, 0.95, 0.95, 0.97, 0.4),
}


@dataclass(frozen=True)
class BatchCheck:
    """All golden images in batches of exactly ``batch``: against the reference, and against batch 1."""

    batch: int
    relative_l2_worst: float | None
    from_batch_1_worst: float | None
    fault: str = ""


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

    @property
    def detection_limit(self) -> float | None:
        """The least noise on the largest kernel, as a share of its standard deviation, that fails the gate."""
        noticed = {c.name for c in self.controls if c.state == "fails"}
        return min((share for name, share in PERTURBATIONS.items() if name in noticed), default=None)

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers."""
        return asdict(self) | {"detection_limit": self.detection_limit}


def faults(measures: Measures, gates: Gates) -> list[str]:
    """What in the measures breaks the gates, one phrase each; empty when all is kept."""
    found = [] if measures.finite else ["outputs are not finite"]
    if measures.relative_l2_worst > gates.relative_l2_worst_max:
        found.append(
            f"relative L2 {measures.relative_l2_worst:.2g} of image {measures.worst_image} "
            f"is above {gates.relative_l2_worst_max:.2g}"
        )
    if measures.relative_l2_mean > gates.relative_l2_mean_max:
        found.append(f"mean relative L2 {measures.relative_l2_mean:.2g} is above {gates.relative_l2_mean_max:.2g}")
    for name in ("centred_cosine_worst", "overlap_at_1", "overlap_at_10", "top_1_agreement"):
        value, limit = getattr(measures, name), getattr(gates, name)
        if value is not None and value < limit:
            found.append(f"{name.replace('_', ' ')} {value:.6g} is below {limit:.6g}")
    return found


def tighten(gates: Gates, asked: Mapping[str, float]) -> Gates:
    """The stricter of the built-in and the asked limit, name by name: what is asked can never loosen a gate."""
    stricter = {
        name: (min if name.endswith("_max") else max)(limit, getattr(gates, name)) for name, limit in asked.items()
    }
    return replace(gates, **stricter)


def prove(
    run: Run,
    images: Images,
    reference: Outputs,
    controls: Mapping[str, Outputs | None],
    *,
    gates: Gates,
    batches: tuple[int, ...],
    logits: bool,
    crowd: Crowd | None = None,
    precision_fault: str = "",
) -> Parity:
    """Run a delivered file on the golden images and judge it.

    It passes when the golden outputs (and the crowd's) keep the gates, every batch size gives the reference's and
    batch 1's outputs, the task is served no worse, and every negative control fails the gates.

    Args:
        run: The file: uint8 images (B, H, W, 3), B up to the largest of ``batches``, to float32 outputs (B, D).
        images: Golden images, uint8 (N, H, W, 3).
        reference: PyTorch outputs of them, (N, D).
        controls: Outputs (N, D) of deliberately wrong models by name; ``None`` where one has no meaning for the data.
        gates: The limits.
        batches: Batch sizes to prove it at, the smallest first; ``batch_sizes`` gives them.
        logits: Whether the outputs are class scores, not an embedding.
        crowd: More images and their PyTorch outputs, for neighbours in a crowd and for the task.
        precision_fault: Why the file does not compute in the precision it is named for; empty when it does.
    """
    checks, candidate = _check_batches(run, images, reference, batches)
    reasons = [precision_fault] if precision_fault else []
    reasons += [f"at batch {check.batch}, {fault}" for check in checks for fault in _batch_faults(check, gates)]
    if candidate is None:
        return Parity("failed", tuple(reasons), gates, batches=checks)
    golden = measure(reference, candidate, logits=logits)
    reasons = [*faults(golden, gates), *reasons]
    gallery = task = None
    if crowd is not None and not any(check.fault for check in checks):
        outputs = _run_filled(run, crowd.images, batches[-1])[0][: len(crowd.images)]
        gallery = measure(crowd.reference, outputs, logits=logits)
        reasons += [f"in the gallery, {fault}" for fault in faults(gallery, gates)]
        if crowd.queries is not None:
            task = measure_task(crowd, outputs, _run_filled(run, crowd.queries, batches[-1])[0][: len(crowd.queries)])
        if task is not None and task.verdict == "worse":
            reasons.append(
                f"kNN accuracy changes by {task.knn_difference:+.2%}, and all of its 95 % interval down to "
                f"{task.knn_interval_95[0]:+.2%} is a loss that reaches beyond the margin of {task.margin:.0%}"
            )
    judged = tuple(_judge(name, wrong, candidate, gates, logits) for name, wrong in controls.items())
    reasons += control_faults(judged)
    return Parity("failed" if reasons else "passed", tuple(reasons), gates, golden, gallery, task, checks, judged)


def control_faults(controls: Sequence[Control]) -> list[str]:
    """What is to be said of wrong models that passed for right."""
    return [
        f"the wrong model `{control.name}` was not noticed" for control in controls if control.state == "not noticed"
    ]


def batch_sizes(opt_batch: int, max_batch: int) -> tuple[int, ...]:
    """The batch sizes that parity is checked at: one, two, an odd one, the optimum, and the maximum."""
    return tuple(sorted({size for size in (1, 2, 7, opt_batch, max_batch) if size <= max_batch}))


def _run_filled(run: Run, images: Images, batch: int) -> tuple[Outputs, npt.NDArray[np.intp]]:
    """Outputs in calls of exactly ``batch`` rows, the last filled up from the start, and which image each row is."""
    rows = np.arange(-(-len(images) // batch) * batch) % len(images)
    return np.concatenate([run(images[part]) for part in rows.reshape(-1, batch)]), rows


def _check_batches(
    run: Run, images: Images, reference: Outputs, batches: tuple[int, ...]
) -> tuple[tuple[BatchCheck, ...], Outputs | None]:
    """A check for each batch size, and the outputs at the largest that ran."""
    checks, alone, outputs = [], None, None
    for batch in batches:
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
    limit = gates.relative_l2_worst_max
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
    if faults(measures, gates):
        return Control(name, "fails", measures.relative_l2_worst)
    allowed = PERTURBATIONS.get(name, np.inf) <= gates.unnoticed_perturbation_max
    return Control(name, "below the limit" if allowed else "not noticed", measures.relative_l2_worst)
