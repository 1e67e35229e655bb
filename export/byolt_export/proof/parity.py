"""Is it the same function? Gates, negative controls and the verdict on a delivered file; numpy alone.

Axes: N images, D output features, B batch. ``reference`` is PyTorch's output, ``candidate`` a delivered file's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from byolt_export.arrays import Function, Images, Maps, Outputs
from byolt_export.bundle.golden import PERTURBATIONS, GoldenVectors
from byolt_export.bundle.manifest import Gates, Verdict
from byolt_export.errors import ByoltError
from byolt_export.proof.agreement import SHARES, Agreement, Share, wilson_interval_95
from byolt_export.proof.gates import directions, distances, faults, shares
from byolt_export.proof.measures import QUERIES, measure, relative_l2, spread
from byolt_export.proof.report import BatchCheck, Control, MapCheck, Measures, Parity, Task
from byolt_export.proof.task import Gallery, measure_task

_LITTLE_SPREAD = 0.1
"""Below it an error that a precision allows can be a large part of what tells two images apart; an encoder that has
learned something has 0.3 and more."""


@dataclass(frozen=True)
class FileOutputs:
    """What a file gave, to be judged by any gates: of golden images (N, D), of the gallery, of the task's queries.

    ``golden`` is ``None`` where no batch ran. ``maps`` are of the first golden images alone.
    """

    checks: tuple[BatchCheck, ...]
    golden: Outputs | None
    gallery: Outputs | None = None
    queries: Outputs | None = None
    maps: Maps = field(default_factory=dict)


def prove(
    run: Function,
    golden: GoldenVectors,
    *,
    gates: Gates,
    batches: tuple[int, ...],
    logits: bool,
    gallery: Gallery | None = None,
) -> Parity:
    """Run a delivered file, and judge it: see ``run_file`` and ``judge``."""
    return judge(run_file(run, golden, batches, gallery), golden, gates=gates, logits=logits, gallery=gallery)


def run_file(
    run: Function,
    golden: GoldenVectors,
    batches: tuple[int, ...],
    gallery: Gallery | None = None,
    maps_of: Callable[[Images], Maps] | None = None,
) -> FileOutputs:
    """All that a file is judged by.

    Args:
        run: The file: uint8 images (B, H, W, 3), B up to the largest of ``batches``, to float32 outputs (B, D).
        golden: Images, PyTorch's outputs of them, and those of deliberately wrong models.
        batches: Batch sizes to prove it at, the smallest first; ``batch_sizes`` gives them.
        gallery: More images and their PyTorch outputs, for neighbours among many and for the task.
        maps_of: The file as a function to its outputs by name, where it has maps.
    """
    checks, candidate = _check_batches(run, golden.images, golden.reference, batches)
    if candidate is None:
        return FileOutputs(checks, None)
    maps: Maps = {}
    if golden.maps and maps_of is not None:
        shown = golden.images[: len(next(iter(golden.maps.values())))]
        size = batches[-1]
        found = [maps_of(shown[start : start + size]) for start in range(0, len(shown), size)]
        maps = {name: np.concatenate([part[name] for part in found]) for name in golden.maps}
    if gallery is None or any(check.fault for check in checks):
        return FileOutputs(checks, candidate, maps=maps)

    def outputs_of(images: Images) -> Outputs:
        return run_filled(run, images, batches[-1])[: len(images)]

    queries = None if gallery.queries is None else outputs_of(gallery.queries)
    return FileOutputs(checks, candidate, outputs_of(gallery.images), queries, maps)


def judge(
    ran: FileOutputs,
    golden: GoldenVectors,
    *,
    gates: Gates,
    logits: bool,
    gallery: Gallery | None = None,
    own: Outputs | None = None,
) -> Parity:
    """The verdict on a file by what it gave.

    It passes when the golden outputs keep the gates (and the gallery's, of which neighbours and classes are judged
    together with them, as one set), every batch size gives the reference's and batch 1's outputs, each map is
    PyTorch's at every place, the task is served no worse, and every negative control fails the gates. ``own`` is what
    the file gave before, (N, D), which it may not have drifted from.
    """
    batch_faults = [f"at batch {check.batch}, {fault}" for check in ran.checks for fault in _batch_faults(check, gates)]
    if ran.golden is None:
        return Parity("failed", tuple(batch_faults), gates, batches=ran.checks)
    measured = together = measure(golden.reference, ran.golden, logits=logits)
    among_many, far, near, of = None, distances(measured, gates), directions(measured, gates), ""
    references = [golden.reference]
    if gallery is not None and ran.gallery is not None:
        references.append(gallery.reference)
        among_many = measure(gallery.reference, ran.gallery, logits=logits)
        together = measure(np.concatenate(references), np.concatenate([ran.golden, ran.gallery]), logits=logits)
        far += [f"in the gallery, {fault}" for fault in distances(among_many, gates)]
        near += [f"in the gallery, {fault}" for fault in directions(among_many, gates)]
        of = "of golden images and gallery together, "
    near += [f"{of}{fault}" for fault in shares(together, gates)]
    drift = None if own is None else float(relative_l2(own, np.nan_to_num(ran.golden)).mean())
    far += _drift_faults(drift, gates)
    maps, map_faults = _judge_maps(ran.maps, golden.maps, gates)
    controls = tuple(_judge(name, wrong, ran.golden, gates, logits) for name, wrong in golden.controls.items())
    task = None
    if gallery is not None and ran.gallery is not None and ran.queries is not None:
        task = measure_task(gallery, ran.gallery, ran.queries)
    reasons = [*far, *near, *batch_faults, *_task_faults(task), *control_faults(controls), *map_faults]
    if reasons and not (far or batch_faults or map_faults):
        worst = max(m.relative_l2_worst for m in (measured, among_many) if m is not None)
        reasons = _of_the_model(min(map(spread, references)), worst) or reasons
    verdict: Verdict = "failed" if reasons else "passed"
    agreement = _agreement(together, gates)
    return Parity(
        verdict, tuple(reasons), gates, measured, among_many, task, ran.checks, controls, maps, agreement, drift
    )


def _agreement(together: Measures, gates: Gates) -> Agreement:
    """The shares of all images with their intervals, beside the gates that they are judged by."""
    found: dict[str, Share | None] = {}
    for name in SHARES:
        value, queries = getattr(together, name), together.images
        if name != "top_1_agreement":
            queries = min(queries, QUERIES)
        found[name] = (
            None if value is None else Share(value, wilson_interval_95(value, queries), queries, getattr(gates, name))
        )
    return Agreement(together.images, **found)


def _drift_faults(drift: float | None, gates: Gates) -> list[str]:
    if drift is None or drift <= gates.drift_mean_max:
        return []
    return [
        f"mean relative L2 {drift:.2g} from what the file itself gave when it was made is above "
        f"{gates.drift_mean_max:.2g}"
    ]


def _task_faults(task: Task | None) -> list[str]:
    if task is None or task.verdict != "worse":
        return []
    return [
        f"kNN accuracy changes by {task.knn_difference:+.2%}, and all of its 95 % interval down to "
        f"{task.knn_interval_95[0]:+.2%} is a loss that reaches beyond the margin of {task.margin:.0%}"
    ]


def _judge_maps(maps: Maps, references: Maps, gates: Gates) -> tuple[tuple[MapCheck, ...], list[str]]:
    """Each map by itself, and what breaks the gates.

    What is averaged over the places of a map does not tell where in it things stand: a transposed map has that mean.
    """
    checks, found = [], []
    for name, values in maps.items():
        flat = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).reshape(len(values), -1)
        error = relative_l2(references[name].reshape(len(values), -1), flat)
        checks.append(MapCheck(name, len(values), float(error.mean()), float(error.max())))
        if error.max() > gates.relative_l2_worst_max:
            found.append(
                f"relative L2 {error.max():.2g} of output `{name}` of image {error.argmax()} is above "
                f"{gates.relative_l2_worst_max:.2g}"
            )
    return tuple(checks), found


def _of_the_model(apart: float, worst: float) -> list[str]:
    """All that is to be said of a file that errs by no more than it may, where the model tells little apart.

    Cosines about the mean, neighbours and classes then turn on errors that any file has.
    """
    if apart >= _LITTLE_SPREAD:
        return []
    return [
        f"the model is at fault and not the file, which errs by {worst:.2g} of an output's length "
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


def run_filled(run: Function, images: Images, batch: int) -> Outputs:
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
            result = run_filled(run, images, batch)
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
