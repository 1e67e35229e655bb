"""Is it the same function? Gates, negative controls and the verdict on a delivered file; numpy alone.

Axes: N images, D output features, B batch. ``reference`` is PyTorch's output, ``candidate`` a delivered file's.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from byolt_export.arrays import Function, Images, Maps, Outputs
from byolt_export.bundle.golden import PERTURBATIONS, GoldenVectors
from byolt_export.bundle.manifest import Gates, Verdict
from byolt_export.errors import ByoltError
from byolt_export.proof.gates import distances, faults
from byolt_export.proof.measures import measure, relative_l2, spread
from byolt_export.proof.report import BatchCheck, Control, MapCheck, Measures, Parity
from byolt_export.proof.task import Gallery, measure_task

_LITTLE_SPREAD = 0.1
"""Below it an error that a precision allows can be a large part of what tells two images apart; an encoder that has
learned something has 0.3 and more."""


def prove(
    run: Function,
    golden: GoldenVectors,
    *,
    gates: Gates,
    batches: tuple[int, ...],
    logits: bool,
    gallery: Gallery | None = None,
) -> Parity:
    """Function a delivered file on the golden images and judge it.

    It passes when the golden outputs (and the gallery's) keep the gates, every batch size gives the reference's and
    batch 1's outputs, the task is served no worse, and every negative control fails the gates.

    Args:
        run: The file: uint8 images (B, H, W, 3), B up to the largest of ``batches``, to float32 outputs (B, D).
        golden: Images, PyTorch's outputs of them, and those of deliberately wrong models.
        gates: The limits.
        batches: Batch sizes to prove it at, the smallest first; ``batch_sizes`` gives them.
        logits: Whether the outputs are class scores, not an embedding.
        gallery: More images and their PyTorch outputs, for neighbours among many and for the task.
    """
    checks, candidate = _check_batches(run, golden.images, golden.reference, batches)
    reasons = [f"at batch {check.batch}, {fault}" for check in checks for fault in _batch_faults(check, gates)]
    if candidate is None:
        return Parity("failed", tuple(reasons), gates, batches=checks)
    measured = measure(golden.reference, candidate, logits=logits)
    distance_faults = [*reasons, *distances(measured, gates)]
    reasons = [*faults(measured, gates), *reasons]
    among_many = task = None
    if gallery is not None and not any(check.fault for check in checks):
        outputs = _run_filled(run, gallery.images, batches[-1])[: len(gallery.images)]
        among_many = measure(gallery.reference, outputs, logits=logits)
        distance_faults += distances(among_many, gates)
        reasons += [f"in the gallery, {fault}" for fault in faults(among_many, gates)]
        if gallery.queries is not None:
            queries = _run_filled(run, gallery.queries, batches[-1])[: len(gallery.queries)]
            task = measure_task(gallery, outputs, queries)
        if task is not None and task.verdict == "worse":
            reasons.append(
                f"kNN accuracy changes by {task.knn_difference:+.2%}, and all of its 95 % interval down to "
                f"{task.knn_interval_95[0]:+.2%} is a loss that reaches beyond the margin of {task.margin:.0%}"
            )
    judged = tuple(_judge(name, wrong, candidate, gates, logits) for name, wrong in golden.controls.items())
    reasons += control_faults(judged)
    if reasons and not distance_faults:
        reasons = [*_of_the_model(golden.reference, measured), *reasons]
    return Parity("failed" if reasons else "passed", tuple(reasons), gates, measured, among_many, task, checks, judged)


def judge_maps(parity: Parity, maps_of: Callable[[Images], Maps], golden: GoldenVectors, batch: int) -> Parity:
    """The same verdict, or a failed one where a map itself is further from PyTorch's than the gates allow.

    What is averaged over the places of a map does not tell where in it things stand: a transposed map has that mean.

    Args:
        parity: Of ``prove``, which judged the pooled maps.
        maps_of: The file: images (B, H, W, 3) to its outputs by name.
        golden: Its ``maps`` are PyTorch's of the first images.
        batch: Images of one call.
    """
    if not golden.maps or parity.golden is None:
        return parity
    shown = golden.images[: len(next(iter(golden.maps.values())))]
    found = [maps_of(shown[start : start + batch]) for start in range(0, len(shown), batch)]
    checks, reasons = [], []
    for name, reference in golden.maps.items():
        flat = np.nan_to_num(np.concatenate([part[name] for part in found]), nan=0.0, posinf=0.0, neginf=0.0)
        error = relative_l2(reference.reshape(len(shown), -1), flat.reshape(len(shown), -1))
        checks.append(MapCheck(name, len(shown), float(error.mean()), float(error.max())))
        if error.max() > parity.gates.relative_l2_worst_max:
            reasons.append(
                f"relative L2 {error.max():.2g} of output `{name}` of image {error.argmax()} is above "
                f"{parity.gates.relative_l2_worst_max:.2g}"
            )
    verdict: Verdict = "failed" if reasons else parity.verdict
    return replace(parity, verdict=verdict, reasons=(*parity.reasons, *reasons), maps=tuple(checks))


def _of_the_model(reference: Outputs, measured: Measures) -> list[str]:
    """What to say first of a file that errs by no more than its precision may, where the model tells little apart."""
    apart = spread(reference)
    if apart >= _LITTLE_SPREAD:
        return []
    return [
        f"the model is at fault and not the file, which errs by {measured.relative_l2_worst:.2g} of an output's length "
        f"at most: by PyTorch too the outputs of different images lie only {apart:.2g} of their length apart "
        "(collapsed, or BatchNorm statistics that lag behind the weights), so that nothing could be proven of any file"
    ]


def control_faults(controls: Sequence[Control]) -> list[str]:
    """What is to be said of wrong models that passed for right."""
    return [
        f"the wrong model `{control.name}` was not noticed" for control in controls if control.state == "not noticed"
    ]


def batch_sizes(opt_batch: int, max_batch: int) -> tuple[int, ...]:
    """The batch sizes that parity is checked at: one, two, an odd one, the optimum, and the maximum."""
    return tuple(sorted({size for size in (1, 2, 7, opt_batch, max_batch) if size <= max_batch}))


def _run_filled(run: Function, images: Images, batch: int) -> Outputs:
    """Outputs in calls of exactly ``batch`` rows, the last filled up from the start: row n is image n modulo N."""
    rows = np.arange(-(-len(images) // batch) * batch) % len(images)
    return np.concatenate([run(images[part]) for part in rows.reshape(-1, batch)])


def _check_batches(
    run: Function, images: Images, reference: Outputs, batches: tuple[int, ...]
) -> tuple[tuple[BatchCheck, ...], Outputs | None]:
    """A check for each batch size, and the outputs at the largest that ran."""
    checks, alone, outputs = [], None, None
    for batch in batches:
        try:
            result = _run_filled(run, images, batch)
            if result.shape[1] != reference.shape[1]:
                raise ByoltError(f"the output is {result.shape[1]} wide, the reference {reference.shape[1]}")
        except ByoltError as error:  # What does not run is a verdict on the file, not an accident of ours.
            checks.append(BatchCheck(batch, None, None, str(error)))
            continue
        outputs = result[: len(images)]
        alone = outputs if batch == 1 else alone
        filled = np.nan_to_num(result, nan=0.0, posinf=0.0, neginf=0.0)
        worst = float(relative_l2(reference, filled).max())
        single = None if alone is None else float(relative_l2(np.nan_to_num(alone), filled).max())
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
